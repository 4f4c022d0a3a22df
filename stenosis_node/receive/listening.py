"""The listening server."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable
from socketserver import BaseServer
from typing import Any, ClassVar

from pynetdicom.transport import ThreadedAssociationServer

from stenosis_node.receive.access import Door
from stenosis_node.receive.auditing import AssociationAudit
from stenosis_node.receive.fast_path import FastPath
from stenosis_node.wire import PeerSocket

log = logging.getLogger("stenosis_node.receive")


class AssociationServer(ThreadedAssociationServer):
    """pynetdicom's threaded server with our sockets, a bound on connections, and faults in the log."""

    request_queue_size: ClassVar[int] = 128  # type: ignore[misc]  # an attribute of socketserver.TCPServer
    limit_s: float
    door: Door
    audit: AssociationAudit
    max_connections: int
    secure: Callable[[socket.socket], socket.socket] | None = None
    """Makes a TLS connection of an accepted one; OSError when the peer does not go along. It runs in the connection's
    own thread, so that a silent peer holds up nobody; ``settimeout`` bounds the handshake as a whole."""

    fast_path: FastPath | None = None
    """What serves associations that only store or verify; None: pynetdicom serves all."""
    daemon_threads = True  # they are ended, and waited for, in stop()

    def __init__(self, *args: Any, **named: Any) -> None:
        self._served: dict[threading.Thread, socket.socket] = {}
        super().__init__(*args, **named)

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Accept one connection."""
        accepted, address = super().get_request()
        return PeerSocket.adopt(accepted, limit_s=self.limit_s), address

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection, in a thread of its own; pynetdicom's associations go on in threads of theirs."""
        thread = threading.current_thread()
        thread.name = "connection"
        self._served[thread] = request
        try:
            if self.secure is not None:
                request.settimeout(self.limit_s)
                request = self.secure(request)
                self._served[thread] = request
            if self.fast_path is not None and self.fast_path.serve(request, client_address[0]):
                self.shutdown_request(request)
            else:
                super().process_request_thread(request, client_address)
        except OSError as error:
            log.warning(
                "connection from %s closed: no TLS (%s)", client_address[0], error, extra={"event": "tls_failed"}
            )
            self.audit.turned_away(client_address[0], f"no TLS: {error}", is_abuse=True)
            self.shutdown_request(request)
        except Exception:  # noqa: BLE001  as the base class does
            self.handle_error(request, client_address)
            self.shutdown_request(request)
        finally:
            del self._served[thread]

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether this caller can be admitted at all, and there is room for one more connection."""
        if not self.door.admits_address(client_address[0]):
            return False
        if len(self.active_associations) + len(self._served) < self.max_connections:
            return True
        log.warning(
            "connection from %s closed: %d are open already",
            client_address[0],
            self.max_connections,
            extra={"event": "connection_refused"},
        )
        self.audit.turned_away(client_address[0], f"{self.max_connections} connections are open already")
        return False

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
