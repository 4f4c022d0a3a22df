"""A sagittal plane through a :class:`Spine`: what the technologist planned the axial slices on.

The canvas frame is x = LPS y (back is right), y = -LPS z (head is up), so slab lines drawn on it land on the discs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.interpolate import PchipInterpolator

from training.phantom.anatomy import Build
from training.phantom.canvas import Blob, Canvas, Figure, Rod, ellipse
from training.phantom.fields import smooth_field
from training.phantom.spine import SAC_END_MM, Spine
from training.phantom.tissue import Tissues

Point = tuple[float, float]
Floats = npt.NDArray[np.float64]
_STEP_MM = 3.0
_LATERAL_MM = 9.0
"""From here on the plane cuts pedicles and foramina instead of the canal."""


@dataclass(frozen=True, slots=True)
class SacProfile:
    """The sac along the spine."""

    heights_mm: Floats
    depth_mm: Floats
    csf: Floats
    """Brightness: 1 CSF, 0 crowded roots."""

    @staticmethod
    def healthy(spine: Spine) -> SacProfile:
        heights = np.arange(SAC_END_MM, spine.discs[-1].s + 70.0, 6.0)
        return SacProfile(heights, np.array([spine.sizes(s).sac_ap for s in heights]), np.ones(len(heights)))


def paint_sagittal(
    canvas: Canvas,
    rng: np.random.Generator,
    *,
    spine: Spine,
    build: Build,
    tissues: Tissues,
    x_mm: float,
    profile: SacProfile,
) -> None:
    """Paint the plane ``x_mm`` left (positive) or right of the spine."""
    painter = _Painter(canvas, rng, spine, build, tissues, x_mm)
    painter.background()
    if abs(x_mm) < _LATERAL_MM:
        painter.canal(profile)
        painter.spinous_processes()
    else:
        painter.joints_and_foramina()
    painter.bodies()
    painter.skin()


class _Painter:
    def __init__(
        self, canvas: Canvas, rng: np.random.Generator, spine: Spine, build: Build, tissues: Tissues, x_mm: float
    ) -> None:
        self.canvas, self.rng, self.spine, self.tissues, self.x_mm = canvas, rng, spine, tissues, x_mm
        self.scale, self.cortex, self.build = build.scale, build.cortex, build
        self.top = spine.discs[-1].s + 62.0
        self._walk = np.arange(-90.0, self.top + 12.0, 2.0)
        self._wall = np.array([spine.back_wall(s)[1:] for s in self._walk]).T
        self._backwards = np.array([spine.backwards(s)[1:] for s in self._walk]).T

    def at(self, s: float, behind_mm: float) -> Point:
        """Frame point at a height, ``behind_mm`` behind the posterior wall of the bodies."""
        y, z = (
            float(np.interp(s, self._walk, wall) + behind_mm * np.interp(s, self._walk, back))
            for wall, back in zip(self._wall, self._backwards, strict=True)
        )
        return y, -z

    def column(
        self, low: float, high: float, place: Callable[[float], float], half: Callable[[float], float]
    ) -> list[Figure]:
        """A band along the spine: rods from height ``low`` to ``high``."""
        heights = np.append(np.arange(low, high, _STEP_MM), high)
        return [
            Rod(self.at(a, place(a)), self.at(b, place(b)), half(a), half(b))
            for a, b in zip(heights.tolist(), heights[1:].tolist(), strict=False)
        ]

    def bone(self, figures: list[Figure], cortex: float = 1.0) -> None:
        patch = self.canvas.union(figures)
        self.canvas.paint(patch, (self.tissues.cortex, 0), soft=1.3)
        self.canvas.paint(patch, self.tissues.marrow_signal, inset=cortex * self.cortex, texture=1.6, soft=1.5)

    def background(self) -> None:
        t, canvas, rng = self.tissues, self.canvas, self.rng
        canvas.water += 0.04
        canvas.fat += t.fat * (1 + 0.05 * smooth_field(rng, canvas.shape, 9)) * (1 + (canvas.texture - 1) * 0.4)
        for _ in range(16):  # bowel
            x, y = self.at(rng.uniform(0, self.top), -rng.uniform(70, 130))
            radii = ellipse(rng.uniform(9, 20), rng.uniform(9, 20), lobes=((3, 0.1, rng.uniform(0, 6)),))
            patch = canvas.patch(Blob(x, y, radii))
            canvas.paint(patch, (t.muscle * 1.4, 0.05), soft=2)
            canvas.paint(patch, (float(rng.choice([0.03, 0.3, 0.7, 1.0])), 0.1), inset=1.5, texture=3, soft=3)
        if -16 < self.x_mm < 22:  # aorta or vena cava
            vessel = self.column(48, self.top, lambda _: -46 * self.scale, lambda _: 7.5)
            canvas.paint(canvas.union(vessel), (t.vessel, 0), texture=2, soft=1.5)
        muscle = self.column(-70, self.top, lambda s: 46 - 0.05 * max(s, 0), lambda s: 17 + 0.05 * min(max(s, 0), 90))
        canvas.paint(canvas.union(muscle), (t.muscle, 0.06 + 0.15 * self.build.infiltration), soft=2, texture=2.5)

    def canal(self, profile: SacProfile) -> None:
        t, canvas, spine = self.tissues, self.canvas, self.spine
        heights, depths = profile.heights_mm, profile.depth_mm
        ends = np.clip((heights - SAC_END_MM) / 14, 0.12, 1)
        thin = np.sqrt(max(0.15, 1 - (self.x_mm / 11) ** 2))

        def half(s: float) -> float:
            return float(np.interp(s, heights, depths * ends) / 2 * thin)

        def middle(s: float) -> float:
            return 1.4 + half(s)

        ligament = self.column(SAC_END_MM, self.top, lambda s: middle(s) + 0.8, lambda s: half(s) + 3.0)
        canvas.paint(canvas.union(ligament), (t.flavum, t.fat * 0.12), texture=2, soft=1.5)
        dorsal: list[Figure] = [
            Rod(self.at(s - 5, middle(s) + half(s) + 1.6), self.at(s + 7, middle(s) + half(s) + 1.6), 1.4, 2.6)
            for s in (d.s for d in spine.discs)
        ]
        canvas.paint(canvas.union(dorsal), (0.05, t.fat * 0.9), soft=1.5)
        canvas.paint(canvas.union(self.column(SAC_END_MM, self.top, middle, half)), (t.csf * 0.95, 0), texture=0.6)
        tip = spine.conus_s
        roots = self.column(-20, tip, lambda s: middle(s) + 0.42 * half(s), lambda s: 0.42 * half(s))
        canvas.paint(canvas.union(roots), (t.root, 0), soft=3, texture=4, opacity=0.55)
        for s, csf in zip(heights.tolist(), profile.csf.tolist(), strict=True):
            if csf < 0.95 and s < tip - 4:
                tight = Rod(self.at(s - 2, middle(s)), self.at(s + 2, middle(s)), half(s), half(s))
                canvas.paint(canvas.patch(tight), (t.crowded, 0), soft=2, opacity=1 - csf)
        if abs(self.x_mm) < 4.5:
            cord = self.column(
                tip, self.top, lambda s: middle(s) + 0.6, lambda s: 0.5 + 3.0 * float(np.clip((s - tip) / 28, 0, 1))
            )
            canvas.paint(canvas.union(cord), (t.cord, 0), soft=1.5)

    def spinous_processes(self) -> None:
        for disc in self.spine.discs:
            s = disc.s + 6
            tip = self.at(s - 10, 46 * self.scale)
            self.bone([Rod(self.at(s, 24 * self.scale), tip, 4.5 * self.scale, 7.5 * self.scale)])

    def joints_and_foramina(self) -> None:
        t, canvas = self.tissues, self.canvas
        for disc, above in zip(self.spine.discs, [d.s for d in self.spine.discs[1:]] + [self.top], strict=True):
            top = above - 6
            self.bone([Rod(self.at(top - 4, -6), self.at(top - 5, 8), 6.0 * self.scale, 5.5 * self.scale)])  # pedicle
            foramen = Rod(self.at(disc.s - 2, 5), self.at(disc.s + 10, 5), 4.0, 5.5)
            canvas.paint(canvas.patch(foramen), (0.05, t.fat), soft=1.5)
            canvas.paint(canvas.patch(Blob(*self.at(disc.s + 9, 5), ellipse(2.6, 2.4))), (t.root, 0.03), soft=1.4)
            self.bone([Rod(self.at(disc.s + 12, 14), self.at(disc.s - 6, 16), 5.0 * self.scale, 4.5 * self.scale)])
            cleft = Rod(self.at(disc.s + 5, 11), self.at(disc.s - 5, 14), 0.5, 0.5)
            canvas.paint(canvas.patch(cleft), (t.fluid, 0), soft=1.3)

    def bodies(self) -> None:
        t, canvas, rng = self.tissues, self.canvas, self.rng
        heights = [d.s for d in self.spine.discs]
        half_discs = [d.height_mm / 2 for d in self.spine.discs]
        segments = [(-30.0, -half_discs[0]), (-60.0, -32.0)]
        segments += [
            (lo + h0, hi - h1) for lo, hi, h0, h1 in zip(heights, heights[1:], half_discs, half_discs[1:], strict=False)
        ]
        segments.append((heights[-1] + half_discs[-1], heights[-1] + 26.0))
        segments.append((heights[-1] + 31.0, heights[-1] + 56.0))
        for low, high in segments:
            middle = (low + high) / 2
            sizes = self.spine.sizes(middle)
            depth = self._depth(middle, sizes.body_half_width) * (0.75 if middle < -40 else 1)
            centre = self.spine.body_centre(middle)
            tilt = self._tilt(middle)
            body = ellipse(depth, (high - low) / 2, power=7, tilt=tilt, lobes=((2, 0.01 * rng.standard_normal(), 0.5),))
            patch = canvas.patch(Blob(float(centre[1]), float(-centre[2]), body))
            canvas.paint(patch, (t.cortex, 0), soft=1.3)
            canvas.paint(patch, t.marrow_signal, inset=0.8 * self.cortex, texture=1.6, soft=1.5)
        for disc in self.spine.discs:
            depth = self._depth(disc.s, self.spine.sizes(disc.s).body_half_width) * 1.03
            radii = ellipse(depth, disc.height_mm / 2, power=3.5, tilt=self._tilt(disc.s))
            patch = canvas.patch(Blob(disc.position[1], -disc.position[2], radii))
            canvas.paint(patch, (t.annulus, 0), soft=1.2)
            canvas.paint(patch, (t.nucleus, 0), inset=2.2, texture=1.6, soft=2.5 / canvas.spacing_mm)

    def skin(self) -> None:
        """Air behind the back."""
        back = [self.at(s, 62 + 38 * self.build.obesity) for s in (-75.0, 0.0, 70.0, 140.0, self.top)]
        ys, xs = np.array([p[1] for p in back]), np.array([p[0] for p in back])
        order = np.argsort(ys)
        edge = PchipInterpolator(ys[order], xs[order], extrapolate=True)(np.clip(self.canvas.y, ys.min(), ys.max()))
        inside = np.clip(0.5 - (self.canvas.x - edge) / self.canvas.spacing_mm, 0, 1).astype(np.float32)
        self.canvas.water *= inside
        self.canvas.fat *= inside

    def _depth(self, s: float, half_width: float) -> float:
        across = min(0.97, abs(self.x_mm) / (half_width * self.scale))
        return float(self.spine.sizes(s).body_half_depth * self.scale * (1 - across**2.4) ** (1 / 2.4))

    def _tilt(self, s: float) -> float:
        """Angle of the backwards direction on the image (y grows downwards)."""
        b = self.spine.backwards(s)
        return float(np.arctan2(-b[2], b[1]))
