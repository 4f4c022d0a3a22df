"""Grayscale Softcopy Presentation States: box and label on the original images, for viewers that draw no SR graphics.

One per graded series (PS3.3 A.33.1), for the images that have a canal box; no other image is referred to. Where images
of a series differ in how their stored values become display values, each way gets a presentation state of its own:
the standard has one Modality LUT per object. Images that use a table for that are left out (docs/decisions/0008).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import GrayscaleSoftcopyPresentationStateStorage

from stenosis_node.domain import (
    BundleStatus,
    CordSlice,
    Document,
    DocumentKind,
    GradedSlice,
    PixelBox,
    Pixels,
    SliceRef,
    StudyFindings,
    finding_box,
)
from stenosis_node.report import render, tree, wording
from stenosis_node.report.identity import ReportContext, tracking_uid
from stenosis_node.report.objects import TRANSFER_SYNTAX, new_object, to_bytes
from stenosis_node.report.outline import Entry, Outline, result_words, score_words
from stenosis_node.report.source import SourceImage, StudyHeader

SERIES: Final = "AI stenosis boxes"
LAYER: Final = "AI STENOSIS"
SERIES_OFFSET: Final = 2
"""Added to the series number of the reports."""
AMBER: Final = (50530, 38350, 52840)
"""The accent colour of the captures as CIELab, scaled to 16 bits (PS3.3 C.10.7.1.1)."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One image of a presentation state."""

    entry: Entry
    box: PixelBox
    pixels: Pixels
    source: SourceImage

    @property
    def ref(self) -> SliceRef:
        """Which image."""
        return self.entry.image.ref


Way = tuple[str, tuple[float, float], bool]
"""What one presentation state can show: a series, its rescale, whether small values are bright."""


def build(
    outline: Outline,
    sources: dict[SliceRef, SourceImage],
    study: StudyHeader,
    findings: StudyFindings,
    context: ReportContext,
) -> tuple[Document, ...]:
    """The presentation states of a study, in the order of its series; none when no image has a box."""
    ways: dict[Way, list[Shown]] = {}
    for entry in outline.entries:
        box, pixels, source = finding_box(entry.finding), entry.image.pixels, sources.get(entry.image.ref)
        if box is None or pixels is None or source is None or source.rescale is None:
            continue
        way = entry.image.ref.series_instance_uid, source.rescale, source.monochrome1
        ways.setdefault(way, []).append(Shown(entry, box, pixels, source))
    return tuple(
        _state(way, images, study, findings, context, number)
        for number, (way, images) in enumerate(ways.items(), start=1)
    )


def _state(
    way: Way,
    images: Sequence[Shown],
    study: StudyHeader,
    findings: StudyFindings,
    context: ReportContext,
    number: int,
) -> Document:
    status = findings.bundle.status
    _, rescale, inverted = way
    series_uid, uid = context.uid("series", "gsps"), context.uid("gsps", number)
    series_number = context.settings.series_number + SERIES_OFFSET
    ds = new_object(study, findings, context, kind=SERIES, series=series_uid, number=series_number)
    ds.Modality = "PR"
    ds.BodyPartExamined = study.body_part  # without it Laterality would be asked for
    ds.InstanceNumber = number
    ds.ContentLabel = "DEMO AI STENOSIS" if status is BundleStatus.DEMONSTRATION else "AI STENOSIS"
    ds.ContentDescription = f"{wording.DEMO_SERIES}. " * (status is BundleStatus.DEMONSTRATION) + wording.NOT_VERIFIED
    ds.ContentCreatorName = f"{wording.ALGORITHM}^AI"
    del ds.ContentDate, ds.ContentTime  # a presentation state has its own
    ds.PresentationCreationDate, ds.PresentationCreationTime = context.date, context.time
    ds.ReferencedSeriesSequence = Items([_references(images)])
    ds.GraphicAnnotationSequence = Items([_annotation(image, status) for image in images])
    ds.GraphicLayerSequence = Items([_layer()])
    ds.DisplayedAreaSelectionSequence = Items(map(_displayed_area, images))
    if rescale != (1.0, 0.0):
        ds.RescaleSlope, ds.RescaleIntercept = map(tree.decimal, rescale)
        ds.RescaleType = "US"  # unspecified: MR has no units
    ds.SoftcopyVOILUTSequence = Items(map(_window, images))
    ds.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
    sop_class = str(GrayscaleSoftcopyPresentationStateStorage)
    return Document(
        kind=DocumentKind.GSPS,
        sop_class_uid=sop_class,
        sop_instance_uid=uid,
        series_instance_uid=series_uid,
        transfer_syntax_uid=TRANSFER_SYNTAX,
        content=to_bytes(ds, sop_class, uid),
    )


