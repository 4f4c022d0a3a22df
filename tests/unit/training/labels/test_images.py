"""A manifest against its images: what is missing, unreadable or too small is named with its row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image as Picture

from stenosis_node.domain import PixelBox
from tests.unit.series.builder import enhanced_instance, save, stack, write_series
from training.labels.errors import LabelError
from training.labels.images import check_images, read_image
from training.labels.manifest import from_rows
from training.labels.rows import BoxSource, LabelRow, Region


def row(path: str, number: int, **changes: object) -> LabelRow:
    made = LabelRow(
        study_uid="1.2", series_uid="1.3", sop_uid=f"1.4.{number}", path=path, patient_key="0" * 64,
        box=PixelBox(1, 1, 20, 20), box_source=BoxSource.EXPERT, region=Region.ROOTLET, reader="r1",
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def manifest(*rows: LabelRow) -> pd.DataFrame:
    return from_rows(rows, "test")


def test_images_that_fit_pass(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "dicom")[:2]
    frame = manifest(*(row(f"dicom/{path.name}", i) for i, path in enumerate(paths)))
    check_images(frame, tmp_path / "labels.csv", decode=True)


def test_each_fault_is_named_with_its_row_and_what_to_do(tmp_path: Path) -> None:
    good, cut = write_series(tmp_path / "dicom")[:2]
    (tmp_path / "text.dcm").write_text("no image", encoding="utf-8")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n")
    Picture.fromarray(np.zeros((40, 30), np.uint8)).save(tmp_path / "small.png")
    frame = manifest(
        row("gone.dcm", 1),
        row("text.dcm", 2),
        row("broken.png", 3),
        row("small.png", 4, box=PixelBox(1, 1, 30.5, 20)),
        row("small.png", 5, box=PixelBox(1, 1, 30, 41)),
        row(f"dicom/{good.name}", 6, frame=3),
    )
    with pytest.raises(LabelError) as caught:
        check_images(frame, tmp_path / "labels.csv")
    lines = [line.removeprefix(f"{tmp_path / 'labels.csv'}: ") for line in str(caught.value).splitlines()]
    assert lines == [
        f"row 2, column path: image {tmp_path / 'gone.dcm'} does not exist; correct the path or drop the row",
        f"row 3, column path: image {tmp_path / 'text.dcm'} is no DICOM file; correct the path or drop the row",
        f"row 4, column path: image {tmp_path / 'broken.png'} is no readable picture (UnidentifiedImageError); "
        "correct the path or drop the row",
        "row 5, column x1: the box (1, 1, 30.5, 20) lies outside the image of 30 x 40 pixels; correct the box",
        "row 6, column y1: the box (1, 1, 30, 41) lies outside the image of 30 x 40 pixels; correct the box",
        f"row 7, column frame: {good.name} has no frame 3",
    ]
    whole = cut.read_bytes()
    cut.write_bytes(whole[: len(whole) - 2000])
    torn = manifest(row(f"dicom/{cut.name}", 1))
    check_images(torn, tmp_path / "labels.csv")
    with pytest.raises(LabelError, match=r"row 2, column path: .* cannot be decoded"):
        check_images(torn, tmp_path / "labels.csv", decode=True)


def test_frames_have_their_own_geometry(tmp_path: Path) -> None:
    places = stack(3, tilt=20)
    path = save(tmp_path, enhanced_instance("e", places, np.ones((3, 128, 128))))
    images = read_image(path)
    assert [image.frame for image in images] == [1, 2, 3]
    for image, (_, center) in zip(images, places, strict=True):
        assert image.middle == pytest.approx(tuple(center), abs=0.01)


def test_a_header_without_uids_or_pixels_is_no_image(tmp_path: Path) -> None:
    path = write_series(tmp_path)[0]
    for keyword, message in (("Rows", "holds no image"), ("StudyInstanceUID", "lacks a Study, Series or SOP Inst")):
        ds = pydicom.dcmread(path)
        delattr(ds, keyword)
        ds.save_as(tmp_path / "odd.dcm", enforce_file_format=True)
        with pytest.raises(LabelError, match=message):
            read_image(tmp_path / "odd.dcm")


def test_no_patient_shows_in_what_is_printed_of_an_image(tmp_path: Path) -> None:
    (image,) = read_image(write_series(tmp_path)[0])
    assert image.patient_id == "SECRET"
    assert "SECRET" not in repr(image)
