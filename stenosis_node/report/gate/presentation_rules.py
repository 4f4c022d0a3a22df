"""Rules on Grayscale Softcopy Presentation States: they draw what the report says, on exactly the images it means."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from pydicom.dataset import Dataset

from stenosis_node.domain import BundleStatus, finding_box
from stenosis_node.report import codes, wording
from stenosis_node.report.gate.evidence import Evidence, Fault, Opened, Place
from stenosis_node.report.readback import Item
from stenosis_node.report.wanted import Wanted


def texts_of(ds: Dataset) -> list[str]:
    """Everything a presentation state shows or says; empty for another object."""
    objects = [t for a in ds.get("GraphicAnnotationSequence") or () for t in a.get("TextObjectSequence") or ()]
    layers = [str(layer.get("GraphicLayerDescription") or "") for layer in ds.get("GraphicLayerSequence") or ()]
    named = [str(ds.get(keyword) or "") for keyword in ("ContentLabel", "ContentDescription")]
    return [*named, *layers, *(str(t.get("UnformattedTextValue") or "") for t in objects)]


def presentation_faults(
    states: Sequence[Opened], report: Opened | None, evidence: Evidence, wanted: Wanted
) -> Iterator[Fault]:
    """Every rule on the presentation states of a result. ``report`` is its SR."""
    drawn: Counter[Place] = Counter()
    for one in states:
        annotations = list(one.ds.get("GraphicAnnotationSequence") or ())
        places = [place for a in annotations for place in _places(a)]
        drawn.update(places)
        yield from _closure(one, places, evidence)
        yield from _layer(one, annotations)
        yield from _status(one, evidence.study.bundle.status)
        yield from _display(one, evidence)
        groups = _groups(report) if report is not None else None
        for annotation in annotations:
            yield from _annotation(one, annotation, groups, evidence)
    if drawn != Counter(evidence.drawable if wanted.presentation_states else ()):
        yield Fault(
            "presentations", "not exactly one annotation in a wanted presentation state for each image with a box"
        )


def _places(item: Dataset) -> list[Place]:
    """The images an item applies to."""
    found: list[Place] = []
    for reference in item.get("ReferencedImageSequence") or ():
        frames = reference.get("ReferencedFrameNumber")
        uid = str(reference.get("ReferencedSOPInstanceUID") or "")
        if frames in (None, ""):
            found.append((uid, None))
        else:
            found += [(uid, int(f)) for f in ([frames] if isinstance(frames, int | str) else frames)]
    return found


def _closure(one: Opened, drawn: list[Place], evidence: Evidence) -> Iterator[Fault]:
    """What is drawn on, displayed and windowed is what is referred to, and all of it is of one graded series."""
    ds = one.ds
    series = list(ds.get("ReferencedSeriesSequence") or ())
    listed = [place for item in series for place in _places(item)]
    owners = {evidence.series_of.get(place[0], "") for place in listed}
    if len(series) != 1 or owners != {str(series[0].get("SeriesInstanceUID") or "")}:
        yield Fault("presented-series", f"{one.name}: does not refer to images of exactly one graded series")
    classes = {
        (str(r.get("ReferencedSOPInstanceUID") or ""), str(r.get("ReferencedSOPClassUID") or ""))
        for item in (*series, *(i for k in PER_IMAGE for i in ds.get(k) or ()))
        for r in item.get("ReferencedImageSequence") or ()
    }
    known = {(p.ref.sop_instance_uid, p.ref.sop_class_uid) for p in evidence.slices.values()}
    if not classes <= known:
        yield Fault("presented-images", f"{one.name}: refers to an image that is not one of the graded series")
    for keyword in PER_IMAGE:
        places = [place for item in ds.get(keyword) or () for place in _places(item)]
        if sorted(places, key=str) != sorted(listed, key=str):
            yield Fault("presented-images", f"{one.name}: {keyword} does not apply to exactly the images referred to")
    if not drawn:
        yield Fault("presented-images", f"{one.name}: draws nothing")


PER_IMAGE = ("GraphicAnnotationSequence", "DisplayedAreaSelectionSequence", "SoftcopyVOILUTSequence")


def _layer(one: Opened, annotations: Sequence[Dataset]) -> Iterator[Fault]:
    layers = [str(layer.get("GraphicLayer") or "") for layer in one.ds.get("GraphicLayerSequence") or ()]
    used = {str(a.get("GraphicLayer") or "") for a in annotations}
    if len(layers) != 1 or used != set(layers):
        yield Fault("layer", f"{one.name}: its graphics are not on exactly one layer that it declares")


def _status(one: Opened, status: BundleStatus) -> Iterator[Fault]:
    description, label = str(one.ds.get("ContentDescription") or ""), str(one.ds.get("ContentLabel") or "")
    if wording.NOT_VERIFIED not in description:
        yield Fault("not-verified", f"{one.name}: Content Description lacks '{wording.NOT_VERIFIED}'")
    demonstration = status is BundleStatus.DEMONSTRATION
    if description.startswith(wording.DEMO_SERIES) != demonstration or label.startswith("DEMO") != demonstration:
        yield Fault(
            "demonstration", f"{one.name}: Content Label or Description does not fit a bundle of status {status}"
        )


def _display(one: Opened, evidence: Evidence) -> Iterator[Fault]:
    """Whole images in true proportions, with the source's modality transformation and a window that shows something."""
    ds = one.ds
    for area in ds.get("DisplayedAreaSelectionSequence") or ():
        corners = area.get("DisplayedAreaTopLeftHandCorner"), area.get("DisplayedAreaBottomRightHandCorner")
        for place in _places(area):
            rows, columns = evidence.sizes.get(place[0], (0, 0))
            if [list(c or ()) for c in corners] != [[1, 1], [columns, rows]]:
                yield Fault("displayed-area", f"{one.name}: the displayed area is not the whole image")
            piece = evidence.slices.get(place)
            spacing = [float(v) for v in area.get("PresentationPixelSpacing") or ()]
            plane = piece.geometry if piece is not None else None
            expected = [plane.row_spacing_mm, plane.column_spacing_mm] if plane is not None else []
            if len(spacing) != len(expected) or not all(map(_close, spacing, expected)):
                yield Fault("displayed-area", f"{one.name}: Presentation Pixel Spacing is not that of the image")
    rescale = float(ds.get("RescaleSlope") or 1.0), float(ds.get("RescaleIntercept") or 0.0)
    inverted = ds.get("PresentationLUTShape") == "INVERSE"
    if ds.get("PresentationLUTShape") not in ("IDENTITY", "INVERSE"):
        yield Fault("gray-scale", f"{one.name}: Presentation LUT Shape is missing")
    for item in ds.get("SoftcopyVOILUTSequence") or ():
        if "VOILUTSequence" not in item and not (item.get("WindowWidth") and float(item.WindowWidth) >= 1):
            yield Fault("gray-scale", f"{one.name}: a window that shows nothing")
        for place in _places(item):
            gray = evidence.gray.get(place)
            if gray is not None and not (all(map(_close, rescale, gray[:2])) and inverted == gray[2]):
                yield Fault("gray-scale", f"{one.name}: not the modality transformation or polarity of its image")


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-3)


