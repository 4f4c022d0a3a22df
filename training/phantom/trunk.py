"""Everything around the spine: fat, abdominal wall and organs, vessels, muscles, skin and air."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.phantom.anatomy import Build, Canal
from training.phantom.canvas import Blob, Canvas, Figure, Patch, Rod, coverage, ellipse
from training.phantom.fields import F32, ridges, smooth_field
from training.phantom.tissue import Tissues

_UPPER = ("T11", "T12", "L1", "L2", "L3")
_PELVIC = ("L5", "S1")
_BOWEL_CONTENTS = (0.03, 0.2, 0.35, 0.6, 0.95, 1.2)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the slice cuts the trunk: frame y of the vertebral body, and the height along the spine (mm)."""

    body_y: float
    body_half_depth: float
    height_mm: float


def paint_trunk(
    canvas: Canvas, rng: np.random.Generator, *, build: Build, canal: Canal, place: Place, tissues: Tissues
) -> None:
    """Paint from back to front; bones and canal come after.

    Each part has its own stream: what one level shows and another does not leaves the other parts as they were.
    """
    fat, wall, bowel, kidneys, vessels, muscles, wings = rng.spawn(7)
    _paint_fat(canvas, fat, tissues)
    _paint_wall(canvas, wall, build, place, tissues)
    _paint_bowel(canvas, bowel, place, tissues)
    _paint_mesentery(canvas, bowel, place, tissues)
    if canal.level in _UPPER:
        _paint_kidneys(canvas, kidneys, place, tissues)
    _paint_vessels(canvas, vessels, canal.level, place, tissues)
    _paint_muscles(canvas, muscles, build, canal, place, tissues)
    if canal.level == "L5" and wings.random() < 0.5:
        _paint_iliac_wings(canvas, wings, build, place, tissues)


def _paint_fat(canvas: Canvas, rng: np.random.Generator, tissues: Tissues) -> None:
    canvas.water += 0.04
    shade = 1 + 0.05 * smooth_field(rng, canvas.shape, 9)
    septa = ridges(rng, canvas.shape, canvas.shape[1] * canvas.spacing_mm / 17, 0.06)
    septa *= (smooth_field(rng, canvas.shape, 8) > -0.1) * rng.uniform(0.05, 0.3)
    canvas.fat += tissues.fat * (1 + (canvas.texture - 1) * 0.4) * shade * (1 - septa)


def _paint_wall(canvas: Canvas, rng: np.random.Generator, build: Build, place: Place, tissues: Tissues) -> None:
    """Abdominal wall: a ring of thin muscle in front of which subcutaneous fat remains."""
    half_width = (112 + 22 * build.obesity) * build.scale
    depth = (78 + 34 * build.obesity) * build.scale
    centre = place.body_y - depth * 0.72
    wall = ellipse(half_width, depth, power=2.6, lobes=((2, 0.03 * rng.standard_normal(), 1.0),))
    patch = canvas.patch(Blob(0, centre, wall))
    canvas.paint(patch, (tissues.muscle, 0.02), soft=1.5)
    inner = Patch(patch.window, patch.distance + rng.uniform(6, 12))
    canvas.paint(inner, (0.04, tissues.fat * rng.uniform(0.85, 1.0)), soft=2.0, texture=0.6)


def _paint_bowel(canvas: Canvas, rng: np.random.Generator, place: Place, tissues: Tissues) -> None:
    """Loops scattered along the trunk; those that the plane cuts are shown."""
    front = place.body_y - place.body_half_depth
    n = int(rng.integers(60, 170))
    u, lobe, contents = rng.random((n, 13)), rng.standard_normal((n, 3)), rng.choice(_BOWEL_CONTENTS, n)
    for k in np.flatnonzero(1 - ((place.height_mm + 150 - 300 * u[:, 0]) / (1.6 * (8 + 13 * u[:, 1]))) ** 2 > 0.05):
        height, size = 300 * u[k, 0] - 150, 8 + 13 * u[k, 1]
        size *= float(np.sqrt(1 - ((place.height_mm - height) / (1.6 * size)) ** 2))
        x, depth = 200 * u[k, 2] - 100, 14 + 81 * u[k, 3]
        y = front - depth - 0.0025 * x * x
        if not _visible(canvas, x, y, 1.3 * size):
            continue
        lobes = [(order, 0.07 * lobe[k, i], 6 * u[k, 4 + i]) for i, order in enumerate((2, 3, 5))]
        inside, mixed = contents[k] * (0.7 + 0.4 * u[k, 7]), 0.25 * u[k, 8]
        wall, blur = 0.8 + 1.7 * u[k, 9], 1.5 + 3.5 * u[k, 10]
        patch = canvas.patch(Blob(x, y, ellipse(size, size * (0.5 + 0.5 * u[k, 11]), tilt=3 * u[k, 12], lobes=lobes)))
        canvas.paint(patch, (tissues.muscle * 1.4, 0.05), texture=2, soft=2)
        canvas.paint(patch, (inside, mixed), inset=wall, texture=3, soft=blur)


