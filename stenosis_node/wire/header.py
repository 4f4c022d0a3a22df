"""The four UIDs of an encoded data set, read by a bounded walk over its first elements.

Nothing is decoded but these UIDs: no text, no character set, no pixels. The walk is iterative (nesting costs no stack),
touches each byte at most once and ends at the first element beyond (0020,000E).
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from typing import Final, NamedTuple

SOP_CLASS: Final = 0x0008_0016
SOP_INSTANCE: Final = 0x0008_0018
STUDY: Final = 0x0020_000D
SERIES: Final = 0x0020_000E

NAMES: Final = {
    SOP_CLASS: "SOP Class UID",
    SOP_INSTANCE: "SOP Instance UID",
    STUDY: "Study Instance UID",
    SERIES: "Series Instance UID",
}

BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"
DEFLATED: Final = frozenset({"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"})
"""Deflated Explicit VR LE, and the JPIP syntaxes that deflate the data set."""

MAX_INFLATED: Final = 8 << 20
"""Bytes inflated of a deflated data set while looking for the UIDs: a bound against decompression bombs."""
MAX_ELEMENTS: Final = 100_000
NOT_IN_DATA_SETS: Final = frozenset({0x0000, 0x0002})
"""Groups of commands and of file meta information (PS3.5 7.1): the file we make would have two transfer syntaxes."""
UNDEFINED: Final = 0xFFFF_FFFF

# PS3.5 tables 7.1-1 and 7.1-2: a length of two bytes for these, of four for every other VR
SHORT_VRS: Final = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split(),
)
LONG_VRS: Final = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())

_UID = re.compile(rb"[0-9][0-9.]{0,63}")


class UnreadableHeader(ValueError):
    """The bytes are not a DICOM data set in the negotiated transfer syntax (or break off)."""


class MissingUid(ValueError):
    """The data set can be read but lacks a UID, or holds something that is none."""


@dataclass(frozen=True, slots=True)
class InstanceUids:
    """What names an instance."""

    sop_class: str
    sop_instance: str
    study: str
    series: str


def read_uids(dataset: bytes, transfer_syntax_uid: str) -> InstanceUids:
    """The UIDs of a data set as encoded on the wire, without file meta information.

    For a private transfer syntax little endian is assumed and the kind of VR is seen from the first element.

    raises  UnreadableHeader, MissingUid; both texts name no patient attribute
    """
    if transfer_syntax_uid in DEFLATED:
        dataset = _inflate(dataset)
    try:
        found = _walk(dataset, big_endian=transfer_syntax_uid == BIG_ENDIAN)
    except struct.error:
        raise UnreadableHeader("the data set breaks off inside an element") from None
    return InstanceUids(
        sop_class=_uid(found, SOP_CLASS),
        sop_instance=_uid(found, SOP_INSTANCE),
        study=_uid(found, STUDY),
        series=_uid(found, SERIES),
    )


def _uid(found: dict[int, bytes], tag: int) -> str:
    value = found.get(tag, b"").rstrip(b"\0 ")
    name = f"({tag >> 16:04X},{tag & 0xFFFF:04X}) {NAMES[tag]}"
    if not value:
        raise MissingUid(f"no {name}")
    if not _UID.fullmatch(value):
        raise MissingUid(f"{name} is no UID")
    return value.decode("ascii")


def _inflate(dataset: bytes) -> bytes:
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(dataset, MAX_INFLATED)
    except zlib.error as error:
        raise UnreadableHeader(f"the data set cannot be inflated: {error}") from error


class _Head(NamedTuple):
    vr: bytes
    value: int
    """Offset of the value."""
    length: int


class _Encoding:
    """How tags, VRs and lengths are written in one byte order."""

    def __init__(self, *, big_endian: bool) -> None:
        order = ">" if big_endian else "<"
        self.tag = struct.Struct(order + "HH").unpack_from
        self._u16 = struct.Struct(order + "H").unpack_from
        self._u32 = struct.Struct(order + "L").unpack_from

    def length(self, data: bytes, position: int) -> int:
        """A length of four bytes."""
        return int(self._u32(data, position)[0])

    def head(self, data: bytes, position: int, *, implicit: bool) -> _Head:
        """What stands between the tag at ``position`` and its value (PS3.5 section 7.1)."""
        vr = data[position + 4 : position + 6]
        if implicit or not vr.isalpha():  # as pydicom does: some devices write single elements with implicit VR
            return _Head(vr, position + 8, self.length(data, position + 4))
        if vr in SHORT_VRS:
            return _Head(vr, position + 8, int(self._u16(data, position + 6)[0]))
        return _Head(vr, position + 12, self.length(data, position + 8))


def _walk(data: bytes, *, big_endian: bool) -> dict[int, bytes]:
    """Values of the wanted tags at the top level. struct.error when the data ends inside an element's head."""
    encoding = _Encoding(big_endian=big_endian)
    found: dict[int, bytes] = {}
    implicit = not big_endian and data[4:6] not in SHORT_VRS and data[4:6] not in LONG_VRS
    outer: list[bool] = []  # per open sequence or item of undefined length: was the VR implicit outside of it
    position, end = 0, len(data)
    for _ in range(MAX_ELEMENTS):
        if position == end:
            if outer:
                raise UnreadableHeader("the data set breaks off inside a sequence")
            return found
        group, element = encoding.tag(data, position)
        if group == 0xFFFE:
            if not outer:
                raise UnreadableHeader("an item stands outside of a sequence")
            length = encoding.length(data, position + 4)
            position += 8
            if element != 0xE000:  # the end of an item or of a sequence
                implicit = outer.pop()
            elif length == UNDEFINED:
                outer.append(implicit)
            else:
                position += length
            continue
        tag = group << 16 | element
        if not outer and tag > SERIES:
            return found
        if group in NOT_IN_DATA_SETS and not outer:
            raise UnreadableHeader(f"group {group:04X} stands in the data set")
        vr, value, length = encoding.head(data, position, implicit=implicit)
        if length == UNDEFINED:
            outer.append(implicit)
            implicit = implicit or vr == b"UN"  # PS3.5 6.2.2: the content of such a UN is implicit VR
            position = value
            continue
        position = value + length
        if position > end:
            raise UnreadableHeader(f"the data set breaks off inside ({group:04X},{element:04X})")
        if not outer and tag in NAMES:
            found[tag] = data[value:position]
    raise UnreadableHeader(f"more than {MAX_ELEMENTS} elements before (0020,000E)")
