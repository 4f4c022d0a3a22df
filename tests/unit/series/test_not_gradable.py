"""Series that are axial T2 of the lumbar spine and cannot be graded: the report must say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread

from stenosis_node.domain import Decision, SeriesDecision, SeriesReason
from stenosis_node.series import HINDRANCE, choose, read
from tests.unit.series.builder import decide, decide_one, enhanced_instance, headers_of, save, stack, uid, write_series

R = SeriesReason
LUMBAR = {"StudyDescription": "L-spine MRI"}
FAT_SATURATED = {"ScanOptions": ["FS"]}

NOT_GRADABLE: dict[str, tuple[dict[str, Any], SeriesReason, str]] = {
    "prone": ({"PatientPosition": "HFP"}, R.PATIENT_POSITION, "prone (HFP)"),
    "prone feet first": ({"PatientPosition": "FFP"}, R.PATIENT_POSITION, "prone (FFP)"),
    "decubitus": ({"PatientPosition": "HFDR"}, R.PATIENT_POSITION, "right side (HFDR)"),
    "sitting": ({"PatientPosition": "SITTING"}, R.PATIENT_POSITION, "not lying on the back"),
    "small matrix": ({"Rows": 96, "Columns": 96, "PixelSpacing": [2, 2], **LUMBAR}, R.MATRIX_TOO_SMALL, "96 x 96"),
    "thick slices": ({"SliceThickness": 10, **LUMBAR}, R.SLICE_THICKNESS, "slices of 10 mm"),
    "thin slices": ({"SliceThickness": 1, **LUMBAR}, R.SLICE_THICKNESS, "slices of 1 mm"),
    "large field": ({"PixelSpacing": [2.9, 2.9], **LUMBAR}, R.FIELD_OF_VIEW, "371 x 371 mm is too large"),
    "two faults": (
        {"SliceThickness": 10, "Rows": 96, "Columns": 96, "PixelSpacing": [2, 2], **LUMBAR},
        R.MATRIX_TOO_SMALL,
        "96 x 96",
    ),
    "few slices": ({"places": stack(3), **LUMBAR}, R.TOO_FEW_SLICES, "only 3 positions"),
    "no place": ({"ImagePositionPatient": None, **LUMBAR}, R.NO_GEOMETRY, "no usable Image Position"),
    "nothing but fat saturation": ({**FAT_SATURATED, **LUMBAR}, R.FAT_SUPPRESSED, "Scan Options FS"),
    "nothing but 3D": ({"MRAcquisitionType": "3D", **LUMBAR}, R.THREE_DIMENSIONAL, "3D"),
    "thin 3D": ({"MRAcquisitionType": "3D", "SliceThickness": 1, **LUMBAR}, R.THREE_DIMENSIONAL, "3D"),
}


@pytest.mark.parametrize("name", NOT_GRADABLE)
def test_not_gradable(tmp_path: Path, name: str) -> None:
    changes, reason, words = NOT_GRADABLE[name]
    write_series(tmp_path, **changes)
    (headers,) = headers_of(tmp_path)
    (decision,) = choose([headers])
    assert decision.decision is Decision.NOT_GRADABLE, decision.sentence
    assert decision.reason is reason, decision.sentence
    assert words in decision.values[HINDRANCE]
    assert decision.sentence == f"Not gradable: axial T2 of the lumbar spine, but {decision.values[HINDRANCE]}."
    series = read(headers, decision=decision)
    assert len(series.slices) == len(headers.slices)
    assert {(piece.pixels is None, piece.unreadable) for piece in series.slices} == {(True, decision.values[HINDRANCE])}


def strip_pixels(paths: list[Path]) -> None:
    for path in paths:
        dataset = dcmread(path)
        del dataset.PixelData
        dataset.save_as(path)


def test_no_pixel_data(tmp_path: Path) -> None:
    strip_pixels(write_series(tmp_path))
    decision = decide_one(tmp_path)
    assert (decision.decision, decision.reason) == (Decision.NOT_GRADABLE, R.NO_PIXEL_DATA)
    assert decision.values[HINDRANCE] == "no instance has pixel data"


@pytest.mark.parametrize(
    "changes",
    [
        {"Rows": 96, "Columns": 96, "PixelSpacing": [2, 2]},
        {"SliceThickness": 10},
        {"places": stack(3)},
        {"ImagePositionPatient": None},
        FAT_SATURATED,
    ],
)
def test_without_a_lumbar_name_it_may_be_anything(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_series(tmp_path, **changes)
    assert decide_one(tmp_path).decision is Decision.REJECTED


@pytest.mark.parametrize(
    "changes",
    [
        {"EchoTime": 11, "RepetitionTime": 500, "SliceThickness": 10},
        {"ScanningSequence": ["SE", "IR"], "InversionTime": 160},
        {"EchoTrainLength": 256, "SequenceName": "*h2d1_256"},
        {"ImageType": ["DERIVED", "SECONDARY", "MPR"]},
        {"SeriesDescription": "loc", "places": stack(3)},
        {"SeriesDescription": "t2_tse_tra C3-7", "PatientPosition": "HFP"},
        {"ImagePositionPatient": None, "SeriesDescription": "T2 SAG"},
        {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1], "SliceThickness": 10},
    ],
)
def test_other_series_of_a_lumbar_study_are_simply_rejected(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_series(tmp_path, **{**LUMBAR, **changes})
    assert decide_one(tmp_path).decision is Decision.REJECTED


def test_enhanced_without_pixel_data(tmp_path: Path) -> None:
    instance = enhanced_instance("e", stack(8), np.zeros((8, 128, 128)))
    del instance.PixelData
    save(tmp_path, instance)
    assert decide_one(tmp_path).reason is R.NO_PIXEL_DATA


# --------------------------------------------------------------------------- beside other series


def decisions_with_graded(tmp_path: Path, places: Any = None, **changes: Any) -> dict[str, SeriesDecision]:
    write_series(tmp_path, "good", SeriesDescription="good", **LUMBAR)
    write_series(tmp_path, "bad", places, SeriesDescription="bad", **{**LUMBAR, **changes})
    decisions = decide(tmp_path)
    assert decisions["good"].decision is Decision.GRADED
    return decisions


def test_what_a_graded_series_shows_too_needs_no_word(tmp_path: Path) -> None:
    bad = decisions_with_graded(tmp_path, SliceThickness=10)["bad"]
    assert (bad.decision, bad.reason) == (Decision.REJECTED, R.SLICE_THICKNESS)
    assert "series 5 'good' shows the same places and is graded" in bad.sentence
    assert bad.values["better series"] == "series 5 'good'"


def test_other_places_do(tmp_path: Path) -> None:
    bad = decisions_with_graded(tmp_path, stack(8, top=(0, 0, -80)), SliceThickness=10)["bad"]
    assert bad.decision is Decision.NOT_GRADABLE


def test_prone_beside_supine_is_named(tmp_path: Path) -> None:
    bad = decisions_with_graded(tmp_path, PatientPosition="HFP", FrameOfReferenceUID=uid("turned"))["bad"]
    assert bad.decision is Decision.NOT_GRADABLE


def test_fat_suppression_beside_a_graded_series_is_not(tmp_path: Path) -> None:
    bad = decisions_with_graded(tmp_path, stack(8, top=(0, 0, -80)), **FAT_SATURATED)["bad"]
    assert (bad.decision, bad.reason) == (Decision.REJECTED, R.FAT_SUPPRESSED)
    assert "the study has better axial T2 series" in bad.sentence


def test_fat_suppression_beside_a_prone_series_is_not(tmp_path: Path) -> None:
    write_series(tmp_path, "p", SeriesDescription="prone", PatientPosition="HFP", **LUMBAR)
    write_series(tmp_path, "f", SeriesDescription="fat", **FAT_SATURATED, **LUMBAR)
    assert {name: d.decision for name, d in decide(tmp_path).items()} == {
        "prone": Decision.NOT_GRADABLE,
        "fat": Decision.REJECTED,
    }
