"""The TCP connection to a DICOM peer, in either direction: no stalls, no endless waits, no endless PDUs.

pynetdicom reads PDUs with plain blocking calls and asks nothing of the kernel. What a node in a hospital needs beyond
that is added where the standard library lets one: in the socket object that pynetdicom reads from.
"""

from __future__ import annotations

import socket
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


class PeerSocket(socket.socket):
    """A connected socket that watches the PDU framing of what is read from it.

    * TCP_QUICKACK is armed at each PDU. A sender that leaves Nagle's algorithm on (DCMTK's default) holds the last
      piece of a PDU back until all before it is acknowledged; the kernel would delay that acknowledgement by 40 ms.
    * A PDU longer than we advertised ends the connection before it is read: the advertised maximum is only a request.
    * A PDU must arrive within ``limit_s``, however small the pieces; silence is bounded by the kernel (SO_RCVTIMEO).
    """

    _limit_s: float
    _head: bytes = b""
    _body_left: int = 0
    _deadline: float = 0.0

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

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """As socket.recv. OSError when framing or time limit are broken; pynetdicom then closes the connection."""
        data = super().recv(bufsize, flags)
        size = len(data)
        if 0 < size <= self._body_left:
            self._body_left -= size
            if time.monotonic() > self._deadline:
                raise TimeoutError(f"a PDU did not arrive within {self._limit_s:g} s")
        else:
            self._follow(data)
        return data

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
                self._deadline = time.monotonic() + self._limit_s
                if hasattr(socket, "TCP_QUICKACK"):
                    self.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            missing = HEAD_BYTES - len(self._head)
            self._head, data = self._head + data[:missing], data[missing:]
            if len(self._head) < HEAD_BYTES:
                break
            kind, length = self._head[0], int.from_bytes(self._head[2:], "big")
            self._head = b""
            if length > (MAX_PDU_BYTES + SLACK_BYTES if kind == P_DATA_TF else MAX_CONTROL_PDU_BYTES):
                raise OSError(f"a PDU of type {kind} claims {length} bytes; at most {MAX_PDU_BYTES} were agreed")
            self._body_left = length
        if time.monotonic() > self._deadline:
            raise TimeoutError(f"a PDU did not arrive within {self._limit_s:g} s")
