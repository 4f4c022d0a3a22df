"""Headers of whatever a folder may hold."""

from __future__ import annotations

import io
import logging
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from stenosis_node.domain import Decision
from stenosis_node.series import choose, find_files, read, scan
from stenosis_node.wire import part10
from tests.unit.series.builder import (
    ENHANCED,
    LEGACY,
    blank_instance,
    decide_one,
    enhanced_instance,
    headers_of,
    save,
    stack,
    t2_instance,
    uid,
    write_series,
)


def test_find_files_is_sorted_recursive_and_ignores_hidden(tmp_path: Path) -> None:
    for name in ("b/2", "b/1", "a", ".hidden", ".git/x", "b/.DS_Store"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert [path.relative_to(tmp_path).as_posix() for path in find_files(tmp_path)] == ["a", "b/1", "b/2"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"hello, not a scan" * 100, "is not DICOM"),
        (b"\x89PNG\r\n\x1a\n" + bytes(1000), "is not DICOM"),
        (bytes(128) + b"DICM", "has no Study Instance UID"),
        (bytes(128) + b"DICM" + b"\x02\x00\x00\x00UL\x04\x00\x00\x00\x00\x00", "has no Study Instance UID"),
        (bytes(5000), "is not DICOM"),
    ],
)
def test_unreadable(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    result = scan([path])
    assert result.series == ()
    assert [file.path for file in result.unreadable] == [path]
    assert reason in result.unreadable[0].reason


def test_missing_file_and_folder(tmp_path: Path) -> None:
    result = scan([tmp_path / "absent", tmp_path])
    assert [file.reason.split(":")[0] for file in result.unreadable] == ["cannot be read", "cannot be read"]


def test_dicomdir(tmp_path: Path) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    meta.MediaStorageSOPInstanceUID = uid("directory")
    meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    directory = FileDataset("", Dataset(), file_meta=meta, preamble=bytes(128))
    directory.FileSetID = "X"
    directory.save_as(tmp_path / "DICOMDIR", enforce_file_format=True)
    (unreadable,) = scan(find_files(tmp_path)).unreadable
    assert "DICOMDIR" in unreadable.reason


def test_truncated_in_the_header_is_reported_alone(tmp_path: Path) -> None:
    paths = write_series(tmp_path)
    paths[0].write_bytes(paths[0].read_bytes()[:420])
    result = scan(paths)
    assert [file.path for file in result.unreadable] == [paths[0]]
    assert result.series[0].n_instances == 7


def test_without_preamble(tmp_path: Path) -> None:
    for path in write_series(tmp_path):
        path.write_bytes(path.read_bytes()[132:])
    assert decide_one(tmp_path).decision is Decision.GRADED


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_bare_data_set(tmp_path: Path, syntax: str) -> None:
    """No preamble and no file meta information: the encoding is seen from the first element."""
    for path in write_series(tmp_path):
        dataset = dcmread(path)
        if syntax == ExplicitVRBigEndian:
            dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
        plain = Dataset(dataset)
        buffer = io.BytesIO()
        dcmwrite(
            buffer, plain, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=syntax != ExplicitVRBigEndian
        )
        path.write_bytes(buffer.getvalue())
    (series,) = headers_of(tmp_path)
    assert [piece.pixels.flat[0] for piece in read(series).slices if piece.pixels is not None] == list(range(1, 9))


def test_deflated(tmp_path: Path) -> None:
    for path in write_series(tmp_path):
        dataset = dcmread(path)
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        dataset.save_as(path)
    (series,) = headers_of(tmp_path)
    assert [piece.pixels.flat[0] for piece in read(series).slices if piece.pixels is not None] == list(range(1, 9))


def test_deflated_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part10, "MAX_INFLATED", 1 << 20)
    path = save(tmp_path, t2_instance("s", 1, *stack(1)[0]))
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.PixelData = bytes(1 << 22)
    dataset.save_as(path)
    assert path.stat().st_size < 20_000
    (unreadable,) = scan([path]).unreadable
    assert unreadable.reason == "inflates to more than 1 MB"


def test_copies_of_an_instance_count_once(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "b")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "copy").write_bytes(paths[3].read_bytes())
    (series,) = headers_of(tmp_path)
    assert series.n_instances == 8
    assert tmp_path / "a" / "copy" in series.files
    assert paths[3] not in series.files


def test_no_patient_attribute_is_kept(tmp_path: Path) -> None:
    write_series(tmp_path)
    save(tmp_path, enhanced_instance("e", stack(4), np.zeros((4, 128, 128))))
    text = repr(scan(find_files(tmp_path))) + repr(choose(headers_of(tmp_path)))
    for secret in ("Doe", "SECRET", "19440102"):
        assert secret not in text.replace(str(tmp_path), "")


@pytest.mark.parametrize("text", ["요추 T2 축상", "腰椎 T2", "T2 ÄXIAL"])
def test_texts_in_their_character_set(tmp_path: Path, text: str) -> None:
    charset = {"요": "ISO 2022 IR 149", "腰": "GB18030"}.get(text[0], "ISO_IR 100")
    write_series(tmp_path, SpecificCharacterSet=charset, SeriesDescription=text)
    decision = decide_one(tmp_path)
    assert decision.description == text
    assert decision.decision is Decision.GRADED


def test_unknown_character_set_is_no_obstacle(tmp_path: Path) -> None:
    write_series(tmp_path, SpecificCharacterSet="ISO_IR 999", SeriesDescription="T2 TRA")
    assert decide_one(tmp_path).decision is Decision.GRADED


