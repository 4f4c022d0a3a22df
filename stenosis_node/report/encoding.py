"""Content trees encoded from the leaves up: the same bytes as pydicom's writer gives, in a fraction of the time."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, Literal

from pydicom.charset import convert_encodings
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence as Items
from pydicom.tag import Tag

EXPLICIT: Final = (False, True)
"""Explicit VR Little Endian as pydicom puts it: implicit VR, little endian."""
CODE_TAGS: Final = {Tag("CodeValue"), Tag("CodingSchemeDesignator"), Tag("CodeMeaning")}


def prepare(ds: Dataset) -> None:
    """Change how a data set made from scratch is held, not what it says.

    pydicom looks in each item, once for every level above it, for elements whose VR depends on others, unless the item
    counts as read from a file of the same encoding. An SR or a Key Object Selection holds no such element. And a tree
    says the same few codes thousands of times: each is encoded once.
    """
    ds.set_original_encoding(*EXPLICIT, convert_encodings(ds.SpecificCharacterSet))
    _prepare_items(ds)


def item(ds: Dataset) -> bytes:
    """A data set as an item of a sequence."""
    return as_item(elements(ds))


def elements(ds: Dataset) -> bytes:
    """A data set, encoded. It is prepared for that, and of no other use afterwards."""
    ds.set_original_encoding(*EXPLICIT, "iso8859")
    _prepare_items(ds)
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = EXPLICIT
    write_dataset(buffer, ds, "utf-8")
    return buffer.getvalue()


def element(keyword: str, vr: Literal["SQ", "FD", "DS", "UI", "UT"], value: bytes) -> bytes:
    """One element with an encoded value."""
    tag = Tag(keyword)
    padded = value + (b"\0" if vr == "UI" else b" ") * (len(value) % 2)
    head = struct.pack("<HH2s", tag.group, tag.element, vr.encode())
    return head + struct.pack("<2xL" if vr in ("SQ", "UT") else "<H", len(padded)) + padded


def as_item(content: bytes) -> bytes:
    """Encoded elements, in the order of their tags, as an item."""
    return struct.pack("<HHL", 0xFFFE, 0xE000, len(content)) + content


def sequence(keyword: str, items: Iterable[bytes]) -> RawDataElement:
    """A sequence of encoded items."""
    content = b"".join(items)
    return RawDataElement(Tag(keyword), "SQ", len(content), content, 0, *EXPLICIT)


def _prepare_items(ds: Dataset) -> None:
    for tag in list(ds.keys()):
        element = ds.get_item(tag)
        if not isinstance(element, DataElement) or element.VR != "SQ":
            continue
        if len(element.value) == 1 and element.value[0].keys() == CODE_TAGS:
            code = element.value[0]
            content = _encoded(str(code.CodeValue), str(code.CodingSchemeDesignator), str(code.CodeMeaning))
            ds[tag] = RawDataElement(element.tag, "SQ", len(content), content, 0, *EXPLICIT)
            continue
        for item in element.value:
            item.set_original_encoding(*EXPLICIT, "iso8859")
            _prepare_items(item)


@lru_cache(maxsize=1024)
def _encoded(value: str, scheme: str, meaning: str) -> bytes:
    """A code sequence of one item, encoded."""
    item, parent = Dataset(), Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    parent.ConceptCodeSequence = Items([item])
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = EXPLICIT
    write_dataset(buffer, parent, "utf-8")
    return buffer.getvalue()[12:]  # without tag, VR and length
