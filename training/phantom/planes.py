"""Where the technologist puts the slices: one contiguous stack, or a slab along each disc."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from stenosis_node.domain import SliceGeometry, Vector
from training.phantom.fields import Shape
from training.phantom.spine import Spine

PITCH_MM = 4.4
"""4 mm slices with a gap of 10 %."""


@dataclass(frozen=True, slots=True)
class Plane:
    """An axial plane; ``tilt`` as in :class:`spine.Disc`."""

    centre: Vector
    """Centre of the image, LPS mm."""
    tilt: float
    slab: int
    crosstalk: tuple[float, float, float] | None = None
    """Dark band where another slab crosses: (centre, depth, width) in half fields of view."""

    @property
    def row_direction(self) -> Vector:
        return 1.0, 0.0, 0.0

    @property
    def column_direction(self) -> Vector:
        return 0.0, float(np.cos(self.tilt)), float(np.sin(self.tilt))

    @property
    def normal(self) -> Vector:
        return 0.0, float(-np.sin(self.tilt)), float(np.cos(self.tilt))

    def geometry(self, shape: Shape, spacing_mm: float, thickness_mm: float) -> SliceGeometry:
        """Image Plane of the slice."""
        corner = (
            np.asarray(self.centre)
            - np.asarray(self.row_direction) * spacing_mm * (shape[1] - 1) / 2
            - np.asarray(self.column_direction) * spacing_mm * (shape[0] - 1) / 2
        )
        return SliceGeometry(
            (float(corner[0]), float(corner[1]), float(corner[2])),
            self.row_direction,
            self.column_direction,
            spacing_mm,
            spacing_mm,
            thickness_mm,
        )


def disc_slabs(
    rng: np.random.Generator, spine: Spine, fov_mm: float, *, discs: Sequence[str], per_slab: int
) -> tuple[Plane, ...]:
    """Slabs from head to foot, slices within a slab likewise; each slab is parallel to its disc."""
    chosen = sorted((d for d in spine.discs if d.name in discs), key=lambda d: -d.s)
    planes: list[Plane] = []
    for slab, disc in enumerate(chosen):
        tilt = disc.tilt + float(rng.normal(0, 0.02))
        normal = np.array([0.0, -np.sin(tilt), np.cos(tilt)])
        backwards = np.array([0.0, np.cos(tilt), np.sin(tilt)])
        canal = spine.back_wall(disc.s) + 7 * spine.backwards(disc.s)
        centre = canal - backwards * rng.uniform(6, 16) + np.array([rng.normal(0, 2), 0, 0])
        shift = float(rng.normal(0, 0.6))
        for k in range(per_slab):
            point = centre + normal * (((per_slab - 1) / 2 - k) * PITCH_MM + shift)
            planes.append(Plane((float(point[0]), float(point[1]), float(point[2])), tilt, slab))
    return tuple(replace(p, crosstalk=_crosstalk(p, planes, fov_mm)) for p in planes)


def contiguous_stack(rng: np.random.Generator, spine: Spine) -> tuple[Plane, ...]:
    """Some 25 to 46 parallel slices from the lower thoracic spine into the sacrum."""
    tilt = float(rng.normal(0.03, 0.05))
    normal = np.array([0.0, -np.sin(tilt), np.cos(tilt)])
    middle = spine.back_wall(spine.discs[2].s) + np.array([0.0, -rng.uniform(2, 12), 0.0])
    lowest = spine.back_wall(rng.uniform(-58, 25)) @ normal
    top = spine.back_wall(rng.uniform(spine.discs[-2].s - 8, spine.discs[-1].s + 10)) @ normal
    pitch = PITCH_MM * rng.uniform(1.0, 1.25)
    planes = []
    for k in range(min(46, int((top - lowest) / pitch) + 1)):
        point = middle + normal * (top - k * pitch - middle @ normal)
        planes.append(Plane((float(point[0]), float(point[1]), float(point[2])), tilt, 0))
    return tuple(planes)


def _crosstalk(plane: Plane, planes: Sequence[Plane], fov_mm: float) -> tuple[float, float, float] | None:
    """Band where the slices of a neighbouring slab cross this plane behind or before the spine."""
    along = np.asarray(plane.column_direction)
    hits = []
    for other in planes:
        slope = float(np.asarray(other.normal) @ along)
        if abs(other.slab - plane.slab) != 1 or abs(slope) < 0.02:
            continue
        v = float(np.asarray(other.normal) @ (np.asarray(other.centre) - np.asarray(plane.centre))) / slope
        if abs(v) < fov_mm / 2:
            hits.append(v)
    if not hits:
        return None
    centre, half = float(np.mean(hits)), max(4.0, float(np.ptp(hits)) / 2)
    return centre / (fov_mm / 2), 0.45, half / (fov_mm / 2)
