"""The program of the decoding process, started by :mod:`stenosis_node.series.isolation`.

Decodes one frame per request until stdin ends. It imports nothing of the node: it starts for every series.
"""

from __future__ import annotations

import json
import os
import resource
import struct
import sys
from typing import Any, BinaryIO, Final

from pydicom.pixels.decoders.base import get_decoder

MAX_MEMORY_BYTES: Final = 4 << 30
"""Address space of this process; the largest frame that is taken needs a quarter of it."""
LENGTHS: Final = struct.Struct("<LL")
"""In front of each message: bytes of its JSON, bytes of what follows that."""


def main() -> None:
    """Serve requests: options of pydicom and an encapsulated frame, to dtype, shape and pixels, or an error."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # some libraries print to stdout
    write_message(answers, {}, b"")  # ready
    while (request := read_message(sys.stdin.buffer)) is not None:
        head, encoded = request
        try:
            array, _ = get_decoder(head["syntax"]).as_array(
                encoded, index=0, raw=True, decoding_plugin=head["plugin"], **head["options"]
            )
            write_message(answers, {"dtype": array.dtype.str, "shape": array.shape}, array.tobytes())
        except MemoryError:
            write_message(answers, {"error": "more memory is needed than a frame may take"}, b"")
        except Exception as error:  # noqa: BLE001  decoders fail in their own ways on hostile bytes
            write_message(answers, {"error": short(error)}, b"")


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
