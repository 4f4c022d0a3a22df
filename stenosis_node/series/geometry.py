"""Planes, slabs and places of slices. Angles in degrees, lengths in mm, vectors in patient coordinates (LPS)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from stenosis_node.domain import SliceGeometry
from stenosis_node.series.headers import SliceHeader

PARALLEL_DEG: Final = 2.0
"""Slices whose normals differ by less belong to one slab, if they are contiguous."""
SAME_PLACE_MM: Final = 0.5
"""Parallel slices nearer than this are the same slice twice (a second echo, a repetition)."""
GAP_FACTOR: Final = 2.6
"""A step of more than this many pitches starts a new slab; one missing slice (2 pitches) does not."""
HOLE_FACTOR: Final = 1.5
"""A step within a slab of more than this many pitches is a missing slice."""
MAX_LOST: Final = 5
"""Parallel slabs further apart than this many slices and one pitch are two slabs by plan, not one with a gap."""
_WHOLE_PITCHES: Final = 0.05
_SAME_AXIS_MM: Final = 1.0

_Array = npt.NDArray[np.float64]
_PLANES: Final = ("sagittal", "coronal", "axial")


@dataclass(frozen=True, slots=True)
class Plane:
    """How a slice lies in the patient."""

    name: str
    """The nearest of ``sagittal``, ``coronal`` and ``axial``."""
    tilt_deg: float
    """Between the normal and the axis of that plane."""
    off_axial_deg: float
    """Between the normal and the head-foot direction."""
    sideways_deg: float
    """Of the normal against the mid-sagittal plane: 0 for slices tilted about the left-right axis alone."""
    rotation_deg: float
    """In-plane, between the rows or columns and the nearest left-right direction; 0 to 45."""


@dataclass(frozen=True, slots=True)
class Gap:
    """A step between neighbours that is too wide: slices seem to be missing."""

    before: SliceHeader
    after: SliceHeader
    step_mm: float
    pitch_mm: float

    @property
    def missing(self) -> int:
        """How many slices would fit."""
        return max(1, round(self.step_mm / self.pitch_mm) - 1)


@dataclass(frozen=True, slots=True)
class Slab:
    """Parallel, contiguous slices from head to foot, one per position."""

    slices: tuple[SliceHeader, ...]
    pitch_mm: float | None
    """Usual step between neighbours; None for a single slice."""
    gaps: tuple[Gap, ...]
    """Where slices seem to be missing: inside the slab, or between its last slice and the next slab of the stack."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Slices sorted into slabs, slabs from head to foot."""

    slabs: tuple[Slab, ...]
    duplicates: tuple[SliceHeader, ...]
    """Slices left out because a better one lies at the same place."""

    @property
    def slices(self) -> tuple[SliceHeader, ...]:
        """All slices in reading order."""
        return tuple(piece for slab in self.slabs for piece in slab.slices)

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """Of all slabs."""
        return tuple(gap for slab in self.slabs for gap in slab.gaps)


def plane_of(geometry: SliceGeometry) -> Plane:
    """Name and angles of the plane of a slice."""
    normal = np.abs(np.asarray(geometry.normal))
    axis = int(np.argmax(normal))
    row = abs(geometry.row_direction[0]), abs(geometry.column_direction[0])
    return Plane(
        name=_PLANES[axis],
        tilt_deg=_degrees_of_cos(float(normal[axis])),
        off_axial_deg=_degrees_of_cos(float(normal[2])),
        sideways_deg=math.degrees(math.asin(min(1.0, float(normal[0])))),
        rotation_deg=math.degrees(math.atan2(min(row), max(row))),
    )


def head_normal(geometry: SliceGeometry) -> _Array:
    """Unit normal that points towards the head, whichever way rows and columns run."""
    normal = np.asarray(geometry.normal)
    return normal if normal[2] >= 0 else -normal


def center(piece: SliceHeader) -> _Array:
    """Centre of the image in patient coordinates."""
    return np.asarray(geometry_of(piece).to_patient(piece.columns / 2, piece.rows / 2))


def geometry_of(piece: SliceHeader) -> SliceGeometry:
    """The geometry of a slice that is known to have one."""
    if piece.geometry is None:
        raise ValueError(f"slice {piece.ref} has no geometry")
    return piece.geometry


def field_of_view(piece: SliceHeader) -> tuple[float, float]:
    """(height, width) of the image in mm."""
    geometry = geometry_of(piece)
    return piece.rows * geometry.row_spacing_mm, piece.columns * geometry.column_spacing_mm


def arrange(slices: Sequence[SliceHeader]) -> Layout:
    """Sort slices by place and group them into slabs. Independent of their order, numbers and of flipped directions."""
    slabs: list[Slab] = []
    duplicates: list[SliceHeader] = []
    for group in _parallel_groups(sorted(slices, key=lambda piece: piece.order_key)):
        places = _places(group)
        kept, dropped = _one_per_place(places)
        duplicates.extend(dropped)
        slabs.extend(_contiguous(kept))
    slabs.sort(
        key=lambda slab: (-float(np.mean([center(piece)[2] for piece in slab.slices])), slab.slices[0].order_key)
    )
    return Layout(tuple(slabs), tuple(sorted(duplicates, key=lambda piece: piece.order_key)))


