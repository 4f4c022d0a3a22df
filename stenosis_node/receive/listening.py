"""The listening server."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from socketserver import BaseServer
from typing import Any, ClassVar, Final

from pynetdicom.transport import ThreadedAssociationServer

from stenosis_node.receive.access import MAX_REMEMBERED, MINUTE_S, Door
from stenosis_node.receive.auditing import AssociationAudit
from stenosis_node.receive.fast_path import FastPath
from stenosis_node.wire import PeerSocket
from stenosis_node.wire.framing import RefusedPdu

log = logging.getLogger("stenosis_node.receive")

REQUEST_S: Final = 10.0
"""A caller whose A-ASSOCIATE-RQ is not whole this long after TCP, or after the TLS handshake, is cut off."""


class AssociationServer(ThreadedAssociationServer):
    """pynetdicom's threaded server with our sockets, a bound on connections, and faults in the log."""

    request_queue_size: ClassVar[int] = 128  # type: ignore[misc]  # an attribute of socketserver.TCPServer
    limit_s: float
    door: Door
    audit: AssociationAudit
    max_connections: int
    """Where so many are open, one that is silent is closed for a new one, which is closed itself where none is."""

    secure: Callable[[socket.socket], socket.socket] | None = None
    """Makes a TLS connection of an accepted one; OSError when the peer does not go along. It runs in the connection's
    own thread, so that a silent peer holds up nobody; ``settimeout`` bounds the handshake as a whole."""

    fast_path: FastPath | None = None
    """What serves associations that only store or verify; None: pynetdicom serves all."""
    daemon_threads = True  # they are ended, and waited for, in stop()

    def __init__(self, *args: Any, **named: Any) -> None:
        self._served: dict[threading.Thread, socket.socket] = {}
        self._silent = SilentConnections()
        self._news = News()
        super().__init__(*args, **named)

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Accept one connection."""
        accepted, address = super().get_request()
        return PeerSocket.adopt(accepted, limit_s=self.limit_s), address

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection, in a thread of its own; pynetdicom's associations go on in threads of theirs.

        Either path gets it when its first PDU is there as a whole: who only connects never costs more than this thread.
        """
        thread = threading.current_thread()
        thread.name = "connection"
        accepted, address = request, client_address[0]
        self._served[thread] = request
        try:
            if self.secure is not None:
                request.settimeout(self.limit_s)
                try:
                    request = self.secure(request)
                except OSError as error:
                    self._turn_away(address, f"no TLS ({error})", "tls_failed", is_abuse=True)
                    self.shutdown_request(request)
                    return
                self._served[thread] = request
            pdu = request.await_pdu(min(REQUEST_S, self.limit_s))
            self._silent.remove(accepted)
            if self.fast_path is not None and self.fast_path.serve(request, address, pdu):
                self.shutdown_request(request)
            else:
                super().process_request_thread(request, client_address)
        except RefusedPdu as error:
            self._turn_away(address, str(error), "request_refused", is_abuse=True)
            self.shutdown_request(request)
        except (OSError, EOFError) as error:
            log.debug("connection from %s ended before its association: %s", address, error)
            self.shutdown_request(request)
        except Exception:  # noqa: BLE001  as the base class does
            self.handle_error(request, client_address)
            self.shutdown_request(request)
        finally:
            self._silent.remove(accepted)
            del self._served[thread]

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether this caller can be admitted at all, and there is, or can be made, room for one more connection."""
        address = client_address[0]
        if not self.door.admits_address(address):
            return False
        n_open = len(self.active_associations) + len(self._served)
        if n_open >= self.max_connections and not self._silent.close_one():
            self._turn_away(address, f"{self.max_connections} connections are open already", "connection_refused")
            return False
        try:
            self._silent.add(request, address, is_consumed=self.secure is not None)
        except OSError as error:
            self._turn_away(address, f"no room for it ({error.strerror})", "connection_refused")
            return False
        return True

    def shutdown_request(self, request: Any) -> None:
        """As the base class; it is no longer among those that could be closed from outside."""
        self._silent.remove(request)
        super().shutdown_request(request)

    def shutdown(self) -> None:
        """Stop accepting. pynetdicom's own version only works for servers that it started itself."""
        BaseServer.shutdown(self)
        self.server_close()

    def end_connections(self, limit_s: float) -> None:
        """End the connections of which this object has the thread, each after the instance at hand is answered."""
        served = list(self._served.items())
        for _, connection in served:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RD)
        deadline = time.monotonic() + limit_s
        for thread, _ in served:
            thread.join(max(0.0, deadline - time.monotonic()))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what would otherwise go to standard error; called while the exception is handled."""
        log.exception(  # noqa: LOG004
            "connection from %s failed", client_address[0], extra={"event": "connection_failed"}
        )

    def _turn_away(self, address: str, why: str, event: str, *, is_abuse: bool = False) -> None:
        """Say that a connection is closed, and why: once a minute for an address and a reason."""
        n_untold = self._news.tell(address, why)
        if n_untold is not None:
            since = f" ({n_untold} more like this since it was last said)" if n_untold else ""
            log.warning("connection from %s closed: %s%s", address, why, since, extra={"event": event})
        self.audit.turned_away(address, why, is_abuse=is_abuse)


class SilentConnections:
    """Connections over which no association was asked for yet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[socket.socket, tuple[socket.socket, str]] = {}  # the oldest first

    def add(self, connection: socket.socket, address: str, *, is_consumed: bool = False) -> None:
        """Keep a connection until :meth:`remove`, which has to come before anyone closes it.

        is_consumed  it will be used up, as by TLS: a duplicate serves to close it. OSError when there can be none
        """
        handle = connection.dup() if is_consumed else connection
        with self._lock:
            self._open[connection] = handle, address

    def remove(self, connection: socket.socket) -> None:
        """A request came, or the connection is about to be closed. Any number of times."""
        with self._lock:
            handle, _ = self._open.pop(connection, (connection, ""))
        if handle is not connection:
            handle.close()

    def close_one(self) -> bool:
        """End the oldest connection of the address that has the most; its own thread then closes it.

        False when there is none. An address that opens many takes the places from itself, as long as others have fewer.
        """
        with self._lock:
            if not self._open:
                return False
            n_open = Counter(address for _, address in self._open.values())
            connection = max(self._open, key=lambda c: n_open[self._open[c][1]])
            handle, _ = self._open.pop(connection)
            with contextlib.suppress(OSError):  # the peer was faster
                socket.socket.shutdown(handle, socket.SHUT_RDWR)
        if handle is not connection:
            handle.close()
        return True


class News:
    """Tells what is new from what an address did less than a minute ago, and counts that."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._told: dict[tuple[str, str], tuple[float, int]] = {}

    def tell(self, address: str, what: str) -> int | None:
        """None when it was told less than a minute ago; otherwise how often it came untold since it last was."""
        with self._lock:
            now = self._clock()
            told_at, n_untold = self._told.pop((address, what), (now - MINUTE_S, 0))
            is_news = now - told_at >= MINUTE_S
            self._told[address, what] = (now, 0) if is_news else (told_at, n_untold + 1)
            if len(self._told) > MAX_REMEMBERED:
                del self._told[next(iter(self._told))]
            return n_untold if is_news else None
