"""Why some of a patient's slices are 'other': hardware, deformity, operations, motion.

In the paper one surgeon refused 2,207 of 13,758 slices (16.0 %), the other 1,316 (9.6 %), both the same 734 (5.3 %).
The phantoms give about 12 % of slices a cause; the readers (:mod:`training.phantom.readers`) do the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from training.phantom.words import OtherReason, SliceKind

_SCREWS: Final = 0.10
_POST_OP: Final = 0.10
_DEFORMITY: Final = 0.09
"""Shares of patients."""
_RESTLESS: Final = 0.08
_POOR_WHEN_RESTLESS: Final = 0.35
_POOR_OTHERWISE: Final = 0.012
_FUSED: Final = (("L3", "L4"), ("L4", "L5"), ("L3", "L4", "L5"), ("L4", "L5", "S1"), ("L5", "S1"))
_OPENED: Final = (("L4",), ("L4", "L5"), ("L3", "L4"), ("L5",))
_CURVED: Final = (("L1", "L2", "L3"), ("L2", "L3", "L4"), ("T12", "L1", "L2"), ("L3", "L4"))


@dataclass(frozen=True, slots=True)
class Troubles:
    """Levels at which a patient's slices are refused, and how often one is spoilt by motion."""

    screws: frozenset[str]
    post_op: frozenset[str]
    deformity: frozenset[str]
    poor_share: float

    def at(self, level: str, kind: SliceKind, rng: np.random.Generator) -> OtherReason | None:
        if level in self.screws and kind is not SliceKind.DISC:
            return OtherReason.SCREWS
        if level in self.post_op:
            return OtherReason.POST_OP
        if level in self.deformity:
            return OtherReason.DEFORMITY
        return OtherReason.QUALITY if rng.random() < self.poor_share else None


def sample_troubles(rng: np.random.Generator) -> Troubles:
    def some(chance: float, groups: tuple[tuple[str, ...], ...]) -> frozenset[str]:
        hit, which = rng.random() < chance, int(rng.integers(len(groups)))
        return frozenset(groups[which] if hit else ())

    screws, post_op, deformity = some(_SCREWS, _FUSED), some(_POST_OP, _OPENED), some(_DEFORMITY, _CURVED)
    poor = _POOR_WHEN_RESTLESS if rng.random() < _RESTLESS else _POOR_OTHERWISE
    return Troubles(screws, post_op, deformity, poor)
