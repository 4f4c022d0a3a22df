"""The training loop, once, for all stages: Lightning Fabric over epochs, best validation kept, killed at any time.

Everything random in an epoch depends on recipe, seed and epoch alone. A run that was killed goes on from its last whole
epoch and ends with the weights of one that was not.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from stenosis_node.grading.stages import choose_device, use_bf16
from training.learning import checkpoints
from training.learning.errors import Interrupted, TrainingError
from training.learning.items import Draw, Items
from training.learning.labels import LabelledSlice
from training.learning.networks import RANDOM, Start, build, collate, loss_of, score_of
from training.learning.sampling import epoch_draws, need_every_class, usable
from training.learning.store import SliceStore
from training.recipes import Stage, StageRecipe

log = logging.getLogger("stenosis_train")

HISTORY_NAME: Final = "history.jsonl"
DONE_NAME: Final = "done.json"
_WARM_SHARE: Final = 0.1
_LOG_STEPS: Final = 25


@dataclass(frozen=True, slots=True)
class Fitted:
    """A finished training run of one stage."""

    best: Path
    """Checkpoint of the best epoch."""
    epochs: int
    best_epoch: int
    """1-based."""
    validation: float
    """Score of the best epoch on the validation slices."""
    waiting_share: float
    """Of the time, spent waiting for slices; of the last epochs of a run that was resumed."""
    slices_per_s: float


@dataclass(frozen=True, slots=True)
class Machine:
    """What a run may use. The same devices give the same result, but for the rounding of other hardware."""

    devices: int = 1
    """Each takes a batch of its own at every step: with several a step learns from ``devices`` times ``batch_size``
    slices, an epoch has that many fewer steps, and the weights differ from those of one device."""
    workers: int = 1
    """Processes that prepare slices; change no result."""


@dataclass(slots=True)
class _Progress:
    """What a checkpoint holds beside network and optimizer."""

    epoch: int = 0
    step: int = 0
    best: float = -math.inf
    best_epoch: int = 0
    since_best: int = 0
    factor: float = 1.0
    """Of the learning rate, as the plateau schedule left it."""


def fit(
    recipe: StageRecipe,
    store: SliceStore,
    train: Sequence[LabelledSlice],
    validation: Sequence[LabelledSlice],
    out: Path,
    *,
    seed: int,
    machine: Machine = Machine(),
    start: Start = RANDOM,
) -> Fitted:
    """Train one network into the folder ``out``; goes on by itself where a run of the same recipe and slices stopped.

    raises  TrainingError (a class without slices, a loss or weights that are not finite, a full disk, broken
            checkpoints, a folder that holds another run), Interrupted
    """
    shown, looked_at = usable(train, recipe.stage), usable(validation, recipe.stage)
    need_every_class(shown, recipe.stage, "the training part")
    need_every_class(looked_at[:1] if recipe.stage is Stage.LOCATE else looked_at, recipe.stage, "the validation part")
    looked_at = _some(looked_at, recipe.validation_slices, seed)
    with _writing(out):
        out.mkdir(parents=True, exist_ok=True)
    mark = _fingerprint(recipe, shown, looked_at, seed, start)
    done = _finished(out, mark)
    if done is not None:
        return done
    run = _Run(recipe, store, out, seed, mark, machine, start)
    return run.finish(shown, looked_at)


def load_best(recipe: StageRecipe, best: Path) -> nn.Module:
    """The network of a finished run, ready to look at slices. Raises TrainingError."""
    stored = checkpoints.read(best)
    network = build(recipe)
    try:
        network.load_state_dict(stored["network"])
    except (KeyError, RuntimeError) as error:
        raise TrainingError(f"{best} is of another recipe than {recipe.stage}: {error}") from error
    return network.eval()


class _Run:
    def __init__(
        self,
        recipe: StageRecipe,
        store: SliceStore,
        out: Path,
        seed: int,
        mark: str,
        machine: Machine,
        start: Start,
    ) -> None:
        self._recipe, self._store, self._out, self._seed, self._mark = recipe, store, out, seed, mark
        self._machine = machine
        self._fabric = _fabric(machine.devices)
        self._fabric.launch()
        torch.manual_seed(seed)
        module = build(recipe, start)
        self._network, self._optimizer = self._fabric.setup(module, _optimizer(module, recipe))
        self._averaged = _averaged(module, recipe)
        self._progress = _Progress()
        self._waited = 0.0
        self._worked = 0.0
        self._shown = 0

    def finish(self, train: Sequence[LabelledSlice], validation: Sequence[LabelledSlice]) -> Fitted:
        """Epoch after epoch, to the end."""
        self._resume()
        progress, recipe = self._progress, self._recipe
        with _stop_asked() as stop, _board(self._out) as board:
            while progress.epoch < recipe.epochs:
                draws = epoch_draws(train, recipe, seed=self._seed, epoch=progress.epoch)
                loss = self._epoch(draws, stop)
                self._check_weights()
                score = self._validate(validation)
                progress.epoch += 1
                self._judge(score)
                self._write_down(loss, score, board)
                self._save()
        fitted = Fitted(
            best=self._out / checkpoints.BEST_NAME,
            epochs=progress.epoch,
            best_epoch=progress.best_epoch,
            validation=progress.best,
            waiting_share=self._waited / max(1e-9, self._waited + self._worked),
            slices_per_s=self._shown / max(1e-9, self._waited + self._worked),
        )
        if self._fabric.is_global_zero:
            plain = asdict(fitted) | {"best": fitted.best.name, "mark": self._mark}
            done = self._out / DONE_NAME
            partial = done.with_suffix(".partial")
            with _writing(self._out):
                partial.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
                partial.replace(done)
        return fitted

    def _epoch(self, draws: Sequence[Draw], stop: _Stop) -> float:
        """Train one epoch; returns the mean loss."""
        recipe, progress, losses = self._recipe, self._progress, []
        steps = _steps(len(draws), recipe.batch_size, self._fabric.world_size)
        self._network.train()
        batches = iter(self._batches(draws, recipe.batch_size))
        begun = clock = time.monotonic()
        for number in range(steps):
            batch = next(batches)
            got = time.monotonic()
            self._waited += got - clock
            torch.manual_seed(self._seed + progress.step)
            for group in self._optimizer.param_groups:
                group["lr"] = self._rate(steps)
            losses.append(self._step(batch))
            progress.step += 1
            clock = time.monotonic()
            self._worked += clock - got
            self._shown += len(batch[0])
            if (number + 1) % _LOG_STEPS == 0:
                pace = (clock - begun) / (number + 1)
                left = pace * (steps - number - 1 + steps * (recipe.epochs - progress.epoch - 1)) / 60
                log.info(
                    "%s epoch %d/%d step %d/%d loss %.4f, %.2f s a step, about %.0f min left",
                    recipe.stage, progress.epoch + 1, recipe.epochs, number + 1, steps, np.mean(losses[-_LOG_STEPS:]),
                    pace, left,
                )  # fmt: skip
            if stop:
                raise Interrupted(
                    f"stopped in epoch {progress.epoch + 1} of {recipe.epochs} of {recipe.stage}; the same command "
                    "goes on from the last whole epoch"
                )
        return float(np.mean(losses))

    def _step(self, batch: Any) -> float:
        loss = loss_of(self._network, batch, self._recipe, self._fabric.device)
        if not torch.isfinite(loss):
            raise self._diverged(f"the loss became {loss.item()}")
        self._optimizer.zero_grad()
        self._fabric.backward(loss)
        if self._recipe.clip_norm:
            self._fabric.clip_gradients(
                self._network, self._optimizer, max_norm=self._recipe.clip_norm, error_if_nonfinite=False
            )
        self._optimizer.step()
        if self._averaged is not None:
            self._averaged.update_parameters(self._network)
        return float(loss.detach())

    def _check_weights(self) -> None:
        """The last step of an epoch has no loss after it that would tell: an infinite gradient, for example."""
        if not all(bool(tensor.isfinite().all()) for tensor in self._network.state_dict().values()):
            raise self._diverged("the weights became infinite or no numbers")

    def _diverged(self, how: str) -> TrainingError:
        stage = self._recipe.stage
        return TrainingError(
            f"{stage}: {how} in epoch {self._progress.epoch + 1}; the checkpoint of the epoch before is kept in "
            f"{self._out}: lower {stage}.learning_rate or set {stage}.clip_norm, and train into a new folder"
        )

    def _rate(self, steps: int) -> float:
        recipe, progress = self._recipe, self._progress
        if recipe.schedule == "plateau":
            return recipe.learning_rate * progress.factor
        whole = steps * recipe.epochs
        warm = min(1.0, (progress.step + 1) / max(1.0, _WARM_SHARE * whole))
        return recipe.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * progress.step / whole))

    def _validate(self, validation: Sequence[LabelledSlice]) -> float:
        judged = self._judged().eval()
        batches = self._batches([Draw(one, None) for one in validation], 2 * self._recipe.batch_size, shared=False)
        with torch.inference_mode(), self._fabric.autocast():
            return score_of(judged, batches, self._recipe, self._fabric.device)

    def _judged(self) -> nn.Module:
        """What is validated and kept: the average of the weights where the recipe asks for it."""
        judged: nn.Module = self._network if self._averaged is None else self._averaged.module
        return judged

    def _judge(self, score: float) -> None:
        """Keep the best; slow down when nothing has got better for a while."""
        progress = self._progress
        if score > progress.best:
            progress.best, progress.best_epoch, progress.since_best = score, progress.epoch, 0
            checkpoints.save(
                self._fabric,
                self._out / checkpoints.BEST_NAME,
                {"network": self._judged(), "mark": self._mark, "epoch": progress.epoch},
            )
            return
        progress.since_best += 1
        if progress.since_best > self._recipe.plateau_patience:
            progress.factor *= self._recipe.plateau_factor
            progress.since_best = 0

    def _write_down(self, loss: float, score: float, board: SummaryWriter) -> None:
        progress, recipe = self._progress, self._recipe
        log.info(
            "%s epoch %d/%d: loss %.4f, validation %s %.4f (best %.4f in epoch %d)",
            recipe.stage, progress.epoch, recipe.epochs, loss, recipe.score, score, progress.best, progress.best_epoch,
        )  # fmt: skip
        if not self._fabric.is_global_zero:
            return
        rate = self._optimizer.param_groups[0]["lr"]
        line = {"epoch": progress.epoch, "loss": round(loss, 6), recipe.score: round(score, 6), "learning_rate": rate}
        with _writing(self._out):
            for name, value in (("loss", loss), (f"validation/{recipe.score}", score), ("learning rate", rate)):
                board.add_scalar(name, value, progress.epoch)
            with (self._out / HISTORY_NAME).open("a", encoding="utf-8") as history:
                history.write(json.dumps(line) + "\n")

    def _save(self) -> None:
        last = self._out / checkpoints.LAST_NAME
        with _writing(self._out):
            if self._fabric.is_global_zero and last.exists():
                last.replace(self._out / checkpoints.BEFORE_NAME)
        checkpoints.save(
            self._fabric,
            last,
            {
                "network": self._network,
                "optimizer": self._optimizer,
                "averaged": None if self._averaged is None else self._averaged.state_dict(),
                "progress": asdict(self._progress),
                "mark": self._mark,
            },
        )

    def _resume(self) -> None:
        stored = checkpoints.read_newest(self._out)
        if stored is None:
            return
        if stored.get("mark") != self._mark:
            raise TrainingError(
                f"{self._out} holds a run of another recipe, seed or set of slices; choose another folder, or remove it"
            )
        if stored["progress"]["best_epoch"]:
            _check_best(self._out)
        self._network.load_state_dict(stored["network"])
        self._optimizer.load_state_dict(stored["optimizer"])
        if self._averaged is not None:
            self._averaged.load_state_dict(stored["averaged"])
        self._progress = _Progress(**stored["progress"])
        log.info("%s goes on after epoch %d of %d", self._recipe.stage, self._progress.epoch, self._recipe.epochs)

    def _batches(self, draws: Sequence[Draw], batch_size: int, *, shared: bool = True) -> Any:
        """Batches in order. ``shared`` splits them between the processes of a distributed run."""
        workers = self._machine.workers
        loader: DataLoader[Any] = DataLoader(
            Items(self._store, self._recipe, draws),
            batch_size=batch_size,
            num_workers=workers,
            collate_fn=collate,
            worker_init_fn=_ignore_interrupt,
            prefetch_factor=4 if workers else None,
        )
        if not shared:
            return loader
        return self._fabric.setup_dataloaders(loader, move_to_device=False)


def _optimizer(module: nn.Module, recipe: StageRecipe) -> torch.optim.Optimizer:
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return kind(module.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)


def _averaged(module: nn.Module, recipe: StageRecipe) -> AveragedModel | None:
    if not recipe.averaging:
        return None

    def average(so_far: Tensor, now: Tensor, steps: Tensor | int) -> Tensor:
        """Short at first: after a few steps nothing is left of the random weights, however few steps there will be."""
        decay = min(recipe.averaging, (1 + float(steps)) / (10 + float(steps)))
        return so_far + (1 - decay) * (now - so_far)

    return AveragedModel(module, avg_fn=average, use_buffers=True)


def _some(slices: list[LabelledSlice], wanted: int | None, seed: int) -> list[LabelledSlice]:
    if wanted is None or wanted >= len(slices):
        return slices
    chosen = np.random.default_rng([seed, 1]).choice(len(slices), wanted, replace=False)
    return [slices[int(index)] for index in sorted(chosen)]


def _fingerprint(
    recipe: StageRecipe,
    train: Sequence[LabelledSlice],
    validation: Sequence[LabelledSlice],
    seed: int,
    start: Start,
) -> str:
    """Names what decides the weights, so that a checkpoint never goes on as another run."""
    made = hashlib.sha256(json.dumps(recipe.decided(), sort_keys=True, default=str).encode())
    made.update(f"{seed} {start.mark() or None}".encode())
    for part in (train, validation):
        made.update(b"|")
        for one in part:
            grades = None if one.grades is None else one.grades.tolist()
            regions = None if one.regions is None else one.regions.tolist()
            made.update(f"{one.key} {one.box} {regions} {grades}".encode())
    return made.hexdigest()


def _steps(slices: int, batch_size: int, devices: int) -> int:
    """Of one device in an epoch: the slices are dealt out to the devices, then batched."""
    return math.ceil(math.ceil(slices / devices) / batch_size)


def _check_best(out: Path) -> None:
    """Raises TrainingError when the best epoch, which nothing else holds, is gone."""
    best = out / checkpoints.BEST_NAME
    how = f"{best} does not exist" if not best.exists() else ""
    try:
        how or checkpoints.read(best)
    except TrainingError as error:
        how = str(error)
    if how:
        raise TrainingError(f"{how}; put it back, or remove {out} to train this stage from the start")


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Raises TrainingError for what the disk does not take."""
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"{out} cannot be written ({error.strerror or error}); free space and run the same command again: it goes "
            "on from the last whole epoch"
        ) from error


