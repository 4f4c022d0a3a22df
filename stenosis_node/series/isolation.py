"""Decoding of compressed frames in a process of its own.

The decoders are libraries in C++, C and Rust, and some bytes make them abort, hang, or ask for all the memory there is.
What such bytes cost is then one frame, and never the grading process and with it the study.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from io import BytesIO
from types import TracebackType
from typing import Any, BinaryIO, Final, cast

import numpy as np

from stenosis_node.series import decoder
from stenosis_node.series.decoder import LENGTHS, read_message, write_message

LIMIT_S: Final = 20.0
"""Longest time for one frame; a frame of 4096 x 4096 pixels takes about a second."""
START_LIMIT_S: Final = 120.0
STOP_S: Final = 5.0
"""For the process to end; it does nothing but wait."""
MAX_TIMEOUTS: Final = 5
"""After so many frames that took too long, the other compressed frames of a series are given up too."""
ATTEMPTS: Final = 2
"""The process may also end for reasons that have nothing to do with the frame."""

Array = np.ndarray[Any, np.dtype[Any]]


class Undecodable(Exception):
    """The frame has no usable pixels; the text continues "the slice cannot be read: "."""


class _Ended(Exception):
    """The process ended before it answered. ``code``: of the fork that decoded, when another has taken its place."""

    def __init__(self, code: int | None = None) -> None:
        super().__init__(code)
        self.code = code


class DecoderProcess:
    """Decodes frames one at a time; the process is started for the first, and again when it has ended or hangs.

    It ends with the thread that asked first.
    """

    def __init__(self, *, limit_s: float = LIMIT_S) -> None:
        self._limit_s = limit_s
        self._timeouts = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> DecoderProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def decode(self, encoded: bytes, *, syntax: str, plugin: str, options: dict[str, Any]) -> Array:
        """Stored values of the one frame in ``encoded``, which is encapsulated. Raises Undecodable."""
        if self._timeouts >= MAX_TIMEOUTS:
            raise Undecodable("the decoder took too long for other slices of the series")
        request = {"syntax": syntax, "plugin": plugin, "options": options}
        for attempt in range(ATTEMPTS):
            try:
                answer, pixels = self._ask(request, encoded)
                break
            except TimeoutError:
                self._timeouts += 1
                self._end()
                raise Undecodable(f"its pixel data takes the decoder longer than {self._limit_s:g} s") from None
            except _Ended as error:
                code = self._end() if error.code is None else error.code
                if attempt + 1 == ATTEMPTS:
                    raise Undecodable(f"its pixel data ends the decoder (code {code})") from error
        if "error" in answer:
            raise Undecodable(f"its pixel data cannot be decoded ({answer['error']})")
        return np.frombuffer(pixels, dtype=np.dtype(answer["dtype"])).reshape(answer["shape"])

    def _ask(self, request: dict[str, Any], encoded: bytes) -> tuple[dict[str, Any], bytes]:
        if self._process is None:
            self._process = _start()
            _message(self._process, START_LIMIT_S)
        assert self._process.stdin is not None  # noqa: S101  PIPE was asked for
        try:
            write_message(cast(BinaryIO, self._process.stdin), request, encoded)
        except OSError as error:
            raise _Ended from error
        answer, pixels = _message(self._process, self._limit_s)
        if "ended" in answer:
            raise _Ended(answer["ended"])
        return answer, pixels

    def _end(self) -> int:
        """Exit code of the process; negative when a signal ended it."""
        process, self._process = self._process, None
        if process is None:
            return 0
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018  PIPE was asked for
        try:
            code = process.wait(0.5 if process.poll() is None and _is_at_end(process.stdout.fileno()) else 0)
        except subprocess.TimeoutExpired:
            process.terminate()  # it ends and reaps its fork
            try:
                code = process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
        process.stdout.close()
        with contextlib.suppress(OSError):  # what was written last is still in the buffer
            process.stdin.close()
        return code


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", decoder.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # threads it does not use count as address space
    )


def _message(process: subprocess.Popen[bytes], limit_s: float) -> tuple[dict[str, Any], bytes]:
    """What the process says next; TimeoutError, _Ended."""
    assert process.stdout is not None  # noqa: S101  PIPE was asked for
    deadline = time.monotonic() + limit_s
    lengths = _read(process.stdout.fileno(), LENGTHS.size, deadline)
    body = _read(process.stdout.fileno(), sum(LENGTHS.unpack(lengths)), deadline)
    try:
        message = read_message(BytesIO(lengths + body))
    except ValueError:  # a decoder that has lost its mind
        raise _Ended from None
    assert message is not None  # noqa: S101  it was read whole
    return message


def _is_at_end(descriptor: int) -> bool:
    readable, _, _ = select.select([descriptor], [], [], 0)
    return bool(readable)


def _read(descriptor: int, size: int, deadline: float) -> bytes:
    """So many bytes; TimeoutError, _Ended."""
    pieces: list[bytes] = []
    while size:
        left = deadline - time.monotonic()
        ready, _, _ = select.select([descriptor], [], [], max(0.0, left))
        if not ready or left < 0:
            raise TimeoutError
        piece = os.read(descriptor, min(size, 1 << 20))
        if not piece:
            raise _Ended
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)
