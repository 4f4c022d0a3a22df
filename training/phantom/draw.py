"""One phantom slice with its truth: :func:`draw_slice`, and the steps a patient's slices are made of."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from stenosis_node.domain import Grade, PixelBox
from training.phantom import absent
from training.phantom.acquisition import acquire, sample_scanner
from training.phantom.anatomy import Build, Canal, plan_canal, sample_build
from training.phantom.canvas import Canvas, Pose
from training.phantom.fields import F32, Shape
from training.phantom.sac import paint_canal
from training.phantom.sagittal import SacProfile, paint_sagittal
from training.phantom.severity import grade_of, sample_within, subgrade_of
from training.phantom.spine import sample_spine
from training.phantom.surgery import paint_cavity, paint_screws
from training.phantom.tissue import Tissues, sample_tissues
from training.phantom.trunk import Place, paint_skin, paint_trunk
from training.phantom.vertebra import paint_vertebra
from training.phantom.words import Lookalike, OtherReason, PhantomSlice, SliceContent, SliceKind, Subgrade

FIELD_OF_VIEW_MM = (105.0, 310.0)
"""Log-uniform: real sites range that widely, and it was the largest single gain of a detector on real images."""

LOOKALIKE_SHARE: Final = 0.07
"""Of rootlet slices drawn alone."""


@dataclass(frozen=True, slots=True)
class Streams:
    """Independent generators, so that one part of a slice can be shared with its neighbours and another redrawn."""

    trunk: np.random.Generator
    bone: np.random.Generator
    canal: np.random.Generator
    content: np.random.Generator

    @staticmethod
    def of(rng: np.random.Generator) -> Streams:
        return Streams(*rng.spawn(4))


@dataclass(frozen=True, slots=True)
class Maps:
    """Painted tissue before the scanner."""

    water: F32
    fat: F32
    sac: F32
    """Coverage of the dural sac, 0 to 1."""


def paint_maps(
    streams: Streams,
    *,
    shape: Shape,
    spacing_mm: float,
    pose: Pose,
    build: Build,
    canals: Sequence[Canal],
    tissues: Tissues,
    height_mm: float = 0.0,
    reason: OtherReason | None = None,
    warp_mm: float | None = None,
) -> Maps:
    """Paint one axial slice with a canal. Several canals are those at several depths of the slice: they are averaged.

    Bone and canal are painted for each of them, the trunk once.
    """
    trunk = streams.trunk
    warp = trunk.uniform(0.5, 2.2) if warp_mm is None else warp_mm
    bend = trunk.uniform(6, 16) if reason is OtherReason.DEFORMITY else 0.0
    canvas = Canvas(shape, spacing_mm, pose, warp_mm=warp, bend_mm=bend, rng=trunk)
    first = canals[0]
    paint_trunk(canvas, trunk, build=build, canal=first, place=_place(first, build, height_mm), tissues=tissues)
    background = canvas.water, canvas.fat
    layers: list[Maps] = []
    for canal in canals:
        canvas.water, canvas.fat = (part.copy() for part in background) if len(canals) > 1 else background
        bone, content = (deepcopy(s) if len(canals) > 1 else s for s in (streams.bone, streams.content))
        place = _place(canal, build, height_mm)
        paint_vertebra(canvas, bone, build=build, canal=canal, place=place, tissues=tissues)
        sac = paint_canal(canvas, content, canal=canal, tissues=tissues)
        if reason is OtherReason.POST_OP:
            paint_cavity(canvas, content, canal, tissues)
        if reason is OtherReason.SCREWS:
            paint_screws(canvas, content, canal)
        layers.append(Maps(canvas.water, canvas.fat, sac))
    canvas.water, canvas.fat, sac = (_mean([getattr(m, part) for m in layers]) for part in ("water", "fat", "sac"))
    paint_skin(canvas, trunk, build=build, canal=first, place=_place(first, build, height_mm), tissues=tissues)
    return Maps(canvas.water, canvas.fat, sac)


def _place(canal: Canal, build: Build, height_mm: float) -> Place:
    depth = canal.sizes.body_half_depth * build.scale
    return Place(-(canal.front + canal.gap_mm + depth), depth, height_mm)


def _mean(maps: list[F32]) -> F32:
    total: F32 = maps[0] if len(maps) == 1 else sum(maps[1:], start=maps[0]) * np.float32(1 / len(maps))
    return total


def draw_slice(
    rng: np.random.Generator,
    *,
    content: SliceContent | str | None = None,
    grade: Grade | str | None = None,
    subgrade: Subgrade | str | None = None,
    severity: float | None = None,
    lookalike: Lookalike | None = None,
    level: str | None = None,
    kind: SliceKind | str | None = None,
    reason: OtherReason | str | None = None,
    fov_mm: float | None = None,
    matrix: int | Shape = 256,
    wildness: float | None = None,
    fat_suppressed: bool | None = None,
    clean: bool = False,
    centred: bool = False,
    tissues: Tissues | None = None,
) -> PhantomSlice:
    """Draw one slice; whatever is not given is drawn at random.

    ``kind`` may name a slice without a canal (``caudal``, ``soft-tissue``, ``sagittal``, ``noise``): the content is
    then ``other`` and the box None. ``severity`` decides the grade where it is given. ``fov_mm`` is the width;
    ``matrix`` a square size or (rows, columns).
    ``wildness`` (0 to 1) is how far contrasts leave physics, by default 0 for half of the slices. ``clean`` keeps
    artefacts rare; ``centred`` keeps the canal near the middle; ``tissues`` replaces the drawn contrast. Raises
    ValueError for contradictory wishes.
    """
    kind = None if kind is None else SliceKind(kind)
    if severity is not None:
        grade = grade_of(severity)
    content = _sample_content(rng, content, grade or subgrade, kind, reason)
    shape = (matrix, matrix) if isinstance(matrix, int) else matrix
    low, high = FIELD_OF_VIEW_MM
    fov = float(np.exp(rng.uniform(np.log(low), np.log(high)))) if fov_mm is None else fov_mm
    spacing = fov / shape[1]
    wild = (rng.uniform(0, 1) ** 2 if rng.random() < 0.45 else 0.0) if wildness is None else wildness
    suppressed = bool(wild > 0 and rng.random() < 0.2) if fat_suppressed is None else fat_suppressed
    tissues = tissues or sample_tissues(rng, wildness=wild, fat_suppressed=suppressed)
    build = sample_build(rng)
    if content is SliceContent.OTHER and kind is None and reason is None and rng.random() < 0.5:
        kind = SliceKind(rng.choice(["caudal", "soft-tissue", "sagittal", "noise"], p=[0.4, 0.3, 0.2, 0.1]))
    if kind is not None and not kind.has_canal:
        return _draw_absent(rng, kind, shape, spacing, build, tissues, clean=clean)
    why = None
    if content is SliceContent.OTHER:
        why = OtherReason(reason or rng.choice(list(OtherReason)))
    index, pattern = sample_within(rng, *_sample_grade(rng, content, grade, subgrade))
    index = index if severity is None else severity
    letter = grade_of(index) if content is SliceContent.ROOTLET else None
    if lookalike is None and rng.random() < LOOKALIKE_SHARE and content is SliceContent.ROOTLET:
        lookalike = Lookalike(rng.choice(list(Lookalike), p=[0.6, 0.25, 0.15]))
    level = level or _sample_level(rng, content, letter)
    kind = kind or _sample_kind(rng, level, letter)
    fullness = _sample_fullness(rng, level)
    streams = Streams.of(rng)
    canal = plan_canal(
        streams.canal, build=build, level=level, kind=kind, content=content,
        severity=0.1 * index if content is SliceContent.CORD else index, pattern=pattern, lookalike=lookalike,
        cord_fullness=fullness,
    )  # fmt: skip
    pose = _sample_pose(rng, shape, spacing, canal, centred=centred)
    maps = paint_maps(
        streams, shape=shape, spacing_mm=spacing, pose=pose, build=build, canals=(canal,), tissues=tissues,
        height_mm=rng.uniform(-150, 150), reason=why,
    )  # fmt: skip
    poor = why is OtherReason.QUALITY
    scanner = sample_scanner(rng, shape, poor=poor, clean=clean)
    pixels = acquire(
        scanner,
        rng,
        maps.water,
        maps.fat,
        canal=sac_centre(maps.sac),
        motion_px=_sample_motion(rng, poor=poor, clean=clean),
        crosstalk=_sample_crosstalk(rng, clean=clean),
    )
    return PhantomSlice(
        pixels=pixels,
        spacing_mm=(spacing, spacing),
        box=sac_box(maps.sac),
        sac=maps.sac > 0.5,
        content=content,
        grade=letter,
        subgrade=subgrade_of(index, pattern) if letter else None,
        severity=index if letter else None,
        lookalike=lookalike,
        level=level,
        kind=kind,
        reason=why,
        ambiguous=content is SliceContent.CORD and fullness < 0.15,
        fat_suppressed=tissues.fat_suppressed,
    )


def sac_box(sac: F32) -> PixelBox:
    """Bounds, in pixel edges, of the pixels more than half inside the sac."""
    rows, cols = np.flatnonzero((sac > 0.5).any(axis=1)), np.flatnonzero((sac > 0.5).any(axis=0))
    return PixelBox(float(cols[0]), float(rows[0]), float(cols[-1] + 1), float(rows[-1] + 1))


def sac_centre(sac: F32) -> tuple[int, int]:
    """(row, column) of the pixel in the middle of the box."""
    x, y = sac_box(sac).center
    return int(y), int(x)


def _sample_content(
    rng: np.random.Generator,
    content: SliceContent | str | None,
    grade: Grade | Subgrade | str | None,
    kind: SliceKind | None,
    reason: OtherReason | str | None,
) -> SliceContent:
    implied = SliceContent.OTHER if (kind is not None and not kind.has_canal) or reason is not None else None
    if grade is not None and implied is None:
        implied = SliceContent.ROOTLET
    if content is None:
        drawn = implied or SliceContent(rng.choice(["rootlet", "cord", "other"], p=[0.66, 0.22, 0.12]))
    else:
        drawn = SliceContent(content)
    if (implied and drawn is not implied) or (grade is not None and drawn is not SliceContent.ROOTLET):
        raise ValueError(f"content {drawn} does not go with grade {grade}, kind {kind}, reason {reason}")
    return drawn


def _sample_grade(
    rng: np.random.Generator, content: SliceContent, grade: Grade | str | None, subgrade: Subgrade | str | None
) -> tuple[Grade | None, Subgrade | None]:
    if content is not SliceContent.ROOTLET:
        return None, None
    if grade is None:
        grade = Grade.A if subgrade is not None else rng.choice(["A", "B", "C", "D"], p=[0.5, 0.2, 0.16, 0.14])
    letter = Grade(grade)
    if letter is not Grade.A:
        return letter, None
    return letter, Subgrade(subgrade or rng.choice(["A1", "A2", "A3", "A4"], p=[0.42, 0.2, 0.25, 0.13]))


def _sample_level(rng: np.random.Generator, content: SliceContent, grade: Grade | None) -> str:
    if content is SliceContent.CORD:
        return str(rng.choice(["T11", "T12", "L1"], p=[0.2, 0.45, 0.35]))
    sacral = 0.1 if grade in (None, Grade.A) else 0.0
    p = np.array([0.08, 0.17, 0.21, 0.24, 0.20, sacral])
    return str(rng.choice(["L1", "L2", "L3", "L4", "L5", "S1"], p=p / p.sum()))


def _sample_kind(rng: np.random.Generator, level: str, grade: Grade | None) -> SliceKind:
    if level == "S1":
        return SliceKind.SACRUM
    p = [0.5, 0.25, 0.25] if grade in (None, Grade.A) else [0.8, 0.2, 0.0]
    return SliceKind(rng.choice(["disc", "foramen", "pedicle"], p=p))


def _sample_fullness(rng: np.random.Generator, level: str) -> float:
    low, high = {"L1": (0.0, 1.0), "T12": (0.55, 1.0)}.get(level, (0.9, 1.0))
    return float(rng.uniform(low, high))


def _sample_pose(rng: np.random.Generator, shape: Shape, spacing: float, canal: Canal, *, centred: bool) -> Pose:
    """Usually a little behind the middle; in one slice of four anywhere that keeps the sac on the image."""
    reach = float(canal.sac.max()) + 9
    room_x, room_y = (max(0.0, n * spacing / 2 - reach) for n in (shape[1], shape[0]))
    if not centred and rng.random() < 0.25:
        x, y = rng.uniform(-room_x, room_x), rng.uniform(-room_y, room_y)
    else:
        tight = 0.4 if centred else 1.0
        x, y = rng.normal(0, 6 * tight), rng.normal(8, 12 * tight)
    return Pose(
        float(np.clip(x, -room_x, room_x)),
        float(np.clip(y, -room_y, room_y)),
        rotation=float(rng.normal(0, 0.06)),
        shear=float(rng.normal(0, 0.03)),
    )


def _sample_motion(rng: np.random.Generator, *, poor: bool, clean: bool) -> float:
    if poor:
        return float(rng.uniform(1.5, 5))
    return float(rng.uniform(0.5, 2.5)) if rng.random() < (0.03 if clean else 0.12) else 0.0


def _sample_crosstalk(rng: np.random.Generator, *, clean: bool) -> tuple[float, float, float] | None:
    if rng.random() >= (0.03 if clean else 0.12):
        return None
    return float(rng.uniform(0.2, 0.95)), float(rng.uniform(0.3, 0.8)), float(rng.uniform(0.04, 0.12))


def _draw_absent(
    rng: np.random.Generator,
    kind: SliceKind,
    shape: Shape,
    spacing: float,
    build: Build,
    tissues: Tissues,
    *,
    clean: bool,
) -> PhantomSlice:
    pose = Pose(rng.normal(0, 12), rng.normal(10, 14), rotation=rng.normal(0, 0.08))
    if kind is SliceKind.SAGITTAL:
        pose = Pose(rng.uniform(-10, 30), rng.uniform(50, 130), rotation=pose.rotation)
    canvas = Canvas(shape, spacing, pose, warp_mm=rng.uniform(0.8, 2.6), bend_mm=0.0, rng=rng)
    match kind:
        case SliceKind.CAUDAL:
            absent.paint_caudal(canvas, rng, build, tissues)
        case SliceKind.SOFT_TISSUE:
            absent.paint_soft_tissue(canvas, rng, build, tissues)
        case SliceKind.SAGITTAL:
            spine = sample_spine(rng, build)
            paint_sagittal(
                canvas, rng, spine=spine, build=build, tissues=tissues, x_mm=rng.uniform(-26, 26),
                profile=SacProfile.healthy(spine),
            )  # fmt: skip
        case _:
            absent.paint_noise(canvas, rng)
    scanner = sample_scanner(rng, shape, clean=clean)
    pixels: npt.NDArray[np.uint16] = acquire(scanner, rng, canvas.water, canvas.fat, canal=None)
    return PhantomSlice(
        pixels=pixels, spacing_mm=(spacing, spacing), box=None, sac=None, content=SliceContent.OTHER, grade=None,
        subgrade=None, level=None, kind=kind, fat_suppressed=tissues.fat_suppressed,
    )  # fmt: skip
