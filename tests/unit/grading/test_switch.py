from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from stenosis_node.grading.switch import call_rootlets

DOWN = [-4.0 * i for i in range(7)]


def test_one_slice_that_is_wrong_is_outvoted() -> None:
    scores = [0.02, 0.1, 0.7, 0.05, 0.95, 0.3, 0.99]
    assert call_rootlets(DOWN, scores) == [False, False, False, False, True, True, True]


@pytest.mark.parametrize(("score", "rootlets"), [(0.9, True), (0.1, False), (0.5, False)])
def test_a_stack_may_be_of_one_kind(score: float, rootlets: bool) -> None:
    assert call_rootlets(DOWN, [score] * 7) == [rootlets] * 7


def test_scores_of_0_and_1_are_no_proof() -> None:
    assert call_rootlets(DOWN, [1.0, 0.0, 0.0, 0.1, 1.0, 1.0, 1.0]) == [False] * 4 + [True] * 3


def test_slabs_that_overlap_are_one_stack_by_height() -> None:
    heights, scores = [10.0, 2.0, -6.0, 6.0, -2.0, -10.0], [0.1, 0.2, 0.9, 0.1, 0.8, 0.9]
    assert call_rootlets(heights, scores) == [False, False, True, False, True, True]
    assert call_rootlets([], []) == []


def test_it_is_the_likeliest_change_there_is() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        scores = rng.uniform(0.02, 0.98, 7)
        likelihood = {
            change: sum(math.log(s if i >= change else 1 - s) for i, s in enumerate(scores)) for change in range(8)
        }
        best = max(likelihood, key=likelihood.__getitem__)
        assert call_rootlets(DOWN, list(scores)) == [i >= best for i in range(7)]


def test_the_order_of_the_slices_changes_nothing() -> None:
    scores = [0.1, 0.6, 0.4, 0.5, 0.9]
    for order in itertools.permutations(range(5)):
        called = call_rootlets([DOWN[i] for i in order], [scores[i] for i in order])
        assert called == [call_rootlets(DOWN[:5], scores)[i] for i in order]