def _paint_mesentery(canvas: Canvas, rng: np.random.Generator, place: Place, tissues: Tissues) -> None:
    """Small vessels and nodes in the fat before the spine, dark or bright."""
    front = place.body_y - place.body_half_depth
    n = int(rng.integers(10, 36))
    u, signal = rng.random((n, 4)), rng.choice((0.04, 0.1, 0.2, 0.35, 0.9), n)
    for k in range(n):
        x, y, size = 160 * u[k, 0] - 80, front - 4 - 90 * u[k, 1], 0.7 + 3.5 * u[k, 2] ** 3
        if _visible(canvas, x, y, size):
            patch = canvas.patch(Rod((x, y), (x + 8 * u[k, 3] - 4, y + 3 - 6 * u[k, 2]), size, 0.7 * size))
            canvas.paint(patch, (signal[k], 0.05), soft=1.6)


def _visible(canvas: Canvas, x: float, y: float, reach: float) -> bool:
    rows, columns = canvas.window(x, y, reach)
    return bool(rows.stop > rows.start and columns.stop > columns.start)


def _paint_kidneys(canvas: Canvas, rng: np.random.Generator, place: Place, tissues: Tissues) -> None:
    for side in (-1, 1):
        x, y = side * rng.uniform(60, 80), place.body_y + rng.uniform(-10, 14)
        lobes = ((2, 0.06, rng.uniform(0, 6)), (3, 0.05, rng.uniform(0, 6)))
        radii = ellipse(rng.uniform(20, 29), rng.uniform(19, 27), lobes=lobes)
        if rng.random() < 0.2:
            continue
        patch = canvas.patch(Blob(x, y, radii))
        canvas.paint(patch, (tissues.kidney, 0))
        canvas.paint(patch, (tissues.kidney * rng.uniform(1.05, 1.3), 0), inset=rng.uniform(5, 9), soft=5, texture=1.5)
        hilum = Blob(x - side * 8, y - 2, ellipse(11, 7, lobes=((3, 0.15, rng.uniform(0, 6)),)))
        canvas.paint(canvas.patch(hilum), (0.1, tissues.fat * 0.9), soft=4)
    liver = rng.random() < 0.5
    figure = Blob(-108, place.body_y - 30, ellipse(rng.uniform(34, 46), rng.uniform(45, 60), power=2.4))
    if liver:
        canvas.paint(canvas.patch(figure), (tissues.organ, 0.02), texture=0.6)


def _paint_vessels(canvas: Canvas, rng: np.random.Generator, level: str, place: Place, tissues: Tissues) -> None:
    """Aorta (patient left, round) and vena cava (right, flatter), or the four iliac vessels below L4."""
    front = place.body_y - place.body_half_depth
    pelvic = level in _PELVIC
    for side, spread in ((1, 1.0), (-1, 1.0), (1, 2.6), (-1, 2.6)) if pelvic else ((1, 1.0), (-1, 1.0)):
        radius = rng.uniform(4, 7) if pelvic else rng.uniform(6.5, 11)
        flat = 1.0 if side > 0 else rng.uniform(0.55, 1.0)
        x = side * rng.uniform(10, 18) * spread
        y = front - radius * flat - rng.uniform(0.5, 4) + (6 if spread > 2 else 0)
        patch = canvas.patch(Blob(x, y, ellipse(radius / flat**0.5, radius * flat**0.5)))
        canvas.paint(patch, (tissues.muscle * 1.3, 0))
        lumen = tissues.vessel * rng.uniform(0.3, 2.0)
        canvas.paint(patch, (lumen, 0), inset=1.1, soft=2, texture=2)


