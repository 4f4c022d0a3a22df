"""One temperature per network: scores that are as often right as they say (Guo et al. 2017)."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

Floats = npt.NDArray[np.float64]

LOWEST, HIGHEST = 0.2, 10.0
FEWEST: Final = 20
"""With fewer slices the temperature stays 1."""
_TINY: Final = 1e-12


def fit_temperature(scores: Floats, targets: Floats) -> float:
    """The temperature at which the scores explain the labels best (least cross-entropy).

    scores   [slices, classes], at temperature 1, rows sum to 1
    targets  [slices, classes], shares of readers, rows sum to 1
    """
    if len(scores) < FEWEST:
        return 1.0

    def loss(log_temperature: float) -> float:
        scaled = at_temperature(scores, math.exp(log_temperature))
        return float(-(targets * np.log(np.maximum(scaled, _TINY))).sum(axis=1).mean())

    best = minimize_scalar(loss, bounds=(math.log(LOWEST), math.log(HIGHEST)), method="bounded")
    return round(math.exp(float(best.x)), 4)


def at_temperature(scores: Floats, temperature: float) -> Floats:
    """Scores at temperature 1 as they are at another."""
    logits = np.log(np.maximum(scores, _TINY)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    made: Floats = powers / powers.sum(axis=1, keepdims=True)
    return made
