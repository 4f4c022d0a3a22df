"""Figures of an evaluation as PNG. matplotlib is imported only here and in galleries, with the Agg backend."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import roc_auc_score, roc_curve

from training.evaluation.document import Figure
from training.evaluation.paper_tables import Comparison
from training.evaluation.stages import END_TO_END, ChainScores
from training.evaluation.vocabulary import GRADES

_DPI = 110
_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "figure.constrained_layout.use": True,
}


def save(figure: Any) -> bytes:
    """A figure as PNG; the figure is closed."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=_DPI, metadata={"Software": None})
    plt.close(figure)
    return out.getvalue()


def confusion_figures(comparisons: Sequence[Comparison]) -> list[Figure]:
    """The confusion matrices of rootlet and cord, and of the grades, shaded by share of the row."""
    figures = []
    for part, name in (("region", "rootlet and cord"), ("grade", "grades")):
        chosen = [one for one in comparisons if one.part == part]
        if chosen:
            panels = [
                (one.agreement.confusion, one.agreement.labels, one.agreement.labels, one.rows, one.columns)
                for one in chosen
            ]
            figures.append(
                Figure(name=f"confusion-{part}", caption=f"Confusion matrices, {name}.", png=_matrices(panels))
            )
    return figures


def end_to_end_figures(chains: Sequence[ChainScores]) -> list[Figure]:
    """Grades end to end, with a column of misses."""
    panels = [
        (one.grades[END_TO_END].confusion, GRADES, (*GRADES, "none"), one.reader, one.chain)
        for one in chains
        if END_TO_END in one.grades
    ]
    if not panels:
        return []
    caption = "Grades end to end; none: no canal found, called cord, or abstained."
    return [Figure(name="confusion-end-to-end", caption=caption, png=_matrices(panels))]


def reliability_figure(chains: Sequence[ChainScores]) -> list[Figure]:
    """Accuracy against confidence in bins of equal mass."""
    parts = [part for part in ("rootlet or cord", "grade") if any(part in one.calibration for one in chains)]
    if not parts:
        return []
    with mpl.rc_context(_STYLE):
        figure, axes = plt.subplots(1, len(parts), figsize=(4.2 * len(parts), 4), squeeze=False)
        for axis, part in zip(axes[0], parts, strict=True):
            axis.plot([0, 1], [0, 1], color="0.7", lw=1)
            for one in chains:
                if part in one.calibration:
                    found = one.calibration[part]
                    axis.plot(
                        found.confidence,
                        found.accuracy,
                        "o-",
                        ms=3.5,
                        lw=1.2,
                        label=f"{one.chain}: ECE {found.ece:.3f}",
                    )
            axis.set(
                title=part, xlabel="highest score", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02), aspect="equal"
            )
            axis.legend(frameon=False, loc="upper left")
    return [Figure(name="reliability", caption="Reliability, 15 bins of equal mass.", png=save(figure))]


def roc_figure(chains: Sequence[ChainScores]) -> list[Figure]:
    """ROC of C or worse by slice and by study."""
    curves: dict[str, list[tuple[str, Any, Any]]] = {"C or worse on a slice": [], "C or worse in a study": []}
    for one in chains:
        truth, score = one.severe_scores()
        curves["C or worse on a slice"].append((one.chain, truth, score))
        study = one.study_level
        curves["C or worse in a study"].append((one.chain, study.truth.to_numpy(bool), study.score.to_numpy(float)))
    with mpl.rc_context(_STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(8.4, 4))
        drawn = [_roc(axis, title, lines) for axis, (title, lines) in zip(axes, curves.items(), strict=True)]
        if not any(drawn):
            plt.close(figure)
            return []
        return [Figure(name="roc", caption="ROC of P(C or D); the area below in the legend.", png=save(figure))]


def _roc(axis: Any, title: str, lines: Sequence[tuple[str, Any, Any]]) -> bool:
    axis.plot([0, 1], [0, 1], color="0.7", lw=1)
    axis.set(title=title, xlabel="1 - specificity", ylabel="sensitivity", aspect="equal", xlim=(0, 1), ylim=(0, 1.02))
    drawn = False
    for name, truth, score in lines:
        if len(truth) and truth.any() and not truth.all() and not np.isnan(score).any():
            false, true, _ = roc_curve(truth, score)
            axis.plot(false, true, lw=1.4, label=f"{name}: {roc_auc_score(truth, score):.3f}")
            drawn = True
    if drawn:
        axis.legend(frameon=False, loc="lower right")
    return drawn


def _matrices(panels: Sequence[tuple[list[list[int]], Sequence[str], Sequence[str], str, str]]) -> bytes:
    with mpl.rc_context({**_STYLE, "axes.spines.left": False, "axes.spines.bottom": False}):
        across = min(3, len(panels))
        down = -(-len(panels) // across)
        figure, axes = plt.subplots(down, across, figsize=(3.4 * across, 3.2 * down), squeeze=False)
        for axis in axes.flat[len(panels) :]:
            axis.set_visible(False)
        for axis, (counts, rows, columns, row_name, column_name) in zip(axes.flat, panels, strict=False):
            matrix = np.array(counts, dtype=float)
            share = matrix / np.maximum(1, matrix.sum(1, keepdims=True))
            axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
            for (i, j), count in np.ndenumerate(matrix):
                text = f"{int(count)}\n{100 * share[i, j]:.1f} %"
                axis.text(
                    j, i, text, ha="center", va="center", fontsize=7.5, color="w" if share[i, j] > 0.55 else "0.15"
                )
            axis.set_xticks(range(len(columns)), columns)
            axis.set_yticks(range(len(rows)), rows)
            axis.tick_params(length=0)
            axis.set(xlabel=column_name, ylabel=row_name)
        return save(figure)
