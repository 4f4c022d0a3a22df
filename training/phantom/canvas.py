"""Shapes in a warped millimetre frame, painted over one another on two maps: water and fat.

Fat is kept apart because the scanner shifts it along the frequency axis (chemical shift) before the two are added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.phantom.fields import F32, Shape, smooth_field

_N = 512


def _table_angles() -> F32:
    p = (np.arange(_N) + 0.5) * (4 / _N) - 1
    q = np.where(p <= 1, p, 2 - p)
    angles: F32 = np.arctan2(q, np.where(p <= 1, 1, -1) * (1 - np.abs(q))).astype(np.float32)
    return angles


ANGLES = _table_angles()
"""Angles (radians, pi/2 is dorsal) at which contour tables are sampled.

They are uniform in the *diamond angle* y / (abs(x) + abs(y)), which costs no arctan to evaluate at every pixel.
"""
_COS, _SIN = np.cos(ANGLES), np.sin(ANGLES)
_ARC = (np.diff(np.unwrap(np.append(ANGLES, ANGLES[0]))) + np.diff(np.unwrap(np.insert(ANGLES, 0, ANGLES[-1])))) / 2
_SORTED = np.argsort(ANGLES)

Lobes = Sequence[tuple[int, float, float]]
"""Fourier terms of a contour: (order, relative amplitude, phase in radians)."""


def ellipse(a: float, b: float, *, power: float = 2.0, tilt: float = 0.0, lobes: Lobes = ()) -> F32:
    """Contour table of a superellipse with half-axes ``a`` (x) and ``b`` (y), tilted, times Fourier lobes."""
    cos, sin = (_COS, _SIN) if not tilt else (np.cos(ANGLES - np.float32(tilt)), np.sin(ANGLES - np.float32(tilt)))
    if power == 2:
        radii = 1 / np.sqrt((cos * np.float32(1 / a)) ** 2 + (sin * np.float32(1 / b)) ** 2)
    else:
        c, s = np.abs(cos * np.float32(1 / a)), np.abs(sin * np.float32(1 / b))
        radii = (c ** np.float32(power) + s ** np.float32(power)) ** np.float32(-1 / power)
    for order, amplitude, phase in lobes:
        radii = radii * (1 + np.float32(amplitude) * np.cos(np.float32(order) * (ANGLES - np.float32(phase))))
    table: F32 = radii.astype(np.float32, copy=False)
    return table


def bump(angle: float, width: float) -> F32:
    """Gaussian bump of height 1 around an angle, for contours."""
    d = (ANGLES - angle + np.pi) % (2 * np.pi) - np.pi
    table: F32 = np.exp(-((d / width) ** 2)).astype(np.float32)
    return table


def radius_at(radii: F32, angle: float) -> float:
    """Radius of a contour table at any angle."""
    wrapped = (angle + np.pi) % (2 * np.pi) - np.pi
    return float(np.interp(wrapped, ANGLES[_SORTED], radii[_SORTED], period=2 * np.pi))


def contour_area(radii: F32) -> float:
    """Area enclosed by a contour table, mm2."""
    return float(0.5 * np.sum(radii.astype(np.float64) ** 2 * _ARC))


@dataclass(frozen=True, slots=True)
class Blob:
    """Star-shaped region: a contour table around a centre (mm)."""

    x: float
    y: float
    radii: F32


@dataclass(frozen=True, slots=True)
class Rod:
    """Tapered capsule between two points (mm)."""

    start: tuple[float, float]
    end: tuple[float, float]
    r0: float
    r1: float


Figure = Blob | Rod


@dataclass(frozen=True, slots=True)
class Patch:
    """Signed distance (mm, negative inside) on a window of the canvas."""

    window: tuple[slice, slice]
    distance: F32


@dataclass(frozen=True, slots=True)
class Pose:
    """Where the sac centre lies on the image (mm from its centre) and how the frame is turned."""

    x_mm: float = 0.0
    y_mm: float = 0.0
    rotation: float = 0.0
    shear: float = 0.0


class Canvas:
    """Water and fat maps ``[rows, columns]`` and the mm frame coordinates of every pixel."""

    def __init__(
        self, shape: Shape, spacing_mm: float, pose: Pose, *, warp_mm: float, bend_mm: float, rng: np.random.Generator
    ) -> None:
        """``warp_mm``: amplitude of the smooth deformation; ``bend_mm``: of a sideways S-bend (spinal deformity)."""
        rows, cols = shape
        self.shape, self.spacing_mm, self.pose = shape, spacing_mm, pose
        self._slack_mm = 2.6 * warp_mm + 2 * abs(bend_mm) + 0.8
        u = ((np.arange(cols, dtype=np.float32) - (cols - 1) / 2) * spacing_mm - pose.x_mm)[None, :]
        v = ((np.arange(rows, dtype=np.float32) - (rows - 1) / 2) * spacing_mm - pose.y_mm)[:, None]
        c, s = float(np.cos(pose.rotation)), float(np.sin(pose.rotation))
        coarse, middle = rng.uniform(3, 6), rng.uniform(10, 16)
        cells, fine_mm = (coarse, middle, 40.0), rng.uniform(0.08, 0.28)
        self.x: F32 = c * u + (s + pose.shear) * v + _octaves(rng, shape, cells, (warp_mm, 0.17 * warp_mm, fine_mm))
        self.y: F32 = c * v - s * u + _octaves(rng, shape, cells, (0.8 * warp_mm, 0.17 * warp_mm, fine_mm))
        if bend_mm:
            self.x += bend_mm * np.sin(self.y * (2 * np.pi / rng.uniform(90, 160)))
        self.water = np.zeros(shape, np.float32)
        self.fat = np.zeros(shape, np.float32)
        fine = max(4.0, cols * spacing_mm / 3.2)
        self.texture: F32 = 1 + _octaves(rng, shape, (fine, 26.0, 8.0), (0.05, 0.04, 0.04))

    def window(self, x: float, y: float, reach: float) -> tuple[slice, slice]:
        """Pixels that a disc of ``reach`` mm around a frame point can touch, warp included."""
        c, s = np.cos(self.pose.rotation), np.sin(self.pose.rotation)
        reach = reach * 1.04 + self._slack_mm + 0.04 * (abs(x) + abs(y))
        x = x - self.pose.shear * y
        px = (c * x - s * y + self.pose.x_mm) / self.spacing_mm + (self.shape[1] - 1) / 2
        py = (s * x + c * y + self.pose.y_mm) / self.spacing_mm + (self.shape[0] - 1) / 2
        k = reach / self.spacing_mm
        return _clip(py, k, self.shape[0]), _clip(px, k, self.shape[1])

    def patch(self, figure: Figure, *, window: tuple[slice, slice] | None = None) -> Patch:
        """Signed distance to a figure; approximate for blobs (along the ray from the centre)."""
        if isinstance(figure, Blob):
            window = window or self.window(figure.x, figure.y, float(figure.radii.max()))
            return Patch(window, _blob_distance(self.x[window] - figure.x, self.y[window] - figure.y, figure.radii))
        (x0, y0), (x1, y1) = figure.start, figure.end
        half = float(np.hypot(x1 - x0, y1 - y0)) / 2 + max(figure.r0, figure.r1)
        window = window or self.window((x0 + x1) / 2, (y0 + y1) / 2, half)
        return Patch(window, _rod_distance(self.x[window], self.y[window], figure))

    def union(self, figures: Sequence[Figure]) -> Patch:
        """Distance to the union of figures: overlapping bones grow together without an inner line."""
        patches = [p for p in map(self.patch, figures) if p.distance.size]
        if not patches:
            return Patch((slice(0, 0), slice(0, 0)), np.zeros((0, 0), np.float32))
        rows = slice(min(p.window[0].start for p in patches), max(p.window[0].stop for p in patches))
        cols = slice(min(p.window[1].start for p in patches), max(p.window[1].stop for p in patches))
        whole = np.full((rows.stop - rows.start, cols.stop - cols.start), 1e3, np.float32)
        for p in patches:
            r, c = p.window
            part = whole[r.start - rows.start : r.stop - rows.start, c.start - cols.start : c.stop - cols.start]
            np.minimum(part, p.distance, out=part)
        return Patch((rows, cols), whole)

    def paint(
        self,
        patch: Patch,
        signal: tuple[float, float],
        *,
        inset: float = 0.0,
        soft: float = 1.0,
        texture: float = 1.0,
        opacity: float | F32 = 1.0,
    ) -> None:
        """Paint (water, fat) over what is there, ``inset`` mm inside the contour, edge ``soft`` pixels wide."""
        if not patch.distance.size:
            return
        alpha = coverage(patch.distance, self.spacing_mm * soft, inset)
        if not isinstance(opacity, float) or opacity < 1:
            alpha *= opacity
        tex = self.texture[patch.window] * np.float32(texture)
        tex += np.float32(1 - texture)
        for tissue, strength in zip((self.water, self.fat), signal, strict=True):
            part = tissue[patch.window]
            step = tex * np.float32(strength)
            step -= part
            step *= alpha
            np.add(part, step, out=part)


def coverage(distance: F32, edge_mm: float, inset: float = 0.0) -> F32:
    """Fraction (0 to 1) of a pixel inside a contour whose edge is ``edge_mm`` wide."""
    alpha = distance * np.float32(-1 / edge_mm)
    alpha += np.float32(0.5 - inset / edge_mm)
    return np.clip(alpha, 0, 1, out=alpha)


def _octaves(rng: np.random.Generator, shape: Shape, cells: Sequence[float], sizes: Sequence[float]) -> F32:
    """Sum of smooth fields, each with its number of cells across and its standard deviation."""
    total = np.zeros(shape, np.float32)
    for n, size in zip(cells, sizes, strict=True):
        total += np.float32(size) * smooth_field(rng, shape, n)
    return total


def _clip(centre: float, reach: float, n: int) -> slice:
    start = min(n, max(0, int(centre - reach)))
    return slice(start, max(start, min(n, int(centre + reach) + 2)))


def _blob_distance(dx: F32, dy: F32, radii: F32) -> F32:
    if not dx.size:
        return dx
    p = np.abs(dx)
    p += np.abs(dy)
    p += np.float32(1e-9)
    np.divide(dy, p, out=p)
    np.subtract(2, p, out=p, where=dx < 0)
    p += 1
    p *= np.float32(_N / 4)
    squared = np.square(dx)
    squared += np.square(dy)
    np.sqrt(squared, out=squared)
    distance: F32 = np.subtract(squared, radii.take(p.astype(np.int32), mode="wrap"), out=squared)
    return distance


def _rod_distance(x: F32, y: F32, rod: Rod) -> F32:
    dx, dy = x - np.float32(rod.start[0]), y - np.float32(rod.start[1])
    ex, ey = np.float32(rod.end[0] - rod.start[0]), np.float32(rod.end[1] - rod.start[1])
    t = np.clip((dx * ex + dy * ey) * np.float32(1 / (ex * ex + ey * ey + 1e-6)), 0, 1)
    distance: F32 = np.sqrt((dx - t * ex) ** 2 + (dy - t * ey) ** 2)
    distance -= np.float32(rod.r0) + np.float32(rod.r1 - rod.r0) * t
    return distance
