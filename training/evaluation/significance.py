"""P values of two raters' labels on the same slices. None where a test is not defined.

All three take slices as independent, which neighbouring slices are not; the intervals of resampled patients are the
figures to rely on, and a large P value is no evidence of agreement.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import stats

from training.evaluation.matrices import Floats

Codes = npt.NDArray[np.int64]


def p_unpaired(a: Codes, b: Codes) -> float | None:
    """Student's two-sample t-test on the codes: what Won 2025 printed, though its text says paired."""
    return _quietly(lambda: stats.ttest_ind(a, b).pvalue)


def p_paired(a: Codes, b: Codes) -> float | None:
    """Paired t-test on the codes; None when the raters never differ."""
    return _quietly(lambda: stats.ttest_rel(a, b).pvalue)


def p_stuart_maxwell(matrix: Floats) -> float | None:
    """Stuart-Maxwell test of equal margins; with two classes it is McNemar's test without continuity correction.

    Classes on which the raters never differ carry no information and cost no degree of freedom.
    """
    loose = np.flatnonzero(matrix.sum(0) + matrix.sum(1) - 2 * np.diag(matrix) > 0)
    if len(loose) < 2:
        return None
    kept = matrix[np.ix_(loose, loose)]
    gap = kept.sum(1) - kept.sum(0)
    covariance = np.diag(kept.sum(1) + kept.sum(0)) - kept - kept.T
    statistic = float(gap @ np.linalg.pinv(covariance) @ gap)
    return float(stats.chi2.sf(statistic, np.linalg.matrix_rank(covariance)))


def _quietly(test: Callable[[], float]) -> float | None:
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # SciPy on raters who hardly ever differ
        value = float(test())
    return None if math.isnan(value) else value
