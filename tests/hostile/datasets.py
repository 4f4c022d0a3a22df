"""Data sets as they stand on the wire, in every transfer syntax the node grades, proper ones to begin with."""

from __future__ import annotations

import struct
import zlib
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

MR = "1.2.840.10008.5.1.4.1.1.4"
STUDY = "1.2.826.0.1.3680043.10.998.6"
SIDE = 32

NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
COMPRESSED = (RLELossless, JPEGLSLossless, JPEGLSNearLossless, JPEG2000Lossless, JPEG2000, JPEGLosslessSV1)
SYNTAXES: tuple[str, ...] = (*NATIVE, *COMPRESSED)


def uid(number: int) -> str:
    """SOP Instance UID of the n-th instance."""
    return f"{STUDY}.1.{number}"


def slice_header(number: int, *, study: str = STUDY, n_rows: int = SIDE) -> FileDataset:
    """An axial T2 slice, with sequences and private elements in front of its UIDs and behind."""
    ds = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=bytes(128))
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SpecificCharacterSet = ["", "ISO 2022 IR 149"]
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    ds.SOPClassUID, ds.SOPInstanceUID = MR, f"{study}.1.{number}"
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = MR, ds.SOPInstanceUID
    ds.Modality, ds.Manufacturer = "MR", "test"
    ds.AcquisitionDate, ds.AcquisitionTime = "20260301", "091500"
    referenced = Dataset()
    referenced.ReferencedSOPClassUID, referenced.ReferencedSOPInstanceUID = MR, "1.2.3"
    deeper = Dataset()
    deeper.ReferencedImageSequence = Sequence([referenced])
    ds.ReferencedStudySequence = Sequence([deeper, Dataset()])
    block = ds.private_block(0x0009, "TEST", create=True)
    block.add_new(1, "OB", bytes(range(64)))
    ds.PatientName, ds.PatientID = "Nobody^Hostile", "SECRET-HOSTILE"
    ds.SeriesDescription = ds.ProtocolName = "t2_tse_tra"
    ds.BodyPartExamined = "LSPINE"
    ds.MRAcquisitionType, ds.ScanningSequence, ds.SequenceVariant = "2D", "SE", "SK"
    ds.RepetitionTime, ds.EchoTime, ds.EchoTrainLength = 4000, 100, 17
    ds.SliceThickness, ds.SpacingBetweenSlices, ds.PatientPosition = 4, 4.4, "HFS"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study, f"{study}.1"
    ds.FrameOfReferenceUID = f"{study}.2"
    ds.SeriesNumber, ds.InstanceNumber = 3, number + 1
    side_mm = 180.0
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.ImagePositionPatient = [-side_mm / 2, -side_mm / 2, f"{-4.4 * number:.2f}"]
    ds.PixelSpacing = [round(side_mm / n_rows, 6)] * 2
    ds.Rows = ds.Columns = n_rows
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    return ds


def pixels(n_rows: int = SIDE) -> np.ndarray[tuple[int, int], np.dtype[np.uint16]]:
    """A disc with something in it."""
    y, x = np.mgrid[:n_rows, :n_rows] - n_rows / 2
    values: np.ndarray[tuple[int, int], np.dtype[np.uint16]] = (
        (400 + 300 * np.cos(x / 2) * np.sin(y / 3)) * (x**2 + y**2 < n_rows**2 / 5)
    ).astype(np.uint16)
    return values


def encode(ds: Dataset, syntax: str) -> bytes:
    """The data set alone, in a transfer syntax without compressed pixels."""
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    write_dataset(buffer, ds)
    encoded: bytes = buffer.getvalue()
    return deflate(encoded) if syntax == DeflatedExplicitVRLittleEndian else encoded


def deflate(encoded: bytes, level: int = 6) -> bytes:
    deflater = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    return deflater.compress(encoded) + deflater.flush()


@lru_cache(maxsize=4096)
def instance(syntax: str, number: int, *, study: str = STUDY, n_rows: int = SIDE) -> bytes:
    """A proper data set in any of SYNTAXES."""
    ds = slice_header(number, study=study, n_rows=n_rows)
    if syntax in NATIVE:
        values = pixels(n_rows)
        ds.PixelData = (values.byteswap() if syntax == ExplicitVRBigEndian else values).tobytes()
        ds["PixelData"].VR = "OW"
        return encode(ds, syntax)
    ds.PixelData = pixels(n_rows).tobytes()
    if syntax == JPEGLosslessSV1:
        return _by_gdcm(ds)
    options = {"jls_error": 2} if syntax == JPEGLSNearLossless else {"j2k_cr": [4]} if syntax == JPEG2000 else {}
    ds.compress(UID(syntax), generate_instance_uid=False, **options)
    return encode(ds, syntax)


def _by_gdcm(ds: FileDataset) -> bytes:
    import gdcm

    with TemporaryDirectory() as folder:
        source, target = Path(folder) / "a.dcm", Path(folder) / "b.dcm"
        ds.save_as(source, enforce_file_format=True)
        reader = gdcm.ImageReader()
        reader.SetFileName(str(source))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(target))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        content = target.read_bytes()
    return content[144 + int.from_bytes(content[140:144], "little") :]


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    """An element in explicit VR little endian, whatever its value."""
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr
    if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
        return head + struct.pack("<HL", 0, len(value)) + value
    return head + struct.pack("<H", len(value)) + value


def nested(depth: int, *, undefined: bool) -> bytes:
    """A sequence in an item of a sequence in an item ..., explicit VR little endian."""
    tag = struct.pack("<HH2sH", 0x0008, 0x1140, b"SQ", 0)
    item = struct.pack("<HH", 0xFFFE, 0xE000)
    if undefined:
        ends = struct.pack("<HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
        return (tag + b"\xff\xff\xff\xff" + item + b"\xff\xff\xff\xff") * depth + ends * depth
    heads = [tag + struct.pack("<L", 20 * level + 8) + item + struct.pack("<L", 20 * level) for level in range(depth)]
    return b"".join(reversed(heads))


def with_front(front: bytes, number: int) -> bytes:
    """A proper data set with other bytes in front of (0008,1190) and all behind: they stand where (0008,1140) does."""
    ds = slice_header(number)
    ds.PixelData = pixels().tobytes()
    ds["PixelData"].VR = "OW"
    first = Dataset()
    rest = Dataset()
    for one in ds:
        (first if one.tag < 0x0008_1140 else rest).add(one)
    return encode(first, ExplicitVRLittleEndian) + front + encode(rest, ExplicitVRLittleEndian)


def part10(dataset: bytes, syntax: str, sop_instance: str) -> bytes:
    """A file."""
    from stenosis_node.wire.part10 import file_meta

    meta = file_meta(sop_class_uid=MR, sop_instance_uid=sop_instance, transfer_syntax_uid=syntax)
    return BytesIO(meta + dataset).getvalue()
