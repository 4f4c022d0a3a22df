"""A patient's spine in space (LPS, mm): discs with position and tilt, the course of the canal, the end of the cord.

``s`` is the height along the spine in mm, 0 at the L5-S1 disc and growing towards the head.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.interpolate import CubicSpline

from stenosis_node.domain import Vector
from training.phantom.anatomy import LEVELS, Build, LevelSizes
from training.phantom.words import SliceKind

DISC_NAMES: Final = ("L5-S1", "L4-5", "L3-4", "L2-3", "L1-2", "T12-L1", "T11-12")
"""From foot to head."""
_ABOVE: Final = ("L5", "L4", "L3", "L2", "L1", "T12", "T11")
_TILT_DEGREES: Final = (33.0, 15.0, 4.0, -3.0, -7.0, -8.0, -6.0)
_HEIGHTS_MM: Final = (27.0, 27.5, 27.5, 27.0, 26.0, 25.0, 23.0)
"""Of the vertebral bodies L5 to T11."""
_DISC_MM: Final = (10.0, 11.0, 10.5, 9.5, 8.5, 7.0, 6.0)
SAC_END_MM: Final = -52.0
"""Height at which the dural sac ends: about S2."""


@dataclass(frozen=True, slots=True)
class Disc:
    """One disc; ``level`` is the vertebra above it."""

    name: str
    level: str
    s: float
    position: Vector
    """Centre of the disc."""
    tilt: float
    """Radians about the x axis; positive: the front is lower."""
    height_mm: float

    @property
    def normal(self) -> Vector:
        """Towards the head."""
        return 0.0, float(-np.sin(self.tilt)), float(np.cos(self.tilt))

    @property
    def backwards(self) -> Vector:
        """In the plane of the disc, towards the back."""
        return 0.0, float(np.cos(self.tilt)), float(np.sin(self.tilt))


class Spine:
    """Discs and the curves through them."""

    def __init__(self, discs: tuple[Disc, ...], build: Build, conus_s: float) -> None:
        self.discs = discs
        self.conus_s = conus_s
        self._build = build
        heights = np.array([d.s for d in discs])
        below = np.array([discs[0].position]) + _SACRUM_BELOW
        above = np.array([discs[-1].position]) + np.array([[0.0, 4.0, 40.0]])
        knots = np.concatenate([[heights[0] - 80.0, heights[0] - 40.0], heights, [heights[-1] + 40.0]])
        points = np.concatenate([below, [d.position for d in discs], above])
        self._centre = CubicSpline(knots, points)
        tilts = np.array([d.tilt for d in discs])
        self._tilt = CubicSpline(knots, np.concatenate([[tilts[0] + 0.42, tilts[0] + 0.25], tilts, [tilts[-1]]]))

        middles = [-18.0, *((a.s + b.s) / 2 for a, b in pairwise(discs))]
        tables = [LEVELS[n] for n in ("S1", *_ABOVE[:-1])]
        attributes = [f.name for f in fields(LevelSizes)]
        self._middles = np.array(middles)
        self._tables = {a: np.array([getattr(t, a) for t in tables]) for a in attributes}

    @cached_property
    def _wall(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Heights ``[n]`` and the posterior wall there ``[n, 3]``."""
        heights = np.arange(-78.0, self.discs[-1].s + 38.0, 1.0)
        tilt = self._tilt(heights)
        backwards = np.stack([np.zeros_like(tilt), np.cos(tilt), np.sin(tilt)], axis=1)
        depth = np.interp(heights, self._middles, self._tables["body_half_depth"]) * self._build.scale
        return heights, np.asarray(self._centre(heights)) + depth[:, None] * backwards

    def body_centre(self, s: float) -> npt.NDArray[np.float64]:
        """Centre of body or disc at height ``s``, LPS."""
        return np.asarray(self._centre(s))

    def backwards(self, s: float) -> npt.NDArray[np.float64]:
        """Unit vector towards the back, perpendicular to the spine."""
        tilt = float(self._tilt(s))
        return np.array([0.0, np.cos(tilt), np.sin(tilt)])

    def back_wall(self, s: float) -> npt.NDArray[np.float64]:
        """Middle of the posterior wall of body or disc: where the canal begins."""
        return self.body_centre(s) + self.sizes(s).body_half_depth * self._build.scale * self.backwards(s)

    def height_of_plane(self, point: npt.NDArray[np.float64], normal: npt.NDArray[np.float64]) -> float:
        """Height ``s`` at which a plane meets the canal. Raises ValueError when it does not."""
        heights, wall = self._wall
        distance = (wall - point) @ normal
        crossing = np.flatnonzero(np.diff(np.signbit(distance)))
        if not crossing.size:
            raise ValueError("the plane does not meet the spine")
        k = int(crossing[0])
        return float(heights[k] + distance[k] / (distance[k] - distance[k + 1]))

    def sizes(self, s: float) -> LevelSizes:
        """Sizes at height ``s``, between those of the vertebrae."""
        at = {name: float(np.interp(s, self._middles, table)) for name, table in self._tables.items()}
        return replace(LevelSizes(**at), roots=round(at["roots"]))  # type: ignore[arg-type]

    def nearest_disc(self, s: float) -> Disc:
        return min(self.discs, key=lambda d: abs(d.s - s))

    def level(self, s: float) -> str:
        """Vertebra at height ``s``; a disc counts with the vertebra above it."""
        if s < -self.discs[0].height_mm / 2:
            return "S1"
        return [d.level for d in self.discs if s >= d.s - d.height_mm / 2][-1]

    def kind(self, s: float) -> SliceKind:
        """What an axial plane cuts at height ``s``: the disc, the foramina just above it, or the pedicles."""
        if s < SAC_END_MM:
            return SliceKind.CAUDAL
        disc = self.nearest_disc(s)
        if abs(s - disc.s) <= disc.height_mm / 2 + 2.5:
            return SliceKind.DISC
        if s < 0:
            return SliceKind.SACRUM
        below = max(d.s for d in self.discs if d.s < s)
        return SliceKind.FORAMEN if s - below < 14 else SliceKind.PEDICLE

    def cord_fullness(self, s: float) -> float:
        """1 at the lumbar enlargement, 0 at the tip."""
        return float(np.clip((s - self.conus_s) / 30.0, 0, 1))


