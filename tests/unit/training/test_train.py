from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from training.recipes import HELD_OUT_SEEDS, RECIPES, Recipe, Stage
from training.train import CHECKPOINT_NAME, LOSSES_NAME, Interrupted, TrainingError, load_trained, train

RECIPE = Recipe(
    stage=Stage.GRADE,
    steps=8,
    batch_size=4,
    learning_rate=1e-2,
    warmup_steps=2,
    weight_decay=0.0,
    clip_norm=1.0,
    first_seed=5,
    checkpoint_steps=3,
    log_steps=2,
)


@dataclass
class Line:
    """Fits a line; noise in the loss stands for the sampling inside a detector."""

    interrupt_at: int | None = None
    nan_at: int | None = None
    step: int = 0

    def network(self) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))

    def dataset(self, first_seed: int, length: int) -> Dataset[Any]:
        return TensorDataset(torch.randn(length, 3, generator=torch.Generator().manual_seed(first_seed)))

    def collate(self, items: Sequence[tuple[Tensor]]) -> Tensor:
        return torch.stack([item[0] for item in items])

    def loss(self, network: Any, batch: Tensor, device: torch.device) -> Tensor:
        self.step += 1
        if self.step == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)
        noise = torch.randn(len(batch), 1)
        loss: Tensor = (network(batch.to(device)).float() - batch.sum(1, keepdim=True) + 0.1 * noise).square().mean()
        return loss * float("nan") if self.step == self.nan_at else loss


def _weights(checkpoint: Path) -> dict[str, Tensor]:
    network = Line().network()
    load_trained(network, checkpoint, Stage.GRADE)
    return network.state_dict()


def test_a_run_that_was_interrupted_ends_with_the_weights_of_one_that_was_not(tmp_path: Path) -> None:
    whole = train(Line(), RECIPE, tmp_path / "whole", workers=0)
    with pytest.raises(Interrupted, match="stopped at step 5 of 8; go on with --resume"):
        train(Line(interrupt_at=5), RECIPE, tmp_path / "cut", workers=0)
    resumed = train(Line(), RECIPE, tmp_path / "cut", workers=0, resume=True)
    for name, tensor in _weights(whole).items():
        assert torch.equal(_weights(resumed)[name], tensor), name
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_workers_change_nothing(tmp_path: Path) -> None:
    alone = train(Line(), RECIPE, tmp_path / "alone", workers=0)
    helped = train(Line(), RECIPE, tmp_path / "helped", workers=2)
    assert all(torch.equal(_weights(alone)[name], tensor) for name, tensor in _weights(helped).items())


def test_losses_are_written_down(tmp_path: Path) -> None:
    train(Line(), RECIPE, tmp_path, workers=0)
    assert len((tmp_path / LOSSES_NAME).read_text().splitlines()) == 4


def test_a_loss_that_is_none_stops_and_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="the loss became nan at step 4"):
        train(Line(nan_at=5), RECIPE, tmp_path, workers=0)
    assert all(torch.isfinite(t).all() for t in _weights(tmp_path / CHECKPOINT_NAME).values())


def test_a_folder_with_a_run_is_not_overwritten(tmp_path: Path) -> None:
    train(Line(), RECIPE, tmp_path, workers=0)
    with pytest.raises(TrainingError, match="already holds a run"):
        train(Line(), RECIPE, tmp_path, workers=0)


def test_another_recipe_is_not_resumed(tmp_path: Path) -> None:
    train(Line(), RECIPE, tmp_path, workers=0)
    with pytest.raises(TrainingError, match="another recipe"):
        train(Line(), replace(RECIPE, learning_rate=1.0), tmp_path, workers=0, resume=True)


def test_a_damaged_checkpoint_is_reported(tmp_path: Path) -> None:
    checkpoint = train(Line(), RECIPE, tmp_path, workers=0)
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    with pytest.raises(TrainingError, match="no readable checkpoint"):
        train(Line(), RECIPE, tmp_path, workers=0, resume=True)


def test_a_checkpoint_of_another_stage_is_refused(tmp_path: Path) -> None:
    checkpoint = train(Line(), RECIPE, tmp_path, workers=0)
    with pytest.raises(TrainingError, match="is of stage grade, not locate"):
        load_trained(Line().network(), checkpoint, Stage.LOCATE)
    with pytest.raises(TrainingError, match="train this stage first"):
        load_trained(Line().network(), tmp_path / "absent.pt", Stage.GRADE)


def test_the_rate_warms_up_and_ends_at_nothing() -> None:
    rates = [RECIPE.rate(step) for step in range(RECIPE.steps)]
    assert rates[0] < rates[1]
    assert max(rates) <= RECIPE.learning_rate
    assert rates[-1] < 0.05 * RECIPE.learning_rate


def test_no_recipe_trains_on_held_out_slices_or_on_those_of_another() -> None:
    taken = [range(r.first_seed, r.first_seed + r.steps * r.batch_size) for r in RECIPES.values()]
    for index, seeds in enumerate([*taken, HELD_OUT_SEEDS]):
        for other in [*taken, HELD_OUT_SEEDS][index + 1 :]:
            assert seeds.stop <= other.start or other.stop <= seeds.start
