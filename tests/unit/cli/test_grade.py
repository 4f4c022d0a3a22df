"""grade FOLDER on part of the sample study with random weights, whose grades mean nothing: shapes, files, codes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stenosis_node.cli.findings import count_outcomes
from stenosis_node.cli.grade import slice_json
from stenosis_node.domain import (
    CanalNotFound,
    Content,
    CordSlice,
    Grade,
    GradedSlice,
    NotGradable,
    PixelBox,
    SliceFinding,
    SliceRef,
    Unreadable,
)
from tests.unit.cli.conftest import Ran, Run

SAMPLE = Path(__file__).parents[3] / "sample_series" / "dicom"
SLICE_KEYS = {
    "sop_instance_uid", "frame_number", "outcome", "outcome_reason", "box", "box_score", "content", "content_score",
    "grade", "scores",
}  # fmt: skip


def part_of_sample(folder: Path, *, slices: int = 8) -> Path:
    """The localizer, and the first slices of the axial T2 series."""
    shutil.copytree(SAMPLE / "01-localizer", folder / "01")
    (folder / "03").mkdir(parents=True)
    for path in sorted((SAMPLE / "03-t2_tse_tra").iterdir())[:slices]:
        shutil.copy(path, folder / "03")
    return folder


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> tuple[Ran, Path]:
    """One run of the real process with --json and --out, on a folder that also holds what is no DICOM."""
    folder = part_of_sample(tmp_path_factory.mktemp("study"))
    (folder / "notes.txt").write_text("not DICOM", encoding="utf-8")
    out = tmp_path_factory.mktemp("out") / "new"
    command = [sys.executable, "-m", "stenosis_node", "grade", folder, "--bundle", weights, "--out", out, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    return Ran(done.returncode, done.stdout, done.stderr), out


def test_json_has_one_entry_per_series_in_the_promised_shape(graded: tuple[Ran, Path]) -> None:
    done, _ = graded
    assert done.code == 0
    entries = {entry["reason"]: entry for entry in done.json["series"]}
    assert set(entries) == {"axial-t2-lumbar", "localizer"}
    assert entries["localizer"]["decision"] == "rejected"
    assert entries["localizer"]["slices"] == []
    assert entries["axial-t2-lumbar"]["decision"] == "graded"
    assert len(entries["axial-t2-lumbar"]["slices"]) == 8
    for entry in entries.values():
        assert set(entry) == {"series_instance_uid", "decision", "reason", "slices"}
        for found in entry["slices"]:
            assert set(found) == SLICE_KEYS
            assert found["frame_number"] is None


def test_out_holds_documents_pictures_and_the_page(graded: tuple[Ran, Path]) -> None:
    _, out = graded
    names = sorted(path.name for path in out.iterdir())
    assert names[:2] == ["01-sc-overview.dcm", "01-sc-overview.png"]
    assert [name for name in names if name.endswith("-sr.dcm")] == [f"{len(list(out.glob('*.dcm'))):02d}-sr.dcm"]
    assert (out / "01-sc-overview.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(out.glob("*.png"))) == len(list(out.glob("*-sc*.dcm")))
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<html" in page
    assert 'src="http' not in page


def test_what_was_skipped_is_said_and_no_patient_is_named(graded: tuple[Ran, Path]) -> None:
    done, _ = graded
    assert "notes.txt: is not DICOM" in done.err
    assert "slices" not in done.err  # --json keeps progress for terminals
    from pydicom import dcmread

    header = dcmread(next((SAMPLE / "03-t2_tse_tra").iterdir()), stop_before_pixels=True)
    for identifying in (str(header.PatientName), str(header.PatientName).split("^", maxsplit=1)[0], header.PatientID):
        assert identifying
        assert identifying not in done.out + done.err


def test_no_header_value_gets_into_a_warning(spawn: Run, weights: Path, tmp_path: Path) -> None:
    from pydicom import config, dcmread

    folder = part_of_sample(tmp_path / "study", slices=6)
    for path in folder.rglob("*.dcm"):
        ds = dcmread(path)
        with config.disable_value_validation():
            ds.add_new("PatientAge", "AS", "HONG-GILDONG-IS-OLD")
            ds.add_new("StudyDate", "DA", "HONG-GILDONG")
            ds.save_as(path)
    done = spawn("--debug", "grade", folder, "--bundle", weights)
    assert done.code == 0, done.err[-2000:]
    assert "HONG" not in done.out + done.err


def test_several_studies_are_graded_each_into_its_own_folder(run: Run, weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "studies"
    folder.mkdir()
    part_of_sample(folder)
    from pydicom import dcmread

    (folder / "second").mkdir()
    for path in (SAMPLE / "01-localizer").iterdir():
        ds = dcmread(path)
        ds.StudyInstanceUID = "1.2.3.4"
        ds.SeriesInstanceUID = "1.2.3.4.5"
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.4.5.{path.stem.lstrip('0')}"
        ds.save_as(folder / "second" / path.name)
    out = tmp_path / "out"
    done = run("grade", folder, "--bundle", weights, "--out", out)
    assert done.code == 0
    assert "read 8 of 8 slices" in done.err
    assert " %" in done.out
    assert done.out.count("Study ") == 2
    assert "Nothing to grade" in done.out
    (results,) = out.iterdir()
    assert (results / "report.html").exists()
    assert results.name in done.out


def test_the_configuration_serves_as_well_as_a_bundle(run: Run, config: Path, weights: Path, tmp_path: Path) -> None:
    config.write_text(config.read_text(encoding="utf-8").replace('"bundle"', f'"{weights}"'), encoding="utf-8")
    (tmp_path / "spool").rmdir()
    folder = tmp_path / "study"
    folder.mkdir()
    shutil.copytree(SAMPLE / "01-localizer", folder / "01")
    done = run("grade", folder, "--json")
    assert done.code == 0
    assert [entry["reason"] for entry in done.json["series"]] == ["localizer"]
    assert not (tmp_path / "spool").exists()


def empty(folder: Path) -> None:
    folder.mkdir()


def only_text(folder: Path) -> None:
    folder.mkdir()
    (folder / "a.txt").write_text("hello", encoding="utf-8")
    (folder / "cut.dcm").write_bytes(b"\0" * 128 + b"DICM\x02\x00")


def a_file(folder: Path) -> None:
    folder.write_text("", encoding="utf-8")


def nothing(folder: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("make", "code", "said"),
    [
        (nothing, 3, "does not exist"),
        (a_file, 2, "is not a folder"),
        (empty, 1, "holds no files"),
        (only_text, 1, "no readable DICOM"),
    ],
)
def test_folders_that_cannot_be_graded(
    run: Run, weights: Path, tmp_path: Path, make: Any, code: int, said: str
) -> None:
    make(tmp_path / "input")
    done = run("grade", tmp_path / "input", "--bundle", weights)
    assert done.code == code
    assert said in done.err.splitlines()[-1]
    assert done.out == ""


def test_an_out_folder_that_cannot_be_written_is_found_before_the_work(run: Run, tmp_path: Path) -> None:
    (tmp_path / "occupied").write_text("", encoding="utf-8")
    done = run("grade", SAMPLE, "--bundle", tmp_path, "--out", tmp_path / "occupied")
    assert done.code == 2
    assert done.err.startswith(f"stenosis-node: --out {tmp_path / 'occupied'} cannot be written")


def test_a_bundle_alone_needs_nothing_of_the_environment(
    run: Run, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STENOSIS_NODE__PEERS__WEB__PASSWORD", "secret")
    monkeypatch.setenv("STENOSIS_NODE__GRADING__BUNDLE", str(tmp_path))
    done = run("grade", SAMPLE / "01-localizer", "--bundle", weights)
    assert done.code == 0
    assert "Nothing to grade" in done.out


def test_why_a_series_was_not_graded_is_said_once(run: Run, tmp_path: Path, weights: Path) -> None:
    from pydicom import dcmread

    for path in part_of_sample(tmp_path / "study").rglob("*.dcm"):
        ds = dcmread(path)
        ds.PatientPosition = "HFP"
        ds.save_as(path)
    done = run("grade", tmp_path / "study", "--bundle", weights)
    assert done.code == 0
    assert done.out.replace("\n", " ").count("None of the 8 slices was graded: the patient is prone (HFP)") == 1


def test_a_bundle_that_is_none(run: Run, tmp_path: Path) -> None:
    done = run("grade", SAMPLE, "--bundle", tmp_path)
    assert done.code == 2
    assert "manifest.json" in done.err


# --------------------------------------------------------------------------- every kind of finding

REF = SliceRef("1.2", "1.2.840.10008.5.1.4.1.1.4.1", "1.2.3", 7)
BOX = PixelBox(1.5, 2.0, 30.0, 40.0)
NOTHING: dict[str, Any] = {
    "sop_instance_uid": "1.2.3", "frame_number": 7, "outcome_reason": None, "box": None, "box_score": None,
    "content": None, "content_score": None, "grade": None, "scores": {},
}  # fmt: skip
SCORES = {Grade.A: 0.1, Grade.B: 0.2, Grade.C: 0.6, Grade.D: 0.1}
AS_JSON = {"A": 0.1, "B": 0.2, "C": 0.6, "D": 0.1}
FOUND = {"box": [1.5, 2.0, 30.0, 40.0], "box_score": 0.9}


@pytest.mark.parametrize(
    ("finding", "differs"),
    [
        (
            GradedSlice(REF, 0, BOX, 0.9, 0.8, Grade.C, SCORES),
            {**FOUND, "outcome": "graded", "content": "rootlet", "content_score": 0.8, "grade": "C", "scores": AS_JSON},
        ),
        (
            CordSlice(REF, 0, BOX, 0.9, 0.8),
            {**FOUND, "outcome": "cord", "content": "cord", "content_score": 0.8},
        ),
        (
            NotGradable(REF, 0, "low score", BOX, 0.9, Content.ROOTLET, 0.7, SCORES),
            {
                **FOUND, "outcome": "not_gradable", "outcome_reason": "low score", "content": "rootlet",
                "content_score": 0.7, "scores": AS_JSON,
            },
        ),
        (
            NotGradable(REF, 0, "no contrast", None, None),
            {"outcome": "not_gradable", "outcome_reason": "no contrast"},
        ),
        (CanalNotFound(REF, 0, 0.2), {"outcome": "canal_not_found", "box_score": 0.2}),
        (Unreadable(REF, 0, "cut short"), {"outcome": "unreadable", "outcome_reason": "cut short"}),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_each_kind_of_finding_as_json(finding: SliceFinding, differs: dict[str, Any]) -> None:
    assert json.loads(json.dumps(slice_json(finding))) == NOTHING | differs


@pytest.mark.parametrize(
    ("findings", "said"),
    [
        ("A", "worst grade A"),
        ("AD", "worst grade D"),
        ("Dx", "worst grade D, 1 unreadable"),
        ("cc", "no slice graded, 2 cord"),
        ("c-x", "no slice graded, 1 cord, 1 canal not found, 1 unreadable"),
        ("xx", "no slice graded: truncated"),
        ("-", "no slice graded, 1 canal not found"),
    ],
)
def test_what_was_found_in_a_few_words(findings: str, said: str) -> None:
    kinds: dict[str, SliceFinding] = {
        "c": CordSlice(REF, 0, BOX, 0.9, 0.8),
        "-": CanalNotFound(REF, 0, 0.2),
        "x": Unreadable(REF, 0, "truncated"),
    } | {grade: GradedSlice(REF, 0, BOX, 0.9, 0.8, grade, SCORES) for grade in Grade}
    assert count_outcomes(kinds[one] for one in findings).headline() == said
