"""A rater scored against a reference when it may have said nothing: a miss counts as an error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from sklearn.metrics import accuracy_score, mean_absolute_error, precision_recall_fscore_support

from training.evaluation.agreement import agree, bounds
from training.evaluation.matrices import (
    SEVERE,
    Floats,
    agreement_scores,
    count_by_cluster,
    count_pairs,
    f1_of,
    mcc_of,
    ratio,
    threshold_scores,
)
from training.evaluation.resampling import Resamples, intervals
from training.evaluation.vocabulary import UNLABELLED, Codes

Bounds = tuple[float | None, float | None]
NO_BOUNDS: Final[Bounds] = (None, None)


@dataclass(frozen=True)
class Scoring:
    """Scores by name, with 95 % bounds of resampled patients. None: not defined on these slices."""

    n: int
    missed: int
    values: dict[str, float | None]
    bounds: dict[str, Bounds]
    confusion: list[list[int]]
    """Rows are the reference; the last column counts misses."""

    def text(self, name: str, digits: int = 3) -> str:
        """Value with bounds, for tables."""
        value = self.values.get(name)
        return with_bounds(value, self.bounds.get(name, NO_BOUNDS), digits)


def with_bounds(value: float | None, limits: Bounds, digits: int = 3) -> str:
    """``0.912 (0.880 to 0.941)``, or what of it is known."""
    if value is None:
        return "-"
    low, high = limits
    if low is None or high is None:
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def score(truth: Codes, called: Codes, labels: Sequence[str], patients: Codes, resamples: Resamples) -> Scoring:
    """Score codes against a reference; ``called`` may hold UNLABELLED, which is wrong whatever the reference.

    Accuracy, F1 and recall take misses as errors; PPV, MCC and kappas are of the slices with an answer.
    """
    classes = len(labels)
    missed = called == UNLABELLED
    filled = np.where(missed, classes, called)
    stack = resamples.sums(count_by_cluster(truth, filled, classes + 1, patients, resamples.weights.shape[1]))
    found = intervals(stacked_scores(stack, labels))
    if len(truth) == 0:
        return Scoring(0, 0, {}, {}, [[0] * (classes + 1) for _ in labels])
    values = _points(truth, filled, labels)
    answered = ~missed
    if answered.any():
        values |= _of_answers(truth[answered], called[answered], labels)
    matrix = count_by_cluster(truth, filled, classes + 1, np.zeros_like(truth), 1)[0]
    values |= {name: _known(stat) for name, stat in _severe(matrix, classes).items()}
    return Scoring(
        len(truth),
        int(missed.sum()),
        values,
        {name: bounds(limits) for name, limits in found.items()},
        [[int(cell) for cell in row] for row in matrix[:classes]],
    )


def stacked_scores(stack: Floats, labels: Sequence[str]) -> dict[str, Floats]:
    """The same scores of many matrices ``[..., classes + 1, classes + 1]`` whose last column holds misses."""
    classes = len(labels)
    answered = stack[..., :classes, :classes]
    hits = np.diagonal(answered, axis1=-2, axis2=-1)
    support = stack[..., :classes, :].sum(-1)
    f1 = f1_of(stack)[..., :classes]
    used = support + answered.sum(-2) > 0
    scores = {name: value for name, value in agreement_scores(answered).items() if name.startswith("kappa")}
    scores["accuracy"] = ratio(hits.sum(-1), support.sum(-1))
    scores["macro_f1"] = ratio(np.where(used, np.nan_to_num(f1), 0).sum(-1), used.sum(-1))
    scores["mcc"] = mcc_of(answered)
    recall, ppv = ratio(hits, support), ratio(hits, answered.sum(-2))
    for code, label in enumerate(labels):
        scores |= {f"recall {label}": recall[..., code], f"ppv {label}": ppv[..., code], f"f1 {label}": f1[..., code]}
    gap = np.abs(np.subtract.outer(np.arange(classes), np.arange(classes)))
    scores["two_off"] = ratio((answered * (gap >= 2)).sum((-2, -1)), answered.sum((-2, -1)))
    return scores | _severe(stack, classes)


def _points(truth: Codes, filled: Codes, labels: Sequence[str]) -> dict[str, float | None]:
    classes = list(range(len(labels)))
    used = [code for code in classes if (truth == code).any() or (filled == code).any()]
    ppv, recall, f1, _ = precision_recall_fscore_support(truth, filled, labels=classes, zero_division=np.nan)
    values: dict[str, float | None] = {
        "accuracy": float(accuracy_score(truth, filled)),
        "macro_f1": float(np.nan_to_num(f1[used]).mean()),
    }
    for code, label in enumerate(labels):
        values |= {
            f"recall {label}": _known(recall[code]),
            f"ppv {label}": _known(ppv[code]),
            f"f1 {label}": _known(f1[code]),
        }
    return values


def _of_answers(truth: Codes, called: Codes, labels: Sequence[str]) -> dict[str, float | None]:
    agreed = agree(truth, called, labels)
    return {
        "kappa": agreed.kappa,
        "kappa_linear": agreed.kappa_linear,
        "kappa_quadratic": agreed.kappa_quadratic,
        "mcc": float(mcc_of(count_pairs(truth, called, len(labels)))),
        "mae": float(mean_absolute_error(truth, called)),
        "two_off": float((np.abs(truth - called) >= 2).mean()),
    }


def _severe(stack: Floats, classes: int) -> dict[str, Floats]:
    """Sensitivity and specificity of C or worse; a miss is a negative call. Nothing for two classes."""
    if classes <= SEVERE:
        return {}
    moved = np.concatenate([stack[..., -1:], stack[..., :-1]], axis=-1)  # misses in front: below the threshold
    scores = threshold_scores(np.concatenate([stack[..., -1:, :] * 0, moved[..., :-1, :]], axis=-2), SEVERE + 1)
    return {f"severe_{name}": value for name, value in scores.items()}


def _known(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)
