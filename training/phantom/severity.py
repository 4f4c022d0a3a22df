"""How narrow the canal is, as one continuous index, and the grade that follows from it.

0 is a wide canal; from 0.25 on the roots fill the sac (B), from 0.5 on none can be told apart (C), from 0.75 on the
fat behind the sac is gone (D). Nothing jumps at these borders: neighbours on either side look alike.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy.special import ndtri

from stenosis_node.domain import Grade
from training.phantom.words import RootPattern, Subgrade

GRADE_FROM: Final = ((0.75, Grade.D), (0.5, Grade.C), (0.25, Grade.B))
WORST: Final = 1.1

CHANCE: Final = {
    "L5-S1": 0.16, "L4-5": 0.60, "L3-4": 0.50, "L2-3": 0.34, "L1-2": 0.14, "T12-L1": 0.05, "T11-12": 0.02,
}  # fmt: skip
"""Chance of grade B or worse at a disc. RSNA 2024 counts (domain notes 2.5), raised to what two surgeons saw in a
spine clinic: 23 % of rootlet slices B or worse (paper, Table 3)."""
_SPREAD: Final = 0.7
"""Standard normal units that one grade spans."""
_SHARED: Final = 0.5
"""Correlation of the discs of one patient."""


def grade_of(severity: float) -> Grade:
    return next((grade for least, grade in GRADE_FROM if severity >= least), Grade.A)


def subgrade_of(severity: float, pattern: RootPattern) -> Subgrade | None:
    """Which look of grade A this is; None from grade B on."""
    if grade_of(severity) is not Grade.A:
        return None
    match pattern:
        case RootPattern.CENTRAL:
            return Subgrade.A4
        case RootPattern.HORSESHOE if severity < 0.15:
            return Subgrade.A2
        case _:
            return Subgrade.A1 if severity < 0.12 else Subgrade.A3


def sample_discs(rng: np.random.Generator) -> dict[str, float]:
    """Severity of each disc of a patient: a continuum, worse where spines are worn most."""
    general = rng.standard_normal()
    severity = {}
    for name, chance in CHANCE.items():
        z = _SHARED**0.5 * general + (1 - _SHARED) ** 0.5 * rng.standard_normal()
        drawn = 0.25 + 0.25 * (z + ndtri(chance)) / _SPREAD
        severity[name] = float(min(WORST, max(drawn, rng.uniform(0, 0.12))))
    return severity


def sample_within(
    rng: np.random.Generator, grade: Grade | None, subgrade: Subgrade | None = None
) -> tuple[float, RootPattern]:
    """Severity and root pattern of a slice of a wanted grade (None: any)."""
    grade = grade or Grade(rng.choice(["A", "B", "C", "D"], p=[0.6, 0.2, 0.1, 0.1]))
    u = rng.random()
    pattern = sample_pattern(rng)
    if grade is not Grade.A:
        low = {Grade.B: 0.25, Grade.C: 0.5, Grade.D: 0.75}[grade]
        return float(low + (0.35 * u**1.3 if grade is Grade.D else 0.25 * u)), pattern
    match subgrade:
        case Subgrade.A1:
            return float(0.11 * u), RootPattern.DORSAL
        case Subgrade.A2:
            return float(0.14 * u), RootPattern.HORSESHOE
        case Subgrade.A3:
            return float(0.15 + 0.095 * u), RootPattern.DORSAL
        case Subgrade.A4:
            return float(0.08 + 0.165 * u), RootPattern.CENTRAL
        case _:
            return float(0.249 * u**1.6), pattern


def sample_pattern(rng: np.random.Generator) -> RootPattern:
    return RootPattern(rng.choice(["dorsal", "horseshoe", "central"], p=[0.62, 0.25, 0.13]))