@pytest.mark.parametrize(
    ("element", "value"),
    [
        (b"DS\x06\x004000.0", b"DS\x06\x00bad!!!"),
        (b"DS\x06\x00100.0 ", b"DS\x06\x00\xff\xff\xff\xff\xff\xff"),
        (b"IS\x02\x005 ", b"IS\x02\x00x!"),
    ],
)
def test_malformed_numbers_do_not_raise(tmp_path: Path, element: bytes, value: bytes) -> None:
    for path in write_series(tmp_path):
        content = path.read_bytes()
        path.write_bytes(content.replace(element, value))
        assert path.read_bytes() != content
    decide_one(tmp_path)


@given(cut=st.integers(0, 1400), noise=st.lists(st.tuples(st.integers(0, 1400), st.integers(0, 255)), max_size=20))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_headers_never_raise(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, cut: int, noise: list[tuple[int, int]]
) -> None:
    caplog.set_level(logging.CRITICAL)
    source = tmp_path / "source"
    if not source.exists():
        save(tmp_path, enhanced_instance("s", stack(4), np.zeros((4, 128, 128))), "source")
    content = bytearray(source.read_bytes()[: 4000 if cut > 1300 else cut + 100])
    for position, byte in noise:
        if position < len(content):
            content[position] = byte
    damaged = tmp_path / "damaged"
    damaged.write_bytes(content)
    result = scan([damaged])
    assert len(result.series) + len(result.unreadable) == 1
    choose(result.series)


# --------------------------------------------------------------------------- enhanced


@pytest.mark.parametrize("shared_timing", [True, False])
def test_enhanced_functional_groups(tmp_path: Path, shared_timing: bool) -> None:
    pixels = np.arange(1, 7).reshape(6, 1, 1) * np.ones((1, 128, 128))
    save(tmp_path, enhanced_instance("e", stack(6, tilt=12), pixels, shared_timing=shared_timing))
    (series,) = headers_of(tmp_path)
    first = series.slices[0]
    assert (first.acquisition.te_ms, first.acquisition.tr_ms, first.acquisition.echo_train) == (100, 4000, 17)
    assert first.geometry is not None
    assert first.geometry.thickness_mm == 4
    assert [piece.ref.frame_number for piece in series.slices] == [1, 2, 3, 4, 5, 6]
    assert decide_one(tmp_path).decision is Decision.GRADED


def test_enhanced_t1_is_rejected_by_its_numbers(tmp_path: Path) -> None:
    save(tmp_path, enhanced_instance("e", stack(6), np.ones((6, 128, 128)), te=10, tr=600))
    assert decide_one(tmp_path).reason.value == "t1-weighted"


def test_legacy_converted_attributes_are_found(tmp_path: Path) -> None:
    dataset = enhanced_instance("e", stack(6), np.ones((6, 128, 128)))
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = LEGACY
    del dataset.SharedFunctionalGroupsSequence[0].MREchoSequence
    del dataset.SharedFunctionalGroupsSequence[0].MRTimingAndRelatedParametersSequence
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        classic = Dataset()
        classic.EchoTime, classic.RepetitionTime, classic.ScanningSequence = 95, 3800, "SE"
        frame.UnassignedPerFrameConvertedAttributesSequence = [classic]
    save(tmp_path, dataset)
    decision = decide_one(tmp_path)
    assert decision.decision is Decision.GRADED
    assert (decision.values["TE"], decision.values["TR"]) == ("95 ms", "3800 ms")


def test_absurd_number_of_frames(tmp_path: Path) -> None:
    dataset = blank_instance("e", 1, ENHANCED)
    dataset.NumberOfFrames = 2_000_000_000
    path = save(tmp_path, dataset)
    (unreadable,) = scan([path]).unreadable
    assert "frames" in unreadable.reason


def test_zlib_is_what_the_bomb_test_thinks() -> None:
    assert len(zlib.compress(bytes(1 << 22))) < 20_000


@pytest.mark.parametrize("keyword", ["SeriesDescription", "StationName", "Manufacturer", "ProtocolName"])
def test_control_characters_are_no_part_of_a_text(tmp_path: Path, keyword: str) -> None:
    write_series(tmp_path, **{keyword: "t2\0tse\x07\x1b tra\x7f"})
    (series,) = headers_of(tmp_path)
    field = {"SeriesDescription": "description", "StationName": "station", "ProtocolName": "protocol"}
    assert getattr(series, field.get(keyword, keyword.lower())) == "t2 tse tra"


def test_control_characters_are_no_part_of_a_code(tmp_path: Path) -> None:
    write_series(tmp_path, ScanOptions=["FS\0", "\x01PFP"], ScanningSequence="S\0E")
    decision = decide_one(tmp_path)
    assert (decision.values["scan options"], decision.values["sequence"]) == ("FS\\PFP", "S E *tse2d1_17")


@pytest.mark.parametrize("number", [2**31, -(2**31) - 1, 10**11])
def test_a_series_number_that_does_not_fit_is_absent(tmp_path: Path, number: int) -> None:
    write_series(tmp_path, SeriesNumber=number)
    assert decide_one(tmp_path).series_number is None


@pytest.mark.parametrize("number", [2**31 - 1, -(2**31)])
def test_the_largest_series_numbers_are_kept(tmp_path: Path, number: int) -> None:
    write_series(tmp_path, SeriesNumber=number)
    assert decide_one(tmp_path).series_number == number
