"""Documents read back: what a receiver would see, from the bytes alone and on pydicom alone.

The checker and the HTML page stand on this; neither knows how the documents were built.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any, cast

import pydicom
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from stenosis_node.domain import Document
from stenosis_node.report.codes import Code

Ref = tuple[str, str, int | None]
"""(SOP Class UID, SOP Instance UID, frame number or None)."""
Coded = tuple[str, str, str]
"""(value, scheme, meaning)."""
_NOTHING = Dataset()
_IDENTITY = frozenset(map(Tag, ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID")))


@dataclass(frozen=True, slots=True)
class Item:
    """One content item of an SR tree."""

    relationship: str
    kind: str
    name: tuple[str, str]
    """(code value, coding scheme) of the concept name; empty strings when there is none."""
    meaning: str
    code: Coded | None
    """Of a CODE."""
    text: str
    """Of a TEXT or UIDREF."""
    number: float | None
    unit: str
    graphic: str
    points: tuple[float, ...]
    refs: tuple[Ref, ...]
    template: str
    children: tuple[Item, ...]

    def named(self, name: Code) -> tuple[Item, ...]:
        """Direct children of a concept."""
        return tuple(c for c in self.children if c.name == (name.value, name.scheme))

    def first(self, name: Code) -> Item | None:
        """The first direct child of a concept."""
        return next(iter(self.named(name)), None)

    def walk(self) -> Iterator[Item]:
        """This item and everything below it, in document order."""
        yield self
        for child in self.children:
            yield from child.walk()


def read(document: Document) -> Dataset:
    """The data set of a document; pydicom's exceptions pass through."""
    return pydicom.dcmread(BytesIO(document.content))


def breaks_off(ds: Dataset) -> bool:
    """Whether the file ended inside an element: pydicom then gives a shorter value without a word.

    Holds for a data set nobody has looked into yet.
    """
    raw: list[Any] = [cast(Any, ds.get_item(tag)) for tag in ds.keys()]  # noqa: SIM118  values would be converted
    return any(isinstance(e.value, bytes) and e.length not in (len(e.value), 0xFFFFFFFF) for e in raw if e.is_raw)


def encoded(ds: Dataset, keyword: str) -> bytes:
    """The bytes of an element nobody has looked into yet; empty when it is absent or has no defined length."""
    tag = _tag(keyword)
    if tag not in ds.keys():  # noqa: SIM118
        return b""
    value: Any = cast(Any, ds.get_item(tag)).value
    return value if isinstance(value, bytes) else b""


def encoded_elements(ds: Dataset) -> dict[int, Any]:
    """Tag to encoded value of every element of a data set nobody has looked into yet, but those of its identity."""
    tags = [tag for tag in ds.keys() if tag not in _IDENTITY]  # noqa: SIM118  values would be converted
    return {tag: cast(Any, ds.get_item(tag)).value for tag in tags}


def tree(ds: Dataset) -> Item:
    """The SR tree of a data set. Attributes that are missing become empty values, never an exception."""
    return _item(ds, {})


def _item(ds: Dataset, seen: dict[bytes, Coded | None]) -> Item:
    """``seen``: the codes of this document that were read, by their bytes; a tree says few things many times."""
    name = _code(ds, "ConceptNameCodeSequence", seen)
    measured = _first(ds, "MeasuredValueSequence")
    unit = _code(measured, "MeasurementUnitsCodeSequence", seen)
    number = _value(measured, "NumericValue")
    template = _first(ds, "ContentTemplateSequence")
    return Item(
        relationship=str(_value(ds, "RelationshipType") or ""),
        kind=str(_value(ds, "ValueType") or ""),
        name=(name[0], name[1]) if name else ("", ""),
        meaning=name[2] if name else "",
        code=_code(ds, "ConceptCodeSequence", seen),
        text=str(_value(ds, "TextValue") or _value(ds, "UID") or ""),
        number=None if number in (None, "") else float(number),
        unit=unit[0] if unit else "",
        graphic=str(_value(ds, "GraphicType") or ""),
        points=tuple(float(v) for v in _value(ds, "GraphicData") or ()),
        refs=tuple(reference(r) for r in _value(ds, "ReferencedSOPSequence") or ()),
        template=str(_value(template, "TemplateIdentifier") or ""),
        children=tuple(_item(child, seen) for child in _value(ds, "ContentSequence") or ()),
    )


def _value(ds: Dataset, keyword: str) -> Any:
    """As ``ds.get(keyword)``: most items have few of the attributes that are asked for, and a look costs less."""
    tag = _tag(keyword)
    return ds[tag].value if tag in ds.keys() else None  # noqa: SIM118  without converting the tag once more


_tag = cache(Tag)


def reference(item: Dataset) -> Ref:
    """An item of a Referenced SOP, Source Image or Referenced Instance Sequence."""
    frame = _value(item, "ReferencedFrameNumber")
    return (
        str(_value(item, "ReferencedSOPClassUID") or ""),
        str(_value(item, "ReferencedSOPInstanceUID") or ""),
        int(frame) if frame not in (None, "") else None,
    )


def _first(ds: Dataset, keyword: str) -> Dataset:
    items: list[Dataset] = list(_value(ds, keyword) or ())
    return items[0] if items else _NOTHING


def _code(ds: Dataset, keyword: str, seen: dict[bytes, Coded | None]) -> Coded | None:
    content = encoded(ds, keyword)
    if not content:
        return _read_code(ds, keyword)
    if content not in seen:
        seen[content] = _read_code(ds, keyword)
    return seen[content]


def _read_code(ds: Dataset, keyword: str) -> Coded | None:
    item = _first(ds, keyword)
    if not len(item):
        return None
    return (
        str(_value(item, "CodeValue") or ""),
        str(_value(item, "CodingSchemeDesignator") or ""),
        str(_value(item, "CodeMeaning") or ""),
    )
