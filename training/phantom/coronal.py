"""A coronal plane, only ever needed for the localizer: bodies, discs, psoas and kidneys."""

from __future__ import annotations

import numpy as np

from training.phantom.anatomy import Build
from training.phantom.canvas import Blob, Canvas, Figure, Rod, ellipse
from training.phantom.spine import Spine
from training.phantom.tissue import Tissues


def paint_coronal(
    canvas: Canvas, rng: np.random.Generator, *, spine: Spine, build: Build, tissues: Tissues, y_mm: float
) -> None:
    """Paint the plane at LPS y; the canvas frame is x = LPS x (patient left is right), y = -LPS z."""
    t = tissues
    canvas.water += 0.04
    canvas.fat += t.fat * (1 + 0.4 * (canvas.texture - 1))
    top = spine.discs[-1].s
    for side in (-1, 1):
        kidney = Blob(side * 66, -spine.discs[5].position[2] + 14, ellipse(24, 48, tilt=side * -0.25))
        canvas.paint(canvas.patch(kidney), (t.kidney, 0), soft=1.5)
        psoas: list[Figure] = [
            Rod((side * 30, -spine.discs[5].position[2]), (side * 52, -spine.discs[1].position[2]), 7, 20),
            Rod((side * 52, -spine.discs[1].position[2]), (side * 80, 60), 20, 16),
        ]
        canvas.paint(canvas.union(psoas), (t.muscle, 0.03), soft=2, texture=2)
        ilium = Rod((side * 62, 10), (side * 118, -42), 9, 11)
        canvas.paint(canvas.patch(ilium), (t.cortex, 0))
        canvas.paint(canvas.patch(ilium), t.marrow_signal, inset=2)
    for s in np.arange(-50.0, top + 60, 0.5 * 37).tolist():
        centre = spine.body_centre(s)
        if abs(float(centre[1]) - y_mm) > spine.sizes(s).body_half_depth * build.scale:
            continue
        half = spine.sizes(s).body_half_width * build.scale
        block = Rod((float(centre[0]) - 2, float(-centre[2])), (float(centre[0]) + 2, float(-centre[2])), half, half)
        canvas.paint(canvas.patch(block), t.marrow_signal, texture=1.5)
    for disc in spine.discs:
        half = spine.sizes(disc.s).body_half_width * build.scale
        patch = canvas.patch(Blob(disc.position[0], -disc.position[2], ellipse(half, disc.height_mm / 2, power=3)))
        canvas.paint(patch, (t.nucleus, 0), soft=1.5)
