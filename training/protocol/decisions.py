"""What is fitted on the validation slices of a fold, and used on the slices it held out: never the other way round."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from training.calibration.decision import Asked, Decision, fit_decision
from training.learning.errors import TrainingError
from training.recipes import Recipe

DECISION_NAME: Final = "decision.json"


def needs_validation(recipe: Recipe) -> bool:
    """Whether anything is fitted at all."""
    return recipe.temperature or recipe.offsets or recipe.operating_point or recipe.abstain


def decide(recipe: Recipe, validation: pd.DataFrame | None, rows: pd.DataFrame, readers: Sequence[str]) -> Decision:
    """What the recipe asks for, fitted.

    validation  predictions of the validation slices; None where nothing is fitted
    rows        of the label manifest
    readers     whose labels the chain learnt: those of others do not count
    """
    if validation is None or validation.empty:
        return Decision(monotone_switch=recipe.monotone_switch)
    asked = Asked(
        temperature=recipe.temperature,
        offsets=recipe.offsets,
        monotone_switch=recipe.monotone_switch,
        operating_point=recipe.operating_point,
        abstain=recipe.abstain,
    )
    return fit_decision(validation, rows[rows["reader"].isin(readers)], asked)


def read_decision(path: Path) -> Decision:
    """A decision file. Raises TrainingError."""
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Decision.of_plain(stored)
    except (OSError, ValueError, AttributeError) as error:
        raise TrainingError(f"{path} cannot be read; remove it and repeat the command") from error
