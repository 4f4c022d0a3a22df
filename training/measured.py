"""What an evaluation measured of a bundle, as the metrics its manifest and model card show.

Only figures of these very weights and rules are taken: an evaluation names the chain it is of, and a chain that is a
bundle is named with the mark below.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from stenosis_node.grading.manifest import Manifest
from training.labels.rows import TRUTH
from training.learning.errors import TrainingError

_DECIDING: Final = (
    "locate_input", "patch_input", "locate", "classify", "grade", "thresholds", "calibration", "decision"
)  # fmt: skip
_FAR, _ALL, _END, _TRUE_BOX = "away from the transition", "all slices", "end to end", "on the reader's box"
_REGION: Final = ("accuracy", "recall cord", "recall rootlet")
_GRADE: Final = (
    "accuracy", "macro_f1", "kappa", "kappa_quadratic", "two_off", "severe_sensitivity", "severe_specificity",
    "recall A", "recall B", "recall C", "recall D", "ppv A", "ppv B", "ppv C", "ppv D",
)  # fmt: skip
_LOCATE: Final = ("ap50", "ap50_95", "recall50", "recall75", "centre_mm_median", "centre_mm_p95", "false_without_canal")

_LOCATE_NEWER: Final = ("own_without_canal", "boxes", "own_boxes")
"""Not in every evaluation."""


def weights_mark(manifest: Manifest) -> str:
    """Names weights and rules: same mark, same findings. Version, card and metrics do not count."""
    plain = manifest.model_dump(mode="json", include=set(_DECIDING))
    stages = (manifest.locate, manifest.classify, manifest.grade)
    files = [manifest.files[stage.file] for stage in stages]
    return hashlib.sha256(json.dumps([plain, files], sort_keys=True).encode()).hexdigest()[:12]


def chain_name(manifest: Manifest) -> str:
    """``model`` of the predictions of a bundle."""
    return f"{manifest.name}-{manifest.version}@{weights_mark(manifest)}"


def figures_of(evaluation: Path, manifest: Manifest) -> dict[str, Any]:
    """The figures of one evaluation.

    evaluation  ``evaluation.json``, or its folder
    raises      TrainingError when it is no evaluation, or one of other weights or rules
    """
    path = evaluation / "evaluation.json" if evaluation.is_dir() else evaluation
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        chains: Mapping[str, Any] = tree["chains"]
        mine = [name for name in chains if name.endswith(f"@{weights_mark(manifest)}")]
        if len(mine) != 1:
            raise TrainingError(
                f"{path} was not measured on these weights and rules (mark {weights_mark(manifest)}; it has "
                f"{', '.join(chains) or 'no chain'}): predict with the bundle, evaluate, export again"
            )
        return _figures(tree, mine[0])
    except OSError as error:
        raise TrainingError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path} is no evaluation of this version; run stenosis-train evaluate again") from error


def study_level(figures: Mapping[str, Any], source: str) -> dict[str, Any] | None:
    """``metrics.study_level`` of a manifest; None without studies of both kinds."""
    study = figures["studies, C or worse"]
    if study["sensitivity"] is None or study["specificity"] is None:
        return None
    return {
        "rule": "worst-image",
        "positive": "grade C or D",
        "sensitivity": study["sensitivity"],
        "specificity": study["specificity"],
        "studies": study["studies"],
        "source": source,
    }


def _figures(tree: Mapping[str, Any], chain: str) -> dict[str, Any]:
    found = tree["chains"][chain]
    regions, grades, study = found["region"], found["grade"], found["study"]
    measured: dict[str, Any] = {
        "data": {**tree["data"], **found.get("coverage", {})},
        "canal": {
            **{name: found["detection"][name] for name in ("with_canal", *_LOCATE)},
            **{name: found["detection"][name] for name in _LOCATE_NEWER if name in found["detection"]},
        },
        **_canal_of_readers(found.get("detection_by_all")),
        "rootlet or cord, end to end": _scores(regions.get(_ALL), _REGION),
        "rootlet or cord, away from the transition": _scores(regions.get(_FAR), _REGION),
        "grade, reader's box": _scores(grades.get(_TRUE_BOX), _GRADE),
        "grade, end to end": _scores(grades.get(_END), _GRADE),
        **_other(found.get("other")),
        "studies, C or worse": {
            "sensitivity": study["sensitivity"]["value"],
            "sensitivity_95": study["sensitivity"]["bounds"],
            "specificity": study["specificity"]["value"],
            "specificity_95": study["specificity"]["bounds"],
            "studies": study["sensitivity"]["studies"] + study["specificity"]["studies"],
            "studies with C or D": study["sensitivity"]["studies"],
        },
        "calibration": {name: one["ece"] for name, one in found["calibration"].items()},
    }
    readers = set(tree["data"]["readers"])
    between = [one for one in tree["agreement"] if one["part"] == "grade" and {one["rows"], one["columns"]} <= readers]
    if between:
        measured["readers among themselves"] = {
            f"{one['rows']} and {one['columns']}": {"kappa_quadratic": one["kappa_quadratic"], "slices": one["n"]}
            for one in between
        }
    measured["compared with"] = found["reader"]
    return measured


def _canal_of_readers(found: Mapping[str, Any] | None) -> dict[str, Any]:
    """Nothing with one reader."""
    if found is None:
        return {}
    names = ("with_canal", *_LOCATE[:-1])
    return {"canal, mean box where every reader drew one": {name: found[name] for name in names}}


def _other(found: Mapping[str, Any] | None) -> dict[str, Any]:
    """Nothing without such slices, and of an evaluation that did not count them."""
    return {"slices the reader calls other": dict(found)} if found is not None and found["slices"] else {}


def _scores(found: Mapping[str, Any] | None, names: tuple[str, ...]) -> dict[str, Any]:
    """Values with their 95 % bounds; empty for a condition without slices."""
    if found is None or not found["n"]:
        return {}
    made: dict[str, Any] = {"slices": found["n"], "missed": found["missed"]}
    for name in names:
        if found["values"].get(name) is not None:
            low, high = found["bounds"].get(name, (None, None))
            bounds = {} if low is None or high is None else {"from": low, "to": high}
            made[name] = {"value": found["values"][name], **bounds}
    return made


def reader_agreement(evaluation: Path, manifest: Manifest, kind: str) -> dict[str, Any] | None:
    """``metrics.readers`` of a manifest: mean quadratic kappa of the chain's grades with each reader; None without one.

    kind  what the readers are, in words that follow a number
    """
    path = evaluation / "evaluation.json" if evaluation.is_dir() else evaluation
    mark = f"@{weights_mark(manifest)}"
    tree = json.loads(path.read_text(encoding="utf-8"))
    readers = set(tree["data"]["readers"]) - {TRUTH}
    found = []
    for one in tree["agreement"]:
        others = [name for name in (one["rows"], one["columns"]) if not name.endswith(mark)]
        if one["part"] == "grade" and len(others) == 1 and others[0] in readers and one["kappa_quadratic"] is not None:
            found.append(float(one["kappa_quadratic"]))
    if not found:
        return None
    return {
        "kind": kind,
        "number": len(found),
        "measure": "mean quadratic kappa",
        "value": round(sum(found) / len(found), 4),
    }
