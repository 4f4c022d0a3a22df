"""What the PACS holds, read with pydicom alone, as any reader of the report would: grades and scores per slice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

from pydicom import Dataset, dcmread

REPORTS = (
    "1.2.840.10008.5.1.4.1.1.88.34",  # Comprehensive 3D SR
    "1.2.840.10008.5.1.4.1.1.88.33",  # Comprehensive SR
    "1.2.840.10008.5.1.4.1.1.88.22",  # Enhanced SR
)
MEASUREMENT_GROUP = "125007"
IMAGE_LIBRARY = "111028"
TRACKING_IDENTIFIER = "112039"
COMMENT = "121106"
OUTCOME = "OUTCOME"
GRADE = "SCHIZAS"
CONTENT = "CANAL-CONTENT"
CORD = "2748008"


@dataclass(frozen=True, slots=True)
class SliceResult:
    """What the report says about one slice."""

    sop_instance_uid: str
    label: str
    content: str | None
    """``rootlet``, ``cord`` or None."""
    grade: str | None
    score: float | None
    """Network score of the grade, of the content where there is no grade; percent."""
    box: tuple[float, float, float, float] | None
    """Pixel edges x0, y0, x1, y1."""


def read_sop_class(content: bytes) -> str:
    """SOP Class UID of a Part 10 file."""
    return str(dcmread(BytesIO(content), specific_tags=["SOPClassUID"]).SOPClassUID)


def read_slices(report: bytes) -> list[SliceResult]:
    """Every slice the report speaks about, in the order of its image library: from head to foot."""
    root = dcmread(BytesIO(report))
    found = {made.sop_instance_uid: made for made in _results(root)}
    library = (item for item in _walk(root) if _name(item) == IMAGE_LIBRARY)
    order = [uid for item in library for child in _walk(item) for uid in _referenced(child)]
    return [found[uid] for uid in order if uid in found]


def _results(root: Dataset) -> Iterator[SliceResult]:
    """Measurement groups with an outcome (a slab has none), and outcomes of slices without a canal box."""
    for item in _walk(root):
        children = list(item.get("ContentSequence", []))
        if _name(item) == MEASUREMENT_GROUP and any(_name(child) == OUTCOME for child in children):
            yield _with_box(children)
        elif _name(item) == OUTCOME and children:
            label = next(str(child.TextValue) for child in children if _name(child) == COMMENT)
            (uid,) = (uid for child in children for uid in _referenced(child))
            yield SliceResult(uid, label, None, None, None, None)


def _with_box(children: list[Dataset]) -> SliceResult:
    codes = {_name(item): str(item.ConceptCodeSequence[0].CodeValue) for item in children if item.ValueType == "CODE"}
    scores = {
        _name(item): float(item.MeasuredValueSequence[0].NumericValue) for item in children if item.ValueType == "NUM"
    }
    label = next(str(item.TextValue) for item in children if _name(item) == TRACKING_IDENTIFIER)
    region = next(item for item in children if item.ValueType == "SCOORD")
    (uid,) = _referenced(region.ContentSequence[0])
    x, y = region.GraphicData[0::2], region.GraphicData[1::2]
    grade = codes[GRADE].removeprefix("SCHIZAS-") if GRADE in codes else None
    content = None if CONTENT not in codes else "cord" if codes[CONTENT] == CORD else "rootlet"
    score = scores.get(f"S-SCHIZAS-{grade}") if grade else scores.get("S-CONTENT")
    return SliceResult(uid, label, content, grade, score, (min(x), min(y), max(x), max(y)))


def _walk(item: Dataset) -> Iterator[Dataset]:
    for child in item.get("ContentSequence", []):
        yield child
        yield from _walk(child)


def _referenced(item: Dataset) -> list[str]:
    return [str(reference.ReferencedSOPInstanceUID) for reference in item.get("ReferencedSOPSequence", [])]


def _name(item: Dataset) -> str:
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].CodeValue) if names else ""
