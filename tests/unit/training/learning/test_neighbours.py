"""What the networks see beside a labelled slice when only some slices of a series are labelled."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image

from stenosis_node.domain import PixelBox
from tests.unit.series.builder import SIDE, enhanced_instance, save, stack, write_series
from training.labels.errors import LabelError
from training.labels.images import derived_uid
from training.labels.manifest import from_rows
from training.labels.rows import BoxSource, LabelRow, Region
from training.learning.labels import labelled
from training.learning.series import key_of, read_stack
from training.learning.store import open_store

MIDDLE = PixelBox(50, 50, 80, 80)


def _row(path: Path, frame: int | None = None, box: PixelBox = MIDDLE) -> LabelRow:
    header = pydicom.dcmread(path, stop_before_pixels=True)
    return LabelRow(
        study_uid=header.StudyInstanceUID, series_uid=header.SeriesInstanceUID, sop_uid=header.SOPInstanceUID,
        frame=frame, path=path.name, patient_key="0" * 64, box=box, box_source=BoxSource.EXPERT,
        region=Region.ROOTLET, reader="anna",
    )  # fmt: skip


def _channels(rows: Sequence[LabelRow], folder: Path) -> list[list[float]]:
    """Per labelled slice the value of the pixels in the middle of each channel: as stored, which is its number."""
    manifest = from_rows(rows, "test")
    stack = read_stack(rows[0].study_uid, rows[0].series_uid, manifest, folder / "manifest.csv")
    store = open_store(manifest, folder / "manifest.csv", folder / "cache")
    values = {key_of(stack.study_instance_uid, one): one.pixels for one in stack.slices}
    shown = []
    for one in labelled(manifest, store, "anna"):
        channels = store.region(one.entry, 1)
        # a slice is told by its brightest column, which differs from slice to slice
        shown.append([float(np.argmax(channel.mean(axis=0))) for channel in channels])
        assert values[one.key] is not None
    return shown


def _striped(folder: Path, n: int = 9, **changes: object) -> list[Path]:
    """Slice k has a bright stripe at column 40 + 4 k."""
    paths = write_series(folder, places=stack(n), **changes)
    for index, path in enumerate(paths):
        header = pydicom.dcmread(path)
        header.InstanceNumber = index + 1
        header.PixelData = _stripe(index).tobytes()
        header.save_as(path)
    return paths


def _stripe(index: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint16]]:
    pixels = np.full((SIDE, SIDE), 10, np.uint16)
    pixels[:, 40 + 4 * index : 44 + 4 * index] = 1000
    return pixels


def _full(folder: Path) -> list[list[float]]:
    return _channels([_row(path) for path in _striped(folder)], folder)


def test_neighbours_nobody_labelled_are_read_from_the_folder(tmp_path: Path) -> None:
    whole = _full(tmp_path / "whole")
    paths = _striped(tmp_path / "sparse")
    (tmp_path / "sparse" / "notes.txt").write_text("no image")
    write_series(tmp_path / "sparse", "another", stack(9))
    assert _channels([_row(path) for path in paths[1::3]], tmp_path / "sparse") == whole[1::3]


def test_frames_nobody_labelled_are_neighbours(tmp_path: Path) -> None:
    whole = _full(tmp_path / "whole")
    (tmp_path / "frames").mkdir()
    path = save(tmp_path / "frames", enhanced_instance("e", stack(9), np.stack([_stripe(k) for k in range(9)])))
    assert _channels([_row(path, frame) for frame in (2, 5, 8)], tmp_path / "frames") == whole[1::3]


@pytest.mark.parametrize("changes", [{}, {"SpacingBetweenSlices": None}, {"SpacingBetweenSlices": 0.4}])
def test_a_slice_stands_for_a_neighbour_that_is_not_there(tmp_path: Path, changes: dict[str, object]) -> None:
    paths = _striped(tmp_path, **changes)
    for index, path in enumerate(paths):
        if index % 3 != 1:
            path.unlink()
    for head, own, foot in _channels([_row(path) for path in paths[1::3]], tmp_path):
        assert head == own == foot


def test_a_labelled_slice_never_yields_to_another_at_its_place(tmp_path: Path) -> None:
    """A second echo nobody labelled lies where the labelled slices lie."""
    whole = _full(tmp_path / "whole")
    paths = _striped(tmp_path / "two")
    for index, path in enumerate(paths):
        header = pydicom.dcmread(path)
        header.EchoTime = 120
        header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{index + 1}"
        header.PixelData = _stripe(0).tobytes()
        header.save_as(tmp_path / "two" / f"second-{index}.dcm")
    assert _channels([_row(path) for path in paths], tmp_path / "two") == whole


def test_a_neighbour_that_cannot_be_decoded_is_not_replaced_by_the_next(tmp_path: Path) -> None:
    whole = _full(tmp_path / "whole")
    paths = _striped(tmp_path / "torn")
    paths[3].write_bytes(paths[3].read_bytes()[:-5000])
    (shown,) = _channels([_row(paths[4])], tmp_path / "torn")
    assert shown == [whole[4][1], whole[4][1], whole[4][2]]


def test_a_store_is_made_again_when_an_image_changes(tmp_path: Path) -> None:
    paths = _striped(tmp_path)
    rows = [_row(paths[1]), _row(paths[7])]

    def folder() -> Path:
        return open_store(from_rows(rows, "test"), tmp_path / "manifest.csv", tmp_path / "cache").folder

    first = folder()
    (tmp_path / "notes.txt").write_text("no image")
    assert folder() == first
    for changed in (paths[1], paths[2]):  # labelled, and beside a labelled one
        before = folder()
        header = pydicom.dcmread(changed)
        header.PixelData = _stripe(8).tobytes()
        header.save_as(changed)
        os.utime(changed, ns=(0, changed.stat().st_mtime_ns + 1_000_000))
        assert folder() != before
    before = folder()
    paths[6].unlink()
    assert folder() != before


def test_every_box_outside_its_image_is_named_by_row(tmp_path: Path) -> None:
    rows = [_row(path) for path in write_series(tmp_path, places=stack(4))]
    others = [_row(path) for path in write_series(tmp_path, "other", places=stack(4))]
    wide, high = PixelBox(100, 50, SIDE + 0.5, 80), PixelBox(50, 90, 80, 130)
    given = [rows[0], _row(tmp_path / rows[1].path, box=wide), _row(tmp_path / others[0].path, box=high), others[1]]
    with pytest.raises(LabelError) as caught:
        open_store(from_rows(given, "test"), tmp_path / "manifest.csv", tmp_path / "cache")
    assert [line.removeprefix(f"{tmp_path / 'manifest.csv'}: ") for line in str(caught.value).splitlines()] == [
        f"row 3, column x1: the box (100, 50, {SIDE}.5, 80) lies outside the image of {SIDE} x {SIDE} pixels; "
        "correct the box",
        f"row 4, column y1: the box (50, 90, 80, 130) lies outside the image of {SIDE} x {SIDE} pixels; "
        "correct the box",
    ]


@pytest.mark.parametrize("mode", ["L", "P", "LA", "RGB", "RGBA", "I;16", "F"])
def test_pictures_of_every_mode_are_read_as_brightness(tmp_path: Path, mode: str) -> None:
    drawn = np.linspace(0, 255, 200 * 320).reshape(200, 320).astype(np.uint8)
    grey = Image.fromarray(drawn)
    if mode == "P":  # palette backwards: the indices are not the brightness
        picture = Image.fromarray(255 - drawn, "P")
        picture.putpalette([value for index in range(256) for value in (255 - index,) * 3])
    elif mode == "I;16":
        picture = Image.fromarray(drawn.astype(np.uint16) * 200)
    else:
        picture = grey.convert(mode)
    path = tmp_path / ("slice.tif" if mode == "F" else "slice.png")
    picture.save(path)
    row = LabelRow(
        study_uid="1.2", series_uid="1.3", sop_uid=derived_uid("a"), path=path.name, patient_key="0" * 64,
        fov_mm=160.0, box=PixelBox(100, 80, 140, 120), box_source=BoxSource.MASK, region=Region.ROOTLET, reader="anna",
    )  # fmt: skip
    frame: pd.DataFrame = from_rows([row], "test")
    (piece,) = read_stack("1.2", "1.3", frame, tmp_path / "manifest.csv").slices
    np.testing.assert_array_equal(piece.pixels, drawn.astype(np.float32) * (200 if mode == "I;16" else 1))
