"""Putting some patients aside for validation when a chain is trained on everybody."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from training.learning.labels import LabelledSlice


def set_aside(
    slices: Sequence[LabelledSlice], share: float, seed: int
) -> tuple[list[LabelledSlice], list[LabelledSlice]]:
    """(training, validation): whole groups, chosen by the hash of their name so that adding patients moves nobody.

    share  of the groups, about that many are for validation, and one at least
    """
    places = {one.group: _fraction(one.group, seed) for one in slices}
    first = min(places.values(), default=share)
    chosen = {group: place < share or place == first for group, place in places.items()}
    train = [one for one in slices if not chosen[one.group]]
    return train, [one for one in slices if chosen[one.group]]


def _fraction(group: str, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}|{group}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
