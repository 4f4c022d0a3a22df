"""Checkpoints on disk: whole or not at all, read without running code."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from lightning_fabric import Fabric

from training.learning.errors import TrainingError

log = logging.getLogger("stenosis_train")

LAST_NAME: Final = "last.pt"
BEFORE_NAME: Final = "before.pt"
"""The checkpoint of the epoch before: what a broken last one is replaced by."""
BEST_NAME: Final = "best.pt"


def save(fabric: Fabric, path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint beside its name and rename it.

    raises  TrainingError when the disk is full; the checkpoint that was there stays
    """
    partial = path.with_suffix(".partial")
    try:
        fabric.save(partial, dict(state))
        if fabric.is_global_zero:
            partial.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError of its writer
        if fabric.is_global_zero:
            partial.unlink(missing_ok=True)
        raise TrainingError(
            f"{path} cannot be written ({error}); free space and run the same command again: it goes on from the "
            "checkpoint before"
        ) from error


def read(path: Path) -> dict[str, Any]:
    """A checkpoint on the CPU. Raises TrainingError when it is missing or unreadable."""
    try:
        stored: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise TrainingError(f"{path} does not exist; train this stage first") from None
    except Exception as error:  # a broken file fails in many ways inside torch
        raise TrainingError(f"{path} is no readable checkpoint ({type(error).__name__})") from error
    return stored


def read_newest(folder: Path) -> dict[str, Any] | None:
    """The last checkpoint of a run, the one before when the last is broken, None when there is none.

    raises  TrainingError when there are checkpoints and none can be read
    """
    broken: TrainingError | None = None
    for name in (LAST_NAME, BEFORE_NAME):
        if not (folder / name).exists():
            continue
        try:
            stored = read(folder / name)
        except TrainingError as error:
            log.warning("%s", error)
            broken = error
            continue
        if broken is not None:
            log.warning("going on from %s, an epoch earlier", folder / name)
        return stored
    if broken is not None:
        raise TrainingError(f"{broken}; remove {folder} to train this stage from the start") from broken
    return None
