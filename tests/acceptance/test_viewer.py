"""What the product makes, in a viewer: OHIF on an Orthanc with DICOMweb, in a headless browser.

Runs where Chromium is installed and OHIF has been fetched (``python -m tests.acceptance.viewer.ohif``). With
STENOSIS_TEST_SCREENSHOTS=FOLDER it leaves the pictures of docs/images there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageStat
from pydicom import Dataset, dcmread

from stenosis_node.config import Report, load
from stenosis_node.domain import AxialSeries, CanalNotFound, Document, DocumentKind, SeriesFindings
from stenosis_node.grading.manifest import read_manifest
from stenosis_node.report import rejection_note
from stenosis_node.series import find_files
from stenosis_node.work.grade import load_pipeline
from stenosis_node.work.study import grade_files
from tests.acceptance.viewer import ohif
from tests.acceptance.viewer.archive import WebArchive
from tests.acceptance.viewer.browser import Chromium
from tests.acceptance.viewer.study_page import Shown, StudyPage
from tests.conftest import require_tool

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "sample_series" / "dicom"
BUNDLE = ROOT / "deploy" / "bundles" / "phantom-1"
CREATED = datetime(2026, 3, 1, 12, tzinfo=UTC)
REPORT, CAPTURES = "AI stenosis report", "AI stenosis images"
CLASSES = ("comprehensive-3d", "comprehensive", "enhanced")
"""The report and its alternatives, in their order."""
PRINTED = 5
"""Lines that OHIF prints beside a box, at most."""
KEPT = {0: "ohif-cord", 15: "ohif-report"}
"""Findings, by number, whose picture is kept."""


@dataclass(frozen=True)
class Measurement:
    """A measurement group of the report: where its box lies, and the lines OHIF makes of its numbers and site."""

    sop_instance_uid: str
    corners: list[float]
    lines: list[str]


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> tuple[Document, ...]:
    """What ``stenosis-node grade`` makes of the sample study with the weights that are shipped."""
    spool = str(tmp_path_factory.mktemp("spool"))
    config = load(None, overrides={"spool": spool, "grading": {"bundle": str(BUNDLE)}})
    (study,) = grade_files(find_files(SAMPLE), load_pipeline(config.grading), config, created=CREATED)
    return study.documents


@pytest.fixture(scope="module")
def programs() -> str:
    """Chromium, where OHIF is there too."""
    if not ohif.folder().is_dir():
        pytest.skip("OHIF is not here: python -m tests.acceptance.viewer.ohif fetches it with npm")
    return require_tool("chromium", "chromium")


@pytest.fixture(scope="module")
def archive(
    tmp_path_factory: pytest.TempPathFactory, programs: str, documents: tuple[Document, ...]
) -> Iterator[WebArchive]:
    """It holds the study and everything we made of it but the report."""
    server = WebArchive(tmp_path_factory.mktemp("archive") / "orthanc")
    server.start()
    try:
        for path in find_files(SAMPLE):
            server.store(path.read_bytes())
        for document in documents:
            if document.kind is not DocumentKind.SR:
                server.store(document.content)
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def address(archive: WebArchive) -> Iterator[str]:
    with ohif.serving(archive.http_port) as url:
        yield url


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory, programs: str) -> Iterator[Chromium]:
    with Chromium(programs, tmp_path_factory.mktemp("browser") / "profile") as started:
        yield started


@pytest.mark.parametrize("position", range(3), ids=CLASSES)
def test_boxes_and_scores_stand_on_the_slices_the_report_names(
    archive: WebArchive, address: str, browser: Chromium, documents: tuple[Document, ...], position: int
) -> None:
    report = _reports(documents)[position]
    expected = _measurements(report)
    assert len(expected) >= 24
    with archive.holding(report.content), StudyPage(browser, address, _study_uid(report)) as study:
        study.open_series(REPORT)
        study.answer_tracking("No")
        for number, measurement in enumerate(expected if position == 0 else expected[:6]):
            if number:
                study.next_finding()
            study.wait_until(partial(_is_drawn, measurement, expected))
            if position == 0 and number in KEPT:
                _keep(study, KEPT[number])
        study.assert_nothing_crashed()


def test_captures_are_shown_as_they_were_made(address: str, browser: Chromium, documents: tuple[Document, ...]) -> None:
    captures = [_read(one) for one in documents if one.kind in {DocumentKind.SC_OVERVIEW, DocumentKind.SC}]
    with StudyPage(browser, address, _study_uid(documents[0])) as study:
        study.open_series(CAPTURES)
        for number, capture in enumerate(captures):
            if number:
                study.scroll()
            study.wait_until(partial(_is_shown, capture))
            made, seen = Image.fromarray(capture.pixel_array), study.picture()
            difference = ImageStat.Stat(ImageChops.difference(made.resize(seen.size), seen)).mean
            assert max(difference) < 8, f"{capture.SOPInstanceUID}: {difference}"  # of 255: OHIF writes into corners
            if number in {0, 19}:
                _keep(study, "ohif-overview" if number == 0 else "ohif-capture")
        study.assert_nothing_crashed()


def test_a_report_without_a_box_does_no_harm_to_the_rest(
    archive: WebArchive, address: str, browser: Chromium, documents: tuple[Document, ...], tmp_path: Path
) -> None:
    """OHIF 3.12 cannot open an SR without a measurement (docs/viewers.md); the captures say the same and open."""
    config = load(None, overrides={"spool": str(tmp_path), "grading": {"bundle": str(BUNDLE)}})
    (graded,) = grade_files(find_files(SAMPLE), Blind(), config, created=CREATED)
    (report, *_) = _reports(graded.documents)
    assert not _measurements(report)
    with archive.holding(report.content), StudyPage(browser, address, _study_uid(report)) as study:
        study.open_series(REPORT)
        study.open_series(CAPTURES)
        study.wait_until(partial(_is_shown, _read(documents[0])))


def test_a_study_whose_report_was_withdrawn_opens(
    archive: WebArchive, address: str, browser: Chromium, documents: tuple[Document, ...]
) -> None:
    report = _reports(documents)[0]
    note = rejection_note([report], why="a test", created=CREATED, settings=Report())
    with (
        archive.holding(report.content),
        archive.holding(note.content),
        StudyPage(browser, address, _study_uid(report)) as study,
    ):
        study.open_series(REPORT)
        study.wait_until(lambda shown: len(shown.boxes) > 0)
        study.open_series(CAPTURES)
        study.wait_until(partial(_is_shown, _read(documents[0])))
        study.assert_nothing_crashed()


class Blind:
    """Finds no canal in any slice."""

    identity = read_manifest(BUNDLE).identity()

    def grade(self, series: AxialSeries, *, progress: object = None) -> SeriesFindings:
        findings = tuple(CanalNotFound(one.ref, one.slab, None) for one in series.slices)
        return SeriesFindings(series.series_instance_uid, findings)


def _is_drawn(current: Measurement, all_of_them: list[Measurement], shown: Shown) -> bool:
    """Its image is shown, its box is where the report has it with its numbers beside it, and no box is a stranger."""
    here = [one for one in all_of_them if one.sop_instance_uid == shown.sop_instance_uid]
    boxes = [[value for point in box for value in point] for box in shown.boxes]
    return (
        current in here
        and any(box == pytest.approx(current.corners, abs=0.3) for box in boxes)
        and all(any(box == pytest.approx(one.corners, abs=0.3) for one in here) for box in boxes)
        and any(label[:PRINTED] == current.lines[:PRINTED] for label in shown.labels)
    )


def _is_shown(image: Dataset, shown: Shown) -> bool:
    return bool(shown.sop_instance_uid == image.SOPInstanceUID)


def _keep(study: StudyPage, name: str) -> None:
    if folder := os.environ.get("STENOSIS_TEST_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        study.page.picture().save(Path(folder) / f"{name}.png", optimize=True)


def _reports(documents: tuple[Document, ...]) -> tuple[Document, ...]:
    (report,) = (document for document in documents if document.kind is DocumentKind.SR)
    return report, *report.alternatives


def _read(document: Document) -> Dataset:
    return dcmread(BytesIO(document.content))


def _measurements(report: Document) -> list[Measurement]:
    groups = []
    measured = (item for item in _read(report).ContentSequence if _code(item) == "126010")
    for group in (group for container in measured for group in container.ContentSequence):
        (region,) = (item for item in group.ContentSequence if item.ValueType == "SCOORD")
        (image,) = (item.ReferencedSOPSequence[0] for item in region.ContentSequence if item.ValueType == "IMAGE")
        numbers = [item for item in group.ContentSequence if item.ValueType == "NUM"]
        lines = [f"{item.ConceptNameCodeSequence[0].CodeMeaning}: {_shown_value(item)} %" for item in numbers]
        site = next(i for i in group.ContentSequence if i.ValueType == "CODE" and _code(i) == "363698007")
        lines.append(f"363698007: {site.ConceptCodeSequence[0].CodeMeaning}")
        groups.append(Measurement(image.ReferencedSOPInstanceUID, list(region.GraphicData), lines))
    return groups


def _shown_value(item: Dataset) -> str:
    """OHIF 3.12 leaves out a value of zero."""
    value = float(item.MeasuredValueSequence[0].NumericValue)
    return f"{value:.2f}" if value else ""


def _study_uid(document: Document) -> str:
    return str(_read(document).StudyInstanceUID)


def _code(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeValue)
