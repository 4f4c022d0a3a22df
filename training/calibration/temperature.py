"""Scores that are as often right as they say: one temperature per network (Guo et al. 2017), and where a network leans
to some classes, one offset per class (bias-corrected temperature scaling, Alexandari et al. 2020, arXiv 1901.06852).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize, minimize_scalar

Floats = npt.NDArray[np.float64]

LOWEST, HIGHEST = 0.2, 10.0
FARTHEST: Final = 5.0
"""Offsets stay within this on both sides."""
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


def fit_offsets(scores: Floats, targets: Floats) -> tuple[float, tuple[float, ...]]:
    """Temperature and offsets with which the scores explain the labels best (least cross-entropy).

    scores   [slices, classes], at temperature 1, rows sum to 1
    targets  [slices, classes], shares of readers, rows sum to 1; a class with fewer than ``FEWEST`` slices in all keeps
             the offset 0, and so does the first
    """
    temperature = fit_temperature(scores, targets)
    moved = np.flatnonzero(targets.sum(axis=0) >= FEWEST)
    moved = moved[moved > 0]
    if len(scores) < FEWEST or not len(moved):
        return temperature, (0.0,) * scores.shape[1]
    logits = np.log(np.maximum(scores, _TINY))

    def loss(free: Floats) -> tuple[float, Floats]:
        offsets = np.zeros(scores.shape[1])
        offsets[moved] = free[1:]
        scaled = _softmax(logits * math.exp(-free[0]) + offsets)
        wrong = (scaled * targets.sum(axis=1, keepdims=True) - targets) / len(scores)
        slope = np.concatenate(([-(wrong * logits).sum() * math.exp(-free[0])], wrong.sum(axis=0)[moved]))
        return float(-(targets * np.log(np.maximum(scaled, _TINY))).sum(axis=1).mean()), slope

    start = np.concatenate(([math.log(temperature)], np.zeros(len(moved))))
    bounds = [(math.log(LOWEST), math.log(HIGHEST)), *[(-FARTHEST, FARTHEST)] * len(moved)]
    best = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B").x
    offsets = np.zeros(scores.shape[1])
    offsets[moved] = best[1:]
    return round(math.exp(float(best[0])), 4), tuple(round(float(one), 4) for one in offsets)


def at_temperature(scores: Floats, temperature: float, offsets: Sequence[float] = (0.0,)) -> Floats:
    """Scores at temperature 1 as they are at another, their logits then shifted by an offset per class."""
    return _softmax(np.log(np.maximum(scores, _TINY)) / temperature + np.asarray(offsets))


def _softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    made: Floats = powers / powers.sum(axis=1, keepdims=True)
    return made
