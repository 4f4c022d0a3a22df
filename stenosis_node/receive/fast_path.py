"""Associations that only store or verify, without pynetdicom's machinery per message.

pynetdicom spends about two milliseconds of CPU on each C-STORE: two polling threads per association, and its element
classes for a command set of ten elements. Here the thread of the connection reads with blocking calls straight into one
buffer, walks the command set and writes the response by hand. Negotiation is pynetdicom's own. Everything that is
policy is shared with the stock path: who is admitted (``OpenAssociations.admit``), which contexts are accepted, and
what is done with a complete instance (``Intake.take``).

The server asks :meth:`FastPath.serve` about each new connection and its A-ASSOCIATE-RQ, which is not consumed before;
what it does not serve goes on to pynetdicom untouched: other services, other protocol versions, whatever is malformed.
PDUs after PS3.8 section 9.3, command sets after PS3.7 annex E.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import socket
import struct
import time
from collections.abc import Iterable
from typing import Final, NamedTuple

from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
)
from pynetdicom.presentation import negotiate_as_acceptor

from stenosis_node.domain import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from stenosis_node.errors import NodeError, TransientError
from stenosis_node.failpoint import failpoint
from stenosis_node.receive.associations import MIN_BYTES_PER_S, OpenAssociation, OpenAssociations
from stenosis_node.receive.contexts import VERIFICATION, are_storage_only, supported_contexts
from stenosis_node.receive.intake import Answer, Incoming, Intake
from stenosis_node.spool import Arriving
from stenosis_node.wire import MAX_PDU_BYTES, P_DATA_TF, PeerSocket, SecurePeerSocket
from stenosis_node.wire.framing import HEAD_BYTES, SLACK_BYTES
from stenosis_node.wire.header import MissingUid

log = logging.getLogger("stenosis_node.receive")

Connection = PeerSocket | SecurePeerSocket

MAX_REQUEST_BYTES: Final = 1 << 16
"""Of an A-ASSOCIATE-RQ; what is longer is left to pynetdicom."""
MAX_COMMAND_BYTES: Final = 1 << 14
MIN_PDU_BYTES: Final = 1024
"""Our responses are shorter; a peer that takes less gets them in fragments, from pynetdicom."""
SPILL_BYTES: Final = 4 << 20
"""A larger data set goes to the disk while it arrives."""
PIECE_BYTES: Final = 1 << 20
"""In pieces of this size."""
LINGER_S: Final = 0.5
"""A peer that is told of an end gets this long to hang up first."""

A_ASSOCIATE_RQ_TYPE: Final = 1
VERSION: Final = b"\0\1"
"""Of the protocol: there is but one."""
A_RELEASE_RQ: Final = 5
A_ABORT: Final = 7
A_RELEASE_RP: Final = b"\x06\0\0\0\0\x04\0\0\0\0"

USER: Final = 0
PROVIDER: Final = 2
NO_REASON: Final = 0
UNRECOGNIZED_PDU: Final = 1
UNEXPECTED_PDU: Final = 2
INVALID_VALUE: Final = 6

C_STORE_RQ: Final = 0x0001
C_ECHO_RQ: Final = 0x0030
C_CANCEL_RQ: Final = 0x0FFF
RESPONSE: Final = 0x8000
NO_DATA_SET: Final = 0x0101

COMMAND: Final = 1
LAST: Final = 2
"""Bits of the message control header of a PDV."""

_ELEMENT = struct.Struct("<HHL")
_PDV_HEAD = struct.Struct(">BxLLBB")


class _Abort(Exception):
    """The association is to be aborted (PS3.8 section 9.3.8); the text says why."""

    def __init__(self, reason: int, text: str, *, source: int = PROVIDER) -> None:
        super().__init__(text)
        self.pdu = struct.pack(">BxLxxBB", A_ABORT, 4, source, reason)


class _Context(NamedTuple):
    """An accepted presentation context."""

    abstract_syntax: str
    transfer_syntax: str


class _Request(NamedTuple):
    """A C-STORE or C-ECHO request; UIDs as they came, with their padding."""

    context_id: int
    kind: int
    message_id: bytes
    sop_class: bytes
    sop_instance: bytes
    has_data_set: bool


class FastPath:
    """Serves the associations that it can; any number of threads at once."""

    def __init__(self, open_associations: OpenAssociations, intake: Intake, *, limit_s: float) -> None:
        """
        limit_s  longest silence, and longest time a PDU may take
        """
        self._open = open_associations
        self._intake = intake
        self._limit_s = limit_s

    def serve(self, connection: Connection, address: str, pdu: bytes) -> bool:
        """Serve a new connection until its association ends. False: nothing was read from it, and it is not for us.

        ``pdu``: the first one, which came as a whole and is still to be read.
        The caller closes the connection. It may end the wait for the peer from another thread, by shutting down its
        reading side: the association is then aborted as soon as the instance at hand is answered.
        """
        if pdu[0] != A_ASSOCIATE_RQ_TYPE or len(pdu) > MAX_REQUEST_BYTES or pdu[6:8] != VERSION:
            return False
        try:
            request = _decode(pdu)
            if request is None or not are_storage_only(request.presentation_context_definition_list):
                return False
            if any(0 < size < MIN_PDU_BYTES for size in _maximum_lengths(request)):
                return False
            connection.begin_pdu()
            connection.fill(memoryview(bytearray(len(pdu))))
            self._negotiate(connection, request, address)
        except (OSError, EOFError) as error:
            log.debug("connection from %s ended before its association: %s", address, error)
        return True

    def _negotiate(self, connection: Connection, request: A_ASSOCIATE, address: str) -> None:
        association = _Association(connection, self._open, self._intake, self._limit_s)
        admission = self._open.admit(
            association, called=request.called_ae_title, calling=request.calling_ae_title, address=address
        )
        record = self._open.get(association)
        if record is None:
            connection.sendall(struct.pack(">BxLxBBB", 3, 4, admission.result, admission.source, admission.diagnostic))
            _let_hang_up(connection)
            return
        try:
            contexts, answer = _accept(request)
            connection.sendall(answer)
            association.run(record, contexts)
        finally:
            association.end()


class _Association:
    """One association, in the thread of its connection."""

    def __init__(self, connection: Connection, open_: OpenAssociations, intake: Intake, limit_s: float) -> None:
        self._connection = connection
        self._open = open_
        self._intake = intake
        self._limit_s = limit_s
        self._is_alive = True
        self._head = memoryview(bytearray(HEAD_BYTES + 4))
        self._command = b""
        self._request: _Request | None = None  # whose data set is arriving
        self._incoming = Incoming("", "", "", None, 0)
        self._began = 0.0
        self._buffer: memoryview | None = None
        self._size = 0  # of the data set so far
        self._held = 0  # bytes of it in the buffer, from its third byte on
        self._spill: Arriving | None = None
        self._spilling = contextlib.ExitStack()
        self._fault: NodeError | None = None

    def is_alive(self) -> bool:
        """Whether the association is open."""
        return self._is_alive

    def end(self) -> None:
        """Leave nothing of an instance that did not arrive completely."""
        self._spilling.close()
        self._is_alive = False

    def run(self, record: OpenAssociation, contexts: dict[int, _Context]) -> None:
        """Serve until the association ends, and say how it did."""
        self._record = record
        self._contexts = contexts
        how = "aborted"
        try:
            while self._serve_pdu():
                pass
            how = "released"
        except (_Abort, TimeoutError) as error:
            log.warning("association from %s aborted: %s", record.calling_ae_title, error, extra={"event": "aborting"})
            self._abort(error.pdu if isinstance(error, _Abort) else _Abort(NO_REASON, "").pdu)
        except EOFError:  # the peer hung up, or we are to stop
            self._abort(_Abort(NO_REASON, "").pdu)
        except OSError as error:
            log.debug("connection to %s lost: %s", record.calling_ae_title, error)
        finally:
            self._open.say_ended(self, how)

    def _abort(self, pdu: bytes) -> None:
        with contextlib.suppress(OSError):
            self._connection.sendall(pdu)
            _let_hang_up(self._connection)

    # ----------------------------------------------------------------- PDUs

    def _serve_pdu(self) -> bool:
        """Read one PDU and do what it asks. False after the release."""
        connection, head = self._connection, self._head
        connection.begin_pdu()
        connection.fill(head)  # PDU head and the length of the first PDV; every other PDU ends there
        kind, length = head[0], int.from_bytes(head[2:6], "big")
        if kind != P_DATA_TF:
            return self._serve_control(kind, length)
        if length > MAX_PDU_BYTES + SLACK_BYTES:
            raise _Abort(INVALID_VALUE, f"a PDU claims {length} bytes; at most {MAX_PDU_BYTES} were agreed")
        left = length
        while True:
            size = int.from_bytes(head[6:10], "big")
            left -= 4 + size
            if size < 2 or left < 0:
                raise _Abort(INVALID_VALUE, "the length of a PDV does not fit into its PDU")
            self._serve_pdv(size)
            if not left:
                return True
            if left < 6:
                raise _Abort(INVALID_VALUE, "the PDVs of a PDU do not fill it")
            connection.fill(head[6:10])

    def _serve_control(self, kind: int, length: int) -> bool:
        """Every PDU but P-DATA-TF."""
        if kind in (A_RELEASE_RQ, A_ABORT) and length == 4:
            if kind == A_ABORT:
                raise ConnectionAbortedError("aborted by the peer")
            if self._request is not None or self._command:
                raise _Abort(UNEXPECTED_PDU, "a release is asked for inside of a message")
            self._connection.sendall(A_RELEASE_RP)
            _let_hang_up(self._connection)
            return False
        if 1 <= kind <= A_ABORT:
            raise _Abort(UNEXPECTED_PDU, f"a PDU of type {kind} came inside of an association")
        raise _Abort(UNRECOGNIZED_PDU, f"a PDU of the unknown type {kind} came")

    def _serve_pdv(self, size: int) -> None:
        """Read one PDV, context ID and control header included.

        It is read where the data set goes on. The two bytes in front of its fragment lie over the last two of the
        fragment before, which are put back.
        """
        buffer = self._room()
        at, end = self._held, self._held + size
        last_two = bytes(buffer[at : at + 2])
        self._connection.fill(buffer[at:end])
        context_id, control = buffer[at], buffer[at + 1]
        buffer[at : at + 2] = last_two
        context = self._contexts.get(context_id)
        if context is None:
            raise _Abort(INVALID_VALUE, f"presentation context {context_id} was not accepted")
        if control & COMMAND:
            self._add_command(bytes(buffer[at + 2 : end]), context_id, context, is_last=bool(control & LAST))
            return
        if self._request is None or self._request.context_id != context_id:
            raise _Abort(UNEXPECTED_PDU, "a data set came without a command")
        self._add_data(size - 2)
        if control & LAST:
            self._finish()

    # ----------------------------------------------------------------- commands

    def _add_command(self, fragment: bytes, context_id: int, context: _Context, *, is_last: bool) -> None:
        if self._request is not None:
            raise _Abort(UNEXPECTED_PDU, "a command came inside of a data set")
        self._command += fragment
        if len(self._command) > MAX_COMMAND_BYTES:
            raise _Abort(INVALID_VALUE, f"a command set has more than {MAX_COMMAND_BYTES} bytes")
        if not is_last:
            return
        request = _read_command(self._command, context_id)
        self._command = b""
        is_echo = context.abstract_syntax == VERIFICATION
        if request.kind == C_CANCEL_RQ:
            return
        if request.kind != (C_ECHO_RQ if is_echo else C_STORE_RQ) or (is_echo and request.has_data_set):
            raise _Abort(NO_REASON, f"command 0x{request.kind:04X} does not belong to its context", source=USER)
        if is_echo:
            self._connection.sendall(_response(request, Answer()))
            return
        self._request = request
        self._began = time.monotonic()
        self._size = self._held = 0
        self._incoming = Incoming(
            _text(request.sop_class), _text(request.sop_instance), context.transfer_syntax, None, 0
        )
        if not request.has_data_set:
            self._finish()

    # ----------------------------------------------------------------- data sets

    def _room(self) -> memoryview:
        """The buffer; it has room for a PDU behind what it holds."""
        if self._buffer is None:
            room = 2 + SPILL_BYTES + MAX_PDU_BYTES + SLACK_BYTES
            self._buffer = memoryview(mmap.mmap(-1, room))  # pages that are not used take no memory
        return self._buffer

    def _add_data(self, size: int) -> None:
        """Account for a fragment that lies in the buffer."""
        self._size += size
        self._held += size
        if self._size > self._intake.max_bytes or self._fault is not None:
            self._drop()
        elif self._held >= (PIECE_BYTES if self._spill is not None else SPILL_BYTES):
            self._spill_over()
        if time.monotonic() - self._began > self._limit_s + self._size / MIN_BYTES_PER_S:
            raise TimeoutError(f"an instance arrives at less than {MIN_BYTES_PER_S} bytes a second")

    def _spill_over(self) -> None:
        """Move what the buffer holds to the disk."""
        assert self._buffer is not None  # noqa: S101  it holds something
        try:
            if not self._intake.has_room(self._held):
                raise TransientError("the disk of the node is almost full")
            if self._spill is None:
                self._spill = self._spilling.enter_context(self._intake.spool.arriving())
                with contextlib.suppress(MissingUid):
                    self._spill.append(self._incoming.meta())
            self._spill.append(self._buffer[2 : 2 + self._held])
            self._held = 0
        except (NodeError, OSError) as error:
            self._fault = (
                error if isinstance(error, NodeError) else TransientError(f"the disk does not answer: {error}")
            )
            self._drop()

    def _drop(self) -> None:
        """Go on reading an instance that will be refused, but keep nothing of it."""
        self._spilling.close()
        self._spill = None
        self._held = 0

    def _finish(self) -> None:
        """Hand the instance on and answer."""
        request = self._request
        assert request is not None  # noqa: S101  somebody began
        dataset: memoryview | Arriving | None = None
        if request.has_data_set:
            if self._spill is not None and self._held:
                self._spill_over()
            dataset = self._spill if self._spill is not None else self._room()[2 : 2 + self._held]
        incoming = self._incoming.complete(dataset, self._size, self._fault)
        answer = self._intake.take(incoming, self._record)
        self._drop()
        self._request = self._fault = None
        self._connection.sendall(_response(request, answer))
        failpoint("receive.answered")


# --------------------------------------------------------------------------- negotiation


def _decode(pdu: bytes) -> A_ASSOCIATE | None:
    """None for what pynetdicom cannot read: it is then left to its own way of saying so."""
    try:
        request = A_ASSOCIATE_RQ()
        request.decode(pdu)
        return request.to_primitive()
    except Exception:  # noqa: BLE001  whatever its decoders raise
        return None


def _maximum_lengths(request: A_ASSOCIATE) -> Iterable[int]:
    return (i.maximum_length_received for i in request.user_information if isinstance(i, MaximumLengthNotification))


def _accept(request: A_ASSOCIATE) -> tuple[dict[int, _Context], bytes]:
    """Accepted contexts by ID, and the A-ASSOCIATE-AC.

    As in the stock path, only maximum length and implementation are answered. To leave out the other items of the
    request says: one operation at a time, default roles, no extended negotiation, no user identity (PS3.7 annex D.3.3).
    """
    roles = {
        item.sop_class_uid: (item.scu_role, item.scp_role)
        for item in request.user_information
        if isinstance(item, SCP_SCU_RoleSelectionNegotiation) and item.sop_class_uid
    }
    requested = request.presentation_context_definition_list
    results, _ = negotiate_as_acceptor(requested, supported_contexts(requested), roles)
    length = MaximumLengthNotification()
    length.maximum_length_received = MAX_PDU_BYTES
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    answer = A_ASSOCIATE()
    answer.application_context_name = request.application_context_name
    answer.calling_ae_title, answer.called_ae_title = request.calling_ae_title, request.called_ae_title
    answer.result, answer.result_source = 0, 1
    answer.presentation_context_definition_results_list = results
    answer.user_information = [length, implementation, version]
    pdu = A_ASSOCIATE_AC()
    pdu.from_primitive(answer)
    contexts = {
        int(c.context_id or 0): _Context(str(c.abstract_syntax), str(c.transfer_syntax[0]))
        for c in results
        if c.result == 0
    }
    return contexts, pdu.encode()


def _let_hang_up(connection: Connection) -> None:
    """Say that nothing follows, and read what is under way: to close before that would take back what was sent."""
    deadline = time.monotonic() + LINGER_S
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_WR)  # SSLSocket's own forgets how to read
        connection.settimeout(LINGER_S)
        for _ in range(16):  # not for ever, and not everything: then it is taken back
            if not socket.socket.recv(connection, MAX_REQUEST_BYTES) or time.monotonic() > deadline:
                break


# --------------------------------------------------------------------------- command sets


def _read_command(data: bytes, context_id: int) -> _Request:
    """A command set in implicit VR little endian."""
    found: dict[int, bytes] = {}
    position = 0
    try:
        while position < len(data):
            group, element, length = _ELEMENT.unpack_from(data, position)
            position += _ELEMENT.size + length
            if group or position > len(data):
                raise _Abort(INVALID_VALUE, "a command set breaks off, or holds an element of another group")
            found[element] = data[position - length : position]
        (kind,) = struct.unpack("<H", found[0x0100])
        (data_set_type,) = struct.unpack("<H", found[0x0800])
        message_id = found[0x0120 if kind == C_CANCEL_RQ else 0x0110]
    except (struct.error, KeyError):
        raise _Abort(INVALID_VALUE, "a command set is malformed, or lacks an element") from None
    return _Request(
        context_id=context_id,
        kind=kind,
        message_id=message_id,
        sop_class=found.get(0x0002, b""),
        sop_instance=found.get(0x1000, b""),
        has_data_set=data_set_type != NO_DATA_SET,
    )


def _response(request: _Request, answer: Answer) -> bytes:
    """P-DATA-TF with the response to a request."""
    body = b"".join(
        (
            _element(0x0002, request.sop_class),
            _element(0x0100, struct.pack("<H", request.kind | RESPONSE)),
            _element(0x0120, request.message_id),
            _element(0x0800, struct.pack("<H", NO_DATA_SET)),
            _element(0x0900, struct.pack("<H", answer.status)),
            _element(0x0902, answer.comment.encode("ascii", "replace"), b" ") if answer.comment else b"",
            _element(0x1000, request.sop_instance) if request.kind == C_STORE_RQ else b"",
        )
    )
    group = _element(0x0000, struct.pack("<L", len(body)))
    size = len(group) + len(body)
    return _PDV_HEAD.pack(P_DATA_TF, size + 6, size + 2, request.context_id, COMMAND | LAST) + group + body


def _element(number: int, value: bytes, padding: bytes = b"\0") -> bytes:
    value += padding * (len(value) % 2)
    return _ELEMENT.pack(0x0000, number, len(value)) + value


def _text(uid: bytes) -> str:
    return uid.rstrip(b"\0 ").decode("ascii", "replace")
