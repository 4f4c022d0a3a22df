"""What a compressed frame says of its own size, read before a decoder allocates memory for it."""

from __future__ import annotations

import struct

_START_OF_FRAME = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7})
"""JPEG (T.81) and JPEG-LS (T.87) frame headers."""
_JP2_CODESTREAM_BOX = b"jp2c"


def size_of(frame: bytes) -> tuple[int, int, int] | None:
    """(rows, columns, samples per pixel) of a JPEG, JPEG-LS or JPEG 2000 codestream; None when it is none of these."""
    try:
        if frame[:2] == b"\xff\xd8":
            return _jpeg(frame)
        if frame[:4] == b"\xff\x4f\xff\x51":
            return _jpeg_2000(frame)
        if frame[4:8] == b"jP  ":
            start = frame.find(_JP2_CODESTREAM_BOX, 0, 4096)
            return _jpeg_2000(frame[start + 4 : start + 128]) if start > 0 else None
    except struct.error:
        return None
    return None


def is_cut_off(frame: bytes) -> bool:
    """Whether a JPEG or JPEG-LS codestream lacks its end marker. CharLS spends half a minute on some of these."""
    return frame[:2] == b"\xff\xd8" and not frame.rstrip(b"\0").endswith(b"\xff\xd9")


def _jpeg_2000(frame: bytes) -> tuple[int, int, int]:
    """SIZ marker segment (T.800 A.5.1): image area is size minus offset."""
    width, height, left, top = struct.unpack_from(">IIII", frame, 8)
    (samples,) = struct.unpack_from(">H", frame, 40)
    return height - top, width - left, samples


def _jpeg(frame: bytes) -> tuple[int, int, int] | None:
    position = 2
    while position + 10 <= len(frame):
        if frame[position] != 0xFF:
            return None
        marker = frame[position + 1]
        if marker == 0xFF:
            position += 1
        elif marker in _START_OF_FRAME:
            rows, columns, samples = struct.unpack_from(">HHB", frame, position + 5)
            return rows, columns, samples
        elif marker == 0xD8 or 0xD0 <= marker <= 0xD7 or marker == 0x01:
            position += 2
        else:
            position += 2 + struct.unpack_from(">H", frame, position + 2)[0]
    return None