def _paint_muscles(
    canvas: Canvas,
    rng: np.random.Generator,
    build: Build,
    canal: Canal,
    place: Place,
    tissues: Tissues,
) -> None:
    sizes = canal.sizes
    half_width = sizes.body_half_width * build.scale
    streaks = _fat_streaks(canvas, rng, build)
    es, back = sizes.erector, canal.back
    for side in (-1, 1):
        big = 1 + 0.06 * side * build.asymmetry

        def j(value: float, spread: float = 0.07, big: float = big) -> float:
            return float(value * big * (1 + spread * rng.standard_normal()))

        if sizes.psoas > 0:
            psoas = j(sizes.psoas)
            lobes = ((2, 0.06 * rng.standard_normal(), 1.0), (3, 0.06 * rng.standard_normal(), 0.0))
            centre = side * (half_width + psoas * 0.68 + 0.4)
            figure = Blob(
                centre, place.body_y + rng.uniform(0, 7), ellipse(psoas, j(psoas * 1.12), power=2.3, lobes=lobes)
            )
            _paint_muscle(canvas, canvas.patch(figure), tissues, streaks * 0.25, build)
        if canal.level in ("L2", "L3", "L4"):
            figure = Blob(
                side * j(66, 0.04), back + rng.uniform(-9, 0), ellipse(j(19), j(8), power=2.3, tilt=side * -0.8)
            )
            _paint_muscle(canvas, canvas.patch(figure), tissues, streaks * 0.5, build)
        erector: list[Figure] = [
            Blob(
                side * j(47 * es, 0.04),
                back + j(23),
                ellipse(j(24 * es), j(17 * es), power=2.7, lobes=((3, 0.05, rng.uniform(0, 6)),), tilt=side * -0.25),
            ),
            Blob(
                side * j(29 * es, 0.04),
                back + j(28),
                ellipse(j(16 * es), j(20 * es), power=2.5, lobes=((3, 0.05, rng.uniform(0, 6)),), tilt=side * 0.1),
            ),
            Blob(side * j(13.5, 0.05), back + j(26), ellipse(j(12.5), j(18.5), power=2.5, tilt=side * -0.2)),
        ]
        _paint_muscle(canvas, canvas.union(erector), tissues, streaks, build)
        _paint_septa(canvas, rng, side, es, back, build, tissues)
        if rng.random() < 0.3 + 0.6 * min(build.infiltration, 1):  # fat between lamina and multifidus
            lobes = ((2, 0.2, rng.uniform(0, 6)), (3, 0.25, rng.uniform(0, 6)))
            wedge = ellipse(rng.uniform(3, 8), rng.uniform(3, 7), tilt=side * 0.6, lobes=lobes)
            patch = canvas.patch(Blob(side * rng.uniform(8, 18), back + rng.uniform(12, 17), wedge))
            ragged = Patch(patch.window, patch.distance + 2.0 * (canvas.texture[patch.window] - 1) / 0.06)
            canvas.paint(ragged, (0.05, tissues.fat * rng.uniform(0.6, 1)), texture=2, soft=3)


def _fat_streaks(canvas: Canvas, rng: np.random.Generator, build: Build) -> F32:
    """How much of each muscle pixel is fat: lines between fascicles, more of them medially and with age."""
    shape = canvas.shape
    width_mm = shape[1] * canvas.spacing_mm
    tall, wide = width_mm * shape[0] / shape[1] / 14, width_mm / 4.2
    lines = np.maximum(ridges(rng, shape, (tall, wide), 0.24), ridges(rng, shape, (1.8 * tall, 1.7 * wide), 0.3) * 0.7)
    density = 0.35 + 0.35 * smooth_field(rng, shape, width_mm / 28) + 0.55 * build.infiltration
    density *= np.clip(1.25 - np.abs(canvas.x) * (1 / 70), 0.25, 1.2)
    patchy = np.clip((smooth_field(rng, shape, width_mm / 7) - 2.3 + 1.9 * build.infiltration) * 0.8, 0, 0.7)
    streaks: F32 = np.clip(np.maximum(lines * np.clip(density, 0, 1), patchy), 0, 1)
    return streaks


