"""Pixels of single frames of an open file, by decoders without GPL parts. Sizes are checked before memory is taken.

Frames without compression are read here; the others are decoded in a process of their own.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from pydicom.datadict import tag_for_keyword
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from stenosis_node.domain import Pixels
from stenosis_node.series.attributes import Attributes, frame_attributes
from stenosis_node.series.codestream import is_cut_off, size_of
from stenosis_node.series.decoder import short
from stenosis_node.series.files import OpenInstance, is_disk_error
from stenosis_node.series.isolation import DecoderProcess, Undecodable

DECODERS: Final[dict[str, str]] = {
    JPEGBaseline8Bit: "gdcm",
    JPEGExtended12Bit: "gdcm",
    JPEGLossless: "gdcm",
    JPEGLosslessSV1: "gdcm",
    JPEGLSLossless: "pyjpegls",
    JPEGLSNearLossless: "pyjpegls",
    JPEG2000Lossless: "pylibjpeg",  # its openjpeg plugin
    JPEG2000: "pylibjpeg",
    HTJ2KLossless: "pylibjpeg",
    HTJ2KLosslessRPCL: "pylibjpeg",
    HTJ2K: "pylibjpeg",
    RLELossless: "pylibjpeg",  # its rle plugin
}
"""Transfer syntax to the plugin of pydicom that decodes it; named, so that an installed GPL plugin is never picked."""

NATIVE: Final = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"})
MAX_SIDE: Final = 8192
MAX_FRAME_BYTES: Final = 1 << 27

_KEYWORDS: Final = """
    Rows Columns BitsAllocated BitsStored HighBit PixelRepresentation SamplesPerPixel PhotometricInterpretation
    NumberOfFrames RescaleSlope RescaleIntercept ModalityLUTSequence ExtendedOffsetTable ExtendedOffsetTableLengths
    SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence
