"""The program of the decoding process, started by :mod:`stenosis_node.series.isolation`.

Decodes one frame per request until stdin ends. It imports nothing of the node: it starts for every series. What decodes
is a fork of it; when a frame takes that along, the next fork is there in milliseconds, while a start takes a second.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import struct
import sys
from typing import Any, BinaryIO, Final

from pydicom.pixels.decoders.base import get_decoder

MAX_MEMORY_BYTES: Final = 4 << 30
"""Address space of this process; the largest frame that is taken needs a quarter of it."""
LENGTHS: Final = struct.Struct("<LL")
"""In front of each message: bytes of its JSON, bytes of what follows that."""
PR_SET_PDEATHSIG: Final = 1
"""For prctl(2)."""


def main() -> None:
    """Serve requests: options of pydicom and an encapsulated frame, to dtype, shape and pixels, or an error.

    An answer has the number of its request. A fork that ended is told of with its exit code, and without a number.
    """
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _end_with_parent()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # some libraries print to stdout
    write_message(answers, {}, b"")  # ready
    supervisor = os.getpid()
    while True:
        child = os.fork()
        if not child:
            try:
                _end_with_parent()
                if os.getppid() == supervisor:
                    _serve(answers)
                    os._exit(0)
            finally:
                os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code in (0, -signal.SIGKILL):  # all is done, or it was ended from outside, perhaps inside of a request
            sys.exit(code and 1)
        write_message(answers, {"ended": code}, b"")


def _serve(answers: BinaryIO) -> None:
    while (request := read_message(sys.stdin.buffer)) is not None:
        head, encoded = request
        number = head["number"]
        try:
            array, _ = get_decoder(head["syntax"]).as_array(
                encoded, index=0, raw=True, decoding_plugin=head["plugin"], **head["options"]
            )
            found = {"number": number, "dtype": array.dtype.str, "shape": array.shape}
            write_message(answers, found, array.tobytes())
        except MemoryError:
            write_message(answers, {"number": number, "error": "more memory is needed than a frame may take"}, b"")
        except Exception as error:  # noqa: BLE001  decoders fail in their own ways on hostile bytes
            write_message(answers, {"number": number, "error": short(error)}, b"")


def _end_with_parent() -> None:
    """A decoder that hangs notices nothing else."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def read_message(stream: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """The next message; None when the stream ends."""
    lengths = stream.read(LENGTHS.size)
    if len(lengths) < LENGTHS.size:
        return None
    n_head, n_body = LENGTHS.unpack(lengths)
    head = stream.read(n_head)
    body = stream.read(n_body)
    return (json.loads(head), body) if len(body) == n_body else None


def write_message(stream: BinaryIO, head: dict[str, Any], body: bytes) -> None:
    """Write one message."""
    encoded = json.dumps(head).encode()
    stream.write(LENGTHS.pack(len(encoded), len(body)) + encoded)
    stream.write(body)
    stream.flush()


def short(error: BaseException) -> str:
    """The last line of a library's complaint, or its class."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines or "NoneType" in lines[-1]:  # gdcm says no more than that it failed
        return type(error).__name__
    return lines[-1][:120]


if __name__ == "__main__":
    main()
