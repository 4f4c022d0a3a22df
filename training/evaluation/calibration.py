"""Whether scores are probabilities: expected calibration error over bins of equal mass, Brier score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import brier_score_loss

Floats = npt.NDArray[np.float64]
BINS = 15


@dataclass(frozen=True)
class Calibration:
    """Of the class with the highest score."""

    n: int
    ece: float
    """Mean gap between confidence and accuracy over 15 bins of equal mass."""
    brier: float
    """Multi-class Brier score, from 0 to 2."""
    confidence: Floats
    accuracy: Floats
    """Mean confidence and accuracy of each bin that holds a slice."""


def calibrate(truth: npt.NDArray[np.int64], scores: Floats) -> Calibration | None:
    """Calibration of ``[slices, classes]`` scores that add up to 1; None without slices."""
    if len(truth) == 0:
        return None
    top = scores.max(1)
    right = (scores.argmax(1) == truth).astype(float)
    # Scores crowd on the edges, which are scores themselves: edges computed twice would sort some into other bins.
    edges = np.percentile(top, np.linspace(0, 1, BINS + 1) * 100)
    place = np.searchsorted(edges[1:-1], top)
    counts = np.bincount(place, minlength=BINS)
    held = counts > 0
    confidence, accuracy = (np.bincount(place, of, minlength=BINS)[held] / counts[held] for of in (top, right))
    return Calibration(
        len(truth),
        float((counts[held] / len(top) * np.abs(accuracy - confidence)).sum()),
        float(brier_score_loss(truth, scores, labels=list(range(scores.shape[1])), scale_by_half=False)),
        confidence,
        accuracy,
    )
