"""How well the canal is found.

Average precision is computed here: torchmetrics' MeanAveragePrecision needs pycocotools or faster-coco-eval, which
the environment does not have. The rule is COCO's for one class, every box size, at most 100 boxes a slice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from training.evaluation.predictions import BOX, parse_boxes

Floats = npt.NDArray[np.float64]
IOUS: Final = tuple(np.linspace(0.5, 0.95, 10))
_RECALLS: Final = np.linspace(0, 1, 101)
_MOST_BOXES: Final = 100


@dataclass(frozen=True, kw_only=True)
class Detection:
    """Shares are of slices with a reader's box; None: no such slice, or no spacing.

    AP and false boxes are of every box in the predictions, recall and centre error of the one the chain goes on with.
    """

    slices: int
    with_canal: int
    boxes: int
    """In the predictions of these slices."""
    own_boxes: int
    """Boxes that the chain goes on with, at most one a slice. AP is of them alone where there are no others."""
    ap50: float | None
    ap50_95: float | None
    recall50: float | None
    recall75: float | None
    centre_mm_median: float | None
    centre_mm_p95: float | None
    false_per_slice: float | None
    """Boxes that fit no reader's box at IoU 0.5, per slice."""
    false_without_canal: float | None
    """The same on slices where the reader says there is no canal to box."""
    own_without_canal: float | None
    """Share of these slices with a box that the chain goes on with."""
    without_canal: int


def detect(truth: pd.DataFrame, found: pd.DataFrame) -> Detection:
    """Score boxes on the slices of ``found``; ``truth`` has the same index, NaN where a reader drew no box."""
    has_canal = truth[list(BOX)].notna().all(axis=1).to_numpy()
    boxes = _flat_boxes(found)
    boxes["iou"] = overlap(truth[list(BOX)].to_numpy(dtype=float)[boxes.slice], boxes[list(BOX)].to_numpy(dtype=float))
    own = match(truth, found)
    fits = boxes.groupby("slice").iou.max().reindex(range(len(found)), fill_value=0.0).to_numpy() >= 0.5
    false = np.bincount(boxes.slice, minlength=len(found)) - fits
    empty = ~has_canal & truth.region.eq("other").to_numpy()
    precisions = [average_precision(boxes, int(has_canal.sum()), at) for at in IOUS]
    errors = _centre_errors(truth, found)
    return Detection(
        slices=len(found),
        with_canal=int(has_canal.sum()),
        boxes=len(boxes),
        own_boxes=int(found.x0.notna().sum()),
        ap50=precisions[0],
        ap50_95=None if precisions[0] is None else float(np.mean([p for p in precisions if p is not None])),
        recall50=_mean(own[has_canal] >= 0.5),
        recall75=_mean(own[has_canal] >= 0.75),
        centre_mm_median=float(np.median(errors)) if len(errors) else None,
        centre_mm_p95=float(np.percentile(errors, 95)) if len(errors) else None,
        false_per_slice=_mean(false),
        false_without_canal=_mean(false[empty]),
        own_without_canal=_mean(found.x0.notna().to_numpy()[empty]),
        without_canal=int(empty.sum()),
    )


def average_precision(boxes: pd.DataFrame, truths: int, at: float) -> float | None:
    """COCO's 101-point average precision of at most one true box a slice; None without one.

    boxes  columns slice, score and iou with the true box of the slice (0 without one)
    """
    if truths == 0:
        return None
    ranked = boxes.sort_values("score", ascending=False, kind="stable")
    ranked = ranked[ranked.groupby("slice").cumcount() < _MOST_BOXES]
    fits = ranked.iou >= at
    right = fits & (fits.groupby(ranked.slice).cumsum() == 1)  # the best scored box that fits takes the true one
    if not right.any():
        return 0.0
    hits = right.to_numpy().cumsum()
    precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    place = np.searchsorted(hits / truths, _RECALLS - 1e-12, side="left")
    return float(np.where(place < len(hits), precision[np.minimum(place, len(hits) - 1)], 0.0).mean())


def match(truth: pd.DataFrame, found: pd.DataFrame) -> Floats:
    """IoU of the model's own box with the reader's, 0 without either."""
    return overlap(truth[list(BOX)].to_numpy(dtype=float), found[list(BOX)].to_numpy(dtype=float))


def overlap(a: Floats, b: Floats) -> Floats:
    """IoU of pairs of boxes ``[n, 4]``, 0 where one is NaN. torchvision's box_iou pairs all with all."""
    sides = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None)
    shared = sides.prod(axis=1)
    areas = (a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1)
    shares: Floats = np.nan_to_num(shared / (areas - shared))
    return shares


def _flat_boxes(found: pd.DataFrame) -> pd.DataFrame:
    """Every box with the place of its slice and its score; a box without one ranks first."""
    own = found[[*BOX, "box_score"]].to_numpy(dtype=float)
    slices = np.arange(len(found))
    others = [(place, parse_boxes(text, "other_boxes")) for place, text in enumerate(found.other_boxes) if text]
    rows = np.concatenate([own, *(boxes for _, boxes in others)])
    places = np.concatenate([slices, *(np.full(len(boxes), place) for place, boxes in others)])
    flat = pd.DataFrame(rows, columns=[*BOX, "score"]).assign(slice=places.astype(int))
    return flat[flat.x0.notna()].fillna({"score": 1.0})


def _centre_errors(truth: pd.DataFrame, found: pd.DataFrame) -> Floats:
    x = ((truth.x0 + truth.x1) - (found.x0 + found.x1)) / 2 * found.column_spacing_mm
    y = ((truth.y0 + truth.y1) - (found.y0 + found.y1)) / 2 * found.row_spacing_mm
    errors: Floats = np.hypot(x, y).dropna().to_numpy(dtype=float)
    return errors


def _mean(values: npt.NDArray[Any]) -> float | None:
    return float(values.mean()) if len(values) else None
