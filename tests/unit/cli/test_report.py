"""report: documents on disk as text, JSON and a page, and what is said when there are none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stenosis_node.domain import Document
from stenosis_node.report import compose
from tests.unit.cli.conftest import Run
from tests.unit.report import mr_study


def written(folder: Path, letters: str = "cACA", tag: str = "classic") -> tuple[Path, tuple[Document, ...]]:
    """A folder with a study's images, our documents and something else."""
    folder.mkdir(parents=True)
    series = mr_study.blinded(mr_study.classic(folder, (len(letters),), tag=tag), letters)
    found = mr_study.findings(series, letters)
    documents = compose(found, [series], mr_study.context(found))
    for number, document in enumerate(documents):
        (folder / f"{number:02d}-{document.kind}.dcm").write_bytes(document.content)
    (folder / "notes.txt").write_text("no DICOM", encoding="utf-8")
    return folder, documents


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(tmp_path / "result")[0]


def test_text_is_what_a_folder_gives_without_options(run: Run, folder: Path) -> None:
    done = run("report", folder)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("DEMO NOT CLINICAL AI stenosis report\n====")
    assert "Worst Schizas grade of the examination: C" in done.out
    assert done.out.index("Hong Gildong") < done.out.index("Image 1 of 4") < done.out.index("SR 2.25.")


def test_a_report_alone_is_enough_and_needs_no_other_file(run: Run, tmp_path: Path) -> None:
    _, documents = written(tmp_path / "result")
    (tmp_path / "alone.dcm").write_bytes(documents[-1].content)
    assert run("report", tmp_path / "alone.dcm").out == run("report", tmp_path / "result").out
    for other in documents[-1].alternatives:
        (tmp_path / "alone.dcm").write_bytes(other.content)
        assert "examination: C" in run("report", tmp_path / "alone.dcm").out


def test_json_names_its_schema_and_every_file(run: Run, folder: Path) -> None:
    done = run("report", folder, "--format", "json")
    assert (done.json["schema"], done.json["version"]) == ("stenosis-node/report", 1)
    (report,) = done.json["reports"]
    assert report["grade"] == "C"
    assert [image["grade"] for image in report["images"]] == [None, "A", "C", "A"]
    assert Path(report["file"]).name.endswith("-sr.dcm")
    assert Path(report["captures"][0]).name == "00-sc-overview.dcm"
    assert run("report", folder, "--json").json == done.json


def test_a_page_needs_nothing_else(run: Run, folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    done = run("report", folder, "--format", "html", "--output", page)
    assert (done.code, done.out) == (0, "")
    text = page.read_text(encoding="utf-8")
    assert "Content-Security-Policy" in text
    assert "default-src 'none'; img-src data:" in text
    loaded = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert len(loaded) > 5
    assert all(url.startswith(("data:image/", "#")) for url in loaded)


def test_each_study_has_its_report(run: Run, tmp_path: Path) -> None:
    written(tmp_path / "both" / "one", "AB", tag="one")
    written(tmp_path / "both" / "two", "DA", tag="two")
    done = run("report", tmp_path / "both")
    assert done.out.count("====") > 2
    assert sorted(re.findall(r"examination: ([A-D])", done.out)) == ["B", "D"]
    assert len(run("report", tmp_path / "both", "--json").json["reports"]) == 2


def test_what_is_wrong_is_said_in_one_line_with_its_exit_code(run: Run, tmp_path: Path) -> None:
    result, documents = written(tmp_path / "result")
    mr_only = tmp_path / "mr"
    mr_only.mkdir()
    mr_study.classic(mr_only, (2,))
    damaged = tmp_path / "damaged"
    damaged.write_bytes(documents[-1].content[:-100])
    cases = (
        ((tmp_path / "nowhere",), 3, "does not exist"),
        ((mr_only,), 3, "no report of stenosis-node is among the 2 files"),
        ((result / "notes.txt",), 2, "is not a DICOM file"),
        ((result / "00-sc-overview.dcm",), 2, "is a DICOM file, but no report of stenosis-node"),
        ((damaged,), 1, "breaks off"),
        ((result, "--output", tmp_path), 2, "is a folder"),
        ((result, "--output", tmp_path / "no" / "such"), 2, "cannot be written"),
        ((result, "--output", result / "00-sc-overview.dcm"), 2, "is not replaced"),
        ((result, "--json", "--format", "html"), 2, "exclude each other"),
    )
    for arguments, code, words in cases:
        done = run("report", *arguments)
        assert (done.code, done.out) == (code, ""), arguments
        assert words in done.err
        assert done.err.count("\n") == 1
        assert "Hong" not in done.err


def test_a_damaged_report_beside_a_good_one_is_named(run: Run, tmp_path: Path) -> None:
    result, documents = written(tmp_path / "result")
    (result / "damaged").write_bytes(documents[-1].content[:-100])
    done = run("report", result)
    assert done.code == 0
    assert done.err.startswith("skipped ")
    assert "examination: C" in done.out


def test_a_terminal_without_hangul_still_gets_the_report(spawn: Run, tmp_path: Path) -> None:
    folder = tmp_path / "mr"
    folder.mkdir()

    def named(ds: object) -> None:
        ds.SpecificCharacterSet, ds.PatientName = "ISO_IR 192", "홍^길동"  # type: ignore[attr-defined]

    series = mr_study.classic(folder, (1,), edit=named)
    found = mr_study.findings(series, "B")
    (tmp_path / "sr").write_bytes(compose(found, [series], mr_study.context(found))[-1].content)
    done = spawn("report", tmp_path / "sr", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.code == 0
    assert "\\ud64d" in done.out
    assert "examination: B" in done.out
