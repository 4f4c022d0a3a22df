"""Which slices of one series are axial T2 lumbar slices that can be graded, and what speaks against the others.

Rules are applied per slice, because one series may hold two echoes, a Dixon set, or planes a PACS has merged. A series
is chosen when at least MIN_SLICES positions pass every rule; its other slices are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from stenosis_node.domain import Decision, SeriesReason
from stenosis_node.series.contrast import kind_objections, sequence_objections
from stenosis_node.series.geometry import Layout, arrange, field_of_view, plane_of
from stenosis_node.series.headers import Acquisition, SeriesHeaders, SliceHeader
from stenosis_node.series.objection import Objection
from stenosis_node.series.region import Region, named_region

MIN_SLICES: Final = 4
MAX_SLICES: Final = 1000
"""A stack of a lumbar spine has 12 to 60 slices; a limit keeps the work on hostile or mistaken series small."""
MIN_MATRIX: Final = 128
MAX_TILT_DEG: Final = 48.0
"""L5-S1 slabs tilt 25 to 45 degrees about the left-right axis."""
MAX_SIDEWAYS_DEG: Final = 23.5
"""asin 0.4: more is no transverse slice of a spine, scoliosis included."""
MAX_ROTATION_DEG: Final = 35.0
FOV_MM: Final = (120.0, 280.0)
"""Longer side of the image when no text names the lumbar spine: smaller is a limb, larger a pelvis."""
FOV_LUMBAR_MM: Final = (100.0, 340.0)
"""The same when a text does."""
THICKNESS_MM: Final = (2.0, 8.0)
MAX_EXTENT_MM: Final = 350.0
"""Head to foot, when no text names the lumbar spine: more is a whole spine."""

_R = SeriesReason
PINNABLE: Final = frozenset(SeriesReason) - {
    _R.NOT_MR, _R.NO_PIXEL_DATA, _R.UNREADABLE, _R.MOSAIC, _R.SCREEN_SAVE, _R.NO_GEOMETRY, _R.NOT_AXIAL,
}  # fmt: skip
"""What a rule of the site may overlook. The others are no opinion: there is no axial image to grade."""
IMAGE_FAULTS: Final = frozenset({_R.MATRIX_TOO_SMALL, _R.FIELD_OF_VIEW, _R.SLICE_THICKNESS})
"""Rules about the image alone: what breaks no other rule, and is named lumbar, is an axial T2 lumbar series."""
OTHER_SEQUENCES: Final = frozenset({_R.FAT_SUPPRESSED, _R.THREE_DIMENSIONAL})
"""Kinds of T2 that the grades were never defined on."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What passed and what did not, in one series."""

    layout: Layout
    """The slices that pass, one per place; may be too few."""
    against: Mapping[SliceHeader, tuple[Objection, ...]]
    """The slices that do not pass, each with every rule that speaks against it, the most telling first."""
    broken: tuple[SliceHeader, ...]
    """Of the slices that do not pass those that speak against themselves only by saying neither place nor size."""
    region: Region
    overlooked: Mapping[SliceHeader, tuple[Objection, ...]]
    """Of slices that pass: the rules that speak against them and were told to be tolerated."""

    @property
    def first_objections(self) -> tuple[Objection, ...]:
        """The most telling objection of each slice that does not pass."""
        return tuple(objections[0] for objections in self.against.values())


def select(series: SeriesHeaders, tolerated: frozenset[SeriesReason] = frozenset()) -> Selection:
    """Apply the rules to every slice of a series. Pure, and independent of the order of the slices.

    tolerated  rules that do not keep a slice from passing
    """
    region = named_region(series)
    name = series.description or series.protocol
    by_acquisition: dict[Acquisition, tuple[tuple[Objection, ...], tuple[Objection, ...]]] = {}
    passing: list[SliceHeader] = []
    against: dict[SliceHeader, tuple[Objection, ...]] = {}
    overlooked: dict[SliceHeader, tuple[Objection, ...]] = {}
    for piece in sorted(series.slices, key=lambda piece: piece.order_key):
        acquisition = piece.acquisition
        if acquisition not in by_acquisition:
            by_acquisition[acquisition] = (
                tuple(kind_objections(acquisition, name)),
                tuple(sequence_objections(acquisition, name)),
            )
        kind, sequence = by_acquisition[acquisition]
        objections = (*kind, *_plane(piece), *sequence, *_region(piece, region), *_image(piece))
        if any(objection.reason not in tolerated for objection in objections) or (objections and not _sized(piece)):
            against[piece] = objections
        else:
            passing.append(piece)
            if objections:
                overlooked[piece] = objections
    if len(passing) > MAX_SLICES:
        too_many = Objection(SeriesReason.THREE_DIMENSIONAL, f"{len(passing)} slices are no 2D stack of a lumbar spine")
        against |= dict.fromkeys(passing, (too_many,))
        passing = []
    broken = tuple(piece for piece, objections in against.items() if _breaks_off(piece, objections))
    return Selection(arrange(passing), against, broken, region, overlooked)


