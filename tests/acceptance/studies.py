"""Small MR studies as a scanner writes them: enough header to be chosen or rejected, a body in the image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

SIDE = 128
PATIENT_NAME = "Nobody^Acceptance"
PATIENT_ID = "SECRET-4711"
AXIAL = [1, 0, 0, 0, 1, 0]
SAGITTAL = [0, 1, 0, 0, 0, -1]


class Study:
    """UIDs of one study and the files written for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uid = generate_uid()
        self.frame_of_reference_uid = generate_uid()
        folder.mkdir(parents=True)

    def series(self, number: int, description: str, n: int, *, orientation: list[int], te: float, tr: float) -> Series:
        """Write a series of ``n`` parallel slices."""
        series = Series(self, number, description, orientation, te, tr)
        for _ in range(n):
            series.add_slice()
        return series

    def axial(self, n: int = 5) -> Series:
        return self.series(3, "t2_tse_tra", n, orientation=AXIAL, te=104, tr=4000)

    def sagittal(self, n: int = 4) -> Series:
        return self.series(2, "t2_tse_sag", n, orientation=SAGITTAL, te=100, tr=3500)

    @property
    def files(self) -> list[Path]:
        return sorted(self.folder.glob("*.dcm"))


class Series:
    def __init__(
        self, study: Study, number: int, description: str, orientation: list[int], te: float, tr: float
    ) -> None:
        self.study = study
        self.uid = generate_uid()
        self.number = number
        self._description = description
        self._orientation = orientation
        self._te = te
        self._tr = tr
        self.paths: list[Path] = []

    def add_slice(self) -> Path:
        """Write the next slice, 4.4 mm below the last one."""
        index = len(self.paths)
        path = self.study.folder / f"{self.number:02d}-{index:03d}.dcm"
        dataset = self._dataset(index)
        dataset.save_as(path, enforce_file_format=True)
        self.paths.append(path)
        return path

    def _dataset(self, index: int) -> FileDataset:
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = MRImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
        ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        ds.StudyDate, ds.StudyTime = "20260301", "091233"
        ds.SeriesDate, ds.SeriesTime = "20260301", "091500"
        ds.AccessionNumber = "A1"
        ds.Modality, ds.Manufacturer = "MR", "test"
        ds.ReferringPhysicianName = ""
        ds.StudyDescription = "L-spine MRI"
        ds.SeriesDescription = ds.ProtocolName = self._description
        ds.PatientName, ds.PatientID = PATIENT_NAME, PATIENT_ID
        ds.PatientBirthDate, ds.PatientSex = "19500101", "F"
        ds.BodyPartExamined = "LSPINE"
        ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions = "SE", "SK", ""
        ds.MRAcquisitionType, ds.SequenceName = "2D", "*tse2d1_17"
        ds.SliceThickness, ds.SpacingBetweenSlices = 4, 4.4
        ds.RepetitionTime, ds.EchoTime, ds.EchoTrainLength = self._tr, self._te, 17
        ds.MagneticFieldStrength, ds.PatientPosition = 1.5, "HFS"
        ds.StudyInstanceUID, ds.SeriesInstanceUID = self.study.uid, self.uid
        ds.StudyID, ds.SeriesNumber, ds.InstanceNumber = "1", self.number, index + 1
        ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = self.study.frame_of_reference_uid, ""
        ds.ImageOrientationPatient = self._orientation
        ds.ImagePositionPatient = _position(self._orientation, index)
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.Rows = ds.Columns = SIDE
        ds.PixelSpacing = [1.4, 1.4]
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
        ds.WindowCenter, ds.WindowWidth = 500, 1000
        ds.PixelData = _body(index).tobytes()
        return ds


def computed_tomography(study: Study) -> Path:
    """A CT instance of the same study: never an image we grade."""
    series = Series(study, 9, "topogram", AXIAL, 1, 1)
    dataset = series._dataset(0)
    dataset.Modality = "CT"
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    path = study.folder / "09-000.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path


def _position(orientation: list[int], index: int) -> list[float]:
    half = SIDE * 1.4 / 2
    if orientation == AXIAL:
        return [-half, -half, -4.4 * index]
    return [-6.6 + 4.4 * index, -half, half]


def _body(index: int) -> np.ndarray:
    """An ellipse of muscle with fat around a bright canal."""
    rows, columns = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    rng = np.random.default_rng(index)
    image = rng.normal(20, 5, (SIDE, SIDE))
    image += 400 * (((columns / 58) ** 2 + (rows / 44) ** 2) < 1)
    image += 300 * ((columns / 16) ** 2 + ((rows - 8) / 14) ** 2 < 1)
    image += 500 * ((columns / 9) ** 2 + ((rows - 12) / 7) ** 2 < 1)
    return np.clip(image, 0, 4095).astype("<u2")
