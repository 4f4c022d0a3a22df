from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from stenosis_node.domain import Grade, PixelBox
from training.labels.manifest import from_rows, write_manifest
from training.labels.rows import BoxSource, LabelRow, Region
from training.learning.labels import LabelledSlice
from training.learning.store import SliceEntry

SAMPLE = Path(__file__).parents[4] / "sample_series"

MakeSlice = Callable[[int, str, str], LabelledSlice]


@pytest.fixture
def make_slice() -> MakeSlice:
    def make(number: int, group: str, stratum: str) -> LabelledSlice:
        entry = SliceEntry(
            ("1.2", "1.2.3", f"1.2.3.{number}", 0), 0, (32, 32), 1.0, 1.0, (False, False, False), (32, 32), (1.0, 1.0),
            None, None,
        )  # fmt: skip
        regions = np.array([0.0, 1.0] if stratum == "cord" else [1.0, 0.0])
        grades = np.eye(4)["ABCD".index(stratum)] if stratum in "ABCD" else None
        return LabelledSlice(entry, group, group, "L4", PixelBox(1, 1, 9, 9), regions, grades)

    return make


@pytest.fixture(scope="package")
def few_phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of two readers and three patients, each with six slices of the sample study; the grades are arranged
    so that every patient has every class."""
    folder = tmp_path_factory.mktemp("protocol") / "set"
    folder.mkdir()
    slices = json.loads((SAMPLE / "expected.json").read_text())["axial_t2"]["slices"]
    rows = [
        LabelRow(**row, reader=reader)
        for patient in range(3)
        for row in _patient(patient, slices[6 * patient : 6 * patient + 6], folder)
        for reader in ("reader-1", "reader-2")
    ]
    write_manifest(from_rows(rows, "arranged"), folder / "few.csv")
    return folder / "few.csv"


def _patient(patient: int, slices: list[dict[str, Any]], folder: Path) -> Iterator[dict[str, Any]]:
    study = f"2.25.{patient + 1}"
    for number, known in enumerate(slices):
        image = pydicom.dcmread(SAMPLE / known["path"])
        image.PatientID, image.StudyInstanceUID, image.SeriesInstanceUID = f"P-{patient}", study, f"{study}.1"
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"{study}.1.{number}"
        path = folder / f"{patient}-{number}.dcm"
        image.save_as(path)
        yield {
            "study_uid": study,
            "series_uid": f"{study}.1",
            "sop_uid": image.SOPInstanceUID,
            "path": path.name,
            "patient_key": f"phantom-{patient}",
            "z_mm": known["height_mm"],
            "level": "L4",
            "box": PixelBox(*known["box"]),
            "box_source": BoxSource.PHANTOM,
            "region": Region.ROOTLET if number < 4 else Region.CORD,
            "grade": tuple(Grade)[number] if number < 4 else None,
        }
