"""A report as a reader sees it, from the Structured Report alone: what the text, JSON and HTML forms are made of.

Any receiver could do the same: nothing here knows how the report was built. Texts are made printable, for they come
from files that have been elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pydicom.dataset import Dataset

from stenosis_node.domain import Content, Grade
from stenosis_node.report import codes, wording
from stenosis_node.report.codes import Code
from stenosis_node.report.readback import Item, Ref

SCHEMA: Final = "stenosis-node/report"
SCHEMA_VERSION: Final = 1
"""Raised when a key of :func:`as_json` changes its meaning or goes; new keys do not raise it."""

GRADES: Final = {code.value: grade for grade, code in codes.SCHIZAS_VALUE.items()}
OUTCOMES: Final = {code.value: name for name, code in codes.OUTCOME_VALUE.items()}
CONTENTS: Final = {code.value: content for content, code in codes.CONTENT_VALUE.items()}
SERIES_OUTCOME: Final = "series_not_graded"


@dataclass(frozen=True, slots=True)
class Person:
    """Patient and study as the header names them, values as in DICOM; empty when unknown."""

    name: str
    patient_id: str
    birth_date: str
    sex: str
    study_date: str
    study_description: str
    accession_number: str


@dataclass(frozen=True, slots=True)
class ImageResult:
    """What the report says of one image."""

    ref: Ref
    series_instance_uid: str
    label: str
    """``Image 14 of 30, slab 3``; empty when the report speaks of the whole series."""
    words: str
    outcome: str
    """``graded``, ``cord``, ``not_gradable``, ``canal_not_found``, ``unreadable``, ``series_not_graded``."""
    outcome_words: str
    grade: Grade | None
    scores: dict[Grade, float]
    """0 to 1, empty when the image has no grade."""
    content: Content | None
    content_score: float | None
    box: tuple[float, float, float, float] | None
    """Pixel edges (x0, y0, x1, y1) of the image as stored."""
    box_score: float | None
    isolated: str
    """The mark of an isolated slice, empty for others."""
    comment: str
    tracking_uid: str

    @property
    def note(self) -> str:
        """What a table cannot show."""
        parts = [self.outcome_words if self.grade is None else "", self.isolated, self.comment]
        return "; ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class SlabResult:
    """The worst grade of a slab and the image it stands on."""

    label: str
    grade: Grade | None
    ref: Ref | None
    tracking_uid: str


@dataclass(frozen=True, slots=True)
class Statement:
    """A sentence of the report that belongs to no image: aggregation rule, warnings, other series."""

    code: str
    meaning: str
    text: str


@dataclass(frozen=True, slots=True)
class Report:
    """One report."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    title: str
    revision: int
    supersedes: tuple[str, ...]
    """SOP Instance UIDs of earlier reports."""
    created: str
    """ISO 8601; with an offset when the report has kept it."""
    completion: str
    preliminary: str
    verification: str
    demonstration: bool
    person: Person
    device_uid: str
    manufacturer: str
    version: str
    algorithm: str
    summary: str
    grade: Grade | None
    images: tuple[ImageResult, ...]
    """From head to foot."""
    slabs: tuple[SlabResult, ...]
    """Those that were graded."""
    slab_sentences: tuple[str, ...]
    statements: tuple[Statement, ...]

    @property
    def key_images(self) -> frozenset[Ref]:
        """The worst image of each slab and every image that is not gradable."""
        worst = {slab.ref for slab in self.slabs if slab.ref is not None}
        return frozenset(worst | {image.ref for image in self.images if image.outcome == "not_gradable"})

    @property
    def status(self) -> str:
        """``complete, preliminary, not verified``."""
        verified = {"UNVERIFIED": "not verified"}.get(self.verification, self.verification.lower())
        return ", ".join(word for word in (self.completion.lower(), self.preliminary.lower(), verified) if word)


