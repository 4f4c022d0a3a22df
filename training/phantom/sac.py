"""The dural sac: epidural fat, flavum, dura, and the content that carries the grade."""

from __future__ import annotations

import numpy as np

from stenosis_node.domain import Grade
from training.phantom.anatomy import Canal
from training.phantom.canvas import Blob, Canvas, Patch, Rod, coverage, ellipse
from training.phantom.fields import F32, smooth_field
from training.phantom.tissue import Tissues
from training.phantom.words import SliceContent, SliceKind, Subgrade

_LAYER: dict[Subgrade | None, tuple[float, float]] = {
    Subgrade.A1: (0.9, 1.15),
    Subgrade.A2: (1.0, 1.3),
    Subgrade.A3: (1.5, 1.55),
    Subgrade.A4: (1.5, 1.4),
}
"""(share of the level's roots that are seen, least distance in root radii)"""


def paint_canal(canvas: Canvas, rng: np.random.Generator, *, canal: Canal, tissues: Tissues) -> F32:
    """Paint the canal and return the sac's coverage ``[rows, columns]``, 0 to 1 per pixel."""
    _paint_epidural(canvas, rng, canal, tissues)
    patch = canvas.patch(Blob(0, 0, canal.sac))
    if canal.content is SliceContent.CORD:
        _paint_cord(canvas, rng, canal, tissues, patch)
    elif _looks(canal) in (Grade.C, Grade.D):
        _paint_crowded(canvas, rng, patch, tissues)
    else:
        _paint_roots(canvas, rng, canal, tissues, patch)
    sac = np.zeros(canvas.shape, np.float32)
    sac[patch.window] = coverage(patch.distance, canvas.spacing_mm)
    return sac


def _looks(canal: Canal) -> Grade:
    """Grade whose morphology is drawn; 'other' slices have one too."""
    if canal.grade is not None:
        return canal.grade
    return {0.0: Grade.A, 0.45: Grade.B, 0.75: Grade.C}.get(canal.narrowing, Grade.D)


def _paint_epidural(canvas: Canvas, rng: np.random.Generator, canal: Canal, tissues: Tissues) -> None:
    t = tissues
    rim = (canal.flavum + rng.uniform(0.6, 1.1)).astype(np.float32)
    dark = t.cortex if canal.kind in (SliceKind.PEDICLE, SliceKind.SACRUM) else t.flavum * 0.9
    canvas.paint(canvas.patch(Blob(0, 0, rim)), (dark, 0))
    if canal.kind in (SliceKind.DISC, SliceKind.FORAMEN):
        canvas.paint(canvas.patch(Blob(0, 0, canal.flavum)), (t.flavum, 0.01), texture=2, soft=1.3)
    fat = t.fat * rng.uniform(0.8, 1.05) * (0.35 if _looks(canal) is Grade.D else 1.0)
    canvas.paint(canvas.patch(Blob(0, 0, canal.epidural)), (0.05, fat), texture=1.6, soft=1.2)
    veins = rng.random() < 0.5 and canal.kind is not SliceKind.PEDICLE
    for side in (-1, 1):
        vein = Blob(side * canal.side * 0.6, -canal.front * 0.98 - 0.8, ellipse(2.4, 0.9))
        signal = rng.uniform(0.15, 0.7)
        if veins:
            canvas.paint(canvas.patch(vein), (signal, 0))
    dura = (canal.sac + rng.uniform(0.1, 0.4)).astype(np.float32)
    canvas.paint(canvas.patch(Blob(0, 0, dura)), (t.dura * 1.3, t.fat * 0.12))


def _paint_crowded(canvas: Canvas, rng: np.random.Generator, patch: Patch, tissues: Tissues) -> None:
    """Grades C and D: no root and no CSF to be seen."""
    canvas.paint(patch, (tissues.crowded, 0), texture=1.6, soft=1.3)
    grain = smooth_field(rng, patch.distance.shape, 6)
    canvas.water[patch.window] *= 1 + coverage(patch.distance, canvas.spacing_mm) * 0.07 * grain


def _paint_roots(canvas: Canvas, rng: np.random.Generator, canal: Canal, tissues: Tissues, patch: Patch) -> None:
    canvas.paint(patch, (tissues.csf * rng.uniform(0.88, 1.0), 0), texture=0.5)
    grade_b = _looks(canal) is Grade.B
    layout = None if grade_b else (canal.subgrade or Subgrade.A1)
    if not grade_b and rng.random() < 0.3:  # flow void
        void = ellipse(rng.uniform(1, 4), rng.uniform(1, 3))
        place = Blob(rng.normal(0, canal.side * 0.3), rng.normal(-canal.front * 0.2, canal.front * 0.3), void)
        canvas.paint(canvas.patch(place), (rng.uniform(0.35, 0.8), 0), soft=5)
    radius = rng.uniform(0.5, 0.85)
    if grade_b:
        area = float(coverage(patch.distance, canvas.spacing_mm).sum()) * canvas.spacing_mm**2
        wanted, apart = int(area / (np.pi * (radius * 1.28) ** 2)), 1.6 * radius
    else:
        share, spacing = _LAYER[layout]
        wanted, apart = int(canal.sizes.roots * share), spacing * radius
    places = _scatter(rng, canal, layout, max(5, wanted), apart)
    x, y = canvas.x[patch.window], canvas.y[patch.window]
    strength = rng.uniform(0.8, 1.0) if grade_b else rng.uniform(0.55, 0.95)
    alpha = _dots(rng, canvas, x, y, places, radius, strength)
    if layout is Subgrade.A1 and rng.random() < 0.5:  # a sedimented layer thinner than a slice
        level = canal.back * rng.uniform(0.35, 0.6)
        np.maximum(alpha, rng.uniform(0.35, 0.8) * np.clip((y - level) / 1.5, 0, 1), out=alpha)
    if grade_b:  # oblique roots veil the CSF between them
        np.maximum(alpha, rng.uniform(0.28, 0.54), out=alpha)
    alpha *= coverage(patch.distance, canvas.spacing_mm, 0.1)
    water = canvas.water[patch.window]
    water += alpha * (tissues.root - water)


