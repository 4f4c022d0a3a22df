"""One row of the manifest, and the words its columns may hold."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from stenosis_node.domain import Grade, PixelBox


class BoxSource(StrEnum):
    """Where a canal box comes from, best first."""

    EXPERT = "expert"  # a reader drew or corrected it
    MASK = "mask"  # bounds of a segmentation
    WEAK = "weak"  # guessed from points or from a network
    PHANTOM = "phantom"


class Region(StrEnum):
    """Stage 2 as readers label it; an empty cell means not labelled."""

    ROOTLET = "rootlet"
    CORD = "cord"
    OTHER = "other"


class Kind(StrEnum):
    """How the cells of a column are typed."""

    TEXT = "text"
    WHOLE = "whole number"
    NUMBER = "number"


class Column(NamedTuple):
    """A column of the manifest."""

    name: str
    kind: Kind
    required: bool
    """Whether every row needs a value."""


COLUMNS: Final = (
    Column("study_uid", Kind.TEXT, True),
    Column("series_uid", Kind.TEXT, True),
    Column("sop_uid", Kind.TEXT, True),
    Column("frame", Kind.WHOLE, False),
    Column("path", Kind.TEXT, True),
    Column("patient_key", Kind.TEXT, True),
    Column("z_mm", Kind.NUMBER, False),
    Column("level", Kind.TEXT, False),
    Column("x0", Kind.NUMBER, False),
    Column("y0", Kind.NUMBER, False),
    Column("x1", Kind.NUMBER, False),
    Column("y1", Kind.NUMBER, False),
    Column("box_source", Kind.TEXT, False),
    Column("region", Kind.TEXT, False),
    Column("grade", Kind.TEXT, False),
    Column("grade_set", Kind.TEXT, False),
    Column("reader", Kind.TEXT, True),
    Column("date", Kind.TEXT, False),
    Column("split_group", Kind.TEXT, False),
    Column("vendor", Kind.TEXT, False),
    Column("fov_mm", Kind.NUMBER, False),
    Column("dsca_mm2", Kind.NUMBER, False),
    Column("flags", Kind.TEXT, False),
)
NAMES: Final = tuple(column.name for column in COLUMNS)
SLICE: Final = ("study_uid", "series_uid", "sop_uid", "frame")
"""The columns that name a slice; with ``reader`` they name a row."""
TRUTH: Final = "truth"
"""Reader of the phantoms who sees what was drawn: takes part in no consensus of readers."""
BOX: Final = ("x0", "y0", "x1", "y1")
OWN_PREFIX: Final = "x_"
"""Columns of a research group's own begin so and are kept as text."""

UID: Final = re.compile(r"(?=.{1,64}\Z)\d+(\.\d+)*\Z")
PATIENT_KEY: Final = re.compile(r"[0-9a-f]{64}\Z|phantom-[\w.-]+\Z")
LEVEL: Final = re.compile(r"(T1[0-2]|L[1-6]|S[1-3])(/(T1[0-2]|L[1-6]|S[1-3]))?\Z")
FLAG: Final = re.compile(r"[a-z0-9]+([-.][a-z0-9]+)*\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRow:
    """What one reader says about one slice. Boxes are pixel edges of the stored image (``stenosis_node.domain``)."""

    study_uid: str
    series_uid: str
    sop_uid: str
    frame: int | None = None
    """1-based; None for single-frame images."""
    path: str
    """Of the image, absolute or relative to the folder of the manifest."""
    patient_key: str
    z_mm: float | None = None
    """Patient z (towards the head) of the middle of the image."""
    level: str = ""
    """Disc (``L4/L5``) or vertebra (``L4``)."""
    box: PixelBox | None = None
    box_source: BoxSource | None = None
    region: Region | None = None
    grade: Grade | None = None
    """A reader's own Schizas grade."""
    grade_set: tuple[Grade, ...] = ()
    """Grades that are possible; holds ``grade`` when there is one."""
    reader: str
    date: str = ""
    """Of the reading, ISO 8601."""
    split_group: str = ""
    """Rows of one group stay on one side of every split; empty: the patient key."""
    vendor: str = ""
    fov_mm: float | None = None
    """Width of the image."""
    dsca_mm2: float | None = None
    """Area of the dural sac."""
    flags: tuple[str, ...] = ()
    """What the importer doubts, as stable codes."""

    def cells(self) -> dict[str, str | float | int | None]:
        """Values by column."""
        grades = self.grade_set or ((self.grade,) if self.grade is not None else ())
        box = self.box
        return {
            "study_uid": self.study_uid,
            "series_uid": self.series_uid,
            "sop_uid": self.sop_uid,
            "frame": self.frame,
            "path": self.path,
            "patient_key": self.patient_key,
            "z_mm": self.z_mm,
            "level": self.level,
            **dict(zip(BOX, (box.x0, box.y0, box.x1, box.y1) if box else (None,) * 4, strict=True)),
            "box_source": self.box_source or "",
            "region": self.region or "",
            "grade": self.grade or "",
            "grade_set": grade_set_text(grades),
            "reader": self.reader,
            "date": self.date,
            "split_group": self.split_group or self.patient_key,
            "vendor": self.vendor,
            "fov_mm": self.fov_mm,
            "dsca_mm2": self.dsca_mm2,
            "flags": "|".join(sorted(set(self.flags))),
        }


def grade_set_text(grades: Iterable[Grade]) -> str:
    """``C|D``, in the order of severity."""
    return "|".join(sorted(set(grades)))


def parse_grade_set(text: str) -> tuple[Grade, ...]:
    """Inverse of :func:`grade_set_text`. Raises ValueError."""
    return tuple(Grade(part.strip()) for part in text.split("|")) if text.strip() else ()
