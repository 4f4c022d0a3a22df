"""The patient of ``sample_series/``: every grade once, clearly expressed, and the answer the demo is held to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

from training.phantom.look import Vendor
from training.phantom.patient import Patient, Wishes, draw_patient
from training.phantom.seeds import SAMPLE_SEED
from training.phantom.study import Compression, write_study

WISHES: Final = Wishes(
    severity={"T12-L1": 0.02, "L1-2": 0.02, "L2-3": 0.42, "L3-4": 0.66, "L4-5": 1.4, "L5-S1": 0.05},
    reach_mm=14.0,
    conus_above_l12_mm=18.0,
    slabs=True,
    slab_discs=("T12-L1", "L1-2", "L2-3", "L3-4", "L4-5", "L5-S1"),
    slices_per_slab=4,
    clean=True,
    vendor=Vendor.SIEMENS,
    matrix=320,
    purpose="sample",
)
"""Slabs of four slices; the cord ends between the slabs at T12-L1 and L1-2, far from both."""

MARGINS: Final = {
    "canal_found": 0.95,
    "content_right": 0.95,
    "grade_exact": 0.85,
    "grade_within_one": 0.95,
    "box_iou_median": 0.70,
}
"""Least shares over the slices with a canal (found, content, IoU) and over the rootlet slices (grades)."""

DICOM_FOLDER: Final = "dicom"
EXPECTED_FILE: Final = "expected.json"


def sample_patient() -> Patient:
    return draw_patient(SAMPLE_SEED, 0, wishes=WISHES)


def write_sample(folder: Path) -> dict[str, Any]:
    """Draw the sample anew into ``folder`` and return the truth.

    Replaces ``dicom/`` and ``expected.json``, once the new ones are complete; other files there stay.
    """
    fresh = folder / ".drawing"
    if fresh.exists():
        shutil.rmtree(fresh)
    fresh.mkdir(parents=True)
    truth = write_study(sample_patient(), fresh, compression=Compression.JPEG_LS)
    expected = {"about": "Truth of the synthetic sample study, and the least the demo must reach.", "margins": MARGINS}
    for part in truth["axial_t2"]["slices"]:
        part["path"] = f"{DICOM_FOLDER}/{part['path']}"
    expected |= truth
    target = folder / DICOM_FOLDER
    if target.exists():
        shutil.rmtree(target)
    fresh.rename(target)
    text = json.dumps(expected, indent=1, ensure_ascii=False) + "\n"
    (folder / EXPECTED_FILE).write_text(text, encoding="utf-8")
    return expected