def _paint_muscle(canvas: Canvas, patch: Patch, tissues: Tissues, streaks: F32, build: Build) -> None:
    if not patch.distance.size:
        return
    canvas.paint(patch, (tissues.muscle, 0.01), inset=0.7, texture=1.3, soft=1.4)
    share = streaks[patch.window] * (0.35 + 0.5 * min(build.infiltration, 1.0))
    share = share * coverage(patch.distance, 1.5, 1.2)
    water, fat = canvas.water[patch.window], canvas.fat[patch.window]
    water *= 1 - 0.8 * share
    fat += share * (tissues.fat * 0.9 - fat)


def _paint_septa(
    canvas: Canvas, rng: np.random.Generator, side: int, es: float, back: float, build: Build, tissues: Tissues
) -> None:
    """Fat between the columns of the erector spinae, and the dark fascia inside it."""
    for x in (21.0, 38.0):
        x0 = side * x * es * rng.uniform(0.92, 1.08)
        start = (x0 + side * rng.uniform(-4, 2), back + rng.uniform(10, 16))
        bend = (x0 + side * rng.uniform(-2, 3), back + rng.uniform(22, 30))
        end = (x0 + side * rng.uniform(0, 7), back + rng.uniform(36, 46))
        w0, w1, w2 = rng.uniform(0.2, 0.6), rng.uniform(0.2, 0.7), rng.uniform(0.3, 0.9 + 1.3 * build.infiltration)
        patch = canvas.union([Rod(start, bend, w0, w1), Rod(bend, end, w1, w2)])
        ragged = Patch(patch.window, patch.distance + 0.5 * (canvas.texture[patch.window] - 1) / 0.07)
        canvas.paint(ragged, (0.06, tissues.fat * rng.uniform(0.5, 0.95)), soft=2)


def _paint_iliac_wings(canvas: Canvas, rng: np.random.Generator, build: Build, place: Place, tissues: Tissues) -> None:
    """At L5 the crests may already be on the slice."""
    for side in (-1, 1):
        s = build.scale * rng.uniform(0.95, 1.05)
        wing = Rod((side * 64 * s, place.body_y + 6), (side * 84 * s, place.body_y + 36), 5 * s, 8 * s)
        patch = canvas.patch(wing)
        canvas.paint(patch, (tissues.cortex, 0), soft=1.3)
        canvas.paint(patch, tissues.marrow_signal, inset=1.4 * build.cortex, texture=1.8, soft=1.6)


def paint_skin(
    canvas: Canvas, rng: np.random.Generator, *, build: Build, canal: Canal, place: Place, tissues: Tissues
) -> None:
    """Cut the body out of the air: a nearly flat back with a midline furrow, lateral and ventral skin far away."""
    back = canal.back + 44 + 42 * build.obesity + rng.uniform(-4, 10)
    curve, furrow = rng.uniform(0, 0.0012), rng.uniform(0, 5) * np.exp(-((canvas.x / rng.uniform(8, 18)) ** 2))
    outside = (canvas.y - (back - curve * canvas.x**2 - furrow)).astype(np.float32)
    half_width, depth = (150 + 35 * build.obesity) * build.scale, (95 + 50 * build.obesity) * build.scale
    np.maximum(outside, np.abs(canvas.x) - np.float32(half_width), out=outside)
    ahead = np.flatnonzero((canvas.y < place.body_y - 25).any(axis=1))
    if ahead.size:
        rows = slice(0, int(ahead[-1]) + 1), slice(0, canvas.shape[1])
        belly = Blob(0, place.body_y - 25, ellipse(half_width, depth + 30, power=2.6))
        trunk = canvas.patch(belly, window=rows).distance
        np.copyto(outside[rows], trunk, where=canvas.y[rows] < place.body_y - 25)
    inside = coverage(outside, canvas.spacing_mm)
    skin = coverage(np.abs(outside + 1.2) - 1.2, canvas.spacing_mm)
    canvas.water += skin * (0.16 - canvas.water)
    canvas.fat += skin * (0.06 - canvas.fat)
    canvas.water *= inside
    canvas.fat *= inside
