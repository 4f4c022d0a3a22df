"""Patients resampled with replacement: every slice of a patient goes along, so neighbours do not feign certainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from training.evaluation.matrices import Floats

LEVEL: Final = 0.95
Interval = tuple[float, float]
"""Lower and upper bound; NaN when too few resamples gave a value."""


@dataclass(frozen=True)
class Resamples:
    """How often each cluster is drawn in each resample; the same draws serve every figure that is compared."""

    weights: npt.NDArray[np.float32]
    """``[resamples, clusters]``; rows sum to the number of clusters."""

    @classmethod
    def draw(cls, clusters: int, count: int, seed: int) -> Resamples:
        """``count`` resamples of ``clusters`` clusters."""
        generator = np.random.default_rng(seed)
        weights = np.empty((count, clusters), dtype=np.float32)  # counts: exact far beyond any number of patients
        for row in weights:
            row[:] = np.bincount(generator.integers(0, clusters, clusters), minlength=clusters)
        return cls(weights)

    def sums(self, per_cluster: Floats) -> Floats:
        """Counts ``[clusters, ...]`` summed over each resample, ``[resamples, ...]``."""
        flat = self.weights @ per_cluster.reshape(len(per_cluster), -1).astype(np.float32)
        return flat.reshape(len(self.weights), *per_cluster.shape[1:]).astype(float)


def percentile_interval(values: Floats) -> Interval:
    """The middle 95 % of the resamples that gave a value; NaN unless nine in ten did."""
    given = values[~np.isnan(values)]
    if len(given) == 0 or len(given) < 0.9 * len(values):
        return float("nan"), float("nan")
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(given, (tail, 1 - tail))
    return float(low), float(high)


def intervals(scores: Mapping[str, Floats]) -> dict[str, Interval]:
    """One interval per named score."""
    return {name: percentile_interval(values) for name, values in scores.items()}


def number_clusters(names: Sequence[str]) -> tuple[npt.NDArray[np.int64], int]:
    """Clusters as 0..n-1 in order of their names, and n."""
    unique, codes = np.unique(np.asarray(names, dtype=str), return_inverse=True)
    return codes.astype(np.int64), len(unique)
