"""The bundle in the repository, on slices it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stenosis_node.domain import (
    AxialSeries,
    BundleStatus,
    CanalNotFound,
    CordSlice,
    Grade,
    GradedSlice,
    NotGradable,
    PixelBox,
    SliceFinding,
    finding_box,
)
from stenosis_node.grading import pipeline as module
from stenosis_node.grading.manifest import read_manifest
from stenosis_node.grading.pipeline import Pipeline
from training.phantom.draw import draw_slice
from training.phantom.stack import as_series
from training.phantom.words import PhantomSlice

BUNDLE = Path(__file__).parents[3] / "deploy" / "bundles" / "phantom-1"


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.load(BUNDLE, device="cpu")


def _draw(seed: int, **wishes: object) -> PhantomSlice:
    rng = np.random.default_rng(seed)
    return draw_slice(rng, matrix=288, fov_mm=190.0, wildness=0.0, clean=True, centred=True, **wishes)  # type: ignore[arg-type]


def _turned(series: AxialSeries) -> AxialSeries:
    """The same patients stored with rows and columns exchanged and both reversed."""
    slices = tuple(
        replace(
            item,
            pixels=np.ascontiguousarray(item.pixels.T[::-1, ::-1]),
            geometry=replace(item.geometry, row_direction=(0.0, -1.0, 0.0), column_direction=(-1.0, 0.0, 0.0)),
        )
        for item in series.slices
        if item.pixels is not None
    )
    return replace(series, slices=slices)


def _overlap(a: PixelBox, b: PixelBox) -> float:
    """Intersection over union."""
    width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
    shared = max(0.0, width) * max(0.0, height)
    return shared / ((a.x1 - a.x0) * (a.y1 - a.y0) + (b.x1 - b.x0) * (b.y1 - b.y0) - shared)


def _box(finding: SliceFinding) -> PixelBox:
    box = finding_box(finding)
    assert box is not None, finding
    return box


@pytest.fixture(scope="module")
def drawn() -> Sequence[PhantomSlice]:
    clear = {Grade.A: 0.05, Grade.B: 0.44, Grade.C: 0.62, Grade.D: 0.95}
    graded = [_draw(seed, severity=clear[grade], kind="disc") for seed, grade in enumerate(Grade, start=1)]
    return [_draw(9, content="cord", level="T12"), *graded]  # from head to foot


def test_it_is_whole_small_and_says_what_it_is() -> None:
    manifest = read_manifest(BUNDLE)
    assert manifest.status is BundleStatus.DEMONSTRATION
    assert "Not for clinical use" in manifest.intended_use
    assert sum(file.stat().st_size for file in BUNDLE.iterdir()) < 40e6
    assert "Grades of real slices: **not measured**" in (BUNDLE / "MODEL_CARD.md").read_text()


def test_every_figure_was_measured_on_these_very_weights_and_rules() -> None:
    """Held-out and shifted patients both; an evaluation of other weights would not have been taken."""
    metrics = read_manifest(BUNDLE).metrics
    for name in ("held_out", "shifted"):
        figures = metrics[name]
        assert isinstance(figures, dict)
        assert figures["grade, end to end"]["macro_f1"]["value"] > 0.5  # type: ignore[index,call-overload]


@pytest.mark.parametrize(("grade", "severity"), [(Grade.A, 0.05), (Grade.B, 0.375), (Grade.C, 0.625), (Grade.D, 0.95)])
def test_single_slices_are_located_and_graded(pipeline: Pipeline, grade: Grade, severity: float) -> None:
    """Without neighbours: the ends of the scale are told, and between them nothing is two grades off."""
    order = list(Grade)
    right = 0
    for seed in range(1, 9):
        truth = _draw(seed, severity=severity, kind="disc")
        (finding,) = pipeline.grade(as_series([truth])).slices
        assert truth.box is not None
        assert _overlap(_box(finding), truth.box) > 0.4
        if isinstance(finding, GradedSlice):
            assert abs(order.index(finding.grade) - order.index(grade)) <= 1
            right += finding.grade is grade
    assert right >= (6 if grade in (Grade.A, Grade.D) else 3)


def test_a_slice_of_the_cord_gets_no_grade(pipeline: Pipeline, drawn: Sequence[PhantomSlice]) -> None:
    assert isinstance(pipeline.grade(as_series(drawn[:1])).slices[0], CordSlice)


def test_storage_order_of_the_pixels_changes_nothing(pipeline: Pipeline, drawn: Sequence[PhantomSlice]) -> None:
    upright = as_series(drawn)
    plain, turned = pipeline.grade(upright).slices, pipeline.grade(_turned(upright)).slices
    for truth, one, other in zip(drawn, plain, turned, strict=True):
        rows, columns = truth.pixels.shape
        box = _box(other)
        back = PixelBox(columns - box.y1, rows - box.x1, columns - box.y0, rows - box.x0)
        assert _overlap(back, _box(one)) > 0.97
        assert other.outcome == one.outcome


@pytest.mark.parametrize("kind", ["soft-tissue", "noise"])
def test_a_slice_without_a_canal_gets_no_grade(pipeline: Pipeline, kind: str) -> None:
    finding = pipeline.grade(as_series([_draw(1, kind=kind)])).slices[0]
    assert isinstance(finding, CanalNotFound)


def test_a_canal_at_the_edge_of_the_image_is_not_graded(pipeline: Pipeline, drawn: Sequence[PhantomSlice]) -> None:
    truth = drawn[1]
    assert truth.box is not None
    cut = as_series([replace(truth, pixels=truth.pixels[:, int(truth.box.x0) - 8 :])])
    finding = pipeline.grade(cut).slices[0]
    assert isinstance(finding, NotGradable)
    assert finding.reason == module.PATCH_LEAVES_IMAGE
    assert finding.box is not None
