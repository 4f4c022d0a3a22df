"""Which slices an epoch shows, and in which order: decided by recipe, seed and epoch alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from training.learning.errors import TrainingError
from training.learning.items import Draw
from training.learning.labels import GRADES, REGIONS, LabelledSlice
from training.recipes import Balance, Stage, StageRecipe

Indices = npt.NDArray[np.int64]


def usable(slices: Sequence[LabelledSlice], stage: Stage) -> list[LabelledSlice]:
    """The slices that have what a stage learns: a box; a box and a region; a box and a grade."""
    return [
        one for one in slices if one.box is not None and (stage is Stage.LOCATE or class_of(one, stage) is not None)
    ]


def class_of(one: LabelledSlice, stage: Stage) -> int | None:
    """Index of the class that balances and strata go by; None when the slice has none in this stage."""
    if one.refused and stage is not Stage.LOCATE:
        return None
    match stage:
        case Stage.LOCATE:
            return 0
        case Stage.CLASSIFY:
            return one.region
        case Stage.GRADE:
            return one.grade if one.region == 0 or one.regions is None else None


def need_every_class(slices: Sequence[LabelledSlice], stage: Stage, what: str) -> None:
    """Raises TrainingError when a class has no slice: what is never shown is never learnt."""
    names = (
        [str(name) for name in (REGIONS if stage is Stage.CLASSIFY else GRADES)] if stage is not Stage.LOCATE else []
    )
    if not slices:
        raise TrainingError(f"{stage}: {what} has no slice with a box and a label; label more, or choose other folds")
    seen = {class_of(one, stage) for one in slices}
    missing = [name for index, name in enumerate(names) if index not in seen]
    if missing:
        raise TrainingError(
            f"{stage}: {what} has no slice labelled {', '.join(missing)}; label some, use fewer folds, or merge readers"
        )


def epoch_draws(slices: Sequence[LabelledSlice], recipe: StageRecipe, *, seed: int, epoch: int) -> list[Draw]:
    """The turns of one epoch, each with a seed of its own."""
    rng = np.random.default_rng([seed, epoch, list(Stage).index(recipe.stage)])
    classes = np.array([class_of(one, recipe.stage) for one in slices], dtype=np.int64)
    wanted = len(slices) if recipe.slices_per_epoch is None else recipe.slices_per_epoch
    order = _order(classes, recipe.balance, wanted, rng)
    seeds = rng.integers(0, 2**62, len(order))
    return [Draw(slices[int(index)], int(one)) for index, one in zip(order, seeds, strict=True)]


def _order(classes: Indices, balance: Balance, wanted: int, rng: np.random.Generator) -> Indices:
    counts = np.bincount(classes)
    present = np.flatnonzero(counts)
    if balance == "none":
        return _cycled(np.arange(len(classes)), wanted, rng)
    if balance == "undersample":
        smallest = int(counts[present].min())
        kept = [rng.permutation(np.flatnonzero(classes == one))[:smallest] for one in present]
        return _cycled(np.concatenate(kept), min(wanted, smallest * len(present)), rng)
    weights = np.where(counts > 0, counts, 1.0) ** (0.0 if balance == "balanced" else 0.5) * (counts > 0)
    return _interleaved(classes, present, weights[present] / weights[present].sum(), wanted, rng)


def _interleaved(
    classes: Indices, present: Indices, shares: npt.NDArray[np.float64], wanted: int, rng: np.random.Generator
) -> Indices:
    """Classes in turn by their shares, so that every mini-batch has them so, each class running through its slices."""
    turns = np.searchsorted(np.cumsum(shares), (np.arange(wanted) + rng.random()) / wanted, side="right")
    turns = np.minimum(turns, len(present) - 1)
    order = np.empty(wanted, dtype=np.int64)
    for place, one in enumerate(present):
        mine = np.flatnonzero(turns == place)
        order[mine] = _cycled(np.flatnonzero(classes == one), len(mine), rng)
    # equal steps through the classes: slice k of the epoch comes from share k of a low-discrepancy walk
    walk = np.argsort((np.arange(wanted) * 0.6180339887498949) % 1.0, kind="stable")
    mixed = np.empty(wanted, dtype=np.int64)
    mixed[walk] = order
    return mixed


def _cycled(indices: Indices, wanted: int, rng: np.random.Generator) -> Indices:
    """``wanted`` of the indices: every one before any comes again."""
    rounds = [rng.permutation(indices) for _ in range(-(-wanted // max(1, len(indices))))]
    return np.concatenate([np.zeros(0, dtype=np.int64), *rounds])[:wanted]
