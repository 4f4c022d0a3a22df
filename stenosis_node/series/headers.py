"""What the headers of a study say, as far as choosing and reading need it. No patient attribute is read or kept."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
from pydicom.config import IGNORE
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import UID

from stenosis_node.domain import SliceGeometry, SliceRef, Vector
from stenosis_node.series.attributes import Attributes, frame_attributes, read_value
from stenosis_node.series.files import DiskFault, NotReadable, OpenInstance, open_instance

MR_IMAGE: Final = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR: Final = frozenset({"1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.4.4"})
"""Enhanced MR Image Storage and Legacy Converted Enhanced MR Image Storage."""
MEDIA_DIRECTORY: Final = "1.2.840.10008.1.3.10"
MAX_FRAMES: Final = 20_000

_KEYWORDS: Final = """
    SpecificCharacterSet ImageType SOPClassUID SOPInstanceUID Modality SeriesDescription ProtocolName StudyDescription
    BodyPartExamined AnatomicRegionSequence StudyInstanceUID SeriesInstanceUID SeriesNumber InstanceNumber
    Manufacturer StationName ReceiveCoilName MRReceiveCoilSequence
    AcquisitionNumber AcquisitionDate AcquisitionTime AcquisitionDateTime SeriesDate SeriesTime FrameOfReferenceUID
    PatientPosition MRAcquisitionType ScanningSequence SequenceVariant ScanOptions SequenceName PulseSequenceName
    RepetitionTime EchoTime EffectiveEchoTime InversionTime InversionRecovery EchoTrainLength EchoPulseSequence
    EchoPlanarPulseSequence SpectrallySelectedSuppression AcquisitionContrast ComplexImageComponent DiffusionBValue
    ImagePositionPatient ImageOrientationPatient PixelSpacing SliceThickness SpacingBetweenSlices NumberOfFrames Rows
    Columns SamplesPerPixel SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence
"""
HEADER_TAGS: Final = tuple(tag for keyword in _KEYWORDS.split() if (tag := tag_for_keyword(keyword)) is not None)


@dataclass(frozen=True, slots=True)
class UnreadableFile:
    """A file that is no DICOM instance we can place in a series. ``reason`` continues "the file ..."."""

    path: Path
    reason: str
    fault: DiskFault | None = None
    """Set when the disk is to blame and not the bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acquisition:
    """How a slice was acquired, as its header says. Code strings are in upper case; absent is None or empty."""

    image_type: tuple[str, ...] = ()
    tr_ms: float | None = None
    te_ms: float | None = None
    ti_ms: float | None = None
    echo_train: int | None = None
    dimensions: str = ""
    scanning_sequence: tuple[str, ...] = ()
    scan_options: tuple[str, ...] = ()
    sequence_name: str = ""
    contrast: str = ""
    """Acquisition Contrast of enhanced instances: T1, T2, PROTON_DENSITY, ..."""
    echo_pulse: str = ""
    """SPIN, GRADIENT or BOTH (enhanced instances)."""
    echo_planar: bool = False
    inversion: bool = False
    fat: str = ""
    """What spectrally selective suppression or excitation did (enhanced instances): FAT, WATER, ..."""
    component: str = ""
    """MAGNITUDE, PHASE, REAL, IMAGINARY, MIXED (enhanced instances)."""
    b_value: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceHeader:
    """One slice before decoding: a classic instance or one frame."""

    ref: SliceRef
    path: Path
    instance_number: int | None
    acquisition: Acquisition
    geometry: SliceGeometry | None
    geometry_fault: str
    """What is missing when ``geometry`` is None."""
    rows: int
    columns: int
    samples: int
    has_pixels: bool
    spacing_between_mm: float | None
    acquired: str
    """Date and time of acquisition as digits, comparable as text; empty when unknown."""
    acquisition_number: int | None

    @property
    def order_key(self) -> tuple[str, int]:
        """Names the slice within its series; the last resort that makes every order independent of the input's."""
        return self.ref.sop_instance_uid, self.ref.frame_number or 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesHeaders:
    """The headers of one series."""

    study_instance_uid: str
    series_instance_uid: str
    series_number: int | None
    description: str
    protocol: str
    study_description: str
    body_part: str
    """Body Part Examined and the anatomic region codes."""
    modality: str
    patient_position: str
    frame_of_reference_uid: str | None
    files: tuple[Path, ...]
    """One per instance; copies of an instance are left out."""
    n_instances: int
    slices: tuple[SliceHeader, ...]
    """Of the MR images among the instances, in no meaningful order; may be empty."""
    other_classes: tuple[str, ...]
    """Names of the SOP classes of instances that are no MR images."""
    manufacturer: str = ""
    station: str = ""
    coil: str = ""
    """Receive Coil Name."""
    calling_ae_titles: tuple[str, ...] = ()
    """Who sent the instances; empty for files that were not received."""


