"""The words of the node: enumerations and frozen dataclasses, on the standard library alone.

Conventions, stated once and used everywhere
--------------------------------------------
Pixel arrays are ``[rows, columns]``. Pixel Spacing stays a pair ``(between rows, between columns)`` in mm.
Boxes are pixel *edges*: ``(0, 0)`` is the outer corner of the top-left pixel, x runs along columns, y along
rows, so a box covering exactly the first pixel is ``(0, 0, 1, 1)``. This is the convention of SCOORD
(DICOM PS3.3 C.18.6) and of the detector. Boxes always refer to the image *as stored*, never to a
flipped or resampled copy. Positions and direction cosines are in the patient coordinate system (LPS, mm).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Literal,
    TypeAlias,
    Union,
    assert_never,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

if TYPE_CHECKING:  # most commands of the administrator start without it, in two thirds of the time
    import numpy as np
    import numpy.typing as npt

Pixels: TypeAlias = "npt.NDArray[np.float32]"
"""float32 ``[rows, columns]``, arbitrary MR units after Modality LUT, MONOCHROME2 sense (bright is bright)."""

Vector = tuple[float, float, float]

IMPLEMENTATION_CLASS_UID: Final = "2.25.217573298764330716290862147120137431586"
"""Identifies this software in associations and in the file meta information of everything it writes (PS3.7 D.3.3.2)."""
IMPLEMENTATION_VERSION_NAME: Final = "STENOSIS_NODE"
"""Without a version on purpose: received bytes must give the same file before and after an update."""


# --------------------------------------------------------------------------- states and reasons


class JobState(StrEnum):
    """The last durable fact about a study. Who works on it now is the lease, never a state."""

    RECEIVED = "received"  # instances are on disk; waits until the study is quiet
    GRADED = "graded"  # documents are on disk; waits for delivery
    DELIVERED = "delivered"  # every required peer confirmed every document (terminal)
    REJECTED = "rejected"  # nothing in the study can be graded; a visible outcome, no error (terminal)
    FAILED = "failed"  # attempts used up, or a human is needed (terminal until retried)
    CANCELLED = "cancelled"  # an administrator stopped it (terminal until retried)


class DeliveryState(StrEnum):
    """What is durable about sending one result to one peer."""

    PENDING = "pending"
    SENT = "sent"  # the peer confirmed every document; its storage commitment is awaited
    DELIVERED = "delivered"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Decision(StrEnum):
    """What was decided for a series."""

    GRADED = "graded"
    NOT_GRADABLE = "not-gradable"  # an axial T2 lumbar series that cannot be graded: the report says so
    LOCATOR = "locator"  # the sagittal series that orients the reader; at most one per study
    REJECTED = "rejected"


class SeriesReason(StrEnum):
    """Why a series was chosen or not. Codes are stable: scripts and site rules may match them."""

    CHOSEN = "axial-t2-lumbar"
    LOCATOR = "sagittal-locator"
    NOT_MR = "not-mr"
    NO_PIXEL_DATA = "no-pixel-data"
    UNREADABLE = "unreadable"
    MOSAIC = "mosaic"
    LOCALIZER = "localizer"
    DERIVED = "derived"
    SCREEN_SAVE = "screen-save"
    THREE_DIMENSIONAL = "3d-acquisition"
    NO_GEOMETRY = "no-geometry"
    NOT_AXIAL = "not-axial"
    MIXED_ORIENTATION = "mixed-orientation"
    T1_WEIGHTED = "t1-weighted"
    PD_WEIGHTED = "pd-weighted"
    NOT_T2 = "not-t2"
    STIR = "stir"
    FAT_SUPPRESSED = "fat-suppressed"
    MYELOGRAM = "myelogram"
    DIFFUSION = "diffusion"
    GRADIENT_ECHO = "gradient-echo"
    NOT_LUMBAR = "not-lumbar"
    TOO_FEW_SLICES = "too-few-slices"
    MATRIX_TOO_SMALL = "matrix-too-small"
    FIELD_OF_VIEW = "field-of-view"
    SLICE_THICKNESS = "slice-thickness"
    DUPLICATE_SERIES = "repeat-of-better-series"
    PATIENT_POSITION = "patient-position"
    SITE_RULE = "site-rule"


class RejectionReason(StrEnum):
    """Why a whole study ended REJECTED."""

    NO_CANDIDATE = "no-candidate"


class Grade(StrEnum):
    """Schizas grade (Schizas 2010, Spine 35:1919): A none or minor, B moderate, C severe, D extreme."""

    A = "A"
    B = "B"
    C = "C"
    D = "D"


class Content(StrEnum):
    """Neural content of the canal on one slice (stage 2)."""

    ROOTLET = "rootlet"
    CORD = "cord"


class BundleStatus(StrEnum):
    """How far a weights bundle has been proven. Decides where results may be delivered (design section 6)."""

    DEMONSTRATION = "demonstration"
    RESEARCH = "research"
    VALIDATED = "validated"


class DocumentKind(StrEnum):
    """What we produce."""

    SR = "sr"
    SC_OVERVIEW = "sc-overview"
    SC = "sc"
    GSPS = "gsps"
    KOS = "kos"  # a rejection note


# --------------------------------------------------------------------------- reception


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedInstance:
    """One SOP instance whose bytes are durable in the spool. Text is never parsed to make this."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    path: Path
    """Relative to the spool root."""
    size_bytes: int
    sha256: str
    """Of the whole Part 10 file as stored."""
    calling_ae_title: str
    received_at: datetime


