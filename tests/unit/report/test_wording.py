"""Scores as people read them."""

from __future__ import annotations

import pytest

from stenosis_node.report import wording


@pytest.mark.parametrize(
    ("score", "words"),
    [
        (0.0, "<1 %"),
        (0.0049, "<1 %"),
        (0.0051, "1 %"),
        (0.5, "50 %"),
        (0.994, "99 %"),
        (0.9951, ">99 %"),
        (1.0, ">99 %"),
    ],
)
def test_a_score_is_never_a_false_0_or_100(score: float, words: str) -> None:
    assert wording.percent(score) == words


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ((0.0065, 0.0055, 0.005, 0.983), ["1 %", "1 %", "<1 %", "98 %"]),
        ((0.25, 0.25, 0.25, 0.25), ["25 %"] * 4),
        ((0.9999, 0.0001, 0.0, 0.0), [">99 %", "<1 %", "<1 %", "<1 %"]),
        ((0.334, 0.333, 0.333, 0.0), ["34 %", "33 %", "33 %", "<1 %"]),
        ((0.126, 0.126, 0.374, 0.374), ["13 %", "13 %", "37 %", "37 %"]),
    ],
)
def test_scores_of_one_whole_sum_to_100(scores: tuple[float, ...], words: list[str]) -> None:
    shown = list(wording.shares(dict(enumerate(scores))).values())
    assert shown == words
    values = [0 if w == "<1 %" else 100 if w == ">99 %" else int(w[:-2]) for w in shown]
    assert sum(values) == 100


def test_a_page_from_rounded_numbers_shows_the_same_words() -> None:
    scores = {"A": 0.0049951, "B": 0.0150049, "C": 0.12345678, "D": 0.85654322}
    assert wording.shares({k: round(100 * v, 2) / 100 for k, v in scores.items()}) == wording.shares(scores)
