"""One command runs chains x folds x stages, and goes on where it stopped.

    RUN/run.json, folds.csv                  what was asked for; who tests what
    RUN/<chain>/fold-<k>/<stage>/            a folder of ``training.learning.fit``
    RUN/<chain>/fold-<k>/validation.parquet  what the chain says of its validation slices: calibration is fitted on it
    RUN/<chain>/fold-<k>/decision.json       temperatures, operating point and thresholds fitted there
    RUN/<chain>/fold-<k>/predictions.parquet of the slices the fold held out
    RUN/<chain>/all/                         the same of a chain trained on everybody (``--final``), without test
    RUN/predictions.parquet                  all of them

Whatever is whole is not done again; a stage goes on from its last whole epoch.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader

from training.calibration.decision import apply_decision
from training.evaluation.predictions import read_predictions
from training.labels.manifest import read_manifest
from training.learning.errors import TrainingError
from training.learning.fit import Machine, fit, load_best
from training.learning.items import Draw, Items
from training.learning.labels import CONSENSUS, GRADES, LabelledSlice, labelled, readers_of
from training.learning.networks import collate
from training.learning.sampling import class_of, usable
from training.learning.series import Key
from training.learning.splitting import set_aside
from training.learning.store import SliceStore, open_store
from training.phantom.seeds import reserved_patients
from training.protocol import runs
from training.protocol.decisions import DECISION_NAME, decide, needs_validation, read_decision
from training.protocol.folds import Fold, as_table, need_classes, split
from training.protocol.predict import Chain, Wanted, predict
from training.protocol.ranks import leads
from training.protocol.reduction import taking_part
from training.protocol.runs import Request
from training.protocol.transfer import write_transfer
from training.recipes import Recipe, Stage, StageRecipe

log = logging.getLogger("stenosis_train")

FINAL_SHARE: Final = 0.2
"""Of the patients, kept for validation when a chain is trained on everybody; two of the paper's ten folds.