def _references(images: Sequence[Shown]) -> Dataset:
    """The images by instance; of a multi-frame one the frames."""
    frames: dict[str, list[int]] = {}
    instances: dict[str, SliceRef] = {}
    for ref in (image.ref for image in images):
        instances.setdefault(ref.sop_instance_uid, ref)
        if ref.frame_number is not None:
            frames.setdefault(ref.sop_instance_uid, []).append(ref.frame_number)
    series = Dataset()
    series.SeriesInstanceUID = images[0].ref.series_instance_uid
    series.ReferencedImageSequence = Items()
    for uid, ref in instances.items():
        item = tree.reference(SliceRef(ref.series_instance_uid, ref.sop_class_uid, uid, None))
        if uid in frames:
            item.ReferencedFrameNumber = sorted(frames[uid])
        series.ReferencedImageSequence.append(item)
    return series


def _applies_to(image: Shown) -> Dataset:
    item = Dataset()
    item.ReferencedImageSequence = Items([tree.reference(image.ref)])
    return item


# --------------------------------------------------------------------------- graphics


def _layer() -> Dataset:
    layer = Dataset()
    layer.GraphicLayer = LAYER
    layer.GraphicLayerOrder = 1
    layer.GraphicLayerRecommendedDisplayGrayscaleValue = 0xFFFF
    layer.GraphicLayerRecommendedDisplayCIELabValue = list(AMBER)
    layer.GraphicLayerDescription = f"Canal boxes and Schizas grades. {wording.NOT_VERIFIED}"
    return layer


def _annotation(image: Shown, status: BundleStatus) -> Dataset:
    box = image.box
    item = _applies_to(image)
    item.GraphicLayer = LAYER
    item.TextObjectSequence = Items([_label(image), _note(status)])
    outline = Dataset()
    outline.GraphicAnnotationUnits = "PIXEL"  # the origin is that of our boxes (PS3.3 C.10.5.1.2)
    outline.GraphicDimensions = 2
    outline.NumberOfGraphicPoints = 5
    outline.GraphicData = [box.x0, box.y0, box.x1, box.y0, box.x1, box.y1, box.x0, box.y1, box.x0, box.y0]
    outline.GraphicType = "POLYLINE"
    outline.GraphicFilled = "N"
    outline.TrackingID = image.entry.label[:64]
    outline.TrackingUID = tracking_uid(image.ref, "slice")
    item.GraphicObjectSequence = Items([outline])
    return item


def _label(image: Shown) -> Dataset:
    """What was found, below the anatomy; the box alone marks the canal."""
    match image.entry.finding:
        case GradedSlice():
            more = f"network score {score_words(image.entry)}"
        case CordSlice():
            more = "Schizas grades do not apply"
        case _:
            more = wording.NO_EXCLUSION
    return _text([result_words(image.entry), more], 0.82, 0.9)


def _note(status: BundleStatus) -> Dataset:
    """What every image must say."""
    return _text([wording.NOT_VERIFIED, wording.BANNER[status]], 0.91, 0.99)


def _text(lines: Sequence[str | None], top: float, bottom: float) -> Dataset:
    """Text across the displayed area, which a viewer may have zoomed; 0 is its top, 1 its bottom."""
    text = Dataset()
    text.BoundingBoxAnnotationUnits = "DISPLAY"
    text.UnformattedTextValue = "\r\n".join(filter(None, lines))
    text.BoundingBoxTopLeftHandCorner = [0.02, top]
    text.BoundingBoxBottomRightHandCorner = [0.98, bottom]
    text.BoundingBoxTextHorizontalJustification = "CENTER"
    return text


# --------------------------------------------------------------------------- display


def _displayed_area(image: Shown) -> Dataset:
    """The whole image, in true proportions."""
    source, geometry = image.source, image.entry.image.plane
    area = _applies_to(image)
    area.DisplayedAreaTopLeftHandCorner = [1, 1]
    area.DisplayedAreaBottomRightHandCorner = [source.columns, source.rows]
    area.PresentationSizeMode = "SCALE TO FIT"
    area.PresentationPixelSpacing = [tree.decimal(geometry.row_spacing_mm), tree.decimal(geometry.column_spacing_mm)]
    return area


def _window(image: Shown) -> Dataset:
    """The window the captures were drawn with, for the same values."""
    voi = render.display_window(image.pixels, image.source)
    item = _applies_to(image)
    if voi.lut is not None:
        first, table, bits = voi.lut
        lut = Dataset()
        lut.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(table) % 65536, first, bits])
        lut.add_new("LUTData", "US", list(table))
        item.VOILUTSequence = Items([lut])
    elif voi.center is not None and voi.width is not None:
        item.WindowCenter, item.WindowWidth = tree.decimal(voi.center), tree.decimal(voi.width)
        if voi.function != "LINEAR":
            item.VOILUTFunction = voi.function
    return item
