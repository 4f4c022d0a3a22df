"""Agreement of two raters on the same slices."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import accuracy_score, cohen_kappa_score, confusion_matrix, f1_score

from training.evaluation.matrices import agreement_scores, count_by_cluster, f1_of
from training.evaluation.resampling import Interval, Resamples, intervals
from training.evaluation.significance import p_paired, p_stuart_maxwell, p_unpaired

Codes = npt.NDArray[np.int64]
SCORES: Final = ("accuracy", "macro_f1", "kappa", "kappa_linear", "kappa_quadratic")


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Rows of ``confusion`` are the first rater. None: not defined on these labels."""

    labels: tuple[str, ...]
    n: int
    accuracy: float
    macro_f1: float
    """Unweighted mean of F1 over the classes that either rater used."""
    f1: dict[str, float | None]
    kappa: float | None
    kappa_linear: float | None
    kappa_quadratic: float | None
    p_unpaired: float | None
    p_paired: float | None
    p_stuart_maxwell: float | None
    confusion: list[list[int]]
    clusters: int
    intervals: dict[str, tuple[float | None, float | None]]
    """95 % bounds by score; ``f1 A`` for F1 of one class. Empty without resampling."""


def agree(
    a: Codes,
    b: Codes,
    labels: Sequence[str],
    *,
    cluster: Codes | None = None,
    resamples: Resamples | None = None,
) -> Agreement:
    """Agreement of two columns of codes, none of them unlabelled.

    cluster     patient of each row as a code below the number of clusters of ``resamples``
    resamples   gives the intervals; None for none
    """
    classes = list(range(len(labels)))
    matrix = confusion_matrix(a, b, labels=classes)
    used = [code for code in classes if matrix[code].sum() + matrix[:, code].sum() > 0]
    each = dict(zip(used, f1_score(a, b, labels=used, average=None, zero_division=0.0), strict=True))
    return Agreement(
        labels=tuple(labels),
        n=len(a),
        accuracy=float(accuracy_score(a, b)),
        macro_f1=float(f1_score(a, b, labels=used, average="macro", zero_division=0.0)),
        f1={label: float(each[code]) if code in each else None for code, label in enumerate(labels)},
        kappa=_kappa(a, b, classes, None),
        kappa_linear=_kappa(a, b, classes, "linear"),
        kappa_quadratic=_kappa(a, b, classes, "quadratic"),
        p_unpaired=p_unpaired(a, b),
        p_paired=p_paired(a, b),
        p_stuart_maxwell=p_stuart_maxwell(matrix.astype(float)),
        confusion=[[int(cell) for cell in row] for row in matrix],
        clusters=0 if cluster is None else len(np.unique(cluster)),
        intervals={} if cluster is None or resamples is None else _bounds(a, b, labels, cluster, resamples),
    )


def _kappa(a: Codes, b: Codes, classes: list[int], weights: str | None) -> float | None:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        return known(float(cohen_kappa_score(a, b, labels=classes, weights=weights)))


def _bounds(
    a: Codes, b: Codes, labels: Sequence[str], cluster: Codes, resamples: Resamples
) -> dict[str, tuple[float | None, float | None]]:
    stack = resamples.sums(count_by_cluster(a, b, len(labels), cluster, resamples.weights.shape[1]))
    f1 = f1_of(stack)
    scores = {**agreement_scores(stack), **{f"f1 {label}": f1[..., code] for code, label in enumerate(labels)}}
    return {name: bounds(found) for name, found in intervals(scores).items()}


def bounds(interval: Interval) -> tuple[float | None, float | None]:
    """An interval with None for what is not known."""
    return known(interval[0]), known(interval[1])


def known(value: float) -> float | None:
    """None for NaN: JSON has no word for it."""
    return None if math.isnan(value) else value
