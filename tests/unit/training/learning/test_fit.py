from __future__ import annotations

import json
import os
import resource
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import save_file
from torchvision.models import resnet50

from stenosis_node.grading.bundle import save_weights
from tests.unit.training.learning.conftest import Phantoms
from training.learning import checkpoints
from training.learning.errors import Interrupted, TrainingError
from training.learning.fit import DONE_NAME, HISTORY_NAME, Fitted, Machine, fit, load_best
from training.learning.labels import LabelledSlice, labelled
from training.learning.networks import RANDOM, Start, build, loss_of
from training.recipes import DEFAULT, StageRecipe

HERE = Machine(workers=0)
SMALL: StageRecipe = replace(
    DEFAULT.classify,
    epochs=3,
    slices_per_epoch=16,
    batch_size=8,
    validation_slices=12,
    blocks=(4, 4, 8, 8, 8),
    context_slices=0,
)


@pytest.fixture(scope="module")
def slices(phantoms: Phantoms) -> list[LabelledSlice]:
    return labelled(phantoms.manifest, phantoms.store, "truth")


@pytest.fixture
def train(phantoms: Phantoms, slices: list[LabelledSlice], tmp_path: Path) -> Trainer:
    return Trainer(phantoms, slices, tmp_path)


class Trainer:
    def __init__(self, phantoms: Phantoms, slices: list[LabelledSlice], folder: Path) -> None:
        self._phantoms, self._slices, self.folder = phantoms, slices, folder

    def __call__(self, name: str, recipe: StageRecipe = SMALL, *, seed: int = 1, start: Start = RANDOM) -> Fitted:
        half = len(self._slices) // 2
        return fit(
            recipe, self._phantoms.store, self._slices[:half], self._slices[half:], self.folder / name,
            seed=seed, machine=HERE, start=start,
        )  # fmt: skip

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        network = checkpoints.read(self.folder / name / checkpoints.LAST_NAME)["network"]
        assert isinstance(network, dict)
        return network


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_run_that_was_killed_ends_with_the_weights_of_one_that_was_not(
    train: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    averaged = replace(SMALL, averaging=0.9)
    whole = train("whole", averaged)
    steps = iter(range(100))
    real = loss_of

    def interrupted(*arguments: object) -> torch.Tensor:
        if next(steps) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("training.learning.fit.loss_of", interrupted)
    with pytest.raises(Interrupted, match="stopped in epoch 2 of 3 of classify; the same command"):
        train("cut", averaged)
    assert signal.getsignal(signal.SIGINT) is handler
    monkeypatch.undo()
    resumed = train("cut", averaged)
    assert _same(train.weights("whole"), train.weights("cut"))
    assert (resumed.best_epoch, resumed.validation) == (whole.best_epoch, whole.validation)
    assert not _same(train.weights("whole"), _other_seed(train))


def _other_seed(train: Trainer) -> dict[str, torch.Tensor]:
    train("other", replace(SMALL, averaging=0.9), seed=2)
    return train.weights("other")


def test_a_finished_run_is_not_trained_again_and_another_is_refused(train: Trainer) -> None:
    first = train("run")
    before = (train.folder / "run" / HISTORY_NAME).read_text()
    assert train("run") == first
    assert (train.folder / "run" / HISTORY_NAME).read_text() == before
    with pytest.raises(TrainingError, match="finished run of another recipe, seed or set of slices"):
        train("run", seed=2)
    (train.folder / "run" / DONE_NAME).unlink()
    with pytest.raises(TrainingError, match="choose another folder, or remove it"):
        train("run", replace(SMALL, learning_rate=0.5))


def test_the_best_epoch_is_kept_and_every_epoch_is_written_down(train: Trainer) -> None:
    fitted = train("run")
    lines = [json.loads(line) for line in (train.folder / "run" / HISTORY_NAME).read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert fitted.validation == pytest.approx(max(line["accuracy"] for line in lines), abs=1e-6)
    assert lines[fitted.best_epoch - 1]["accuracy"] == pytest.approx(fitted.validation, abs=1e-6)
    assert checkpoints.read(fitted.best)["epoch"] == fitted.best_epoch
    assert 0 <= fitted.waiting_share <= 1
    assert list((train.folder / "run" / "tensorboard").glob("events.*"))
    scores = load_best(SMALL, fitted.best)(torch.rand(2, 1, 96, 96))
    assert scores.shape == (2, 2)
    with pytest.raises(TrainingError, match="of another recipe"):
        load_best(replace(SMALL, blocks=(8, 8, 8, 8, 8)), fitted.best)


def test_the_plateau_halves_the_rate(train: Trainer) -> None:
    stuck = replace(SMALL, schedule="plateau", plateau_patience=0, learning_rate=1e-12, epochs=4)
    train("run", stuck)
    lines = [json.loads(line) for line in (train.folder / "run" / HISTORY_NAME).read_text().splitlines()]
    rates = [line["learning_rate"] for line in lines]
    assert rates[0] == 1e-12
    assert rates[-1] <= rates[0] / 4 + 1e-20


def test_a_loss_that_is_no_number_stops_and_keeps_the_epoch_before(
    train: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = iter(range(100))
    real = loss_of

    def broken(*arguments: object) -> torch.Tensor:
        loss = real(*arguments)  # type: ignore[arg-type]
        return loss * float("nan") if next(steps) == 2 else loss

    monkeypatch.setattr("training.learning.fit.loss_of", broken)
    with pytest.raises(TrainingError, match=r"classify: the loss became nan in epoch 2; .* lower classify\."):
        train("run")
    assert checkpoints.read(train.folder / "run" / checkpoints.LAST_NAME)["progress"]["epoch"] == 1


def test_a_broken_checkpoint_is_replaced_by_the_one_before(train: Trainer, caplog: pytest.LogCaptureFixture) -> None:
    train("whole")
    train("run")
    run = train.folder / "run"
    (run / DONE_NAME).unlink()
    last = run / checkpoints.LAST_NAME
    last.write_bytes(last.read_bytes()[:1000])
    train("run")
    assert "going on from" in caplog.text
    assert _same(train.weights("run"), train.weights("whole"))
    (run / DONE_NAME).unlink()
    for name in (checkpoints.LAST_NAME, checkpoints.BEFORE_NAME):
        (run / name).write_bytes(b"nothing")
    with pytest.raises(TrainingError, match=r"is no readable checkpoint .*; remove .* to train this stage"):
        train("run")


def test_a_disk_that_takes_no_more_leaves_the_checkpoint_that_was_there(train: Trainer) -> None:
    """A limit on the size of files stands for the full disk: the write fails in the same place."""
    train("run", replace(SMALL, epochs=1))
    run = train.folder / "run"
    kept = {name: (run / name).read_bytes() for name in (checkpoints.LAST_NAME, checkpoints.BEST_NAME)}
    state = {"network": build(SMALL)}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        for name in kept:
            with pytest.raises(TrainingError, match=r"cannot be written .*; free space and run the same command again"):
                checkpoints.save(Fabric(accelerator="cpu"), run / name, state)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {name: (run / name).read_bytes() for name in kept} == kept
    assert not list(run.glob("*.partial"))


def test_weights_of_a_backbone_are_taken_from_a_file(train: Trainer) -> None:
    torch.manual_seed(3)
    weights = {name: tensor.contiguous() for name, tensor in resnet50(weights=None).state_dict().items()}
    path = train.folder / "resnet50.safetensors"
    save_file(weights, path)
    recipe = DEFAULT.locate
    name = "layer3.2.conv2.weight"
    filled = build(recipe, Start(backbone=path)).state_dict()
    assert torch.equal(filled[f"backbone.body.{name}"], weights[name])
    pth = train.folder / "resnet50.pth"
    torch.save(weights, pth)
    filled = build(recipe, Start(backbone=pth)).state_dict()
    assert torch.equal(filled[f"backbone.body.{name}"], weights[name])
    save_file({"conv1.weight": weights["conv1.weight"]}, path)
    with pytest.raises(TrainingError, match=r"is no ResNet-50 of torchvision: \d+ of \d+ tensors are missing"):
        build(recipe, Start(backbone=path))
    torch.save({"conv1.weight": Path("no tensor")}, pth)
    with pytest.raises(TrainingError, match="holds more than tensors"):
        build(recipe, Start(backbone=pth))


def test_training_starts_from_the_weights_of_a_bundle(train: Trainer) -> None:
    torch.manual_seed(5)
    before = build(SMALL)
    path = train.folder / "classify.safetensors"
    save_weights(before, path)
    still = replace(SMALL, epochs=1, learning_rate=0.0, weight_decay=0.0)
    train("run", still, start=Start(whole=path))
    stored, now = build(SMALL, Start(whole=path)).state_dict(), train.weights("run")
    learnt = [name for name, _ in before.named_parameters()]
    assert all(torch.equal(now[name], stored[name]) for name in learnt)

    save_weights(build(SMALL), path)
    with pytest.raises(TrainingError, match="holds a finished run of another"):
        train("run", still, start=Start(whole=path))
    with pytest.raises(TrainingError, match=r"cannot start from these weights: .* has shape"):
        train("other", replace(still, blocks=(4, 4, 4, 4, 8)), start=Start(whole=path))


def test_the_average_of_few_steps_is_not_the_random_weights_they_began_with(train: Trainer) -> None:
    """A reduced run has a hundred steps or less; an average over a hundred would still be what it began with."""
    train("run", replace(SMALL, averaging=0.99))
    stored = checkpoints.read(train.folder / "run" / checkpoints.LAST_NAME)
    now, averaged = stored["network"], stored["averaged"]
    torch.manual_seed(1)
    begun = build(SMALL).state_dict()
    name = "classify.weight"
    moved = (now[name] - begun[name]).norm()
    assert (averaged[f"module.{name}"] - begun[name]).norm() > 0.3 * moved > 0
