"""A small MR study as files, and findings to go with it. Drawn, not photographed; no patient behind it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage

from stenosis_node.config import Report
from stenosis_node.domain import (
    AxialSeries,
    AxialSlice,
    BundleIdentity,
    BundleStatus,
    CanalNotFound,
    CordSlice,
    Decision,
    Grade,
    GradedSlice,
    NotGradable,
    PixelBox,
    SagittalSlice,
    SeriesDecision,
    SeriesFindings,
    SeriesReason,
    SliceFinding,
    SliceGeometry,
    SliceRef,
    StudyFindings,
    Unreadable,
)
from stenosis_node.report import Predecessor, ReportContext, content_key

ROWS, COLUMNS = 128, 128
SPACING = (1.4, 1.25)  # between rows, between columns: anisotropic on purpose
CREATED = datetime(2026, 1, 5, 10, 30, 0, tzinfo=UTC)
BOX = PixelBox(52.0, 66.5, 76.0, 84.0)


def uid(*parts: object) -> str:
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:16]
    return f"2.25.{int.from_bytes(digest, 'big')}"


def long_uid(*parts: object) -> str:
    """A UID of the full 64 characters."""
    tail = str(int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest(), "big"))
    return ("1.2.840.99999." + tail)[:64].ljust(64, "7")


def picture(index: int) -> np.ndarray:
    """uint16 [rows, columns]: a body, fat behind a bright sac, some noise."""
    y, x = np.mgrid[:ROWS, :COLUMNS].astype(float)
    rng = np.random.default_rng(index)
    image = np.zeros((ROWS, COLUMNS))
    body = ((x - 64) / 52) ** 2 + ((y - 66) / 44) ** 2 < 1
    image[body] = 260
    image[((x - 64) / 22) ** 2 + ((y - 46) / 17) ** 2 < 1] = 380
    image[((x - 64) / 15) ** 2 + ((y - 80) / 12) ** 2 < 1] = 620
    image[((x - 64) / (11 - index % 4)) ** 2 + ((y - 75) / (8 - index % 4)) ** 2 < 1] = 1050
    for k in range(9):
        angle = k * 0.7 + index
        image[(x - 64 - 6 * np.cos(angle)) ** 2 + (y - 76 - 3.5 * np.sin(angle)) ** 2 < 1.4] = 420
    return np.clip(image + rng.normal(0, 22, image.shape), 0, 4095).astype("<u2")


def geometries(slabs: Sequence[int]) -> list[SliceGeometry]:
    """One geometry per slice, head to foot; each slab has its own tilt."""
    found = []
    for slab, count in enumerate(slabs):
        tilt = np.deg2rad(5.0 - 12.0 * slab)
        row, col = np.array([1.0, 0, 0]), np.array([0, np.cos(tilt), np.sin(tilt)])
        normal = np.cross(row, col)
        for k in range(count):
            center = np.array([0.0, 10.0, 60.0 - 34.0 * slab]) - 4.4 * k * normal
            origin = center - row * COLUMNS / 2 * SPACING[1] - col * ROWS / 2 * SPACING[0]
            found.append(
                SliceGeometry(
                    position=tuple(float(f"{v:.6g}") for v in origin),
                    row_direction=(1.0, 0.0, 0.0),
                    column_direction=(0.0, float(f"{col[1]:.8g}"), float(f"{col[2]:.8g}")),
                    row_spacing_mm=SPACING[0],
                    column_spacing_mm=SPACING[1],
                    thickness_mm=4.0,
                )
            )
    return found


def patient(ds: Dataset) -> None:
    ds.PatientName = "Hong^Gildong"
    ds.PatientID = "SYN-1"
    ds.PatientBirthDate = "19500101"
    ds.PatientSex = "F"
    ds.PatientAge = "076Y"
    ds.PatientWeight = "60"
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20260105"
    ds.StudyTime = "101500"
    ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "101700"
    ds.AccessionNumber = "ACC0001"
    ds.ReferringPhysicianName = ""
    ds.StudyID = "1"
    ds.StudyDescription = "MR L-SPINE"


def equipment(ds: Dataset) -> None:
    ds.Modality = "MR"
    ds.Manufacturer = "SYNTH"
    ds.ManufacturerModelName = "Phantom"
    ds.DeviceSerialNumber = "1"
    ds.SoftwareVersions = "1"
    ds.InstitutionName = "Synthetic"
    ds.BodyPartExamined = "LSPINE"
    ds.SeriesDescription = "AX T2 TSE"
    ds.SeriesNumber = 4


def part10(ds: Dataset, sop_class: str) -> Dataset:
    ds.SOPClassUID = sop_class
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = sop_class
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return ds


def acquisition(ds: Dataset) -> None:
    ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions, ds.MRAcquisitionType = "SE", "SK", "", "2D"
    ds.RepetitionTime, ds.EchoTime, ds.EchoTrainLength, ds.FlipAngle = "3500", "105", 17, "150"
    ds.SpacingBetweenSlices, ds.SliceThickness = "4.4", "4"
    ds.MagneticFieldStrength, ds.PatientPosition = "1.5", "HFS"


def pixel_module(ds: Dataset, frames: Sequence[np.ndarray]) -> None:
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = ROWS, COLUMNS
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = b"".join(f.tobytes() for f in frames)


def classic(
    folder: Path,
    slabs: Sequence[int] = (3, 4),
    *,
    edit: Callable[[Dataset], None] | None = None,
    make_uid: Callable[..., str] = uid,
    tag: str = "classic",
) -> AxialSeries:
    """One MR instance per slice, written to ``folder``; ``edit`` changes each data set before it is written."""
    study, series = make_uid(tag, "study"), make_uid(tag, "series")
    total = sum(slabs)
    slices = []
    membership = [slab for slab, count in enumerate(slabs) for _ in range(count)]
    for i, geometry in enumerate(geometries(slabs)):
        ds = Dataset()
        patient(ds)
        equipment(ds)
        acquisition(ds)
        ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "SE"]
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study, series
        ds.SOPInstanceUID = make_uid(tag, "image", i)
        ds.InstanceNumber = total - i
        ds.ImagePositionPatient = [f"{v:.6g}" for v in geometry.position]
        ds.ImageOrientationPatient = [f"{v:.8g}" for v in geometry.row_direction + geometry.column_direction]
        ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = make_uid(tag, "frame"), ""
        ds.PixelSpacing = [str(v) for v in SPACING]
        ds.WindowCenter, ds.WindowWidth = ["500", "40"], ["1000", "80"]
        pixels = picture(i)
        pixel_module(ds, [pixels])
        if edit is not None:
            edit(ds)
        path = folder / f"{i:03d}.dcm"
        part10(ds, MRImageStorage).save_as(path, enforce_file_format=True)
        ref = SliceRef(series, MRImageStorage, ds.SOPInstanceUID, None)
        slices.append(AxialSlice(ref, path, total - i, geometry, membership[i], pixels.astype(np.float32)))
    return AxialSeries(study, series, 4, make_uid(tag, "frame"), tuple(slices))


def enhanced(folder: Path, slabs: Sequence[int] = (3, 4)) -> AxialSeries:
    """The same stack as one Enhanced MR instance."""
    study, series, instance = uid("enh", "study"), uid("enh", "series"), uid("enh", "image")
    ds = Dataset()
    patient(ds)
    equipment(ds)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "T2", "NONE"]
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = study, series, instance
    ds.FrameOfReferenceUID, ds.InstanceNumber = uid("enh", "frame"), 1
    frames = [picture(i) for i in range(sum(slabs))]
    pixel_module(ds, frames)
    ds.NumberOfFrames = len(frames)
    measures = Dataset()
    measures.PixelSpacing, measures.SliceThickness, measures.SpacingBetweenSlices = (
        [str(v) for v in SPACING],
        "4",
        "4.4",
    )
    window = Dataset()
    window.WindowCenter, window.WindowWidth = "500", "1000"
    shared = Dataset()
    shared.PixelMeasuresSequence, shared.FrameVOILUTSequence = Items([measures]), Items([window])
    ds.SharedFunctionalGroupsSequence = Items([shared])
    ds.PerFrameFunctionalGroupsSequence = Items()
    path = folder / "enhanced.dcm"
    membership = [slab for slab, count in enumerate(slabs) for _ in range(count)]
    slices = []
    for i, geometry in enumerate(geometries(slabs)):
        position, orientation, groups = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [f"{v:.6g}" for v in geometry.position]
        orientation.ImageOrientationPatient = [f"{v:.8g}" for v in geometry.row_direction + geometry.column_direction]
        groups.PlanePositionSequence, groups.PlaneOrientationSequence = Items([position]), Items([orientation])
        ds.PerFrameFunctionalGroupsSequence.append(groups)
        ref = SliceRef(series, EnhancedMRImageStorage, instance, i + 1)
        slices.append(AxialSlice(ref, path, 1, geometry, membership[i], frames[i].astype(np.float32)))
    part10(ds, EnhancedMRImageStorage).save_as(path, enforce_file_format=True)
    return AxialSeries(study, series, 4, uid("enh", "frame"), tuple(slices))


def sagittal(
    folder: Path, *, tag: str = "classic", spacing: float = 1.2, edit: Callable[[Dataset], None] | None = None
) -> SagittalSlice:
    """A mid-sagittal instance of the same study: 160 rows, 140 columns; row 80 lies at the height of the first slab."""
    rows, columns = 160, 140
    ds = Dataset()
    patient(ds)
    equipment(ds)
    acquisition(ds)
    ds.SeriesDescription, ds.SeriesNumber, ds.InstanceNumber = "SAG T2 TSE", 3, 8
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "SE"]
    ds.StudyInstanceUID, ds.SeriesInstanceUID = uid(tag, "study"), uid(tag, "sagittal")
    ds.SOPInstanceUID, ds.FrameOfReferenceUID = uid(tag, "sagittal", 8), uid(tag, "frame")
    ds.PositionReferenceIndicator = ""
    position = (0.0, 10.0 - spacing * (columns - 1) / 2, 60.0 + spacing * 79.5)
    ds.ImagePositionPatient = [f"{v:.6g}" for v in position]
    ds.ImageOrientationPatient = ["0", "1", "0", "0", "0", "-1"]
    ds.PixelSpacing = [str(spacing), str(spacing)]
    ds.WindowCenter, ds.WindowWidth = "500", "1000"
    y, x = np.mgrid[:rows, :columns].astype(float)
    pixels = np.where(np.abs(x - 70) < 45, 300.0, 60.0)
    pixels[(np.abs(x - 52) < 14) & (y % 30 > 6)] = 520
    pixels[np.abs(x - 74) < 6] = 1000
    stored = (pixels + np.random.default_rng(8).normal(0, 20, pixels.shape)).clip(0, 4095).astype("<u2")
    pixel_module(ds, [stored])
    ds.Rows, ds.Columns = rows, columns
    if edit is not None:
        edit(ds)
    path = folder / "sagittal.dcm"
    part10(ds, MRImageStorage).save_as(path, enforce_file_format=True)
    geometry = SliceGeometry(position, (0.0, 1.0, 0.0), (0.0, 0.0, -1.0), spacing, spacing, 4.0)
    ref = SliceRef(str(ds.SeriesInstanceUID), MRImageStorage, str(ds.SOPInstanceUID), None)
    return SagittalSlice(ref, path, geometry, stored.astype(np.float32))


def decided(
    series_uid: str, number: int, decision: Decision, reason: SeriesReason = SeriesReason.CHOSEN, **values: str
) -> SeriesDecision:
    return SeriesDecision(series_uid, number, "AX T2", 7, decision, reason, "A sentence.", values)


# --------------------------------------------------------------------------- findings


def graded(image: AxialSlice, letter: str, score: float = 0.83) -> GradedSlice:
    grade = Grade(letter)
    rest = (1 - score) / 3
    return GradedSlice(
        image.ref, image.slab, BOX, 0.98, 0.991, grade, {g: score if g is grade else rest for g in Grade}
    )


def finding(image: AxialSlice, what: str) -> SliceFinding:
    """``A`` to ``D``, ``c`` cord, ``?`` not gradable, ``-`` no canal, ``x`` unreadable."""
    match what:
        case "c":
            return CordSlice(image.ref, image.slab, BOX, 0.97, 0.999)
        case "?":
            reason = "the scores of two grades are too close"
            scores = {Grade.A: 0.05, Grade.B: 0.46, Grade.C: 0.45, Grade.D: 0.04}
            return NotGradable(image.ref, image.slab, reason, BOX, 0.9, None, None, scores)
        case "-":
            return CanalNotFound(image.ref, image.slab, 0.11)
        case "x":
            return Unreadable(image.ref, image.slab, "decoder said no at /somewhere/private")
        case _:
            return graded(image, what)


def blinded(series: AxialSeries, outcomes: str) -> AxialSeries:
    """The series as it is read when the slices marked ``x`` cannot be decoded."""
    return replace(
        series,
        slices=tuple(
            replace(s, pixels=None, unreadable="no decoder") if o == "x" else s
            for s, o in zip(series.slices, outcomes, strict=True)
        ),
    )


def findings(
    series: AxialSeries | Sequence[AxialSeries],
    outcomes: str | Sequence[str],
    status: BundleStatus = BundleStatus.DEMONSTRATION,
) -> StudyFindings:
    """Findings of one or more series, one letter per slice."""
    every = [series] if isinstance(series, AxialSeries) else list(series)
    letters = [outcomes] if isinstance(outcomes, str) else list(outcomes)
    return StudyFindings(
        study_instance_uid=every[0].study_instance_uid,
        series=tuple(
            SeriesFindings(one.series_instance_uid, tuple(finding(s, o) for s, o in zip(one.slices, row, strict=True)))
            for one, row in zip(every, letters, strict=True)
        ),
        bundle=BundleIdentity("phantom-1", "1.0.0", status, "ab" * 32, "Demonstration on drawn images."),
        software_version="0.1.0",
    )


def context(found: StudyFindings, revision: int = 1, predecessors: tuple[Predecessor, ...] = ()) -> ReportContext:
    settings = Report()
    return ReportContext(
        key=content_key(found, settings),
        created=CREATED,
        settings=settings,
        ae_title="STENOSIS",
        revision=revision,
        predecessors=predecessors,
    )
