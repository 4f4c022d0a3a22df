"""What surgery leaves on a slice, for which readers refuse it."""

from __future__ import annotations

import numpy as np

from training.phantom.anatomy import Canal
from training.phantom.canvas import Blob, Canvas, ellipse
from training.phantom.tissue import Tissues


def paint_cavity(canvas: Canvas, rng: np.random.Generator, canal: Canal, tissues: Tissues) -> None:
    """Laminectomy: the arch is gone, a scar or seroma fills its place."""
    radii = ellipse(rng.uniform(10, 20), rng.uniform(9, 20), lobes=((3, 0.1, 1.0),))
    figure = Blob(rng.normal(0, 4), canal.back + 3 + float(radii.max()) * 0.8, radii)
    canvas.paint(canvas.patch(figure), (rng.uniform(0.1, 0.9), tissues.fat * 0.07), texture=3, soft=4)


def paint_screws(canvas: Canvas, rng: np.random.Generator, canal: Canal) -> None:
    """Signal voids of pedicle screws with a bright, one-sided rim."""
    for side in (-1, 1):
        x, y = side * (canal.half_width + 6) + rng.normal(0, 2), rng.uniform(-12, 6)
        radius = rng.uniform(6, 12)
        shape = ellipse(radius * rng.uniform(0.9, 1.5), radius, lobes=((2, 0.15, rng.uniform(0, 3)),))
        patch = canvas.patch(Blob(x, y, shape))
        if not patch.distance.size:
            continue
        rim = np.exp(-(((patch.distance - 0.8) / 1.3) ** 2)) * np.clip(
            np.sin(np.arctan2(canvas.y[patch.window] - y, canvas.x[patch.window] - x) * 2 + 1) + 0.2, 0, 1
        )
        canvas.paint(patch, (0.0, 0.0), soft=3)
        canvas.water[patch.window] += (rng.uniform(0.3, 1.0) * rim).astype(np.float32)