"""
PIXEL_TAGS_NEEDED: Final = tuple(tag for keyword in _KEYWORDS.split() if (tag := tag_for_keyword(keyword)) is not None)


class FrameReader:
    """Decodes frames of one open instance, one at a time."""

    def __init__(self, opened: OpenInstance, decoders: DecoderProcess) -> None:
        """Raises Undecodable when no frame of the instance can be decoded, whatever its bytes."""
        self._opened = opened
        self._decoders = decoders
        self._top = Attributes(opened.header)
        self._frames = tuple(frame_attributes(opened.header))
        if opened.pixel_offset is None or opened.pixel_length == 0:
            raise Undecodable("no pixel data in the file")
        self.n_frames = max(1, int(self._top.number("NumberOfFrames") or 1))
        self._options = self._pixel_options()
        syntax = opened.transfer_syntax_uid
        if syntax not in NATIVE and syntax not in DECODERS:
            raise Undecodable(f"transfer syntax {syntax} is not supported")

    def read(self, frame_number: int) -> Pixels:
        """float32 ``[rows, columns]`` of a frame (1-based), rescaled, bright is bright. Raises Undecodable."""
        if not 1 <= frame_number <= self.n_frames:
            raise Undecodable(f"frame {frame_number} of {self.n_frames}")
        stored = self._stored(frame_number - 1)
        if stored.shape != (self._options["rows"], self._options["columns"]):
            raise Undecodable(f"the decoder returned an image of shape {stored.shape}")
        pixels = self._rescale(stored, frame_number)
        if self._options["photometric_interpretation"] == "MONOCHROME1":
            pixels = pixels.max() + pixels.min() - pixels
        return np.ascontiguousarray(pixels, dtype=np.float32)

    def _pixel_options(self) -> dict[str, Any]:
        top = self._top
        rows, columns = top.integer("Rows") or 0, top.integer("Columns") or 0
        photometric = (top.words("PhotometricInterpretation") or ("MONOCHROME2",))[0]
        allocated = top.integer("BitsAllocated") or 0
        if not (0 < rows <= MAX_SIDE and 0 < columns <= MAX_SIDE):
            raise Undecodable(f"an image of {rows} x {columns} pixels is refused")
        if (top.integer("SamplesPerPixel") or 1) != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
            raise Undecodable(f"not a grey-scale image ({photometric})")
        if allocated not in (8, 16, 32):
            raise Undecodable(f"{allocated} bits allocated per pixel are not supported")
        if rows * columns * allocated // 8 > MAX_FRAME_BYTES:
            raise Undecodable(f"an image of {rows} x {columns} pixels is refused")
        options = {
            "rows": rows,
            "columns": columns,
            "bits_allocated": allocated,
            "bits_stored": top.integer("BitsStored") or allocated,
            "pixel_representation": top.integer("PixelRepresentation") or 0,
            "samples_per_pixel": 1,
            "photometric_interpretation": photometric,
            "number_of_frames": self.n_frames,
            "pixel_keyword": "PixelData",
        }
        if self._opened.transfer_syntax_uid in NATIVE:
            options["pixel_vr"] = "OW"
        return options

    def _frame_bytes(self) -> int:
        return int(self._options["rows"] * self._options["columns"] * self._options["bits_allocated"] // 8)

    def _stored(self, index: int) -> np.ndarray[Any, np.dtype[Any]]:
        syntax, options = self._opened.transfer_syntax_uid, {**self._options, "number_of_frames": 1}
        if syntax not in NATIVE:
            return self._decoders.decode(self._encoded(index), syntax=syntax, plugin=DECODERS[syntax], options=options)
        native = self._native(index)
        try:
            array, _ = get_decoder(syntax).as_array(native, index=0, raw=True, **options)
        except Exception as error:  # of headers that contradict themselves
            raise Undecodable(f"its pixel data cannot be decoded ({short(error)})") from error
        return array

    def _native(self, index: int) -> bytes:
        size = self._frame_bytes()
        there = self._opened.pixel_bytes - index * size
        if there < size:
            raise Undecodable(f"its pixel data breaks off ({max(0, there)} of {size} bytes are there)")
        self._opened.stream.seek(self._pixel_offset + index * size)
        return self._opened.stream.read(size)

    def _encoded(self, index: int) -> bytes:
        """One compressed frame, encapsulated again by itself."""
        offsets = [self._top.values(name) for name in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")]
        extended = (offsets[0][0], offsets[1][0]) if all(offsets) else None
        self._opened.stream.seek(self._pixel_offset)
        try:
            frame = get_frame(self._opened.stream, index, number_of_frames=self.n_frames, extended_offsets=extended)
        except Exception as error:  # broken fragments and offset tables fail in many ways
            if is_disk_error(error):
                raise
            raise Undecodable(f"its compressed pixel data breaks off ({short(error)})") from error
        if is_cut_off(frame) or not frame:
            raise Undecodable("its compressed pixel data breaks off (no end marker)")
        rows, columns = self._options["rows"], self._options["columns"]
        size = (rows, columns, 1) if self._opened.transfer_syntax_uid == RLELossless else size_of(frame)
        if size is None:  # a decoder would look for one further on, and take memory for what it finds
            raise Undecodable("its compressed data does not begin with the size of an image")
        if size != (rows, columns, 1):
            raise Undecodable(
                f"its compressed data holds {size[0]} x {size[1]} pixels of {size[2]} samples, "
                f"the header says {rows} x {columns}"
            )
        return encapsulate([frame], has_bot=False)

    @property
    def _pixel_offset(self) -> int:
        return self._opened.pixel_offset or 0

    def _rescale(self, stored: np.ndarray[Any, np.dtype[Any]], frame_number: int) -> Pixels:
        """Modality LUT or rescale (PS3.3 C.11.1); of enhanced frames the Pixel Value Transformation."""
        header = self._opened.header
        if self._top.items("ModalityLUTSequence"):
            try:
                return np.asarray(apply_modality_lut(stored, header), dtype=np.float32)
            except Exception as error:  # a broken table
                raise Undecodable(f"its Modality LUT cannot be applied ({short(error)})") from error
        frame = self._frames[frame_number - 1] if frame_number <= len(self._frames) else self._top
        slope, intercept = frame.number("RescaleSlope"), frame.number("RescaleIntercept")
        slope = slope if slope else 1.0
        pixels = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept or 0.0)
        if not math.isfinite(float(pixels.sum(dtype=np.float64))):
            raise Undecodable("its rescaled pixels are not finite")
        return pixels
