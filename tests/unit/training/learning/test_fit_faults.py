"""Training on a few made-up slices: what a full disk, a lost checkpoint, a diverging step and more devices lead to."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from lightning_fabric import Fabric
from torch.utils.data import DataLoader, Dataset

from stenosis_node.domain import PixelBox
from tests.unit.series.builder import write_series
from training.labels.manifest import from_rows
from training.labels.rows import BoxSource, LabelRow, Region
from training.learning import checkpoints
from training.learning import fit as fit_module
from training.learning.errors import TrainingError
from training.learning.fit import DONE_NAME, HISTORY_NAME, Fitted, Machine, fit
from training.learning.labels import LabelledSlice, labelled
from training.learning.networks import loss_of
from training.learning.store import SliceStore, open_store
from training.recipes import DEFAULT, StageRecipe

TINY: StageRecipe = replace(
    DEFAULT.classify,
    epochs=2,
    slices_per_epoch=4,
    batch_size=2,
    validation_slices=2,
    blocks=(4, 4, 4, 4, 4),
    context_slices=0,
    averaging=0.0,
)

Learnt = tuple[SliceStore, list[LabelledSlice]]


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Learnt:
    folder = tmp_path_factory.mktemp("few")
    noise = np.random.default_rng(1)
    rows = []
    for index, path in enumerate(write_series(folder)):
        header = pydicom.dcmread(path)
        header.PixelData = noise.integers(0, 4000, (header.Rows, header.Columns), np.uint16).tobytes()
        header.save_as(path)
        rows.append(
            LabelRow(
                study_uid=header.StudyInstanceUID, series_uid=header.SeriesInstanceUID, sop_uid=header.SOPInstanceUID,
                path=path.name, patient_key="0" * 64, box=PixelBox(50, 50, 80, 80), box_source=BoxSource.EXPERT,
                region=Region.ROOTLET if index % 2 else Region.CORD, reader="anna",
            )
        )  # fmt: skip
    manifest = from_rows(rows, "test")
    store = open_store(manifest, folder / "manifest.csv", folder / "cache")
    return store, labelled(manifest, store, "anna")


def _train(learnt: Learnt, out: Path, recipe: StageRecipe = TINY) -> Fitted:
    store, slices = learnt
    return fit(recipe, store, slices, slices, out, seed=1, machine=Machine(workers=0))


class _OneOfTwo(Fabric):
    """Fabric on the first of two devices: gives it every second slice, as DistributedSampler does."""

    @property
    def world_size(self) -> int:
        return 2

    def setup_dataloaders(self, *loaders: Any, **_: Any) -> Any:
        (loader,) = loaders
        half: Dataset[Any] = torch.utils.data.Subset(loader.dataset, range(0, len(loader.dataset), 2))
        return DataLoader(half, batch_size=loader.batch_size, collate_fn=loader.collate_fn)


def test_the_rate_comes_down_on_several_devices_as_on_one(
    learnt: Learnt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(TINY, schedule="cosine", slices_per_epoch=32, learning_rate=1e-3)
    _train(learnt, tmp_path / "one", recipe)
    monkeypatch.setattr(fit_module, "_fabric", lambda devices: _OneOfTwo(accelerator="cpu"))
    _train(learnt, tmp_path / "two", recipe)
    last = [json.loads((tmp_path / name / HISTORY_NAME).read_text().splitlines()[-1]) for name in ("one", "two")]
    assert last[0]["learning_rate"] < 2e-5
    assert last[1]["learning_rate"] < 1e-4  # of half as many steps the last is further from the end


@pytest.mark.parametrize(("slices", "batch", "devices", "steps"), [(33, 8, 1, 5), (33, 8, 2, 3), (32, 8, 2, 2)])
def test_steps_are_those_of_one_device(slices: int, batch: int, devices: int, steps: int) -> None:
    assert fit_module._steps(slices, batch, devices) == steps
    sampler = torch.utils.data.DistributedSampler(range(slices), devices, 0)  # type: ignore[arg-type]
    assert -(-len(sampler) // batch) == steps


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_an_infinite_gradient_in_the_last_step_is_not_kept(
    learnt: Learnt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip_norm: float
) -> None:
    steps = iter(range(100))

    def broken(*arguments: Any) -> torch.Tensor:
        loss = loss_of(*arguments)
        if next(steps) == 3:  # the last of the second epoch; the loss itself stays finite
            loss.register_hook(lambda gradient: gradient * float("inf"))
        return loss

    monkeypatch.setattr(fit_module, "loss_of", broken)
    recipe = replace(TINY, epochs=3, clip_norm=clip_norm)
    with pytest.raises(TrainingError, match=r"classify: the weights became .* in epoch 2; .* lower classify\."):
        _train(learnt, tmp_path / "run", recipe)
    stored = checkpoints.read(tmp_path / "run" / checkpoints.LAST_NAME)
    assert stored["progress"]["epoch"] == 1
    assert all(bool(tensor.isfinite().all()) for tensor in stored["network"].values())
    monkeypatch.undo()
    assert _train(learnt, tmp_path / "run", recipe).epochs == 3


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("lost", [True, False])
def test_a_best_checkpoint_that_is_gone_says_what_to_do(
    learnt: Learnt, tmp_path: Path, finished: bool, lost: bool
) -> None:
    run = tmp_path / "run"
    fitted = _train(learnt, run)
    if lost:
        fitted.best.unlink()
    else:
        fitted.best.write_bytes(fitted.best.read_bytes()[:500])
    if not finished:
        (run / DONE_NAME).unlink()
    with pytest.raises(TrainingError, match=r"best\.pt .*; put it back, or remove .*run to train this stage from the"):
        _train(learnt, run)


def _full(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("where", [DONE_NAME, HISTORY_NAME, "add_scalar", "close", "SummaryWriter"])
def test_a_full_disk_is_explained_and_the_run_goes_on_after_it(
    learnt: Learnt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    run = tmp_path / "run"
    write_text, opened = Path.write_text, Path.open

    def writing(path: Path, *arguments: Any, **named: Any) -> int:
        return int(_full() if path.stem == Path(DONE_NAME).stem else write_text(path, *arguments, **named))

    def opening(path: Path, *arguments: Any, **named: Any) -> Any:
        return _full() if path.name == HISTORY_NAME else opened(path, *arguments, **named)

    if where == DONE_NAME:
        monkeypatch.setattr(Path, "write_text", writing)
    elif where == HISTORY_NAME:
        monkeypatch.setattr(Path, "open", opening)
    elif where == "SummaryWriter":
        monkeypatch.setattr(fit_module, "SummaryWriter", _full)
    else:
        monkeypatch.setattr(fit_module.SummaryWriter, where, _full)
    once = replace(TINY, epochs=1)
    with pytest.raises(TrainingError, match=r"run cannot be written \(No space left .*\); free space and run the same"):
        _train(learnt, run, once)
    monkeypatch.undo()
    assert _train(learnt, run, once).epochs == 1


def test_a_folder_that_cannot_be_made_is_explained(learnt: Learnt, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(TrainingError, match="cannot be written"):
        _train(learnt, tmp_path / "file" / "run")