def printable(value: Any) -> str:
    """An attribute as one line of printable text."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(value or "")).split())


def is_ours(ds: Dataset, root: Item) -> bool:
    """Whether a data set is a report of this software: its own tree says so, whatever became of the header."""
    model = root.first(codes.DEVICE_MODEL)
    return (
        root.name == (codes.REPORT.value, codes.REPORT.scheme)
        and model is not None
        and (model.text == wording.ALGORITHM)
    )


def revision_of(ds: Dataset) -> int:
    """Revision of any of our documents; they carry it in their Series Description."""
    found = re.search(r"REVISION (\d{1,6})", str(ds.get("SeriesDescription") or ""))
    return int(found[1]) if found else 1


def read_report(ds: Dataset, root: Item) -> Report:
    """Read one report. What is missing becomes empty; pydicom's exceptions pass through."""
    equipment = _equipment(ds)
    description = printable(ds.get("SeriesDescription"))
    qualitative = [item for q in root.named(codes.QUALITATIVE) for item in q.children]
    summary, device = root.first(codes.SUMMARY), root.first(codes.DEVICE_UID)
    overall = next((item for item in qualitative if _is(item, codes.SCHIZAS_OVERALL)), None)
    shown = (codes.SLAB_RESULT.value, codes.SLAB_RESULT.scheme)
    return Report(
        sop_class_uid=str(ds.get("SOPClassUID") or ""),
        sop_instance_uid=str(ds.get("SOPInstanceUID") or ""),
        series_instance_uid=str(ds.get("SeriesInstanceUID") or ""),
        study_instance_uid=str(ds.get("StudyInstanceUID") or ""),
        title=description,
        revision=revision_of(ds),
        supersedes=tuple(_predecessors(ds)),
        created=_created(ds, str(equipment.get("ContributionDateTime") or "")),
        completion=printable(ds.get("CompletionFlag")),
        preliminary=printable(ds.get("PreliminaryFlag")),
        verification=printable(ds.get("VerificationFlag")),
        demonstration=wording.DEMO_SERIES in description or "emonstration weights" in (summary.text if summary else ""),
        person=_person(ds),
        device_uid=device.text if device else "",
        manufacturer=printable(ds.get("Manufacturer")),
        version=printable(ds.get("SoftwareVersions")),
        algorithm=printable(equipment.get("ContributionDescription")),
        summary=printable(summary.text) if summary else "",
        grade=_grade(overall),
        images=tuple(_images(ds, root)),
        slabs=tuple(_slabs(root)),
        slab_sentences=tuple(printable(i.text) for i in qualitative if i.name == shown),
        statements=tuple(
            Statement(item.name[0], printable(item.meaning), printable(item.text))
            for item in qualitative
            if item.kind == "TEXT" and item.name != shown
        ),
    )


def _is(item: Item, name: Code) -> bool:
    return item.name == (name.value, name.scheme)


def _equipment(ds: Dataset) -> Dataset:
    """Our own item among the contributing equipment; empty when an archive has dropped it."""
    for item in ds.get("ContributingEquipmentSequence") or ():
        purposes = [c.get("CodeValue") for c in item.get("PurposeOfReferenceCodeSequence") or ()]
        if codes.PROCESSING_EQUIPMENT.value in purposes:
            found: Dataset = item
            return found
    return Dataset()


def _predecessors(ds: Dataset) -> Iterator[str]:
    for study in ds.get("PredecessorDocumentsSequence") or ():
        for series in study.get("ReferencedSeriesSequence") or ():
            for item in series.get("ReferencedSOPSequence") or ():
                yield str(item.get("ReferencedSOPInstanceUID") or "")


def _created(ds: Dataset, contributed: str) -> str:
    """Its own date has no zone; that of our contribution has one."""
    try:
        return datetime.strptime(contributed, "%Y%m%d%H%M%S%z").isoformat()
    except ValueError:
        text = f"{ds.get('ContentDate') or ''}{str(ds.get('ContentTime') or '')[:6]}"
    try:
        return datetime.strptime(text, "%Y%m%d%H%M%S").isoformat()  # noqa: DTZ007  the file does not say which zone
    except ValueError:
        return ""


