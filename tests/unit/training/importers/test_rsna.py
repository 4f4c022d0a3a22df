"""RSNA 2024: the layout of the real set, with its traps. Rows are twice as far apart as columns, so swapping shows."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from tests.unit.training.importers.conftest import reasons
from training.importers.intake import Intake
from training.importers.kinds import Kind
from training.importers.mapping import Mapping
from training.importers.run import run_import
from training.labels.errors import LabelError

STUDY, AXIAL, SAGITTAL = "4003253", "702807833", "1054713880"
ROWS, COLUMNS = 120, 200
SPACING = (1.0, 0.5)
"""Between rows, between columns."""
PITCH = 4.0
N_SLICES = 30
ORDER = np.random.default_rng(3).permutation(N_SLICES) + 1
"""Instance number of the k-th axial slice from the head: no order at all."""
LEVELS = ("L1/L2", "L2/L3", "L3/L4", "L4/L5", "L5/S1")
SLICE_OF = {level: 4 + 5 * i for i, level in enumerate(LEVELS)}
CANAL = (10.0, 35.0)
"""x and y of the canal in the patient, the same at every level."""
Array = npt.NDArray[np.float64]


def dicom(
    path: Path, series: str, number: int, position: Array, cosines: list[float], spacing: tuple[float, float]
) -> None:
    """An image as the set has it: few attributes, no SOP class but in the file meta information."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    meta.MediaStorageSOPInstanceUID = f"1.2.3.{STUDY}.{series}.{number}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    ds.PatientID = STUDY
    ds.StudyInstanceUID, ds.SeriesInstanceUID = STUDY, f"{STUDY}.{series}"
    ds.InstanceNumber = number
    ds.ImagePositionPatient = [float(v) for v in position]
    ds.ImageOrientationPatient = cosines
    ds.PixelSpacing = list(spacing)
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.SamplesPerPixel = ROWS, COLUMNS, 16, 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)


def axial_z(k: int) -> float:
    return 100.0 - PITCH * k


AXIAL_CORNER = np.array([-40.0, -25.0])
SAGITTAL_CORNER = np.array([10.0, -60.0, 110.0])


@dataclass
class Set:
    """What is written; tests change it before."""

    grades: dict[str, str] = field(default_factory=lambda: dict.fromkeys(LEVELS, "Normal/Mild"))
    points: list[dict[str, Any]] = field(default_factory=list)
    series: dict[str, str] = field(default_factory=lambda: {AXIAL: "Axial T2", SAGITTAL: "Sagittal T2/STIR"})

    def __post_init__(self) -> None:
        for level in LEVELS:
            for side, x in (("Left", CANAL[0] + 9), ("Right", CANAL[0] - 9)):
                self.add(f"{side} Subarticular Stenosis", level, SLICE_OF[level], (x, CANAL[1] - 3))
            z = axial_z(SLICE_OF[level])
            self.points.append(self.sagittal_point(level, CANAL[1], z))
        self.add("Left Neural Foraminal Narrowing", "L4/L5", 0, (0, 0))

    def add(self, condition: str, level: str, k: int, place: tuple[float, float]) -> None:
        """A point on the k-th axial slice at a place in the patient."""
        point = {
            "study_id": STUDY,
            "series_id": AXIAL,
            "instance_number": int(ORDER[k]),
            "condition": condition,
            "level": level,
            "x": (place[0] - AXIAL_CORNER[0]) / SPACING[1],
            "y": (place[1] - AXIAL_CORNER[1]) / SPACING[0],
        }
        self.points.append(point)

    @staticmethod
    def sagittal_point(level: str, y: float, z: float) -> dict[str, Any]:
        return {
            "study_id": STUDY,
            "series_id": SAGITTAL,
            "instance_number": 1,
            "condition": "Spinal Canal Stenosis",
            "level": level,
            "x": (y - SAGITTAL_CORNER[1]) / SPACING[1],
            "y": (SAGITTAL_CORNER[2] - z) / (2 * SPACING[0]),
        }

    def point(self, condition: str, level: str) -> dict[str, Any]:
        return next(p for p in self.points if condition in p["condition"] and p["level"] == level)

    def write(self, root: Path) -> Path:
        for k in range(N_SLICES):
            path = root / "train_images" / STUDY / AXIAL / f"{ORDER[k]}.dcm"
            position = np.array([*AXIAL_CORNER, axial_z(k)])
            dicom(path, AXIAL, int(ORDER[k]), position, [1, 0, 0, 0, 1, 0], SPACING)
        path = root / "train_images" / STUDY / SAGITTAL / "1.dcm"
        dicom(path, SAGITTAL, 1, SAGITTAL_CORNER, [0, 1, 0, 0, 0, -1], (2 * SPACING[0], SPACING[1]))
        write_csv(root / "train_label_coordinates.csv", self.points)
        row = {"study_id": STUDY, "left_subarticular_stenosis_l1_l2": "Severe"}
        row |= {f"spinal_canal_stenosis_{name.lower().replace('/', '_')}": self.grades[name] for name in LEVELS}
        write_csv(root / "train.csv", [row])
        kinds = [{"study_id": STUDY, "series_id": s, "series_description": d} for s, d in self.series.items()]
        write_csv(root / "train_series_descriptions.csv", kinds)
        return root


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.DictWriter(file, list(rows[0]))
        lines.writeheader()
        lines.writerows(rows)


