"""The dural sac: epidural fat, flavum, dura, and the content that carries the grade."""

from __future__ import annotations

from typing import Final

import numpy as np

from training.phantom.anatomy import Canal
from training.phantom.canvas import Blob, Canvas, Patch, Rod, coverage, ellipse
from training.phantom.fields import F32, smooth_field
from training.phantom.tissue import Tissues
from training.phantom.words import Lookalike, RootPattern, SliceContent, SliceKind

_CROWDED: Final = ((0.08, 0.42), (0.0, 1.0))
"""Severity between which the roots come to fill the sac."""
_VEIL: Final = ((0.12, 0.25, 0.36, 0.44, 0.56, 0.68), (0.0, 0.2, 0.4, 0.6, 0.92, 0.98))
"""How much of the CSF between the roots is lost in a slice's thickness, by severity."""
_LAYER_TOP: Final = ((0.0, 0.12, 0.25, 0.4), (0.46, 0.2, -0.3, -1.2))
"""Where the layer of roots begins, in distances from centre to dorsal wall, by severity."""
_FAT_LEFT: Final = ((0.6, 0.75, 0.9), (1.0, 0.75, 0.35))


def paint_canal(canvas: Canvas, rng: np.random.Generator, *, canal: Canal, tissues: Tissues) -> F32:
    """Paint the canal and return the sac's coverage ``[rows, columns]``, 0 to 1 per pixel."""
    _paint_epidural(canvas, rng, canal, tissues)
    patch = canvas.patch(Blob(0, 0, canal.sac))
    if canal.content is SliceContent.CORD:
        _paint_cord(canvas, rng, canal, tissues, patch)
    elif canal.lookalike in (Lookalike.CLUMPS, Lookalike.EMPTY) and canal.severity < 0.35:
        _paint_arachnoiditis(canvas, rng, canal, tissues, patch)
    else:
        _paint_roots(canvas, rng, canal, tissues, patch)
    sac = np.zeros(canvas.shape, np.float32)
    sac[patch.window] = coverage(patch.distance, canvas.spacing_mm)
    return sac


def _paint_epidural(canvas: Canvas, rng: np.random.Generator, canal: Canal, tissues: Tissues) -> None:
    t = tissues
    rim = (canal.flavum + rng.uniform(0.6, 1.1)).astype(np.float32)
    dark = t.cortex if canal.kind in (SliceKind.PEDICLE, SliceKind.SACRUM) else t.flavum * 0.9
    canvas.paint(canvas.patch(Blob(0, 0, rim)), (dark, 0))
    if canal.kind in (SliceKind.DISC, SliceKind.FORAMEN):
        canvas.paint(canvas.patch(Blob(0, 0, canal.flavum)), (t.flavum, 0.01), texture=2, soft=1.3)
    fat = t.fat * rng.uniform(0.8, 1.05) * float(np.interp(canal.severity, *_FAT_LEFT))
    canvas.paint(canvas.patch(Blob(0, 0, canal.epidural)), (0.05, fat), texture=1.6, soft=1.2)
    veins = rng.random() < 0.5 and canal.kind is not SliceKind.PEDICLE
    for side in (-1, 1):
        vein = Blob(side * canal.side * 0.6, -canal.front * 0.98 - 0.8, ellipse(2.4, 0.9))
        signal = rng.uniform(0.15, 0.7)
        if veins:
            canvas.paint(canvas.patch(vein), (signal, 0))
    dura = (canal.sac + rng.uniform(0.1, 0.4)).astype(np.float32)
    canvas.paint(canvas.patch(Blob(0, 0, dura)), (t.dura * 1.3, t.fat * 0.12))


def _paint_roots(canvas: Canvas, rng: np.random.Generator, canal: Canal, tissues: Tissues, patch: Patch) -> None:
    """Roots and CSF: from a layer at the back, over a grainy sac, to one grey in which nothing can be told apart."""
    s = canal.severity + 0.012 * float(rng.standard_normal())
    crowded = float(np.interp(s, *_CROWDED))
    veil = float(np.interp(s, *_VEIL))
    grey = tissues.root + float(np.clip((s - 0.3) / 0.3, 0, 1)) * (tissues.crowded - tissues.root)
    csf = tissues.csf * rng.uniform(0.88, 1.0)
    canvas.paint(patch, (csf + crowded * veil * (grey - csf), 0), texture=0.5 + crowded)
    if rng.random() < 0.3 * (1 - crowded):
        _paint_flow_void(canvas, rng, canal)
    radius = rng.uniform(0.5, 0.85)
    area = float(coverage(patch.distance, canvas.spacing_mm).sum()) * canvas.spacing_mm**2
    all_over = area / (np.pi * (radius * 1.28) ** 2)
    wanted = (1 - crowded) * canal.sizes.roots * rng.uniform(0.85, 1.25) + crowded * all_over
    top = float(np.interp(s, *_LAYER_TOP))
    x, y = canvas.x[patch.window], canvas.y[patch.window]
    strength = rng.uniform(0.6, 0.95) * (1 - crowded) + rng.uniform(0.8, 1.0) * crowded
    alpha = np.zeros_like(x)
    if veil < 0.95:
        places = _scatter(rng, canal, max(5, int(wanted)), (1.2 + 0.4 * crowded) * radius, crowded, top)
        alpha = _dots(rng, canvas, x, y, places, radius, strength)
    if canal.pattern is RootPattern.DORSAL and crowded < 1 and rng.random() < 0.5:  # a layer thinner than a slice
        level = canal.back * max(top + rng.uniform(-0.1, 0.15), -0.9)
        np.maximum(alpha, rng.uniform(0.35, 0.8) * np.clip((y - level) / 1.5, 0, 1), out=alpha)
    if veil > 0:  # oblique roots
        behind = np.clip((y - canal.back * top) / 2 + 0.5, 0.25, 1)
        np.maximum(alpha, veil * (1 - crowded) * behind, out=alpha)
    alpha *= coverage(patch.distance, canvas.spacing_mm, 0.1)
    water = canvas.water[patch.window]
    water += alpha * (grey - water)
    grain = smooth_field(rng, patch.distance.shape, 6)
    water *= 1 + coverage(patch.distance, canvas.spacing_mm) * (0.07 * crowded) * grain


