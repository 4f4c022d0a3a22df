"""Bone, disc and joints of one slice."""

from __future__ import annotations

import numpy as np

from training.phantom.anatomy import Build, Canal
from training.phantom.canvas import ANGLES, Blob, Canvas, Figure, Patch, Rod, bump, ellipse, radius_at
from training.phantom.fields import smooth_field
from training.phantom.tissue import Tissues
from training.phantom.trunk import Place
from training.phantom.words import SliceKind


def paint_vertebra(
    canvas: Canvas, rng: np.random.Generator, *, build: Build, canal: Canal, place: Place, tissues: Tissues
) -> None:
    painter = _Painter(canvas, rng, build, canal, place, tissues)
    if canal.kind is SliceKind.SACRUM:
        painter.sacrum()
    elif canal.kind is SliceKind.PEDICLE:
        painter.pedicles()
    else:
        painter.joints()
    painter.body()


class _Painter:
    """The parts share a dozen measures; this keeps them in one place."""

    def __init__(
        self, canvas: Canvas, rng: np.random.Generator, build: Build, canal: Canal, place: Place, tissues: Tissues
    ) -> None:
        self.canvas, self.rng, self.canal, self.place, self.tissues = canvas, rng, canal, place, tissues
        self.scale, self.cortex, self.asymmetry = build.scale, build.cortex, build.asymmetry
        self.lamina_y = radius_at(canal.flavum, np.pi / 2) + 0.4

    def bone(self, patch: Patch, cortex: float = 1.1, *, sclerosis: float = 0.0) -> None:
        t = self.tissues
        soft = max(1.3, 0.7 / self.canvas.spacing_mm)
        self.canvas.paint(patch, (t.cortex, 0), soft=soft)
        marrow = (t.marrow * (1 - 0.3 * sclerosis), t.marrow_fat * (1 - 0.5 * sclerosis))
        # cortex is nowhere of one thickness, and a thick slice blurs it
        uneven = Patch(patch.window, patch.distance + (self.canvas.texture[patch.window] - 1) * np.float32(7))
        self.canvas.paint(uneven, marrow, inset=0.85 * cortex * self.cortex, texture=2.2, soft=1.5 * soft)

    def body(self) -> None:
        sizes, rng, t = self.canal.sizes, self.rng, self.tissues
        a, b = sizes.body_half_width * self.scale, sizes.body_half_depth * self.scale
        lobes = (
            (2, 0.02 * rng.standard_normal(), rng.uniform(0, 3)),
            (3, 0.03 * rng.standard_normal(), rng.uniform(0, 3)),
            (1, 0.02 * rng.standard_normal(), rng.uniform(0, 6)),
        )
        radii = ellipse(a, b, power=rng.uniform(2.2, 2.7), lobes=lobes)
        radii = radii * (1 - self.canal.disc_bulge * bump(np.pi / 2, 0.5))
        if self.canal.herniation and self.canal.kind is SliceKind.DISC:
            height, angle, width = self.canal.herniation
            radii = radii * (1 + height * bump(angle, width))
        patch = self.canvas.patch(Blob(0, self.place.body_y, radii.astype(np.float32)))
        if self.canal.kind is SliceKind.DISC:
            self._disc(patch)
            return
        self.bone(patch, 0.9)
        if rng.random() < 0.55:  # basivertebral vein
            vein = Rod((rng.normal(0, 1.5), self.place.body_y + b - 1), (rng.normal(0, 3), self.place.body_y), 1.5, 0.5)
            self.canvas.paint(self.canvas.patch(vein), (rng.uniform(0.3, 0.85), 0.05), soft=2)
        else:
            rng.normal(0, 1, 2)
        if t.fat_suppressed:
            return
        patchy = Blob(rng.normal(0, 8), self.place.body_y + rng.normal(0, 6), ellipse(rng.uniform(5, 12), 6))
        self.canvas.paint(
            self.canvas.patch(patchy), (t.marrow, t.marrow_fat * rng.uniform(0.8, 1.5)), soft=8, opacity=0.5
        )

    def _disc(self, patch: Patch) -> None:
        rng, t, canvas = self.rng, self.tissues, self.canvas
        canvas.paint(patch, (t.annulus, 0), texture=1.4, soft=1.3)
        ragged = (
            Patch(patch.window, patch.distance + 1.6 * smooth_field(rng, patch.distance.shape, 7))
            if (patch.distance.size)
            else patch
        )
        canvas.paint(ragged, (t.nucleus, 0), inset=5.0, texture=1.6, soft=6 / canvas.spacing_mm)
        if rng.random() < 0.4:  # the plane grazes an end plate
            plate = Blob(rng.normal(0, 8), self.place.body_y + rng.normal(-2, 6), ellipse(rng.uniform(6, 16), 8))
            canvas.paint(canvas.patch(plate), t.marrow_signal, texture=2, soft=6, opacity=rng.uniform(0.3, 0.9))

    def _spinous(self, *, bony: bool) -> Rod:
        rng = self.rng
        top = self.lamina_y + 2.5
        length = rng.uniform(17, 28) * self.scale
        w0, w1 = rng.uniform(2.2, 3.4) * self.scale, rng.uniform(2.6, 4.8) * self.scale
        rod = Rod((0, top), (rng.normal(0, 1.8), top + length), w0, w1)
        if not bony:
            signal = (rng.uniform(0.08, 0.28), self.tissues.fat * rng.uniform(0.1, 0.5))
            self.canvas.paint(self.canvas.patch(rod), signal, texture=3, soft=2)
        return rod

    def joints(self) -> None:
        """Facet joints, laminae and foramina: the level of the disc, or just above it."""
        rng, t, canal, canvas = self.rng, self.tissues, self.canal, self.canvas
        g, w, s = canal.joint_growth, canal.half_width, self.scale
        arch: list[Figure] = []
        spinous_bony = not (canal.kind is SliceKind.DISC and rng.random() < 0.55)
        spinous = self._spinous(bony=spinous_bony)
        if spinous_bony:
            arch.append(spinous)
        joints: list[tuple[Rod, float, float]] = []
        self._back_wall()
        for side in (-1, 1):
            grow = g * (1 + 0.06 * side * self.asymmetry)
            y = rng.uniform(0.5, 4.0)
            self._foramen(side)
            superior = (side * (w + 6.8 * grow), y + 0.5)
            inferior = (side * (w + 2.2 * grow), y + 8.4 * grow)
            lobe = ((3, 0.09 * rng.standard_normal(), 0.0), (2, 0.06 * rng.standard_normal(), 1.0))
            sap = ellipse(7.6 * grow * s, 5.4 * grow * s, power=2.3, lobes=lobe, tilt=side * 0.8)
            self.bone(canvas.patch(Blob(*superior, sap)), 1.2 * grow, sclerosis=rng.uniform(0, 0.6))
            iap = ellipse(6.8 * grow * s, 4.7 * grow * s, power=2.3, lobes=lobe, tilt=side * 0.9)
            arch += [
                Blob(*inferior, iap),
                Rod(inferior, (side * 1.0, self.lamina_y + 2.4), rng.uniform(2.8, 3.6) * s, rng.uniform(1.8, 2.6) * s),
            ]
            mx, my = (superior[0] + inferior[0]) / 2, (superior[1] + inferior[1]) / 2
            dx, dy = side * 0.83 * 6.0 * grow, 0.56 * 6.0 * grow
            cleft = Rod((mx - dx, my - dy), (mx + 0.9 * dx, my + 0.9 * dy), 1.1, 1.1)
            joints.append((cleft, rng.uniform(0.15, 0.6), t.fluid * rng.uniform(0.15, 1)))
        self.bone(canvas.union(arch), 1.1, sclerosis=rng.uniform(0, 0.5))
        for cleft, fluid_mm, signal in joints:
            patch = canvas.patch(cleft)
            canvas.paint(patch, (t.cortex, 0), soft=1.3)
            canvas.paint(patch, (signal, 0), inset=1.1 - fluid_mm, soft=1.3)

    def _back_wall(self) -> None:
        """Ligament and capsule fill the corners between flavum and arch: fat there would fake a dorsal triangle."""
        dorsal = np.clip((np.sin(ANGLES) + 0.15) / 0.35, 0, 1)
        wall = (self.canal.flavum + 3.6 * dorsal).astype(np.float32)
        self.canvas.paint(self.canvas.patch(Blob(0, 0, wall)), (self.tissues.flavum, 0.01), texture=2, soft=1.5)

    def _foramen(self, side: int) -> None:
        rng, t, canal, canvas = self.rng, self.tissues, self.canal, self.canvas
        height = 6 if canal.kind is SliceKind.DISC else 8
        fat = Blob(side * (canal.half_width + 6), -canal.front * 0.55, ellipse(9, height, tilt=side * -0.3))
        canvas.paint(canvas.patch(fat), (0.05, t.fat * (1 - 0.35 * canal.narrowing)), texture=2, soft=1.5)
        ganglion = Blob(
            side * (canal.half_width + rng.uniform(5, 10)),
            -canal.front * rng.uniform(0.4, 0.9),
            ellipse(rng.uniform(2.2, 3.6), rng.uniform(1.8, 2.8)),
        )
        canvas.paint(canvas.patch(ganglion), (t.root * 1.05, 0.03), soft=1.3)
        vessel = Blob(
            side * (canal.half_width + rng.uniform(3, 11)), -canal.front * rng.uniform(0.2, 1.2), ellipse(1.0, 0.8)
        )
        canvas.paint(canvas.patch(vessel), (rng.uniform(0.05, 0.6), 0))

    def pedicles(self) -> None:
        """A closed bony ring: pedicles, transverse processes, upper laminae."""
        rng, canal, s = self.rng, self.canal, self.scale
        w, b = canal.half_width, self.place.body_half_depth
        ring: list[Figure] = []
        for side in (-1, 1):
            y = rng.uniform(0.5, 4.0)
            ring += [
                Rod((side * (w + 5.0), self.place.body_y + 0.55 * b), (side * (w + 5.2), y + 1), 4.4 * s, 4.9 * s),
                Rod(
                    (side * (w + 6), y - 1),
                    (side * (w + 26 * rng.uniform(0.5, 1.1)), y + rng.uniform(-2, 8)),
                    4.0,
                    rng.uniform(2, 3.2),
                ),
                Rod((side * (w + 5), y + 2), (0, self.lamina_y + 2.6), 4.0 * s, 3.0 * s),
            ]
        ring.append(self._spinous(bony=True))
        self.bone(self.canvas.union(ring), 1.15)

    def sacrum(self) -> None:
        """Ala, foramina with the first sacral roots, the median crest; iliac wings beside them."""
        rng, t, canal, canvas, s = self.rng, self.tissues, self.canal, self.canvas, self.scale
        w, b, y, back = canal.half_width, self.place.body_half_depth, self.place.body_y, canal.back
        for side in (-1, 1):
            wing = Rod((side * 58 * s, y + 4), (side * 84 * s, back + 16), 8 * s, 12 * s)
            self.bone(canvas.patch(wing), 1.6)
        ala: list[Figure] = []
        for side in (-1, 1):
            ala += [
                Blob(side * 34 * s, y + 6, ellipse(25 * s, 14 * s, power=2.5, tilt=side * 0.22)),
                Rod((side * (w + 2), back - 3), (side * 3, back + 8), 3.4, 3.0),
                Rod((side * (w + 4), back - 6), (side * 40, y + 14), 5.5, 6.5),
            ]
        if rng.random() < 0.8:
            ala.append(Rod((0, back + 9), (0, back + rng.uniform(14, 22)), 3.2, 2.8))
        self.bone(canvas.union(ala), 1.1)
        for side in (-1, 1):
            x, fy = side * (w + 3), y + b + 4
            canvas.paint(canvas.patch(Blob(x, fy, ellipse(5.5, 4.5))), (0.05, t.fat))
            canvas.paint(canvas.patch(Blob(x, fy, ellipse(2.7, 2.2))), (t.root, 0.05))
