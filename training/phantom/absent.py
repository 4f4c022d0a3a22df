"""Slices with no canal to find, so that a detector learns to abstain."""

from __future__ import annotations

import numpy as np

from training.phantom.anatomy import Build
from training.phantom.canvas import Blob, Canvas, Figure, Rod, ellipse
from training.phantom.fields import smooth_field
from training.phantom.tissue import Tissues


def paint_caudal(canvas: Canvas, rng: np.random.Generator, build: Build, tissues: Tissues) -> None:
    """Sacrum below the end of the sac, or coccyx: bone, ilia and gluteal muscle, at most fat in the sacral canal."""
    t, s = tissues, build.scale
    canvas.water += 0.04
    canvas.fat += t.fat * (1 + 0.05 * smooth_field(rng, canvas.shape, 9))
    for side in (-1, 1):
        gluteus = Blob(side * rng.uniform(58, 84), rng.uniform(10, 26), ellipse(50, 26, power=2.3, tilt=side * -0.45))
        canvas.paint(canvas.patch(gluteus), (t.muscle, 0.01), soft=2, texture=1.5)
        for _ in range(6):
            x = side * rng.uniform(50, 130)
            rod = Rod((x, rng.uniform(-20, 0)), (x + rng.uniform(-14, 14), rng.uniform(20, 50)), 0.4, 1.0)
            canvas.paint(canvas.patch(rod), (0.05, t.fat * 0.8), soft=2)
        ilium = Rod((side * 52 * s, rng.uniform(0, 8)), (side * rng.uniform(72, 86) * s, -rng.uniform(20, 45)), 8, 6)
        patch = canvas.patch(ilium)
        canvas.paint(patch, (t.cortex, 0))
        canvas.paint(patch, t.marrow_signal, inset=1.4, texture=2)
        piriformis = Rod((side * 34, -rng.uniform(8, 14)), (side * 84, -rng.uniform(2, 12)), 7, 9)
        canvas.paint(canvas.patch(piriformis), (t.muscle, 0.02), soft=2, texture=1.5)
        iliacus = Blob(side * rng.uniform(66, 88), -rng.uniform(40, 70), ellipse(20, 30, tilt=side * 0.4))
        canvas.paint(canvas.patch(iliacus), (t.muscle, 0.02), soft=2, texture=1.5)
    size = rng.uniform(0.25, 1.0)
    bone: list[Figure] = [Blob(0, 0, ellipse(38 * size * s, 13 * max(size, 0.5), power=2.4, lobes=((2, 0.1, 0.0),)))]
    bone.append(Rod((0, 4), (0, rng.uniform(8, 16) * size + 4), 4, 3))
    patch = canvas.union(bone)
    canvas.paint(patch, (t.cortex, 0))
    canvas.paint(patch, t.marrow_signal, inset=1.2, texture=2)
    for side in (-1, 1):
        foramen = Blob(side * 16 * size, rng.uniform(-3, 1), ellipse(3.6, 3.0))
        canvas.paint(canvas.patch(foramen), (0.05, t.fat))
        canvas.paint(canvas.patch(Blob(foramen.x, foramen.y, ellipse(1.6, 1.4))), (t.root, 0.05))
    if rng.random() < 0.5:
        canvas.paint(canvas.patch(Blob(0, 4, ellipse(4, 2))), (0.05, t.fat * 0.8))
    rectum = Blob(rng.normal(0, 8), -rng.uniform(28, 50), ellipse(rng.uniform(10, 22), rng.uniform(10, 20)))
    patch = canvas.patch(rectum)
    canvas.paint(patch, (t.muscle * 1.5, 0), soft=2)
    canvas.paint(patch, (float(rng.choice([0.02, 0.3, 0.6])), 0.05), inset=3, texture=3, soft=3)
    if rng.random() < 0.5:  # bladder: bright water that is no sac
        bladder = Blob(rng.normal(0, 6), -rng.uniform(70, 100), ellipse(rng.uniform(18, 36), rng.uniform(14, 26)))
        canvas.paint(canvas.patch(bladder), (t.muscle, 0), soft=1.5)
        canvas.paint(canvas.patch(bladder), (t.csf, 0), inset=2.5)


def paint_soft_tissue(canvas: Canvas, rng: np.random.Generator, build: Build, tissues: Tissues) -> None:
    """Muscle, fat, vessels and cysts without a spine: a flank, a thigh, a slice that missed."""
    t = tissues
    canvas.water += 0.04
    canvas.fat += t.fat * (1 + 0.08 * smooth_field(rng, canvas.shape, 9))
    for _ in range(int(rng.integers(4, 12))):
        radii = ellipse(rng.uniform(12, 45), rng.uniform(10, 32), power=2.4, tilt=rng.uniform(0, 3))
        patch = canvas.patch(Blob(rng.uniform(-90, 90), rng.uniform(-90, 90), radii))
        canvas.paint(patch, (t.muscle * rng.uniform(0.8, 1.3), 0.02 + 0.1 * build.infiltration), soft=2, texture=2)
    for _ in range(int(rng.integers(0, 6))):
        r = rng.uniform(2, 11)
        patch = canvas.patch(Blob(rng.uniform(-80, 80), rng.uniform(-80, 80), ellipse(r, r * rng.uniform(0.6, 1))))
        canvas.paint(patch, (t.muscle, 0))
        canvas.paint(patch, (rng.uniform(0.02, 1.0), 0), inset=1, texture=2)
    if rng.random() < 0.4:
        patch = canvas.patch(Blob(rng.uniform(-60, 60), rng.uniform(-60, 60), ellipse(16, 14)))
        canvas.paint(patch, (t.cortex, 0))
        canvas.paint(patch, t.marrow_signal, inset=3)


def paint_noise(canvas: Canvas, rng: np.random.Generator) -> None:
    """Nothing but receiver noise and, sometimes, a faint shade."""
    canvas.water += 0.02 + rng.uniform(0, 0.1) * np.clip(smooth_field(rng, canvas.shape, 3), 0, None)
