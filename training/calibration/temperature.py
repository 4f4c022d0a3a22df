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
"""A step between the offsets of neighbouring classes stays within this on both sides."""
STEP: Final = 0.5
"""What such a step is expected to be, before a label was seen."""
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

    The steps between neighbouring classes are held to 0 by a normal prior of standard deviation ``STEP``: a class with
    few slices moves along with its neighbour. (Left where it was, it would take over the slices of a neighbour that
    moves away, or lose its own.)

    scores   [slices, classes], at temperature 1, rows sum to 1; the order of the classes is that of their severity
    targets  [slices, classes], shares of readers, rows sum to 1
    """
    temperature, classes = fit_temperature(scores, targets), scores.shape[1]
    if len(scores) < FEWEST:
        return temperature, (0.0,) * classes
    logits = np.log(np.maximum(scores, _TINY))

    def loss(free: Floats) -> tuple[float, Floats]:
        steps = free[1:]
        scaled = _softmax(logits * math.exp(-free[0]) + np.concatenate(([0.0], steps.cumsum())))
        wrong = scaled * targets.sum(axis=1, keepdims=True) - targets
        after = wrong.sum(axis=0)[::-1].cumsum()[::-1][1:]  # a step moves every class from its own on
        slope = np.concatenate(([-(wrong * logits).sum() * math.exp(-free[0])], after + steps / STEP**2))
        unlikely = float(-(targets * np.log(np.maximum(scaled, _TINY))).sum() + (steps**2).sum() / (2 * STEP**2))
        return unlikely / len(scores), slope / len(scores)

    start = np.concatenate(([math.log(temperature)], np.zeros(classes - 1)))
    bounds = [(math.log(LOWEST), math.log(HIGHEST)), *[(-FARTHEST, FARTHEST)] * (classes - 1)]
    best = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B").x
    offsets = np.concatenate(([0.0], best[1:].cumsum()))
    return round(math.exp(float(best[0])), 4), tuple(round(float(one), 4) for one in offsets)


def at_temperature(scores: Floats, temperature: float, offsets: Sequence[float] = (0.0,)) -> Floats:
    """Scores at temperature 1 as they are at another, their logits then shifted by an offset per class."""
    return _softmax(np.log(np.maximum(scores, _TINY)) / temperature + np.asarray(offsets))


def _softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    made: Floats = powers / powers.sum(axis=1, keepdims=True)
    return made
