"""Constructors of SR content items (PS3.3 C.17.3).

On plain pydicom: with highdicom's templates the tree of 40 slices takes seconds, its image library cannot name frames
and a report without measurements is refused. highdicom is the independent reader in our tests instead.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from stenosis_node.domain import PixelBox, SliceRef
from stenosis_node.report.codes import Code

CONTAINS = "CONTAINS"
CONTEXT = "HAS OBS CONTEXT"
MODIFIER = "HAS CONCEPT MOD"
ACQUISITION = "HAS ACQ CONTEXT"
PROPERTY = "HAS PROPERTIES"
INFERRED = "INFERRED FROM"


def coded(code: Code) -> Dataset:
    """An item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme, code.meaning
    return item


def _item(relationship: str, kind: str, name: Code | None, children: Sequence[Dataset] = ()) -> Dataset:
    item = Dataset()
    if relationship:
        item.RelationshipType = relationship
    item.ValueType = kind
    if name is not None:
        item.ConceptNameCodeSequence = Items([coded(name)])
    if children:
        item.ContentSequence = Items(children)
    return item


def container(relationship: str, name: Code, children: Sequence[Dataset], *, template: str | None = None) -> Dataset:
    """A heading with its content. ``template`` is the DCMR template identifier; an empty relationship is the root."""
    item = _item(relationship, "CONTAINER", name, children)
    item.ContinuityOfContent = "SEPARATE"
    if template is not None:
        mark = Dataset()
        mark.MappingResource, mark.TemplateIdentifier = "DCMR", template
        item.ContentTemplateSequence = Items([mark])
    return item


def code(relationship: str, name: Code, value: Code, children: Sequence[Dataset] = ()) -> Dataset:
    """A coded value."""
    item = _item(relationship, "CODE", name, children)
    item.ConceptCodeSequence = Items([coded(value)])
    return item


def text(relationship: str, name: Code, value: str, children: Sequence[Dataset] = ()) -> Dataset:
    """A text."""
    item = _item(relationship, "TEXT", name, children)
    item.TextValue = value
    return item


def uidref(relationship: str, name: Code, value: str) -> Dataset:
    """A UID."""
    item = _item(relationship, "UIDREF", name)
    item.UID = value
    return item


def decimal(value: float) -> str:
    """DS: at most 16 characters."""
    return f"{value:.8g}"


def num(relationship: str, name: Code, value: float, unit: Code) -> Dataset:
    """A number with its unit."""
    item = _item(relationship, "NUM", name)
    measured = Dataset()
    measured.NumericValue = decimal(value)
    measured.MeasurementUnitsCodeSequence = Items([coded(unit)])
    item.MeasuredValueSequence = Items([measured])
    return item


def reference(ref: SliceRef) -> Dataset:
    """An item of a Referenced SOP Sequence; names the frame of a multi-frame instance."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = ref.sop_class_uid, ref.sop_instance_uid
    if ref.frame_number is not None:
        item.ReferencedFrameNumber = ref.frame_number
    return item


def image(relationship: str, name: Code | None, ref: SliceRef, children: Sequence[Dataset] = ()) -> Dataset:
    """A reference to one slice."""
    item = _item(relationship, "IMAGE", name, children)
    item.ReferencedSOPSequence = Items([reference(ref)])
    return item


def region(name: Code, box: PixelBox, source: Dataset) -> Dataset:
    """A box as a closed polyline in pixel edges of the slice it was drawn on (C.18.6: column, row; corner origin)."""
    item = _item(CONTAINS, "SCOORD", name, [source])
    item.GraphicType = "POLYLINE"
    item.GraphicData = [box.x0, box.y0, box.x1, box.y0, box.x1, box.y1, box.x0, box.y1, box.x0, box.y0]
    return item
