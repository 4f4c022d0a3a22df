"""A CSV of labels with the columns and words of a mapping: one reader, a column of readers, or a column per reader."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from stenosis_node.domain import PixelBox
from training.importers.intake import Intake, short
from training.importers.mapping import Label, Mapping
from training.labels.errors import LabelError, refuse
from training.labels.images import Image, read_image
from training.labels.rows import LabelRow

WORDS: Final = ("path", "sop_uid", "frame", "patient", "level", "region", "grade", "grade_set", "reader", "date")
"""Columns of ours a table may fill, beside the box."""
FIRST_ROW: Final = 2


def import_table(source: Path, mapping: Mapping, intake: Intake) -> Iterator[LabelRow]:
    """Rows of a CSV. Raises LabelError when the file or the mapping does not fit; single rows are left out."""
    root = source.parent
    images = intake.images or root / (mapping.images or ".")
    try:
        text = source.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LabelError(f"{source} cannot be read as text in UTF-8 ({type(error).__name__})") from error
    header = text.partition("\n")[0]
    delimiter = ";" if ";" in header and "," not in header else ","
    lines = csv.DictReader(text.splitlines(), delimiter=delimiter)
    given = list(lines.fieldnames or ())
    plans = _plans(source, mapping, given)
    by_uid = {} if "path" in plans[0][1] else intake.read_all(images)
    boxed = all(name in given for name in mapping.box.columns)
    cache: dict[Path, tuple[Image, ...]] = {}
    for number, line in intake.steps(list(enumerate(lines, start=FIRST_ROW)), "reading labels"):
        if lines.restkey in line:  # a comma too many may have shifted every cell behind it
            intake.leave_out(f"{source.name}, row {number}", "the row has more cells than the header")
            continue
        for reader, columns in plans:
            cells = _cells(line, columns, mapping)
            what = f"{source.name}, row {number}" + (f", reader {reader}" if reader else "")
            image = _image(cells, what, images, by_uid, cache, intake)
            if image is None:
                break
            try:
                box = _box(line, mapping, image) if boxed else None
                label = _label(cells)
            except ValueError as error:
                intake.leave_out(what, str(error))
                continue
            row = intake.row(
                image, label, root=root, box=box, box_source=mapping.box.source, what=what,
                patient_id=cells.get("patient", ""), reader=reader or cells.get("reader", ""),
                date=cells.get("date", ""),
            )  # fmt: skip
            if row is not None:
                yield row


def _plans(source: Path, mapping: Mapping, given: list[str]) -> list[tuple[str, dict[str, str]]]:
    """(reader or empty, our column -> theirs), one per column of a reader."""
    own = {name: name for name in WORDS if name in given and name not in mapping.columns}
    asked: list[dict[str, str]] = [mapping.columns, *mapping.readers.values()]
    filled = [name for columns in asked for name in columns] + list(mapping.values)
    problems = [
        f"the mapping fills {name}, which no table can fill; use {', '.join(WORDS)}, and [box] for boxes"
        for name in filled
        if name not in WORDS
    ]
    problems += [
        f"{source}: there is no column {theirs!r}, which the mapping names; there are {', '.join(given)}"
        for columns in asked
        for theirs in columns.values()
        if theirs not in given
    ]
    missing = [name for name in mapping.box.columns if name not in given]
    if missing and (len(missing) < 4 or "columns" in mapping.box.model_fields_set):
        problems.append(
            f"{source}: there is no column {missing[0]!r} for the box; name the four in [box] of the mapping"
        )
    columns = own | mapping.columns
    if "path" not in columns and "sop_uid" not in columns:
        problems.append(f"{source}: no column names the images; map one to path or to sop_uid")
    refuse(problems)
    if not mapping.readers:
        return [("", columns)]
    return [(reader, columns | own_columns) for reader, own_columns in mapping.readers.items()]


def _cells(line: dict[str, str], columns: dict[str, str], mapping: Mapping) -> dict[str, str]:
    cells = {name: (line.get(theirs) or "").strip() for name, theirs in columns.items()}
    return {name: mapping.values.get(name, {}).get(value, value) for name, value in cells.items()}


def _image(
    cells: dict[str, str],
    what: str,
    images: Path,
    by_uid: dict[tuple[str, int | None], Image],
    cache: dict[Path, tuple[Image, ...]],
    intake: Intake,
) -> Image | None:
    text = cells.get("frame", "")
    if text and not text.isdecimal():
        intake.leave_out(f"{what}: {text!r}", "the frame is no whole number")
        return None
    frame = int(text) if text else None
    if "path" not in cells:
        found = by_uid.get((cells["sop_uid"], frame))
        if found is None and frame == 1:
            found = by_uid.get((cells["sop_uid"], None))
        if found is None:
            intake.leave_out(f"{what}: {cells['sop_uid']}", f"no image with this SOP Instance UID below {images}")
        return found
    path = images / cells["path"]
    if path not in cache:
        try:
            cache[path] = read_image(path)
        except LabelError as error:
            intake.leave_out(f"{what}: {short(path, images)}", str(error).replace(f"image {path} ", "the image "))
            return None
    return _frame(cache[path], frame, what, intake)


def _frame(slices: tuple[Image, ...], frame: int | None, what: str, intake: Intake) -> Image | None:
    for image in slices:
        if image.frame == frame or (image.frame is None and frame == 1):
            return image
    many = frame is None
    intake.leave_out(what, "the image has several frames and the label names none" if many else "no such frame")
    return None


def _box(line: dict[str, str], mapping: Mapping, image: Image) -> PixelBox | None:
    cells = [(line[name] or "").strip() for name in mapping.box.columns]
    if not any(cells):
        return None
    try:
        a, b, c, d = map(float, cells)
    except ValueError:
        raise ValueError(f"the box ({', '.join(cells)}) is no box of four numbers") from None
    try:
        return mapping.box.box((a, b, c, d), image.columns, image.rows)
    except ValueError:
        raise ValueError("the box is empty: see layout in [box] of the mapping") from None


def _label(cells: dict[str, str]) -> Label:
    grade = cells.get("grade", "")
    sets = cells.get("grade_set", "")
    if "|" in grade:
        grade, sets = "", grade
    try:
        return Label.model_validate(
            {
                "region": cells.get("region") or None,
                "grade": grade or None,
                "grade_set": sets,
                "level": cells.get("level", ""),
            }
        )
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "label"
        raise ValueError(f"{where} {fault['input']!r} is none of ours; map it in [values.{where}]") from None
