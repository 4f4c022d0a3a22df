"""Real scanner output. None of it is a lumbar axial T2 series; every one must be rejected for the right reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from stenosis_node.domain import Decision, Pixels, SeriesReason
from stenosis_node.series import choose, find_files, scan
from stenosis_node.series.decoding import PIXEL_TAGS_NEEDED, FrameReader
from stenosis_node.series.files import open_instance
from stenosis_node.series.isolation import DecoderProcess, Undecodable
from tests.conftest import require_data

R = SeriesReason
EXPECTED = {
    # folder: (reason, instances, words of the sentence)
    "dcm_qa_ts": (R.MOSAIC, 9, "MOSAIC"),
    "dcm_qa_enh/In/Philips": (R.DERIVED, 1, "FIELD_MAP"),
    "dcm_qa_enh/In/Siemens": (R.GRADIENT_ECHO, 4, "*epfid2d1_64, 2D, TE 30 ms"),
    "dcm_qa_agfa/Siemens": (R.GRADIENT_ECHO, 4, "*epfid2d1_64, 2D, TE 25 ms"),
    "dcm_qa_agfa/Agfa": (R.GRADIENT_ECHO, 4, "*epfid2d1_64, 2D, TE 25 ms"),
    "dicom2nifti/ge_anatomical/001": (R.NOT_AXIAL, 4, "sagittal"),
    "dicom2nifti/ge_anatomical/001_implicit": (R.NOT_AXIAL, 4, "sagittal"),
    "dicom2nifti/ge_anatomical/001_single_slice": (R.NOT_AXIAL, 1, "sagittal"),
    "dicom2nifti/missing_slices": (R.NOT_AXIAL, 2, "sagittal"),
    "dicom2nifti/mixed_orientation": (R.MIXED_ORIENTATION, 4, "2 sagittal, 2 axial"),
    "dicom2nifti/siemens_multiframe": (R.THREE_DIMENSIONAL, 1, "3D, TE 2.46 ms"),
    "pydicom_data/data_store/data/MR-SIEMENS-DICOM-WithOverlays.dcm": (R.DERIVED, 1, "MPR"),
    "pydicom_data/data_store/data/emri_small.dcm": (R.NO_GEOMETRY, 1, "Image Orientation"),
    "pydicom_data/data_store/data/emri_small_big_endian.dcm": (R.NO_GEOMETRY, 1, "Image Orientation"),
    "pydicom_data/data_store/data/emri_small_RLE.dcm": (R.NO_GEOMETRY, 1, "Image Orientation"),
    "pydicom_data/data_store/data/emri_small_jpeg_2k_lossless.dcm": (R.NO_GEOMETRY, 1, "Image Orientation"),
    "pydicom_data/data_store/data/emri_small_jpeg_2k_lossless_too_short.dcm": (R.NO_GEOMETRY, 1, "Image Orientation"),
    "pydicom_data/data_store/data/emri_small_jpeg_ls_lossless.dcm": (R.NO_GEOMETRY, 1, "Image Orientation"),
}


@pytest.mark.parametrize("part", EXPECTED)
def test_decision(part: str) -> None:
    root = require_data(*part.split("/"))
    result = scan(find_files(root) if root.is_dir() else [root])
    assert result.unreadable == ()
    (decision,) = choose(result.series)
    reason, n_instances, words = EXPECTED[part]
    assert decision.decision is Decision.REJECTED
    assert decision.reason is reason, decision.sentence
    assert decision.n_instances == n_instances
    assert words in decision.sentence


def test_every_file_of_the_data_is_in_the_table_or_no_dicom() -> None:
    root = require_data()
    result = scan(find_files(root))
    covered = {path for part in EXPECTED for path in (find_files(root / part) or [root / part])}
    assert {path for series in result.series for path in series.files} <= covered
    assert {file.path.suffix for file in result.unreadable} == {".png", ".gz", ".md"}
    assert {file.reason for file in result.unreadable} == {"is not DICOM"}
    assert {decision.decision for decision in choose(result.series)} == {Decision.REJECTED}


DECODERS = DecoderProcess()


@pytest.fixture(scope="module", autouse=True)
def _decoders() -> Iterator[None]:
    with DECODERS:
        yield


def frames(path: Path) -> list[Pixels | None]:
    with open_instance(path, PIXEL_TAGS_NEEDED) as opened:
        reader = FrameReader(opened, DECODERS)
        found: list[Pixels | None] = []
        for number in range(1, reader.n_frames + 1):
            try:
                found.append(reader.read(number))
            except Undecodable:
                found.append(None)
        return found


def test_nine_transfer_syntaxes_give_the_same_pixels() -> None:
    root = require_data("dcm_qa_ts", "In")
    images = [frames(root / f"{number}.dcm")[0] for number in range(1, 10)]
    assert all(image is not None for image in images)
    for image in images[1:]:
        np.testing.assert_array_equal(image, images[0])


EMRI = ("RLE", "big_endian", "jpeg_2k_lossless", "jpeg_ls_lossless", "jpeg_2k_lossless_too_short")


@pytest.mark.parametrize("kind", EMRI)
def test_compressed_enhanced_equals_uncompressed(kind: str) -> None:
    """The file that is "too short" lacks eight bytes, the end of the sequence of fragments: all frames are whole."""
    root = require_data("pydicom_data", "data_store", "data")
    plain, packed = frames(root / "emri_small.dcm"), frames(root / f"emri_small_{kind}.dcm")
    assert len(plain) == len(packed) == 10
    np.testing.assert_array_equal(packed, plain)


@pytest.mark.parametrize("kind", ["RLE", "jpeg_2k_lossless", "jpeg_ls_lossless"])
@pytest.mark.parametrize("cut", [30, 300, 3000])
def test_truncated_in_the_last_frame_loses_that_frame_only(tmp_path: Path, kind: str, cut: int) -> None:
    root = require_data("pydicom_data", "data_store", "data")
    path = tmp_path / "cut.dcm"
    path.write_bytes((root / f"emri_small_{kind}.dcm").read_bytes()[:-cut])
    plain, found = frames(root / "emri_small.dcm"), frames(path)
    assert found[9] is None
    np.testing.assert_array_equal(found[:9], plain[:9])


@pytest.mark.parametrize("number", range(1, 10))
@pytest.mark.parametrize("cut", [30, 5000])
def test_truncated_pixel_data_is_never_half_decoded(tmp_path: Path, number: int, cut: int) -> None:
    root = require_data("dcm_qa_ts", "In")
    path = tmp_path / "cut.dcm"
    path.write_bytes((root / f"{number}.dcm").read_bytes()[:-cut])
    assert frames(path) == [None]
