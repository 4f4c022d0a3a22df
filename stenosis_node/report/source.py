"""Headers of the source images, read again from the received files and normalised on a copy.

Received files are never changed. Type 2 attributes that are absent become empty, texts are re-encoded to UTF-8
from whatever character set the source declares, odd sexes and dates become empty instead of making our objects
invalid.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, cast

import pydicom
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.valuerep import TEXT_VR_DELIMS

from stenosis_node.domain import AxialSlice, SagittalSlice, SliceRef
from stenosis_node.errors import PermanentError, TransientError
from stenosis_node.wire.part10 import UnreadableFile, read_header

PATIENT: Final = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
STUDY: Final = ("StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyID")
OPTIONAL: Final = (
    "IssuerOfPatientID",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "StudyDescription",
    "InstitutionName",
    "PositionReferenceIndicator",
)
ACQUISITION: Final = (
    "Manufacturer",
    "InstitutionName",
    "StationName",
    "ManufacturerModelName",
    "DeviceSerialNumber",
    "SoftwareVersions",
)
_PATTERNS: Final = {
    "DA": r"(19|2\d)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])",
    "TM": r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?",
    "AS": r"\d{3}[DWMY]",
    "UI": r"[0-9.]{1,64}",
    "IS": r"[+-]?\d{1,12}",
    "DS": r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?",
}


@dataclass(frozen=True, slots=True)
class Lossy:
    """Lossy compression the source pixels went through (PS3.3 C.7.6.1.1.5); it stays true of all derived images."""

    ratios: tuple[str, ...]
    methods: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Voi:
    """How the source wants to be shown: a window, a lookup table, or neither."""

    center: float | None = None
    width: float | None = None
    function: str = "LINEAR"
    lut: tuple[int, tuple[int, ...], int] | None = None
    """(first mapped value, table, bits of an entry)."""


@dataclass(frozen=True, slots=True)
class SourceImage:
    """What a document needs to know of one slice beside its pixels and geometry."""

    rows: int
    columns: int
    monochrome1: bool
    voi: Voi
    lossy: Lossy | None
    spacing_between_mm: float | None
    rescale: tuple[float, float] | None = (1.0, 0.0)
    """(slope, intercept) from stored values to those of :attr:`AxialSlice.pixels`; None when a table does that."""
    frame_of_reference_uid: str = ""
    name: str = ""
    """``series 3, image 8``: the numbers of the source, as a viewer shows them."""


@dataclass(frozen=True, slots=True)
class StudyHeader:
    """Normalised attributes that all our objects of the study share."""

    attributes: Mapping[str, str]
    """Patient and study attributes, keyword to decoded text; Type 2 attributes are always there."""
    acquisition: Mapping[str, str]
    """The equipment that made the images, for Contributing Equipment."""
    body_part: str

    def apply(self, dataset: Dataset) -> None:
        """Write the patient and study attributes."""
        for keyword, text in self.attributes.items():
            setattr(dataset, keyword, text)


def read_sources(slices: Iterable[AxialSlice]) -> tuple[StudyHeader, dict[SliceRef, SourceImage]]:
    """Read the headers behind the slices, each file once. An unreadable slice whose header is no better is left out.

    raises  PermanentError when a file is gone or is no DICOM file any more: the documents must refer to it
            TransientError when the disk does not give a file
    """
    study: StudyHeader | None = None
    images: dict[SliceRef, SourceImage] = {}
    headers: dict[Path, Dataset] = {}
    for piece in slices:
        if piece.path not in headers:
            try:
                headers = {piece.path: _read(piece)}  # slices of one file follow each other: one header at a time
            except PermanentError:
                if piece.unreadable is None:
                    raise
                continue
        header = headers[piece.path]
        if study is None:
            study = _study(header)
        images[piece.ref] = _image(header, piece.ref.frame_number)
    if study is None:
        raise PermanentError("a report needs at least one image of a chosen series")
    return study, images


def read_sagittal(sagittal: SagittalSlice) -> SourceImage:
    """Read the header behind the sagittal slice. Raises as :func:`read_sources` does."""
    return _image(_read(sagittal), sagittal.ref.frame_number)


def _read(piece: AxialSlice | SagittalSlice) -> Dataset:
    uid = piece.ref.sop_instance_uid
    try:
        return read_header(piece.path)
    except FileNotFoundError:
        raise PermanentError(f"the received file of instance {uid} is gone; send the study again") from None
    except OSError as error:
        raise TransientError(f"the received file of instance {uid} cannot be read; check the disk") from error
    except UnreadableFile as error:
        raise PermanentError(
            f"the received file of instance {uid} cannot be read again; send the study again"
        ) from error


# --------------------------------------------------------------------------- texts


def text_of(header: Dataset, keyword: str) -> str:
    """One attribute as text, decoded strictly from the declared character set; empty when absent.

    Bytes without a declared set are UTF-8 if they are valid UTF-8. Whatever cannot be decoded is taken byte for
    byte as ISO 8859-1: visibly odd, but reversible, and never a plausible wrong name.
    """
    tag = tag_for_keyword(keyword)
    if tag is None or tag not in header:
        return ""
    raw: Any = cast(Any, header.get_item(tag)).value  # bytes until pydicom has converted the element
    if not isinstance(raw, bytes):
        value = header[tag].value
        parts = value if isinstance(value, list | pydicom.multival.MultiValue) else [value]
        return "\\".join("" if part is None else str(part) for part in parts).strip(" \0")
    declared = header.get("SpecificCharacterSet")
    return decode_text(raw, declared).strip(" \0")


def decode_text(raw: bytes, declared: Any) -> str:
    """Decode the bytes of a text attribute; ``declared`` is Specific Character Set as pydicom gives it."""
    if declared:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a failed decoding is seen in its result
            try:
                encodings = convert_encodings(declared)
                text = decode_bytes(raw, encodings, TEXT_VR_DELIMS | {ord("^"), ord("=")})
                text = text.replace("\x1b$)A", "")  # pydicom leaves the escape to GB 2312 in the text
                if len(encodings) > 1 and not declared[0] and b"\x1b" not in raw and not raw.isascii():
                    text = raw.decode(encodings[1])  # senders that forget the escape to the set they declare
            except (LookupError, ValueError):
                text = "\ufffd"
        if "\ufffd" not in text and "\x1b" not in text:
            return text
    try:
        return raw.decode("ascii" if declared else "utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def normal_text(header: Dataset, keyword: str) -> str:
    """An attribute made valid for its VR; what cannot be made valid becomes empty."""
    text = "".join(c for c in text_of(header, keyword) if c.isprintable())
    if keyword == "PatientSex":
        return text.upper() if text.upper() in ("M", "F", "O") else ""
    vr = dictionary_VR(keyword)
    if vr == "DA":
        text = text.replace(".", "").replace("-", "")
    elif vr == "TM":
        text = text.replace(":", "")
    pattern = _PATTERNS.get(vr)
    if pattern is None:
        return text
    if not re.fullmatch(pattern, text) or (vr == "DA" and not _is_day(text)) or (vr == "DS" and len(text) > 16):
        return ""
    return text


def _is_day(text: str) -> bool:
    try:
        datetime.strptime(text, "%Y%m%d")  # noqa: DTZ007  a calendar check, no moment in time
    except ValueError:
        return False
    return True


def _study(header: Dataset) -> StudyHeader:
    attributes = {keyword: normal_text(header, keyword) for keyword in PATIENT + STUDY}
    optional = ((keyword, normal_text(header, keyword)) for keyword in OPTIONAL)
    attributes |= {keyword: text for keyword, text in optional if text and keyword != "PositionReferenceIndicator"}
    attributes["StudyInstanceUID"] = str(header.StudyInstanceUID)
    acquisition = {keyword: normal_text(header, keyword) for keyword in ACQUISITION}
    body_part = normal_text(header, "BodyPartExamined").upper()
    return StudyHeader(attributes, acquisition, body_part if re.fullmatch(r"[A-Z0-9_ ]{1,16}", body_part) else "LSPINE")


# --------------------------------------------------------------------------- images


def _image(header: Dataset, frame: int | None) -> SourceImage:
    lossy = None
    if str(header.get("LossyImageCompression", "00")) == "01":
        lossy = Lossy(_texts(header, "LossyImageCompressionRatio"), _texts(header, "LossyImageCompressionMethod"))
    measures = _macro(header, frame, "PixelMeasuresSequence")
    spacing = measures.get("SpacingBetweenSlices")
    values = _macro(header, frame, "PixelValueTransformationSequence")
    rescale = _number(values.get("RescaleSlope")) or 1.0, _number(values.get("RescaleIntercept")) or 0.0
    return SourceImage(
        rows=int(header.get("Rows", 0)),
        columns=int(header.get("Columns", 0)),
        monochrome1=header.get("PhotometricInterpretation") == "MONOCHROME1",
        voi=_voi(_macro(header, frame, "FrameVOILUTSequence")),
        lossy=lossy,
        spacing_between_mm=_number(spacing),
        rescale=None if header.get("ModalityLUTSequence") else rescale,
        frame_of_reference_uid=normal_text(header, "FrameOfReferenceUID"),
        name=_name(header, frame),
    )


def _name(header: Dataset, frame: int | None) -> str:
    series, image = normal_text(header, "SeriesNumber"), normal_text(header, "InstanceNumber")
    parts = [f"series {series}"] if series else []
    parts += [f"frame {frame}"] if frame is not None else [f"image {image}"] if image else []
    return ", ".join(parts)


def _macro(header: Dataset, frame: int | None, keyword: str) -> Dataset:
    """The functional group that holds for a frame (its own before the shared one); the header of a classic image."""
    if frame is None:
        return header
    frames = header.get("PerFrameFunctionalGroupsSequence") or []
    shared = header.get("SharedFunctionalGroupsSequence") or []
    for groups in ([frames[frame - 1]] if frame <= len(frames) else []) + list(shared[:1]):
        found = groups.get(keyword)
        if found:
            item: Dataset = found[0]
            return item
    return Dataset()


def _voi(item: Dataset) -> Voi:
    luts = item.get("VOILUTSequence")
    center, width = _number(item.get("WindowCenter")), _number(item.get("WindowWidth"))
    if center is not None and width is not None and width > 0:
        return Voi(center, width, str(item.get("VOILUTFunction") or "LINEAR"))
    if luts and "LUTDescriptor" in luts[0] and "LUTData" in luts[0]:
        return Voi(lut=_lut(luts[0]))
    return Voi()


def _lut(item: Dataset) -> tuple[int, tuple[int, ...], int] | None:
    count, first, bits = (int(v) for v in item.LUTDescriptor)
    values = item.LUTData
    table = tuple(memoryview(values).cast("H")) if isinstance(values, bytes) else tuple(int(v) for v in values)
    return (first, table, bits) if len(table) == (count or 65536) else None


def _number(value: Any) -> float | None:
    """The first of one or several numbers, None when there is none."""
    if value is None or value == "":
        return None
    try:
        return float(value)
    except TypeError:
        return _number(value[0]) if len(value) else None
    except ValueError:
        return None


def _texts(header: Dataset, keyword: str) -> tuple[str, ...]:
    text = normal_text(header, keyword) if dictionary_VR(keyword) != "DS" else text_of(header, keyword)
    return tuple(part for part in text.split("\\") if part)
