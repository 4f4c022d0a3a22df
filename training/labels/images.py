"""Images that labels point at: what their headers say, and whether a manifest fits them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pydicom
from PIL import Image as Picture
from PIL import UnidentifiedImageError
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from stenosis_node.domain import PixelBox, SliceGeometry, Vector
from stenosis_node.series import scan
from training.labels.errors import LabelError, refuse
from training.labels.manifest import has_box, image_path
from training.labels.rows import UID

PICTURES: Final = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"})
_TAGS: Final = """
    SOPInstanceUID StudyInstanceUID SeriesInstanceUID InstanceNumber PatientID IssuerOfPatientID Manufacturer Rows
    Columns NumberOfFrames ImagePositionPatient ImageOrientationPatient PixelSpacing SliceThickness
"""
_ROUNDING_PX: Final = 1.0
"""A box may stick out by this much for the rounding of other tools; it is clipped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One slice: a DICOM instance, a frame of one, or a picture."""

    path: Path
    study_uid: str
    series_uid: str
    sop_uid: str
    frame: int | None
    instance_number: int | None
    rows: int
    columns: int
    geometry: SliceGeometry | None
    patient_id: str = field(repr=False)
    """Empty when the image names no patient; never leaves the process."""
    issuer: str = field(repr=False)
    vendor: str

    @property
    def middle(self) -> Vector | None:
        """Middle of the image in patient coordinates."""
        return None if self.geometry is None else self.geometry.to_patient(self.columns / 2, self.rows / 2)

    @property
    def fov_mm(self) -> float | None:
        """Width of the image."""
        return None if self.geometry is None else self.columns * self.geometry.column_spacing_mm

    def holds(self, box: PixelBox) -> bool:
        """Whether a box lies inside the image."""
        return box.x0 >= 0 and box.y0 >= 0 and box.x1 <= self.columns and box.y1 <= self.rows

    def clipped(self, box: PixelBox, slack_px: float = _ROUNDING_PX) -> PixelBox | None:
        """The box inside the image; None when it sticks out by more than ``slack_px``."""
        over = max(-box.x0, -box.y0, box.x1 - self.columns, box.y1 - self.rows)
        if over > slack_px:
            return None
        sides = max(box.x0, 0.0), max(box.y0, 0.0), min(box.x1, self.columns), min(box.y1, self.rows)
        return PixelBox(*map(float, sides)) if sides[0] < sides[2] and sides[1] < sides[3] else None


def is_picture(path: Path) -> bool:
    """Whether a file is a picture by its name; everything else is taken for DICOM."""
    return path.suffix.lower() in PICTURES


def read_image(path: Path) -> tuple[Image, ...]:
    """The slices of a file from its header. Raises LabelError."""
    if not path.is_file():
        raise LabelError(f"image {path} does not exist")
    return (_picture(path),) if is_picture(path) else _dicom(path)


def derived_uid(*parts: object) -> str:
    """A UID for what has none: the same parts always give the same one (PS3.5 B.2)."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def check_images(frame: pd.DataFrame, manifest: Path, *, decode: bool = False) -> None:
    """Whether every image of a manifest is there and holds the boxes drawn on it. Raises LabelError naming each row.

    decode  read the pixels as well, not only the headers
    """
    boxed = has_box(frame)
    problems = []
    for text, rows in frame.groupby("path", sort=False):
        path = image_path(str(text), manifest)
        try:
            images = {image.frame: image for image in read_image(path)}
            if decode:
                read_pixels(path)
        except LabelError as error:
            problems.append(f"{manifest}: row {rows.index[0]}, column path: {error}; correct the path or drop the row")
            continue
        for row in rows[["frame", "x0", "y0", "x1", "y1"]].itertuples():
            number = None if row.frame is pd.NA else int(row.frame)
            image = images.get(number)
            if image is None:
                problems.append(f"{manifest}: row {row.Index}, column frame: {path.name} has no frame {number}")
            elif boxed[row.Index]:
                fault = box_fault(PixelBox(row.x0, row.y0, row.x1, row.y1), image.columns, image.rows)
                problems += [f"{manifest}: row {row.Index}, {fault}"] if fault else []
    refuse(problems)


