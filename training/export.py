"""From a finished run to a bundle the node loads, with the figures measured on it in manifest and card.

Until weights exist, :func:`write_untrained_bundle` (``stenosis-train export --untrained --out DIR``) writes a bundle
that is valid in every respect but whose weights are random: for tests of everything around the networks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import torch

from stenosis_node.domain import BundleStatus
from stenosis_node.grading.bundle import Networks, build_classifier, build_locate, read_bundle, write_bundle
from stenosis_node.grading.manifest import (
    ClassifyStage,
    GradeStage,
    LocateInput,
    LocateStage,
    Manifest,
    Thresholds,
    TrainingData,
)
from training.labels.manifest import read_manifest
from training.labels.rows import SLICE, TRUTH, BoxSource
from training.learning.checkpoints import BEST_NAME
from training.learning.errors import TrainingError
from training.learning.fit import load_best
from training.learning.labels import CONSENSUS, readers_of
from training.learning.networks import stages_of
from training.measured import figures_of, reader_agreement, study_level
from training.model_card import model_card
from training.phantom import GENERATOR_VERSION
from training.recipes import RECIPES, SET_FOR_THIS_RUN, Recipe, Stage

PHANTOM_USE: Final = (
    "Demonstration of the software on synthetic images. Trained on phantoms alone: grades of real patients are "
    "invalid. Not for clinical use."
)
RESEARCH_USE: Final = "Research. Not a medical device; not for clinical use."
LICENSE: Final = "Apache-2.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """What people say of a bundle."""

    name: str
    version: str
    status: BundleStatus
    license: str = LICENSE


def draft(name: str, version: str, training_data: TrainingData, metrics: Mapping[str, Any]) -> Manifest:
    """A demonstration manifest without digests of files yet; :func:`write_bundle` fills them in."""
    stages = LocateStage(), ClassifyStage(), GradeStage()
    return Manifest(
        name=name,
        version=version,
        status=BundleStatus.DEMONSTRATION,
        intended_use=PHANTOM_USE,
        license=LICENSE,
        training_data=training_data,
        metrics=dict(metrics),
        files={stage.file: "0" * 64 for stage in stages},
    )


def untrained_networks(seed: int = 0) -> Networks:
    """Random weights, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Networks(
            build_locate(LocateStage()).eval(),
            build_classifier(ClassifyStage()).eval(),
            build_classifier(GradeStage()).eval(),
        )


def write_untrained_bundle(folder: Path, *, seed: int = 0, locate_spacing_mm: float | None = None) -> Manifest:
    """Write a valid demonstration bundle of random weights (28 MB on disk; findings mean nothing).

    Every threshold is 0, so that each slice gets a box wherever the detector proposes one, and a grade or cord.

    locate_spacing_mm  pixel spacing the detector looks at; a coarse one makes grading quick
    """
    locate = LocateInput() if locate_spacing_mm is None else LocateInput(spacing_mm=locate_spacing_mm)
    data = TrainingData(id="none", description="random weights, never trained", slices=0)
    manifest = draft("untrained", "0", data, {}).model_copy(
        update={
            "locate_input": locate,
            "thresholds": Thresholds(box_score=0.0, content_score=0.0, grade_score=0.0, patch_inside=0.0),
        }
    )
    return write_bundle(folder, untrained_networks(seed), manifest, card=model_card(manifest))


def export_run(
    run: Path,
    out: Path,
    naming: Naming,
    *,
    chain: str = "",
    held_out: Path | None = None,
    shifted: Path | None = None,
) -> Manifest:
    """Write a chain of a run that was trained on everybody (``--final``), with figures measured on this very bundle.

    Exported a first time without figures, predicted with, evaluated, and exported again: an evaluation is taken only
    when it was made with the same weights and rules.

    chain     its name; empty when the run has one
    held_out  evaluation of patients in no fold; ``shifted`` of patients unlike those in training
    raises    TrainingError
    """
    from training.protocol.decisions import DECISION_NAME, read_decision
    from training.protocol.runs import read_run, recipe_of

    stored = read_run(run)
    recipe = recipe_of(stored)
    folder = _final_chain(run, chain)
    networks = Networks(
        **cast(Any, {stage.value: load_best(recipe.stage(stage), folder / stage.value / BEST_NAME) for stage in Stage})
    )
    data, phantoms = _training_data(stored, recipe, folder.parent.name)
    if phantoms and naming.status is not BundleStatus.DEMONSTRATION:
        raise TrainingError(f"weights trained on phantoms are for demonstration; --status {naming.status} is not true")
    bare = _manifest(naming, recipe, data, PHANTOM_USE if phantoms else RESEARCH_USE)
    manifest = read_decision(folder / DECISION_NAME).onto(bare)
    manifest = write_bundle(out, networks, manifest, card=model_card(manifest))
    return _with_figures(networks, manifest, out, held_out, shifted)


def export_measured(bundle: Path, out: Path, *, held_out: Path | None = None, shifted: Path | None = None) -> Manifest:
    """A bundle once more, with the figures of evaluations of it. Raises BundleError, TrainingError."""
    manifest, networks = read_bundle(bundle)
    return _with_figures(networks, manifest, out, held_out, shifted)