def _groups(report: Opened) -> dict[Place, Item]:
    """Slice groups of the SR by the image of their region."""
    found: dict[Place, Item] = {}
    for group in (g for m in report.root.named(codes.MEASUREMENTS) for g in m.named(codes.GROUP)):
        region = group.first(codes.IMAGE_REGION)
        for ref in (ref for child in (region.children if region else ()) for ref in child.refs):
            if group.first(codes.OUTCOME) is not None:
                found[ref[1], ref[2]] = group
    return found


def _annotation(
    one: Opened, annotation: Dataset, groups: dict[Place, Item] | None, evidence: Evidence
) -> Iterator[Fault]:
    """Box, tracking and words are those of the report and of the findings."""
    places = _places(annotation)
    graphics = list(annotation.get("GraphicObjectSequence") or ())
    texts = [str(t.get("UnformattedTextValue") or "") for t in annotation.get("TextObjectSequence") or ()]
    if len(places) != 1 or len(graphics) != 1 or len(texts) != 2:
        yield Fault(
            "annotation", f"{one.name}: an annotation is not one box with its label and its warning on one image"
        )
        return
    finding = evidence.findings.get(places[0])
    box = finding_box(finding) if finding is not None else None
    drawn = [float(v) for v in graphics[0].get("GraphicData") or ()]
    edges = (box.x0, box.y0, box.x1, box.y0, box.x1, box.y1, box.x0, box.y1, box.x0, box.y0) if box else ()
    kind = (graphics[0].get("GraphicType"), graphics[0].get("GraphicAnnotationUnits"), graphics[0].get("GraphicFilled"))
    if kind != ("POLYLINE", "PIXEL", "N") or len(drawn) != len(edges) or not all(map(_close, drawn, edges)):
        yield Fault("drawn-box", f"{one.name}: a box is not the one that was located on its image, in its pixels")
    banner = wording.BANNER[evidence.study.bundle.status]
    if texts[1].splitlines() != [wording.NOT_VERIFIED, *([banner] if banner else [])]:
        yield Fault("drawn-warning", f"{one.name}: an image does not say that the result is not verified, and of what")
    if not all(map(_lies_inside, annotation.TextObjectSequence)):
        yield Fault("drawn-label", f"{one.name}: a text does not lie in the displayed area")
    if groups is None:
        return
    group = groups.get(places[0])
    label = group.first(codes.TRACKING_ID) if group is not None else None
    uid = group.first(codes.TRACKING_UID) if group is not None else None
    if label is None or texts[0].splitlines()[:1] != [label.text.rpartition(": ")[2]]:
        yield Fault("drawn-words", f"{one.name}: a label is not what the SR says of the image")
    if uid is None or str(graphics[0].get("TrackingUID")) != uid.text:
        yield Fault("drawn-tracking", f"{one.name}: a box does not have the tracking UID of the SR")


def _lies_inside(text: Dataset) -> bool:
    first = [float(v) for v in text.get("BoundingBoxTopLeftHandCorner") or ()]
    last = [float(v) for v in text.get("BoundingBoxBottomRightHandCorner") or ()]
    if text.get("BoundingBoxAnnotationUnits") != "DISPLAY" or len(first) != 2 or len(last) != 2:
        return False
    return all(0 <= a < b <= 1 for a, b in zip(first, last, strict=True))
