"""The TCP connection to a DICOM peer, in either direction: no stalls, no endless waits, no endless PDUs.

pynetdicom reads PDUs with plain blocking calls and asks nothing of the kernel. What a node in a hospital needs beyond
that is added where the standard library lets one: in the socket object that pynetdicom reads from.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from typing import Final

MAX_PDU_BYTES: Final = 131_072
"""Advertised maximum length; the largest DCMTK senders make use of."""
SLACK_BYTES: Final = 4_096
"""Some senders count the heads of PDU or PDV in, some do not."""
MAX_CONTROL_PDU_BYTES: Final = 1 << 20
"""Of every PDU that carries no data; the largest legitimate A-ASSOCIATE-RQ has a few hundred kB."""
P_DATA_TF: Final = 4
HEAD_BYTES: Final = 6


class _Watch(socket.socket):
    """Watches the PDU framing of what is read from a connected socket.

    * TCP_QUICKACK is armed at each PDU. A sender that leaves Nagle's algorithm on (DCMTK's default) holds the last
      piece of a PDU back until all before it is acknowledged; the kernel would delay that acknowledgement by 40 ms.
    * A PDU longer than we advertised ends the connection before it is read: the advertised maximum is only a request.
    * A PDU must arrive within ``limit_s``, however small the pieces; silence is bounded too.

    ``recv`` follows the PDUs by itself. Who reads by :meth:`fill` says where they begin, and looks at their length.
    """

    _limit_s: float
    _head: bytes = b""
    _body_left: int = 0
    _deadline: float = 0.0

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """As socket.recv. OSError when framing or time limit are broken; pynetdicom then closes the connection."""
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
            kind, length = self._head[0], int.from_bytes(self._head[2:], "big")
            self._head = b""
            if length > (MAX_PDU_BYTES + SLACK_BYTES if kind == P_DATA_TF else MAX_CONTROL_PDU_BYTES):
                raise OSError(f"a PDU of type {kind} claims {length} bytes; at most {MAX_PDU_BYTES} were agreed")
            self._body_left = length
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
        bound = struct.pack("ll", int(limit_s), int(limit_s % 1 * 1_000_000))
        self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, bound)
        self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, bound)
        return self

    def peek(self, size: int) -> bytes:
        """The next bytes, which stay to be read; fewer than ``size`` when they do not come within the limit."""
        try:
            return socket.socket.recv(self, size, socket.MSG_PEEK | socket.MSG_WAITALL)
        except BlockingIOError:  # what SO_RCVTIMEO looks like
            return b""

    def fill(self, view: memoryview) -> None:
        """See the base class. One call of the kernel where the bytes come in time."""
        self._check_deadline()
        try:
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

    SSL cannot look ahead: what was peeked is kept here and read again first. Its waits are bounded by ``settimeout``,
    which also bounds the handshake as a whole.
    """

    _ahead: bytes = b""

    def watch(self, *, limit_s: float) -> SecurePeerSocket:
        """To be called once, after the handshake. The socket itself, for convenience."""
        self._limit_s = limit_s
        self.settimeout(limit_s)
        return self

    def peek(self, size: int) -> bytes:
        """As :meth:`PeerSocket.peek`."""
        deadline = time.monotonic() + self._limit_s
        while len(self._ahead) < size and time.monotonic() < deadline:
            try:
                data = ssl.SSLSocket.recv(self, size - len(self._ahead))
            except TimeoutError:
                break
            if not data:
                break
            self._ahead += data
        return self._ahead[:size]

    def recv(self, bufsize: int = 1024, flags: int = 0, /) -> bytes:
        """See the base class."""
        if not self._ahead:
            return super().recv(bufsize, flags)
        data, self._ahead = self._ahead[:bufsize], self._ahead[bufsize:]
        self._follow(data)
        return data

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
