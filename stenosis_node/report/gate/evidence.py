"""What the rules compare a document with: the findings, the images, and the source header read once more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from pydicom.charset import convert_encodings
from pydicom.dataset import Dataset
from pydicom.uid import UID

from stenosis_node.domain import (
    SEVERITY,
    AxialSeries,
    AxialSlice,
    Document,
    DocumentKind,
    Grade,
    GradedSlice,
    SagittalSlice,
    SliceFinding,
    SliceRef,
    StudyFindings,
    finding_box,
)
from stenosis_node.errors import PermanentError
from stenosis_node.report import readback
from stenosis_node.report.readback import Item, Ref
from stenosis_node.wire.part10 import UnreadableFile, read_header

WANTED = (
    "Rows",
    "Columns",
    "LossyImageCompression",
    "PhotometricInterpretation",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
"""What the rules need of every source; of the first they need all."""

Place = tuple[str, int | None]
"""(SOP Instance UID, frame number): one slice."""


class Fault(NamedTuple):
    """A broken rule: its name, and what is wrong where."""

    rule: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Opened:
    """A document with what was read back from it."""

    document: Document
    ds: Dataset
    root: Item
    encoded: dict[int, Any]
    """Of an SR: tag to encoded value of every element but its identity."""
    alternative: bool

    @staticmethod
    def of(document: Document, *, alternative: bool) -> Opened:
        """Read a document back."""
        ds = readback.read(document)
        if "SOPInstanceUID" not in ds:
            raise ValueError("the file ends before its identity")
        elements = readback.encoded_elements(ds) if document.kind is DocumentKind.SR else {}
        root = readback.tree(ds if document.kind is DocumentKind.SR and not alternative else Dataset())
        return Opened(document, ds, root, elements, alternative)

    @property
    def is_report(self) -> bool:
        """Whether it is an SR."""
        return self.document.kind is DocumentKind.SR

    @property
    def name(self) -> str:
        """For sentences."""
        return f"{self.document.kind} {self.document.sop_instance_uid}"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Findings and images, indexed by slice."""

    study: StudyFindings
    findings: dict[Place, SliceFinding]
    slices: dict[Place, AxialSlice]
    sizes: dict[str, tuple[int, int]]
    """SOP Instance UID to (rows, columns), from the received file."""
    lossy: frozenset[str]
    """SOP Instance UIDs of sources that were lossily compressed."""
    series_of: dict[str, str]
    """SOP Instance UID to Series Instance UID."""
    locator: SliceRef | None
    """The sagittal slice of the overview: no finding may ever refer to it."""
    gray: dict[Place, tuple[float, float, bool]]
    """(rescale slope, intercept, whether small values are bright) of slices; absent where a table does that."""
    patient: dict[str, frozenset[str]]
    """Keyword to the ways in which the bytes of the first source may be read."""

    @staticmethod
    def gather(
        findings: StudyFindings, series: Sequence[AxialSeries], sagittal: SagittalSlice | None = None
    ) -> Evidence:
        """Index the evidence. Raises PermanentError when a received file is gone."""
        graded = {f.series_instance_uid for f in findings.series}
        pieces = [piece for one in series if one.series_instance_uid in graded for piece in one.slices]
        sizes: dict[str, tuple[int, int]] = {}
        lossy: set[str] = set()
        gray: dict[Place, tuple[float, float, bool]] = {}
        patient: dict[str, frozenset[str]] = {}
        for uid, frames in _by_instance(pieces).items():
            header = _header(frames, whole=not patient)
            if header is None:
                continue
            if not patient:
                patient = {k: _readings(header, k) for k in ("PatientName", "PatientID", "AccessionNumber")}
            sizes[uid] = (int(header.get("Rows", 0)), int(header.get("Columns", 0)))
            if str(header.get("LossyImageCompression", "00")) == "01":
                lossy.add(uid)
            if not header.get("ModalityLUTSequence"):
                gray |= {(uid, f.ref.frame_number): _gray(header, f.ref.frame_number) for f in frames}
        header = _header([sagittal], whole=False) if sagittal is not None else None
        if sagittal is not None and header is not None and str(header.get("LossyImageCompression", "00")) == "01":
            lossy.add(sagittal.ref.sop_instance_uid)
        return Evidence(
            study=findings,
            findings={(f.ref.sop_instance_uid, f.ref.frame_number): f for s in findings.series for f in s.slices},
            slices={(p.ref.sop_instance_uid, p.ref.frame_number): p for p in pieces},
            sizes=sizes,
            lossy=frozenset(lossy),
            series_of={p.ref.sop_instance_uid: p.ref.series_instance_uid for p in pieces},
            locator=sagittal.ref if sagittal is not None else None,
            gray=gray,
            patient=patient,
        )

    @property
    def drawable(self) -> frozenset[Place]:
        """The slices a presentation state can draw on: with a box, pixels, and no table in the place of a rescale."""
        boxed = {place for place, finding in self.findings.items() if finding_box(finding) is not None}
        return frozenset(p for p in boxed & set(self.gray) if self.slices[p].pixels is not None)

    def knows(self, ref: Ref) -> bool:
        """Whether a reference names a slice of the study, with its class and frame."""
        piece = self.slices.get((ref[1], ref[2]))
        return piece is not None and piece.ref.sop_class_uid == ref[0]

    def is_locator(self, ref: Ref) -> bool:
        """Whether a reference names the sagittal slice of the overview."""
        one = self.locator
        return one is not None and ref == (one.sop_class_uid, one.sop_instance_uid, one.frame_number)

    def owner(self, uid: str) -> str:
        """Series Instance UID of an instance a document may refer to; empty for any other."""
        if self.locator is not None and uid == self.locator.sop_instance_uid:
            return self.locator.series_instance_uid
        return self.series_of.get(uid, "")

    def slabs(self) -> dict[tuple[str, int], list[Place]]:
        """(series, slab) to its slices, head to foot."""
        found: dict[tuple[str, int], list[Place]] = {}
        for place, piece in self.slices.items():
            found.setdefault((piece.ref.series_instance_uid, piece.slab), []).append(place)
        return found

    def grade(self, place: Place) -> Grade | None:
        """The grade of a slice, None when it was not graded."""
        finding = self.findings.get(place)
        return finding.grade if isinstance(finding, GradedSlice) else None

    def worst(self, places: Sequence[Place]) -> Grade | None:
        """Most severe grade among slices."""
        grades = [g for g in map(self.grade, places) if g is not None]
        return max(grades, key=SEVERITY.__getitem__, default=None)

    def isolated(self, place: Place) -> bool:
        """Graded C or D between two neighbours of the same slab that are both A."""
        piece = self.slices[place]
        slab = self.slabs()[(piece.ref.series_instance_uid, piece.slab)]
        k = slab.index(place)
        around = [self.grade(p) for p in slab[max(k - 1, 0) : k] + slab[k + 1 : k + 2]]
        return self.grade(place) in (Grade.C, Grade.D) and around == [Grade.A, Grade.A]


