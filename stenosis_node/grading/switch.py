"""Cord above, rootlets below, one change: the spinal cord ends once on the way down."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_FLOOR = 0.01
"""No single slice is believed beyond 99 to 1: one that is wrong and sure must not move the change far."""


def call_rootlets(heights_mm: Sequence[float], rootlet_scores: Sequence[float]) -> list[bool]:
    """Which slices lie below the end of the cord, by the change that all scores together make most likely.

    heights_mm      towards the head, one per slice, in any order: the slabs of a series may overlap
    rootlet_scores  the network's, 0 to 1; of cord it is the rest to 1
    returns         True for rootlets, in the order given. A stack may be all cord or all rootlets; between changes that
                    are equally likely the lower one is taken, which grades less
    """
    order = np.argsort(-np.asarray(heights_mm, dtype=float), kind="stable")
    scores = np.clip(np.asarray(rootlet_scores, dtype=float)[order], _FLOOR, 1 - _FLOOR)
    above = np.concatenate([[0.0], np.cumsum(np.log(1 - scores))])
    below = np.concatenate([np.cumsum(np.log(scores)[::-1])[::-1], [0.0]])
    likelihood = np.round(above + below, 9)  # equal sums in another order of adding stay equal
    change = len(scores) - int(np.argmax(likelihood[::-1]))
    called = np.empty(len(scores), dtype=bool)
    called[order] = np.arange(len(scores)) >= change
    return [bool(one) for one in called]
