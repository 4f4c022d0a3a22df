"""Smooth random fields: the raw material of warps, textures, fat streaks and coil shading."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
Shape = tuple[int, int]


@lru_cache(maxsize=512)
def _spline_basis(n: int, cells: int) -> F32:
    """Uniform cubic B-spline basis ``[n, cells + 3]``, scaled so that white noise keeps unit variance per axis."""
    position = np.arange(n) * (cells / n)
    cell = position.astype(int)
    t = position - cell
    weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    basis = np.zeros((n, cells + 3))
    for k, w in enumerate(weights):
        basis[np.arange(n), cell + k] = w / 6
    basis /= np.sqrt((basis**2).sum(axis=1).mean())
    frozen = basis.astype(np.float32)
    frozen.setflags(write=False)
    return frozen


def smooth_field(rng: np.random.Generator, shape: Shape, cells: float | tuple[float, float]) -> F32:
    """Zero-mean field of unit variance, ``[rows, columns]``.

    ``cells`` is how many independent bumps fit across the columns, or (across rows, across columns).
    Two products with a B-spline basis: no pool, no repeats, and cheap enough for every slice.
    """
    rows, cols = shape
    down, across = cells if isinstance(cells, tuple) else (cells * rows / cols, cells)
    n_down, n_across = max(1, round(down)), max(1, round(across))
    knots = rng.standard_normal((n_down + 3, n_across + 3), dtype=np.float32)
    field = _spline_basis(rows, n_down) @ knots @ _spline_basis(cols, n_across).T
    return field.astype(np.float32, copy=False)


def ridges(rng: np.random.Generator, shape: Shape, cells: float | tuple[float, float], width: float) -> F32:
    """Thin bright lines (0 to 1) along the zero crossings of a smooth field."""
    field: F32 = np.abs(smooth_field(rng, shape, cells)) * np.float32(-1 / width)
    field += 1
    return np.maximum(field, 0, out=field)
