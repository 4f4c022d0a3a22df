"""Score thresholds below which a slice is not graded: as many wrong and ungradable slices as a few right ones buy."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

GIVEN_UP: Final = 0.02
"""Most of the slices of a kind with a right call that may lose it."""
_STEPS: Final = (0.0, 0.0025, 0.005, 0.01, 0.015, GIVEN_UP)
"""Shares of the right slices below a candidate threshold."""

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Kinds = npt.NDArray[np.object_]


@dataclass(frozen=True, slots=True)
class Abstention:
    """Thresholds by score, and what they do to the slices they were chosen on."""

    thresholds: Mapping[str, float]
    coverage: float
    """Share of the slices that keep their call."""
    risk_before: float
    """Share of the calls that are wrong, or of slices nobody could grade, without the thresholds."""
    risk: float
    """With them."""
    other_kept: float | None
    """Share of the slices that readers call other and that still get a call; None without any."""

    def as_plain(self) -> Mapping[str, Any]:
        """JSON-ready."""
        return {
            "thresholds": dict(self.thresholds),
            "coverage": self.coverage,
            "risk_before": self.risk_before,
            "risk": self.risk,
            "other_kept": self.other_kept,
        }


def choose_thresholds(
    scores: Mapping[str, Floats], right: Flags, other: Flags, floors: Mapping[str, float], kinds: Kinds | None = None
) -> Abstention:
    """The thresholds that turn away most wrong calls for at most GIVEN_UP of the right ones of each kind.

    scores  by name: of the slices that get a call, in one order; NaN (a score the call does not need) always passes
    right   whether the call is the readers'
    other   whether readers say that the slice cannot be graded; such a call is never right
    floors  by name: no threshold is lower
    kinds   what the readers say, as text: else the price would be paid by the rare and severe grades alone
    """
    names, good = list(scores), right & ~other
    parts = [good] if kinds is None else [good & (kinds == kind) for kind in sorted(set(kinds[good]))]
    candidates = [_candidates(scores[name][good], floors[name]) for name in names]
    best: tuple[int, int] | None = None
    chosen: tuple[float, ...] = tuple(floors[name] for name in names)
    kept = _kept(scores, names, chosen)
    budgets = [max(GIVEN_UP * part.sum(), int((~kept & part).sum())) for part in parts]
    for thresholds in itertools.product(*candidates):
        kept = _kept(scores, names, thresholds)
        lost = int((~kept & good).sum())
        affordable = all((~kept & part).sum() <= budget for part, budget in zip(parts, budgets, strict=True))
        if affordable and (best is None or (int((~kept & ~good).sum()), -lost) > best):
            best, chosen = (int((~kept & ~good).sum()), -lost), thresholds
    kept = _kept(scores, names, chosen)
    return Abstention(
        dict(zip(names, chosen, strict=True)),
        _share(kept),
        _share(~good),
        _share(~good[kept]),
        _share(kept[other]) if other.any() else None,
    )


def _candidates(good: Floats, floor: float) -> list[float]:
    known = good[~np.isnan(good)]
    if not len(known):
        return [floor]
    quantiles = np.floor(np.quantile(known, _STEPS, method="lower") * 1e4) / 1e4
    return sorted({floor, *(float(value) for value in quantiles if floor < value < 1)})


def _kept(scores: Mapping[str, Floats], names: list[str], thresholds: tuple[float, ...]) -> Flags:
    low = [scores[name] < threshold for name, threshold in zip(names, thresholds, strict=True)]
    return np.asarray(~np.logical_or.reduce(low))


def _share(flags: Flags) -> float:
    return float(flags.mean()) if len(flags) else 0.0