def _with_figures(
    networks: Networks, manifest: Manifest, out: Path, held_out: Path | None, shifted: Path | None
) -> Manifest:
    metrics = figures_for(manifest, held_out, shifted)
    if not metrics:
        return manifest
    measured = Manifest.model_validate({**manifest.model_dump(), "metrics": metrics})
    return write_bundle(out, networks, measured, card=model_card(measured))


def figures_for(manifest: Manifest, held_out: Path | None, shifted: Path | None) -> dict[str, Any]:
    """``metrics`` of a manifest, from evaluations of its weights and rules. Raises TrainingError."""
    metrics: dict[str, Any] = {}
    if held_out is not None:
        figures = figures_of(held_out, manifest)
        if _learnt_from(figures, manifest):
            return {"learnt_from": figures} | figures_for(manifest, None, shifted)
        simulated = "simulated " if TRUTH in figures["data"]["readers"] else ""
        metrics["held_out"] = figures
        level = study_level(figures, f"{simulated}studies")
        readers = reader_agreement(held_out, manifest, f"{simulated}readers")
        if manifest.status is BundleStatus.DEMONSTRATION and not simulated:
            readers = None  # a report of demonstration weights does not speak of real readers
        metrics |= {"study_level": level} if level is not None else {}
        metrics |= {"readers": readers} if readers is not None else {}
    if shifted is not None:
        metrics["shifted"] = figures_of(shifted, manifest)
    return metrics


def _learnt_from(figures: Mapping[str, Any], manifest: Manifest) -> bool:
    """Whether an evaluation is of the very label manifest that networks or rules were fitted on."""
    known = re.findall(r"labels-([0-9a-f]{12})", f"{manifest.training_data.id} {manifest.training_data.description}")
    return str(figures["data"].get("labels_sha256", ""))[:12] in known


def _final_chain(run: Path, chain: str) -> Path:
    from training.protocol.runs import ALL_NAME

    there = {path.parent.name: path for path in sorted(run.glob(f"*/{ALL_NAME}"))}
    if not there:
        raise TrainingError(f"{run} has no chain that was trained on everybody; run it with --final")
    if chain and chain not in there:
        raise TrainingError(f"{run} has no chain {chain}; it has {', '.join(there)}")
    if not chain and len(there) > 1:
        raise TrainingError(f"{run} has {len(there)} chains; name one with --chain: {', '.join(there)}")
    return there[chain] if chain else next(iter(there.values()))


def _training_data(stored: Mapping[str, Any], recipe: Recipe, chain: str) -> tuple[TrainingData, bool]:
    """What the run learnt from, and whether all of it is phantoms. Raises TrainingError when the labels are gone."""
    from training.protocol.reduction import taking_part
    from training.protocol.runs import digest_of

    path = Path(stored["manifest"])
    if not path.is_file() or digest_of(path) != stored["manifest_sha256"]:
        raise TrainingError(f"the label manifest {path} that the run was begun with is gone or changed; put it back")
    rows = taking_part(read_manifest(path), recipe, int(stored["seed"]))
    readers = (stored["readers"] or list(readers_of(rows))) if chain == CONSENSUS else [chain]
    mine = rows[rows["reader"].isin(readers)]
    sources = set(mine["box_source"]) - {""}
    phantoms = sources == {BoxSource.PHANTOM.value}
    kind = (
        f"synthetic slices of phantom generator {GENERATOR_VERSION}, no real image" if phantoms else "labelled slices"
    )
    return (
        TrainingData(
            id=f"labels-{stored['manifest_sha256'][:12]}",
            description=f"{kind}; {mine['patient_key'].nunique()} patients, a fifth of them to validate; labels of "
            f"{len(readers)} {'simulated ' if phantoms else ''}readers; recipe {_named(recipe)}, seed {stored['seed']}"
            f"{_started(stored.get('start_from'))}",
            slices=len(mine.drop_duplicates(subset=list(SLICE))),
        ),
        phantoms,
    )


def _started(origin: Mapping[str, str] | None) -> str:
    if origin is None:
        return ""
    return (
        f"; training started from the networks of {origin['name']} {origin['version']} "
        f"(digest {origin['digest'][:12]}), which had learnt from {origin['learnt_from']}"
    )


def _named(recipe: Recipe) -> str:
    """A recipe with what was changed in it."""
    preset = RECIPES.get(recipe.name)
    reduced = f", reduced to a share of {recipe.scale:g}" if recipe.scale != 1 else ""
    changed = sorted(name for name, source in recipe.sources.items() if source == SET_FOR_THIS_RUN)
    values = ", ".join(f"{name}={_value(recipe, name)}" for name in changed)
    return f"{recipe.name if preset else 'of its own'}{reduced}{f' with {values}' if values else ''}"


def _value(recipe: Recipe, name: str) -> Any:
    value: Any = recipe
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _manifest(naming: Naming, recipe: Recipe, data: TrainingData, intended_use: str) -> Manifest:
    parts = stages_of(recipe)
    return Manifest(
        name=naming.name,
        version=naming.version,
        status=naming.status,
        intended_use=intended_use,
        license=naming.license,
        training_data=data,
        files={part.file: "0" * 64 for part in parts.values()},
        **parts,
    )
