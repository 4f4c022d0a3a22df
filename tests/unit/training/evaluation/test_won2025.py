"""Every number of the paper that its own counts must give again (and the one that they do not)."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.training.evaluation.conftest import spread
from training.evaluation.agreement import agree
from training.evaluation.matrices import threshold_scores
from training.evaluation.vocabulary import GRADES, REGIONS
from training.evaluation.won2025 import TABLE_2, TABLE_3, TABLE_4, TABLE_5, TABLE_6, cut, p_as_printed

COUNTS = {
    "region": {"A1-A2": TABLE_2, "A1-C1": TABLE_5[1], "A2-C2": TABLE_5[2]},
    "grade": {"A1-A2": TABLE_3, "A1-C1": TABLE_6[1], "A2-C2": TABLE_6[2]},
}
KAPPAS = {
    ("region", "A1-A2"): (0.733, None, None),
    ("region", "A1-C1"): (0.813, None, None),
    ("region", "A2-C2"): (0.913, None, None),
    ("grade", "A1-A2"): (0.720, 0.782, 0.851),
    ("grade", "A1-C1"): (0.760, 0.809, 0.867),
    ("grade", "A2-C2"): (0.740, 0.798, 0.861),
}
F1 = {
    ("region", "A1-A2"): (0.934, 0.800),
    ("region", "A1-C1"): (0.951, 0.862),
    ("region", "A2-C2"): (0.979, 0.934),
    ("grade", "A1-A2"): (0.952, 0.693, 0.711, 0.705),
    ("grade", "A1-C1"): (0.962, 0.747, 0.735, 0.692),
    ("grade", "A2-C2"): (0.954, 0.732, 0.701, 0.644),
}
EVERY = [(part, pair) for part in COUNTS for pair in COUNTS[part]]


def result(part: str, pair: str):  # type: ignore[no-untyped-def]
    return agree(*spread(COUNTS[part][pair]), REGIONS if part == "region" else GRADES)


@pytest.mark.parametrize(("part", "pair"), EVERY)
def test_table_4_comes_out_as_printed(part: str, pair: str) -> None:
    found = result(part, pair)
    printed = tuple(TABLE_4[part][pair])
    accuracy = "90.0" if (part, pair) == ("region", "A1-A2") else printed[0]
    assert (cut(100 * found.accuracy, 1), cut(100 * found.macro_f1, 1), p_as_printed(found.p_unpaired)) == (
        accuracy,
        *printed[1:],
    )


def test_the_misprint_of_table_4_is_a_misprint() -> None:
    assert TABLE_4["region"]["A1-A2"][0] == "90.3"
    assert result("region", "A1-A2").accuracy == pytest.approx(0.9003, abs=5e-5)


@pytest.mark.parametrize(("part", "pair"), EVERY)
def test_kappas_and_f1(part: str, pair: str) -> None:
    found = result(part, pair)
    plain, linear, quadratic = KAPPAS[part, pair]
    assert found.kappa == pytest.approx(plain, abs=6e-4)
    if linear is not None:
        assert found.kappa_linear == pytest.approx(linear, abs=6e-4)
        assert found.kappa_quadratic == pytest.approx(quadratic, abs=6e-4)
    assert list(found.f1.values()) == pytest.approx(F1[part, pair], abs=1.1e-3)


@pytest.mark.parametrize(
    ("part", "pair", "unpaired", "paired", "margins"),
    [
        ("region", "A1-C1", 0.71284, 0.394, None),
        ("region", "A2-C2", 0.27410, 2.0e-4, 2.0e-4),
        ("grade", "A1-C1", 0.67394, 0.248, 0.016),
        ("grade", "A2-C2", 0.23296, 1.4e-3, 0.0037),
        ("region", "A1-A2", 4.0e-6, None, None),
        ("grade", "A1-A2", 1.2e-10, None, None),
    ],
)
def test_p_values(part: str, pair: str, unpaired: float, paired: float | None, margins: float | None) -> None:
    found = result(part, pair)
    assert found.p_unpaired == pytest.approx(unpaired, rel=0.05 if unpaired < 0.01 else 3e-5)
    if paired is not None:
        assert found.p_paired == pytest.approx(paired, rel=0.05)
    if margins is not None:
        assert found.p_stuart_maxwell == pytest.approx(margins, rel=0.05)


@pytest.mark.parametrize(
    ("counts", "at", "sensitivity", "specificity"),
    [
        (TABLE_6[1], 2, 0.777, 0.991),
        (TABLE_6[2], 2, 0.779, 0.986),
        (tuple(zip(*TABLE_3, strict=True)), 2, 0.931, 0.973),
        (TABLE_3, 2, 0.676, 0.996),
        (TABLE_6[1], 1, 0.866, 0.960),
        (TABLE_6[2], 1, 0.856, 0.957),
    ],
)
def test_operating_points(counts, at: int, sensitivity: float, specificity: float) -> None:  # type: ignore[no-untyped-def]
    scores = threshold_scores(np.array(counts, dtype=float), at)
    assert float(scores["sensitivity"]) == pytest.approx(sensitivity, abs=6e-4)
    assert float(scores["specificity"]) == pytest.approx(specificity, abs=6e-4)


def test_digits_are_cut_not_rounded() -> None:
    assert cut(0.23296, 4) == "0.2329"
    assert cut(86.66, 1) == "86.6"
    assert cut(91.4996, 1) == "91.5"
    assert p_as_printed(0.009) == "<0.01"
