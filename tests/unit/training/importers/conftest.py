"""A small study in DICOM, pictures, and an intake with the secret of a site."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from stenosis_node.series.patient import PatientKeys
from tests.unit.series.builder import write_series
from training.importers.intake import Intake

SECRET = "0f1e2d3c4b5a69788796a5b4c3d2e1f00123456789abcdef"


@pytest.fixture
def keys() -> PatientKeys:
    return PatientKeys(SECRET.encode())


@pytest.fixture
def intake(keys: PatientKeys) -> Intake:
    return Intake(keys=keys, reader="r1", date="2026-01-31")


@pytest.fixture
def study(tmp_path: Path) -> list[Path]:
    """Eight axial slices of 128 x 192 pixels, from head to foot."""
    return write_series(tmp_path / "dicom", Rows=128, Columns=192, PixelSpacing=[1.0, 0.5])


@pytest.fixture
def picture(tmp_path: Path) -> Callable[..., Path]:
    """Write a gray picture that differs from all others."""
    made = iter(range(1, 250))

    def write(name: str, size: tuple[int, int] = (100, 80)) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Picture.fromarray(np.full((size[1], size[0]), next(made), np.uint8)).save(path)
        return path

    return write


def reasons(intake: Intake) -> dict[str, list[str]]:
    """What was left out, by reason."""
    found: dict[str, list[str]] = {}
    for one in intake.left_out:
        found.setdefault(one.why, []).append(one.what)
    return found
