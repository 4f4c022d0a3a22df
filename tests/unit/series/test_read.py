"""From files to slices: order, slabs, pixels."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, RLELossless

from stenosis_node.domain import AxialSeries
from stenosis_node.errors import PermanentError
from stenosis_node.series import choose, decoding, find_files, read, scan
from stenosis_node.series.geometry import arrange
from tests.unit.series.builder import SIDE, enhanced_instance, headers_of, save, stack, t2_instance, write_series


def read_one(folder: Path) -> AxialSeries:
    (series,) = headers_of(folder)
    return read(series)


def marks(series: AxialSeries) -> list[int]:
    """The value each slice was filled with; 0 for an unreadable one."""
    return [0 if piece.pixels is None else int(piece.pixels.flat[0]) for piece in series.slices]


def test_classic(tmp_path: Path) -> None:
    write_series(tmp_path)
    series = read_one(tmp_path)
    assert marks(series) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert {piece.slab for piece in series.slices} == {0}
    first = series.slices[0]
    assert first.pixels is not None
    assert first.pixels.dtype == np.float32
    assert first.pixels.shape == (SIDE, SIDE)
    assert first.path.is_absolute()
    assert first.ref.frame_number is None
    assert first.geometry.position[2] > series.slices[-1].geometry.position[2]
    assert series.series_number == 5


def test_angled_slabs_are_ordered_from_head_to_foot(tmp_path: Path) -> None:
    slabs = [stack(4, tilt=5 + 12 * k, top=(0, 0, 80 - 33 * k)) for k in range(4)]
    places = [place for slab in slabs for place in slab]
    write_series(tmp_path, places=places)
    series = read_one(tmp_path)
    assert marks(series) == list(range(1, 17))
    assert [piece.slab for piece in series.slices] == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4


def test_slab_order_looks_at_image_centres_not_corners(tmp_path: Path) -> None:
    """Corners of strongly tilted slabs lie far above their centres."""
    upper, lower = stack(4, tilt=0, top=(0, 0, 10)), stack(4, tilt=-40, top=(0, 0, -20))
    write_series(tmp_path, places=upper + lower)
    series = read_one(tmp_path)
    assert series.slices[-1].geometry.position[2] > series.slices[0].geometry.position[2]
    assert marks(series) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_two_parallel_blocks_are_two_slabs(tmp_path: Path) -> None:
    write_series(tmp_path, places=stack(5) + stack(5, top=(0, 0, -40)))
    series = read_one(tmp_path)
    assert [piece.slab for piece in series.slices] == [0] * 5 + [1] * 5
    assert marks(series) == list(range(1, 11))


def test_parallel_pairs_are_slabs_too(tmp_path: Path) -> None:
    write_series(tmp_path, places=stack(2) + stack(2, top=(0, 0, -30)))
    assert [piece.slab for piece in read_one(tmp_path).slices] == [0, 0, 1, 1]


def test_one_missing_slice_does_not_split_a_slab(tmp_path: Path) -> None:
    places = stack(9)
    del places[4]
    write_series(tmp_path, places=places)
    assert {piece.slab for piece in read_one(tmp_path).slices} == {0}


def test_small_differences_of_angle_are_one_slab(tmp_path: Path) -> None:
    upper = stack(4)
    write_series(tmp_path, places=upper + [(stack(1, tilt=1)[0][0], center) for _, center in stack(8)[4:]])
    assert {piece.slab for piece in read_one(tmp_path).slices} == {0}


def test_anisotropic_spacing_stays_a_pair(tmp_path: Path) -> None:
    write_series(tmp_path, PixelSpacing=[1.25, 0.9375], Rows=128, Columns=192)
    piece = read_one(tmp_path).slices[0]
    assert (piece.geometry.row_spacing_mm, piece.geometry.column_spacing_mm) == (1.25, 0.9375)
    assert piece.pixels is not None
    assert piece.pixels.shape == (128, 192)


def test_duplicates_keep_longest_echo_then_latest(tmp_path: Path) -> None:
    places = stack(4)
    for i, (orientation, center) in enumerate(places):
        for mark, te, time in ((1, 80, "101500"), (2, 120, "101500"), (3, 120, "101900"), (4, 90, "103000")):
            pixels = np.full((SIDE, SIDE), mark, np.uint16)
            save(
                tmp_path,
                t2_instance("s", (i, mark), orientation, center, EchoTime=te, AcquisitionTime=time, pixels=pixels),
            )
    assert marks(read_one(tmp_path)) == [3, 3, 3, 3]


def test_rescale_and_monochrome1(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(SIDE, dtype=np.uint16), (SIDE, 1))
    write_series(tmp_path / "a", pixels=ramp, RescaleSlope=2, RescaleIntercept=-10)
    write_series(tmp_path / "b", pixels=ramp, PhotometricInterpretation="MONOCHROME1")
    plain, inverted = read_one(tmp_path / "a").slices[0].pixels, read_one(tmp_path / "b").slices[0].pixels
    assert plain is not None
    assert inverted is not None
    np.testing.assert_array_equal(plain, ramp * 2.0 - 10)
    np.testing.assert_array_equal(inverted, (SIDE - 1) - ramp.astype(float))


def test_modality_lut(tmp_path: Path) -> None:
    lut = Dataset()
    lut.LUTDescriptor, lut.ModalityLUTType = [256, 0, 16], "US"
    lut.LUTData = (np.arange(256, dtype=np.uint16) * 7).tobytes()
    lut["LUTDescriptor"].VR, lut["LUTData"].VR = "US", "OW"
    write_series(tmp_path, pixels=np.full((SIDE, SIDE), 9, np.uint16), ModalityLUTSequence=[lut])
    assert marks(read_one(tmp_path)) == [63] * 8


def test_signed_and_8_bit(tmp_path: Path) -> None:
    write_series(
        tmp_path / "signed",
        pixels=np.full((SIDE, SIDE), -5, np.int16),
        PixelRepresentation=1,
        BitsStored=16,
        HighBit=15,
    )
    write_series(
        tmp_path / "bytes", pixels=np.full((SIDE, SIDE), 200, np.uint8), BitsAllocated=8, BitsStored=8, HighBit=7
    )
    assert marks(read_one(tmp_path / "signed")) == [-5] * 8
    assert marks(read_one(tmp_path / "bytes")) == [200] * 8


def test_overlay_in_the_unused_bits_is_ignored(tmp_path: Path) -> None:
    write_series(tmp_path, pixels=np.full((SIDE, SIDE), 0x1005, np.uint16))
    assert marks(read_one(tmp_path)) == [5] * 8


def test_constant_and_extreme_pixels_are_readable(tmp_path: Path) -> None:
    write_series(tmp_path / "a", pixels=np.zeros((SIDE, SIDE), np.uint16))
    write_series(
        tmp_path / "b", pixels=np.full((SIDE, SIDE), 65535, np.uint16), BitsStored=16, HighBit=15, RescaleSlope="1e30"
    )
    assert all(piece.pixels is not None for part in ("a", "b") for piece in read_one(tmp_path / part).slices)


def test_rescale_to_infinity_is_unreadable(tmp_path: Path) -> None:
    write_series(tmp_path, RescaleSlope="1e39")
    assert {piece.unreadable for piece in read_one(tmp_path).slices} == {"its rescaled pixels are not finite"}


# --------------------------------------------------------------------------- bad pixel data


def spoil(path: Path, **changes: Any) -> None:
    dataset = dcmread(path)
    for keyword, value in changes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(path)


def test_a_truncated_file_costs_one_slice(tmp_path: Path) -> None:
    paths = write_series(tmp_path)
    paths[2].write_bytes(paths[2].read_bytes()[:-5000])
    series = read_one(tmp_path)
    assert marks(series) == [1, 2, 0, 4, 5, 6, 7, 8]
    assert series.slices[2].unreadable == "its pixel data breaks off (27768 of 32768 bytes are there)"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"PixelData": None}, "no pixel data"),
        ({"PixelData": b""}, "no pixel data"),
        ({"BitsAllocated": 12}, "12 bits allocated"),
        ({"BitsStored": 40}, "cannot be decoded"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "not a grey-scale image"),
    ],
)
def test_unusable_pixels_cost_one_slice(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    spoil(write_series(tmp_path)[4], **changes)
    series = read_one(tmp_path)
    assert marks(series) == [1, 2, 3, 4, 0, 6, 7, 8]
    assert words in str(series.slices[4].unreadable)


def test_unknown_transfer_syntax(tmp_path: Path) -> None:
    path = write_series(tmp_path)[0]
    dataset = dcmread(path)
    dataset.PixelData = encapsulate([b"video"])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"
    dataset.save_as(path, enforce_file_format=False)
    assert "1.2.840.10008.1.2.4.102 is not supported" in str(read_one(tmp_path).slices[0].unreadable)


def test_absurd_size_is_refused_before_decoding(tmp_path: Path) -> None:
    spoil(write_series(tmp_path)[1], Rows=60000, Columns=60000, PixelSpacing=[0.003, 0.003])
    (series,) = headers_of(tmp_path)
    assert read(series).slices[0].pixels is not None
    assert [piece.geometry is None for piece in read(series).slices] == [False] * 7 + [True]  # 3 micrometres


def test_large_matrix_is_refused_by_the_reader(tmp_path: Path) -> None:
    spoil(write_series(tmp_path)[1], Rows=9000, Columns=9000, PixelSpacing=[0.0213, 0.0213])
    assert "image of 9000 x 9000 pixels is refused" in str(read_one(tmp_path).slices[1].unreadable)


def test_a_codestream_larger_than_the_header_says_is_refused(tmp_path: Path) -> None:
    path = write_series(tmp_path)[3]
    siz = b"\xff\x4f\xff\x51\x00\x29\x00\x00" + (60000).to_bytes(4, "big") * 2 + bytes(24) + b"\x00\x01\x0b\x01\x01"
    dataset = dcmread(path)
    dataset.PixelData = encapsulate([siz])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.save_as(path)
    series = read_one(tmp_path)
    assert "holds 60000 x 60000 pixels" in str(series.slices[3].unreadable)
    assert marks(series) == [1, 2, 3, 0, 5, 6, 7, 8]


def test_a_series_beyond_memory_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stenosis_node.series.reading.MAX_SERIES_PIXELS", 3 * SIDE * SIDE)
    write_series(tmp_path)
    series = read_one(tmp_path)
    assert sum(piece.pixels is not None for piece in series.slices) == 3
    assert {piece.unreadable for piece in series.slices if piece.pixels is None} == {
        "the series is too large to keep in memory"
    }


def test_a_file_that_vanished_is_no_unreadable_slice(tmp_path: Path) -> None:
    paths = write_series(tmp_path)
    (series,) = headers_of(tmp_path)
    paths[5].unlink()
    with pytest.raises(PermanentError, match=r"received file of instance [\d.]+ is gone"):
        read(series)


@pytest.mark.parametrize(
    ("keyword", "reason"),
    [
        (
            "ImageOrientationPatient",
            "no usable Image Orientation (Patient), Pixel Spacing",
        ),
        ("Rows", "no usable Pixel Spacing"),
    ],
)
def test_a_slice_whose_header_breaks_off_comes_last_without_place(tmp_path: Path, keyword: str, reason: str) -> None:
    paths = write_series(tmp_path)
    content, sop_instance_uid = paths[5].read_bytes(), dcmread(paths[5]).SOPInstanceUID
    tag = tag_for_keyword(keyword)
    assert tag is not None
    cut = content.find(struct.pack("<HH", tag >> 16, tag & 0xFFFF), 400)
    paths[5].write_bytes(content[:cut])
    (series,) = headers_of(tmp_path)
    (decision,) = choose([series])

    image = read(series)

    assert marks(image) == [1, 2, 3, 4, 5, 7, 8, 0]
    last = image.slices[-1]
    assert (last.ref.sop_instance_uid, last.geometry, last.pixels) == (sop_instance_uid, None, None)
    assert (last.slab, last.unreadable) == (1, reason)
    assert "Unreadable: 1 slice without usable place or size." in decision.sentence
    assert "Left out" not in decision.sentence


def test_a_slice_left_out_for_what_its_header_says_is_not_unreadable(tmp_path: Path) -> None:
    paths = write_series(tmp_path)
    ds = dcmread(paths[5])
    ds.ImageType = ["DERIVED", "SECONDARY", "MPR"]
    del ds.ImagePositionPatient
    ds.save_as(paths[5])
    (series,) = headers_of(tmp_path)
    assert marks(read(series)) == [1, 2, 3, 4, 5, 7, 8]


def test_a_series_that_was_not_chosen_cannot_be_read(tmp_path: Path) -> None:
    write_series(tmp_path, EchoTime=10, RepetitionTime=500)
    (series,) = headers_of(tmp_path)
    with pytest.raises(PermanentError, match="no axial T2 slice"):
        read(series)


# --------------------------------------------------------------------------- enhanced


def test_enhanced_frames_in_any_order(tmp_path: Path) -> None:
    places = stack(4, tilt=8, top=(0, 0, 30)) + stack(4, tilt=25, top=(0, 0, 0))
    order = [5, 0, 7, 2, 4, 1, 6, 3]
    pixels = np.stack([np.full((SIDE, SIDE), i + 1) for i in order])
    save(tmp_path, enhanced_instance("e", [places[i] for i in order], pixels))
    series = read_one(tmp_path)
    assert marks(series) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [piece.slab for piece in series.slices] == [0] * 4 + [1] * 4
    assert [piece.ref.frame_number for piece in series.slices] == [order.index(i) + 1 for i in range(8)]


def test_enhanced_rescale_per_frame(tmp_path: Path) -> None:
    dataset = enhanced_instance("e", stack(4), np.full((4, SIDE, SIDE), 10))
    for index, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        transformation = Dataset()
        transformation.RescaleSlope, transformation.RescaleIntercept, transformation.RescaleType = index + 1, 3, "US"
        frame.PixelValueTransformationSequence = [transformation]
    save(tmp_path, dataset)
    assert marks(read_one(tmp_path)) == [13, 23, 33, 43]


def test_enhanced_truncated_loses_its_last_frames_only(tmp_path: Path) -> None:
    pixels = np.stack([np.full((SIDE, SIDE), i + 1) for i in range(6)])
    path = save(tmp_path, enhanced_instance("e", stack(6), pixels))
    path.write_bytes(path.read_bytes()[: -SIDE * SIDE * 3])
    assert marks(read_one(tmp_path)) == [1, 2, 3, 4, 0, 0]


def test_enhanced_compressed_with_one_bad_frame(tmp_path: Path) -> None:
    pixels = np.stack([np.full((SIDE, SIDE), i + 1) for i in range(6)])
    dataset = enhanced_instance("e", stack(6), pixels)
    dataset.compress(RLELossless, generate_instance_uid=False)
    whole = dataset.PixelData
    path = save(tmp_path, dataset)
    assert marks(read_one(tmp_path)) == [1, 2, 3, 4, 5, 6]
    dataset.PixelData = whole[:-60] + bytes(60)
    save(tmp_path, dataset, path.name)
    series = read_one(tmp_path)
    assert marks(series)[:5] == [1, 2, 3, 4, 5]
    assert series.slices[5].pixels is None


def test_decoders_are_named_for_every_compressed_syntax() -> None:
    """pydicom would otherwise take any plugin that is installed."""
    from pydicom.pixels.decoders.base import get_decoder

    for syntax, plugin in decoding.DECODERS.items():
        assert plugin in get_decoder(syntax).available_plugins, syntax


# --------------------------------------------------------------------------- order never matters


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three slabs, duplicates, a second echo, a repeat, a sagittal series."""
    folder = tmp_path_factory.mktemp("study")
    slabs = [place for k in range(3) for place in stack(4, tilt=14 * k, top=(0, 0, -33 * k))]
    write_series(folder, "t2", slabs)
    orientation, center = slabs[2]
    save(folder, t2_instance("t2", "again", orientation, center, AcquisitionTime="104000"))
    save(folder, t2_instance("t2", "same", orientation, center))
    save(folder, t2_instance("t2", "pd", orientation, center, EchoTime=15))
    write_series(folder, "repeat", slabs, AcquisitionTime="101600")
    write_series(folder, "sag", [([0, 1, 0, 0, 0, -1], np.array([4.0 * i, 0, 0])) for i in range(5)])
    return folder


