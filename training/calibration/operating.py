"""The over-diagnosis operating point: a study with grade C or worse is hardly ever missed, whatever that costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from training.evaluation.stages import Proportion

SENSITIVITY: Final = 0.95
"""What the lower 95 % bound must reach."""
FEWEST_POSITIVES: Final = 72
"""Of as many studies found, all found: the exact lower bound is 0.95."""
LARGEST: Final = 0.5
"""A threshold above a half would call fewer slices severe than the likeliest grade does."""
_SMALLEST: Final = 0.001


@dataclass(frozen=True, slots=True)
class OperatingChoice:
    """A threshold of P(C) + P(D), and how studies fare with it on the data it was chosen on."""

    threshold: float | None
    """None: no threshold reaches the sensitivity; each slice keeps its likeliest grade."""
    sensitivity: Proportion
    specificity: Proportion
    sentence: str

    def as_plain(self) -> Mapping[str, Any]:
        """JSON-ready."""
        return {
            "threshold": self.threshold,
            "sensitivity": self.sensitivity.value,
            "sensitivity_95": list(self.sensitivity.bounds),
            "specificity": self.specificity.value,
            "specificity_95": list(self.specificity.bounds),
            "studies": self.sensitivity.of + self.specificity.of,
            "studies_with_c_or_d": self.sensitivity.of,
            "sentence": self.sentence,
        }


def choose_operating_point(positive: npt.NDArray[np.bool_], highest: npt.NDArray[np.float64]) -> OperatingChoice:
    """The largest threshold whose study-level sensitivity has its exact lower 95 % bound at SENSITIVITY or above.

    positive  by study: whether readers grade any slice C or D
    highest   by study: the highest P(C) + P(D) of a slice that is graded; 0 without one
    """
    found = np.sort(highest[positive])[::-1]
    for hits in range(1, len(found) + 1):
        lower = Proportion(hits, len(found)).bounds[0]
        if lower is None or lower < SENSITIVITY:
            continue
        threshold = min(LARGEST, math.floor(found[hits - 1] * 1e4) / 1e4)
        if threshold < _SMALLEST:
            break
        sensitivity, specificity = _at(threshold, positive, highest)
        return OperatingChoice(
            threshold,
            sensitivity,
            specificity,
            f"{sensitivity.hits} of {sensitivity.of} studies with grade C or D found, {specificity.hits} of "
            f"{specificity.of} without told apart",
        )
    sensitivity, specificity = _at(LARGEST, positive, highest)
    why = (
        f"{len(found)} validation studies have grade C or D, {FEWEST_POSITIVES} are needed to show it"
        if len(found) < FEWEST_POSITIVES
        else "too many studies with grade C or D have no graded slice that scores above 0"
    )
    return OperatingChoice(
        None, sensitivity, specificity, f"no threshold shows a sensitivity of {SENSITIVITY:g} or more: {why}"
    )


def _at(
    threshold: float, positive: npt.NDArray[np.bool_], highest: npt.NDArray[np.float64]
) -> tuple[Proportion, Proportion]:
    called = highest >= threshold
    return (
        Proportion(int((positive & called).sum()), int(positive.sum())),
        Proportion(int((~positive & ~called).sum()), int((~positive).sum())),
    )
