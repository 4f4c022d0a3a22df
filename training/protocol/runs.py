"""The folder of a run: what was asked for, held to; one runner at a time; files whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import pandas as pd

from stenosis_node.grading.manifest import LocateInput, PatchInput
from stenosis_node.grading.manifest import read_manifest as read_bundle_manifest
from training.evaluation.predictions import write_predictions
from training.learning.errors import TrainingError
from training.learning.networks import Start, stage_of
from training.recipes import Augmentation, Recipe, Stage, StageRecipe

RUN_NAME: Final = "run.json"
PREDICTIONS_NAME: Final = "predictions.parquet"
VALIDATION_NAME: Final = "validation.parquet"
FOLDS_NAME: Final = "folds.csv"
ALL_NAME: Final = "all"
"""Of the folder of a chain trained on everybody."""
_LOCK_NAME: Final = ".lock"
_LIBRARIES: Final = ("torch", "torchvision", "lightning-fabric", "scikit-learn", "numpy", "pydicom", "stenosis-node")
_MACHINE: Final = ("versions", "finished")
"""Keys of run.json that may differ when a run goes on."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a run is asked to do; with the labels it decides every weight."""

    recipe: Recipe
    data: Path
    out: Path
    readers: tuple[str, ...]
    """Empty: all of the manifest."""
    seed: int
    folds_to_run: int
    """0: one chain on all patients, without test folds (``--final``)."""
    weights_backbone: Path | None = None
    start_from: Path | None = None
    """A bundle whose networks training begins with."""

    def start(self, stage: Stage) -> Start:
        """What a stage begins with."""
        if self.start_from is None:
            return Start(backbone=self.weights_backbone if stage is Stage.LOCATE else None)
        parts = read_bundle_manifest(self.start_from)
        return Start(whole=self.start_from / getattr(parts, stage.value).file)

    def as_plain(self, digest: str) -> dict[str, Any]:
        """As run.json holds it. ``digest``: sha256 of the label manifest."""
        return {
            "recipe": self.recipe.as_plain(),
            "seed": self.seed,
            "readers": list(self.readers),
            "folds_to_run": self.folds_to_run,
            "weights_backbone": None if self.weights_backbone is None else digest_of(self.weights_backbone),
            "start_from": None if self.start_from is None else _origin(self.start_from),
            "manifest": str(self.data.absolute()),
            "manifest_sha256": digest,
            "versions": {"python": platform.python_version()} | {name: version(name) for name in _LIBRARIES},
        }


def _origin(bundle: Path) -> dict[str, str]:
    """A bundle as run.json and the card of what is made of it name it."""
    manifest = read_bundle_manifest(bundle)
    data = manifest.training_data
    return {
        "name": manifest.name,
        "version": manifest.version,
        "digest": manifest.digest(),
        "learnt_from": f"{data.id}: {data.description}",
    }


def check_start(request: Request, digest: str) -> None:
    """Whether the bundle that training starts from fits the run. ``digest``: sha256 of the label manifest.

    raises  TrainingError when its networks are of another make than the recipe's, look at other patches, or have learnt
            from what folds would test them on
    """
    if request.start_from is None:
        return
    manifest = read_bundle_manifest(request.start_from)
    if (manifest.locate_input, manifest.patch_input) != (LocateInput(), PatchInput()):
        raise TrainingError(
            f"the networks of {request.start_from} look at images of another spacing, size or window than training "
            "prepares; start from another bundle"
        )
    for stage in Stage:
        there, wanted = getattr(manifest, stage.value), stage_of(request.recipe.stage(stage))
        differing = [
            f"{name} {getattr(there, name)}, not {getattr(wanted, name)}"
            for name in type(wanted).model_fields
            if name not in ("file", "mirrored") and getattr(there, name) != getattr(wanted, name)
        ]
        if differing:
            raise TrainingError(
                f"the {stage} network of {request.start_from} is of another make ({'; '.join(differing)}); "
                f"--set {stage}.NAME=VALUE makes the recipe's the same where it has such a value"
            )
    if request.folds_to_run and f"labels-{digest[:12]}" in _origin(request.start_from)["learnt_from"]:
        raise TrainingError(
            f"{request.start_from} has learnt from these very labels, so no fold of them would be a test; start from "
            "another bundle, or train on everybody (--final)"
        )


