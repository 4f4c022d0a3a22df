"""The truth the sample study was drawn from, and how far a result may be from it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from deploy.demo.processes import DemoError
from deploy.demo.results import SliceResult

GRADES = "ABCD"
GRADED = "axial-t2-lumbar"
DECISIONS = {GRADED: "graded", "sagittal-locator": "locator"}
"""Decision that goes with a reason; a series with any other is rejected."""
"""Reason code of the series that is graded."""
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure of the comparison and the least it must be."""

    name: str
    value: float
    least: float

    @property
    def holds(self) -> bool:
        """Whether the result is good enough."""
        return self.value >= self.least


@dataclass(frozen=True, slots=True)
class Expected:
    """``expected.json`` of a sample study."""

    study_instance_uid: str
    slices: tuple[dict[str, Any], ...]
    """Of the axial T2 series: ``sop_instance_uid``, ``box`` in pixel edges, ``content`` and ``grade``."""
    margins: dict[str, float]
    reasons: dict[str, str]
    """Series Instance UID to the reason code of its decision: the axial T2 series is graded, the others are not."""


def read_expected(sample: Path) -> Expected:
    """Raises DemoError when the sample study is not there."""
    try:
        truth = json.loads((sample / "expected.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DemoError(f"{sample.name}/expected.json is missing; draw the sample study with 'make sample'") from None
    reasons = {decoy["series_instance_uid"]: decoy["reason"] for decoy in truth["decoys"]}
    reasons[truth["axial_t2"]["series_instance_uid"]] = GRADED
    slices = tuple(truth["axial_t2"]["slices"])
    return Expected(truth["study_instance_uid"], slices, truth["margins"], reasons)


def compare_decisions(decisions: list[dict[str, Any]], expected: Expected) -> Measure:
    """Share of the series with the expected decision for the expected reason; there may be no others.

    decisions  ``series`` of ``job --json``
    """
    found = {one["series_instance_uid"]: (one["decision"], one["reason"]) for one in decisions}
    right = [found.get(uid) == (DECISIONS.get(reason, "rejected"), reason) for uid, reason in expected.reasons.items()]
    return Measure("series decided right", sum(right) / max(len(found), len(right)), 1.0)


def compare(found: list[SliceResult], expected: Expected) -> list[Measure]:
    """Shares over the slices with a canal (found, content, box) and over the rootlet slices (grade)."""
    values = dict(_measure({result.sop_instance_uid: result for result in found}, expected.slices))
    return [Measure(name.replace("_", " "), values[name], least) for name, least in expected.margins.items()]


def _measure(found: dict[str, SliceResult], truth: tuple[dict[str, Any], ...]) -> Iterator[tuple[str, float]]:
    canals = [(true, found.get(true["sop_instance_uid"])) for true in truth if true["box"] is not None]
    boxes = [(tuple(true["box"]), result.box) for true, result in canals if result is not None and result.box]
    grades = [(true["grade"], result.grade if result else None) for true, result in canals if true["grade"] is not None]
    steps = [abs(GRADES.index(true) - GRADES.index(said)) if said else len(GRADES) for true, said in grades]
    yield "canal_found", len(boxes) / len(canals)
    right = [result is not None and result.content == true["content"] for true, result in canals]
    yield "content_right", sum(right) / len(canals)
    yield "box_iou_median", median(_overlap(true, box) for true, box in boxes) if boxes else 0.0
    yield "grade_exact", sum(step == 0 for step in steps) / len(steps)
    yield "grade_within_one", sum(step <= 1 for step in steps) / len(steps)


def _overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / (_area(a) + _area(b) - shared)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
