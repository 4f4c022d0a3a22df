"""Smooth random fields: the raw material of warps, textures, fat streaks and coil shading."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
Shape = tuple[int, int]


@lru_cache(maxsize=512)
def _spline_basis(n: int, cells: int) -> tuple[npt.NDArray[np.intp], F32]:
    """Uniform cubic B-splines at ``n`` samples: first knot ``[n]`` and weights ``[4, n]`` of the four knots that count.

    Scaled so that white noise keeps unit variance.
    """
    position = np.arange(n) * (cells / n)
    cell = position.astype(np.intp)
    t = position - cell
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3])
    weights = (weights / np.sqrt((weights**2).sum(axis=0).mean())).astype(np.float32)
    cell.setflags(write=False)
    weights.setflags(write=False)
    return cell, weights


def smooth_field(rng: np.random.Generator, shape: Shape, cells: float | tuple[float, float]) -> F32:
    """Zero-mean field of unit variance, ``[rows, columns]``.

    ``cells`` is how many independent bumps fit across the columns, or (across rows, across columns).
    Written without matrix products: BLAS threads of several drawing processes get in each other's way.
    """
    rows, cols = shape
    down, across = cells if isinstance(cells, tuple) else (cells * rows / cols, cells)
    n_down, n_across = max(1, round(down)), max(1, round(across))
    knots = rng.standard_normal((n_down + 3, n_across + 3), dtype=np.float32)
    cell, weights = _spline_basis(cols, n_across)
    bands = sum(knots[:, cell + k] * weights[k] for k in range(4))
    cell, weights = _spline_basis(rows, n_down)
    field: F32 = bands[cell] * weights[0][:, None]
    for k in range(1, 4):
        field += bands[cell + k] * weights[k][:, None]
    return field


def ridges(rng: np.random.Generator, shape: Shape, cells: float | tuple[float, float], width: float) -> F32:
    """Thin bright lines (0 to 1) along the zero crossings of a smooth field."""
    field: F32 = np.abs(smooth_field(rng, shape, cells)) * np.float32(-1 / width)
    field += 1
    return np.maximum(field, 0, out=field)
