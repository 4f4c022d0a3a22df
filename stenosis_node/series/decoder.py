"""The program of the decoding process, started by :mod:`stenosis_node.series.isolation`.

Decodes one frame per request until stdin ends. It imports nothing of the node: it starts for every series. What decodes
is a fork of it; when a frame takes that along, there is another at once, while a start takes most of a second.
"""

from __future__ import annotations

import ctypes
import json
import mmap
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

    A fork that ends inside of a decode is answered for with its exit code, and replaced. When it ends elsewhere, nobody
    knows what is left in the pipes, and the process ends too. SIGTERM ends both.
    """
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _end_with_parent()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # some libraries print to stdout
    decoding = mmap.mmap(-1, 1)  # shared with the forks: 1 inside of a decode
    fork = 0

    def end_both(*_: object) -> None:
        """It is reaped by the wait below: where nobody else does, as in a container, it would stay as a zombie."""
        if fork:
            os.kill(fork, signal.SIGKILL)

    signal.signal(signal.SIGTERM, end_both)
    write_message(answers, {}, b"")  # ready
    supervisor = os.getpid()
    while True:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        fork = os.fork()
        if not fork:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        if not fork:
            try:
                _end_with_parent()
                if os.getppid() == supervisor:
                    _serve(answers, decoding)
                    os._exit(0)
            finally:
                os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1])
        fork = 0
        if code in (0, -signal.SIGKILL) or not decoding[0]:
            sys.exit(code if code >= 0 else 128 - code)
        decoding[0] = 0
        write_message(answers, {"ended": code}, b"")


def _serve(answers: BinaryIO, decoding: mmap.mmap) -> None:
    while (request := read_message(sys.stdin.buffer)) is not None:
        head, encoded = request
        del request
        decoding[0] = 1
        answer, pixels = _decode(head, encoded)
        decoding[0] = 0
        write_message(answers, answer, pixels)
        del encoded, pixels  # not to be held beside the next one


def _decode(head: dict[str, Any], encoded: bytes) -> tuple[dict[str, Any], bytes]:
    try:
        array, _ = get_decoder(head["syntax"]).as_array(
            encoded, index=0, raw=True, decoding_plugin=head["plugin"], **head["options"]
        )
        return {"dtype": array.dtype.str, "shape": array.shape}, array.tobytes()
    except MemoryError:
        return {"error": "more memory is needed than a frame may take"}, b""
    except Exception as error:  # noqa: BLE001  decoders fail in their own ways on hostile bytes
        return {"error": short(error)}, b""


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
