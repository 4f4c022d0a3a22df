"""RSNA 2024 Lumbar Spine Degenerative Classification: per level one axial slice with a weak box and a set of grades.

Canal grades belong to a level of a study; their points lie on sagittal images. Axial images carry the two subarticular
points alone. So the slice between those two is the anchor of a level, the box is guessed from them, and the sagittal
point, projected into the patient, checks both. Instance numbers are names here, never an order.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from stenosis_node.domain import Grade, PixelBox, SliceGeometry
from stenosis_node.series.geometry import head_normal, plane_of
from training.importers.intake import Intake, short
from training.importers.mapping import Label
from training.labels.errors import LabelError, refuse
from training.labels.images import Image
from training.labels.rows import BoxSource, LabelRow, Region

LEVELS: Final = ("L1/L2", "L2/L3", "L3/L4", "L4/L5", "L5/S1")
GRADES: Final = {
    "Normal/Mild": (Grade.A,),
    "Moderate": (Grade.B,),
    "Severe": (Grade.C, Grade.D),
}
"""Three severities hold four grades; D cannot be told from C here (docs/labels.md)."""
ISSUER: Final = "rsna-2024"
READER: Final = "rsna-2024"

BACK_MM: Final = 3.0
"""The middle of the canal lies this far behind the line between the subarticular points."""
WIDTH_MM: Final = (16.0, 30.0)
HEIGHT: Final = 0.75
"""Of the width."""
APART_MM: Final = (8.0, 60.0)
"""Subarticular points nearer or further from each other are no pair."""
MAX_SLICES_MM: Final = 12.0
"""Along the normal, between the slices of the two points of a pair."""
NEAR_MM: Final = 5.0
"""From the sagittal point to the nearest axial slice; further: the stack does not cover it."""
AGREE_MM: Final = 8.0
"""From the sagittal point to the middle of the box."""

_FILES: Final = {
    "train.csv": ("study_id",),
    "train_label_coordinates.csv": ("study_id", "series_id", "instance_number", "condition", "level", "x", "y"),
    "train_series_descriptions.csv": ("study_id", "series_id", "series_description"),
}
Side = Literal["left", "right", "canal"]
_SIDES: Final[Mapping[str, Side]] = {
    "Left Subarticular Stenosis": "left",
    "Right Subarticular Stenosis": "right",
    "Spinal Canal Stenosis": "canal",
}
_Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Point:
    """A point of the set. ``x``, ``y`` are column and row with pixel centres at whole numbers."""

    series: str
    instance: int
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class _Study:
    number: str
    grades: dict[str, str]
    """Severity of the canal by level; empty text when it was not graded."""
    points: dict[tuple[str, Side], list[_Point]]
    kinds: dict[str, str]
    """Description by series."""


def import_rsna(source: Path, intake: Intake) -> Iterator[LabelRow]:
    """Rows of the unpacked set. Raises LabelError when a file of it is missing or has other columns."""
    studies = _read(source, intake)
    for study in intake.steps(studies, "reading studies"):
        yield from _study_rows(study, source, intake)


def _study_rows(study: _Study, root: Path, intake: Intake) -> Iterator[LabelRow]:
    name = f"study {study.number}"
    if not study.points:
        intake.leave_out(name, "no points: nothing says where its levels lie")
        return
    series: dict[str, dict[int, Image]] = {}
    for uid, kind in study.kinds.items():
        if kind == "Sagittal T1":
            continue
        folder = root / "train_images" / study.number / uid
        if not folder.is_dir():
            intake.leave_out(short(folder, root), f"the folder of a series ({kind}) is missing")
            continue
        series[uid] = _series(folder, root, intake)
    for level in LEVELS:
        row = _level_row(study, level, series, root, intake)
        if row is not None:
            yield row


def _level_row(
    study: _Study, level: str, series: dict[str, dict[int, Image]], root: Path, intake: Intake
) -> LabelRow | None:
    name = f"study {study.number} {level}"
    pair = _pair(study, level)
    if isinstance(pair, str):
        intake.leave_out(name, pair)
        return None
    left, right = pair
    slices = series.get(left.series, {})
    if left.instance not in slices or right.instance not in slices:
        intake.leave_out(name, "the image of a subarticular point is missing or unreadable")
        return None
    ends = _place(left, slices[left.instance]), _place(right, slices[right.instance])
    anchor = _between(slices, slices[left.instance], slices[right.instance])
    if isinstance(anchor, str):
        intake.leave_out(name, anchor)
        return None
    apart = float(np.linalg.norm(ends[0] - ends[1]))
    if not APART_MM[0] <= apart <= APART_MM[1]:
        intake.leave_out(name, f"the subarticular points are not {APART_MM[0]:g} to {APART_MM[1]:g} mm apart")
        return None
    box, middle = _guess(anchor, ends, apart)
    flags = ["sides-swapped"] if ends[0][0] < ends[1][0] else []
    flags += _cross_check(study, level, series, slices, anchor, middle)
    severity = study.grades.get(level, "")
    grades = GRADES.get(severity, ())
    if not grades:
        flags.append("no-grade")
        intake.leave_out(f"{name}: grade {severity!r}", "no grade of the canal; the box is kept")
    region = None if level == "L1/L2" else Region.ROOTLET  # the cord may end below this disc
    label = Label(region=region, grade_set="|".join(grades), level=level)
    return intake.row(
        anchor, label, root=root, box=box, box_source=BoxSource.WEAK, reader=intake.reader or READER, what=name,
        patient_id=study.number, issuer=ISSUER, flags=flags,
    )  # fmt: skip


def _pair(study: _Study, level: str) -> tuple[_Point, _Point] | str:
    """Left and right subarticular point on one axial series, or why there are none."""
    lefts, rights = study.points.get((level, "left"), []), study.points.get((level, "right"), [])
    if not lefts and not rights:
        return "no subarticular points"
    if not lefts or not rights:
        return "only one of the two subarticular points"
    pairs = [(a, b) for a in lefts for b in rights if a.series == b.series]
    if not pairs:
        return "the two subarticular points lie on different series"
    axial = [pair for pair in pairs if study.kinds.get(pair[0].series) == "Axial T2"]
    return axial[0] if axial else "the subarticular points lie on no series called Axial T2"


def _between(slices: dict[int, Image], one: Image, other: Image) -> Image | str:
    """The slice nearest the middle of two, by position; why not when they are no neighbours."""
    normal = head_normal(_plane(one))
    places = [float(_middle(image) @ normal) for image in (one, other)]
    if abs(places[0] - places[1]) > MAX_SLICES_MM:
        return f"the slices of the two subarticular points are more than {MAX_SLICES_MM:g} mm apart"
    target = sum(places) / 2
    parallel = [image for image in slices.values() if abs(float(head_normal(_plane(image)) @ normal)) > 0.999]
    return min(parallel, key=lambda i: (round(abs(float(_middle(i) @ normal) - target), 3), i.sop_uid != one.sop_uid))


def _guess(anchor: Image, ends: tuple[_Array, _Array], apart: float) -> tuple[PixelBox, _Array]:
    """Box of the canal on the anchor and its middle in the patient (LPS)."""
    plane = _plane(anchor)
    row, column = np.asarray(plane.row_direction), np.asarray(plane.column_direction)
    normal = np.asarray(plane.normal)
    back = np.array([0.0, 1.0, 0.0])
    back -= (back @ normal) * normal
    middle = (ends[0] + ends[1]) / 2 + BACK_MM * back / np.linalg.norm(back)
    offset = middle - np.asarray(plane.position)
    middle = middle - (offset @ normal) * normal
    x, y = (float(v) for v in (offset @ row / plane.column_spacing_mm, offset @ column / plane.row_spacing_mm))
    width = float(np.clip(apart, *WIDTH_MM))
    across, along = (width, width * HEIGHT) if abs(row[0]) >= abs(column[0]) else (width * HEIGHT, width)
    half_x, half_y = across / 2 / plane.column_spacing_mm, along / 2 / plane.row_spacing_mm
    return PixelBox(x + 0.5 - half_x, y + 0.5 - half_y, x + 0.5 + half_x, y + 0.5 + half_y), middle


def _cross_check(
    study: _Study,
    level: str,
    series: dict[str, dict[int, Image]],
    slices: dict[int, Image],
    anchor: Image,
    middle: _Array,
) -> list[str]:
    """What the sagittal point of the canal says against the guess."""
    points = study.points.get((level, "canal"), [])
    found = [(point, image) for point in points if (image := series.get(point.series, {}).get(point.instance))]
    if not found:
        return ["no-cross-check"]
    canal = _place(*found[0])
    distances = {number: _off_plane(image, canal) for number, image in slices.items()}
    nearest = min(distances, key=lambda number: (round(distances[number], 3), number))
    if distances[nearest] > NEAR_MM:
        return ["sagittal-outside-stack"]
    flags = [] if _same_plane(slices[nearest], anchor) else ["sagittal-nearer-other-slice"]
    if float(np.linalg.norm(canal - middle)) > AGREE_MM:
        flags.append("sagittal-disagrees")
    return flags


def _place(point: _Point, image: Image) -> _Array:
    """In the patient. x runs along a row, so it takes the spacing between columns: the second of Pixel Spacing."""
    return np.asarray(_plane(image).to_patient(point.x + 0.5, point.y + 0.5))


def _off_plane(image: Image, point: _Array) -> float:
    return abs(float((point - _middle(image)) @ np.asarray(_plane(image).normal)))


def _same_plane(one: Image, other: Image) -> bool:
    return one.sop_uid == other.sop_uid or _off_plane(one, _middle(other)) < 0.1


def _plane(image: Image) -> SliceGeometry:
    if image.geometry is None:
        raise ValueError("an image without geometry was let through")
    return image.geometry


def _middle(image: Image) -> _Array:
    return np.asarray(image.middle)


def _series(folder: Path, root: Path, intake: Intake) -> dict[int, Image]:
    """Images by the number in their name, which is the instance number the points use."""
    found: dict[int, Image] = {}
    for path in sorted(folder.glob("*.dcm")):
        if not path.stem.isdecimal():
            intake.leave_out(short(path, root), "the name is no instance number")
            continue
        number = int(path.stem)
        for image in intake.read(path, root):
            if image.geometry is None:
                intake.leave_out(short(path, root), "the image does not say where it lies")
            else:
                found[number] = image
    planes = {plane_of(_plane(image)).name for image in found.values()}
    if len(planes) > 1:
        intake.leave_out(short(folder, root), f"images of several planes ({', '.join(sorted(planes))}) in one series")
        return {}
    return found


# --------------------------------------------------------------------------- the three tables


def _read(source: Path, intake: Intake) -> list[_Study]:
    tables = {name: _table(source / name, columns) for name, columns in _FILES.items()}
    kinds: dict[str, dict[str, str]] = defaultdict(dict)
    for line in tables["train_series_descriptions.csv"]:
        kinds[line["study_id"]][line["series_id"]] = line["series_description"].strip()
    points: dict[str, dict[tuple[str, Side], list[_Point]]] = defaultdict(lambda: defaultdict(list))
    for row, line in enumerate(tables["train_label_coordinates.csv"], start=2):
        side = _SIDES.get(line["condition"].strip())
        if side is None:
            continue  # foraminal narrowing: not our question
        try:
            point = _Point(line["series_id"], int(line["instance_number"]), float(line["x"]), float(line["y"]))
        except ValueError:
            intake.leave_out(f"train_label_coordinates.csv, row {row}", "the point is no point")
            continue
        points[line["study_id"]][line["level"].strip(), side].append(point)
    graded = {line["study_id"]: _canal(line) for line in tables["train.csv"]}
    for number in sorted(points.keys() - graded.keys()):
        intake.leave_out(f"study {number}", "it has points but no row in train.csv")
    return [_Study(one, grades, dict(points.get(one, {})), kinds.get(one, {})) for one, grades in graded.items()]


def _canal(line: dict[str, Any]) -> dict[str, str]:
    names = {level: f"spinal_canal_stenosis_{level.lower().replace('/', '_')}" for level in LEVELS}
    return {level: (line.get(name) or "").strip() for level, name in names.items()}


def _table(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.DictReader(file)
            given = list(lines.fieldnames or ())
            missing = [name for name in columns if name not in given]
            refuse([f"{path}: column {name} is missing; is it the file of RSNA 2024?" for name in missing])
            return list(lines)
    except FileNotFoundError:
        raise LabelError(f"{path} does not exist; SOURCE is the folder the set was unpacked into") from None
    except (OSError, UnicodeDecodeError) as error:
        raise LabelError(f"{path} cannot be read ({type(error).__name__})") from error