def _person(ds: Dataset) -> Person:
    return Person(
        name=printable(ds.get("PatientName")),
        patient_id=printable(ds.get("PatientID")),
        birth_date=printable(ds.get("PatientBirthDate")),
        sex=printable(ds.get("PatientSex")),
        study_date=printable(ds.get("StudyDate")),
        study_description=printable(ds.get("StudyDescription")),
        accession_number=printable(ds.get("AccessionNumber")),
    )


# --------------------------------------------------------------------------- images and slabs


def _groups(root: Item) -> Iterator[tuple[Item, Ref]]:
    """Measurement groups with the image of their region."""
    for group in (g for m in root.named(codes.MEASUREMENTS) for g in m.named(codes.GROUP)):
        region = group.first(codes.IMAGE_REGION)
        for ref in [ref for child in (region.children if region else ()) for ref in child.refs][:1]:
            yield group, ref


def _images(ds: Dataset, root: Item) -> list[ImageResult]:
    """In the order of the image library: from head to foot."""
    series_of = {
        str(item.get("ReferencedSOPInstanceUID")): str(series.get("SeriesInstanceUID") or "")
        for study in ds.get("CurrentRequestedProcedureEvidenceSequence") or ()
        for series in study.get("ReferencedSeriesSequence") or ()
        for item in series.get("ReferencedSOPSequence") or ()
    }
    found: dict[Ref, ImageResult] = {}
    for group, ref in _groups(root):
        if group.first(codes.OUTCOME) is not None:
            found[ref] = _measured(group, ref, series_of.get(ref[1], ""))
    for item in (i for q in root.named(codes.QUALITATIVE) for i in q.named(codes.OUTCOME)):
        for ref in (ref for child in item.children for ref in child.refs):
            found[ref] = _unmeasured(item, ref, series_of.get(ref[1], ""))
    order = [ref for lib in root.named(codes.IMAGE_LIBRARY) for item in lib.walk() for ref in item.refs]
    return [found[ref] for ref in order if ref in found] + [found[ref] for ref in found if ref not in set(order)]


def _measured(group: Item, ref: Ref, series: str) -> ImageResult:
    """An image with a box."""
    label, _, words = _text(group.first(codes.TRACKING_ID)).partition(": ")
    content = group.first(codes.CONTENT)
    region, mark = group.first(codes.IMAGE_REGION), group.first(codes.AGREEMENT)
    xs, ys = (region.points[0::2], region.points[1::2]) if region else ((), ())
    scores = {grade: score for grade in Grade if (score := _score(group, codes.GRADE_SCORE[grade])) is not None}
    return ImageResult(
        ref=ref,
        series_instance_uid=series,
        label=label,
        words=words,
        outcome=_outcome(group.first(codes.OUTCOME)),
        outcome_words=_meaning(group.first(codes.OUTCOME)),
        grade=_grade(group.first(codes.SCHIZAS)),
        scores=scores,
        content=CONTENTS.get(content.code[0]) if content is not None and content.code else None,
        content_score=_score(group, codes.CONTENT_SCORE),
        box=(min(xs), min(ys), max(xs), max(ys)) if xs and ys else None,
        box_score=_score(group, codes.CANAL_SCORE),
        isolated=_meaning(mark),
        comment=_text(group.first(codes.COMMENT)),
        tracking_uid=_text(group.first(codes.TRACKING_UID)),
    )


