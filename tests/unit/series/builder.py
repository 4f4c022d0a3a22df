"""Synthetic series as DICOM files, small and with the headers a scanner writes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from stenosis_node.domain import SeriesDecision
from stenosis_node.series import SeriesHeaders, choose, find_files, scan

MR = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED = "1.2.840.10008.5.1.4.1.1.4.1"
LEGACY = "1.2.840.10008.5.1.4.1.1.4.4"
SIDE = 128
SPACING = 1.5

Array = np.ndarray[Any, np.dtype[Any]]


def uid(*parts: object) -> str:
    """A UID made from words."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:15], 'big')}"


def tilted(degrees: float) -> tuple[list[float], Array]:
    """(Image Orientation, head-pointing normal) of axial slices tilted about the left-right axis."""
    angle = np.radians(degrees)
    column = np.array([0.0, np.cos(angle), np.sin(angle)])
    return [1.0, 0.0, 0.0, *column], np.cross([1.0, 0.0, 0.0], column)


def corner(
    center: Array, orientation: Sequence[float], shape: tuple[int, int], spacing: tuple[float, float]
) -> list[float]:
    """Image Position of an image around ``center``; spacing is (between rows, between columns)."""
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    offset = row * spacing[1] * (shape[1] - 1) / 2 + column * spacing[0] * (shape[0] - 1) / 2
    return [float(value) for value in np.asarray(center) - offset]


def stack(
    n: int, *, pitch: float = 4.4, tilt: float = 0.0, top: Sequence[float] = (0, 0, 0)
) -> list[tuple[list[float], Array]]:
    """(orientation, centre) of ``n`` parallel slices from head to foot."""
    orientation, normal = tilted(tilt)
    return [(orientation, np.asarray(top, dtype=float) - i * pitch * normal) for i in range(n)]


def blank_instance(series: str, name: object, sop_class: str = MR) -> FileDataset:
    """Identity and pixel description; no pixels yet."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = uid(series, name)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID = uid("study")
    dataset.SeriesInstanceUID = uid("series", series)
    dataset.FrameOfReferenceUID = uid("frame")
    dataset.PatientName = "Doe^Secret"
    dataset.PatientID = "SECRET"
    dataset.PatientBirthDate = "19440102"
    dataset.Modality = "MR"
    dataset.SeriesNumber = 5
    dataset.PatientPosition = "HFS"
    dataset.Rows, dataset.Columns = SIDE, SIDE
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    return dataset


def t2_instance(series: str, name: object, orientation: Sequence[float], center: Array, **changes: Any) -> FileDataset:
    """A classic axial T2 slice; ``changes`` overrides attributes (None removes one, pixels sets the array)."""
    dataset = blank_instance(series, name)
    dataset.SeriesDescription = "t2_tse_tra"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "NORM"]
    dataset.MRAcquisitionType = "2D"
    dataset.ScanningSequence = "SE"
    dataset.SequenceVariant = ["SK", "SP", "OSP"]
    dataset.SequenceName = "*tse2d1_17"
    dataset.RepetitionTime, dataset.EchoTime, dataset.EchoTrainLength = 4000, 100, 17
    dataset.SliceThickness, dataset.SpacingBetweenSlices = 4, 4.4
    dataset.AcquisitionDate, dataset.AcquisitionTime = "20260102", "101500.00"
    dataset.PixelSpacing = [SPACING, SPACING]
    dataset.ImageOrientationPatient = [f"{value:.10f}" for value in orientation]
    shape = changes.get("Rows", SIDE), changes.get("Columns", SIDE)
    spacing = changes.get("PixelSpacing") or (SPACING, SPACING)
    position = corner(center, orientation, shape, (float(spacing[0]), float(spacing[1])))
    dataset.ImagePositionPatient = [f"{value:.8f}" for value in position]
    pixels = changes.pop("pixels", None)
    for keyword, value in changes.items():
        if value is None:
            if keyword in dataset:
                delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    if pixels is None:
        pixels = np.full((dataset.Rows, dataset.Columns), 100, dtype=np.uint16)
    dataset.PixelData = pixels.tobytes()
    return dataset


def save(folder: Path, dataset: Dataset, name: str | None = None) -> Path:
    """Write a file; the name says nothing about the place of the slice."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (name or f"{hashlib.sha256(dataset.SOPInstanceUID.encode()).hexdigest()[:12]}.dcm")
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_series(
    folder: Path, series: str = "s", places: Sequence[tuple[list[float], Array]] | None = None, **changes: Any
) -> list[Path]:
    """A classic series, by default 8 axial T2 slices from head to foot. Pixel values are 1, 2, 3 ... in that order."""
    places = stack(8) if places is None else places
    shape = changes.get("Rows", SIDE), changes.get("Columns", SIDE)
    return [
        save(
            folder,
            t2_instance(
                series,
                (i * 7919) % 1000,
                orientation,
                center,
                **{"InstanceNumber": (i * 7) % len(places) + 1, "pixels": np.full(shape, i + 1, np.uint16), **changes},
            ),
        )
        for i, (orientation, center) in enumerate(places)
    ]