@dataclass(frozen=True, slots=True)
class Scan:
    """The series found in some files, and the files that belong to none."""

    series: tuple[SeriesHeaders, ...]
    unreadable: tuple[UnreadableFile, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Instance:
    """One file, before its series is known."""

    path: Path
    study: str
    series: str
    sop: str
    sop_class: str
    top: dict[str, str]
    series_number: int | None
    slices: tuple[SliceHeader, ...]


def scan(
    paths: Iterable[Path],
    senders: Mapping[Path, str] = MappingProxyType({}),
    names: Mapping[Path, tuple[str, str, str]] = MappingProxyType({}),
) -> Scan:
    """Read the headers of files and group them by series. Never raises for what a file holds.

    The outcome does not depend on the order of ``paths``. Of copies of one SOP instance the first path is kept.

    senders  calling AE titles of received files, for the rules of the site
    names    Study, Series and SOP Instance UID under which files were received; who says something else is unreadable,
             for it would vanish from the study it is counted in
    """
    unreadable: list[UnreadableFile] = []
    groups: dict[tuple[str, str], dict[str, _Instance]] = defaultdict(dict)
    for path in sorted(set(paths)):
        try:
            instance = _read_instance(path)
        except NotReadable as error:
            unreadable.append(UnreadableFile(path, str(error), error if isinstance(error, DiskFault) else None))
            continue
        found = (instance.study, instance.series, instance.sop)
        if names.get(path, found) != found:
            reason = "names another study, series or instance than the one it was received as"
            unreadable.append(UnreadableFile(path, reason))
            continue
        groups[instance.study, instance.series].setdefault(instance.sop, instance)
    series = tuple(_series(list(group.values()), senders) for _, group in sorted(groups.items()))
    return Scan(series, tuple(unreadable))


def _read_instance(path: Path) -> _Instance:
    with open_instance(path, HEADER_TAGS) as opened:
        try:
            return _instance(path, opened)
        except (NotReadable, OSError):
            raise
        except Exception as error:  # headers are hostile until parsed; a fault of one file must not stop the rest
            raise NotReadable(f"has a header that cannot be understood ({type(error).__name__})") from error


def _instance(path: Path, opened: OpenInstance) -> _Instance:
    top = Attributes(opened.header)
    sop_class = top.text("SOPClassUID")
    meta = getattr(opened.header, "file_meta", None)
    if meta is not None and read_value(meta, "MediaStorageSOPClassUID") == MEDIA_DIRECTORY:
        raise NotReadable("is a DICOMDIR, an index and no image")
    uids = {name: top.text(f"{name.replace(' ', '')}UID") for name in ("Study Instance", "Series Instance")}
    uids |= {"SOP Instance": top.text("SOPInstanceUID"), "SOP Class": sop_class}
    for name, uid in uids.items():
        if not uid:
            raise NotReadable(f"has no {name} UID (truncated, or no instance at all)")
    texts = {keyword: top.text(keyword) for keyword in _SERIES_TEXTS}
    texts["ReceiveCoilName"] = next(frame_attributes(opened.header), top).text("ReceiveCoilName")
    texts["BodyPartExamined"] = " ".join(filter(None, (texts["BodyPartExamined"], *_regions(opened.header))))
    is_mr = sop_class == MR_IMAGE or sop_class in ENHANCED_MR
    return _Instance(
        path=path,
        study=uids["Study Instance"],
        series=uids["Series Instance"],
        sop=uids["SOP Instance"],
        sop_class=sop_class,
        top=texts,
        series_number=top.integer("SeriesNumber"),
        slices=_slices(path, opened, top, sop_class) if is_mr else (),
    )


_SERIES_TEXTS: Final = (
    "SeriesDescription",
    "ProtocolName",
    "StudyDescription",
    "BodyPartExamined",
    "Manufacturer",
    "StationName",
    "Modality",
    "PatientPosition",
    "FrameOfReferenceUID",
)


def _regions(header: Dataset) -> tuple[str, ...]:
    """Meanings of the anatomic region codes of the instance or its first frame."""
    frame = next(frame_attributes(header), Attributes(header))
    codes = frame.items("AnatomicRegionSequence")
    return tuple(dict.fromkeys(meaning for code in codes if (meaning := Attributes(code).text("CodeMeaning"))))


def _slices(path: Path, opened: OpenInstance, top: Attributes, sop_class: str) -> tuple[SliceHeader, ...]:
    enhanced = sop_class in ENHANCED_MR
    n_frames = max(1, int(top.number("NumberOfFrames") or 1))
    if n_frames > MAX_FRAMES:
        raise NotReadable(f"claims {n_frames} frames; more than {MAX_FRAMES} are refused")
    frames = list(frame_attributes(opened.header)) if enhanced else []
    frames = (frames + [top] * n_frames)[:n_frames]
    has_pixels = opened.pixel_offset is not None
    return tuple(
        _slice(
            SliceRef(
                top.text("SeriesInstanceUID"),
                sop_class,
                top.text("SOPInstanceUID"),
                number if enhanced or n_frames > 1 else None,
            ),
            path,
            frame,
            has_pixels=has_pixels,
        )
        for number, frame in enumerate(frames, start=1)
    )


def _slice(ref: SliceRef, path: Path, frame: Attributes, *, has_pixels: bool) -> SliceHeader:
    geometry, fault = read_geometry(frame)
    return SliceHeader(
        ref=ref,
        path=path,
        instance_number=frame.integer("InstanceNumber"),
        acquisition=_acquisition(frame),
        geometry=geometry,
        geometry_fault=fault,
        rows=frame.integer("Rows") or 0,
        columns=frame.integer("Columns") or 0,
        samples=frame.integer("SamplesPerPixel") or 1,
        has_pixels=has_pixels,
        spacing_between_mm=_positive(frame.number("SpacingBetweenSlices")),
        acquired=_acquired(frame),
        acquisition_number=frame.integer("AcquisitionNumber"),
    )


def read_geometry(frame: Attributes) -> tuple[SliceGeometry | None, str]:
    """The image plane of a slice, or what is wrong with it."""
    spacing = frame.numbers("PixelSpacing")
    position = frame.numbers("ImagePositionPatient")
    cosines = frame.numbers("ImageOrientationPatient")
    absent = [
        name
        for name, value, count in (
            ("Image Orientation (Patient)", cosines, 6),
            ("Image Position (Patient)", position, 3),
            ("Pixel Spacing", spacing, 2),
        )
        if len(value) != count
    ]
    if absent:
        return None, f"no usable {', '.join(absent)}"
    if not all(0.02 <= value <= 50 for value in spacing):
        return None, f"Pixel Spacing of {spacing[0]:g} x {spacing[1]:g} mm makes no sense"
    row, column = np.asarray(cosines[:3]), np.asarray(cosines[3:])
    lengths = float(np.linalg.norm(row)), float(np.linalg.norm(column))
    if not all(0.9 < length < 1.1 for length in lengths) or abs(float(row @ column)) > 0.05:
        return None, "the direction cosines of Image Orientation (Patient) are not two perpendicular unit vectors"
    if max(abs(value) for value in position) > 1e5:
        return None, "Image Position (Patient) makes no sense"
    return (
        SliceGeometry(
            position=(position[0], position[1], position[2]),
            row_direction=_vector(row / lengths[0]),
            column_direction=_vector(column / lengths[1]),
            row_spacing_mm=spacing[0],
            column_spacing_mm=spacing[1],
            thickness_mm=_positive(frame.number("SliceThickness")),
        ),
        "",
    )


def _acquisition(frame: Attributes) -> Acquisition:
    inversion = frame.text("InversionRecovery").upper() == "YES"
    suppression = frame.text("SpectrallySelectedSuppression").upper()
    excitation = frame.text("SpectrallySelectedExcitation").upper()
    return Acquisition(
        image_type=frame.words("FrameType") or frame.words("ImageType"),
        tr_ms=_positive(frame.number("RepetitionTime")),
        te_ms=_positive(frame.number("EffectiveEchoTime")) or _positive(frame.number("EchoTime")),
        ti_ms=_positive(frame.number("InversionTime")) or _positive(frame.number("InversionTimes")),
        echo_train=frame.integer("RFEchoTrainLength") or frame.integer("EchoTrainLength"),
        dimensions=frame.text("MRAcquisitionType").upper(),
        scanning_sequence=frame.words("ScanningSequence"),
        scan_options=frame.words("ScanOptions"),
        sequence_name=frame.text("SequenceName") or frame.text("PulseSequenceName"),
        contrast=frame.text("AcquisitionContrast").upper(),
        echo_pulse=frame.text("EchoPulseSequence").upper(),
        echo_planar=frame.text("EchoPlanarPulseSequence").upper() == "YES",
        inversion=inversion,
        fat={"WATER": "water excitation", "FAT": "fat excitation"}.get(excitation)
        or {"FAT": "fat suppression", "FAT_AND_WATER": "fat and water suppression"}.get(suppression, ""),
        component=frame.text("ComplexImageComponent").upper(),
        b_value=frame.number("DiffusionBValue"),
    )


def _acquired(frame: Attributes) -> str:
    for parts in (
        ("FrameAcquisitionDateTime",),
        ("AcquisitionDateTime",),
        ("AcquisitionDate", "AcquisitionTime"),
        ("SeriesDate", "SeriesTime"),
    ):
        digits = "".join(frame.text(part).replace(":", "") for part in parts)
        if len(digits) >= 14 and digits[:14].isdecimal():
            return digits
    return ""


def _series(instances: Sequence[_Instance], senders: Mapping[Path, str]) -> SeriesHeaders:
    """Join instances that share a Series Instance UID; the first in UID order that has a text gives it."""
    instances = sorted(instances, key=lambda instance: instance.sop)

    def text(keyword: str) -> str:
        return next((value for instance in instances if (value := instance.top[keyword])), "")

    others = {class_name(i.sop_class) for i in instances if not i.slices}
    return SeriesHeaders(
        study_instance_uid=instances[0].study,
        series_instance_uid=instances[0].series,
        series_number=next((i.series_number for i in instances if i.series_number is not None), None),
        description=text("SeriesDescription"),
        protocol=text("ProtocolName"),
        study_description=text("StudyDescription"),
        body_part=text("BodyPartExamined"),
        modality=text("Modality").upper(),
        patient_position=text("PatientPosition").upper(),
        frame_of_reference_uid=text("FrameOfReferenceUID") or None,
        files=tuple(sorted(instance.path for instance in instances)),
        n_instances=len(instances),
        slices=tuple(piece for instance in instances for piece in instance.slices),
        other_classes=tuple(sorted(others)),
        manufacturer=text("Manufacturer"),
        station=text("StationName"),
        coil=text("ReceiveCoilName"),
        calling_ae_titles=tuple(sorted({senders[i.path] for i in instances if senders.get(i.path)})),
    )


def class_name(sop_class_uid: str) -> str:
    """Name of a SOP class, or its UID when it is private or malformed."""
    return UID(sop_class_uid, validation_mode=IGNORE).name


def _positive(value: float | None) -> float | None:
    return value if value is not None and 0 < value < math.inf else None


def _vector(array: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Vector:
    return float(array[0]), float(array[1]), float(array[2])