def _paint_flow_void(canvas: Canvas, rng: np.random.Generator, canal: Canal) -> None:
    void = ellipse(rng.uniform(1, 4), rng.uniform(1, 3))
    place = Blob(rng.normal(0, canal.side * 0.3), rng.normal(-canal.front * 0.2, canal.front * 0.3), void)
    canvas.paint(canvas.patch(place), (rng.uniform(0.35, 0.8), 0), soft=5)


def _paint_arachnoiditis(
    canvas: Canvas, rng: np.random.Generator, canal: Canal, tissues: Tissues, patch: Patch
) -> None:
    """Roots stuck together in a few strands, or to the wall, so that the sac looks empty."""
    canvas.paint(patch, (tissues.csf * rng.uniform(0.88, 1.0), 0), texture=0.5)
    if canal.lookalike is Lookalike.EMPTY:
        rim = np.clip(1 - np.abs(patch.distance + 1.0) / 1.1, 0, 1) * rng.uniform(0.45, 0.85)
        water = canvas.water[patch.window]
        water += rim * (tissues.root - water)
        return
    for _ in range(int(rng.integers(2, 5))):
        x, y = rng.normal(0, 0.35 * canal.side), rng.normal(0.1 * canal.back, 0.3 * canal.back)
        size = rng.uniform(1.4, 3.0)
        lobes = ((2, 0.2, rng.uniform(0, 6)), (3, 0.15, rng.uniform(0, 6)))
        clump = canvas.patch(Blob(x, y, ellipse(size, size * rng.uniform(0.6, 1.0), lobes=lobes)))
        clump = Patch(clump.window, np.maximum(clump.distance, _distance_in(patch, clump.window) + 0.4))
        canvas.paint(clump, (tissues.root * rng.uniform(0.9, 1.1), 0), soft=1.4, opacity=rng.uniform(0.8, 1.0))


def _distance_in(patch: Patch, window: tuple[slice, slice]) -> F32:
    """The distances of a patch on another window; far outside where they do not meet."""
    found = np.full((window[0].stop - window[0].start, window[1].stop - window[1].start), 9.0, np.float32)
    (r, c), (pr, pc) = window, patch.window
    rows = slice(max(r.start, pr.start), min(r.stop, pr.stop))
    cols = slice(max(c.start, pc.start), min(c.stop, pc.stop))
    if rows.start < rows.stop and cols.start < cols.stop:
        found[rows.start - r.start : rows.stop - r.start, cols.start - c.start : cols.stop - c.start] = patch.distance[
            rows.start - pr.start : rows.stop - pr.start, cols.start - pc.start : cols.stop - pc.start
        ]
    return found


def _scatter(rng: np.random.Generator, canal: Canal, wanted: int, apart: float, crowded: float, top: float) -> F32:
    """Root centres ``[n, 2]`` (mm) by dart throwing in the part of the sac that the roots fill."""
    tries = 14 * wanted
    angle = rng.uniform(-np.pi, np.pi, tries)
    u = np.sqrt(rng.uniform(0, 1, tries))
    limit = rng.normal(0, 0.12, tries)
    luck = rng.random(tries)
    radius = u * _radii(canal.sac, angle) * 0.93
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    dorsal = y / canal.back
    if canal.content is SliceContent.CORD:
        good = (u > 0.55) & ((np.abs(dorsal) > 0.15) | (luck < 0.35))
    else:
        match canal.pattern:
            case RootPattern.HORSESHOE:
                good = ((u > 0.72 * (1 - crowded)) & (dorsal > -0.55 - crowded)) | (dorsal > 0.68 - 1.7 * crowded)
            case RootPattern.CENTRAL:
                good = u < 0.62 + 0.4 * crowded
            case _:
                good = dorsal > top + limit
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
    girth = 1 - (1 - full) ** 2.2  # the cone is blunt: it gains most of its width within a centimetre
    half_width = (2.6 + 7.0 * girth) / 2 * rng.uniform(0.9, 1.08)
    half_depth = (2.4 + 5.2 * girth) / 2 * rng.uniform(0.9, 1.08)
    y = rng.normal(0.12, 0.12) * back + (1 - full) * back * 0.25
    places = _scatter(rng, canal, int(canal.sizes.roots * rng.uniform(0.5, 1)), 1.1, 0.0, 0.0)
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
