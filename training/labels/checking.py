"""The rules of the manifest, row by row and between rows. Rows are counted as in a spreadsheet: the header is row 1."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator
from datetime import date
from typing import Any, Final

import pandas as pd

from stenosis_node.domain import Grade
from training.labels.rows import (
    BOX,
    COLUMNS,
    FLAG,
    LEVEL,
    NAMES,
    OWN_PREFIX,
    PATIENT_KEY,
    SLICE,
    UID,
    BoxSource,
    Kind,
    Region,
    grade_set_text,
    parse_grade_set,
)

FIRST_ROW: Final = 2
MAX_FOV_MM: Final = 1000.0


def column_problems(given: Iterable[str], source: str) -> list[str]:
    """Columns that are missing, doubled or unknown."""
    names = list(given)
    problems = [
        f"{source}: column {column.name} is missing; add it (docs/labels.md lists all columns)"
        for column in COLUMNS
        if column.required and column.name not in names
    ]
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            problems.append(f"{source}: column {name} occurs twice; keep one")
        if name not in NAMES and not name.startswith(OWN_PREFIX):
            near = difflib.get_close_matches(name, NAMES, n=1)
            hint = f"did you mean {near[0]}?" if near else f"columns of your own begin with {OWN_PREFIX}"
            problems.append(f"{source}: column {name!r} is unknown; {hint}")
    return problems


def typed(frame: pd.DataFrame, source: str) -> tuple[pd.DataFrame, list[str]]:
    """A frame of texts as a typed one with every column, and the cells that do not fit their type."""
    problems: list[str] = []
    made = pd.DataFrame(index=frame.index)
    for column in COLUMNS:
        cells = frame[column.name] if column.name in frame.columns else pd.Series("", index=frame.index, dtype=object)
        if column.kind is Kind.TEXT:
            made[column.name] = cells.map(_text).astype(object)
            continue
        numbers = cells.map(_number)
        for row in cells.index[numbers.map(lambda value: value is False)]:
            problems.append(f"{source}: row {row}, column {column.name}: {cells[row]!r} is no {column.kind}")
        numbers = numbers.map(lambda value: math.nan if value is False or value is None else value).astype("float64")
        if column.kind is Kind.WHOLE:
            for row in numbers.index[numbers.notna() & (numbers % 1 != 0)]:
                problems.append(f"{source}: row {row}, column {column.name}: {cells[row]!r} is no whole number")
                numbers[row] = math.nan
            made[column.name] = numbers.astype("Int64")
        else:
            made[column.name] = numbers
    for name in frame.columns:
        if str(name).startswith(OWN_PREFIX):
            made[name] = frame[name].map(_text).astype(object)
    return made, problems


def row_problems(frame: pd.DataFrame, source: str) -> list[str]:
    """Cells that are wrong by themselves or beside others of their row."""
    return [
        f"{source}: row {row.Index}, column {column}: {fault}"
        for row in frame.itertuples()
        for column, fault in _faults(row)
    ]


def pair_problems(frame: pd.DataFrame, source: str) -> list[str]:
    """Rows that contradict each other: a slice read twice, an image or study of two patients."""
    problems = []
    keys = [*SLICE, "reader"]
    for _, group in frame[frame.duplicated(keys, keep=False)].groupby(keys, dropna=False, sort=False):
        first, *others = group.index
        problems += [
            f"{source}: row {row}, column reader: {group['reader'][row]} labels the slice of row {first} again; "
            "keep one row per slice and reader"
            for row in others
        ]
    for name in ("study_uid", "sop_uid"):
        owners = frame.groupby(name)["patient_key"].transform("nunique")
        for _, group in frame[owners > 1].groupby(name, sort=False):
            first = group.index[0]
            row = group.index[group["patient_key"] != group["patient_key"][first]][0]
            problems.append(
                f"{source}: row {row}, column patient_key: {name} {group[name][first]} has another patient in row "
                f"{first}; import both with the same secret"
            )
    groups = frame.groupby("patient_key")["split_group"].transform("nunique")
    for _, group in frame[groups > 1].groupby("patient_key", sort=False):
        first = group.index[0]
        row = group.index[group["split_group"] != group["split_group"][first]][0]
        problems.append(
            f"{source}: row {row}, column split_group: the patient of row {first} is in two groups; give one"
        )
    return problems


def _faults(row: Any) -> Iterator[tuple[str, str]]:
    for column in COLUMNS:
        if column.required and not getattr(row, column.name):
            yield column.name, "is empty; every row needs it"
    for name in ("study_uid", "series_uid", "sop_uid"):
        value = getattr(row, name)
        if value and not UID.match(value):
            yield name, f"{value!r} is no UID (digits and dots, at most 64); a spreadsheet may have changed it"
    if row.frame is not pd.NA and row.frame < 1:
        yield "frame", f"{row.frame} is no frame; they count from 1, and the cell is empty for single images"
    if row.patient_key and not PATIENT_KEY.match(row.patient_key):
        yield "patient_key", "is no key; a patient ID must not stand here: let 'stenosis-train import' make the keys"
    if row.level and not LEVEL.match(row.level):
        yield "level", f"{row.level!r} is no level; write a disc as L4/L5 or a vertebra as L4"
    yield from _box_faults(row)
    yield from _label_faults(row)
    if row.date and not _is_date(row.date):
        yield "date", f"{row.date!r} is no date; write it as 2026-01-31"
    if not math.isnan(row.fov_mm) and not 0 < row.fov_mm <= MAX_FOV_MM:
        yield "fov_mm", f"{row.fov_mm:g} mm is no width of an image"
    if not math.isnan(row.dsca_mm2) and row.dsca_mm2 < 0:
        yield "dsca_mm2", "is negative"
    for flag in filter(None, row.flags.split("|")):
        if not FLAG.match(flag):
            yield "flags", f"{flag!r} is no flag; use small letters, digits and hyphens, with | between two"


def _box_faults(row: Any) -> Iterator[tuple[str, str]]:
    sides = [getattr(row, name) for name in BOX]
    known = [not math.isnan(side) for side in sides]
    if any(known) and not all(known):
        yield BOX[known.index(False)], "is empty though other sides of the box are given; give all four or none"
    elif all(known):
        x0, y0, x1, y1 = sides
        if not x0 < x1:
            yield "x1", f"{x1:g} is not right of x0 {x0:g}; boxes are left, top, right, bottom"
        if not y0 < y1:
            yield "y1", f"{y1:g} is not below y0 {y0:g}; boxes are left, top, right, bottom"
        if x0 < 0 or y0 < 0:
            yield ("x0" if x0 < 0 else "y0"), "the box begins outside the image; boxes are pixel edges from 0"
        if not row.box_source:
            yield "box_source", f"is empty though there is a box; write one of {_words(BoxSource)}"
    if row.box_source and not any(known):
        yield "box_source", "is given though there is no box; empty it"
    if row.box_source and row.box_source not in tuple(BoxSource):
        yield "box_source", f"{row.box_source!r} is unknown; write one of {_words(BoxSource)}"


def _label_faults(row: Any) -> Iterator[tuple[str, str]]:
    if row.region and row.region not in tuple(Region):
        yield "region", f"{row.region!r} is unknown; write one of {_words(Region)}, or nothing"
    if row.grade and row.grade not in tuple(Grade):
        yield "grade", f"{row.grade!r} is no grade; write A, B, C or D, and several possible ones as grade_set"
    try:
        grades = parse_grade_set(row.grade_set)
    except ValueError:
        yield "grade_set", f"{row.grade_set!r} is no set of grades; write them as C|D"
        return
    if len(set(grades)) != len(grades):
        yield "grade_set", f"{row.grade_set!r} names a grade twice"
    if row.grade and grades and grades != (row.grade,):
        yield "grade_set", f"{row.grade_set!r} is not the grade {row.grade}; empty one of the two"
    if (row.grade or grades) and row.region in (Region.CORD, Region.OTHER):
        yield "grade", f"a slice of region {row.region} has no Schizas grade; empty the grade or correct the region"


def complete(frame: pd.DataFrame) -> pd.DataFrame:
    """What follows from other cells: the set of a single grade, in order, and the patient as split group."""
    made = frame.copy()
    made["grade_set"] = [
        grade_set_text(parse_grade_set(s)) or g for s, g in zip(made.grade_set, made.grade, strict=True)
    ]
    made["split_group"] = made["split_group"].where(made["split_group"] != "", made["patient_key"])
    return made


def _text(value: Any) -> str:
    return (
        ""
        if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))
        else str(value).strip()
    )


def _number(value: Any) -> float | bool | None:
    """A finite number, None for an empty cell, False for anything else."""
    text = _text(value)
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        return False
    return number if math.isfinite(number) else False


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _words(words: Iterable[str]) -> str:
    return ", ".join(words)
