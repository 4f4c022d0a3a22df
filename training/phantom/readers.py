"""Two simulated surgeons, who disagree the way those of the paper do (Tables 2 and 3).

A reader sees the true end of the cord and the true severity with a bias of his own, an error he makes for the whole
patient and one he makes for the slice, and cuts at thresholds of his own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from stenosis_node.domain import Grade, PixelBox
from training.phantom.patient import Patient, SliceTruth
from training.phantom.words import SliceContent

_HAND_MM: Final = 0.5
"""Standard deviation of each edge of a box; boxes are drawn a little wide."""
_LAPSE_SHARE: Final = 0.025
_LAPSE: Final = 8.0
"""Once in a while a slice is misread by much more than usual: grades two apart do occur."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    name: str
    grade_from: tuple[float, float, float]
    """Severity from which B, C and D begin."""
    patient_error: float
    slice_error: float
    """Standard deviations of severity."""
    steepness: float
    """How much larger both are per unit of severity."""
    cord_from_mm: float
    """Height above the end of the cord from which a slice is called cord."""
    cord_patient_error_mm: float
    cord_slice_error_mm: float
    refuses_bad: float
    """Share of slices with a cause that are called other."""
    refuses_good: float
    """Share of the rest."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Label of one slice by one reader."""

    content: SliceContent
    grade: Grade | None
    hand_mm: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """How far the four edges of the drawn box are off."""

    def drawn_box(self, box: PixelBox, spacing_mm: tuple[float, float], shape: tuple[int, ...]) -> PixelBox:
        """The reader's box around a sac, in whole pixels of an image ``shape`` (rows, columns)."""
        (rows, columns), (down, across) = shape[:2], spacing_mm
        left, top, right, bottom = self.hand_mm
        return PixelBox(
            float(max(0, round(box.x0 + left / across))),
            float(max(0, round(box.y0 + top / down))),
            float(min(columns, round(box.x1 + right / across))),
            float(min(rows, round(box.y1 + bottom / down))),
        )


READERS: Final = (
    Reader(
        name="reader-1", grade_from=(0.292, 0.572, 0.803), patient_error=0.026, slice_error=0.034, steepness=0.4,
        cord_from_mm=-7.5, cord_patient_error_mm=17.5, cord_slice_error_mm=2.0, refuses_bad=0.72, refuses_good=0.084,
    ),
    Reader(
        name="reader-2", grade_from=(0.244, 0.508, 0.773), patient_error=0.026, slice_error=0.034, steepness=0.4,
        cord_from_mm=-2.5, cord_patient_error_mm=17.5, cord_slice_error_mm=2.0, refuses_bad=0.58, refuses_good=0.03,
    ),
)  # fmt: skip
"""Fitted to the paper's tables by simulation; tests/unit/phantom/test_readers.py states the tolerances."""


def read(patient: Patient, reader: Reader) -> tuple[Reading, ...]:
    """Labels of all axial slices, in the order of :meth:`Patient.truths`."""
    rng = patient.stream("reader", reader.name)
    severity_error, cord_error = rng.normal(0, reader.patient_error), rng.normal(0, reader.cord_patient_error_mm)
    return tuple(_read_slice(rng, t, reader, severity_error, cord_error) for t in patient.truths())


def _read_slice(
    rng: np.random.Generator, truth: SliceTruth, reader: Reader, severity_error: float, cord_error: float
) -> Reading:
    luck, lapse, z_severity, z_cord = rng.random(), rng.random(), rng.standard_normal(), rng.standard_normal()
    hand = (rng.normal((-0.4, -0.4, 0.4, 0.4), _HAND_MM)).tolist()
    if not truth.kind.has_canal:
        return Reading(SliceContent.OTHER, None)
    if luck < (reader.refuses_good if truth.reason is None else reader.refuses_bad):
        return Reading(SliceContent.OTHER, None)
    above = truth.above_conus_mm + cord_error + reader.cord_slice_error_mm * z_cord
    if above > reader.cord_from_mm:
        return Reading(SliceContent.CORD, None, tuple(hand))
    z_severity *= _LAPSE if lapse < _LAPSE_SHARE else 1.0
    error = (severity_error + reader.slice_error * z_severity) * (1 + reader.steepness * truth.severity)
    seen = truth.severity + error
    grades = zip(reader.grade_from, (Grade.B, Grade.C, Grade.D), strict=True)
    grade = max((g for least, g in grades if seen >= least), default=Grade.A)
    return Reading(SliceContent.ROOTLET, grade, tuple(hand))
