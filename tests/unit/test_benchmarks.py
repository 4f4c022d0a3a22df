"""What ``make bench`` times runs with the bundle that is shipped."""

from __future__ import annotations

import pytest

from benchmarks.bench_grading import BUNDLE, WAYS, measure


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_grading_can_be_timed(way: str) -> None:
    figures = measure(way, BUNDLE, 1)
    assert figures["slices_per_s"] > 0
    assert figures["peak_mb"] > 100
