"""The result as one self-contained page, and captures as PNG: from the documents alone, as any receiver could do it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from io import BytesIO
from typing import Final

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from PIL import Image
from pydicom.dataset import Dataset

from stenosis_node.domain import Document, DocumentKind, Grade
from stenosis_node.errors import PermanentError
from stenosis_node.report import codes, readback, wording
from stenosis_node.report.readback import Item, Ref

THUMBNAIL_WIDTH: Final = 480
CONTENT_WORDS: Final = {code.value: wording.CONTENT[content] for content, code in codes.CONTENT_VALUE.items()}
GRADE_LETTERS: Final = {code.value: grade.value for grade, code in codes.SCHIZAS_VALUE.items()}


@dataclass(frozen=True, slots=True)
class Row:
    """One image in the table."""

    image: str
    result: str
    grade: str
    scores: tuple[tuple[str, str, bool], ...]
    """(grade letter, score in words, whether it is the predicted one)."""
    content: str
    canal: str
    note: str
    anchor: str


@dataclass(frozen=True, slots=True)
class Picture:
    """One capture on the page."""

    anchor: str
    caption: str
    source: str
    """``data:`` URL."""
    key: bool


def capture_png(document: Document) -> bytes:
    """PNG of a Secondary Capture. Raises PermanentError for a document without RGB pixels."""
    if document.kind not in (DocumentKind.SC, DocumentKind.SC_OVERVIEW):
        raise PermanentError(f"{document.kind} {document.sop_instance_uid} is no picture")
    return _encoded(_image(readback.read(document)), "PNG", compress_level=4)


def render_html(documents: Sequence[Document]) -> str:
    """The page. Raises PermanentError when there is no SR among the documents."""
    report = next((d for d in documents if d.kind is DocumentKind.SR), None)
    if report is None:
        raise PermanentError("a page needs the Structured Report; compose the documents first")
    ds = readback.read(report)
    root = readback.tree(ds)
    pictures, anchors = _pictures(documents)
    equipment = (ds.get("ContributingEquipmentSequence") or [Dataset()])[0]
    summary = root.first(codes.SUMMARY)
    overall = next((i for q in root.named(codes.QUALITATIVE) for i in q.named(codes.SCHIZAS_OVERALL)), None)
    return _template().render(
        title=str(ds.get("SeriesDescription", "")),
        demonstration=str(ds.get("SeriesDescription", "")).startswith(wording.DEMO_SERIES),
        summary=summary.text if summary else "",
        letter=_letter(overall),
        facts=_facts(ds, str(equipment.get("ContributionDateTime") or "")),
        slabs=[i.text for q in root.named(codes.QUALITATIVE) for i in q.named(codes.SLAB_RESULT)],
        rule=" ".join(i.text for q in root.named(codes.QUALITATIVE) for i in q.named(codes.RULE)),
        rows=_rows(root, anchors),
        overview=[p for p in pictures if p.anchor == "overview"],
        key=[p for p in pictures if p.key and p.anchor != "overview"],
        others=[p for p in pictures if not p.key and p.anchor != "overview"],
        algorithm=str(equipment.get("ContributionDescription", "")),
        version=str(ds.get("SoftwareVersions", "")),
        flags=f"{ds.get('CompletionFlag', '')}, {ds.get('PreliminaryFlag', '')}, {ds.get('VerificationFlag', '')}",
        uid=report.sop_instance_uid,
        predecessors=[
            str(item.ReferencedSOPInstanceUID)
            for study in ds.get("PredecessorDocumentsSequence") or ()
            for series in study.ReferencedSeriesSequence
            for item in series.ReferencedSOPSequence
        ],
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("stenosis_node.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("template.html")


def _image(ds: Dataset) -> Image.Image:
    shape = int(ds.Rows), int(ds.Columns), 3
    pixels = np.frombuffer(ds.PixelData, np.uint8, shape[0] * shape[1] * 3).reshape(shape)
    return Image.fromarray(pixels)


def _encoded(image: Image.Image, form: str, **options: int) -> bytes:
    buffer = BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _source(image: Image.Image, document: Document) -> str:
    """``data:`` URL: the overview without loss, a key image in full size, any other image reduced."""
    if document.kind is DocumentKind.SC_OVERVIEW:
        form, content = "png", _encoded(image, "PNG", compress_level=9)
    else:
        if not document.key:
            image.thumbnail((THUMBNAIL_WIDTH, image.height), Image.Resampling.LANCZOS)
        form, content = "jpeg", _encoded(image, "JPEG", quality=88, subsampling=0)
    return f"data:image/{form};base64,{b64encode(content).decode('ascii')}"


def _pictures(documents: Sequence[Document]) -> tuple[list[Picture], dict[Ref, str]]:
    pictures: list[Picture] = []
    anchors: dict[Ref, str] = {}
    for document in documents:
        if document.kind not in (DocumentKind.SC, DocumentKind.SC_OVERVIEW):
            continue
        ds = readback.read(document)
        anchor = "overview" if document.kind is DocumentKind.SC_OVERVIEW else f"image-{ds.InstanceNumber}"
        if document.kind is DocumentKind.SC:
            anchors[readback.reference(ds.SourceImageSequence[0])] = anchor
        source = _source(_image(ds), document)
        pictures.append(Picture(anchor, str(ds.get("ImageComments", "")), source, document.key))
    return pictures, anchors


def _facts(ds: Dataset, contributed: str) -> list[tuple[str, str]]:
    day = str(ds.get("StudyDate") or "")
    born = str(ds.get("PatientBirthDate") or "")
    facts = [
        ("Patient", str(ds.get("PatientName") or "").replace("^", " ").replace("=", " = ").strip()),
        ("Patient ID", str(ds.get("PatientID") or "")),
        ("Born", _day(born)),
        ("Sex", str(ds.get("PatientSex") or "")),
        ("Study", " ".join(t for t in (_day(day), str(ds.get("StudyDescription") or "")) if t)),
        ("Accession", str(ds.get("AccessionNumber") or "")),
        ("Report", _made(ds, contributed)),
    ]
    return [(name, value) for name, value in facts if value.strip()]


def _day(text: str) -> str:
    return f"{text[:4]}-{text[4:6]}-{text[6:8]}" if len(text) == 8 else text


def _made(ds: Dataset, contributed: str) -> str:
    """When the report was made. Its own date has no zone; that of our contribution has one when we wrote it."""
    try:
        zone = datetime.strptime(contributed, "%Y%m%d%H%M%S%z").tzname() or ""
    except ValueError:
        zone = "time of the node"
    clock = _clock(str(ds.get("ContentTime") or ""))
    return f"{_day(str(ds.get('ContentDate') or ''))} {clock} ({zone})" if clock else ""


def _clock(text: str) -> str:
    return f"{text[:2]}:{text[2:4]}" if len(text) >= 4 else text


def _letter(item: Item | None) -> str:
    """The letter of a grade's code, ``-`` for no grade."""
    return GRADE_LETTERS.get(item.code[0], "-") if item is not None and item.code is not None else "-"


