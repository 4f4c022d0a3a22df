"""Part 10 files: the file meta information we write for received bytes, and reading that no file can abuse.

What we write depends on nothing but the instance, so that an exact resend gives an identical file: no version of ours,
no time, no AE title of the sender.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final

from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import dcmread, read_dataset, read_file_meta_info
from pydicom.tag import Tag

from stenosis_node.domain import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

DEFLATED: Final = "1.2.840.10008.1.2.1.99"
MAX_INFLATED: Final = 1 << 29
"""Bytes a deflated data set may become (PS3.5 A.5): a bound against decompression bombs."""
INFLATE_STEP: Final = 1 << 20
HEAD_BYTES: Final = 4096
"""Looked through for a deflated transfer syntax; our own file meta information has a tenth of that."""
GROUP_LENGTH: Final = b"\x02\0\0\0UL\x04\0"
UID: Final = re.compile(r"[0-9][0-9.]{0,63}")
PIXEL_TAGS: Final = frozenset({0x7FE0_0008, 0x7FE0_0009, 0x7FE0_0010})
"""Float, Double Float and ordinary Pixel Data."""


def file_meta(*, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Preamble, prefix and group 0002 (PS3.10 section 7.1); the encoded data set follows unchanged."""
    group = b"".join(
        (
            struct.pack("<HH2sHL", 0x0002, 0x0001, b"OB", 0, 2) + b"\x00\x01",
            _element(0x0002, b"UI", sop_class_uid, b"\0"),
            _element(0x0003, b"UI", sop_instance_uid, b"\0"),
            _element(0x0010, b"UI", transfer_syntax_uid, b"\0"),
            _element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID, b"\0"),
            _element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME, b" "),
        )
    )
    return bytes(128) + b"DICM" + struct.pack("<HH2sHL", 0x0002, 0x0000, b"UL", 4, len(group)) + group


class UnreadableFile(ValueError):
    """The file is no Part 10 file, or its file meta information lacks a UID."""


@dataclass(frozen=True, slots=True)
class FileMeta:
    """What a file says about itself."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


def read_file_meta(path: Path) -> FileMeta:
    """Inverse of :func:`file_meta`. Raises UnreadableFile; OSError when the disk does not give the file."""
    try:
        meta = read_file_meta_info(path)
        uids = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID
    except (InvalidDicomError, AttributeError, ValueError, EOFError, struct.error) as error:
        raise UnreadableFile(f"{path.name} is no Part 10 file") from error
    if not all(UID.fullmatch(str(uid)) for uid in uids):
        raise UnreadableFile(f"{path.name} names itself by what is no UID")
    return FileMeta(*map(str, uids))


def syntax_of(path: Path, otherwise: str) -> str:
    """Transfer syntax UID of a file; ``otherwise`` when the file is gone or does not say."""
    try:
        return read_file_meta(path).transfer_syntax_uid
    except (OSError, UnreadableFile):
        return otherwise


def read_header(path: Path, *, tags: Sequence[int | str] | None = None) -> Dataset:
    """Everything, or the named attributes, in front of the pixel data of a file.

    raises  UnreadableFile, whatever its bytes are; OSError when the disk does not give the file
    """
    try:
        with path.open("rb") as file:
            deflated = deflated_data_set(path, file)
            wanted: Any = None if tags is None else [Tag(tag) for tag in tags]
            if deflated is None:
                return dcmread(file, stop_before_pixels=True, specific_tags=wanted)
            stream = BytesIO(inflate(deflated))
            return read_dataset(stream, False, True, stop_when=_at_pixels, specific_tags=wanted)
    except UnreadableFile:
        raise
    except OSError as error:
        if error.errno is not None:  # pydicom raises it for broken bytes too
            raise
        raise UnreadableFile(f"{path.name} breaks the DICOM encoding") from error
    except Exception as error:  # any bytes may arrive here, and the parser fails in many ways
        raise UnreadableFile(f"{path.name} breaks the DICOM encoding ({type(error).__name__})") from error


def _at_pixels(tag: int, vr: str | None, length: int) -> bool:
    return tag in PIXEL_TAGS


def deflated_data_set(path: Path, file: BinaryIO) -> BinaryIO | None:
    """The open file at the start of its data set when that is deflated; else None, and the file is at its own start.

    pydicom inflates without bound: such a file must never get there. Raises UnreadableFile, or what pydicom raises.
    """
    head = file.read(HEAD_BYTES)
    file.seek(0)
    if head[128:132] != b"DICM":
        if DEFLATED.encode() in head:
            raise UnreadableFile("is deflated and has no preamble")
        return None
    group_bytes = int.from_bytes(head[140:144], "little")
    in_head = head[132:140] == GROUP_LENGTH and 144 + group_bytes <= HEAD_BYTES
    if in_head and DEFLATED.encode() not in head[: 144 + group_bytes]:
        return None
    if str(read_file_meta_info(path).get("TransferSyntaxUID")) != DEFLATED:
        return None
    if head[132:140] != GROUP_LENGTH:
        raise UnreadableFile("is deflated and does not say where its data set begins")
    file.seek(144 + group_bytes)
    return file


def inflate(deflated: BinaryIO) -> bytes:
    """What a stream becomes, piece by piece. UnreadableFile when it is broken or becomes too much."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = BytesIO()
    try:
        while not inflater.eof and (piece := inflater.unconsumed_tail or deflated.read(INFLATE_STEP)):
            inflated.write(inflater.decompress(piece, INFLATE_STEP))
            if inflated.tell() > MAX_INFLATED:
                raise UnreadableFile(f"inflates to more than {MAX_INFLATED >> 20} MB")
    except zlib.error as error:
        raise UnreadableFile("cannot be inflated") from error
    return inflated.getvalue()


def _element(element: int, vr: bytes, text: str, padding: bytes) -> bytes:
    value = text.encode("ascii")
    value += padding * (len(value) % 2)
    return struct.pack("<HH2sH", 0x0002, element, vr, len(value)) + value