def enhanced_instance(
    series: str,
    places: Sequence[tuple[list[float], Array]],
    pixels: Array,
    *,
    shared_timing: bool = True,
    te: float = 100.0,
    tr: float = 4000.0,
) -> FileDataset:
    """An Enhanced MR object, one frame per place, geometry and timing in functional groups."""
    dataset = blank_instance(series, "enhanced", ENHANCED)
    dataset.SeriesDescription = "T2W_TSE_ax"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "T2", "NONE"]
    dataset.MRAcquisitionType = "2D"
    dataset.EchoPulseSequence, dataset.EchoPlanarPulseSequence = "SPIN", "NO"
    dataset.PulseSequenceName = "TSE"
    dataset.SpectrallySelectedSuppression = "NONE"
    dataset.NumberOfFrames = len(places)
    timing, echo, measures, shared = Dataset(), Dataset(), Dataset(), Dataset()
    timing.RepetitionTime, timing.RFEchoTrainLength = tr, 17
    echo.EffectiveEchoTime = te
    measures.PixelSpacing, measures.SliceThickness, measures.SpacingBetweenSlices = [SPACING, SPACING], 4, 4.4
    shared.MRTimingAndRelatedParametersSequence = [timing]
    groups = shared if shared_timing else None
    if groups is not None:
        groups.MREchoSequence, groups.PixelMeasuresSequence = [echo], [measures]
    dataset.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for index, (orientation, center) in enumerate(places):
        frame, position, direction, content = Dataset(), Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [
            f"{v:.8f}" for v in corner(center, orientation, (SIDE, SIDE), (SPACING, SPACING))
        ]
        direction.ImageOrientationPatient = [f"{v:.10f}" for v in orientation]
        content.StackID, content.InStackPositionNumber = "1", index + 1
        content.FrameAcquisitionDateTime = f"20260102101500.{index:06d}"
        frame.PlanePositionSequence, frame.PlaneOrientationSequence = [position], [direction]
        frame.FrameContentSequence = [content]
        if not shared_timing:
            frame.MREchoSequence, frame.PixelMeasuresSequence = [echo], [measures]
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = frames
    dataset.PixelData = np.ascontiguousarray(pixels, dtype=np.uint16).tobytes()
    return dataset


def headers_of(folder: Path) -> tuple[SeriesHeaders, ...]:
    """Scan a folder in which every file is readable."""
    result = scan(find_files(folder))
    assert result.unreadable == ()
    return result.series


def decide(folder: Path) -> dict[str, SeriesDecision]:
    """Decisions by series description."""
    return {decision.description: decision for decision in choose(headers_of(folder))}


def decide_one(folder: Path) -> SeriesDecision:
    """The decision of the only series in a folder."""
    (decision,) = choose(headers_of(folder))
    return decision
