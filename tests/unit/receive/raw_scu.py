"""A sender that does exactly what a test wants on the wire, also what no proper sender does."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterable
from types import TracebackType

from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, ImplementationClassUIDNotification, MaximumLengthNotification
from pynetdicom.presentation import build_context

MR = "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT = "1.2.840.10008.1.2.1"
A_RELEASE_RQ = b"\x05\0\0\0\0\x04\0\0\0\0"
A_ABORT = b"\x07\0\0\0\0\x04\0\0\0\0"


def associate_rq(
    called: str = "STENOSIS", calling: str = "RAW", contexts: Iterable[tuple[str, str]] = ((MR, EXPLICIT),)
) -> bytes:
    """An encoded A-ASSOCIATE-RQ."""
    request = A_ASSOCIATE()
    request.application_context_name = "1.2.840.10008.3.1.1.1"
    request.calling_ae_title, request.called_ae_title = calling, called
    proposed = []
    for number, (sop_class, syntax) in enumerate(contexts):
        context = build_context(sop_class, syntax)
        context.context_id = 2 * number + 1
        proposed.append(context)
    request.presentation_context_definition_list = proposed
    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    length.maximum_length_received = 16384
    implementation.implementation_class_uid = "1.2.3.4.5"
    request.user_information = [length, implementation]
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(request)
    return pdu.encode()


def p_data(context_id: int, control: int, fragment: bytes) -> bytes:
    """A P-DATA-TF with one PDV. control: 1 command, 2 last fragment."""
    return struct.pack(">BBLLBB", 4, 0, len(fragment) + 6, len(fragment) + 2, context_id, control) + fragment


def c_store_rq(sop_class: str, sop_instance: str, *, message_id: int = 1) -> bytes:
    """The command set of a C-STORE request, implicit VR little endian."""

    def element(number: int, value: bytes, padding: bytes = b"\0") -> bytes:
        value += padding * (len(value) % 2)
        return struct.pack("<HHL", 0, number, len(value)) + value

    body = (
        element(0x0002, sop_class.encode())
        + element(0x0100, struct.pack("<H", 1))
        + element(0x0110, struct.pack("<H", message_id))
        + element(0x0700, struct.pack("<H", 0))
        + element(0x0800, struct.pack("<H", 1))
        + element(0x1000, sop_instance.encode())
    )
    return element(0x0000, struct.pack("<L", len(body))) + body


class RawScu:
    """One connection."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)

    def __enter__(self) -> RawScu:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def associate(self, **options: object) -> bytes:
        """Send an A-ASSOCIATE-RQ; the answering PDU."""
        self.send(associate_rq(**options))  # type: ignore[arg-type]
        return self.read_pdu()

    def read_pdu(self) -> bytes:
        """The next PDU, or what came before the connection was closed."""
        head = self._read(6)
        return head + self._read(int.from_bytes(head[2:], "big")) if len(head) == 6 else head

    def seconds_until_closed(self, limit_s: float = 10) -> float:
        """How long the other side takes to end the connection."""
        begin = time.monotonic()
        self.socket.settimeout(limit_s)
        try:
            while self.socket.recv(65536):
                pass
        except TimeoutError as error:
            raise AssertionError(f"still open after {limit_s} s") from error
        except ConnectionError:
            pass
        return time.monotonic() - begin

    def send_until_closed(self, pieces: Iterable[bytes], *, pause_s: float) -> float:
        """Send piece by piece until the other side refuses more; how long that took."""
        begin = time.monotonic()
        for piece in pieces:
            try:
                self.send(piece)
            except ConnectionError:
                return time.monotonic() - begin
            time.sleep(pause_s)
        raise AssertionError("the other side took everything")

    def reset(self) -> None:
        """End the connection with RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            if not piece:
                break
            data += piece
        return data
