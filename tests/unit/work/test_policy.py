from __future__ import annotations

import inspect

import pytest

from stenosis_node import errors
from stenosis_node.work.policy import BackOff, Consequence, Stopping, consequence, sentence


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.LeaseLost("x"), Consequence.DROP),
        (Stopping("x"), Consequence.RELEASE),
        (errors.StudyRejected("no-candidate", "x"), Consequence.REJECT),
        (errors.TransientError("x"), Consequence.RETRY),
        (errors.PermanentError("x"), Consequence.FAIL),
        (errors.BundleError("x"), Consequence.FAIL),
        (errors.ConfigError("x"), Consequence.FAIL),
        (ZeroDivisionError("a bug"), Consequence.RETRY),
    ],
)
def test_the_class_of_an_error_decides(error: Exception, expected: Consequence) -> None:
    assert consequence(error) is expected


def test_every_error_of_the_tree_but_its_root_is_decided_by_a_row_of_its_own() -> None:
    kinds = [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.NodeError) and kind is not errors.NodeError
    ]

    assert len(kinds) >= 6
    for kind in kinds:
        error = kind("no-candidate", "x") if kind is errors.StudyRejected else kind("x")
        bug = consequence(error) is Consequence.RETRY
        assert bug == issubclass(kind, errors.TransientError), kind


def test_the_sentence_keeps_our_words_and_not_those_of_foreign_exceptions() -> None:
    assert sentence(errors.PermanentError("the peer does not accept it")) == "the peer does not accept it"
    assert "Hong" not in sentence(ValueError("could not read 'Hong^Gildong'"))
    assert "ValueError" in sentence(ValueError("could not read 'Hong^Gildong'"))


def test_the_back_off_doubles_up_to_its_cap_with_jitter() -> None:
    back_off = BackOff(base_s=10, cap_s=60)

    for attempt, full in [(1, 10), (2, 20), (3, 40), (4, 60), (5, 60), (5000, 60)]:
        delays = [back_off.delay_s(attempt) for _ in range(200)]
        assert 0.75 * full <= min(delays) < max(delays) <= full
