"""The UIDs are found in every encoding, and nothing a sender can send makes the walk fail in an undeclared way."""

from __future__ import annotations

import contextlib
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
)

from stenosis_node.wire.header import (
    MAX_ELEMENTS,
    InstanceUids,
    MissingUid,
    UnreadableHeader,
    read_uids,
)
from tests.conftest import require_data

EXPECTED = InstanceUids(sop_class="1.2.840.10008.5.1.4.1.1.4", sop_instance="1.2.3.4", study="1.2.3", series="1.2.3.10")


def example() -> Dataset:
    """A data set with everything that may stand before (0020,000E)."""
    ds = Dataset()
    ds.SpecificCharacterSet = ["", "ISO 2022 IR 149"]
    ds.SOPClassUID = EXPECTED.sop_class
    ds.SOPInstanceUID = EXPECTED.sop_instance
    inner = Dataset()
    inner.ReferencedSOPInstanceUID = "9.9.9"
    inner.StudyInstanceUID = "9.9.1"  # of another study: only the top level counts
    inner.SeriesInstanceUID = "9.9.2"
    deep = Dataset()
    deep.ReferencedStudySequence = Sequence([inner, Dataset()])
    ds.ReferencedStudySequence = Sequence([deep, inner])
    block = ds.private_block(0x0009, "TEST", create=True)
    block.add_new(0x01, "OB", bytes(range(256)) * 4)
    block.add_new(0x02, "UN", b"\xfe\xff\x00\xe0junk")
    ds.PatientName = "Hong^Gildong"
    ds.StudyInstanceUID = EXPECTED.study
    ds.SeriesInstanceUID = EXPECTED.series
    ds.Rows = 2
    ds.PixelData = b"\0" * 8
    ds["PixelData"].VR = "OW"
    return ds


def encode(ds: Dataset, *, implicit: bool = False, little: bool = True, undefined: bool = False) -> bytes:
    """The data set alone, sequences and their items with undefined lengths when asked."""
    if undefined:
        for element in ds.iterall():
            if element.VR == "SQ":
                element.is_undefined_length = True
                for item in element.value:
                    item.is_undefined_length_sequence_item = True
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = implicit, little
    write_dataset(buffer, ds)
    return buffer.getvalue()


@pytest.mark.parametrize("undefined", [False, True], ids=["defined", "undefined"])
@pytest.mark.parametrize(
    ("syntax", "options"),
    [
        (ExplicitVRLittleEndian, {}),
        (JPEGLosslessSV1, {}),
        (ImplicitVRLittleEndian, {"implicit": True}),
        (ExplicitVRBigEndian, {"little": False}),
        ("1.3.6.1.4.1.99999.7", {}),
        ("1.3.6.1.4.1.99999.7", {"implicit": True}),
    ],
)
def test_every_encoding(syntax: str, options: dict[str, Any], undefined: bool) -> None:
    assert read_uids(encode(example(), undefined=undefined, **options), syntax) == EXPECTED


def test_deflated() -> None:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = compressor.compress(encode(example())) + compressor.flush()
    assert read_uids(deflated, DeflatedExplicitVRLittleEndian) == EXPECTED
    with pytest.raises(UnreadableHeader, match="inflated"):
        read_uids(b"\xff" * 100, DeflatedExplicitVRLittleEndian)


def test_a_decompression_bomb_is_not_inflated() -> None:
    compressor = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    element = struct.pack("<HH2sHL", 0x0009, 0x1001, b"OB", 0, 0x4000_0000)
    bomb = compressor.compress(element) + b"".join(compressor.compress(bytes(1 << 20)) for _ in range(64))
    with pytest.raises(UnreadableHeader, match="breaks off"):
        read_uids(bomb + compressor.flush(), DeflatedExplicitVRLittleEndian)


def test_unknown_vr_of_undefined_length_is_implicit_inside() -> None:
    element = struct.pack("<HHHHL", 0x0018, 0x1000, 0x4E55, 0, 0xFFFFFFFF)  # UN
    item = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF) + struct.pack("<HHL", 0x0018, 0x0050, 2) + b"3 "
    ends = struct.pack("<HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    encoded = encode(example())
    at = encoded.rindex(struct.pack("<HH2s", 0x0020, 0x000D, b"UI"))
    assert read_uids(encoded[:at] + element + item + ends + encoded[at:], ExplicitVRLittleEndian) == EXPECTED


@pytest.mark.parametrize("keyword", ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
def test_missing_empty_or_path_like_uid(keyword: str) -> None:
    ds = example()
    del ds[keyword]
    with pytest.raises(MissingUid):
        read_uids(encode(ds), ExplicitVRLittleEndian)
    ds = example()
    ds[keyword].value = ""
    with pytest.raises(MissingUid):
        read_uids(encode(ds), ExplicitVRLittleEndian)
    encoded = encode(example())
    value = str(example()[keyword].value).encode()
    path = (b"../" * 30)[: len(value)]
    at = encoded.index(value, encoded.index(example()[keyword].tag.to_bytes(4, "big")[1::-1]))
    with pytest.raises(MissingUid, match="is no UID"):
        read_uids(encoded[:at] + path + encoded[at + len(value) :], ExplicitVRLittleEndian)


def test_every_truncation_is_told() -> None:
    encoded = encode(example())
    end_of_series = encoded.index(EXPECTED.series.encode()) + len(EXPECTED.series)
    for size in range(end_of_series):
        with pytest.raises((UnreadableHeader, MissingUid)):
            read_uids(encoded[:size], ExplicitVRLittleEndian)


def test_deep_nesting_and_endless_elements_end() -> None:
    deep = struct.pack("<HH2sHL", 0x0008, 0x1110, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    with pytest.raises(UnreadableHeader, match="elements before"):
        read_uids(deep * MAX_ELEMENTS, ExplicitVRLittleEndian)


@given(st.binary(max_size=300), st.sampled_from([ExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian]))
@settings(max_examples=200, deadline=None)
def test_any_bytes_end_in_an_answer_or_a_declared_error(data: bytes, syntax: str) -> None:
    with contextlib.suppress(UnreadableHeader, MissingUid):
        read_uids(data, syntax)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_damaged_data_sets_end_in_an_answer_or_a_declared_error(data: st.DataObject) -> None:
    encoded = bytearray(encode(example(), undefined=True))
    for _ in range(data.draw(st.integers(1, 8))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(UnreadableHeader, MissingUid):
        read_uids(bytes(encoded), ExplicitVRLittleEndian)


def test_real_files_agree_with_pydicom() -> None:
    seen = 0
    for path in sorted(require_data(".").rglob("*")):
        if not path.is_file() or path.suffix in {".png", ".gz", ".md"}:
            continue
        try:
            ds = dcmread(path, stop_before_pixels=True)
        except Exception:
            continue
        syntax = str(ds.file_meta.get("TransferSyntaxUID", ""))
        if "SeriesInstanceUID" not in ds or not syntax:
            continue
        with path.open("rb") as file:
            content = file.read()
        at = 132 + 12 + struct.unpack_from("<L", content, 140)[0]
        expected = InstanceUids(
            sop_class=str(ds.SOPClassUID),
            sop_instance=str(ds.SOPInstanceUID),
            study=str(ds.StudyInstanceUID),
            series=str(ds.SeriesInstanceUID),
        )
        assert read_uids(content[at:], syntax) == expected, path
        seen += 1
    assert seen > 20
