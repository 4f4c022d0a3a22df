"""Presentation states: read back by rules of the standard, by DCMTK and dicom3tools, and drawn on the images."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from stenosis_node.domain import AxialSeries, BundleStatus, Document, DocumentKind
from stenosis_node.report import check, compose
from stenosis_node.report.render import windowed
from stenosis_node.report.source import read_sources
from tests.conftest import require_tool

from . import mr_study
from .conftest import Result
from .test_validators import DCIODVFY_ALLOWED, run

Edit = Callable[[Dataset], None]


def states_of(documents: tuple[Document, ...]) -> list[Document]:
    return [d for d in documents if d.kind is DocumentKind.GSPS]


def opened(document: Document) -> Dataset:
    return pydicom.dcmread(BytesIO(document.content))


def composed(
    folder: Path, letters: str, *, status: BundleStatus = BundleStatus.DEMONSTRATION, edit: Edit | None = None
) -> tuple[AxialSeries, tuple[Document, ...]]:
    series = mr_study.blinded(mr_study.classic(folder, (len(letters),), edit=edit), letters)
    found = mr_study.findings(series, letters, status)
    documents = compose(found, [series], mr_study.context(found))
    check(documents, found, [series])
    return series, documents


def test_each_image_with_a_box_has_one_annotation_and_no_other_is_named(good: Result) -> None:
    (state,) = states_of(good.documents)
    ds = opened(state)
    letters = zip(good.series.slices, "ccAACA?BD-x", strict=True)
    boxed = [piece.ref.sop_instance_uid for piece, letter in letters if letter not in "-x"]
    drawn = [str(a.ReferencedImageSequence[0].ReferencedSOPInstanceUID) for a in ds.GraphicAnnotationSequence]
    (series,) = ds.ReferencedSeriesSequence
    assert drawn == boxed
    assert [str(r.ReferencedSOPInstanceUID) for r in series.ReferencedImageSequence] == boxed
    assert series.SeriesInstanceUID == good.series.series_instance_uid
    assert int(ds.SeriesNumber) == 9902


def test_box_words_and_warning(good: Result) -> None:
    ds = opened(states_of(good.documents)[0])
    isolated = ds.GraphicAnnotationSequence[4]
    assert isolated.GraphicObjectSequence[0].GraphicData == [52, 66.5, 76, 66.5, 76, 84, 52, 84, 52, 66.5]
    said = [text.UnformattedTextValue.splitlines() for text in isolated.TextObjectSequence]
    assert said[0] == ["Schizas C (isolated slice)", "network score 83 %"]
    assert said[1] == ["AI result, not verified", "demonstration weights - not for clinical use"]
    not_gradable = ds.GraphicAnnotationSequence[6].TextObjectSequence[0].UnformattedTextValue
    assert not_gradable.splitlines() == ["not gradable", "this does not exclude stenosis"]
    assert ds.ContentDescription == "DEMO NOT CLINICAL. AI result, not verified"
    assert ds.ContentLabel == "DEMO AI STENOSIS"


def test_without_demonstration_weights_there_is_no_demonstration_warning(tmp_path: Path) -> None:
    _, documents = composed(tmp_path, "AB", status=BundleStatus.VALIDATED)
    ds = opened(states_of(documents)[0])
    assert ds.ContentLabel == "AI STENOSIS"
    assert ds.GraphicAnnotationSequence[0].TextObjectSequence[1].UnformattedTextValue == "AI result, not verified"


def test_highdicom_would_write_the_same_box(good: Result) -> None:
    ours = opened(states_of(good.documents)[0]).GraphicAnnotationSequence[0].GraphicObjectSequence[0]
    points = np.array([[52, 66.5], [76, 66.5], [76, 84], [52, 84], [52, 66.5]])
    theirs = highdicom.pr.GraphicObject(
        "POLYLINE", points, "PIXEL", tracking_id=ours.TrackingID, tracking_uid=ours.TrackingUID
    )
    assert {e.keyword: e.value for e in ours} == {e.keyword: e.value for e in theirs}


def test_the_same_findings_give_the_same_bytes_and_the_other_documents_stand_for_themselves(good: Result) -> None:
    again = compose(good.findings, [good.series], mr_study.context(good.findings))
    assert [d.content for d in states_of(again)] == [d.content for d in states_of(good.documents)]
    uid = states_of(good.documents)[0].sop_instance_uid.encode()
    assert not any(uid in d.content for d in good.documents if d.kind is not DocumentKind.GSPS)


def test_a_study_without_a_box_has_no_presentation_state(tmp_path: Path) -> None:
    _, documents = composed(tmp_path, "-x")
    assert states_of(documents) == []


def test_frames_of_an_enhanced_instance(tmp_path: Path) -> None:
    series = mr_study.enhanced(tmp_path)
    found = mr_study.findings(series, "cAB-ACA")
    documents = compose(found, [series], mr_study.context(found))
    check(documents, found, [series])
    ds = opened(states_of(documents)[0])
    (instance,) = ds.ReferencedSeriesSequence[0].ReferencedImageSequence
    assert list(instance.ReferencedFrameNumber) == [1, 2, 3, 5, 6, 7]
    drawn = [a.ReferencedImageSequence[0].ReferencedFrameNumber for a in ds.GraphicAnnotationSequence]
    assert drawn == [1, 2, 3, 5, 6, 7]


def test_two_series_have_one_each_in_one_series_of_ours(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = mr_study.classic(tmp_path / "a", (2,), tag="one")
    two = replace(mr_study.classic(tmp_path / "b", (2,), tag="two"), study_instance_uid=one.study_instance_uid)
    found = mr_study.findings([one, two], ["AB", "CD"])
    documents = compose(found, [one, two], mr_study.context(found))
    check(documents, found, [one, two])
    states = states_of(documents)
    assert len({s.series_instance_uid for s in states}) == 1
    named = [opened(s).ReferencedSeriesSequence[0].SeriesInstanceUID for s in states]
    assert named == [one.series_instance_uid, two.series_instance_uid]


def test_images_that_are_rescaled_differently_do_not_share_a_presentation_state(tmp_path: Path) -> None:
    def edit(ds: Dataset) -> None:
        ds.RescaleSlope, ds.RescaleIntercept = str(ds.InstanceNumber), "-5"

    _, documents = composed(tmp_path, "ABC", edit=edit)
    assert sorted(float(opened(s).RescaleSlope) for s in states_of(documents)) == [1, 2, 3]


def test_images_whose_values_go_through_a_table_are_left_out(tmp_path: Path) -> None:
    def edit(ds: Dataset) -> None:
        lut = Dataset()
        lut.LUTDescriptor, lut.ModalityLUTType, lut.LUTData = [4, 0, 16], "US", np.arange(4, dtype="<u2").tobytes()
        ds.ModalityLUTSequence = [lut]

    _, documents = composed(tmp_path, "AB", edit=edit)
    assert states_of(documents) == []


def inverted(ds: Dataset) -> None:
    ds.PhotometricInterpretation = "MONOCHROME1"
    ds.RescaleSlope, ds.RescaleIntercept = "2", "-10"


def sigmoid(ds: Dataset) -> None:
    ds.WindowCenter, ds.WindowWidth, ds.VOILUTFunction = "500", "800", "LINEAR_EXACT"


def without_window(ds: Dataset) -> None:
    del ds.WindowCenter, ds.WindowWidth


def absurd_window(ds: Dataset) -> None:
    ds.WindowCenter, ds.WindowWidth = "90000", "2"


def table(ds: Dataset) -> None:
    lut = Dataset()
    lut.LUTDescriptor, lut.LUTData = [1200, 0, 8], np.clip(np.arange(1200) // 4, 0, 255).astype("<u2").tobytes()
    ds.VOILUTSequence = [lut]
    without_window(ds)


@pytest.mark.parametrize("edit", [None, sigmoid, without_window, absurd_window, table, inverted])
def test_dcmtk_shows_the_image_in_the_gray_values_of_our_captures(tmp_path: Path, edit: Edit | None) -> None:
    tool = require_tool("dcmp2pgm", "dcmtk")
    (tmp_path / "mr").mkdir()
    series, documents = composed(tmp_path / "mr", "AB", edit=edit)
    if edit is inverted:  # what the reader does: rescaled, bright is bright
        values = [2 * s.pixels - 10 for s in series.slices if s.pixels is not None]
        pieces = [replace(s, pixels=v.max() + v.min() - v) for s, v in zip(series.slices, values, strict=True)]
        series = replace(series, slices=tuple(pieces))
        found = mr_study.findings(series, "AB")
        documents = compose(found, [series], mr_study.context(found))
        check(documents, found, [series])
    (tmp_path / "state.dcm").write_bytes(states_of(documents)[0].content)
    _, sources = read_sources(series.slices)
    for piece in series.slices:
        assert run(tool, "-p", tmp_path / "state.dcm", piece.path, tmp_path / "shown.pgm") == []
        with Image.open(tmp_path / "shown.pgm") as shown:
            theirs = np.asarray(shown).astype(int)
        assert piece.pixels is not None
        ours = windowed(piece.pixels, sources[piece.ref]).astype(int)
        assert theirs.shape == ours.shape
        assert np.abs(theirs - ours).max() <= 3
        assert np.ptp(ours) > 200


# --------------------------------------------------------------------------- validators


@pytest.fixture(scope="module")
def files(good: Result, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("states")
    series = mr_study.enhanced(folder)
    found = mr_study.findings(series, "cAB-ACA")

    def named(ds: Dataset) -> None:
        inverted(ds)
        ds.SpecificCharacterSet = "ISO_IR 192"
        ds.PatientName = "Hong^Gildong=洪^吉洞=홍^길동"

    _, other = composed(folder, "AB", edit=named)
    made = [
        *states_of(good.documents),
        *states_of(compose(found, [series], mr_study.context(found))),
        *states_of(other),
    ]
    paths = [folder / f"state-{i}.dcm" for i in range(len(made))]
    for path, document in zip(paths, made, strict=True):
        path.write_bytes(document.content)
    return paths


def test_dciodvfy(files: list[Path]) -> None:
    tool = require_tool("dciodvfy", "dicom3tools")
    for file in files:
        lines = run(tool, "-new", file)
        assert "GrayscaleSoftcopyPresentationState" in lines
        assert [line for line in lines if not any(p.match(line) for p in DCIODVFY_ALLOWED)] == []


def test_dcmpschk(files: list[Path]) -> None:
    """Two of its complaints are its own mistakes: a time zone that does match the form it asks for, and name groups."""
    tool = require_tool("dcmpschk", "dcmtk")
    for file in files:
        done = subprocess.run([tool, "-v", file], capture_output=True, text=True, timeout=60, check=False)
        said = done.stdout + done.stderr
        assert "Testing:" in said
        found = re.findall(
            r"E: Error: (.*)\nE: +Affected attribute: (\w+) .*\nE: +Attribute value +: \[(.*)\]\n"
            r"E: +Expected format for each value: (.*)\n",
            said,
        )
        assert said.count("Error:") == len(found)
        for sentence, attribute, value, form in found:
            assert sentence == "Attribute value does not conform to data type definition."
            if attribute == "PatientName":
                assert value.count("=") == 2
            else:
                assert attribute == "ContributionDateTime"
                assert re.fullmatch(form, value)