# --------------------------------------------------------------------------- geometry and pixels


@dataclass(frozen=True, slots=True)
class PixelBox:
    """Axis-aligned box in pixel edges of the stored image: ``x0 < x1`` along columns, ``y0 < y1`` along rows."""

    x0: float
    y0: float
    x1: float
    y1: float

    def __post_init__(self) -> None:
        if not (self.x0 < self.x1 and self.y0 < self.y1):
            raise ValueError(f"a box needs x0 < x1 and y0 < y1, got {self}")

    @property
    def center(self) -> tuple[float, float]:
        """(x, y) in pixel edges."""
        return (self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2


@dataclass(frozen=True, slots=True)
class SliceRef:
    """Names one slice: a classic instance, or one frame of an enhanced multi-frame instance."""

    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    frame_number: int | None
    """1-based as in DICOM; None for single-frame instances."""


@dataclass(frozen=True, slots=True)
class SliceGeometry:
    """Image Plane of one slice (PS3.3 C.7.6.2)."""

    position: Vector
    """Image Position (Patient): centre of the top-left pixel, mm."""
    row_direction: Vector
    """Unit vector along a row, i.e. in the direction of growing column index."""
    column_direction: Vector
    """Unit vector along a column, i.e. in the direction of growing row index."""
    row_spacing_mm: float
    """Between the centres of adjacent rows (first value of Pixel Spacing)."""
    column_spacing_mm: float
    """Between the centres of adjacent columns (second value of Pixel Spacing)."""
    thickness_mm: float | None

    @property
    def normal(self) -> Vector:
        """Unit normal, row x column direction; towards the head for the usual axial orientation."""
        (rx, ry, rz), (cx, cy, cz) = self.row_direction, self.column_direction
        x, y, z = ry * cz - rz * cy, rz * cx - rx * cz, rx * cy - ry * cx
        length = math.hypot(x, y, z) or math.nan
        return x / length, y / length, z / length

    def to_patient(self, x: float, y: float) -> Vector:
        """Patient coordinates (mm) of a point given in pixel edges of the stored image."""
        along_row, along_column = (x - 0.5) * self.column_spacing_mm, (y - 0.5) * self.row_spacing_mm
        px, py, pz = (
            at + row * along_row + column * along_column
            for at, row, column in zip(self.position, self.row_direction, self.column_direction, strict=True)
        )
        return px, py, pz


@dataclass(frozen=True, slots=True)
class AxialSlice:
    """One slice of a chosen series, in reading order."""

    ref: SliceRef
    path: Path
    """The file the slice came from (absolute)."""
    instance_number: int | None
    geometry: SliceGeometry | None
    """None only for a slice without pixels, when its header does not say where it lies."""
    slab: int
    """0-based index of the group of parallel slices this one belongs to; slabs run from head to foot.

    Slices without geometry come last, as a group of their own."""
    pixels: Pixels | None
    """None when the pixel data could not be decoded; ``unreadable`` then says why."""
    unreadable: str | None = None

    @property
    def plane(self) -> SliceGeometry:
        """The geometry of a slice that was read. ValueError when there is none."""
        if self.geometry is None:
            raise ValueError(f"slice {self.ref} has no geometry")
        return self.geometry


@dataclass(frozen=True, slots=True)
class AxialSeries:
    """A chosen axial T2 series: slices from head to foot, geometry per slice."""

    study_instance_uid: str
    series_instance_uid: str
    series_number: int | None
    frame_of_reference_uid: str | None
    slices: tuple[AxialSlice, ...]


@dataclass(frozen=True, slots=True)
class SagittalSlice:
    """The mid-sagittal slice that shows a reader where the axial slabs lie. It is never graded."""

    ref: SliceRef
    path: Path
    """The file the slice came from (absolute)."""
    geometry: SliceGeometry
    pixels: Pixels


@dataclass(frozen=True, slots=True)
class SeriesDecision:
    """Why a series was chosen or not, with the header values that decided it. No patient attribute is kept."""

    series_instance_uid: str
    series_number: int | None
    description: str
    """Series Description, for the administrator; a technical text of the scanner."""
    n_instances: int
    decision: Decision
    reason: SeriesReason
    sentence: str
    values: dict[str, str] = field(default_factory=dict)


# --------------------------------------------------------------------------- findings


@dataclass(frozen=True, slots=True)
class CanalNotFound:
    """The locate stage returned no box above its threshold."""

    ref: SliceRef
    slab: int
    best_score: float | None
    outcome: Literal["canal_not_found"] = "canal_not_found"


@dataclass(frozen=True, slots=True)
class CordSlice:
    """The canal holds spinal cord: Schizas grades do not apply."""

    ref: SliceRef
    slab: int
    box: PixelBox
    box_score: float
    content_score: float
    """Network score (0 to 1) of ``cord``."""
    outcome: Literal["cord"] = "cord"


@dataclass(frozen=True, slots=True)
class GradedSlice:
    """The canal holds rootlets and was graded."""

    ref: SliceRef
    slab: int
    box: PixelBox
    box_score: float
    content_score: float
    """Network score (0 to 1) of ``rootlet``."""
    grade: Grade
    scores: dict[Grade, float]
    """Network scores of the four grades, sum 1; ``grade`` is the largest, or the bundle has a ``severe_threshold``."""
    outcome: Literal["graded"] = "graded"


@dataclass(frozen=True, slots=True)
class NotGradable:
    """A canal was found but the networks abstain (low score, patch outside the image, ...)."""

    ref: SliceRef
    slab: int
    reason: str
    box: PixelBox | None
    box_score: float | None
    content: Content | None = None
    content_score: float | None = None
    scores: dict[Grade, float] | None = None
    outcome: Literal["not_gradable"] = "not_gradable"


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The pixels of the slice could not be decoded."""

    ref: SliceRef
    slab: int
    reason: str
    outcome: Literal["unreadable"] = "unreadable"


SliceFinding = CanalNotFound | CordSlice | GradedSlice | NotGradable | Unreadable

SEVERITY: Final[dict[Grade, int]] = {Grade.A: 0, Grade.B: 1, Grade.C: 2, Grade.D: 3}


def worst(grades: list[Grade]) -> Grade | None:
    """The most severe grade, None for an empty list."""
    return max(grades, key=SEVERITY.__getitem__, default=None)


_LATER: Final = MappingProxyType({"added": "later"})
"""Of a field that is left out of the JSON at its default: results without it keep their keys."""


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """How an aggregation rule did on whole studies, as the model card of a bundle measured it."""

    rule: str
    """Code of the rule: ``worst-image``."""
    positive: str
    """What counts as positive: ``grade C or D``."""
    sensitivity: float
    specificity: float
    studies: int
    source: str
    """What the studies were: ``simulated studies``."""


@dataclass(frozen=True, slots=True)
class ReaderAgreement:
    """How far the bundle agrees with readers, as its model card measured it."""

    kind: str
    """Who they were: ``simulated readers``, ``musculoskeletal radiologists``."""
    readers: int
    measure: str
    """``weighted kappa``."""
    value: float


@dataclass(frozen=True, slots=True)
class BundleIdentity:
    """What a result must say about the weights it came from."""

    name: str
    version: str
    status: BundleStatus
    digest: str
    """sha256 over the manifest, which itself names the sha256 of each file."""
    intended_use: str
    operating_point: OperatingPoint | None = None
    """None: not measured."""
    agreement: ReaderAgreement | None = None
    """None: not measured."""
    severe_threshold: float | None = field(default=None, metadata=_LATER)
    """An image is graded C or D exactly when the scores of both add up to this; None: its grade scored highest."""


@dataclass(frozen=True, slots=True)
class SeriesFindings:
    """Findings of one chosen series, one per slice, in the order of :attr:`AxialSeries.slices`."""

    series_instance_uid: str
    slices: tuple[SliceFinding, ...]


@dataclass(frozen=True, slots=True)
class StudyFindings:
    """Everything the networks said about a study. Stored before any document is composed from it."""

    study_instance_uid: str
    series: tuple[SeriesFindings, ...]
    bundle: BundleIdentity
    software_version: str
    decisions: tuple[SeriesDecision, ...] = ()
    locator: SliceRef | None = None
    """The sagittal slice that orients the reader; chosen once, so that one that comes later makes no new result."""

    def to_json(self) -> str:
        """Canonical JSON (sorted keys, no spaces): equal findings give equal bytes."""
        return json.dumps(_encode(self), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @staticmethod
    def from_json(text: str) -> StudyFindings:
        """Inverse of :meth:`to_json`. Raises ValueError when the text is not such a document."""
        try:
            return cast(StudyFindings, _decode(StudyFindings, json.loads(text)))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not stored findings of this version: {error}") from error


def finding_box(finding: SliceFinding) -> PixelBox | None:
    """The canal box of a finding, if there is one."""
    match finding:
        case GradedSlice() | CordSlice() | NotGradable():
            return finding.box
        case CanalNotFound() | Unreadable():
            return None
    assert_never(finding)


# --------------------------------------------------------------------------- documents


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A DICOM object we made, complete as a Part 10 file."""

    kind: DocumentKind
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    content: bytes
    """The whole Part 10 file. The same UID always has the same bytes."""
    key: bool = False
    """A Secondary Capture that peers with ``captures = "key"`` get: worst image of a slab, or not gradable."""
    alternatives: tuple[Document, ...] = ()
    """The same content in another SOP class (own UID), best first: sent when a peer does not take this one."""


# --------------------------------------------------------------------------- JSON of the findings


def _encode(value: Any) -> Any:
    if is_dataclass(value):
        given = {f: getattr(value, f.name) for f in fields(value)}
        return {f.name: _encode(one) for f, one in given.items() if f.metadata != _LATER or one != f.default}
    if isinstance(value, dict):
        return {str(k): _encode(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_encode(v) for v in value]
    return value


def _decode(hint: Any, value: Any) -> Any:  # noqa: PLR0911  one return per kind of type
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        members = get_args(hint)
        if value is None:
            return None
        if isinstance(value, dict) and "outcome" in value:
            for member in members:
                if is_dataclass(member) and member.__dataclass_fields__["outcome"].default == value["outcome"]:
                    return _decode(member, value)
            raise ValueError(f"unknown outcome {value['outcome']!r}")
        return _decode(next(m for m in members if m is not type(None)), value)
    if origin is tuple:
        args = get_args(hint)
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_decode(args[0], v) for v in value)
        return tuple(_decode(a, v) for a, v in zip(args, value, strict=True))
    if origin is dict:
        key, val = get_args(hint)
        return {_decode(key, k): _decode(val, v) for k, v in value.items()}
    if is_dataclass(hint) and isinstance(hint, type):
        hints = get_type_hints(hint)
        given = (f for f in fields(hint) if f.name in value)  # what an older version did not know keeps its default
        return hint(**{f.name: _decode(hints[f.name], value[f.name]) for f in given})
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return hint(value)
    if hint is float:
        return float(value)
    return value
