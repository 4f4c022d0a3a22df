"""Both test sets are frozen: no seed of training meets them, and the shifted one is unlike training."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from training.phantom.look import Vendor
from training.phantom.patient import draw_patient
from training.phantom.seeds import (
    RESERVED_SEEDS,
    SAMPLE_SEED,
    SHIFTED_TEST_SEEDS,
    TEST_SEEDS,
    TRAINING_SEEDS,
    may_train_on,
)


def test_the_ranges_do_not_meet() -> None:
    for a, b in combinations((TRAINING_SEEDS, TEST_SEEDS, SHIFTED_TEST_SEEDS, range(SAMPLE_SEED, SAMPLE_SEED + 1)), 2):
        assert a.stop <= b.start or b.stop <= a.start


def test_every_training_seed_may_be_trained_on_and_no_reserved_one() -> None:
    assert all(may_train_on(seed) for seed in TRAINING_SEEDS)
    assert not any(may_train_on(seed) for reserved in RESERVED_SEEDS for seed in reserved)


def test_the_ranges_are_those_that_were_frozen() -> None:
    """Changing them would let old networks see the test sets. Change this test only with the generator version."""
    assert (
        range(800_000), range(900_000, 910_000), range(910_000, 920_000),
    ) == (TRAINING_SEEDS, TEST_SEEDS, SHIFTED_TEST_SEEDS)  # fmt: skip


def test_the_shifted_set_has_another_vendor_field_of_view_and_contrast() -> None:
    usual = [draw_patient(seed) for seed in (*TRAINING_SEEDS[:40], *TEST_SEEDS[:40])]
    shifted = [draw_patient(seed) for seed in SHIFTED_TEST_SEEDS[:40]]

    assert {p.vendor for p in usual} == {Vendor.SIEMENS, Vendor.GE}
    assert {p.vendor for p in shifted} == {Vendor.PHILIPS}
    assert all(150 <= p.fov_mm <= 230 for p in usual)
    assert all(p.fov_mm < 145 or p.fov_mm > 235 for p in shifted)
    spread = [np.std([np.log(p.tissues.muscle) for p in group]) for group in (usual, shifted)]
    assert spread[1] > 1.5 * spread[0]
