"""DICOM headers of a phantom study, written the way 1.5 T scanners of three vendors write them.

Everything but the pixels follows from the patient alone, dates included: the same patient gives the same bytes.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

from stenosis_node.domain import SliceGeometry
from training.phantom import GENERATOR_VERSION
from training.phantom.protocols import Protocol, Site

CHARACTER_SET: Final = ["", "ISO 2022 IR 149"]
"""ASCII and, after an escape sequence, KS X 1001: what Korean scanners and PACS write."""
_FAMILY: Final = (("Kim", "金", "김"), ("Park", "朴", "박"), ("Choi", "崔", "최"), ("Jung", "鄭", "정"))
_GIVEN: Final = (("Yeonseup", "演習", "연습"), ("Moui", "模擬", "모의"), ("Pyobon", "標本", "표본"))
_NAMESPACE: Final = uuid.UUID("7d0f6d0c-52a5-4c1a-9d7b-3f2f0b6a9a11")
IMPLEMENTATION_UID: Final = "2.25." + str(uuid.uuid5(_NAMESPACE, "implementation").int)


def make_uid(*names: object) -> str:
    """A UID (2.25 form) that follows from names alone."""
    return "2.25." + str(uuid.uuid5(_NAMESPACE, "/".join(map(str, (GENERATOR_VERSION, *names)))).int)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who and when. ``key`` names the patient in UIDs and Patient ID."""

    key: str
    seed: int
    index: int
    age_years: int
    site: Site

    @property
    def name(self) -> str:
        """Three component groups: alphabetic, ideographic (Hanja), phonetic (Hangul)."""
        number = self.seed + self.index
        family, given = _FAMILY[number % len(_FAMILY)], _GIVEN[number // len(_FAMILY) % len(_GIVEN)]
        return "=".join(f"{f}^{g}" for f, g in zip(family, given, strict=True))

    @property
    def study_uid(self) -> str:
        return make_uid(self.key, "study")

    @property
    def frame_uid(self) -> str:
        return make_uid(self.key, "frame of reference")

    def series_uid(self, protocol: Protocol) -> str:
        return make_uid(self.key, "series", protocol.number)

    def sop_uid(self, protocol: Protocol, number: int) -> str:
        return make_uid(self.key, "instance", protocol.number, number)


def make_instance(
    identity: Identity,
    protocol: Protocol,
    pixels: npt.NDArray[np.uint16],
    geometry: SliceGeometry,
    *,
    number: int,
    window: float,
    location_mm: float,
) -> Dataset:
    """A complete MR Image Storage dataset, uncompressed. ``window``: stored value shown white."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = MRImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = UID(identity.sop_uid(protocol, number))
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_UID)
    ds.file_meta.ImplementationVersionName = "STENOSISPHANTOM"
    ds.SpecificCharacterSet = CHARACTER_SET
    _add_patient_and_study(ds, identity)
    _add_series(ds, identity, protocol)
    _add_sequence(ds, identity, protocol, pixels.shape)
    _add_image(ds, identity, protocol, pixels, geometry, number=number, window=window, location_mm=location_mm)
    return ds


def _add_patient_and_study(ds: Dataset, identity: Identity) -> None:
    ds.PatientName = identity.name
    ds.PatientID = f"PHANTOM-{identity.seed}-{identity.index:04d}"
    ds.PatientBirthDate = f"{2025 - identity.age_years}0701"
    ds.PatientSex = "F" if identity.index % 2 else "M"
    ds.PatientAge = f"{identity.age_years - 1:03d}Y"
    ds.PatientSize = "1.66"
    ds.PatientWeight = "67"
    ds.StudyInstanceUID = identity.study_uid
    ds.StudyID = "1"
    ds.StudyDate = "20250102"
    ds.StudyTime = "091500.000000"
    ds.AccessionNumber = f"P{identity.seed % 10**9}{identity.index:04d}"
    ds.ReferringPhysicianName = ""
    ds.StudyDescription = "L-Spine MRI (Non-CE)"


def _add_series(ds: Dataset, identity: Identity, protocol: Protocol) -> None:
    clock = f"09{15 + 4 * protocol.number:02d}00.000000"
    ds.SeriesInstanceUID = identity.series_uid(protocol)
    ds.SeriesNumber = protocol.number
    ds.SeriesDate, ds.SeriesTime = "20250102", clock
    ds.AcquisitionDate, ds.AcquisitionTime = "20250102", clock
    ds.ContentDate, ds.ContentTime = "20250102", clock
    ds.Modality = "MR"
    ds.SeriesDescription = protocol.description
    ds.ProtocolName = protocol.description
    ds.BodyPartExamined = "LSPINE"
    ds.PatientPosition = "HFS"
    ds.FrameOfReferenceUID = identity.frame_uid
    ds.PositionReferenceIndicator = ""
    ds.Manufacturer = identity.site.manufacturer
    ds.ManufacturerModelName = f"{identity.site.model} (synthetic phantom)"
    ds.InstitutionName = "Synthetic phantom, no patient"
    ds.StationName = "PHANTOM"
    ds.DeviceSerialNumber = "00000"
    ds.SoftwareVersions = f"phantom generator {GENERATOR_VERSION}"


def _add_sequence(ds: Dataset, identity: Identity, protocol: Protocol, shape: tuple[int, ...]) -> None:
    ds.ScanningSequence = protocol.scanning_sequence
    ds.SequenceVariant = list(protocol.sequence_variant)
    ds.ScanOptions = list(protocol.scan_options)
    ds.MRAcquisitionType = "2D"
    if protocol.sequence_name:
        ds.SequenceName = protocol.sequence_name
    ds.AngioFlag = "N"
    ds.RepetitionTime = f"{protocol.tr_ms:g}"
    ds.EchoTime = f"{protocol.te_ms:g}"
    ds.NumberOfAverages = str(protocol.averages)
    ds.ImagingFrequency = identity.site.frequency_mhz
    ds.ImagedNucleus = "1H"
    ds.EchoNumbers = 1
    ds.MagneticFieldStrength = "1.5"
    ds.NumberOfPhaseEncodingSteps = int(shape[0] * 0.8)
    ds.EchoTrainLength = protocol.echo_train
    ds.PercentSampling = "80"
    ds.PercentPhaseFieldOfView = "100"
    ds.PixelBandwidth = f"{protocol.bandwidth:g}"
    ds.TransmitCoilName = "Body"
    ds.AcquisitionMatrix = [0, int(shape[1] * 0.8), int(shape[0] * 0.8), 0]
    ds.InPlanePhaseEncodingDirection = "ROW"
    ds.FlipAngle = f"{protocol.flip_degrees:g}"
    ds.VariableFlipAngleFlag = "N"
    ds.SAR = "1.1"


def _add_image(
    ds: Dataset,
    identity: Identity,
    protocol: Protocol,
    pixels: npt.NDArray[np.uint16],
    geometry: SliceGeometry,
    *,
    number: int,
    window: float,
    location_mm: float,
) -> None:
    thickness = geometry.thickness_mm or 4.0
    ds.SOPClassUID = MRImageStorage
    ds.SOPInstanceUID = identity.sop_uid(protocol, number)
    ds.InstanceNumber = number
    ds.AcquisitionNumber = 1
    ds.ImageType = list(protocol.image_type)
    ds.ImageComments = "Synthetic phantom, not a patient"
    ds.BurnedInAnnotation = "NO"
    ds.ImagePositionPatient = [_decimal(v) for v in geometry.position]
    ds.ImageOrientationPatient = [_decimal(v) for v in (*geometry.row_direction, *geometry.column_direction)]
    ds.PixelSpacing = [_decimal(geometry.row_spacing_mm), _decimal(geometry.column_spacing_mm)]
    ds.SliceThickness = _decimal(thickness)
    ds.SpacingBetweenSlices = _decimal(thickness + protocol.gap_mm)
    ds.SliceLocation = _decimal(location_mm)
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.SmallestImagePixelValue, ds.LargestImagePixelValue = int(pixels.min()), int(pixels.max())
    ds.WindowCenter, ds.WindowWidth = f"{window / 2:.0f}", f"{window:.0f}"
    ds.WindowCenterWidthExplanation = "Algo1"
    ds.PixelData = pixels.astype("<u2").tobytes()


def _decimal(value: float) -> str:
    """Decimal String of at most 16 characters, without negative zero."""
    return f"{round(value, 9) + 0.0:.10g}"