def _rows(root: Item, anchors: dict[Ref, str]) -> list[Row]:
    """Images in the order of the image library: from head to foot."""
    found: dict[Ref, Row] = {}
    for group in (g for m in root.named(codes.MEASUREMENTS) for g in m.named(codes.GROUP)):
        region = group.first(codes.IMAGE_REGION)
        refs = [ref for child in (region.children if region else ()) for ref in child.refs]
        if group.first(codes.OUTCOME) is not None and refs:
            found[refs[0]] = _group_row(group, anchors.get(refs[0], ""))
    for item in (i for q in root.named(codes.QUALITATIVE) for i in q.named(codes.OUTCOME)):
        words = item.first(codes.COMMENT)
        image, _, result = (words.text if words else "").partition(": ")
        for ref in (ref for child in item.children for ref in child.refs):
            found[ref] = Row(image, result, "-", (), "", "", item.code[2] if item.code else "", "")
    order = [ref for lib in root.named(codes.IMAGE_LIBRARY) for item in lib.walk() for ref in item.refs]
    return [found[ref] for ref in order if ref in found]


def _group_row(group: Item, anchor: str) -> Row:
    label, outcome, content = (group.first(n) for n in (codes.TRACKING_ID, codes.OUTCOME, codes.CONTENT))
    image, _, result = (label.text if label else "").partition(": ")
    letter = _letter(group.first(codes.SCHIZAS))
    scores = {
        grade.value: item.number / 100
        for grade in Grade
        if (item := group.first(codes.GRADE_SCORE[grade])) is not None and item.number is not None
    }
    canal = group.first(codes.CANAL_SCORE)
    mark, comment = group.first(codes.AGREEMENT), group.first(codes.COMMENT)
    notes = [mark.code[2] if mark is not None and mark.code else "", comment.text if comment else ""]
    if letter == "-" and outcome is not None and outcome.code:
        notes.insert(0, outcome.code[2])
    return Row(
        image=image,
        result=result,
        grade=letter,
        scores=tuple((grade, words, grade == letter) for grade, words in wording.shares(scores).items()),
        content=CONTENT_WORDS.get(content.code[0], content.code[2]) if content is not None and content.code else "",
        canal=wording.percent(canal.number / 100) if canal is not None and canal.number is not None else "",
        note="; ".join(n for n in notes if n),
        anchor=anchor,
    )