def selection_for(series: SeriesHeaders, decision: Decision, reason: SeriesReason) -> Selection:
    """The slices a decision is about: those that pass, or that would but for what the decision overlooks or blames."""
    if decision is Decision.GRADED and reason is SeriesReason.SITE_RULE:
        selection = select(series)
        return selection if len(selection.layout.slices) >= MIN_SLICES else select(series, PINNABLE)
    if decision is Decision.NOT_GRADABLE and reason in IMAGE_FAULTS:
        return select(series, IMAGE_FAULTS)
    if decision is Decision.NOT_GRADABLE and reason in OTHER_SEQUENCES:
        return select(series, IMAGE_FAULTS | OTHER_SEQUENCES)
    return select(series)


def _breaks_off(piece: SliceHeader, objections: tuple[Objection, ...]) -> bool:
    """Whether a slice does not pass only for place or size that its header should say and does not.

    The acquisition stands before them, and the UIDs in between: a header that reaches the UIDs has told the rest.
    """
    silence = {SeriesReason.NO_GEOMETRY, SeriesReason.MATRIX_TOO_SMALL}
    return not _sized(piece) and all(objection.reason in silence for objection in objections)


def _sized(piece: SliceHeader) -> bool:
    return piece.geometry is not None and piece.rows > 0 and piece.columns > 0


def _plane(piece: SliceHeader) -> Iterator[Objection]:
    if piece.geometry is None:
        yield Objection(SeriesReason.NO_GEOMETRY, piece.geometry_fault)
        return
    plane = plane_of(piece.geometry)
    if plane.off_axial_deg > MAX_TILT_DEG:
        yield Objection(
            SeriesReason.NOT_AXIAL,
            f"{plane.name}, {plane.off_axial_deg:.0f} degrees off axial (up to {MAX_TILT_DEG:.0f} is accepted)",
        )
    elif plane.sideways_deg > MAX_SIDEWAYS_DEG:
        yield Objection(
            SeriesReason.NOT_AXIAL,
            f"oblique, tilted {plane.sideways_deg:.0f} degrees to one side (up to {MAX_SIDEWAYS_DEG:.0f} is accepted)",
        )
    elif plane.rotation_deg > MAX_ROTATION_DEG:
        yield Objection(SeriesReason.NOT_AXIAL, f"axial, but turned by {plane.rotation_deg:.0f} degrees in its plane")


def _region(piece: SliceHeader, region: Region) -> Iterator[Objection]:
    if region.veto:
        yield Objection(SeriesReason.NOT_LUMBAR, f"{region.veto}, going by the {region.source}")
    if piece.geometry is None or piece.rows < 1 or piece.columns < 1:
        return
    low, high = FOV_LUMBAR_MM if region.lumbar else FOV_MM
    height, width = field_of_view(piece)
    if not low <= max(height, width) <= high:
        what = "small" if max(height, width) < low else "large"
        named = "" if region.lumbar else " and no text names the lumbar spine"
        yield Objection(
            SeriesReason.FIELD_OF_VIEW,
            f"field of view {height:.0f} x {width:.0f} mm is too {what} ({low:g} to {high:g} mm is accepted{named})",
        )
    thickness = piece.geometry.thickness_mm
    if thickness is not None and not THICKNESS_MM[0] <= thickness <= THICKNESS_MM[1]:
        yield Objection(
            SeriesReason.SLICE_THICKNESS,
            f"slices of {thickness:g} mm ({THICKNESS_MM[0]:g} to {THICKNESS_MM[1]:g} mm is accepted)",
        )


def _image(piece: SliceHeader) -> Iterator[Objection]:
    if piece.samples != 1:
        yield Objection(SeriesReason.SCREEN_SAVE, f"colour images ({piece.samples} samples per pixel)")
    if min(piece.rows, piece.columns) < MIN_MATRIX:
        yield Objection(
            SeriesReason.MATRIX_TOO_SMALL,
            f"matrix {piece.rows} x {piece.columns} is too small (at least {MIN_MATRIX} x {MIN_MATRIX})",
        )
