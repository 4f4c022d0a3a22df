"""Figures of a chain of networks on held-out phantom slices: each stage alone, and end to end.

End to end, a slice the chain misses or abstains on counts as an error. Accuracy on phantoms proves that the machinery
works; it says nothing about patients.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from stenosis_node.domain import (
    AxialSeries,
    AxialSlice,
    Content,
    CordSlice,
    Grade,
    GradedSlice,
    PixelBox,
    SliceFinding,
    SliceGeometry,
    SliceRef,
    finding_box,
)
from stenosis_node.grading.bundle import Networks
from stenosis_node.grading.manifest import Manifest
from stenosis_node.grading.pipeline import Pipeline
from stenosis_node.grading.preprocess import make_patch
from training.datasets import upright_phantom
from training.phantom import GENERATOR_VERSION
from training.phantom.draw import draw_slice
from training.phantom.words import PhantomSlice, SliceContent
from training.recipes import HELD_OUT_SEEDS

log = logging.getLogger("stenosis_train")

_UNIQUE: Final = "1.2.826.0.1.3680043.2.1125."


@dataclass(frozen=True, slots=True)
class Case:
    """One held-out slice, what the chain found, and what the classifiers say about the true box."""

    truth: PhantomSlice
    finding: SliceFinding
    oracle_content: Content | None
    oracle_grade: Grade | None


def held_out_slices(count: int) -> list[PhantomSlice]:
    """The first ``count`` held-out slices; truth masks are dropped to save memory."""
    slices = []
    for done, seed in enumerate(HELD_OUT_SEEDS[:count], 1):
        slices.append(replace(draw_slice(np.random.default_rng(seed)), sac=None))
        if done % 500 == 0:
            log.info("drawn %d of %d held-out slices", done, count)
    return slices


def as_series(slices: Sequence[PhantomSlice]) -> AxialSeries:
    """Phantom slices as the node would read them from a series."""
    return AxialSeries(
        study_instance_uid=_UNIQUE + "1",
        series_instance_uid=_UNIQUE + "2",
        series_number=1,
        frame_of_reference_uid=None,
        slices=tuple(
            AxialSlice(
                SliceRef(_UNIQUE + "2", "1.2.840.10008.5.1.4.1.1.4", f"{_UNIQUE}3.{index}", None),
                path=Path(f"phantom-{index}.dcm"),
                instance_number=index + 1,
                geometry=SliceGeometry(
                    (0.0, 0.0, -4.4 * index), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), *item.spacing_mm, 4.0
                ),
                slab=0,
                pixels=item.pixels.astype(np.float32),
            )
            for index, item in enumerate(slices)
        ),
    )


def run_chain(networks: Networks, manifest: Manifest, slices: Sequence[PhantomSlice]) -> list[Case]:
    """Grade every slice end to end, and classify the true boxes."""
    pipeline = Pipeline(networks, manifest)
    cases: list[Case] = []
    for start in range(0, len(slices), 64):
        part = slices[start : start + 64]
        findings = pipeline.grade(as_series(part)).slices
        patches = {
            index: make_patch(upright_phantom(item), item.box.center, manifest.patch_input)
            for index, item in enumerate(part)
            if item.box is not None
        }
        contents = dict(zip(patches, pipeline.stages.content_scores(list(patches.values())), strict=True))
        grades = dict(zip(patches, pipeline.stages.grade_scores(list(patches.values())), strict=True))
        for index, (item, finding) in enumerate(zip(part, findings, strict=True)):
            content, grade = contents.get(index), grades.get(index)
            cases.append(
                Case(
                    item,
                    finding,
                    max(content, key=content.__getitem__) if content else None,
                    max(grade, key=grade.__getitem__) if grade else None,
                )
            )
        log.info("evaluated %d of %d slices", len(cases), len(slices))
    return cases


def figures(cases: Sequence[Case]) -> dict[str, Any]:
    """Figures by stage. Fat-suppressed slices are left out of grading: the node rejects such series."""
    canal = [c for c in cases if c.truth.box is not None and c.truth.reason is None]
    absent = [c for c in cases if c.truth.box is None]
    rootlet = [c for c in cases if c.truth.content is SliceContent.ROOTLET and not c.truth.fat_suppressed]
    contents = [c for c in canal if not c.truth.ambiguous]
    return {
        "held_out": {
            "slices": len(cases),
            "with a canal": len(canal),
            "without a canal": len(absent),
            "graded truth": len(rootlet),
            "phantom generator": GENERATOR_VERSION,
        },
        "locate": {**_location(canal), "false_boxes_without_a_canal": _share(_found(c) for c in absent)},
        "content_true_box": {
            "accuracy": _share(c.oracle_content == c.truth.content.value for c in contents),
        },
        "grade_true_box": _grading([c.truth.grade for c in rootlet], [c.oracle_grade for c in rootlet]),
        "end_to_end": {
            "content_accuracy": _share(_content(c.finding) == c.truth.content.value for c in contents),
            "abstained": _share(c.finding.outcome == "not_gradable" for c in canal),
            **_grading([c.truth.grade for c in rootlet], [_grade(c.finding) for c in rootlet]),
        },
    }


def _location(cases: Sequence[Case]) -> dict[str, Any]:
    overlaps, errors = [], []
    for case in cases:
        box, truth = finding_box(case.finding), case.truth.box
        if box is None or truth is None:
            overlaps.append(0.0)
            continue
        overlaps.append(overlap(box, truth))
        rows_mm, columns_mm = case.truth.spacing_mm
        (x, y), (tx, ty) = box.center, truth.center
        errors.append(float(np.hypot((x - tx) * columns_mm, (y - ty) * rows_mm)))
    return {
        "recall_iou_0.5": _share(value >= 0.5 for value in overlaps),
        "recall_iou_0.75": _share(value >= 0.75 for value in overlaps),
        "centre_within_5_mm": sum(e <= 5 for e in errors) / max(1, len(cases)),
        "mean_iou": float(np.mean(overlaps)) if overlaps else 0.0,
        "centre_error_mm_median": float(np.median(errors)) if errors else None,
        "centre_error_mm_p95": float(np.percentile(errors, 95)) if errors else None,
    }


def _grading(truth: Sequence[Grade | None], predicted: Sequence[Grade | None]) -> dict[str, Any]:
    f1 = {grade: _f1(grade, truth, predicted) for grade in Grade}
    order = list(Grade)
    pairs = [(t, p) for t, p in zip(truth, predicted, strict=True) if t is not None and p is not None]
    return {
        "accuracy": _share(t == p for t, p in zip(truth, predicted, strict=True)),
        "macro_f1": float(np.mean(list(f1.values()))),
        "f1": {str(grade): value for grade, value in f1.items()},
        "two_grades_off": _share(abs(order.index(t) - order.index(p)) >= 2 for t, p in pairs),
    }


def _f1(grade: Grade, truth: Sequence[Grade | None], predicted: Sequence[Grade | None]) -> float:
    hits = sum(t is grade and p is grade for t, p in zip(truth, predicted, strict=True))
    named = sum(t is grade for t in truth) + sum(p is grade for p in predicted)
    return 2 * hits / named if named else 0.0


def overlap(a: PixelBox, b: PixelBox) -> float:
    """Intersection over union."""
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((a.x1 - a.x0) * (a.y1 - a.y0) + (b.x1 - b.x0) * (b.y1 - b.y0) - shared)


def _found(case: Case) -> bool:
    return finding_box(case.finding) is not None


def _content(finding: SliceFinding) -> str | None:
    match finding:
        case CordSlice():
            return Content.CORD.value
        case GradedSlice():
            return Content.ROOTLET.value
        case _:
            return None


def _grade(finding: SliceFinding) -> Grade | None:
    return finding.grade if isinstance(finding, GradedSlice) else None


def _share(flags: Iterable[bool]) -> float:
    values = list(flags)
    return sum(values) / len(values) if values else 0.0
