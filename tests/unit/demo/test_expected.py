"""The demo's verdict: a good result passes, each kind of bad one fails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploy.demo.expected import Expected, compare, compare_decisions, read_expected
from deploy.demo.processes import DemoError
from deploy.demo.results import SliceResult

SPECIAL = {"axial-t2-lumbar": "graded", "sagittal-locator": "locator"}
SAMPLE = Path(__file__).parents[3] / "sample_series"


@pytest.fixture
def expected() -> Expected:
    return read_expected(SAMPLE)


def perfect(expected: Expected) -> list[SliceResult]:
    return [
        SliceResult(true["sop_instance_uid"], "", true["content"], true["grade"], 99.0, tuple(true["box"]))
        for true in expected.slices
    ]


def failed(found: list[SliceResult], expected: Expected) -> set[str]:
    return {measure.name for measure in compare(found, expected) if not measure.holds}


def test_the_truth_itself_is_within_every_margin(expected: Expected) -> None:
    measures = compare(perfect(expected), expected)
    assert [measure.value for measure in measures] == [1.0] * len(expected.margins)
    assert failed(perfect(expected), expected) == set()


def test_an_empty_report_is_outside_every_margin(expected: Expected) -> None:
    assert len(failed([], expected)) == len(expected.margins)


def test_boxes_in_the_wrong_place(expected: Expected) -> None:
    moved = [replace(r, box=tuple(edge + 15 for edge in r.box)) for r in perfect(expected) if r.box]
    assert failed(moved, expected) == {"box iou median"}


def test_grades_that_are_all_a(expected: Expected) -> None:
    same = [replace(r, grade="A" if r.grade else None) for r in perfect(expected)]
    assert failed(same, expected) == {"grade exact", "grade within one"}


def test_grades_off_by_one_are_within_one(expected: Expected) -> None:
    near = [replace(r, grade={"A": "B", "B": "A", "C": "D", "D": "C"}.get(r.grade or "")) for r in perfect(expected)]
    assert failed(near, expected) == {"grade exact"}


def test_cord_and_rootlet_swapped(expected: Expected) -> None:
    swapped = [replace(r, content="cord" if r.content == "rootlet" else "rootlet") for r in perfect(expected)]
    assert failed(swapped, expected) == {"content right"}


def decided(expected: Expected) -> list[dict[str, Any]]:
    return [
        {"series_instance_uid": uid, "decision": SPECIAL.get(reason, "rejected"), "reason": reason}
        for uid, reason in expected.reasons.items()
    ]


def test_every_series_of_the_sample_has_an_expected_decision(expected: Expected) -> None:
    assert sorted(expected.reasons.values()) == ["axial-t2-lumbar", "localizer", "sagittal-locator", "t1-weighted"]
    assert compare_decisions(decided(expected), expected).holds


@pytest.mark.parametrize("change", [{"reason": "no-geometry"}, {"decision": "graded"}, {"series_instance_uid": "1.2"}])
def test_a_decoy_that_is_decided_otherwise(expected: Expected, change: dict[str, str]) -> None:
    first, *others = decided(expected)
    assert not compare_decisions([first | change, *others], expected).holds


def test_a_series_that_is_lost_or_added(expected: Expected) -> None:
    first, *others = decided(expected)
    assert not compare_decisions(others, expected).holds
    assert not compare_decisions([first, *others, first | {"series_instance_uid": "1.2"}], expected).holds


def test_a_missing_sample_says_how_to_draw_it(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match="make sample"):
        read_expected(tmp_path)
