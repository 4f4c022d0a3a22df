"""Every number a training run is decided by, per stage, frozen. A checkpoint stores its recipe and refuses another."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Final


class Stage(StrEnum):
    """The three networks, in the order of the chain."""

    LOCATE = "locate"
    CLASSIFY = "classify"
    GRADE = "grade"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one stage is trained. No slice is seen twice, so steps times batch is the number of phantoms."""

    stage: Stage
    steps: int
    batch_size: int
    learning_rate: float
    """Peak, after the warm-up; cosine to zero at the last step."""
    warmup_steps: int
    weight_decay: float
    clip_norm: float
    """Largest norm of the gradient."""
    first_seed: int
    """Slice i of the run is drawn from seed ``first_seed + i``."""
    seed: int = 0
    """Of the initial weights and of sampling inside the detector."""
    checkpoint_steps: int = 100
    log_steps: int = 25

    def as_plain(self) -> dict[str, str | int | float]:
        """Numbers and strings alone, as a checkpoint stores them."""
        return {name: value.value if isinstance(value, Stage) else value for name, value in asdict(self).items()}

    def rate(self, step: int) -> float:
        """Learning rate of a step (0-based)."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        return self.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / self.steps))


HELD_OUT_SEEDS: Final = range(1_000_000)
"""Seeds no recipe trains on. Evaluation draws from here."""

RECIPES: Final = {
    Stage.LOCATE: Recipe(
        stage=Stage.LOCATE,
        steps=1400,
        batch_size=12,
        learning_rate=4e-4,
        warmup_steps=100,
        weight_decay=1e-3,
        clip_norm=5.0,
        first_seed=10_000_000,
    ),
    Stage.CLASSIFY: Recipe(
        stage=Stage.CLASSIFY,
        steps=400,
        batch_size=16,
        learning_rate=1e-3,
        warmup_steps=50,
        weight_decay=1e-3,
        clip_norm=5.0,
        first_seed=20_000_000,
    ),
    Stage.GRADE: Recipe(
        stage=Stage.GRADE,
        steps=1200,
        batch_size=16,
        learning_rate=1e-3,
        warmup_steps=50,
        weight_decay=1e-3,
        clip_norm=5.0,
        first_seed=30_000_000,
    ),
}
