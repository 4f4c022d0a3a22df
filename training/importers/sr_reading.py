"""A TID 1500 report as far as labels need it: who stands behind it, and what it says of each image."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from stenosis_node.domain import Content, Grade, PixelBox
from stenosis_node.report import codes, readback, wording
from stenosis_node.report.readback import Item
from stenosis_node.report.sr import CLASSES
from training.labels.rows import Region

PERSON_NAME: Final = ("121008", "DCM")
"""Person Observer Name (TID 1003)."""
_GRADES: Final = {(code.value, code.scheme): grade for grade, code in codes.SCHIZAS_VALUE.items()}
_REGIONS: Final = {
    (codes.CONTENT_VALUE[Content.ROOTLET].value, codes.CONTENT_VALUE[Content.ROOTLET].scheme): Region.ROOTLET,
    (codes.CONTENT_VALUE[Content.CORD].value, codes.CONTENT_VALUE[Content.CORD].scheme): Region.CORD,
}
_OUTCOMES: Final = {
    codes.OUTCOME_VALUE["cord"].value: Region.CORD,
    codes.OUTCOME_VALUE["not_gradable"].value: Region.OTHER,
}
_WRITTEN: Final = re.compile(r"\bSchizas(?:\s+grade)?\s*:?\s*([A-D])\b", re.IGNORECASE)
_SAME_PX: Final = 0.05
_NOBODY: Final = frozenset({"", "unknown", "anonymous", "none"})
"""Parts of a name that some viewers write where nobody is logged in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One measurement group on one image."""

    sop_uid: str
    frame: int | None
    tracking_uid: str
    box: PixelBox | None
    region: Region | None
    grade: Grade | None
    by_algorithm: bool

    @property
    def slice(self) -> tuple[str, int | None]:
        """Names the image."""
        return self.sop_uid, self.frame

    def repeats(self, other: Group) -> bool:
        """Whether it says what another group says; viewers that redraw a group may lose its codes."""
        bare = not self.by_algorithm and self.region is None and self.grade is None
        return self.same_box(other) and (bare or (self.region, self.grade) == (other.region, other.grade))

    def same_box(self, other: Group) -> bool:
        """Whether the box is that of another group, but for the rounding of viewers."""
        if self.box is None or other.box is None:
            return self.box is other.box
        mine, theirs = self.box, other.box
        sides = (mine.x0 - theirs.x0, mine.y0 - theirs.y0, mine.x1 - theirs.x1, mine.y1 - theirs.y1)
        return max(map(abs, sides)) <= _SAME_PX


@dataclass(frozen=True, slots=True, kw_only=True)
class SrReport:
    """One report."""

    path: Path
    study_uid: str
    sop_uid: str
    reader: str
    """Who verified it, else the person who observed; empty when a device alone stands behind it."""
    verified: bool
    resaved: bool
    """Another program than ours wrote the file."""
    moment: str
    """Verification or content, as digits; comparable as text."""
    predecessors: frozenset[str]
    groups: tuple[Group, ...]
    odd_groups: int
    """Groups of images whose region is not drawn on one image (three-dimensional, or without a region)."""

    @property
    def date(self) -> str:
        """ISO 8601; empty when unknown."""
        day = self.moment[:8]
        return f"{day[:4]}-{day[4:6]}-{day[6:]}" if len(day) == 8 and day.isdecimal() else ""


def read_report(path: Path) -> SrReport | None:
    """A report of one of the classes TID 1500 may have; None for any other file."""
    try:
        ds = pydicom.dcmread(path)
    except (InvalidDicomError, OSError, ValueError):
        return None
    if str(ds.get("SOPClassUID") or "") not in CLASSES:
        return None
    root = readback.tree(ds)
    groups, odd = [], 0
    for item in root.walk():
        if item.name == (codes.GROUP.value, codes.GROUP.scheme) and item.first(codes.SCHIZAS_WORST) is None:
            group = _group(item)
            if group is None:
                odd += 1
            else:
                groups.append(group)
    verified = str(ds.get("VerificationFlag") or "") == "VERIFIED"
    name, moment = _verifier(ds) if verified else ("", "")
    reader = name or _person(ds)
    return SrReport(
        path=path,
        study_uid=str(ds.get("StudyInstanceUID") or ""),
        sop_uid=str(ds.get("SOPInstanceUID") or ""),
        reader=reader,
        verified=verified and bool(name),
        resaved=str(ds.get("ManufacturerModelName") or "") != wording.ALGORITHM,
        moment=moment or f"{ds.get('ContentDate') or ''}{str(ds.get('ContentTime') or '')[:6]}",
        predecessors=frozenset(_predecessors(ds)),
        groups=tuple(groups),
        odd_groups=odd,
    )


def _group(item: Item) -> Group | None:
    drawn = [below for below in item.walk() if below.kind == "SCOORD" and below.points]
    regions = list({region.points: region for region in drawn}.values())  # some viewers repeat it below each number
    refs = {ref for region in regions for below in region.walk() for ref in below.refs}
    if len(regions) != 1 or len(refs) != 1:
        return None
    (_, sop_uid, frame) = next(iter(refs))
    by_algorithm = item.first(codes.ALGORITHM_NAME) is not None
    grade = _coded_grade(item) or (None if by_algorithm else _written_grade(item))
    tracking = item.first(codes.TRACKING_UID)
    return Group(
        sop_uid=sop_uid,
        frame=frame,
        tracking_uid=tracking.text if tracking is not None else "",
        box=_bounds(regions[0]),
        region=_region(item, grade),
        grade=grade,
        by_algorithm=by_algorithm,
    )


def _coded_grade(item: Item) -> Grade | None:
    found = item.first(codes.SCHIZAS)
    return _GRADES.get(found.code[:2]) if found is not None and found.code is not None else None


def _written_grade(item: Item) -> Grade | None:
    """Of a group that a viewer made: readers write the grade into the label, which becomes a code or a text."""
    for child in item.children:
        for text in (child.text, child.code[2] if child.code is not None else ""):
            match = _WRITTEN.search(text)
            if match:
                return Grade(match.group(1).upper())
    return None


def _region(item: Item, grade: Grade | None) -> Region | None:
    """What the reader says the canal holds. An outcome without a grade stands above the content below it."""
    outcome, content = item.first(codes.OUTCOME), item.first(codes.CONTENT)
    said = _OUTCOMES.get(outcome.code[0]) if outcome is not None and outcome.code is not None else None
    held = _REGIONS.get(content.code[:2]) if content is not None and content.code is not None else None
    if held is Region.CORD or said is Region.OTHER:
        return said or held
    return said or held or (Region.ROOTLET if grade is not None else None)


def _bounds(region: Item) -> PixelBox | None:
    xs, ys = region.points[0::2], region.points[1::2]
    if region.graphic == "CIRCLE" and len(xs) == 2:
        radius = ((xs[1] - xs[0]) ** 2 + (ys[1] - ys[0]) ** 2) ** 0.5
        xs, ys = (xs[0] - radius, xs[0] + radius), (ys[0] - radius, ys[0] + radius)
    try:
        return PixelBox(min(xs), min(ys), max(xs), max(ys))
    except ValueError:
        return None


def _verifier(ds: Dataset) -> tuple[str, str]:
    """(name, moment) of who verified last; two empty texts when nobody is named."""
    items: list[Any] = list(ds.get("VerifyingObserverSequence") or [])
    found = [
        (re.sub(r"[^0-9]", "", str(one.get("VerificationDateTime") or ""))[:14], name)
        for one in items
        if (name := _named(str(one.get("VerifyingObserverName") or "")))
    ]
    moment, name = max(found, default=("", ""))
    return name, moment


def _person(ds: Dataset) -> str:
    for item in _items(ds):
        concept: list[Any] = list(item.get("ConceptNameCodeSequence") or [])
        if concept and (concept[0].get("CodeValue"), concept[0].get("CodingSchemeDesignator")) == PERSON_NAME:
            return _named(str(item.get("PersonName") or ""))
    return ""


def _named(name: str) -> str:
    """A name; empty when it says that there is none."""
    return "" if set(name.strip().lower().split("^")) <= _NOBODY else name.strip()


def _items(ds: Dataset) -> Iterator[Any]:
    yield from ds.get("ContentSequence") or []


def _predecessors(ds: Dataset) -> Iterator[str]:
    studies: Any = ds.get("PredecessorDocumentsSequence") or []
    for study in studies:
        for series in study.get("ReferencedSeriesSequence") or []:
            for one in series.get("ReferencedSOPSequence") or []:
                yield str(one.get("ReferencedSOPInstanceUID") or "")