def _unmeasured(item: Item, ref: Ref, series: str) -> ImageResult:
    """An image without a box: its outcome and its reason in words."""
    outcome, words = _outcome(item), _text(item.first(codes.COMMENT))
    label, _, rest = words.partition(": ")
    result, _, reason = rest.partition(": ")
    if outcome == SERIES_OUTCOME:
        label, result, reason = "", words, ""
    return ImageResult(
        ref=ref,
        series_instance_uid=series,
        label=label,
        words=result,
        outcome=outcome,
        outcome_words=_meaning(item),
        grade=None,
        scores={},
        content=None,
        content_score=None,
        box=None,
        box_score=None,
        isolated="",
        comment=reason,
        tracking_uid="",
    )


def _slabs(root: Item) -> Iterator[SlabResult]:
    for group, ref in _groups(root):
        worst = group.first(codes.SCHIZAS_WORST)
        if worst is not None:
            label = _text(group.first(codes.TRACKING_ID)).partition(": ")[0]
            yield SlabResult(label, _grade(worst), ref, _text(group.first(codes.TRACKING_UID)))


def _text(item: Item | None) -> str:
    return printable(item.text) if item is not None else ""


def _meaning(item: Item | None) -> str:
    return printable(item.code[2]) if item is not None and item.code else ""


def _grade(item: Item | None) -> Grade | None:
    return GRADES.get(item.code[0]) if item is not None and item.code else None


def _outcome(item: Item | None) -> str:
    return OUTCOMES.get(item.code[0], SERIES_OUTCOME) if item is not None and item.code else ""


def _score(group: Item, name: Code) -> float | None:
    item = group.first(name)
    return None if item is None or item.number is None else round(item.number / 100, 6)


# --------------------------------------------------------------------------- JSON


def as_json(report: Report) -> dict[str, Any]:
    """One entry of ``reports`` in the JSON form (docs/cli.md). Empty texts that mean "unknown" become null."""
    person = report.person
    return {
        "sop_class_uid": report.sop_class_uid,
        "sop_instance_uid": report.sop_instance_uid,
        "series_instance_uid": report.series_instance_uid,
        "study_instance_uid": report.study_instance_uid,
        "revision": report.revision,
        "supersedes": list(report.supersedes),
        "created": report.created or None,
        "completion": report.completion or None,
        "preliminary": report.preliminary or None,
        "verification": report.verification or None,
        "demonstration": report.demonstration,
        "patient": {
            "name": person.name or None,
            "id": person.patient_id or None,
            "birth_date": person.birth_date or None,
            "sex": person.sex or None,
        },
        "study": {
            "date": person.study_date or None,
            "description": person.study_description or None,
            "accession_number": person.accession_number or None,
        },
        "algorithm": {
            "name": wording.ALGORITHM,
            "version": report.version or None,
            "manufacturer": report.manufacturer or None,
            "device_uid": report.device_uid or None,
            "description": report.algorithm or None,
        },
        "summary": report.summary,
        "grade": report.grade,
        "slabs": [
            {
                "label": slab.label,
                "grade": slab.grade,
                "sop_instance_uid": slab.ref[1] if slab.ref else None,
                "frame_number": slab.ref[2] if slab.ref else None,
                "tracking_uid": slab.tracking_uid,
            }
            for slab in report.slabs
        ],
        "slab_sentences": list(report.slab_sentences),
        "statements": [{"code": s.code, "meaning": s.meaning, "text": s.text} for s in report.statements],
        "images": [_image_json(image) for image in report.images],
    }


def _image_json(image: ImageResult) -> dict[str, Any]:
    return {
        "series_instance_uid": image.series_instance_uid or None,
        "sop_class_uid": image.ref[0],
        "sop_instance_uid": image.ref[1],
        "frame_number": image.ref[2],
        "label": image.label or None,
        "outcome": image.outcome,
        "outcome_reason": image.comment or (image.words if image.outcome == SERIES_OUTCOME else None),
        "grade": image.grade,
        "scores": dict(image.scores),
        "content": image.content,
        "content_score": image.content_score,
        "box": None if image.box is None else list(image.box),
        "box_score": image.box_score,
        "isolated": bool(image.isolated),
        "tracking_uid": image.tracking_uid or None,
    }
