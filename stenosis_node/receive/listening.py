"""The listening server."""

from __future__ import annotations

import logging
import socket
from socketserver import BaseServer
from typing import Any, ClassVar

from pynetdicom.transport import ThreadedAssociationServer

from stenosis_node.wire import PeerSocket

log = logging.getLogger("stenosis_node.receive")


class AssociationServer(ThreadedAssociationServer):
    """pynetdicom's threaded server with our sockets, a bound on connections, and faults in the log."""

    request_queue_size: ClassVar[int] = 128  # type: ignore[misc]  # an attribute of socketserver.TCPServer
    limit_s: float
    max_connections: int

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Accept one connection."""
        accepted, address = super().get_request()
        return PeerSocket.adopt(accepted, limit_s=self.limit_s), address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is room for one more connection, associated or not."""
        if len(self.active_associations) < self.max_connections:
            return True
        log.warning(
            "connection from %s closed: %d are open already",
            client_address[0],
            self.max_connections,
            extra={"event": "connection_refused"},
        )
        return False

    def shutdown(self) -> None:
        """Stop accepting. pynetdicom's own version only works for servers that it started itself."""
        BaseServer.shutdown(self)
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what would otherwise go to standard error; called while the exception is handled."""
        log.exception(  # noqa: LOG004
            "connection from %s failed", client_address[0], extra={"event": "connection_failed"}
        )