def imported(made: Set, root: Path, intake: Intake) -> Any:
    intake.reader = ""
    frame = run_import(Kind.RSNA_2024, made.write(root), Mapping(), intake).frame
    return frame.set_index("level")


def test_each_level_gives_the_slice_a_box_and_the_grades_that_are_possible(tmp_path: Path, intake: Intake) -> None:
    made = Set()
    made.grades |= {"L3/L4": "Moderate", "L4/L5": "Severe"}
    frame = imported(made, tmp_path, intake)
    assert frame.index.tolist() == list(LEVELS)
    assert frame["grade_set"].tolist() == ["A", "A", "B", "C|D", "A"]
    assert frame["grade"].tolist() == [""] * 5
    assert frame["region"].tolist() == ["", "rootlet", "rootlet", "rootlet", "rootlet"]
    assert frame["box_source"].unique().tolist() == ["weak"]
    assert frame["reader"].unique().tolist() == ["rsna-2024"]
    assert frame["flags"].tolist() == [""] * 5
    for level, row in frame.iterrows():
        assert row["sop_uid"].endswith(f".{ORDER[SLICE_OF[str(level)]]}")
        assert row["z_mm"] == axial_z(SLICE_OF[str(level)])
        middle = (row["x0"] + row["x1"]) / 2 - 0.5, (row["y0"] + row["y1"]) / 2 - 0.5
        assert AXIAL_CORNER[0] + middle[0] * SPACING[1] == pytest.approx(CANAL[0])
        assert AXIAL_CORNER[1] + middle[1] * SPACING[0] == pytest.approx(CANAL[1])
        assert (row["x1"] - row["x0"]) * SPACING[1] == pytest.approx(18)  # as far apart as the points
        assert (row["y1"] - row["y0"]) * SPACING[0] == pytest.approx(13.5)
    assert intake.left_out == []
    assert frame["patient_key"].unique().tolist() == [intake.keys.key(STUDY, "rsna-2024")]


def test_points_on_neighbouring_slices_anchor_between_them(tmp_path: Path, intake: Intake) -> None:
    made = Set()
    k = SLICE_OF["L4/L5"]
    made.point("Left Sub", "L4/L5")["instance_number"] = int(ORDER[k - 1])
    made.point("Right Sub", "L4/L5")["instance_number"] = int(ORDER[k + 1])
    frame = imported(made, tmp_path, intake)
    assert frame.loc["L4/L5", "z_mm"] == axial_z(k)
    assert frame.loc["L4/L5", "flags"] == ""


def test_sides_that_are_swapped_are_flagged_and_give_the_same_box(tmp_path: Path, intake: Intake) -> None:
    made = Set()
    left, right = made.point("Left Sub", "L3/L4"), made.point("Right Sub", "L3/L4")
    left["x"], right["x"] = right["x"], left["x"]
    frame = imported(made, tmp_path, intake)
    assert frame["flags"].tolist() == ["", "", "sides-swapped", "", ""]
    assert frame.loc["L3/L4", "x0"] == pytest.approx(frame.loc["L4/L5", "x0"])


def test_a_label_off_by_a_slice_and_one_off_by_a_level_are_told_apart(tmp_path: Path, intake: Intake) -> None:
    made = Set()
    for side in ("Left Sub", "Right Sub"):
        made.point(side, "L3/L4")["instance_number"] = int(ORDER[SLICE_OF["L3/L4"] + 1])
        made.point(side, "L4/L5")["instance_number"] = int(ORDER[SLICE_OF["L4/L5"] + 3])
    frame = imported(made, tmp_path, intake)
    assert frame.loc["L3/L4", "flags"] == "sagittal-nearer-other-slice"
    assert frame.loc["L4/L5", "flags"] == "sagittal-disagrees|sagittal-nearer-other-slice"
    assert frame.loc["L5/S1", "flags"] == ""


