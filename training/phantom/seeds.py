"""Which seeds belong to what, so that no phantom is in two sets. Frozen: changing a range changes history.

A set is named by its seed range and the generator version. Training on slices drawn on the fly may use any seed
that :func:`may_train_on` allows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

TRAINING_SEEDS: Final = range(800_000)
"""Patients that networks are trained or tuned on."""

TEST_SEEDS: Final = range(900_000, 910_000)
"""Patients of the held-out test set."""

SHIFTED_TEST_SEEDS: Final = range(910_000, 920_000)
"""Patients of the test set that is shifted in contrast, field of view and vendor."""

SAMPLE_SEED: Final = 20_250_101
"""The patient in ``sample_series/``."""

RESERVED_SEEDS: Final = (TEST_SEEDS, SHIFTED_TEST_SEEDS, range(SAMPLE_SEED, SAMPLE_SEED + 1))


def may_train_on(seed: int) -> bool:
    """Whether a phantom of this seed may be shown to a network in training."""
    return not any(seed in reserved for reserved in RESERVED_SEEDS)


_PATIENT: Final = re.compile(r"phantom-\d+-(\d+)-\d+")


def reserved_patients(keys: Iterable[str]) -> list[str]:
    """Of patient keys of a label manifest those of phantoms that no network may be trained or tuned on."""
    found = {key: _PATIENT.fullmatch(key) for key in keys}
    return sorted(key for key, match in found.items() if match is not None and not may_train_on(int(match[1])))
