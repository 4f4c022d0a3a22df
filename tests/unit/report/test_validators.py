"""What independent programs say of our objects. Their words are read, their exit codes are not trusted."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import highdicom
import pytest
from PIL import Image

from stenosis_node.report import capture_png, compose
from tests.conftest import require_tool

from . import mr_study
from .conftest import Result
from .test_content import Study, rich  # noqa: F401  a fixture, hence F811 below

DCIODVFY_ALLOWED = (
    re.compile(r"^(Comprehensive3DSR|ComprehensiveSR|EnhancedSR|SCImage|GrayscaleSoftcopyPresentationState)$"),
    # our private scheme, declared as the standard asks, is not among the schemes the program knows
    re.compile(r"^Warning - <[^>]*CodingSchemeDesignator\(0008,0102\)\[1\]> - Unrecognized defined term = <99LSSG>$"),
    re.compile(r"^Warning - <[^>]*CodingSchemeUID\(0008,010c\)\[1\]> - Unrecognized defined term = <2\.25\.\d+>$"),
    # asked for by IHE AI Results 6.5.3.1, in the standard since 2021
    re.compile(
        r"^Warning - </ContributingEquipmentSequence\(0018,a001\)\[1\]/DeviceUID\(0018,1002\)> - "
        r"Attribute is not present in standard DICOM IOD$"
    ),
)
DCENTVFY_ALLOWED = re.compile(
    r"^Warning - Different information entities for attribute - Element=<AccessionNumber> IE <Series> versus <Study> "
)
DCMTK_ALLOWED = "W: The VR checker does not support this Specific Character Set: ISO_IR 192"
PIXELMED_ALLOWED = (
    re.compile(r"\((OUTCOME|CANAL-CONTENT|SCHIZAS|SCHIZAS-WORST|NEIGHBOURS),99LSSG,\"[^\"]+\"\): Content Item not in"),
    re.compile(r"/TEXT \(121111,DCM,\"Summary\"\): Content Item not in template$"),
    re.compile(r"/TEXT \(121106,DCM,\"Comment\"\): Content Item not in template$"),
    re.compile(
        r"99LSSG,\"Grading outcome of image\"\)/IMAGE \(260753009,SCT,\"Source\"\): Content Item not in template$"
    ),
)
JARS = ("pixelmed", "slf4j-api", "slf4j-nop", "commons-codec", "javax.json")


def run(*command: str | Path, timeout_s: float = 100) -> list[str]:
    """Lines of both outputs."""
    done = subprocess.run([str(c) for c in command], capture_output=True, timeout=timeout_s, check=False)
    text = (done.stdout + done.stderr).decode("utf-8", "replace")
    return [line.rstrip() for line in text.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def studies(
    good: Result,
    rich: Study,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """Folders of documents that stand for all there are.

    full      every outcome of a slice, one of them unreadable
    nothing   no slice could be graded
    enhanced  frames of an enhanced instance
    rich      a revision of two series, one not fit for grading, with the sagittal slice; figures of a model card
    """
    made = {"full": good.documents, "rich": rich.documents}
    for name, letters, maker in (("nothing", "-xxx", mr_study.classic), ("enhanced", "cA-C", mr_study.enhanced)):
        series = mr_study.blinded(maker(tmp_path_factory.mktemp(name), (1, 3)), letters)
        found = mr_study.findings(series, letters)
        made[name] = compose(found, [series], mr_study.context(found))
    folders = {}
    for name, documents in made.items():
        folders[name] = tmp_path_factory.mktemp(f"{name}-documents")
        for i, document in enumerate(documents):
            (folders[name] / f"{i:02d}-{document.kind}.dcm").write_bytes(document.content)
            for j, other in enumerate(document.alternatives):
                (folders[name] / f"{i:02d}-{document.kind}-{j}.dcm").write_bytes(other.content)
    return folders


STUDIES = pytest.mark.parametrize("study", ["full", "nothing", "enhanced", "rich"])


@STUDIES
def test_dciodvfy(studies: dict[str, Path], study: str) -> None:
    tool = require_tool("dciodvfy", "dicom3tools")
    files = sorted(studies[study].glob("*.dcm"))
    # captures of one kind differ in nothing this program looks at
    files = files[:2] + [f for f in files[2:] if "-sr" in f.name or "-gsps" in f.name]
    for file in files:
        lines = run(tool, "-new", file)
        assert lines, "the program said nothing: it did not run"
        assert [line for line in lines if not any(p.match(line) for p in DCIODVFY_ALLOWED)] == []


def test_dcentvfy_finds_patient_and_study_consistent_with_the_images(
    good: Result,
    rich: Study,  # noqa: F811
    studies: dict[str, Path],
) -> None:
    tool = require_tool("dcentvfy", "dicom3tools")
    sources = {"full": [good.series], "rich": list(rich.series)}
    for study, series in sources.items():
        images = [piece.path for one in series for piece in one.slices]
        lines = run(tool, *images, *sorted(studies[study].glob("*.dcm")))
        assert [line for line in lines if not DCENTVFY_ALLOWED.match(line)] == []


@STUDIES
def test_dcmtk_reads_the_report_and_gives_it_back_unchanged(
    studies: dict[str, Path], study: str, tmp_path: Path
) -> None:
    dump, to_xml, from_xml = (require_tool(t, "dcmtk") for t in ("dsrdump", "dsr2xml", "xml2dsr"))
    reports = sorted(studies[study].glob("*-sr*.dcm"))
    assert len(reports) == 3
    for report in reports:
        printed = run(dump, report)
        assert any("Imaging Measurement Report" in line for line in printed)
        assert [line for line in printed if line[:2] in ("W:", "E:", "F:") and line != DCMTK_ALLOWED] == []
        for command in ((to_xml, report, tmp_path / "x.xml"), (from_xml, tmp_path / "x.xml", tmp_path / "x.dcm")):
            assert [line for line in run(*command) if line != DCMTK_ALLOWED] == []
        assert run(dump, tmp_path / "x.dcm") == printed


@STUDIES
def test_a_text_reader_makes_sense_from_top_to_bottom(studies: dict[str, Path], study: str, tmp_path: Path) -> None:
    """Warning, summary, then images with their results, then the overall result and every slab."""
    tool = require_tool("dsr2html", "dcmtk")
    report = next(studies[study].glob("*-sr.dcm"))
    assert [line for line in run(tool, report, tmp_path / "r.html") if line != DCMTK_ALLOWED] == []
    page = re.sub(r"<[^>]*>", "", (tmp_path / "r.html").read_text(encoding="utf-8"))
    order = ["DEMO NOT CLINICAL", "UNVERIFIED", "Summary", "AI result, not verified", "Image Library"]
    order += ["Imaging Measurements"] * (study != "nothing")
    order += ["Qualitative Evaluations", "Worst Schizas grade of examination", "Aggregation rule", "Result of slab"]
    places = [page.index(words) for words in order]
    assert places == sorted(places)
    if study == "nothing":
        assert "No Schizas grade could be given, this does not exclude stenosis" in page
    for label in re.findall(r"Image \d+ of \d+, slab \d+", page):
        assert f"{label}: " in page


def test_dcmtk_shows_the_captures_as_we_drew_them(good: Result, studies: dict[str, Path], tmp_path: Path) -> None:
    tool = require_tool("dcmj2pnm", "dcmtk")
    for document, file in zip(good.documents[:2], sorted(studies["full"].glob("*.dcm"))[:2], strict=True):
        assert run(tool, "--write-png", file, tmp_path / "theirs.png") == []
        (tmp_path / "ours.png").write_bytes(capture_png(document))
        with Image.open(tmp_path / "theirs.png") as theirs, Image.open(tmp_path / "ours.png") as ours:
            assert theirs.convert("RGB").tobytes() == ours.tobytes()


@STUDIES
def test_highdicom_reads_every_class(studies: dict[str, Path], study: str) -> None:
    groups = {"full": 9 + 3, "nothing": 0, "enhanced": 3 + 1, "rich": 6 + 2}[study]
    classes = (highdicom.sr.Comprehensive3DSR, highdicom.sr.ComprehensiveSR, highdicom.sr.EnhancedSR)
    files = sorted(studies[study].glob("*-sr*.dcm"), key=lambda f: (len(f.name), f.name))
    for file, expected in zip(files, classes, strict=True):
        report = highdicom.sr.srread(file)
        assert isinstance(report, expected)
        assert len(report.content.get_planar_roi_measurement_groups()) == groups


def test_highdicom_reads_groups_values_and_regions(studies: dict[str, Path]) -> None:
    report = highdicom.sr.srread(next(studies["full"].glob("*-sr.dcm")))
    graded = report.content.get_planar_roi_measurement_groups()[2]
    assert next(m.value for m in graded.get_measurements()) == pytest.approx(83.0)
    assert graded.tracking_identifier == "Image 3 of 11, slab 1: Schizas A"
    box = graded.roi.value
    assert (box.min(axis=0)[:2].tolist(), box.max(axis=0)[:2].tolist()) == ([52.0, 66.5], [76.0, 84.0])
    assert {e.value.meaning for e in graded.get_qualitative_evaluations()} >= {"Graded", "Schizas grade A"}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_pixelmed(studies: dict[str, Path]) -> None:
    java = require_tool("java", "default-jdk-headless")
    require_tool("javac", "default-jdk-headless")
    jars = [Path("/usr/share/java") / f"{name}.jar" for name in JARS]
    if not jars[0].exists():
        require_tool("pixelmed.jar", "libpixelmed-java")
    limits = [f"-Djdk.xml.xpath{name}=0" for name in ("ExprGrpLimit", "ExprOpLimit", "TotalOpLimit")]
    # every content, every class, in as few files as that takes: each costs seconds
    names = {"full": "*-sr.dcm", "nothing": "*-sr.dcm", "enhanced": "*-sr-0.dcm", "rich": "*-sr-1.dcm"}
    reports = [next(studies[study].glob(name)) for study, name in names.items()]
    lines = run(
        java, "-Xmx2g", "-XX:+UseSerialGC", *limits, "-cp", ":".join(map(str, jars)),
        Path(__file__).with_name("ValidateReports.java"), *reports, timeout_s=280,
    )  # fmt: skip
    lines = [line for line in lines if "SLF4J" not in line]
    assert lines[-1] == "All files validated"
    said: dict[str, list[str]] = {}
    for line in lines[:-1]:
        if line.startswith("File "):
            said[line.removeprefix("File ")] = []
        elif said:
            said[list(said)[-1]].append(line)
    assert list(said) == [str(report) for report in reports]
    for report, found in said.items():
        name = {"-0": "ComprehensiveSR", "-1": "EnhancedSR"}.get(Path(report).stem[-2:], "Comprehensive3DSR")
        for expected in (f"Found {name} IOD", "IOD validation complete", "Root Template Validation Complete"):
            assert expected in found  # without these lines it crashed, whatever its exit code
        assert any(line.startswith("Found Root Template TID_1500") for line in found)
        assert [line for line in found if line.startswith("Error") or "illegal" in line.lower()] == []
        warnings = [line for line in found if line.startswith("Warning")]
        assert [w for w in warnings if not any(p.search(w) for p in PIXELMED_ALLOWED)] == []
