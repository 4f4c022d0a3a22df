"""Secondary Captures: the annotated slice as a picture, and the object that carries a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from PIL import Image, ImageDraw
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import SecondaryCaptureImageStorage

from stenosis_node.domain import (
    BundleStatus,
    Content,
    CordSlice,
    Document,
    DocumentKind,
    GradedSlice,
    NotGradable,
    SliceRef,
    StudyFindings,
    finding_box,
)
from stenosis_node.report import codes, identity, render, tree, wording
from stenosis_node.report.identity import ReportContext
from stenosis_node.report.locator import Located
from stenosis_node.report.objects import TRANSFER_SYNTAX, new_object, to_bytes
from stenosis_node.report.outline import Entry, reason_words
from stenosis_node.report.render import ACCENT, INK, MUTED
from stenosis_node.report.source import Lossy, SourceImage, StudyHeader

GUTTER: Final = 30
PANEL: Final = 236
FOOTER: Final = 40
CLOSE_UP: Final = PANEL - 32


def annotated(entry: Entry, source: SourceImage, status: BundleStatus) -> tuple[Image.Image, tuple[float, float]]:
    """The picture of one slice with everything the networks said, and display pixels per source pixel (x, y)."""
    pixels = entry.image.pixels
    if pixels is None:
        raise ValueError("a slice without pixels cannot be drawn")
    geometry = entry.image.plane
    scale = render.display_scale(geometry, *pixels.shape)
    slice_image = render.enlarged(render.windowed(pixels, source), scale)
    top = (wording.BANNER_HEIGHT_PX if wording.BANNER[status] else 0) + GUTTER
    height = max(slice_image.height, 512)
    size = (slice_image.width + 2 * GUTTER + PANEL, top + height + GUTTER + FOOTER)
    canvas = Image.new("RGB", size, render.PAPER)
    draw = ImageDraw.Draw(canvas)
    render.draw_banner(draw, canvas.width, status)
    y = top + (height - slice_image.height) // 2
    canvas.paste(slice_image, (GUTTER, y))
    _orientation(draw, entry, (GUTTER, y, GUTTER + slice_image.width, y + slice_image.height))
    box = finding_box(entry.finding)
    if box is not None:
        render.draw_box(draw, render.scaled_box(box, scale, GUTTER, y))
    left = slice_image.width + 2 * GUTTER + 8
    _panel(draw, entry, left, top)
    if box is not None:
        close_up = render.canal_view(pixels, geometry, box, CLOSE_UP)
        canvas.paste(close_up, (left, top + height + GUTTER - CLOSE_UP))
    _footer(draw, entry, canvas.width, canvas.height)
    return canvas, scale


def _orientation(draw: ImageDraw.ImageDraw, entry: Entry, frame: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = frame
    across = render.letters(entry.image.plane.row_direction)[0]
    down = render.letters(entry.image.plane.column_direction)[0]
    marks = (
        (render.opposite(across), (left - GUTTER // 2, (top + bottom) // 2)),
        (across, (right + GUTTER // 2, (top + bottom) // 2)),
        (render.opposite(down), ((left + right) // 2, top - GUTTER // 2)),
        (down, ((left + right) // 2, bottom + GUTTER // 2)),
    )
    for letter, place in marks:
        draw.text(place, letter, fill=INK, font=render.font(20), anchor="mm")


def _panel(draw: ImageDraw.ImageDraw, entry: Entry, left: int, top: int) -> None:
    width = PANEL - 32
    finding = entry.finding
    match finding:
        case GradedSlice():
            draw.text((left, top), "Schizas grade", fill=MUTED, font=render.font(18))
            draw.text((left - 4, top + 8), finding.grade.value, fill=ACCENT, font=render.font(118))
            if entry.isolated:
                lines = [f"{wording.ISOLATED}:", "both neighbours", "are grade A"]
                render.draw_lines(draw, lines, (left + 92, top + 56), 15, ACCENT)
            y = render.draw_lines(draw, ["network score"], (left, top + 148), 17, MUTED)
            y = render.draw_bars(draw, finding.scores, finding.grade, (left, y + 2), width, step=24)
            _content(draw, wording.CONTENT[Content.ROOTLET], finding.content_score, finding.box_score, (left, y + 10))
        case CordSlice():
            draw.text((left, top), "canal content", fill=MUTED, font=render.font(18))
            y = render.draw_lines(draw, wording.CONTENT[Content.CORD].split(), (left - 2, top + 20), 46, ACCENT)
            lines = render.wrapped("Schizas grades do not apply", width, 18)
            render.draw_lines(draw, lines, (left, y + 10), 18, INK)
            _content(draw, wording.CONTENT[Content.CORD], finding.content_score, finding.box_score, (left, top + 280))
        case NotGradable():
            draw.text((left, top), "Schizas grade", fill=MUTED, font=render.font(18))
            y = render.draw_lines(draw, ["not", "gradable"], (left - 2, top + 20), 46, ACCENT)
            lines = render.wrapped(reason_words(finding) or "", width, 18)[:5]
            y = render.draw_lines(draw, lines, (left, y + 10), 18, INK)
            lines = render.wrapped(wording.NO_EXCLUSION, width, 18)
            render.draw_lines(draw, lines, (left, y + 8), 18, ACCENT)


def _content(draw: ImageDraw.ImageDraw, content: str, score: float, box_score: float, place: tuple[int, int]) -> None:
    left, y = place
    right = left + PANEL - 32
    for name, value in ((content, score), ("canal box", box_score)):
        draw.text((left, y), name, fill=INK, font=render.font(17))
        draw.text((right, y), wording.percent(value), fill=INK, font=render.font(17), anchor="ra")
        y += 23


def _footer(draw: ImageDraw.ImageDraw, entry: Entry, width: int, height: int) -> None:
    y = height - FOOTER // 2
    draw.text((GUTTER, y), entry.place, fill=INK, font=render.font(19), anchor="lm")
    draw.text((width - 24, y), wording.NOT_VERIFIED, fill=INK, font=render.font(19), anchor="rm")


# --------------------------------------------------------------------------- the object


def build(
    picture: Image.Image,
    kind: DocumentKind,
    entries: Sequence[Entry],
    sources: dict[SliceRef, SourceImage],
    study: StudyHeader,
    findings: StudyFindings,
    context: ReportContext,
    *,
    number: int,
    comment: str,
    key: bool,
    scale: tuple[float, float] | None = None,
    located: Located | None = None,
) -> Document:
    """A Secondary Capture of a picture.

    entries  the slices the picture was made from (an overview: all it shows)
    number   Instance Number
    comment  Image Comments: the picture in words
    scale    display pixels per source pixel (x, y), for one slice in stored orientation
    located  the sagittal slice that is in the picture too
    """
    series_uid, uid = context.uid("series", "sc"), context.uid("sc", number)
    ds = new_object(
        study,
        findings,
        context,
        kind=wording.CAPTURE_SERIES,
        series=series_uid,
        number=context.settings.series_number + 1,
    )
    ds.Modality = "OT"
    ds.ConversionType = "WSD"
    ds.DateOfSecondaryCapture, ds.TimeOfSecondaryCapture = context.date, context.time
    ds.SecondaryCaptureDeviceManufacturer = context.settings.manufacturer
    ds.SecondaryCaptureDeviceManufacturerModelName = wording.ALGORITHM
    ds.SecondaryCaptureDeviceSoftwareVersions = identity.algorithm_version(findings)
    ds.BodyPartExamined = study.body_part
    ds.InstanceNumber = number
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.ImageComments = comment
    ds.BurnedInAnnotation = "NO"  # the attribute means identifying annotation: none is drawn
    ds.RecognizableVisualFeatures = "NO"
    ds.DerivationDescription = "Display window applied, enlarged, canal box and network output drawn"
    ds.DerivationCodeSequence = Items([tree.coded(codes.RESAMPLED)])
    refs = [entry.image.ref for entry in entries] + ([located.slice.ref] if located is not None else [])
    _sources(ds, refs)
    _compression(ds, [sources[r] for r in refs if r in sources] + ([located.source] if located is not None else []))
    if scale is not None and len(entries) == 1:
        geometry = entries[0].image.plane
        ds.PixelSpacing = [
            tree.decimal(geometry.row_spacing_mm / scale[1]),
            tree.decimal(geometry.column_spacing_mm / scale[0]),
        ]
        ds.PatientOrientation = [render.letters(geometry.row_direction), render.letters(geometry.column_direction)]
    else:
        ds.PatientOrientation = None
    _pixels(ds, picture)
    sop_class = str(SecondaryCaptureImageStorage)
    return Document(
        kind=kind,
        sop_class_uid=sop_class,
        sop_instance_uid=uid,
        series_instance_uid=series_uid,
        transfer_syntax_uid=TRANSFER_SYNTAX,
        content=to_bytes(ds, sop_class, uid),
        key=key,
    )


def _sources(ds: Dataset, refs: Sequence[SliceRef]) -> None:
    """Source images with their purpose, and the same instances by series (Common Instance Reference)."""
    ds.SourceImageSequence = Items()
    by_series: dict[str, dict[str, Dataset]] = {}
    for ref in refs:
        item = tree.reference(ref)
        item.PurposeOfReferenceCodeSequence = Items([tree.coded(codes.SOURCE_IMAGE)])
        ds.SourceImageSequence.append(item)
        whole = SliceRef(ref.series_instance_uid, ref.sop_class_uid, ref.sop_instance_uid, None)
        by_series.setdefault(ref.series_instance_uid, {})[ref.sop_instance_uid] = tree.reference(whole)
    ds.ReferencedSeriesSequence = Items()
    for uid, instances in by_series.items():
        series = Dataset()
        series.SeriesInstanceUID = uid
        series.ReferencedInstanceSequence = Items(instances.values())
        ds.ReferencedSeriesSequence.append(series)


def _compression(ds: Dataset, sources: Sequence[SourceImage]) -> None:
    """Lossy once, lossy for ever: what happened to any source happened to the picture."""
    lossy: Lossy | None = next(filter(None, (source.lossy for source in sources)), None)
    ds.LossyImageCompression = "00" if lossy is None else "01"
    if lossy is not None:
        ds.LossyImageCompressionRatio = list(lossy.ratios) or ["1"]
        if lossy.methods:
            ds.LossyImageCompressionMethod = list(lossy.methods)


def _pixels(ds: Dataset, picture: Image.Image) -> None:
    ds.SamplesPerPixel = 3
    ds.PhotometricInterpretation = "RGB"
    ds.PlanarConfiguration = 0
    ds.Rows, ds.Columns = picture.height, picture.width
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    data = picture.tobytes()
    ds.PixelData = data + b"\0" * (len(data) % 2)
