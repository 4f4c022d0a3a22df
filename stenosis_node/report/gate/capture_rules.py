"""Rules on Secondary Captures."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from stenosis_node.domain import BundleStatus, DocumentKind
from stenosis_node.report import codes, readback, wording
from stenosis_node.report.gate.evidence import Evidence, Fault, Opened

GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID")
PIXEL_LAYOUT = {
    "SamplesPerPixel": 3,
    "PhotometricInterpretation": "RGB",
    "PlanarConfiguration": 0,
    "BitsAllocated": 8,
    "BitsStored": 8,
    "HighBit": 7,
    "PixelRepresentation": 0,
}


def capture_faults(one: Opened, report: Opened | None, evidence: Evidence) -> Iterator[Fault]:
    """Every rule on one capture. ``report`` is the SR of the same result."""
    ds = one.ds
    image_type = list(ds.get("ImageType") or ())
    if image_type[:1] != ["DERIVED"]:
        yield Fault("image-type", f"{one.name}: Image Type is {image_type}, a capture is DERIVED")
    if ds.get("BurnedInAnnotation") != "NO":
        yield Fault("burned-in", f"{one.name}: Burned In Annotation must say NO, nothing identifying is drawn")
    if any(keyword in ds for keyword in GEOMETRY):
        yield Fault("geometry", f"{one.name}: has a position in space; a capture must not enter reconstructions")
    yield from _compression(one, evidence)
    yield from _sources(one, evidence)
    yield from _words(one, report)
    layout = {k: ds.get(k) for k in PIXEL_LAYOUT}
    rows, columns = int(ds.get("Rows") or 0), int(ds.get("Columns") or 0)
    if layout != PIXEL_LAYOUT or len(ds.get("PixelData") or b"") != (rows * columns * 3 + 1) // 2 * 2:
        yield Fault("pixels", f"{one.name}: pixel description and pixel data do not fit each other")
        return
    if min(rows, columns) < 512:
        yield Fault("pixels", f"{one.name}: smaller than 512 pixels")
    yield from _banner(one, evidence.study.bundle.status, rows, columns)


def _compression(one: Opened, evidence: Evidence) -> Iterator[Fault]:
    ds = one.ds
    refs = [readback.reference(item) for item in ds.get("SourceImageSequence") or ()]
    expected = "01" if any(ref[1] in evidence.lossy for ref in refs) else "00"
    if ds.get("LossyImageCompression") != expected:
        yield Fault("lossy", f"{one.name}: Lossy Image Compression must be {expected} like its source")
    if ds.get("LossyImageCompression") == "01" and not ds.get("LossyImageCompressionRatio"):
        yield Fault("lossy", f"{one.name}: lossy, but no ratio")


def _sources(one: Opened, evidence: Evidence) -> Iterator[Fault]:
    items = list(one.ds.get("SourceImageSequence") or ())
    refs = [readback.reference(item) for item in items]
    located = [ref for ref in refs if evidence.is_locator(ref)]
    if not refs or not all(evidence.knows(ref) for ref in refs if ref not in located):
        yield Fault("sources", f"{one.name}: Source Image Sequence does not name images of the graded series")
    if len(located) > (one.document.kind is DocumentKind.SC_OVERVIEW):
        yield Fault("locator", f"{one.name}: the sagittal slice has its place on the overview alone")
    if one.document.kind is DocumentKind.SC and len(refs) != 1:
        yield Fault("sources", f"{one.name}: an annotated image has exactly one source")
    for item in items:
        purpose = [c.get("CodeValue") for c in item.get("PurposeOfReferenceCodeSequence") or ()]
        if purpose != [codes.SOURCE_IMAGE.value]:
            yield Fault("sources", f"{one.name}: a source image lacks its purpose of reference")
    by_series = {
        (str(series.get("SeriesInstanceUID")), readback.reference(item)[1])
        for series in one.ds.get("ReferencedSeriesSequence") or ()
        for item in series.get("ReferencedInstanceSequence") or ()
    }
    if by_series != {(evidence.owner(ref[1]), ref[1]) for ref in refs}:
        yield Fault("sources", f"{one.name}: Referenced Series Sequence and Source Image Sequence differ")


def _words(one: Opened, report: Opened | None) -> Iterator[Fault]:
    """A capture says what the SR says of the same image."""
    comment = str(one.ds.get("ImageComments") or "")
    if wording.NOT_VERIFIED not in comment:
        yield Fault("not-verified", f"{one.name}: Image Comments lack '{wording.NOT_VERIFIED}'")
    if report is None:
        return
    if one.document.kind is DocumentKind.SC_OVERVIEW:
        summary = report.root.first(codes.SUMMARY)
        if summary is None or comment != summary.text:
            yield Fault("same-words", f"{one.name}: Image Comments differ from the summary of the SR")
        return
    refs = [readback.reference(item) for item in one.ds.get("SourceImageSequence") or ()]
    labels = set()
    for group in (g for m in report.root.named(codes.MEASUREMENTS) for g in m.named(codes.GROUP)):
        label = group.first(codes.TRACKING_ID)
        region = group.first(codes.IMAGE_REGION)
        on = [ref for child in (region.children if region else ()) for ref in child.refs]
        if label is not None and group.first(codes.OUTCOME) is not None and on == refs:
            labels.add(label.text)
    for item in (i for q in report.root.named(codes.QUALITATIVE) for i in q.named(codes.OUTCOME)):
        words = item.first(codes.COMMENT)
        if words is not None and [ref for child in item.children for ref in child.refs] == refs:
            labels.add(words.text)
    said = comment.removesuffix(f". {wording.NOT_VERIFIED}")
    if not any(label == said or label.startswith(f"{said}: ") for label in labels):
        yield Fault("same-words", f"{one.name}: Image Comments differ from what the SR says of the image")


def _banner(one: Opened, status: BundleStatus, rows: int, columns: int) -> Iterator[Fault]:
    """The words are in the pixels: the strip is drawn again and must be found unchanged."""
    words = wording.BANNER[status]
    if words is None:
        return
    count = rows * columns * 3
    pixels = np.frombuffer(one.ds.PixelData, np.uint8, count).reshape(rows, columns, 3)
    if not np.array_equal(pixels[: wording.BANNER_HEIGHT_PX], _strip(words, columns)):
        yield Fault("banner", f"{one.name}: its pixels do not say '{words}'")


@lru_cache(maxsize=8)
def _strip(words: str, columns: int) -> npt.NDArray[np.uint8]:
    """The strip as it must be ``[rows, columns, 3]``. The pictures of a study have few widths."""
    strip = Image.new("RGB", (columns, wording.BANNER_HEIGHT_PX), wording.BANNER_PAPER)
    font = ImageFont.load_default(wording.BANNER_TEXT_PX)
    place = (wording.BANNER_LEFT_PX, wording.BANNER_TOP_PX)
    ImageDraw.Draw(strip).text(place, words, fill=wording.BANNER_INK, font=font)
    return np.asarray(strip)
