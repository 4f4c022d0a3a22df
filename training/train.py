"""The training loop, once, for all stages: Lightning Fabric, fresh slices, checkpoints that resume to the same weights.

Everything random in step k depends on the recipe and k alone, so a run that was interrupted and resumed ends with the
weights of one that was not.
"""

from __future__ import annotations

import json
import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from stenosis_node.grading.stages import choose_device, use_bf16
from training.recipes import Recipe, Stage
from training.tasks import Task

log = logging.getLogger("stenosis_train")

CHECKPOINT_NAME = "checkpoint.pt"
LOSSES_NAME = "losses.jsonl"


class TrainingError(Exception):
    """Training cannot go on; the text says why and what to do."""


class Interrupted(Exception):
    """Ended by Ctrl-C or SIGTERM after writing a checkpoint to resume from."""


def train(task: Task, recipe: Recipe, out: Path, *, devices: int = 1, workers: int = 1, resume: bool = False) -> Path:
    """Train one stage into the folder ``out`` and return the checkpoint.

    resume  go on from the checkpoint in ``out``; without it a folder that holds one is refused
    raises  TrainingError (loss not finite, checkpoint of another recipe), Interrupted
    """
    checkpoint = out / CHECKPOINT_NAME
    if checkpoint.exists() and not resume:
        raise TrainingError(f"{out} already holds a run; pass --resume to go on with it, or choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    fabric = _fabric(devices)
    fabric.launch()
    torch.manual_seed(recipe.seed)
    module = task.network()
    adamw = torch.optim.AdamW(
        module.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    network, optimizer = fabric.setup(module, adamw)
    state: dict[str, Any] = {"network": network, "optimizer": optimizer, "step": 0, "recipe": recipe.as_plain()}
    if resume and checkpoint.exists():
        _restore(fabric, checkpoint, state, recipe)
    loader = fabric.setup_dataloaders(_loader(task, recipe, state["step"], workers), move_to_device=False)

    network.train()
    with _stop_asked() as stop, (out / LOSSES_NAME).open("a", encoding="utf-8") as losses:
        clock = time.monotonic()
        for batch in loader:
            step = state["step"]
            torch.manual_seed(recipe.seed + step)
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(step)
            loss = _step(fabric, network, optimizer, task, batch, recipe)
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"the loss became {loss.item()} at step {step}; lower the learning rate and go on with --resume "
                    f"from the last checkpoint in {out}"
                )
            state["step"] = step + 1
            if state["step"] % recipe.log_steps == 0 or state["step"] == recipe.steps:
                clock = _report(state["step"], recipe, float(loss), clock, losses)
            if state["step"] % recipe.checkpoint_steps == 0 or state["step"] == recipe.steps or stop:
                _save(fabric, checkpoint, state)
            if stop and state["step"] < recipe.steps:
                raise Interrupted(f"stopped at step {state['step']} of {recipe.steps}; go on with --resume")
    return checkpoint


def load_trained(network: nn.Module, checkpoint: Path, stage: Stage) -> int:
    """Fill a network from a run's checkpoint; returns the number of slices it has seen. Raises TrainingError."""
    stored = _read(checkpoint)
    recipe = stored["recipe"]
    if recipe["stage"] != stage:
        raise TrainingError(f"{checkpoint} is of stage {recipe['stage']}, not {stage}")
    network.load_state_dict(stored["network"])
    return int(stored["step"] * recipe["batch_size"])


def _step(fabric: Fabric, network: Any, optimizer: Any, task: Task, batch: Any, recipe: Recipe) -> Tensor:
    loss = task.loss(network, batch, fabric.device)
    if not torch.isfinite(loss):
        return loss
    optimizer.zero_grad()
    fabric.backward(loss)
    fabric.clip_gradients(network, optimizer, max_norm=recipe.clip_norm, error_if_nonfinite=False)
    optimizer.step()
    return loss.detach()


def _loader(task: Task, recipe: Recipe, step: int, workers: int) -> DataLoader[Any]:
    dataset = task.dataset(recipe.first_seed, recipe.steps * recipe.batch_size)
    rest = Subset(dataset, range(step * recipe.batch_size, recipe.steps * recipe.batch_size))
    return DataLoader(
        rest,
        batch_size=recipe.batch_size,
        num_workers=workers,
        collate_fn=task.collate,
        worker_init_fn=_ignore_interrupt,
        prefetch_factor=4 if workers else None,
    )


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


def _restore(fabric: Fabric, checkpoint: Path, state: dict[str, Any], recipe: Recipe) -> None:
    stored = _read(checkpoint)
    if stored["recipe"] != recipe.as_plain():
        raise TrainingError(f"{checkpoint} was made by another recipe; use the same options or another folder")
    fabric.load(checkpoint, state)
    log.info("resuming at step %d of %d", state["step"], recipe.steps)


def _read(checkpoint: Path) -> dict[str, Any]:
    try:
        stored: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise TrainingError(f"{checkpoint} does not exist; train this stage first") from None
    except Exception as error:
        raise TrainingError(f"{checkpoint} is no readable checkpoint ({error}); train again without it") from error
    return stored


def _save(fabric: Fabric, checkpoint: Path, state: dict[str, Any]) -> None:
    """Whole or not at all: a full disk or a kill leaves the checkpoint before."""
    partial = checkpoint.with_suffix(".partial")
    fabric.save(partial, state)
    if fabric.is_global_zero:
        partial.replace(checkpoint)


def _report(step: int, recipe: Recipe, loss: float, clock: float, losses: Any) -> float:
    now = time.monotonic()
    pace = (now - clock) / recipe.log_steps
    minutes = pace * (recipe.steps - step) / 60
    log.info(
        "%s step %d/%d loss %.4f, %.2f s a step, %.0f min left", recipe.stage, step, recipe.steps, loss, pace, minutes
    )
    losses.write(json.dumps({"step": step, "loss": round(loss, 5), "seconds_per_step": round(pace, 3)}) + "\n")
    losses.flush()
    return now


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