def test_a_sagittal_point_beside_the_canal_is_flagged(tmp_path: Path, intake: Intake) -> None:
    made = Set()
    made.point("Canal", "L2/L3").update(Set.sagittal_point("L2/L3", CANAL[1] - 10, axial_z(SLICE_OF["L2/L3"])))
    made.point("Canal", "L5/S1").update(Set.sagittal_point("L5/S1", CANAL[1], axial_z(N_SLICES + 3)))
    made.points.remove(made.point("Canal", "L4/L5"))
    frame = imported(made, tmp_path, intake)
    assert frame["flags"].tolist() == ["", "sagittal-disagrees", "", "no-cross-check", "sagittal-outside-stack"]


def test_levels_that_cannot_be_placed_are_left_out_with_the_reason(tmp_path: Path, intake: Intake) -> None:
    made = Set()
    made.points.remove(made.point("Left Sub", "L1/L2"))
    made.point("Left Sub", "L2/L3")["x"] += 200
    made.point("Left Sub", "L3/L4")["instance_number"] = int(ORDER[SLICE_OF["L3/L4"] + 6])
    made.point("Left Sub", "L4/L5")["instance_number"] = 99
    made.grades["L5/S1"] = ""
    frame = imported(made, tmp_path, intake)
    assert frame["grade_set"].tolist() == [""]
    assert frame.loc["L5/S1", "flags"] == "no-grade"
    assert reasons(intake) == {
        "only one of the two subarticular points": [f"study {STUDY} L1/L2"],
        "the subarticular points are not 8 to 60 mm apart": [f"study {STUDY} L2/L3"],
        "the slices of the two subarticular points are more than 12 mm apart": [f"study {STUDY} L3/L4"],
        "the image of a subarticular point is missing or unreadable": [f"study {STUDY} L4/L5"],
        "no grade of the canal; the box is kept": [f"study {STUDY} L5/S1: grade ''"],
    }


def test_missing_series_studies_and_files_are_named(tmp_path: Path, intake: Intake) -> None:
    made = Set()
    made.series["111"] = "Axial T2"
    made.points.append({**made.points[0], "study_id": "999"})
    frame = imported(made, tmp_path, intake)
    assert len(frame) == 5
    assert reasons(intake) == {
        "it has points but no row in train.csv": ["study 999"],
        "the folder of a series (Axial T2) is missing": [f"train_images/{STUDY}/111"],
    }
    (tmp_path / "train_series_descriptions.csv").unlink()
    with pytest.raises(LabelError, match=r"train_series_descriptions\.csv does not exist; SOURCE is the folder"):
        run_import(Kind.RSNA_2024, tmp_path, Mapping(), intake)
    write_csv(tmp_path / "train.csv", [{"study": 1}])
    with pytest.raises(LabelError, match="column study_id is missing; is it the file of RSNA 2024"):
        run_import(Kind.RSNA_2024, tmp_path, Mapping(), intake)


def test_an_oblique_stack_gives_a_box_on_the_canal(tmp_path: Path, intake: Intake) -> None:
    root = Set().write(tmp_path)
    tilt = np.radians(20)
    column = np.array([0, np.cos(tilt), np.sin(tilt)])
    for path in (root / "train_images" / STUDY / AXIAL).glob("*.dcm"):
        ds: Dataset = pydicom.dcmread(path)
        corner = np.array([float(v) for v in ds.ImagePositionPatient])
        height = CANAL[1] - AXIAL_CORNER[1]
        corner[1:] = np.array([CANAL[1], corner[2]]) - height * column[1:]  # turned about the canal
        ds.ImagePositionPatient = [f"{v:.8f}" for v in corner]
        ds.ImageOrientationPatient = [1, 0, 0, *(f"{v:.8f}" for v in column)]
        ds.save_as(path, enforce_file_format=True)
    frame = run_import(Kind.RSNA_2024, root, Mapping(), intake).frame
    assert frame["flags"].tolist() == [""] * 5
    middle = (frame["y0"] + frame["y1"]) / 2 - 0.5
    assert (AXIAL_CORNER[1] + middle * SPACING[0]).tolist() == pytest.approx([CANAL[1]] * 5)
