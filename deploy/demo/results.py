"""What the PACS holds, read with pydicom alone, as any reader of the report would: grades and scores per slice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

from pydicom import Dataset, dcmread

COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.33"
ENHANCED_SR = "1.2.840.10008.5.1.4.1.1.88.22"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
REPORTS = (COMPREHENSIVE_3D_SR, COMPREHENSIVE_SR, ENHANCED_SR)

GROUP = "125007"  # DCM, Measurement Group
GRADE = "SCHIZAS"
CONTENT = "CANAL-CONTENT"
OUTCOME = "OUTCOME"
CORD = "2748008"  # SCT, Spinal cord


@dataclass(frozen=True, slots=True)
class SliceResult:
    """One Measurement Group of the report."""

    sop_instance_uid: str
    label: str
    """Tracking Identifier."""
    content: str | None
    grade: str | None
    score: float | None
    """Network score of the grade, percent."""
    box: tuple[float, float, float, float] | None
    """Pixel edges x0, y0, x1, y1."""


def read_sop_class(content: bytes) -> str:
    """SOP Class UID of a Part 10 file."""
    return str(dcmread(BytesIO(content), specific_tags=["SOPClassUID"]).SOPClassUID)


def read_slices(report: bytes) -> list[SliceResult]:
    """The slices an SR speaks about, in its order; the groups that summarise a slab are left out."""
    return [made for group in _groups(dcmread(BytesIO(report))) if (made := _slice(group)) is not None]


def _groups(item: Dataset) -> Iterator[Dataset]:
    for child in item.get("ContentSequence", []):
        if _name(child) == GROUP:
            yield child
        else:
            yield from _groups(child)


def _slice(group: Dataset) -> SliceResult | None:
    codes: dict[str, str] = {}
    scores: dict[str, float] = {}
    label, sop_uid, box = "", "", None
    for item in group.ContentSequence:
        match item.ValueType:
            case "CODE":
                codes[_name(item)] = item.ConceptCodeSequence[0].CodeValue
            case "NUM":
                scores[_name(item)] = float(item.MeasuredValueSequence[0].NumericValue)
            case "TEXT" if _name(item) == "112039":
                label = item.TextValue
            case "SCOORD":
                x, y = item.GraphicData[0::2], item.GraphicData[1::2]
                box = (min(x), min(y), max(x), max(y))
                sop_uid = item.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
            case "IMAGE":
                sop_uid = item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    if GRADE not in codes and CONTENT not in codes and OUTCOME not in codes:
        return None
    grade = codes[GRADE].removeprefix("SCHIZAS-") if GRADE in codes else None
    content = None if CONTENT not in codes else "cord" if codes[CONTENT] == CORD else "rootlet"
    score = scores.get(f"S-SCHIZAS-{grade}") if grade else scores.get("S-CONTENT")
    return SliceResult(str(sop_uid), str(label), content, grade, score, box)


def _name(item: Dataset) -> str:
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].CodeValue) if names else ""
