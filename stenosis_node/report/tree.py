"""Constructors of SR content items (PS3.3 C.17.3): highdicom's items under the words of this package, encoded at once.

Texts, UIDs, numbers and references are put between the elements that highdicom gives an item of their kind and name:
a tree has hundreds of them, and they were most of what it cost.

The tree itself is ours (docs/decisions/0004): highdicom's ``MeasurementReport`` puts no frames into its image library,
refuses a report without measurements, and has no place for the summary and the overall result.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np
from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage
from pydicom.valuerep import DS

from stenosis_node.domain import PixelBox, SliceRef
from stenosis_node.report import encoding
from stenosis_node.report.codes import Code

Encoded = bytes
"""A content item with all below it, as it stands in the Content Sequence above it."""

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


def _with(item: Dataset, children: Sequence[Encoded]) -> Dataset:
    if children:
        nested = encoding.sequence("ContentSequence", children)
        item[nested.tag] = nested
    return item


def root(name: Code, children: Sequence[Encoded], template: str) -> Dataset:
    """The outermost heading: elements of the document itself. ``template`` is the DCMR template identifier."""
    return _with(_container(name, template, None), children)


def container(name: Code, children: Sequence[Encoded], *, template: str | None = None) -> Encoded:
    """A heading with its content."""
    return encoding.item(_with(_container(name, template, CONTAINS), children))


def _container(name: Code, template: str | None, relationship: str | None) -> Dataset:
    return sr.ContainerContentItem(
        _concept(name), is_content_continuous=False, template_id=template, relationship_type=relationship
    )


def code(relationship: str, name: Code, value: Code, children: Sequence[Encoded] = ()) -> Encoded:
    """A coded value."""
    return _code(relationship, name, value, tuple(children))


@lru_cache(maxsize=256)
def _code(relationship: str, name: Code, value: Code, children: tuple[Encoded, ...]) -> Encoded:
    return encoding.item(_with(sr.CodeContentItem(_concept(name), _concept(value), relationship), children))


def text(relationship: str, name: Code, value: str) -> Encoded:
    """A text."""
    before = _before_value(sr.TextContentItem, relationship, name)
    return encoding.as_item(before + encoding.element("TextValue", "UT", value.encode()))


def uidref(relationship: str, name: Code, value: str) -> Encoded:
    """A UID."""
    before = _before_value(sr.UIDRefContentItem, relationship, name)
    return encoding.as_item(before + encoding.element("UID", "UI", value.encode()))


@cache
def _before_value(kind: type[sr.TextContentItem | sr.UIDRefContentItem], relationship: str, name: Code) -> bytes:
    """The elements of a text or UID that stand before its value."""
    item = kind(_concept(name), "0", relationship)
    del item["UID" if "UID" in item else "TextValue"]
    return encoding.elements(item)


def decimal(value: float) -> str:
    """DS: at most 16 characters."""
    return f"{value:.8g}"


def num(relationship: str, name: Code, value: float, unit: Code) -> Encoded:
    """A number with its unit."""
    before, units = _measurement(relationship, name, unit)
    number = float(decimal(value))
    measured = (
        units
        + encoding.element("FloatingPointValue", "FD", struct.pack("<d", number))
        + encoding.element("NumericValue", "DS", str(DS(number, auto_format=True)).encode())
    )
    return encoding.as_item(before + encoding.element("MeasuredValueSequence", "SQ", encoding.as_item(measured)))


@cache
def _measurement(relationship: str, name: Code, unit: Code) -> tuple[bytes, bytes]:
    """The elements of a number that are not the number: those before its Measured Value Sequence, the units in it."""
    item = sr.NumContentItem(_concept(name), 0.0, _concept(unit), relationship_type=relationship)
    (measured,) = item.MeasuredValueSequence
    del item.MeasuredValueSequence, measured.FloatingPointValue, measured.NumericValue
    return encoding.elements(item), encoding.elements(measured)


def reference(ref: SliceRef) -> Dataset:
    """An item of a Referenced SOP Sequence; names the frame of a multi-frame instance."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = ref.sop_class_uid, ref.sop_instance_uid
    if ref.frame_number is not None:
        item.ReferencedFrameNumber = ref.frame_number
    return item


def image(relationship: str, name: Code, ref: SliceRef, children: Sequence[Encoded] = ()) -> Encoded:
    """A reference to one slice."""
    nested = encoding.element("ContentSequence", "SQ", b"".join(children)) if children else b""
    return encoding.as_item(_referred(ref) + _after_reference(relationship, name) + nested)


@lru_cache(maxsize=1024)
def _referred(ref: SliceRef) -> bytes:
    """The Referenced SOP Sequence: a report names each slice several times."""
    return encoding.element("ReferencedSOPSequence", "SQ", encoding.item(reference(ref)))


@cache
def _after_reference(relationship: str, name: Code) -> bytes:
    """The elements of a reference to an image that stand between the reference and what is below it."""
    item = sr.ImageContentItem(_concept(name), MRImageStorage, "1.2", relationship_type=relationship)
    del item.ReferencedSOPSequence
    return encoding.elements(item)


def region(name: Code, box: PixelBox, source: Encoded) -> Encoded:
    """A box as a closed polyline in pixel edges of the slice it was drawn on (C.18.6: column, row; corner origin)."""
    corners = [(box.x0, box.y0), (box.x1, box.y0), (box.x1, box.y1), (box.x0, box.y1), (box.x0, box.y0)]
    item = sr.ScoordContentItem(
        _concept(name), sr.GraphicTypeValues.POLYLINE, np.array(corners), relationship_type=CONTAINS
    )
    return encoding.item(_with(item, [source]))