def _parallel_groups(slices: Sequence[SliceHeader]) -> list[list[SliceHeader]]:
    """Connected components of "normals differ by less than PARALLEL_DEG"."""
    normals: dict[tuple[float, ...], list[SliceHeader]] = {}
    for piece in slices:
        normal = head_normal(geometry_of(piece))
        normals.setdefault(tuple(np.round(normal, 4)), []).append(piece)
    distinct = np.asarray(list(normals), dtype=np.float64).reshape(-1, 3)
    members = list(normals.values())
    near = distinct @ distinct.T > math.cos(math.radians(PARALLEL_DEG))
    groups: list[list[SliceHeader]] = []
    left = set(range(len(members)))
    while left:
        reached, front = set[int](), [min(left)]
        while front:
            index = front.pop()
            reached.add(index)
            front.extend(int(i) for i in np.flatnonzero(near[index]) if i in left and i not in reached)
        left -= reached
        groups.append([piece for index in sorted(reached) for piece in members[index]])
    return groups


def _places(group: Sequence[SliceHeader]) -> list[tuple[float, SliceHeader]]:
    """(place, slice) from head to foot; the place is the centre projected on the mean normal of the group."""
    mean = np.sum([head_normal(geometry_of(piece)) for piece in group], axis=0)
    mean /= np.linalg.norm(mean)
    placed = [(float(center(piece) @ mean), piece) for piece in group]
    return sorted(placed, key=lambda item: (-item[0], item[1].order_key))


def _one_per_place(
    places: Sequence[tuple[float, SliceHeader]],
) -> tuple[list[tuple[float, SliceHeader]], list[SliceHeader]]:
    kept: list[tuple[float, SliceHeader]] = []
    dropped: list[SliceHeader] = []
    for place, piece in places:
        if kept and kept[-1][0] - place < SAME_PLACE_MM:
            before = kept.pop()
            better, worse = (piece, before[1]) if _quality(piece) > _quality(before[1]) else (before[1], piece)
            kept.append((before[0], better))
            dropped.append(worse)
        else:
            kept.append((place, piece))
    return kept, dropped


def _quality(piece: SliceHeader) -> tuple[bool, float, str, int, tuple[str, int]]:
    """Of slices at one place the largest is kept: with pixels, longest echo time, latest."""
    te = piece.acquisition.te_ms or 0.0
    return piece.has_pixels, te, piece.acquired, piece.acquisition_number or 0, piece.order_key


def _contiguous(places: Sequence[tuple[float, SliceHeader]]) -> list[Slab]:
    """Cut one parallel group where the step to the next slice is well above the pitch."""
    steps = [upper[0] - lower[0] for upper, lower in pairwise(places)]
    limit = GAP_FACTOR * _pitch(places, steps) if steps else math.inf
    runs: list[list[int]] = [[0]]
    for index, step in enumerate(steps, start=1):
        if step > limit:
            runs.append([])
        runs[-1].append(index)
    slabs = []
    for run in runs:
        own = steps[run[0] : run[-1]]
        pitch = float(np.median(own)) if own else None
        gaps = []
        if pitch:
            gaps = [
                Gap(places[index][1], places[index + 1][1], steps[index], pitch)
                for index in run
                if index + 1 < len(places)
                and _lacks_slices(places, index, steps[index], pitch, inside=index != run[-1])
            ]
        slabs.append(Slab(tuple(places[index][1] for index in run), pitch, tuple(gaps)))
    return slabs


def _lacks_slices(
    places: Sequence[tuple[float, SliceHeader]], index: int, step: float, pitch: float, *, inside: bool
) -> bool:
    """Whether slices seem to be missing behind the slice ``index``.

    Between two slabs (``inside`` is false) that is so when the second continues the first as one stack does: a whole
    number of pitches further, on the same axis.
    """
    if inside:
        return step > HOLE_FACTOR * pitch
    pitches = step / pitch
    if pitches > MAX_LOST + 1.5 or abs(pitches - round(pitches)) > _WHOLE_PITCHES:
        return False
    here, there = places[index][1], places[index + 1][1]
    apart = center(there) - center(here)
    normal = head_normal(geometry_of(here))
    return float(np.linalg.norm(apart - (apart @ normal) * normal)) <= _SAME_AXIS_MM


def _pitch(places: Sequence[tuple[float, SliceHeader]], steps: Sequence[float]) -> float:
    """Usual step between neighbours: the median, or for few slices no more than the header's own word."""
    usual = float(np.median(steps))
    if len(steps) >= 3:
        return usual
    piece = places[0][1]
    nominal = piece.spacing_between_mm or geometry_of(piece).thickness_mm
    return usual if nominal is None else min(usual, max(nominal, min(steps)))


def _degrees_of_cos(cosine: float) -> float:
    return math.degrees(math.acos(min(1.0, max(-1.0, cosine))))
