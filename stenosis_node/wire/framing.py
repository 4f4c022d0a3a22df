"""The TCP connection to a DICOM peer, in either direction: no stalls, no endless waits, no endless PDUs.

pynetdicom reads PDUs with plain blocking calls and asks nothing of the kernel. What a node in a hospital needs beyond
that is added where the standard library lets one: in the socket object that pynetdicom reads from.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from typing import Final

MAX_PDU_BYTES: Final = 131_072
"""Advertised maximum length; the largest DCMTK senders make use of."""
SLACK_BYTES: Final = 4_096
"""Some senders count the heads of PDU or PDV in, some do not."""
MAX_CONTROL_PDU_BYTES: Final = 1 << 18
"""Of every PDU that carries no data. The longest that a caller can mean is an A-ASSOCIATE-RQ of 128 contexts, each with
all of the about sixty transfer syntaxes that there are: with UIDs of 22 characters 128 x (38 + 60 x 26) bytes, 205 kB.
Only if each UID had 64 characters would it be 530 kB."""
MAX_CONTEXTS: Final = 128
"""Presentation context IDs are the odd numbers of one byte (PS3.8 table 9-13)."""
MAX_ITEMS: Final = MAX_CONTEXTS * 64
"""Of an A-ASSOCIATE-RQ, on all levels. pynetdicom takes 0.1 ms for each, during which others compete with it."""
A_ASSOCIATE_RQ: Final = 1
P_DATA_TF: Final = 4
A_ABORT: Final = 7
"""The last of the PDU types."""
HEAD_BYTES: Final = 6
PEEK_BYTES: Final = 1 << 16
"""As many can be looked at in the kernel's buffer whatever its size may be."""

_ITEMS_AT: Final = 74
_CONTEXT: Final = 0x20
_ITEMS_WITHIN: Final = {_CONTEXT: 8, 0x50: 4}
"""Items that consist of items, and where those begin: presentation context and user information."""


class RefusedPdu(OSError):
    """A PDU breaks a limit, and is not to be read. The text says which limit, and nothing that the peer chooses."""


def check_request(pdu: bytes) -> None:
    """RefusedPdu when an A-ASSOCIATE-RQ holds more contexts, or more items, than pynetdicom should decode.

    Item by item as pynetdicom does, which like this gives up at the first that does not fit into what holds it.
    """
    contexts = items = 0
    for kind, at, after in _items(pdu, _ITEMS_AT, len(pdu)):
        contexts += kind == _CONTEXT
        items += 1
        if kind in _ITEMS_WITHIN:
            items += sum(1 for _ in _items(pdu, at + _ITEMS_WITHIN[kind], after))
        if contexts > MAX_CONTEXTS or items > MAX_ITEMS:
            raise RefusedPdu(f"it asks for more than {MAX_CONTEXTS} contexts, or by more than {MAX_ITEMS} items")


def _items(pdu: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Type, begin and end of each item."""
    while at + 4 <= end:
        after = at + 4 + int.from_bytes(pdu[at + 2 : at + 4], "big")
        if after > end:
            return
        yield pdu[at], at, after
        at = after


def _body_bytes(head: bytes) -> int:
    """Length of a PDU without its head. RefusedPdu when it is more than it may be."""
    kind, length = head[0], int.from_bytes(head[2:HEAD_BYTES], "big")
    limit = MAX_PDU_BYTES + SLACK_BYTES if kind == P_DATA_TF else MAX_CONTROL_PDU_BYTES
    if length > limit:
        raise RefusedPdu(f"a PDU claims more than the {limit} bytes that are taken")
    return length


class _Watch(socket.socket):
    """Watches the PDU framing of what is read from a connected socket.

    * TCP_QUICKACK is armed at each PDU. A sender that leaves Nagle's algorithm on (DCMTK's default) holds the last
      piece of a PDU back until all before it is acknowledged; the kernel would delay that acknowledgement by 40 ms.
    * A PDU longer than we advertised ends the connection before it is read: the advertised maximum is only a request.
    * A PDU must arrive within ``limit_s``, however small the pieces; silence is bounded too.

    ``recv`` follows the PDUs by itself. Who reads by :meth:`fill` says where they begin, and looks at their length.
    """

    _limit_s: float
    _ahead: bytes = b""
    """What was taken out of the kernel's buffer to look at it, and stays to be read."""
    _head: bytes = b""
    _body_left: int = 0
    _deadline: float = 0.0

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """As socket.recv. OSError when framing or time limit are broken; pynetdicom then closes the connection."""
        if self._ahead:
            data, self._ahead = self._ahead[:bufsize], self._ahead[bufsize:]
            self._follow(data)
            return data
        data = super().recv(bufsize, flags)
        size = len(data)
        if 0 < size <= self._body_left:
            self._body_left -= size
            self._check_deadline()
        else:
            self._follow(data)
        return data

    def begin_pdu(self) -> None:
        """The next byte is the first of a PDU: what :meth:`fill` reads from now on has to come within the limit.

        Silence before a PDU counts as part of it.
        """
        self._deadline = time.monotonic() + self._limit_s
        if hasattr(socket, "TCP_QUICKACK"):
            self.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def fill(self, view: memoryview) -> None:
        """Read until ``view`` is full. EOFError when the peer hangs up before, TimeoutError when it takes too long."""
        raise NotImplementedError

    def await_pdu(self, limit_s: float) -> bytes:
        """The first PDU, which stays to be read; only its head when it is of no type that PS3.8 knows.

        EOFError when it has not come as a whole after ``limit_s``, RefusedPdu when it will not be taken.
        """
        deadline = time.monotonic() + limit_s
        head = self._peek(HEAD_BYTES, deadline)
        if len(head) < HEAD_BYTES:
            raise EOFError("no association was asked for")
        if not A_ASSOCIATE_RQ <= head[0] <= A_ABORT:
            return head
        size = HEAD_BYTES + _body_bytes(head)
        pdu = self._peek(size, deadline)
        if len(pdu) < size:
            raise EOFError("the association request breaks off")
        if head[0] == A_ASSOCIATE_RQ:
            check_request(pdu)
        return pdu

    def _peek(self, size: int, deadline: float) -> bytes:
        """The next bytes, which stay to be read; fewer than ``size`` when they do not come in time."""
        raise NotImplementedError

    def _check_deadline(self) -> None:
        if time.monotonic() > self._deadline:
            raise TimeoutError(f"a PDU did not arrive within {self._limit_s:g} s")

    def _follow(self, data: bytes) -> None:
        """Read the heads of the PDUs that begin in these bytes."""
        if not data:
            return  # the peer closed the connection
        while data:
            if self._body_left:
                taken = min(self._body_left, len(data))
                self._body_left -= taken
                data = data[taken:]
                continue
            if not self._head:
                self.begin_pdu()
            missing = HEAD_BYTES - len(self._head)
            self._head, data = self._head + data[:missing], data[missing:]
            if len(self._head) < HEAD_BYTES:
                break
            self._body_left = _body_bytes(self._head)
            self._head = b""
        self._check_deadline()


