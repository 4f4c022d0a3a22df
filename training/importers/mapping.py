"""The mapping file: how the words of a data set become those of the manifest (docs/labels.md)."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from stenosis_node.domain import Grade, PixelBox
from training.labels.errors import LabelError
from training.labels.rows import LEVEL, BoxSource, Region, parse_grade_set


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _level(text: str) -> str:
    if text and not LEVEL.match(text):
        raise ValueError("write a level as L4/L5 or L4")
    return text


def _pattern(text: str) -> str:
    try:
        groups = re.compile(text).groups
    except re.error as error:
        raise ValueError(f"no regular expression: {error}") from None
    if groups < 1:
        raise ValueError("the pattern needs a group in parentheses: the patient ID")
    return text


class Label(_Strict):
    """What a class, category or folder means."""

    region: Region | None = None
    grade: Grade | None = None
    grade_set: str = ""
    level: Annotated[str, AfterValidator(_level)] = ""

    @property
    def grades(self) -> tuple[Grade, ...]:
        """All possible grades."""
        return parse_grade_set(self.grade_set) or ((self.grade,) if self.grade is not None else ())

    @model_validator(mode="after")
    def _is_consistent(self) -> Label:
        grades = parse_grade_set(self.grade_set)
        if self.grade is not None and grades not in ((), (self.grade,)):
            raise ValueError("give grade or grade_set, not both")
        if self.grades and self.region in (Region.CORD, Region.OTHER):
            raise ValueError(f"region {self.region} has no grade")
        return self


class BoxFormat(_Strict):
    """How boxes are written."""

    columns: tuple[str, str, str, str] = ("x0", "y0", "x1", "y1")
    """CSV: the four columns, in the order of ``layout``."""
    layout: Literal["xyxy", "xywh", "cxcywh"] = "xyxy"
    normalised: bool = False
    """In shares of width and height instead of pixels."""
    first_pixel: Literal[0, 1] = 0
    """Number of the first pixel."""
    source: BoxSource = BoxSource.EXPERT

    def box(self, values: tuple[float, float, float, float], columns: int, rows: int) -> PixelBox:
        """Four numbers as a box on an image. ValueError when it is empty."""
        a, b, c, d = values
        if self.normalised:
            a, b, c, d = a * columns, b * rows, c * columns, d * rows
        else:
            a, b = a - self.first_pixel, b - self.first_pixel
            if self.layout == "xyxy":
                c, d = c - self.first_pixel, d - self.first_pixel
        if self.layout == "xywh":
            c, d = a + c, b + d
        elif self.layout == "cxcywh":
            a, b, c, d = a - c / 2, b - d / 2, a + c / 2, b + d / 2
        return PixelBox(a, b, c, d)


class Mapping(_Strict):
    """The whole file. Every key is optional."""

    images: str | None = None
    """Folder of the images, relative to the source."""
    patient_pattern: Annotated[str, AfterValidator(_pattern)] | None = None
    pixel_spacing_mm: float | None = Field(default=None, gt=0)
    box: BoxFormat = BoxFormat()
    columns: dict[str, str] = {}
    """CSV: our column -> theirs."""
    values: dict[str, dict[str, str]] = {}
    """CSV: our column -> their value -> ours."""
    readers: dict[str, dict[str, str]] = {}
    """CSV with a column per reader: reader -> our column -> theirs."""
    reader_names: dict[str, str] = {}
    """SR: name of a reader as it stands in reports -> what the manifest calls them."""
    classes: dict[str, Label] = {}
    """COCO: name of a category; YOLO: number of a class; folders: name of a folder."""


def read_mapping(path: Path | None) -> Mapping:
    """Read a mapping file; without one everything has our names. Raises LabelError naming each key that is wrong."""
    if path is None:
        return Mapping()
    try:
        return Mapping.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise LabelError(f"the mapping {path} cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LabelError(f"the mapping {path} is no TOML: {error}") from error
    except ValidationError as error:
        faults = (f"{path}: {'.'.join(map(str, e['loc']))}: {e['msg'].lower()}" for e in error.errors())
        raise LabelError("\n".join(faults)) from error