def box_fault(box: PixelBox, columns: int, rows: int) -> str | None:
    """What is wrong with a box of an image of this size, beginning with the column of the manifest; None: nothing."""
    outside = [
        name
        for name, out in (("x0", box.x0 < 0), ("y0", box.y0 < 0), ("x1", box.x1 > columns), ("y1", box.y1 > rows))
        if out
    ]
    if not outside:
        return None
    return (
        f"column {outside[0]}: the box ({box.x0:g}, {box.y0:g}, {box.x1:g}, {box.y1:g}) lies outside the image of "
        f"{columns} x {rows} pixels; correct the box"
    )


def grey(picture: Picture.Image) -> Picture.Image:
    """One channel of brightness, whatever the colours, palette and transparency; whole numbers and floats stay."""
    return picture if picture.mode.startswith(("I", "F")) else picture.convert("L")


def read_pixels(path: Path) -> Any:
    """The array of a file, as stored. Raises LabelError."""
    try:
        if is_picture(path):
            with Picture.open(path) as picture:
                picture.load()
                return picture.copy()
        return pydicom.dcmread(path).pixel_array
    except (OSError, ValueError, AttributeError, RuntimeError, NotImplementedError, InvalidDicomError) as error:
        raise LabelError(f"image {path} cannot be decoded ({type(error).__name__})") from error


def _picture(path: Path) -> Image:
    try:
        with Picture.open(path) as picture:
            columns, rows = picture.size
            picture.verify()
        content = hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise LabelError(f"image {path} is no readable picture ({type(error).__name__})") from error
    return Image(
        path=path, study_uid="", series_uid="", sop_uid=derived_uid("picture", content), frame=None,
        instance_number=None, rows=rows, columns=columns, geometry=None, patient_id="", issuer="", vendor="",
    )  # fmt: skip


def _dicom(path: Path) -> tuple[Image, ...]:
    try:
        header = pydicom.dcmread(path, specific_tags=_TAGS.split(), stop_before_pixels=True)
        return _slices(path, header)
    except InvalidDicomError:
        raise LabelError(f"image {path} is no DICOM file") from None
    except LabelError:
        raise
    except Exception as error:  # headers are hostile until parsed
        raise LabelError(f"image {path} has a header that cannot be understood ({type(error).__name__})") from error


def _slices(path: Path, header: Dataset) -> tuple[Image, ...]:
    uids = [str(header.get(k) or "") for k in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")]
    if not all(UID.match(uid) for uid in uids):
        raise LabelError(f"image {path} lacks a Study, Series or SOP Instance UID")
    if not header.get("Rows") or not header.get("Columns"):
        raise LabelError(f"image {path} holds no image")
    number = header.get("InstanceNumber")
    one = Image(
        path=path,
        study_uid=uids[0],
        series_uid=uids[1],
        sop_uid=uids[2],
        frame=None,
        instance_number=None if number in (None, "") else int(number),
        rows=int(header.Rows),
        columns=int(header.Columns),
        geometry=_geometry(header),
        patient_id=str(header.get("PatientID") or ""),
        issuer=str(header.get("IssuerOfPatientID") or ""),
        vendor=str(header.get("Manufacturer") or "").strip(),
    )
    if int(header.get("NumberOfFrames") or 1) == 1 and one.geometry is not None:
        return (one,)
    frames = [piece for series in scan([path]).series for piece in series.slices]
    if not frames:
        return (one,)
    shared = {name: getattr(one, name) for name in ("study_uid", "series_uid", "sop_uid", "patient_id", "issuer")}
    return tuple(
        Image(
            path=path, frame=piece.ref.frame_number, instance_number=piece.instance_number, rows=piece.rows,
            columns=piece.columns, geometry=piece.geometry, vendor=one.vendor, **shared,
        )
        for piece in frames
    )  # fmt: skip


def _geometry(header: Dataset) -> SliceGeometry | None:
    position, cosines, spacing = (
        [float(v) for v in header.get(k) or ()]
        for k in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
    )
    if (len(position), len(cosines), len(spacing)) != (3, 6, 2) or min(spacing) <= 0:
        return None
    thickness = header.get("SliceThickness")
    return SliceGeometry(
        position=(position[0], position[1], position[2]),
        row_direction=(cosines[0], cosines[1], cosines[2]),
        column_direction=(cosines[3], cosines[4], cosines[5]),
        row_spacing_mm=spacing[0],
        column_spacing_mm=spacing[1],
        thickness_mm=None if thickness in (None, "") else float(thickness),
    )
