"""Whether the borders between the grades are moved: only where that holds for patients they were not fitted on.

Offsets that explain the labels best make the likeliest grade right more often, but take slices from rare grades; how
much the first is worth and the second costs depends on how sharp the network is. Quadratic kappa, by which the recipes
choose the best epoch, weighs both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from sklearn.metrics import cohen_kappa_score
from sklearn.model_selection import GroupKFold

from training.calibration.temperature import Floats, at_temperature, fit_offsets, fit_temperature

PARTS: Final = 5
"""Of the patients: each is called with what the others say."""


@dataclass(frozen=True, slots=True)
class Borders:
    """How scores of the grades become scores that are as often right as they say."""

    temperature: float
    offsets: tuple[float, ...]
    kappa_without: float | None = None
    """Quadratic kappa of patients apart, with a temperature alone. None: too few patients to look."""
    kappa_with: float | None = None
    """The same with offsets."""

    def as_plain(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"kappa_without": self.kappa_without, "kappa_with": self.kappa_with, "moved": any(self.offsets)}

    def sentence(self) -> str:
        """For people."""
        if self.kappa_without is None or self.kappa_with is None:
            return "The borders between the grades stay: fewer than two patients have graded slices."
        does = "are moved" if any(self.offsets) else "stay"
        return (
            f"The borders between the grades {does}: quadratic kappa of patients apart is {self.kappa_with:.3f} with "
            f"moved ones, {self.kappa_without:.3f} without."
        )


def fit_borders(scores: Floats, targets: Floats, patients: npt.NDArray[np.object_]) -> Borders:
    """A temperature, with an offset for each class where that makes patients apart agree better with their labels.

    scores    [slices, classes], at temperature 1, rows sum to 1
    targets   [slices, classes], shares of readers, rows sum to 1
    patients  [slices], name of the patient of each
    """
    classes = scores.shape[1]
    still = (0.0,) * classes
    parts = min(PARTS, len(set(patients)))
    if parts < 2:
        return Borders(fit_temperature(scores, targets), still)
    truth = classes - 1 - targets[:, ::-1].argmax(axis=1)  # of equals the more severe
    plain, moved = np.zeros(len(scores), dtype=int), np.zeros(len(scores), dtype=int)
    for fitted, apart in GroupKFold(parts).split(scores, groups=patients):
        plain[apart] = scores[apart].argmax(axis=1)  # a temperature changes no call
        moved[apart] = at_temperature(scores[apart], *fit_offsets(scores[fitted], targets[fitted])).argmax(axis=1)
    without, having = (
        float(cohen_kappa_score(truth, called, weights="quadratic", labels=range(classes))) for called in (plain, moved)
    )
    if not having > without:
        return Borders(fit_temperature(scores, targets), still, without, having)
    temperature, offsets = fit_offsets(scores, targets)
    return Borders(temperature, offsets, without, having)