class PeerSocket(_Watch):
    """A connected socket whose framing is watched."""

    @classmethod
    def adopt(cls, connected: socket.socket, *, limit_s: float) -> PeerSocket:
        """Take over the descriptor of a connected socket and set its options."""
        self = cls(fileno=connected.detach())
        self._limit_s = limit_s
        self.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._bound(socket.SO_RCVTIMEO, limit_s)
        self._bound(socket.SO_SNDTIMEO, limit_s)
        return self

    def _bound(self, which: int, limit_s: float) -> None:
        self.setsockopt(socket.SOL_SOCKET, which, struct.pack("ll", int(limit_s), int(limit_s % 1 * 1_000_000)))

    def _peek(self, size: int, deadline: float) -> bytes:
        """See the base class. What the kernel's buffer might not hold is taken out of it.

        Its last bytes stay there: pynetdicom asks the kernel whether there is something to read.
        """
        try:
            while size - len(self._ahead) > PEEK_BYTES:
                self._bound(socket.SO_RCVTIMEO, max(deadline - time.monotonic(), 0.001))
                data = socket.socket.recv(self, size - len(self._ahead) - PEEK_BYTES)
                if not data or time.monotonic() > deadline:
                    break
                self._ahead += data
            self._bound(socket.SO_RCVTIMEO, max(deadline - time.monotonic(), 0.001))
            left = socket.socket.recv(self, size - len(self._ahead), socket.MSG_PEEK | socket.MSG_WAITALL)
        except BlockingIOError:  # what SO_RCVTIMEO looks like
            return b""
        self._bound(socket.SO_RCVTIMEO, self._limit_s)
        return self._ahead + left

    def fill(self, view: memoryview) -> None:
        """See the base class. One call of the kernel where the bytes come in time."""
        self._check_deadline()
        try:
            got = min(len(self._ahead), len(view))
            if got:
                view[:got], self._ahead = self._ahead[:got], self._ahead[got:]
            else:
                got = self.recv_into(view, 0, socket.MSG_WAITALL)
            while got < len(view):
                self._check_deadline()
                more = self.recv_into(view[got:], 0, socket.MSG_WAITALL)
                if not more:
                    raise EOFError("the peer hung up")
                got += more
        except BlockingIOError:
            raise TimeoutError(f"nothing came for {self._limit_s:g} s") from None


class SecurePeerSocket(_Watch, ssl.SSLSocket):
    """The same over TLS: ``SSLContext.sslsocket_class`` makes a context use it.

    SSL cannot look ahead: what was peeked is kept and read again first. Its waits are bounded by ``settimeout``,
    which also bounds the handshake as a whole.
    """

    def watch(self, *, limit_s: float) -> SecurePeerSocket:
        """To be called once, after the handshake. The socket itself, for convenience."""
        self._limit_s = limit_s
        self.settimeout(limit_s)
        return self

    def _peek(self, size: int, deadline: float) -> bytes:
        """See the base class."""
        with contextlib.suppress(TimeoutError):
            while (missing := size - len(self._ahead)) > 0:
                self.settimeout(max(deadline - time.monotonic(), 0.001))
                data = ssl.SSLSocket.recv(self, missing)
                if not data or time.monotonic() > deadline:
                    break
                self._ahead += data
        self.settimeout(self._limit_s)
        return self._ahead[:size]

    def recv(self, bufsize: int = 1024, flags: int = 0, /) -> bytes:
        """See the base class."""
        return super().recv(bufsize, flags)

    def pending(self) -> int:
        """As SSLSocket.pending: bytes that can be read although the kernel has none."""
        return len(self._ahead) + super().pending()

    def fill(self, view: memoryview) -> None:
        """See the base class."""
        got = min(len(self._ahead), len(view))
        view[:got], self._ahead = self._ahead[:got], self._ahead[got:]
        while got < len(view):
            self._check_deadline()
            more = self.recv_into(view[got:])
            if not more:
                raise EOFError("the peer hung up")
            got += more