An operating point needs 72 patients with grade C or D among them at least (``training.calibration.operating``)."""
_ROOTLETS_NAME: Final = "called-rootlet.json"
_NO_TEST: Final = -1


@dataclass(frozen=True, slots=True)
class Material:
    """Everything the units of a run share."""

    rows: pd.DataFrame
    """Of the label manifest, of the patients that take part."""
    store: SliceStore
    readers: tuple[str, ...]
    pooled: list[LabelledSlice]
    """Of all readers together: what folds are drawn from."""
    chains: dict[str, list[LabelledSlice]]
    folds: list[Fold]


def run(request: Request, machine: Machine, cache: Path) -> Path:
    """Do what is left of a run; returns the file of all predictions, or the folder of the chains with ``--final``.

    raises  TrainingError, LabelError, Interrupted
    """
    digest = runs.digest_of(request.data)
    runs.check_start(request, digest)
    with runs.sole_runner(request.out) if leads() else nullcontext():
        if leads():
            runs.begin(request, digest)
        material = gather(request, cache, machine.workers)
        if leads():
            runs.store_text(
                request.out / runs.FOLDS_NAME, as_table(material.folds, material.pooled).to_csv(index=False)
            )
        units = [(chain, fold) for chain in material.chains for fold in material.folds]
        for done, (chain, fold) in enumerate(units):
            runs.unchanged(request, digest)
            folder = request.out / chain / _folder_name(fold)
            log.info("%s %s: unit %d of %d", chain, _folder_name(fold), done + 1, len(units))
            _Unit(request, material, chain, fold, folder, machine).finish()
        if not leads() or not request.folds_to_run:
            return request.out
        return _conclude(request, units)


def gather(request: Request, cache: Path, workers: int) -> Material:
    """Labels, images and folds, checked as a whole before anything is trained. Raises TrainingError, LabelError."""
    recipe = request.recipe
    whole = read_manifest(request.data)
    rows = taking_part(whole, recipe, request.seed)
    if len(rows) < len(whole):
        log.info("reduced run: %d of %d patients", rows["split_group"].nunique(), whole["split_group"].nunique())
    need_free_seeds(rows, request.data)
    readers = request.readers or readers_of(rows)
    store = open_store(rows, request.data, cache, workers=workers)
    pooled = labelled(rows, store, CONSENSUS, readers)
    names = readers if recipe.chains == "per-reader" else (CONSENSUS,)
    chains = {name: labelled(rows, store, name, readers) for name in names}
    if request.folds_to_run:
        folds = split(pooled, recipe.folds, by_patient=recipe.group_by_patient, seed=request.seed)
        folds = folds[: request.folds_to_run]
    else:
        train, validation = set_aside(pooled, FINAL_SHARE, request.seed)
        folds = [Fold(_NO_TEST, _keys(train), _keys(validation), frozenset())]
    for name, slices in chains.items():
        _need_level(slices, recipe.train_level, name)
        need_classes(folds, slices, name, recipe.train_level)
    return Material(rows, store, readers, pooled, chains, folds)


def need_free_seeds(rows: pd.DataFrame, data: Path) -> None:
    """Raises TrainingError when a patient is of the phantoms that are kept for tests."""
    reserved = reserved_patients(rows["patient_key"].unique())
    if reserved:
        raise TrainingError(
            f"{data} has {len(reserved)} phantom patients of seeds that are kept for tests ({reserved[0]}, ..); draw "
            "others (training/phantom/seeds.py lists the seeds)"
        )


def called_rootlet(
    network: torch.nn.Module, recipe: StageRecipe, store: SliceStore, of: list[LabelledSlice]
) -> set[Key]:
    """Of slices with a box those whose patch a rootlet/cord network calls rootlet."""
    any_label = np.array([1.0, 0.0])  # an item carries one; it is not looked at
    shown = [replace(one, regions=any_label) for one in of if one.box is not None]
    batches = DataLoader(Items(store, recipe, [Draw(one, None) for one in shown]), batch_size=64, collate_fn=collate)
    called: list[bool] = []
    with torch.inference_mode():
        for patches, _ in batches:
            called += (network(patches).float().argmax(1) == 0).tolist()
    return {one.key for one, rootlet in zip(shown, called, strict=True) if rootlet}


@dataclass(frozen=True, slots=True)
class _Unit:
    """One chain on one fold."""

    request: Request
    material: Material
    chain: str
    fold: Fold
    folder: Path
    machine: Machine

    def finish(self) -> None:
        """Train what is not trained, predict what is not predicted."""
        best: dict[Stage, Path] = {}
        for stage in Stage:
            train, validation = self._slices(stage, best)
            best[stage] = fit(
                self._recipe.stage(stage),
                self.material.store,
                train,
                validation,
                self.folder / stage.value,
                seed=self.request.seed + self.fold.index + 1,
                machine=self.machine,
                start=self.request.start(stage),
            ).best
        if not leads():
            return
        reader = "" if self.chain == CONSENSUS else self.chain
        chain = Chain.of_checkpoints(f"chain-{self.chain}", reader, self._recipe, best)
        if not (self.folder / DECISION_NAME).exists():
            needed = self.fold.validation if needs_validation(self._recipe) else frozenset()
            held = self._predicted(chain, needed, runs.VALIDATION_NAME) if needed else None
            readers = self.material.readers if self.chain == CONSENSUS else (self.chain,)
            decision = decide(self._recipe, held, self.material.rows, readers)
            runs.store_text(self.folder / DECISION_NAME, json.dumps(decision.as_plain(), indent=1) + "\n")
        if self.fold.test:
            self._predicted(chain, self.fold.test, runs.PREDICTIONS_NAME)

    @property
    def _recipe(self) -> Recipe:
        return self.request.recipe

    def _slices(self, stage: Stage, best: dict[Stage, Path]) -> tuple[list[LabelledSlice], list[LabelledSlice]]:
        """(training, validation) of a stage."""
        mine = self.material.chains[self.chain]
        if stage is Stage.GRADE:
            mine = [one for one in usable(mine, stage) if _at(one, self._recipe.train_level)]
            if self._recipe.grade_on == "predicted":
                called = self._called_rootlet(best[Stage.CLASSIFY], mine)
                mine = [one for one in mine if one.key in called]
        parts = ([one for one in mine if one.key in keys] for keys in (self.fold.train, self.fold.validation))
        train, validation = parts
        if stage is Stage.GRADE and self._recipe.grade_on == "predicted":
            self._need_grades(train, "training")
            self._need_grades(validation, "validation")
        return train, validation

    def _need_grades(self, slices: list[LabelledSlice], part: str) -> None:
        """Folds have every class; what stage 2 leaves of them may not."""
        seen = {class_of(one, Stage.GRADE) for one in slices}
        missing = [str(grade) for index, grade in enumerate(GRADES) if index not in seen]
        if missing:
            raise TrainingError(
                f"chain {self.chain}, {_folder_name(self.fold)}: of the graded slices of the {part} part stage 2 calls "
                f"{len(slices)} rootlet, and none of grade {', '.join(missing)}; train it longer (--set "
                "classify.epochs=), label more, or set grade_on=labelled, in a new --out"
            )

    def _called_rootlet(self, classify: Path, graded: list[LabelledSlice]) -> set[Key]:
        """Kept on disk, so that a run that goes on elsewhere trains on the same slices."""
        path = self.folder / _ROOTLETS_NAME
        if path.exists():
            return {(study, series, sop, frame) for study, series, sop, frame in json.loads(path.read_text("utf-8"))}
        recipe = self._recipe.classify
        here = [one for one in graded if one.key in self.fold.train or one.key in self.fold.validation]
        called = called_rootlet(load_best(recipe, classify), recipe, self.material.store, here)
        if leads():
            runs.store_text(path, json.dumps(sorted(called)))
        return called

    def _predicted(self, chain: Chain, keys: frozenset[Key], name: str) -> pd.DataFrame:
        path = self.folder / name
        if not path.exists():
            boxes = {one.key: one.box for one in self.material.chains[self.chain] if one.box is not None}
            wanted = Wanted(self.material.rows, self.request.data, keys, boxes)
            table = predict(chain, wanted, fold=_folder_name(self.fold))
            if name == runs.PREDICTIONS_NAME:
                table = apply_decision(table, read_decision(self.folder / DECISION_NAME), self.material.rows)
            runs.store_predictions(table, path)
        return read_predictions(path)


def _conclude(request: Request, units: Sequence[tuple[str, Fold]]) -> Path:
    """Put the predictions of all units together."""
    parts = [
        read_predictions(request.out / chain / _folder_name(fold) / runs.PREDICTIONS_NAME) for chain, fold in units
    ]
    whole = pd.concat(parts, ignore_index=True)
    path = request.out / runs.PREDICTIONS_NAME
    runs.store_predictions(whole, path)
    if request.recipe.train_level:
        write_transfer(request.data, path, request.recipe.train_level, request.out)
    counts = whole.groupby("model").size()
    runs.finish(request.out, {"slices": {str(name): int(n) for name, n in counts.items()}, "units": len(units)})
    return path


def _need_level(slices: Sequence[LabelledSlice], level: str, chain: str) -> None:
    levels = sorted({one.level for one in slices if one.grade is not None})
    if level and level not in levels:
        raise TrainingError(
            f"chain {chain}: no slice of {level} has a grade; levels with grades: "
            f"{', '.join(filter(None, levels)) or 'none'}; choose one with --set train_level="
        )


def _at(one: LabelledSlice, level: str) -> bool:
    return not level or one.level == level


def _keys(slices: Sequence[LabelledSlice]) -> frozenset[Key]:
    return frozenset(one.key for one in slices)


def _folder_name(fold: Fold) -> str:
    return runs.ALL_NAME if fold.index == _NO_TEST else fold.name