@contextmanager
def _board(out: Path) -> Iterator[SummaryWriter]:
    with _writing(out):
        board = SummaryWriter(str(out / "tensorboard"))
    try:
        yield board
    finally:
        with _writing(out):
            board.close()


def _finished(out: Path, mark: str) -> Fitted | None:
    try:
        stored = json.loads((out / DONE_NAME).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    if stored.pop("mark") != mark:
        raise TrainingError(
            f"{out} holds a finished run of another recipe, seed or set of slices; choose another folder"
        )
    _check_best(out)
    return Fitted(**{**stored, "best": out / stored["best"]})


def _ignore_interrupt(worker: int) -> None:
    """Ctrl-C reaches the whole process group; the loop alone answers it, and needs its workers until it has."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Autocast(MixedPrecision):
    """bfloat16 inside the network, inputs as they are: boxes in bfloat16 would be off by a pixel."""

    def convert_input(self, data: Any) -> Any:
        return data


def _fabric(devices: int) -> Fabric:
    device = choose_device("auto")
    plugin = _Autocast("bf16-mixed", device.type) if use_bf16(device, "auto") else None
    return Fabric(accelerator="auto", devices=devices, plugins=plugin)


class _Stop:
    asked = False

    def __bool__(self) -> bool:
        return self.asked


@contextmanager
def _stop_asked() -> Iterator[_Stop]:
    """True once SIGINT or SIGTERM arrived: the loop then ends between two steps. A second signal ends at once."""
    stop = _Stop()

    def ask(number: int, frame: FrameType | None) -> None:
        stop.asked = True
        signal.signal(number, previous[signal.Signals(number)])

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
