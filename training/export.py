"""From trained runs to a bundle the node loads, with the figures measured on held-out slices in manifest and card.

Until weights exist, :func:`write_untrained_bundle` (``stenosis-train export --untrained --out DIR``) writes a bundle
that is valid in every respect but whose weights are random: for tests of everything around the networks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

from stenosis_node.domain import BundleStatus
from stenosis_node.grading.bundle import Networks, build_classifier, build_locate, write_bundle
from stenosis_node.grading.manifest import ClassifyStage, GradeStage, LocateStage, Manifest, Thresholds, TrainingData
from training.recipes import Stage
from training.train import TrainingError

INTENDED_USE: Final = (
    "Demonstration of the software on synthetic images. Trained on phantoms alone: grades of real patients are "
    "invalid. Not for clinical use."
)
LICENSE: Final = "Apache-2.0"


def draft(name: str, version: str, training_data: TrainingData, metrics: Mapping[str, Any]) -> Manifest:
    """A manifest without digests of files yet; :func:`write_bundle` fills them in."""
    stages = LocateStage(), ClassifyStage(), GradeStage()
    return Manifest(
        name=name,
        version=version,
        status=BundleStatus.DEMONSTRATION,
        intended_use=INTENDED_USE,
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


def write_untrained_bundle(folder: Path, *, seed: int = 0) -> Manifest:
    """Write a valid demonstration bundle of random weights (28 MB on disk; findings mean nothing).

    Every threshold is 0, so that each slice gets a box wherever the detector proposes one, and a grade or cord.
    """
    data = TrainingData(id="none", description="random weights, never trained", slices=0)
    manifest = draft("untrained", "0", data, {}).model_copy(
        update={"thresholds": Thresholds(box_score=0.0, content_score=0.0, grade_score=0.0, patch_inside=0.0)}
    )
    return write_bundle(folder, untrained_networks(seed), manifest, card=model_card(manifest))


def write_trained_bundle(
    folder: Path, runs: Mapping[Stage, Path], metrics: Path, *, name: str, version: str
) -> Manifest:
    """Write the bundle of three runs with the figures ``stenosis-train evaluate`` measured on these very runs.

    raises  TrainingError when the figures are of other checkpoints
    """
    from training.measure import checkpoint_digests, load_runs  # measure drafts manifests with this module

    measured = json.loads(metrics.read_text(encoding="utf-8"))
    networks, data = load_runs(runs)
    if measured["checkpoints"] != checkpoint_digests(runs):
        raise TrainingError(f"{metrics} was measured on other checkpoints; run stenosis-train evaluate on these runs")
    manifest = draft(name, version, data, measured["figures"])
    return write_bundle(folder, networks, manifest, card=model_card(manifest))


def model_card(manifest: Manifest) -> str:
    """Markdown for people, from the manifest alone."""
    lines = [
        f"# Model card: {manifest.name} {manifest.version}",
        "",
        f"Status: **{manifest.status}**. {manifest.intended_use}",
        "",
        f"Licence {manifest.license}. Trained on {manifest.training_data.slices} slices "
        f"({manifest.training_data.id}): {manifest.training_data.description}.",
        "",
        "| stage | network | sees |",
        "|---|---|---|",
        f"| locate the canal | Faster R-CNN, ResNet-50, pyramid of {manifest.locate.pyramid_channels} channels "
        f"| the whole slice at {manifest.locate_input.spacing_mm} mm |",
        f"| rootlet or cord | VGG, 10 convolutions | {manifest.patch_input.width_mm:g} mm around the canal at "
        f"{manifest.patch_input.spacing_mm} mm |",
        "| Schizas grade A to D | VGG, 10 convolutions | the same patch |",
        "",
        "Weights are stored as int8 with one scale per output channel and computed in floating point.",
        "",
        "## Measured",
        "",
    ]
    if not manifest.metrics:
        return "\n".join([*lines, "Nothing: this bundle was never evaluated.", ""])
    lines += [
        "Grades of real slices: **not measured**. The figures below are on held-out slices of the generator that drew",
        "the training slices; they prove that the machinery works and say nothing about patients. End to end, a slice",
        "that is missed or abstained on counts as an error.",
        "",
    ]
    for name, value in manifest.metrics.items():
        lines += _section(name, value)
    return "\n".join([*lines, ""])


def _section(name: str, value: Any) -> list[str]:
    if not isinstance(value, Mapping):
        return [f"{name.replace('_', ' ')}: {value}", ""]
    rows = [f"| {key.replace('_', ' ')} | {_cell(item)} |" for key, item in value.items()]
    return [f"### {name.replace('_', ' ')}", "", "| figure | value |", "|---|---|", *rows, ""]


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_cell(item)}" for key, item in value.items())
    if isinstance(value, list):
        return " to ".join(_cell(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