@contextmanager
def sole_runner(out: Path) -> Iterator[None]:
    """Hold the folder. Raises TrainingError when another runner has it, or the folder cannot be made."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = os.open(out / _LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise TrainingError(f"{out} cannot be written: {error.strerror}; name another --out") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 20, 0).decode(errors="replace").strip()
        os.close(lock)
        raise TrainingError(f"another runner (process {holder or 'unknown'}) works on {out}; wait for it") from None
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(lock)


def begin(request: Request, digest: str) -> None:
    """Write run.json, or hold the request against the one that is there.

    raises  TrainingError naming what differs
    """
    plain = request.as_plain(digest)
    path = request.out / RUN_NAME
    stored = read_run(request.out) if path.exists() else None
    if stored is None:
        _write(path, plain)
        return
    if stored["manifest_sha256"] != digest:
        raise TrainingError(
            f"{request.data} is not the manifest {request.out} was begun with (sha256 {digest[:12]}, not "
            f"{stored['manifest_sha256'][:12]}); put the old one back, or give a new --out"
        )
    differing = sorted(_differences(_held(stored), _held(plain)))
    if differing:
        raise TrainingError(
            f"{request.out} was begun with other settings: {'; '.join(differing[:8])}; repeat the first command, or "
            "give a new --out"
        )


def finish(out: Path, figures: Mapping[str, Any]) -> None:
    """Note in run.json that every unit is done."""
    _write(out / RUN_NAME, read_run(out) | {"finished": dict(figures)})


def read_run(out: Path) -> dict[str, Any]:
    """run.json. Raises TrainingError."""
    try:
        stored: dict[str, Any] = json.loads((out / RUN_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TrainingError(f"{out} is no run: it has no {RUN_NAME}") from None
    except (OSError, ValueError) as error:
        raise TrainingError(f"{out / RUN_NAME} cannot be read; give a new --out") from error
    return stored


def recipe_of(stored: Mapping[str, Any]) -> Recipe:
    """The recipe in run.json. Raises TrainingError when it is of another version of this software."""
    plain = dict(stored["recipe"])
    try:
        for stage in Stage:
            part = dict(plain[stage.value])
            part |= {"stage": stage, "blocks": tuple(part["blocks"])}
            plain[stage.value] = StageRecipe(**part | {"augmentation": Augmentation(**part["augmentation"])})
        return Recipe(**plain)
    except (KeyError, TypeError) as error:
        raise TrainingError(f"the recipe of the run is of another version of this software: {error}") from error


def digest_of(path: Path) -> str:
    """sha256 of a file. Raises TrainingError."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise TrainingError(f"{path} cannot be read: {error.strerror}") from error


def unchanged(request: Request, digest: str) -> None:
    """Raises TrainingError when the label manifest was changed since the run began."""
    if digest_of(request.data) != digest:
        raise TrainingError(
            f"{request.data} was changed while the run in {request.out} worked; put the old one back and repeat the "
            "command: it goes on where it stopped"
        )


def store_predictions(table: pd.DataFrame, path: Path) -> None:
    """Beside its name, then renamed. Raises TrainingError when the disk is full."""
    partial = path.with_name(f".partial-{path.name}")
    try:
        write_predictions(table, partial)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise TrainingError(f"{path} cannot be written ({error}); free space and repeat the command") from error


def store_text(path: Path, text: str) -> None:
    """A small file, whole or not at all. Raises TrainingError when the disk is full."""
    partial = path.with_name(f".partial-{path.name}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise TrainingError(f"{path} cannot be written ({error}); free space and repeat the command") from error


def _write(path: Path, plain: Mapping[str, Any]) -> None:
    store_text(path, json.dumps(plain, indent=1, ensure_ascii=False) + "\n")


def _held(plain: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in plain.items() if key not in (*_MACHINE, "manifest", "manifest_sha256")}


def _differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in sorted({*before, *now} - {"sources"}):
            yield from _differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif before != now:
        yield f"{name} was {before}, is {now}"
