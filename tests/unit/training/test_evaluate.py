from __future__ import annotations

from dataclasses import replace

import pytest

from stenosis_node.domain import (
    CanalNotFound,
    Content,
    CordSlice,
    Grade,
    GradedSlice,
    NotGradable,
    PixelBox,
    SliceFinding,
    SliceRef,
)
from training.evaluate import Case, figures, held_out_slices, overlap
from training.phantom.words import OtherReason, PhantomSlice, SliceContent

REF = SliceRef("1", "2", "3", None)


@pytest.fixture(scope="module")
def drawn() -> PhantomSlice:
    return next(item for item in held_out_slices(20) if item.grade is not None and not item.fat_suppressed)


def _graded(box: PixelBox, grade: Grade) -> GradedSlice:
    return GradedSlice(REF, 0, box, 0.9, 0.9, grade, {g: 0.7 if g is grade else 0.1 for g in Grade})


def test_overlap() -> None:
    box = PixelBox(0, 0, 10, 10)
    assert overlap(box, box) == 1
    assert overlap(box, PixelBox(5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert overlap(box, PixelBox(10, 0, 20, 10)) == 0


def test_misses_and_abstentions_count_as_errors_end_to_end(drawn: PhantomSlice) -> None:
    truth = replace(drawn, grade=Grade.C, box=PixelBox(100, 100, 120, 115), spacing_mm=(0.5, 0.5), fat_suppressed=False)
    box = PixelBox(102, 100, 122, 115)  # 1 mm off
    endings: list[SliceFinding] = [
        _graded(box, Grade.C),
        _graded(box, Grade.A),
        CanalNotFound(REF, 0, 0.1),
        CordSlice(REF, 0, box, 0.9, 0.9),
        NotGradable(REF, 0, "low", box, 0.9),
    ]
    result = figures([Case(truth, ending, Content.ROOTLET, Grade.C) for ending in endings])
    assert result["grade_true_box"]["accuracy"] == 1
    assert result["end_to_end"]["accuracy"] == pytest.approx(1 / 5)
    assert result["end_to_end"]["f1"]["C"] == pytest.approx(2 * 1 / (5 + 1))
    assert result["end_to_end"]["two_grades_off"] == pytest.approx(1 / 2)
    assert result["end_to_end"]["content_accuracy"] == pytest.approx(2 / 5)
    assert result["locate"]["recall_iou_0.5"] == pytest.approx(4 / 5)
    assert result["locate"]["centre_error_mm_median"] == pytest.approx(1.0)


def test_slices_without_a_canal_measure_false_boxes(drawn: PhantomSlice) -> None:
    absent = replace(drawn, box=None, content=SliceContent.OTHER, grade=None)
    result = figures(
        [
            Case(absent, CanalNotFound(REF, 0, None), None, None),
            Case(absent, _graded(PixelBox(0, 0, 5, 5), Grade.A), None, None),
        ]
    )
    assert result["locate"]["false_boxes_without_a_canal"] == 0.5
    assert result["held_out"]["with a canal"] == 0


def test_slices_readers_would_drop_are_left_out(drawn: PhantomSlice) -> None:
    other = replace(drawn, content=SliceContent.OTHER, grade=None, reason=OtherReason.SCREWS)
    result = figures([Case(other, CanalNotFound(REF, 0, None), Content.ROOTLET, Grade.A)])
    assert result["held_out"]["with a canal"] == result["held_out"]["graded truth"] == 0
