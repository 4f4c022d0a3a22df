"""A phantom patient: one spine, one scan, and the truth of every axial slice (:func:`draw_patient`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from stenosis_node.domain import Grade, SliceGeometry, Vector
from training.phantom import GENERATOR_VERSION
from training.phantom.acquisition import Scanner, acquire, sample_scanner
from training.phantom.anatomy import Build, Canal, plan_canal, sample_build
from training.phantom.canvas import Canvas, Pose
from training.phantom.draw import Maps, Streams, draw_slice, paint_maps, sac_box, sac_centre
from training.phantom.fields import F32, Shape
from training.phantom.planes import Plane, contiguous_stack, disc_slabs
from training.phantom.sagittal import SacProfile, paint_sagittal
from training.phantom.spine import DISC_NAMES, SAC_END_MM, Spine, sample_spine
from training.phantom.tissue import Tissues, sample_tissues, t1_tissues
from training.phantom.words import OtherReason, PhantomSlice, SliceContent, SliceKind, Subgrade

STENOSIS_CHANCE: Final = {
    "L5-S1": 0.06, "L4-5": 0.32, "L3-4": 0.22, "L2-3": 0.12, "L1-2": 0.04, "T12-L1": 0.02, "T11-12": 0.01,
}  # fmt: skip
"""Chance of grade B or worse at a disc (RSNA 2024 counts, rounded up for a spine clinic)."""

_REACH_MM: Final = 5.5
"""How far a disc's stenosis spreads along the spine."""
_GRADE_FROM: Final = ((0.8, Grade.D), (0.5, Grade.C), (0.25, Grade.B))
_CSF_STORED: Final = (700.0, 1500.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What is not left to chance. The sample patient needs all grades; most patients have no wishes."""

    severity: dict[str, float] = field(default_factory=dict)
    """By disc name, replacing the drawn one: 0 healthy; from 0.25 B, 0.5 C, 0.8 D."""
    reach_mm: float = _REACH_MM
    conus_above_l12_mm: float | None = None
    slabs: bool | None = None
    slab_discs: tuple[str, ...] = ()
    slices_per_slab: int = 5
    clean: bool = False
    """No partial volume, few artefacts, no slices to refuse."""
    matrix: int | None = None
    purpose: str = "wishes"


@dataclass(frozen=True, slots=True)
class PatientSlice:
    """A slice where it lies in the patient."""

    image: PhantomSlice
    geometry: SliceGeometry
    height_mm: float
    """Along the spine above the L5-S1 disc."""
    slab: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """Everything the slices share. Slices are drawn when asked for, each from the seed alone."""

    seed: int
    index: int
    build: Build
    spine: Spine
    tissues: Tissues
    scanner: Scanner
    severity: dict[str, float]
    planes: tuple[Plane, ...]
    pose: Pose
    """Position of the canal on the image is the slice's own; rotation and shear are the patient's."""
    shape: Shape
    spacing_mm: float
    thickness_mm: float
    stored_csf: float
    reach_mm: float
    clean: bool
    screws_at: frozenset[str]
    """Levels with pedicle screws."""
    warp_mm: float
    purpose: str
    """Empty, or what the wishes were for: keeps the UIDs of wished patients apart."""

    @property
    def fov_mm(self) -> float:
        return self.spacing_mm * self.shape[1]

    def stream(self, *names: object) -> np.random.Generator:
        """Generator for a part, the same each time: decided by patient and name."""
        return np.random.default_rng([self.seed, self.index, *_words(GENERATOR_VERSION, *names)])

    def axial_slices(self, *, t1: bool = False) -> Iterator[PatientSlice]:
        """Axial T2 (or T1) slices in the order of acquisition."""
        for number in range(len(self.planes)):
            yield self.axial_slice(number, t1=t1)

    def axial_slice(self, number: int, *, t1: bool = False) -> PatientSlice:
        """Slice ``number`` (0-based)."""
        plane = self.planes[number]
        s = self.spine.height_of_plane(np.asarray(plane.centre), np.asarray(plane.normal))
        image = self._image(plane, s, number, t1=t1)
        return PatientSlice(image, plane.geometry(self.shape, self.spacing_mm, self.thickness_mm), s, plane.slab)

    def overview_slice(self, share: float, shape: Shape, spacing_mm: float) -> PatientSlice:
        """An untilted low-resolution axial slice, ``share`` of the way from the lowest to the highest disc."""
        s = share * self.spine.discs[-1].s
        centre = self.spine.back_wall(s)
        plane = Plane((0.0, float(centre[1]) - 40, float(centre[2])), 0.0, 0)
        scanner = replace(self.scanner, ghost=None, border=(0.0, False))
        wide = replace(self, shape=shape, spacing_mm=spacing_mm, thickness_mm=8.0, scanner=scanner, planes=(plane,))
        return wide.axial_slice(0)

    def truth_at(self, s: float) -> tuple[SliceContent, Grade | None, Subgrade | None]:
        """Content and grade of the canal at a height."""
        if s > self.spine.conus_s - 2:
            return SliceContent.CORD, None, None
        severity = max(
            self.severity[d.name] * float(np.exp(-(((s - d.s) / self.reach_mm) ** 2))) for d in self.spine.discs
        )
        for least, grade in _GRADE_FROM:
            if severity >= least:
                return SliceContent.ROOTLET, grade, None
        rng = self.stream("subgrade", self.spine.nearest_disc(s).name)
        usual = Subgrade(rng.choice(["A1", "A2", "A3"], p=[0.6, 0.3, 0.1]))
        if severity >= 0.12:
            return SliceContent.ROOTLET, Grade.A, Subgrade(rng.choice(["A3", "A4"], p=[0.6, 0.4]))
        return SliceContent.ROOTLET, Grade.A, usual

    def canal_at(self, s: float, *, other: bool = False) -> Canal:
        """The canal at a height. Quantiles are shared along a vertebra, so that neighbours look alike."""
        content, grade, subgrade = self.truth_at(s)
        kind = self.spine.kind(s)
        if grade not in (None, Grade.A) and kind is SliceKind.PEDICLE:
            kind = SliceKind.FORAMEN
        return plan_canal(
            self.stream("canal", self.spine.nearest_disc(s).name),
            build=self.build,
            level=self.spine.level(s),
            kind=kind,
            content=SliceContent.OTHER if other else content,
            grade=None if other else grade,
            subgrade=None if other else subgrade,
            cord_fullness=self.spine.cord_fullness(s),
            sizes=self.spine.sizes(s),
        )

    def pose_on(self, plane: Plane, s: float, canal: Canal) -> Pose:
        """Where the sac centre of height ``s`` lies on the image of a plane."""
        centre = self.spine.back_wall(s) + (canal.gap_mm + canal.front) * self.spine.backwards(s)
        d = centre - np.asarray(plane.centre)
        x, y = float(d @ np.asarray(plane.row_direction)), float(d @ np.asarray(plane.column_direction))
        return Pose(x, y, self.pose.rotation, self.pose.shear)

    def sagittal_image(
        self, x_mm: float, shape: Shape, spacing_mm: float, centre: Vector, profile: SacProfile
    ) -> npt.NDArray[np.uint16]:
        """T2 image of the sagittal plane ``x_mm`` whose middle is at ``centre`` (LPS); columns run back, rows down."""
        pose = Pose(-centre[1], centre[2])
        canvas = Canvas(shape, spacing_mm, pose, warp_mm=0.5, bend_mm=0.0, rng=self.stream("sagittal warp"))
        paint_sagittal(
            canvas,
            self.stream("sagittal"),
            spine=self.spine,
            build=self.build,
            tissues=self.tissues,
            x_mm=x_mm,
            profile=profile,
        )
        scanner = replace(self.scanner, coil_gain=0.0, saturation=None, ghost=None, wrap=0.0, border=(0.0, False))
        noise = self.stream("noise", "sagittal", x_mm)
        return acquire(scanner, noise, canvas.water, canvas.fat, canal=None, gain=self.stored_csf)

    def sac_profile(self) -> SacProfile:
        """Depth and brightness of the sac along the spine, for sagittal planes."""
        heights = np.arange(SAC_END_MM, self.spine.discs[-1].s + 70.0, 3.0)
        canals = [self.canal_at(s) for s in heights.tolist()]
        bright = {None: 1.0, Grade.A: 1.0, Grade.B: 0.6}
        return SacProfile(
            heights, np.array([c.front + c.back for c in canals]), np.array([bright.get(c.grade, 0.0) for c in canals])
        )

    def _image(self, plane: Plane, s: float, number: int, *, t1: bool) -> PhantomSlice:
        weighting = "t1" if t1 else "t2"
        tissues = t1_tissues(self.stream("tissue", "t1")) if t1 else self.tissues
        noise = self.stream("noise", weighting, number)
        if not self.spine.kind(s).has_canal:
            return self._below_sac(tissues, number)
        refused = None if self.clean else self._refused(s, number)
        canal = self.canal_at(s, other=refused is not None)
        partial = not self.clean and self.stream("partial", number).random() < 0.3
        offsets = (-1.3, 1.3) if partial else (0.0,)
        maps = [self._maps(plane, s + ds, number, tissues, refused) for ds in offsets]
        water, fat, sac = (_mean([getattr(m, part) for m in maps]) for part in ("water", "fat", "sac"))
        poor = refused is OtherReason.QUALITY
        scanner = sample_scanner(noise, self.shape, poor=True) if poor else self.scanner
        pixels = acquire(
            scanner,
            noise,
            water,
            fat,
            canal=sac_centre(sac),
            motion_px=float(noise.uniform(1.5, 4)) if poor else 0.0,
            crosstalk=plane.crosstalk,
            gain=None if t1 else self.stored_csf,
        )
        return PhantomSlice(
            pixels=pixels,
            spacing_mm=(self.spacing_mm, self.spacing_mm),
            box=sac_box(sac),
            sac=sac > 0.5,
            content=canal.content,
            grade=canal.grade,
            subgrade=canal.subgrade,
            level=canal.level,
            kind=canal.kind,
            reason=refused,
            ambiguous=refused is None and abs(s - self.spine.conus_s) < 4.4,
            fat_suppressed=tissues.fat_suppressed,
        )

    def _maps(self, plane: Plane, s: float, number: int, tissues: Tissues, refused: OtherReason | None) -> Maps:
        canal = self.canal_at(s, other=refused is not None)
        disc = self.spine.nearest_disc(s).name
        streams = Streams(
            trunk=self.stream("trunk"),
            bone=self.stream("bone", disc, canal.kind),
            canal=self.stream("unused"),
            content=self.stream("content", number),
        )
        return paint_maps(
            streams,
            shape=self.shape,
            spacing_mm=self.spacing_mm,
            pose=self.pose_on(plane, s, canal),
            build=self.build,
            canal=canal,
            tissues=tissues,
            height_mm=s - 100,
            reason=refused,
            warp_mm=self.warp_mm,
        )

    def _refused(self, s: float, number: int) -> OtherReason | None:
        if self.spine.level(s) in self.screws_at and self.spine.kind(s) is not SliceKind.DISC:
            return OtherReason.SCREWS
        return OtherReason.QUALITY if self.stream("quality", number).random() < 0.02 else None

    def _below_sac(self, tissues: Tissues, number: int) -> PhantomSlice:
        return draw_slice(
            self.stream("below", number),
            kind=SliceKind.CAUDAL,
            fov_mm=self.fov_mm,
            matrix=self.shape,
            wildness=0.0,
            clean=True,
            tissues=tissues,
        )


def _mean(maps: list[F32]) -> F32:
    total: F32 = sum(maps[1:], start=maps[0]) * np.float32(1 / len(maps))
    return total


def _words(*names: object) -> list[int]:
    """Numbers for a seed sequence from names."""
    return [int.from_bytes(str(n).encode()[:12].ljust(12, b"\0"), "little") for n in names]


def draw_patient(seed: int, index: int, *, wishes: Wishes | None = None) -> Patient:
    """Patient ``index`` of a set. Decided by (seed, index, generator version) and the wishes alone."""
    purpose = wishes.purpose if wishes else ""
    wishes = wishes or Wishes()
    rng = np.random.default_rng([seed, index, *_words(GENERATOR_VERSION)])
    build = sample_build(rng)
    spine = sample_spine(rng, build)
    if wishes.conus_above_l12_mm is not None:
        spine = Spine(spine.discs, build, spine.discs[4].s + wishes.conus_above_l12_mm)
    severity = {name: _sample_severity(rng, name) for name in DISC_NAMES} | wishes.severity
    wild = float(rng.uniform(0, 0.4)) if not wishes.clean and rng.random() < 0.3 else 0.0
    tissues = sample_tissues(rng, wildness=wild, nucleus=float(np.clip(1.1 - build.age + rng.normal(0, 0.15), 0, 1)))
    matrix = wishes.matrix or int(rng.choice([256, 320, 384]))
    fov = float(rng.uniform(170, 210) if wishes.clean else rng.uniform(150, 230))
    shape = (matrix, matrix)
    slabs = bool(rng.random() < 0.4)
    if slabs if wishes.slabs is None else wishes.slabs:
        planes = disc_slabs(rng, spine, fov, discs=wishes.slab_discs or DISC_NAMES[:5], per_slab=wishes.slices_per_slab)
    else:
        planes = contiguous_stack(rng, spine)
    screws: frozenset[str] = frozenset()
    if not wishes.clean and rng.random() < 0.08:
        screws = frozenset((("L3", "L4"), ("L4", "L5"))[int(rng.integers(2))])
    return Patient(
        seed=seed,
        index=index,
        build=build,
        spine=spine,
        tissues=tissues,
        scanner=sample_scanner(rng, shape, clean=True),
        severity=severity,
        planes=planes,
        pose=Pose(rotation=float(rng.normal(0, 0.04)), shear=0.0),
        shape=shape,
        spacing_mm=fov / matrix,
        thickness_mm=4.0,
        stored_csf=float(rng.uniform(*_CSF_STORED)),
        reach_mm=wishes.reach_mm,
        clean=wishes.clean,
        screws_at=screws,
        warp_mm=float(rng.uniform(0.6, 1.6)),
        purpose=purpose,
    )


def _sample_severity(rng: np.random.Generator, disc: str) -> float:
    """Healthy below 0.25; otherwise B, C or D with falling chance."""
    stenotic, mild, grade, inside = rng.random(), rng.uniform(0, 0.2), rng.random(), rng.uniform(0, 1)
    if stenotic >= STENOSIS_CHANCE[disc]:
        return float(mild)
    low, high = (0.3, 0.5) if grade < 0.5 else (0.55, 0.8) if grade < 0.8 else (0.9, 1.3)
    return float(low + (high - low) * inside)
