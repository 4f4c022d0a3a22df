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
from training.phantom.fields import Shape
from training.phantom.look import Vendor, sample_look
from training.phantom.planes import Plane, contiguous_stack, disc_slabs
from training.phantom.sagittal import SacProfile, paint_sagittal
from training.phantom.seeds import SHIFTED_TEST_SEEDS
from training.phantom.severity import grade_of, sample_discs, sample_pattern, subgrade_of
from training.phantom.spine import DISC_NAMES, SAC_END_MM, Spine, sample_spine
from training.phantom.tissue import Tissues, sample_tissues, t1_tissues
from training.phantom.troubles import Troubles, sample_troubles
from training.phantom.words import (
    Lookalike,
    OtherReason,
    PhantomSlice,
    RootPattern,
    SliceContent,
    SliceKind,
    Subgrade,
)

_REACH_MM: Final = 12.0
"""How far a disc's stenosis spreads along the spine."""
_PARTIAL_VOLUME_SHARE: Final = 0.3
_HALF_DEPTH_MM: Final = 1.3
"""Where the two renders of a thick slice lie about its middle."""
_TIP_UNSEEN_MM: Final = 2.0
"""A cord slice ends this far below the tip: half a slice."""
_LOOKALIKE_SHARE: Final = 0.07
"""Of patients."""
_CSF_STORED: Final = (700.0, 1500.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What is not left to chance. The sample patient needs all grades; most patients have no wishes."""

    severity: dict[str, float] = field(default_factory=dict)
    """By disc name, replacing the drawn one; see :mod:`training.phantom.severity`."""
    reach_mm: float = _REACH_MM
    conus_above_l12_mm: float | None = None
    slabs: bool | None = None
    slab_discs: tuple[str, ...] = ()
    slices_per_slab: int = 5
    clean: bool = False
    """No partial volume, few artefacts, no slices to refuse."""
    matrix: int | None = None
    vendor: Vendor | None = None
    purpose: str = "wishes"


@dataclass(frozen=True, slots=True)
class PatientSlice:
    """A slice where it lies in the patient."""

    image: PhantomSlice
    geometry: SliceGeometry
    height_mm: float
    """Along the spine above the L5-S1 disc."""
    slab: int


@dataclass(frozen=True, slots=True)
class SliceTruth:
    """What is known of a slice before it is drawn."""

    number: int
    slab: int
    height_mm: float
    above_conus_mm: float
    """Height above the end of the cord; negative below it."""
    level: str
    kind: SliceKind
    content: SliceContent
    severity: float
    """Index of the canal at this height, also where the content is not rootlet."""
    grade: Grade | None
    subgrade: Subgrade | None
    reason: OtherReason | None


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
    troubles: Troubles
    pattern: RootPattern
    lookalike: Lookalike | None
    vendor: Vendor
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
        plane, truth = self.planes[number], self.truth(number)
        image = self._image(plane, truth, t1=t1)
        geometry = plane.geometry(self.shape, self.spacing_mm, self.thickness_mm)
        return PatientSlice(image, geometry, truth.height_mm, plane.slab)

    def truths(self) -> tuple[SliceTruth, ...]:
        """Truth of every axial slice; costs no drawing."""
        return tuple(self.truth(k) for k in range(len(self.planes)))

    def truth(self, number: int) -> SliceTruth:
        plane = self.planes[number]
        s = self.spine.height_of_plane(np.asarray(plane.centre), np.asarray(plane.normal))
        kind, severity = self.spine.kind(s), self.severity_at(s)
        reason = self._refused(s, number) if kind.has_canal and not self.clean else None
        if reason is not None or not kind.has_canal:
            content = SliceContent.OTHER
        else:
            content = SliceContent.CORD if s > self.spine.conus_s - _TIP_UNSEEN_MM else SliceContent.ROOTLET
        rootlet = content is SliceContent.ROOTLET
        return SliceTruth(
            number=number,
            slab=plane.slab,
            height_mm=s,
            above_conus_mm=s - self.spine.conus_s,
            level=self.spine.level(s),
            kind=kind,
            content=content,
            severity=severity,
            grade=grade_of(severity) if rootlet else None,
            subgrade=subgrade_of(severity, self.pattern) if rootlet else None,
            reason=reason,
        )

    def overview_slice(self, share: float, shape: Shape, spacing_mm: float) -> PatientSlice:
        """An untilted low-resolution axial slice, ``share`` of the way from the lowest to the highest disc."""
        s = share * self.spine.discs[-1].s
        centre = self.spine.back_wall(s)
        plane = Plane((0.0, float(centre[1]) - 40, float(centre[2])), 0.0, 0)
        scanner = replace(self.scanner, ghost=None, border=(0.0, False))
        wide = replace(self, shape=shape, spacing_mm=spacing_mm, thickness_mm=8.0, scanner=scanner, planes=(plane,))
        return wide.axial_slice(0)

    def severity_at(self, s: float) -> float:
        """Severity of the canal at a height: that of the discs fades along the spine."""
        spread = (self.severity[d.name] * float(np.exp(-(((s - d.s) / self.reach_mm) ** 2))) for d in self.spine.discs)
        return max(spread)

    def canal_at(self, s: float) -> Canal:
        """The canal at a height. Quantiles are shared along a vertebra, so that neighbours look alike."""
        kind, severity = self.spine.kind(s), self.severity_at(s)
        if severity > 0.25 and kind is SliceKind.PEDICLE:
            kind = SliceKind.FORAMEN
        cord = s > self.spine.conus_s - _TIP_UNSEEN_MM
        return plan_canal(
            self.stream("canal", self.spine.nearest_disc(s).name),
            build=self.build,
            level=self.spine.level(s),
            kind=kind,
            content=SliceContent.CORD if cord else SliceContent.ROOTLET,
            severity=severity,
            pattern=self.pattern,
            lookalike=self.lookalike,
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
        csf = np.interp([c.severity for c in canals], (0.2, 0.4, 0.55), (1.0, 0.6, 0.0))
        return SacProfile(heights, np.array([c.front + c.back for c in canals]), csf)

    def _image(self, plane: Plane, truth: SliceTruth, *, t1: bool) -> PhantomSlice:
        weighting, number, s = "t1" if t1 else "t2", truth.number, truth.height_mm
        tissues = t1_tissues(self.stream("tissue", "t1")) if t1 else self.tissues
        noise = self.stream("noise", weighting, number)
        if not truth.kind.has_canal:
            return self._below_sac(tissues, number)
        partial = not self.clean and self.stream("partial", number).random() < _PARTIAL_VOLUME_SHARE
        offsets = (-_HALF_DEPTH_MM, _HALF_DEPTH_MM) if partial else (0.0,)
        canals = [self.canal_at(s + ds) for ds in offsets]
        maps = self._maps(plane, truth, canals, tissues)
        poor = truth.reason is OtherReason.QUALITY
        scanner = sample_scanner(noise, self.shape, poor=True) if poor else self.scanner
        pixels = acquire(
            scanner,
            noise,
            maps.water,
            maps.fat,
            canal=sac_centre(maps.sac),
            motion_px=float(noise.uniform(1.5, 4)) if poor else 0.0,
            crosstalk=plane.crosstalk,
            gain=None if t1 else self.stored_csf,
        )
        return PhantomSlice(
            pixels=pixels,
            spacing_mm=(self.spacing_mm, self.spacing_mm),
            box=sac_box(maps.sac),
            sac=maps.sac > 0.5,
            content=truth.content,
            grade=truth.grade,
            subgrade=truth.subgrade,
            severity=truth.severity if truth.grade else None,
            lookalike=self.lookalike,
            level=truth.level,
            kind=truth.kind,
            reason=truth.reason,
            ambiguous=truth.reason is None and abs(truth.above_conus_mm) < 4.4,
            fat_suppressed=tissues.fat_suppressed,
        )

    def _maps(self, plane: Plane, truth: SliceTruth, canals: list[Canal], tissues: Tissues) -> Maps:
        s = truth.height_mm
        streams = Streams(
            trunk=self.stream("trunk"),
            bone=self.stream("bone", self.spine.nearest_disc(s).name, canals[0].kind),
            canal=self.stream("unused"),
            content=self.stream("content", truth.number),
        )
        return paint_maps(
            streams,
            shape=self.shape,
            spacing_mm=self.spacing_mm,
            pose=self.pose_on(plane, s, canals[0]),
            build=self.build,
            canals=canals,
            tissues=tissues,
            height_mm=s - 100,
            reason=truth.reason,
            warp_mm=self.warp_mm,
        )

    def _refused(self, s: float, number: int) -> OtherReason | None:
        return self.troubles.at(self.spine.level(s), self.spine.kind(s), self.stream("quality", number))

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


def _words(*names: object) -> list[int]:
    """Numbers for a seed sequence from names."""
    return [int.from_bytes(str(n).encode()[:12].ljust(12, b"\0"), "little") for n in names]


def draw_patient(seed: int, index: int = 0, *, wishes: Wishes | None = None) -> Patient:
    """Patient ``index`` of a set. Decided by (seed, index, generator version) and the wishes alone.

    Seeds of the shifted test set (:mod:`training.phantom.seeds`) give its contrast, field of view and vendor.
    """
    purpose = wishes.purpose if wishes else ""
    wishes = wishes or Wishes()
    rng = np.random.default_rng([seed, index, *_words(GENERATOR_VERSION)])
    build = sample_build(rng)
    spine = sample_spine(rng, build)
    if wishes.conus_above_l12_mm is not None:
        spine = Spine(spine.discs, build, spine.discs[4].s + wishes.conus_above_l12_mm)
    severity = sample_discs(rng) | wishes.severity
    pattern, lookalike = sample_pattern(rng), _sample_lookalike(rng, clean=wishes.clean)
    look = sample_look(rng, shifted=seed in SHIFTED_TEST_SEEDS, clean=wishes.clean, vendor=wishes.vendor)
    matrix = wishes.matrix or look.matrix
    nucleus = float(np.clip(1.1 - build.age + rng.normal(0, 0.15), 0, 1))
    shape = (matrix, matrix)
    slabs = bool(rng.random() < 0.5)
    if slabs if wishes.slabs is None else wishes.slabs:
        count = int(rng.choice([5, 6, 7], p=[0.25, 0.4, 0.35]))
        planes = disc_slabs(
            rng, spine, look.fov_mm, discs=wishes.slab_discs or DISC_NAMES[:count], per_slab=wishes.slices_per_slab
        )
    else:
        planes = contiguous_stack(rng, spine)
    return Patient(
        seed=seed,
        index=index,
        build=build,
        spine=spine,
        tissues=sample_tissues(rng, wildness=look.wildness, nucleus=nucleus),
        scanner=look.scanner(rng, shape),
        severity=severity,
        planes=planes,
        pose=Pose(rotation=float(rng.normal(0, 0.04)), shear=0.0),
        shape=shape,
        spacing_mm=look.fov_mm / matrix,
        thickness_mm=4.0,
        stored_csf=float(rng.uniform(*_CSF_STORED)),
        reach_mm=wishes.reach_mm,
        clean=wishes.clean,
        troubles=sample_troubles(rng),
        pattern=RootPattern.DORSAL if wishes.clean else pattern,
        lookalike=lookalike,
        vendor=look.vendor,
        warp_mm=float(rng.uniform(0.6, 1.6)),
        purpose=purpose,
    )


def _sample_lookalike(rng: np.random.Generator, *, clean: bool) -> Lookalike | None:
    chance, kind = rng.random(), Lookalike(rng.choice(list(Lookalike), p=[0.6, 0.25, 0.15]))
    return kind if chance < _LOOKALIKE_SHARE and not clean else None
