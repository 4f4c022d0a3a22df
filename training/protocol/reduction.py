"""``--scale``: the same protocol with fewer patients, folds, epochs and slices, to see that everything runs.

The share is recorded in the recipe of the run: figures of a reduced run are never those of the whole one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import pandas as pd

from training.recipes import Recipe, Stage, StageRecipe, scaled

FEWEST_PATIENTS: Final = 30
"""A reduced run keeps so many where there are: with fewer, folds lack classes."""


def reduced(recipe: Recipe, scale: float) -> Recipe:
    """Epochs times ``scale``; where not even one is left, fewer slices in it. Raises RecipeError."""
    if scale == 1:
        return recipe
    less = scaled(recipe, scale)
    parts: dict[str, Any] = {
        stage.value: _fewer_slices(less.stage(stage), min(1.0, recipe.stage(stage).epochs * scale), scale)
        for stage in Stage
    }
    return replace(less, **parts)


def folds_to_run(recipe: Recipe, scale: float) -> int:
    """Of the folds of a recipe, at least one."""
    return max(1, round(recipe.folds * scale))


def kept_groups(groups: Sequence[str], share: float, *, fewest: int, seed: int) -> set[str]:
    """Patients a reduced run keeps: a share, ``fewest`` at least, chosen by the hash of their names."""
    order = sorted(groups, key=lambda group: hashlib.sha256(f"{seed}|{group}".encode()).hexdigest())
    return set(order[: max(fewest, round(share * len(order)))])


def taking_part(rows: pd.DataFrame, recipe: Recipe, seed: int) -> pd.DataFrame:
    """The rows of a label manifest whose patients take part: a share of them when the run is reduced."""
    if recipe.scale >= 1:
        return rows
    groups = sorted(set(rows["split_group"]))
    kept = kept_groups(groups, recipe.scale, fewest=max(FEWEST_PATIENTS, recipe.folds), seed=seed)
    return rows[rows["split_group"].isin(kept)]


def _fewer_slices(part: StageRecipe, epoch: float, share: float) -> StageRecipe:
    def less(count: int | None, by: float) -> int | None:
        return None if count is None else max(part.batch_size, round(count * by))

    return replace(
        part,
        slices_per_epoch=less(part.slices_per_epoch, epoch),
        validation_slices=less(part.validation_slices, share),
    )
