from __future__ import annotations

import numpy as np
import pytest

from training.evaluation.won2025 import Counts


def spread(counts: Counts) -> tuple[np.ndarray, np.ndarray]:
    """Two columns of codes with this confusion matrix."""
    matrix = np.array(counts)
    rows, columns = np.indices(matrix.shape)
    return np.repeat(rows.ravel(), matrix.ravel()), np.repeat(columns.ravel(), matrix.ravel())


@pytest.fixture
def random_codes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes 0..3 of two raters that agree more often than not, and 20 patients."""
    generator = np.random.default_rng(3)
    a = generator.choice(4, 400, p=(0.6, 0.2, 0.13, 0.07))
    b = np.where(generator.random(400) < 0.7, a, generator.integers(0, 4, 400))
    return a, b, np.sort(generator.integers(0, 20, 400))
