"""File meta information for received bytes.

It depends on nothing but the instance, so that an exact resend gives an identical file: no version of ours, no time, no
AE title of the sender.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info

from stenosis_node.domain import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME


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
        return FileMeta(
            str(meta.MediaStorageSOPClassUID), str(meta.MediaStorageSOPInstanceUID), str(meta.TransferSyntaxUID)
        )
    except (InvalidDicomError, AttributeError, ValueError, EOFError, struct.error) as error:
        raise UnreadableFile(f"{path.name} is no Part 10 file") from error


def _element(element: int, vr: bytes, text: str, padding: bytes) -> bytes:
    value = text.encode("ascii")
    value += padding * (len(value) % 2)
    return struct.pack("<HH2sH", 0x0002, element, vr, len(value)) + value