def _by_instance(pieces: Sequence[AxialSlice]) -> dict[str, list[AxialSlice]]:
    found: dict[str, list[AxialSlice]] = {}
    for piece in pieces:
        found.setdefault(piece.ref.sop_instance_uid, []).append(piece)
    return found


def _header(frames: Sequence[AxialSlice | SagittalSlice], *, whole: bool) -> Dataset | None:
    """Header of an instance; None when it is broken and no slice of it could be read either."""
    piece = frames[0]
    try:
        return read_header(piece.path, tags=None if whole else WANTED)
    except (OSError, UnreadableFile) as error:
        if all(isinstance(f, AxialSlice) and f.unreadable is not None for f in frames) and not isinstance(
            error, FileNotFoundError
        ):
            return None
        uid = UID(piece.ref.sop_instance_uid)
        raise PermanentError(
            f"the received file of instance {uid} cannot be read again ({type(error).__name__}); send the study again"
        ) from error


def _gray(header: Dataset, frame: int | None) -> tuple[float, float, bool]:
    """How stored values become the ones that are windowed; of a frame its own groups come before the shared ones."""
    places = [header]
    if frame is not None:
        own = list(header.get("PerFrameFunctionalGroupsSequence") or ())[frame - 1 : frame]
        groups = (*own, *(header.get("SharedFunctionalGroupsSequence") or ()))
        places = [item for group in groups for item in group.get("PixelValueTransformationSequence") or ()]
    values = next(iter(places), Dataset())
    slope, intercept = float(values.get("RescaleSlope") or 1), float(values.get("RescaleIntercept") or 0)
    return slope or 1.0, intercept, header.get("PhotometricInterpretation") == "MONOCHROME1"


def _readings(header: Dataset, keyword: str) -> frozenset[str]:
    """As pydicom reads it, as UTF-8, byte for byte, and in each declared set alone (senders forget escapes)."""
    if keyword not in header:
        return frozenset({""})
    value: Any = cast(Any, header.get_item(keyword)).value  # bytes until pydicom has converted the element
    raw = value.strip(b" \0") if isinstance(value, bytes) else b""
    readings = {str(header.get(keyword) or "").strip(), raw.decode("latin-1")}
    for encoding in ("utf-8", *convert_encodings(header.get("SpecificCharacterSet") or "")):
        try:
            readings.add(raw.decode(encoding))
        except (LookupError, UnicodeDecodeError):
            continue
    return frozenset(reading.replace("\x1b$)A", "") for reading in readings)
