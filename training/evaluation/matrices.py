"""Scores of many confusion matrices at once, for resampling; single ones are scored by scikit-learn.

The tests hold every formula here against scikit-learn. Rows are the reference (first rater), columns the other.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
SEVERE: Final = 2
"""Code of grade C: "C or worse"."""


def count_pairs(a: npt.NDArray[np.int64], b: npt.NDArray[np.int64], classes: int) -> Floats:
    """Confusion matrix ``[classes, classes]`` of two columns of codes."""
    return np.bincount(a * classes + b, minlength=classes * classes).reshape(classes, classes).astype(float)


def count_by_cluster(
    a: npt.NDArray[np.int64], b: npt.NDArray[np.int64], classes: int, cluster: npt.NDArray[np.int64], clusters: int
) -> Floats:
    """One confusion matrix per cluster, ``[clusters, classes, classes]``."""
    flat = np.bincount((cluster * classes + a) * classes + b, minlength=clusters * classes * classes)
    return flat.reshape(clusters, classes, classes).astype(float)


def f1_of(stack: Floats) -> Floats:
    """F1 per class ``[..., classes]``; NaN for a class neither rater used."""
    hits = np.diagonal(stack, axis1=-2, axis2=-1)
    return ratio(2 * hits, stack.sum(-1) + stack.sum(-2))


def kappa_of(stack: Floats, power: int) -> Floats:
    """Cohen's kappa with weights ``|i - j| ** power``; power 0 is plain kappa. NaN where chance leaves no room."""
    classes = stack.shape[-1]
    gap = np.abs(np.subtract.outer(np.arange(classes), np.arange(classes))).astype(float)
    weights = (gap > 0).astype(float) if power == 0 else gap**power
    total = stack.sum((-2, -1))
    chance = np.einsum("...i,...j,ij->...", stack.sum(-1), stack.sum(-2), weights)
    return 1 - ratio((stack * weights).sum((-2, -1)) * total, chance)


def agreement_scores(stack: Floats) -> dict[str, Floats]:
    """Accuracy, macro-F1 over the classes in use, and the kappas of ``[..., classes, classes]``."""
    with np.errstate(invalid="ignore"):
        f1 = f1_of(stack)
        used = ~np.isnan(f1)
        macro = ratio(np.where(used, f1, 0).sum(-1), used.sum(-1))
    return {
        "accuracy": ratio(np.trace(stack, axis1=-2, axis2=-1), stack.sum((-2, -1))),
        "macro_f1": macro,
        "kappa": kappa_of(stack, 0),
        "kappa_linear": kappa_of(stack, 1),
        "kappa_quadratic": kappa_of(stack, 2),
    }


def threshold_scores(stack: Floats, at: int = SEVERE) -> dict[str, Floats]:
    """Sensitivity, specificity, PPV and NPV for codes of at least ``at``, rows as reference."""
    tp, fn = stack[..., at:, at:].sum((-2, -1)), stack[..., at:, :at].sum((-2, -1))
    fp, tn = stack[..., :at, at:].sum((-2, -1)), stack[..., :at, :at].sum((-2, -1))
    return {
        "sensitivity": ratio(tp, tp + fn),
        "specificity": ratio(tn, tn + fp),
        "ppv": ratio(tp, tp + fp),
        "npv": ratio(tn, tn + fn),
    }


def mcc_of(stack: Floats) -> Floats:
    """Matthews correlation of several classes; 0 where a rater used one class only, as scikit-learn has it."""
    total, rows, columns = stack.sum((-2, -1)), stack.sum(-1), stack.sum(-2)
    shared = np.trace(stack, axis1=-2, axis2=-1) * total - (rows * columns).sum(-1)
    spread = np.sqrt((total**2 - (rows**2).sum(-1)) * (total**2 - (columns**2).sum(-1)))
    return np.where(spread > 0, np.nan_to_num(ratio(shared, spread)), 0.0)


def ratio(above: Floats, below: Floats) -> Floats:
    """Quotient, NaN where there is nothing to divide by."""
    below = np.asarray(below, dtype=float)
    out: Floats = np.full(np.broadcast(above, below).shape, np.nan)
    np.divide(above, below, out=out, where=below > 0)
    return out
