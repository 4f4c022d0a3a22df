"""Smooth random fields: the raw material of warps, textures, fat streaks and coil shading.

Fields come from small pools, drawn once per process from a fixed seed; a slice gets one of them, moved round and
mirrored at random. They repeat at their edges, so that a move leaves no seam.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
Shape = tuple[int, int]

_POOL_SEED: Final = 20_260_002
_POOL: Final = 12
"""Fields of a kind. With moves and mirrors no two slices share one in practice."""
_STEPS_PER_OCTAVE: Final = 3
"""Numbers of cells are rounded to these, so that few kinds exist."""


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


@lru_cache(maxsize=600)
def _pooled(shape: Shape, down: int, across: int, number: int) -> F32:
    rows, cols = shape
    knots = np.random.default_rng([_POOL_SEED, rows, cols, down, across, number]).standard_normal(
        (down, across), dtype=np.float32
    )
    cell, weights = _spline_basis(cols, across)
    bands = sum(knots[:, (cell + k) % across] * weights[k] for k in range(4))
    cell, weights = _spline_basis(rows, down)
    field: F32 = bands[cell % down] * weights[0][:, None]
    for k in range(1, 4):
        field += bands[(cell + k) % down] * weights[k][:, None]
    field.setflags(write=False)
    return field


def _rounded(cells: float) -> int:
    step = round(float(np.log2(max(cells, 2))) * _STEPS_PER_OCTAVE)
    return max(2, round(float(2 ** (step / _STEPS_PER_OCTAVE))))


def smooth_field(rng: np.random.Generator, shape: Shape, cells: float | tuple[float, float]) -> F32:
    """Zero-mean field of unit variance, ``[rows, columns]``.

    ``cells`` is about how many independent bumps fit across the columns, or (across rows, across columns).
    """
    rows, cols = shape
    down, across = cells if isinstance(cells, tuple) else (cells * rows / cols, cells)
    number, flips, dy, dx = rng.integers(0, (_POOL, 8, rows, cols)).tolist()
    if rows * cols < _SMALL:  # windows come in every size: pooling them would only fill memory
        return _window(rng, shape, _rounded(down), _rounded(across))
    pooled = _pooled(shape, _rounded(down), _rounded(across), number)
    if flips & 1:
        pooled = pooled[::-1]
    if flips & 2:
        pooled = pooled[:, ::-1]
    field = np.empty(shape, np.float32)
    field[dy:, dx:], field[:dy, dx:] = pooled[: rows - dy, : cols - dx], pooled[rows - dy :, : cols - dx]
    field[dy:, :dx], field[:dy, :dx] = pooled[: rows - dy, cols - dx :], pooled[rows - dy :, cols - dx :]
    return np.negative(field, out=field) if flips & 4 else field


_SMALL: Final = 90 * 90


def _window(rng: np.random.Generator, shape: Shape, down: int, across: int) -> F32:
    knots = rng.standard_normal((down + 3, across + 3), dtype=np.float32)
    cell, weights = _spline_basis(shape[1], across)
    bands = sum(knots[:, cell + k] * weights[k] for k in range(4))
    cell, weights = _spline_basis(shape[0], down)
    field: F32 = sum(bands[cell + k] * weights[k][:, None] for k in range(4))
    return field


def ridges(rng: np.random.Generator, shape: Shape, cells: float | tuple[float, float], width: float) -> F32:
    """Thin bright lines (0 to 1) along the zero crossings of a smooth field."""
    field: F32 = np.abs(smooth_field(rng, shape, cells)) * np.float32(-1 / width)
    field += 1
    return np.maximum(field, 0, out=field)
