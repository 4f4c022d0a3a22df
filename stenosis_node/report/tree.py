"""Constructors of SR content items (PS3.3 C.17.3): highdicom's items under the words of this package.

The tree itself is ours (docs/decisions/0004): highdicom's ``MeasurementReport`` puts no frames into its image library,
refuses a report without measurements, and has no place for the summary and the overall result.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from highdicom import sr
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


@cache
def _concept(code: Code) -> sr.CodedConcept:
    """One item of each code for all trees: a report says few things many times, and nobody writes into it."""
    return sr.CodedConcept(code.value, code.scheme, code.meaning)


def coded(code: Code) -> Dataset:
    """An item of a code sequence."""
    return sr.CodedConcept(code.value, code.scheme, code.meaning)


def _with(item: Dataset, children: Sequence[Dataset]) -> Dataset:
    if children:
        item.ContentSequence = Items(children)
    return item


def container(relationship: str, name: Code, children: Sequence[Dataset], *, template: str | None = None) -> Dataset:
    """A heading with its content. ``template`` is the DCMR template identifier; an empty relationship is the root."""
    item = sr.ContainerContentItem(
        _concept(name), is_content_continuous=False, template_id=template, relationship_type=relationship or None
    )
    return _with(item, children)


def code(relationship: str, name: Code, value: Code, children: Sequence[Dataset] = ()) -> Dataset:
    """A coded value."""
    return _with(sr.CodeContentItem(_concept(name), _concept(value), relationship), children)


def text(relationship: str, name: Code, value: str, children: Sequence[Dataset] = ()) -> Dataset:
    """A text."""
    return _with(sr.TextContentItem(_concept(name), value, relationship), children)


def uidref(relationship: str, name: Code, value: str) -> Dataset:
    """A UID."""
    return sr.UIDRefContentItem(_concept(name), value, relationship)


def decimal(value: float) -> str:
    """DS: at most 16 characters."""
    return f"{value:.8g}"


def num(relationship: str, name: Code, value: float, unit: Code) -> Dataset:
    """A number with its unit."""
    return sr.NumContentItem(_concept(name), float(decimal(value)), _concept(unit), relationship_type=relationship)


def reference(ref: SliceRef) -> Dataset:
    """An item of a Referenced SOP Sequence; names the frame of a multi-frame instance."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = ref.sop_class_uid, ref.sop_instance_uid
    if ref.frame_number is not None:
        item.ReferencedFrameNumber = ref.frame_number
    return item


def image(relationship: str, name: Code, ref: SliceRef, children: Sequence[Dataset] = ()) -> Dataset:
    """A reference to one slice."""
    item = sr.ImageContentItem(
        _concept(name),
        ref.sop_class_uid,
        ref.sop_instance_uid,
        referenced_frame_numbers=ref.frame_number,
        relationship_type=relationship,
    )
    return _with(item, children)


def region(name: Code, box: PixelBox, source: Dataset) -> Dataset:
    """A box as a closed polyline in pixel edges of the slice it was drawn on (C.18.6: column, row; corner origin)."""
    corners = [(box.x0, box.y0), (box.x1, box.y0), (box.x1, box.y1), (box.x0, box.y1), (box.x0, box.y0)]
    item = sr.ScoordContentItem(
        _concept(name), sr.GraphicTypeValues.POLYLINE, np.array(corners), relationship_type=CONTAINS
    )
    return _with(item, [source])