_SACRUM_BELOW = np.array([[0.0, 56.0, -58.0], [0.0, 23.0, -33.0]])


def sample_spine(rng: np.random.Generator, build: Build, *, conus_s: float | None = None) -> Spine:
    """A lordotic spine. The cord ends about the lower third of L1 (sd 13 mm), never below the L2-3 disc."""
    lordosis = rng.uniform(0.75, 1.2)
    lean = np.cumsum(rng.normal(0, 0.6, len(DISC_NAMES)))  # slight scoliosis
    position, s = np.zeros(3), 0.0
    discs: list[Disc] = []
    for k, name in enumerate(DISC_NAMES):
        tilt = float(np.radians(_TILT_DEGREES[k] * lordosis + rng.normal(0, 1.5)))
        height = _DISC_MM[k] * build.scale * rng.uniform(0.75, 1.1)
        if discs:
            step = _HEIGHTS_MM[k - 1] * build.scale + (discs[-1].height_mm + height) / 2
            mean = (discs[-1].tilt + tilt) / 2
            position = position + step * np.array([0.0, -np.sin(mean), np.cos(mean)])
            s += step
        place = (float(lean[k] - lean[0]), float(position[1]), float(position[2]))
        discs.append(Disc(name, _ABOVE[k], s, place, tilt, height))
    l12 = discs[4].s
    drawn = l12 + 9 * build.scale + 13 * rng.standard_normal()
    tip = float(np.clip(drawn, discs[3].s + 4, discs[5].s + 14)) if conus_s is None else conus_s
    return Spine(tuple(discs), build, tip)
