"""The model card: Markdown for people, from a bundle's manifest alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from stenosis_node.domain import BundleStatus
from stenosis_node.grading.manifest import ClassifyStage, GradeStage, Manifest

_TITLES: Final = {
    "held_out": "Held out: patients in no fold",
    "learnt_from": "On the labels it was made from: no test, and nothing about other patients",
    "shifted": "Shifted: contrast, field of view and vendors unlike those in training",
    "study_level": "The grade of an examination",
    "readers": "Agreement with readers",
}


def model_card(manifest: Manifest) -> str:
    """The card of a bundle."""
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
        f"{manifest.patch_input.spacing_mm} mm{_more(manifest.classify)} |",
        f"| Schizas grade A to D | VGG, 10 convolutions | the same{_more(manifest.grade)} |",
        "",
        "Weights are stored as int8 with one scale per output channel and computed in floating point.",
        "",
        *_rules(manifest),
        "## Measured",
        "",
    ]
    if not manifest.metrics:
        return "\n".join([*lines, "Nothing: this bundle was never evaluated.", ""])
    if manifest.status is BundleStatus.DEMONSTRATION:
        lines += [
            "Grades of real slices: **not measured**. The figures below are on held-out patients of the generator that",
            "drew the training patients; they prove that the machinery works and say nothing about patients.",
        ]
    lines += [
        "All are of the weights as stored and the rules above. End to end, a slice that is missed or abstained on",
        "counts as an error. Brackets are 95 % intervals of resampled patients.",
        "",
    ]
    for name, value in manifest.metrics.items():
        lines += _section(_TITLES.get(name, name.replace("_", " ")), value)
    return "\n".join([*lines, ""])


def _more(stage: ClassifyStage | GradeStage) -> str:
    around = ", with the slices above and below" if stage.context_slices else ""
    return f"{around}, and its mirror image" if stage.mirrored else around


def _rules(manifest: Manifest) -> list[str]:
    decision, calibration, below = manifest.decision, manifest.calibration, manifest.thresholds
    threshold, offsets = decision.severe_threshold, calibration.grade_offsets
    severe = "when it is the likeliest grade" if threshold is None else f"from a score of {threshold:.3g}"
    return [
        "| from scores to calls | |",
        "|---|---|",
        f"| temperatures | rootlet or cord {calibration.classify_temperature:.3g}, grade "
        f"{calibration.grade_temperature:.3g} |",
        *([f"| offsets of A to D | {', '.join(f'{one:+.2f}' for one in offsets)} |"] if any(offsets) else []),
        f"| one change from cord to rootlets along the stack | {'yes' if decision.monotone_switch else 'no'} |",
        f"| C or D is called | {severe} |",
        f"| not graded below a score of | box {below.box_score:.3g}, rootlet or cord {below.content_score:.3g}, grade "
        f"{below.grade_score:.3g} |",
        "",
    ]


def _section(title: str, value: Any) -> list[str]:
    if not isinstance(value, Mapping):
        return [f"{title}: {value}", ""]
    lines = [f"### {title}", "", "| figure | value |", "|---|---|"]
    for key, item in value.items():
        if isinstance(item, Mapping) and any(isinstance(inner, Mapping) for inner in item.values()):
            lines += [f"| {_words(key)}: {_words(name)} | {_cell(inner)} |" for name, inner in item.items()]
        else:
            lines.append(f"| {_words(key)} | {_cell(item)} |")
    return [*lines, ""]


def _words(name: str) -> str:
    return str(name).replace("_", " ")


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        if set(value) == {"value", "from", "to"}:
            return f"{_cell(value['value'])} ({_cell(value['from'])} to {_cell(value['to'])})"
        if set(value) == {"value"}:
            return _cell(value["value"])
        return ", ".join(f"{_words(key)} {_cell(item)}" for key, item in value.items())
    if isinstance(value, list):
        return " to ".join(_cell(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