@given(seed=st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_the_order_of_files_never_matters(study: Path, seed: int) -> None:
    paths = list(find_files(study))
    expected = scan(paths)
    random.Random(seed).shuffle(paths)
    shuffled = scan(paths)
    assert shuffled == expected
    assert {d.series_instance_uid: d for d in choose(shuffled.series[::-1])} == {
        d.series_instance_uid: d for d in choose(expected.series)
    }
    for series in expected.series:
        pieces = list(series.slices)
        random.Random(seed).shuffle(pieces)
        placed = [piece for piece in pieces if piece.geometry is not None]
        assert arrange(placed) == arrange([p for p in series.slices if p.geometry is not None])


@given(
    quarter=st.integers(0, 3),
    flip_row=st.booleans(),
    flip_column=st.booleans(),
    tilt=st.floats(-40, 40),
    roll=st.floats(-20, 20),
    seed=st.integers(0, 1000),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_head_comes_first_however_the_image_is_turned(
    tmp_path_factory: pytest.TempPathFactory,
    quarter: int,
    flip_row: bool,
    flip_column: bool,
    tilt: float,
    roll: float,
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("turned")
    places = []
    for orientation, center in stack(5, tilt=tilt):
        row, column = np.array(orientation[:3]), np.array(orientation[3:])
        angle = np.radians(roll)
        row, column = row * np.cos(angle) + column * np.sin(angle), column * np.cos(angle) - row * np.sin(angle)
        for _ in range(quarter):
            row, column = column, -row
        row, column = (-row if flip_row else row), (-column if flip_column else column)
        places.append(([float(v) for v in (*row, *column)], center))
    numbers = list(range(5))
    random.Random(seed).shuffle(numbers)
    for i, (orientation, center) in enumerate(places):
        pixels = np.full((SIDE, SIDE), i + 1, np.uint16)
        save(folder, t2_instance("s", numbers[i], orientation, center, InstanceNumber=numbers[i], pixels=pixels))
    series = read_one(folder)
    assert marks(series) == [1, 2, 3, 4, 5]
    assert {piece.slab for piece in series.slices} == {0}
