"""``--plan``: how long a run takes on this machine and what disk it needs, from a few measured steps of each stage."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch
from torch.utils.data import DataLoader

from stenosis_node.grading.stages import choose_device
from training.evaluation.document import Section, Table, markdown
from training.learning.fit import Machine, fit
from training.learning.items import Draw, Items
from training.learning.labels import LabelledSlice
from training.learning.networks import build, collate, score_of
from training.learning.sampling import usable
from training.protocol import runs
from training.protocol.folds import Fold
from training.protocol.runner import Material, gather
from training.protocol.runs import Request
from training.recipes import Stage, StageRecipe

_STEPS: Final = 3
_LOOKED_AT: Final = 16
_COPIES: Final = 7
"""Of the weights per stage: two checkpoints with Adam's two moments, and the best."""
_MB: Final = 1e6


@dataclass(frozen=True, slots=True)
class StagePlan:
    """Of one stage, over all chains and folds."""

    stage: Stage
    units: int
    epochs: int
    training_slices: int
    """In an epoch, mean of the units."""
    validation_slices: int
    s_per_training_slice: float
    s_per_validation_slice: float
    checkpoint_bytes: int

    @property
    def hours(self) -> float:
        """Without what is already done."""
        epoch = self.training_slices * self.s_per_training_slice + self.validation_slices * self.s_per_validation_slice
        return self.units * self.epochs * epoch / 3600

    @property
    def disk_bytes(self) -> int:
        """Of all checkpoints."""
        return self.units * self.checkpoint_bytes


@dataclass(frozen=True, slots=True)
class Plan:
    """Of a whole run. Labels and folds were checked, images decoded into the cache."""

    stages: tuple[StagePlan, ...]
    predicted_slices: int
    cache_bytes: int
    free_bytes: int

    @property
    def hours(self) -> float:
        """Training, and predicting validation and test slices."""
        predicting = sum(one.s_per_validation_slice for one in self.stages) * self.predicted_slices / 3600
        return sum(one.hours for one in self.stages) + predicting

    @property
    def disk_bytes(self) -> int:
        """Still to be written; the cache is there already."""
        return sum(one.disk_bytes for one in self.stages)

    def as_text(self) -> str:
        """For people."""
        rows = [
            [
                one.stage.value,
                str(one.units),
                str(one.epochs),
                str(one.training_slices),
                f"{1000 * one.s_per_training_slice:.1f}",
                f"{one.hours:.2f}",
                f"{one.disk_bytes / _MB:.0f}",
            ]
            for one in self.stages
        ]
        rows.append(["all", "", "", "", "", f"{self.hours:.2f}", f"{self.disk_bytes / _MB:.0f}"])
        table = Table(
            title="Hours and disk",
            header=("stage", "networks", "epochs", "slices an epoch", "ms a slice", "hours", "MB"),
            rows=rows,
            note=f"Measured on {_STEPS} steps of each stage on this machine. All includes predicting "
            f"{self.predicted_slices} slices. The prepared images take {self.cache_bytes / _MB:.0f} MB already; "
            f"{self.free_bytes / _MB:.0f} MB are free.",
        )
        text = markdown("Plan", "", [Section(title="Nothing is trained yet", tables=(table,))])
        if self.disk_bytes > self.free_bytes:
            text += "\nThe disk is too small: free space or name another --out.\n"
        return text


def make_plan(request: Request, machine: Machine, cache: Path) -> Plan:
    """Check labels and folds, prepare the images, and time a few steps. Raises TrainingError, LabelError."""
    runs.check_start(request, runs.digest_of(request.data))
    material = gather(request, cache, machine.workers)
    stages = tuple(_plan_stage(request, material, stage, machine) for stage in Stage)
    existing = next(folder for folder in (request.out, *request.out.absolute().parents) if folder.exists())
    folder = material.store.folder
    return Plan(
        stages,
        sum(len(fold.validation) + len(fold.test) for fold in material.folds) * len(material.chains),
        sum(file.stat().st_size for file in folder.iterdir()),
        shutil.disk_usage(existing).free,
    )


def _plan_stage(request: Request, material: Material, stage: Stage, machine: Machine) -> StagePlan:
    recipe = request.recipe.stage(stage)
    sizes = [_sizes(recipe, slices, fold) for slices in material.chains.values() for fold in material.folds]
    sample = usable(next(iter(material.chains.values())), stage)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in build(recipe).state_dict().values())
    return StagePlan(
        stage,
        units=len(sizes),
        epochs=recipe.epochs,
        training_slices=round(sum(size for size, _ in sizes) / len(sizes)),
        validation_slices=round(sum(size for _, size in sizes) / len(sizes)),
        s_per_training_slice=_time_training(recipe, material, sample, machine),
        s_per_validation_slice=_time_validation(recipe, material, sample),
        checkpoint_bytes=_COPIES * weights,
    )


def _sizes(recipe: StageRecipe, slices: list[LabelledSlice], fold: Fold) -> tuple[int, int]:
    """Slices of an epoch, in training and in validation."""
    mine = usable(slices, recipe.stage)
    train = sum(one.key in fold.train for one in mine)
    held = sum(one.key in fold.validation for one in mine)
    return recipe.slices_per_epoch or train, min(held, recipe.validation_slices or held)


def _time_training(recipe: StageRecipe, material: Material, sample: list[LabelledSlice], machine: Machine) -> float:
    few = replace(recipe, epochs=1, slices_per_epoch=_STEPS * recipe.batch_size, validation_slices=1, balance="none")
    with tempfile.TemporaryDirectory() as folder:
        fitted = fit(few, material.store, sample, sample, Path(folder), seed=0, machine=replace(machine, workers=0))
    return 1 / fitted.slices_per_s


def _time_validation(recipe: StageRecipe, material: Material, sample: list[LabelledSlice]) -> float:
    device = choose_device("auto")
    network = build(recipe).eval().to(device)
    shown = [Draw(one, None) for one in sample[:_LOOKED_AT]]
    batches = DataLoader(Items(material.store, recipe, shown), batch_size=_LOOKED_AT // 2, collate_fn=collate)
    begun = time.monotonic()
    with torch.inference_mode():
        score_of(network, batches, recipe, device)
    return (time.monotonic() - begun) / len(shown)
