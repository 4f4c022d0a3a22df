"""Results as one self-contained page, and captures as PNG: from the documents alone, as any receiver could do it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Final

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pixel_array

from stenosis_node.domain import Document, DocumentKind, Grade
from stenosis_node.errors import PermanentError
from stenosis_node.report import readback, wording
from stenosis_node.report.delivered import Delivered, read_capture
from stenosis_node.report.readback import Ref
from stenosis_node.report.text import facts
from stenosis_node.report.view import SERIES_OUTCOME, ImageResult, Report, read_report

THUMBNAIL_WIDTH: Final = 480


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


@dataclass(frozen=True, slots=True)
class Page:
    """One report with its pictures."""

    report: Report
    facts: list[tuple[str, str]]
    rows: list[Row]
    overview: list[Picture]
    key: list[Picture]
    others: list[Picture]


def capture_png(document: Document) -> bytes:
    """PNG of a Secondary Capture. Raises PermanentError for a document without RGB pixels."""
    if document.kind not in (DocumentKind.SC, DocumentKind.SC_OVERVIEW):
        raise PermanentError(f"{document.kind} {document.sop_instance_uid} is no picture")
    return _encoded(_image(readback.read(document)), "PNG", compress_level=4)


def render_html(documents: Sequence[Document]) -> str:
    """The page of one result. Raises PermanentError when there is no SR among the documents."""
    report = next((d for d in documents if d.kind is DocumentKind.SR), None)
    if report is None:
        raise PermanentError("a page needs the Structured Report; compose the documents first")
    ds = readback.read(report)
    captures = (readback.read(d) for d in documents if d.kind in (DocumentKind.SC, DocumentKind.SC_OVERVIEW))
    return _render([_page(read_report(ds, readback.tree(ds)), captures, "")])


def render_delivered(results: Sequence[Delivered]) -> str:
    """The page of results found on disk. Raises PermanentError when a capture cannot be read or decoded."""
    return _render(
        _page(result.report, map(read_capture, result.captures), f"report-{number}-" if len(results) > 1 else "")
        for number, result in enumerate(results, start=1)
    )


def _render(pages: Iterable[Page]) -> str:
    made = list(pages)
    title = made[0].report.title if len(made) == 1 else f"{len(made)} reports"
    return _template().render(title=title, pages=made)


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("stenosis_node.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("template.html")


def _page(report: Report, captures: Iterable[Dataset], prefix: str) -> Page:
    """Anchors begin with ``prefix``, for several reports may share a page."""
    anchors: dict[Ref, str] = {}
    overview: list[Picture] = []
    key: list[Picture] = []
    others: list[Picture] = []
    for ds in captures:
        refs = [readback.reference(item) for item in ds.get("SourceImageSequence") or ()]
        caption = str(ds.get("ImageComments") or "")
        if caption == report.summary or len(refs) != 1:
            overview.append(Picture(f"{prefix}overview", caption, _source(_image(ds), "png")))
            continue
        anchor = f"{prefix}image-{ds.get('InstanceNumber')}"
        anchors[refs[0]] = anchor
        image = _image(ds)
        if refs[0] in report.key_images:
            key.append(Picture(anchor, caption, _source(image, "jpeg")))
        else:
            image.thumbnail((THUMBNAIL_WIDTH, image.height), Image.Resampling.LANCZOS)
            others.append(Picture(anchor, caption, _source(image, "jpeg")))
    rows = [_row(image, anchors.get(image.ref, "")) for image in report.images if image.outcome != SERIES_OUTCOME]
    return Page(report, facts(report), rows, overview, key, others)


def _row(image: ImageResult, anchor: str) -> Row:
    letter = "-" if image.grade is None else image.grade.value
    shares = wording.shares(image.scores)
    return Row(
        image=image.label,
        result=image.words,
        grade=letter,
        scores=tuple((g.value, shares[g], g is image.grade) for g in Grade if g in shares and image.grade is not None),
        content=wording.CONTENT[image.content] if image.content is not None else "",
        canal="" if image.box_score is None else wording.percent(image.box_score),
        note=image.note,
        anchor=anchor,
    )


# --------------------------------------------------------------------------- pictures


def _image(ds: Dataset) -> Image.Image:
    """RGB, whatever an archive has compressed it with. Raises PermanentError when it cannot be decoded."""
    try:
        pixels = pixel_array(ds)
    except Exception as error:
        name = type(error).__name__
        raise PermanentError(f"the picture {ds.get('SOPInstanceUID')} cannot be decoded ({name})") from error
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise PermanentError(f"the picture {ds.get('SOPInstanceUID')} is not in colour any more")
    return Image.fromarray(pixels)


def _encoded(image: Image.Image, form: str, **options: int) -> bytes:
    buffer = BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _source(image: Image.Image, form: str) -> str:
    """``data:`` URL; PNG is without loss."""
    if form == "png":
        content = _encoded(image, "PNG", compress_level=9)
    else:
        content = _encoded(image, "JPEG", quality=88, subsampling=0)
    return f"data:image/{form};base64,{b64encode(content).decode('ascii')}"