def _scatter(rng: np.random.Generator, canal: Canal, layout: Subgrade | str | None, wanted: int, apart: float) -> F32:
    """Root centres ``[n, 2]`` (mm) by dart throwing in the part of the sac that the subgrade fills."""
    tries = 14 * wanted
    angle = rng.uniform(-np.pi, np.pi, tries)
    u = np.sqrt(rng.uniform(0, 1, tries))
    limit = rng.normal(0, 0.12, tries)
    luck = rng.random(tries)
    order = np.argsort(angle, kind="stable")
    edge = np.empty(tries)
    edge[order] = _radii(canal.sac, angle[order])
    radius = u * edge * 0.93
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    dorsal = y / canal.back
    match layout:
        case Subgrade.A1:
            good = dorsal > 0.42 + limit
        case Subgrade.A2:
            good = ((u > 0.72) & (dorsal > -0.55)) | (dorsal > 0.68)
        case Subgrade.A3:
            good = dorsal > -0.10 + limit
        case Subgrade.A4:
            good = u < 0.72
        case "around the cord":
            good = (u > 0.55) & ((np.abs(dorsal) > 0.15) | (luck < 0.35))
        case _:
            good = np.ones(tries, bool)
    taken: list[tuple[float, float]] = []
    for px, py in zip(x[good].tolist(), y[good].tolist(), strict=True):
        if all((px - qx) ** 2 + (py - qy) ** 2 >= apart * apart for qx, qy in taken):
            taken.append((px, py))
            if len(taken) == wanted:
                break
    return np.asarray(taken, np.float32).reshape(-1, 2)


def _radii(table: F32, angles: np.ndarray) -> np.ndarray:
    c, s = np.cos(angles), np.sin(angles)
    p = s / (np.abs(c) + np.abs(s))
    p = np.where(c >= 0, p, 2 - p)
    index = ((p + 1) * (table.size / 4)).astype(int) % table.size
    radii: np.ndarray = table[index]
    return radii


def _dots(rng: np.random.Generator, canvas: Canvas, x: F32, y: F32, places: F32, radius: float, strength: float) -> F32:
    """Coverage of round roots of about ``radius`` mm, each with its own size, flattening and opacity."""
    alpha = np.zeros_like(x)
    edge = max(canvas.spacing_mm, 0.8)
    n = len(places)
    radii, flat = radius * rng.uniform(0.75, 1.3, n), rng.uniform(0.85, 1.15, n)
    opacity = strength * rng.uniform(0.75, 1.0, n)
    for k in range(n):
        d = np.hypot((x - places[k, 0]) / np.float32(flat[k]), y - places[k, 1])
        np.maximum(alpha, np.float32(opacity[k]) * coverage(d, edge, radii[k] * -1.0), out=alpha)
    return alpha


def _paint_cord(canvas: Canvas, rng: np.random.Generator, canal: Canal, tissues: Tissues, patch: Patch) -> None:
    canvas.paint(patch, (tissues.csf * rng.uniform(0.88, 1.0), 0), texture=0.5)
    full, back = canal.cord_fullness, canal.back
    half_width = (5.0 + 4.6 * full) / 2 * rng.uniform(0.9, 1.08)
    half_depth = (4.2 + 3.4 * full) / 2 * rng.uniform(0.9, 1.08)
    y = rng.normal(0.12, 0.12) * back + (1 - full) * back * 0.25
    places = _scatter(rng, canal, "around the cord", int(canal.sizes.roots * rng.uniform(0.5, 1)), 1.1)
    gx, gy = canvas.x[patch.window], canvas.y[patch.window]
    alpha = _dots(rng, canvas, gx, gy, places, rng.uniform(0.45, 0.65), rng.uniform(0.5, 0.95))
    alpha *= coverage(patch.distance, canvas.spacing_mm, 0.1)
    water = canvas.water[patch.window]
    water += alpha * (tissues.root - water)
    cord = ellipse(half_width, half_depth, power=2.1, lobes=((2, 0.03 * rng.standard_normal(), 1.0),))
    canvas.paint(canvas.patch(Blob(0, y, cord)), (tissues.cord, 0), soft=1.5)
    grey = rng.uniform(1.0, 1.18)
    for side in (-1, 1):
        horn = Blob(side * half_width * 0.35, y, ellipse(half_width * 0.22, half_depth * 0.5))
        canvas.paint(canvas.patch(horn), (tissues.cord * grey, 0), soft=3.5)
        if rng.random() < 0.4:  # rootlets leaving at the dorsolateral sulcus
            rod = Rod(
                (side * half_width * 0.7, y + half_depth * 0.8),
                (side * half_width * 1.2, y + half_depth * 1.1),
                0.5,
                0.3,
            )
            canvas.paint(canvas.patch(rod), (tissues.root * 1.3, 0), soft=1.5)
