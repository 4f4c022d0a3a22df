"""Which series are chosen, and the reason for each that is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread

from stenosis_node.domain import Decision, SeriesReason
from stenosis_node.series import GAPS, choose
from tests.unit.series.builder import (
    blank_instance,
    decide,
    decide_one,
    headers_of,
    save,
    stack,
    t2_instance,
    uid,
    write_series,
)

SAGITTAL = [0.0, 1.0, 0.0, 0.0, 0.0, -1.0]
CORONAL = [1.0, 0.0, 0.0, 0.0, 0.0, -1.0]
AXIAL = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]


def planes(orientation: list[float], n: int = 8) -> list[tuple[list[float], Any]]:
    normal = np.cross(orientation[:3], orientation[3:])
    return [(orientation, i * 4.4 * normal) for i in range(n)]


ACCEPTED: dict[str, dict[str, Any]] = {
    "siemens": {},
    "siemens distortion corrected": {"ImageType": ["DERIVED", "PRIMARY", "M", "DIS2D"]},
    "ge": {
        "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"],
        "SequenceName": None,
        "SeriesDescription": "Ax T2 frFSE",
        "ScanOptions": ["FAST_GEMS", "EDR_GEMS", "TRF_GEMS", "FILTERED_GEMS"],
        "RepetitionTime": 3213,
        "InversionTime": 0,
    },
    "philips": {
        "ImageType": ["ORIGINAL", "PRIMARY", "M_SE", "M", "SE"],
        "SequenceName": None,
        "SequenceVariant": "SK",
        "SeriesDescription": "T2W_TSE_ax",
        "EchoTime": 120,
    },
    "korean names": {
        "SeriesDescription": "T2 AXIAL",
        "StudyDescription": "요추 MRI",
        "SpecificCharacterSet": "ISO_IR 192",
    },
    "cervical and lumbar named": {"ProtocolName": "t2_tse_tra L2-S", "SeriesDescription": "t2_tse_tra_C1-C8_320"},
    "body part wrong but seen": {"BodyPartExamined": "ABDOMEN"},
    "body part of a copied protocol": {"BodyPartExamined": "CSPINE", "StudyDescription": "L-Spine MRI (Non-CE)"},
    "no fat suppression in words": {"SeriesDescription": "AX T2 no fat sat"},
    "dixon in-phase": {
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "DIXON", "IN_PHASE"],
        "SeriesDescription": "t2_dixon_tra_in",
    },
    "TE blank, name says T2": {"EchoTime": None, "RepetitionTime": None, "SeriesDescription": "AX T2 L1-S1"},
    "TR blank": {"RepetitionTime": None},
    "all sequence tags blank": {
        "ScanningSequence": None,
        "SequenceVariant": None,
        "SequenceName": None,
        "MRAcquisitionType": None,
    },
    "seconds instead of milliseconds": {"EchoTime": 0.104, "RepetitionTime": 4.1},
    "feet first": {"PatientPosition": "FFS"},
    "position blank": {"PatientPosition": None},
    "spine coil": {"ReceiveCoilName": "SP5-8"},
    "head, neck and spine coil": {"ReceiveCoilName": "HEAD;NE1,2;SP1"},
    "head coil left in, lumbar named": {"ReceiveCoilName": "Head_32", "StudyDescription": "L-spine MRI"},
    "small field, lumbar named": {"PixelSpacing": [0.85, 0.85], "SeriesDescription": "AX T2 L-SPINE"},
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(tmp_path: Path, name: str) -> None:
    write_series(tmp_path, **ACCEPTED[name])
    decision = decide_one(tmp_path)
    assert (decision.decision, decision.reason) == (Decision.GRADED, SeriesReason.CHOSEN), decision.sentence
    assert decision.sentence.startswith("Chosen: axial T2 of the lumbar spine")
    assert decision.values["slices that pass"] == "8"


R = SeriesReason
REJECTED: dict[str, tuple[dict[str, Any], SeriesReason, str]] = {
    "T1 of the same name": ({"RepetitionTime": 560, "EchoTime": 11}, R.T1_WEIGHTED, "TR 560 ms, TE 11 ms"),
    "T1 without TR": ({"RepetitionTime": None, "EchoTime": 11}, R.T1_WEIGHTED, "TR blank, TE 11 ms"),
    "T1 without TE": ({"RepetitionTime": 560, "EchoTime": None}, R.T1_WEIGHTED, "TR 560 ms, TE blank"),
    "proton density": ({"EchoTime": 27}, R.PD_WEIGHTED, "TE 27 ms"),
    "TE too short": ({"EchoTime": 50, "RepetitionTime": 1200}, R.NOT_T2, "TE 50 ms"),
    "TR too short": ({"EchoTime": 90, "RepetitionTime": 1500}, R.NOT_T2, "TR 1500 ms"),
    "STIR": ({"ScanningSequence": ["SE", "IR"], "InversionTime": 160}, R.STIR, "TI 160 ms"),
    "STIR of Philips": ({"ImageType": ["ORIGINAL", "PRIMARY", "M_IR", "M", "IR"]}, R.STIR, "fat"),
    "STIR by name": ({"SeriesDescription": "AX T2 STIR"}, R.STIR, "AX T2 STIR"),
    "FLAIR": ({"InversionTime": 2500, "ScanningSequence": ["SE", "IR"]}, R.NOT_T2, "TI 2500 ms"),
    "fat saturation": ({"ScanOptions": ["FS", "SAT1"]}, R.FAT_SUPPRESSED, "Scan Options FS"),
    "fat saturation by name": ({"SeriesDescription": "t2_tse_fs_tra"}, R.FAT_SUPPRESSED, "t2_tse_fs_tra"),
    "SPAIR by name": ({"SeriesDescription": "T2W_SPAIR_ax"}, R.FAT_SUPPRESSED, "T2W_SPAIR_ax"),
    "Dixon water": ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "DIXON", "WATER"]}, R.FAT_SUPPRESSED, "water image"),
    "Dixon fat": ({"ImageType": ["ORIGINAL", "PRIMARY", "F", "NORM"]}, R.FAT_SUPPRESSED, "fat image"),
    "Dixon water by name": ({"SeriesDescription": "t2_tse_dixon_tra_W"}, R.FAT_SUPPRESSED, "dixon_tra_W"),
    "IDEAL water by name": ({"SeriesDescription": "WATER: Ax T2 FLEX"}, R.FAT_SUPPRESSED, "WATER"),
    "myelogram": ({"EchoTime": 700, "RepetitionTime": 8000}, R.MYELOGRAM, "TE 700 ms"),
    "HASTE": ({"EchoTrainLength": 256, "SequenceName": "*h2d1_256"}, R.MYELOGRAM, "256 echoes"),
    "HASTE by name of the sequence": ({"SequenceName": "*h2d1_192", "EchoTrainLength": 1}, R.MYELOGRAM, "*h2d1_192"),
    "SPACE": ({"MRAcquisitionType": "3D", "SequenceName": "*spcR3d1_67"}, R.THREE_DIMENSIONAL, "3D"),
    "SPACE without type": ({"MRAcquisitionType": None, "SequenceName": "*spc_201"}, R.THREE_DIMENSIONAL, "*spc_201"),
    "diffusion": (
        {"ScanningSequence": "EP", "SequenceName": "*ep_b800t", "ImageType": ["ORIGINAL", "PRIMARY", "DIFFUSION"]},
        R.DIFFUSION,
        "DIFFUSION",
    ),
    "ADC map": ({"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]}, R.DIFFUSION, "ADC"),
    "gradient echo": ({"ScanningSequence": "GR", "SequenceName": "*me2d1r3"}, R.GRADIENT_ECHO, "*me2d1r3"),
    "gradient echo of Philips": (
        {"ImageType": ["ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"]},
        R.GRADIENT_ECHO,
        "gradient",
    ),
    "echo planar": ({"ScanningSequence": "EP", "SequenceName": "*epse2d1_64"}, R.GRADIENT_ECHO, "echo-planar"),
    "localizer": ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "LOCALIZER"]}, R.LOCALIZER, "LOCALIZER"),
    "localizer by name": ({"SeriesDescription": "Survey"}, R.LOCALIZER, "Survey"),
    "MPR": ({"ImageType": ["DERIVED", "SECONDARY", "MPR"]}, R.DERIVED, "MPR"),
    "average": ({"ImageType": ["DERIVED", "SECONDARY", "OTHER"]}, R.DERIVED, "DERIVED\\SECONDARY"),
    "phase image": ({"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}, R.DERIVED, "no magnitude"),
    "screen save with MR class": ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, R.SCREEN_SAVE, "SCREEN SAVE"),
    "mosaic": ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, R.MOSAIC, "mosaic"),
    "cervical": ({"StudyDescription": "C-spine", "SeriesDescription": "T2W_HR_tra"}, R.NOT_LUMBAR, "cervical spine"),
    "cervical in a whole-spine study": (
        {"StudyDescription": "C- and L-spine MRI", "SeriesDescription": "AX T2 C3-7"},
        R.NOT_LUMBAR,
        "cervical spine, going by the series description",
    ),
    "thoracic": ({"ProtocolName": "t2_tse_tra T1-T12"}, R.NOT_LUMBAR, "thoracic spine"),
    "body part": ({"BodyPartExamined": "TSPINE"}, R.NOT_LUMBAR, "thoracic spine, going by the Body Part Examined"),
    "brain": ({"StudyDescription": "Brain MRI"}, R.NOT_LUMBAR, "head"),
    "brain without any text, Siemens": ({"ReceiveCoilName": "HC1-7"}, R.NOT_LUMBAR, "head, going by the receive coil"),
    "brain without any text, GE": ({"ReceiveCoilName": "8HRBRAIN"}, R.NOT_LUMBAR, "head, going by the receive coil"),
    "brain by body part": ({"BodyPartExamined": "HEAD"}, R.NOT_LUMBAR, "head"),
    "prostate": ({"SeriesDescription": "t2_tse_tra prostate"}, R.NOT_LUMBAR, "pelvis"),
    "pelvis by size": ({"PixelSpacing": [2.9, 2.9]}, R.FIELD_OF_VIEW, "371 x 371 mm is too large"),
    "limb by size": ({"PixelSpacing": [0.8, 0.8]}, R.FIELD_OF_VIEW, "102 x 102 mm is too small"),
    "thin slices": ({"SliceThickness": 1}, R.SLICE_THICKNESS, "slices of 1 mm"),
    "small matrix": ({"Rows": 96, "Columns": 96, "PixelSpacing": [2, 2]}, R.MATRIX_TOO_SMALL, "96 x 96"),
    "no pixel spacing": ({"PixelSpacing": None}, R.NO_GEOMETRY, "Pixel Spacing"),
    "no position": ({"ImagePositionPatient": None}, R.NO_GEOMETRY, "Image Position"),
    "absurd spacing": ({"PixelSpacing": [0, 0]}, R.NO_GEOMETRY, "makes no sense"),
    "skewed directions": ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, R.NO_GEOMETRY, "perpendicular"),
    "blanked, name says T1": (
        {"EchoTime": None, "RepetitionTime": None, "SeriesDescription": "AX T1"},
        R.T1_WEIGHTED,
        "says T1",
    ),
    "blanked, name says PD": (
        {"EchoTime": None, "RepetitionTime": None, "SeriesDescription": "AX PD/T2"},
        R.PD_WEIGHTED,
        "proton density",
    ),
    "blanked, name says T2*": (
        {"EchoTime": None, "RepetitionTime": None, "SeriesDescription": "AX T2*"},
        R.GRADIENT_ECHO,
        "gradient echo",
    ),
    "blanked, name says nothing": (
        {"EchoTime": None, "RepetitionTime": None, "SeriesDescription": "series T2-T8"},
        R.NOT_T2,
        "nothing says T2",
    ),
}


@pytest.mark.parametrize("name", REJECTED)
def test_rejected(tmp_path: Path, name: str) -> None:
    changes, reason, words = REJECTED[name]
    write_series(tmp_path, **changes)
    decision = decide_one(tmp_path)
    assert decision.decision is Decision.REJECTED
    assert decision.reason is reason, decision.sentence
    assert words in decision.sentence
    assert decision.sentence.startswith("Rejected: ")
    assert decision.sentence.endswith(".")


def test_values_are_what_was_seen(tmp_path: Path) -> None:
    write_series(tmp_path, places=stack(5, tilt=20), BodyPartExamined="LSPINE")
    values = decide_one(tmp_path).values
    assert values["TR"] == "4000 ms"
    assert values["TE"] == "100 ms"
    assert values["plane"] == "5 axial"
    assert values["off axial"] == "20 degrees"
    assert values["field of view"] == "192 x 192 mm"
    assert values["slices per slab"] == "5"
    assert values["pitch"] == "4.4 mm"
    assert values["image type"] == "ORIGINAL\\PRIMARY\\M\\ND\\NORM"
    assert not any("Secret" in text or "SECRET" in text for text in values.values())


def test_further_objections_are_listed(tmp_path: Path) -> None:
    write_series(tmp_path, places=planes(SAGITTAL), EchoTime=11, RepetitionTime=500)
    decision = decide_one(tmp_path)
    assert decision.reason is R.NOT_AXIAL
    assert decision.values["also against"] == "t1-weighted"


# --------------------------------------------------------------------------- geometry


@pytest.mark.parametrize(
    ("tilt", "chosen"), [(0, True), (30, True), (45, True), (-30, True), (47, True), (55, False), (90, False)]
)
def test_tilt(tmp_path: Path, tilt: float, chosen: bool) -> None:
    write_series(tmp_path, places=stack(6, tilt=tilt))
    decision = decide_one(tmp_path)
    assert decision.reason is (R.CHOSEN if chosen else R.NOT_AXIAL), decision.sentence


@pytest.mark.parametrize(("orientation", "word"), [(SAGITTAL, "sagittal"), (CORONAL, "coronal")])
def test_other_planes(tmp_path: Path, orientation: list[float], word: str) -> None:
    write_series(tmp_path, places=planes(orientation))
    decision = decide_one(tmp_path)
    assert decision.reason is R.NOT_AXIAL
    assert word in decision.sentence


def test_tilt_to_one_side_is_no_axial_slice_of_a_spine(tmp_path: Path) -> None:
    angle = np.radians(30)
    write_series(tmp_path, places=planes([float(np.cos(angle)), 0, float(np.sin(angle)), 0, 1, 0]))
    assert decide_one(tmp_path).reason is R.NOT_AXIAL


def test_rows_from_front_to_back_are_accepted(tmp_path: Path) -> None:
    write_series(tmp_path, places=planes([0, 1, 0, 1, 0, 0]))
    assert decide_one(tmp_path).reason is R.CHOSEN


def test_turned_in_plane_by_45_degrees_is_not(tmp_path: Path) -> None:
    half = float(np.sqrt(0.5))
    write_series(tmp_path, places=planes([half, half, 0, -half, half, 0]))
    assert decide_one(tmp_path).reason is R.NOT_AXIAL


def test_too_few_slices(tmp_path: Path) -> None:
    write_series(tmp_path, places=stack(3))
    decision = decide_one(tmp_path)
    assert decision.reason is R.TOO_FEW_SLICES
    assert "only 3 positions" in decision.sentence


def test_positions_count_not_images(tmp_path: Path) -> None:
    for repetition in range(3):
        for i, (orientation, center) in enumerate(stack(3)):
            save(tmp_path, t2_instance("s", (repetition, i), orientation, center))
    decision = decide_one(tmp_path)
    assert decision.reason is R.TOO_FEW_SLICES
    assert "6 duplicates" in decision.sentence


def test_whole_spine_stack_needs_a_lumbar_name(tmp_path: Path) -> None:
    write_series(tmp_path / "a", series="a", places=stack(90))
    write_series(tmp_path / "b", series="b", places=stack(90), StudyDescription="Whole spine incl. lumbar")
    assert decide_one(tmp_path / "a").reason is R.NOT_LUMBAR
    assert decide_one(tmp_path / "b").reason is R.CHOSEN


def test_thousands_of_slices_are_refused_quickly(tmp_path: Path) -> None:
    write_series(tmp_path, places=stack(1))
    (series,) = headers_of(tmp_path)
    (piece,) = series.slices
    refs = [replace(piece.ref, sop_instance_uid=f"1.2.{i}") for i in range(5000)]
    (decision,) = choose([replace(series, slices=tuple(replace(piece, ref=ref) for ref in refs))])
    assert decision.reason is R.THREE_DIMENSIONAL
    assert "5000 slices" in decision.sentence


# --------------------------------------------------------------------------- mixtures in one series


def test_localizer_of_three_planes(tmp_path: Path) -> None:
    places = planes(SAGITTAL, 3) + planes(CORONAL, 3) + planes(AXIAL, 3)
    write_series(tmp_path, places=places, SeriesDescription="plan")
    decision = decide_one(tmp_path)
    assert decision.reason is R.LOCALIZER
    assert "3 sagittal, 3 coronal, 3 axial" in decision.sentence


def test_mixed_planes_with_too_few_axial(tmp_path: Path) -> None:
    write_series(tmp_path, places=planes(SAGITTAL, 10) + planes(AXIAL, 3))
    decision = decide_one(tmp_path)
    assert decision.reason is R.MIXED_ORIENTATION
    assert "10 sagittal, 3 axial" in decision.sentence


def test_axial_part_of_mixed_planes_is_graded(tmp_path: Path) -> None:
    write_series(tmp_path, places=planes(SAGITTAL, 10) + planes(AXIAL, 6))
    decision = decide_one(tmp_path)
    assert decision.reason is R.CHOSEN
    assert decision.values["slices that pass"] == "6"
    assert "Left out: 10 slices (not-axial)" in decision.sentence


def test_second_echo_is_left_out(tmp_path: Path) -> None:
    places = stack(6)
    for i, (orientation, center) in enumerate(places):
        save(tmp_path, t2_instance("s", ("pd", i), orientation, center, EchoTime=20))
        save(tmp_path, t2_instance("s", ("t2", i), orientation, center, EchoTime=100))
    decision = decide_one(tmp_path)
    assert decision.reason is R.CHOSEN
    assert decision.values["TE"] == "100 ms"
    assert "Left out: 6 slices (pd-weighted)" in decision.sentence


def test_missing_slice_is_reported(tmp_path: Path) -> None:
    places = stack(9)
    del places[4]
    write_series(tmp_path, places=places)
    decision = decide_one(tmp_path)
    gap = "images 4 and 5 lie 8.8 mm apart instead of 4.4 mm (1 slice missing)"
    assert decision.values[GAPS] == gap
    assert f"1 slice did not arrive: {gap}" in decision.sentence


def test_a_stack_that_goes_on_after_a_wide_gap_misses_slices(tmp_path: Path) -> None:
    places = stack(12, tilt=20)
    del places[5:8]
    write_series(tmp_path, places=places)
    decision = decide_one(tmp_path)
    assert decision.values["slices per slab"] == "5 + 4"
    assert decision.values[GAPS] == "images 5 and 6 lie 17.6 mm apart instead of 4.4 mm (3 slices missing)"


@pytest.mark.parametrize("top", [(0, 0, -40), (0, 8, -35.2), (0, 0, -57.2)])
def test_two_blocks_by_plan_miss_nothing(tmp_path: Path, top: tuple[float, float, float]) -> None:
    """Not a whole number of pitches apart, shifted in plane, or far apart."""
    write_series(tmp_path, places=stack(5) + stack(5, top=top))
    assert GAPS not in decide_one(tmp_path).values


# --------------------------------------------------------------------------- other classes


@pytest.mark.parametrize(
    ("sop_class", "reason"),
    [
        ("1.2.840.10008.5.1.4.1.1.7", R.SCREEN_SAVE),
        ("1.2.840.10008.5.1.4.1.1.7.4", R.SCREEN_SAVE),
        ("1.2.840.10008.5.1.4.1.1.88.33", R.NOT_MR),
        ("1.2.840.10008.5.1.4.1.1.11.1", R.NOT_MR),
        ("1.2.840.10008.5.1.4.1.1.88.59", R.NOT_MR),
        ("1.2.840.10008.5.1.4.1.1.66", R.NOT_MR),
        ("1.2.840.10008.5.1.4.1.1.2", R.NOT_MR),
        ("1.3.12.2.1107.5.9.1", R.NOT_MR),
    ],
)
def test_other_classes(tmp_path: Path, sop_class: str, reason: SeriesReason) -> None:
    save(tmp_path, blank_instance("s", 1, sop_class))
    assert decide_one(tmp_path).reason is reason


def test_a_presentation_state_within_the_series_does_no_harm(tmp_path: Path) -> None:
    write_series(tmp_path)
    save(tmp_path, blank_instance("s", "gsps", "1.2.840.10008.5.1.4.1.1.11.1"))
    decision = decide_one(tmp_path)
    assert decision.reason is R.CHOSEN
    assert decision.n_instances == 9


# --------------------------------------------------------------------------- several series


def test_t1_and_t2_of_the_same_name(tmp_path: Path) -> None:
    write_series(tmp_path, "t2", SeriesNumber=4)
    write_series(tmp_path, "t1", SeriesNumber=5, RepetitionTime=600, EchoTime=10)
    reasons = {decision.series_number: decision.reason for decision in choose(headers_of(tmp_path))}
    assert reasons == {4: R.CHOSEN, 5: R.T1_WEIGHTED}


def test_upper_and_lower_block_are_both_graded(tmp_path: Path) -> None:
    write_series(tmp_path, "upper", stack(10, top=(0, 0, 60)), SeriesDescription="upper")
    write_series(tmp_path, "lower", stack(10, top=(0, 0, 60 - 9 * 4.4), tilt=15), SeriesDescription="lower")
    assert {name: d.reason for name, d in decide(tmp_path).items()} == {"upper": R.CHOSEN, "lower": R.CHOSEN}


def test_the_later_of_two_repeats_is_graded(tmp_path: Path) -> None:
    write_series(tmp_path, "first", SeriesDescription="first", SeriesNumber=9)
    moved = stack(8, top=(2, 1, 1.5))
    write_series(tmp_path, "second", moved, SeriesDescription="second", SeriesNumber=8, AcquisitionTime="102200")
    decisions = decide(tmp_path)
    assert decisions["second"].reason is R.CHOSEN
    assert decisions["first"].reason is R.DUPLICATE_SERIES
    assert "series 8 'second'" in decisions["first"].sentence
    assert "7 min later" in decisions["first"].sentence


def test_of_a_filtered_copy_the_corrected_one_is_graded(tmp_path: Path) -> None:
    write_series(tmp_path, "raw", SeriesDescription="raw", SeriesNumber=9, ImageType=["ORIGINAL", "PRIMARY", "M", "ND"])
    write_series(tmp_path, "norm", SeriesDescription="norm", SeriesNumber=8)
    decisions = decide(tmp_path)
    assert decisions["norm"].reason is R.CHOSEN
    assert "corrected for the sensitivity of the coil" in decisions["raw"].sentence


def test_an_aborted_first_attempt_is_a_repeat(tmp_path: Path) -> None:
    write_series(tmp_path, "aborted", stack(8)[:5], SeriesDescription="aborted")
    write_series(tmp_path, "whole", SeriesDescription="whole", AcquisitionTime="103000")
    decisions = decide(tmp_path)
    assert decisions["whole"].reason is R.CHOSEN
    assert decisions["aborted"].reason is R.DUPLICATE_SERIES


def test_a_later_part_does_not_replace_the_whole(tmp_path: Path) -> None:
    write_series(tmp_path, "whole", stack(12), SeriesDescription="whole")
    write_series(tmp_path, "part", stack(12)[:5], SeriesDescription="part", AcquisitionTime="103000")
    decisions = decide(tmp_path)
    assert {d.reason for d in decisions.values()} == {R.CHOSEN}
    assert "also shown by series 5 'whole'" in decisions["part"].sentence


def test_two_later_parts_together_replace_the_whole(tmp_path: Path) -> None:
    places = stack(12)
    write_series(tmp_path, "whole", places, SeriesDescription="whole")
    write_series(tmp_path, "upper", places[:6], SeriesDescription="upper", AcquisitionTime="103000")
    write_series(tmp_path, "lower", places[6:], SeriesDescription="lower", AcquisitionTime="104000")
    reasons = {name: d.reason for name, d in decide(tmp_path).items()}
    assert reasons == {"whole": R.DUPLICATE_SERIES, "upper": R.CHOSEN, "lower": R.CHOSEN}


def test_a_repeat_that_leaves_two_places_unseen_replaces_nothing(tmp_path: Path) -> None:
    """Broken off, or planned elsewhere: nothing may get lost."""
    write_series(tmp_path, "first", stack(12), SeriesDescription="first")
    write_series(tmp_path, "later", stack(12)[:10], SeriesDescription="later", AcquisitionTime="103000")
    decisions = decide(tmp_path)
    assert {d.reason for d in decisions.values()} == {R.CHOSEN}
    assert "also shown by series 5 'later', which is graded too" in decisions["first"].sentence


def test_without_times_the_name_tells_the_repeat(tmp_path: Path) -> None:
    blank = {"AcquisitionDate": None, "AcquisitionTime": None}
    write_series(tmp_path, "b", SeriesDescription="t2_tse_tra_rpt", SeriesNumber=4, **blank)
    write_series(tmp_path, "a", SeriesDescription="t2_tse_tra", SeriesNumber=9, **blank)
    decisions = decide(tmp_path)
    assert decisions["t2_tse_tra_rpt"].reason is R.CHOSEN
    assert decisions["t2_tse_tra"].values["better because"] == "its name calls that one the repeat"


def test_a_repeat_without_pixel_data_is_not_better(tmp_path: Path) -> None:
    write_series(tmp_path / "a", "first", SeriesDescription="first")
    for path in write_series(tmp_path / "b", "later", SeriesDescription="later", AcquisitionTime="103000"):
        dataset = dcmread(path)
        del dataset.PixelData
        dataset.save_as(path)
    decisions = decide(tmp_path)
    assert decisions["first"].decision is Decision.GRADED
    assert decisions["later"].decision is Decision.REJECTED
    assert "shows the same places and is graded" in decisions["later"].sentence


def test_both_say_which_is_better(tmp_path: Path) -> None:
    write_series(tmp_path, "first", SeriesDescription="first", SeriesNumber=6)
    write_series(tmp_path, "second", SeriesDescription="second", SeriesNumber=7, AcquisitionTime="102200")
    decisions = decide(tmp_path)
    assert decisions["first"].values["better series"] == "series 7 'second'"
    assert decisions["first"].values["better because"] == "that one was acquired 7 min later"
    assert decisions["second"].values["repeats left out"] == decisions["first"].series_instance_uid


def test_same_places_in_other_frames_of_reference_are_not_compared(tmp_path: Path) -> None:
    write_series(tmp_path, "before", SeriesDescription="before")
    write_series(
        tmp_path, "after", SeriesDescription="after", FrameOfReferenceUID=uid("moved"), AcquisitionTime="110000"
    )
    assert {d.reason for d in decide(tmp_path).values()} == {R.CHOSEN}


def test_studies_do_not_mix(tmp_path: Path) -> None:
    write_series(tmp_path, "one", SeriesDescription="one")
    write_series(
        tmp_path, "two", SeriesDescription="two", StudyInstanceUID=uid("other study"), AcquisitionTime="110000"
    )
    assert {d.reason for d in decide(tmp_path).values()} == {R.CHOSEN}
