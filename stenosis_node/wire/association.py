"""An association with a peer, every step of it bounded by the peer's time limit, every failure one of our errors."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Final

from pydicom.uid import UID
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.events import EventHandlerType
from pynetdicom.pdu_primitives import A_ASSOCIATE, SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext

from stenosis_node.config import Peer
from stenosis_node.domain import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from stenosis_node.errors import ConfigError, PermanentError, TransientError
from stenosis_node.wire import MAX_PDU_BYTES, PeerSocket, SecurePeerSocket
from stenosis_node.wire.tls import PeerContext, peer_context, why_not_with_peer

ACCEPTED: Final = 0
REJECTED_PERMANENT: Final = 1
SERVICE_USER: Final = 1
CALLING_NOT_RECOGNISED: Final = 3
CALLED_NOT_RECOGNISED: Final = 7


def describe(peer: Peer) -> str:
    """How a peer is named in sentences."""
    if peer.protocol == "dicomweb":
        return (peer.url or "").partition("?")[0]
    return f"{peer.ae_title} at {peer.host} port {peer.port}{' over TLS' if peer.tls else ''}"


@contextlib.contextmanager
def associate(
    peer: Peer,
    contexts: Sequence[PresentationContext],
    *,
    calling_ae_title: str,
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
    handlers: Sequence[EventHandlerType] = (),
) -> Iterator[Association]:
    """An established association; released at the end, aborted when the body raises. Over TLS if the peer says so.

    roles     proposed for SOP classes of which we are the provider
    handlers  for what the peer asks of us while one of our own requests is under way
    raises  TransientError (not reachable, rejected for now, aborted, no answer), PermanentError (rejected for good)
    """
    _silence_pynetdicom()
    ae = AE(calling_ae_title)
    ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    ae.maximum_pdu_size = MAX_PDU_BYTES
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = peer.timeout_s
    connected = threading.Event()
    ae_title, host, port = peer.dimse
    tls = _tls(peer)
    try:
        association = ae.associate(
            host,
            port,
            contexts=list(contexts),
            ae_title=ae_title,
            max_pdu=MAX_PDU_BYTES,
            ext_neg=list(roles),
            evt_handlers=[(evt.EVT_CONN_OPEN, _on_connected, [peer.timeout_s, connected]), *handlers],
            tls_args=None if tls is None else (tls, peer.server_name or host),
        )
    except OSError as error:
        raise TransientError(f"{peer.host} cannot be resolved ({error}): check the host of the peer") from error
    if not association.is_established:
        failure = None if tls is None else tls.failure
        if failure is not None and (no_tls := _no_tls(peer, failure, connected)) is not None:
            raise no_tls from failure
        if not connected.is_set():
            raise _no_connection(peer)
        raise _why_not(association, peer, calling_ae_title)
    try:
        yield association
    except BaseException:
        if association.is_established:
            association.abort()
        raise
    if association.is_established:
        association.release()


@contextlib.contextmanager
def time_limit(association: Association, limit_s: float) -> Iterator[None]:
    """End the connection when the block takes longer.

    A peer that takes the bytes in driblets makes pynetdicom wait without bound, even to send its abort: what ends that
    is to close the connection under it.
    """
    timer = threading.Timer(limit_s, hang_up, [association])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def hang_up(association: Association) -> None:
    """Close the connection under whoever waits for the peer, from any thread."""
    wrapper = association.dul.socket
    connected = None if wrapper is None else wrapper.socket
    if connected is not None:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(connected, socket.SHUT_RDWR)  # SSLSocket's own would go on without encryption


class _Requestor(DIMSEServiceProvider):
    """Keeps a message until the one who asked for it comes.

    An association's own thread polls for requests of the peer, and on a busy machine it sometimes is faster than the
    thread that waits for a response: pynetdicom then throws the response away, and a stored document looks like one
    that was never answered. A requestor serves no requests from this queue.
    """

    def get_msg(self, block: bool = False) -> Any:
        """As the base class, but who polls gets nothing."""
        return super().get_msg(block=True) if block else (None, None)


def _tls(peer: Peer) -> PeerContext | None:
    try:
        return peer_context(peer) if peer.tls else None
    except ConfigError as error:  # files that may be about to be replaced
        raise TransientError(f"no TLS with {describe(peer)}: {error}") from error


def _no_tls(peer: Peer, failure: OSError, connected: threading.Event) -> TransientError | PermanentError | None:
    """The error that tells what TLS stumbled over; None when it was the network."""
    found = why_not_with_peer(failure)
    if found is not None:
        sentence, for_good = found
        return (PermanentError if for_good else TransientError)(f"{describe(peer)} {sentence}")
    if connected.is_set():
        return None
    how = f"within {peer.timeout_s:g} s" if isinstance(failure, TimeoutError) else "but hung up"
    return TransientError(f"{describe(peer)} did not finish the TLS handshake {how}: does it speak TLS on this port?")


def _no_connection(peer: Peer) -> TransientError:
    """The error that tells a closed port from silence; pynetdicom keeps the cause to itself."""
    try:
        socket.create_connection((peer.host, peer.port), timeout=min(peer.timeout_s, 3.0)).close()
    except ConnectionRefusedError:
        return TransientError(f"{describe(peer)} refused the connection: nothing listens there; is it up?")
    except OSError as error:
        if not isinstance(error, TimeoutError) and error.strerror:
            return TransientError(f"no connection to {describe(peer)}: {error.strerror}")
    return TransientError(f"no connection to {describe(peer)} within {peer.timeout_s:g} s: is it up and reachable?")


def _why_not(association: Association, peer: Peer, calling: str) -> TransientError | PermanentError:
    """The error that tells why a peer we are connected to gave no association."""
    answer = association.acceptor.primitive
    if answer is None:
        # a peer that rejects and hangs up before the negotiating thread looks: pynetdicom leaves the answer unread
        unread: object = association.dul.receive_pdu()
        answer = unread if isinstance(unread, A_ASSOCIATE) and unread.result != ACCEPTED else None
    if answer is None or (answer.result == ACCEPTED and association.accepted_contexts):
        hint = "; does it accept our certificate?" if peer.tls else "; if it speaks TLS alone, set tls = true"
        return TransientError(f"{describe(peer)} aborted or did not answer the association request{hint}")
    if answer.result == ACCEPTED:  # but not one context, so pynetdicom gave it up
        classes = dict.fromkeys(UID(str(c.abstract_syntax)).name for c in association.requestor.requested_contexts)
        return PermanentError(
            f"{describe(peer)} does not accept {', nor '.join(classes)}; nothing was sent: enable them there"
        )
    permanent = answer.result == REJECTED_PERMANENT
    reason = answer.diagnostic if answer.result_source == SERVICE_USER else None
    if permanent and reason == CALLED_NOT_RECOGNISED:
        return PermanentError(
            f"{describe(peer)} does not know the called AE title {peer.ae_title!r}: correct ae_title of the peer"
        )
    if permanent and reason == CALLING_NOT_RECOGNISED:
        return PermanentError(
            f"{describe(peer)} does not accept the calling AE title {calling!r}: register it there, or set "
            "calling_ae_title of the peer"
        )
    # archives also say "permanently, no reason given" while they start or are full, and attempts are limited anyway
    kind = "permanently" if permanent else "for now"
    return TransientError(f"{describe(peer)} rejected the association {kind} ({answer.reason_str.strip()})")


def _on_connected(event: evt.Event, timeout_s: float, connected: threading.Event) -> None:
    """From now on every wait for the peer is bounded, and every response reaches who waits for it."""
    connected.set()
    event.assoc.dimse = _Requestor(event.assoc)
    wrapper = event.assoc.dul.socket
    if wrapper is None or wrapper.socket is None:
        return
    if isinstance(wrapper.socket, SecurePeerSocket):
        wrapper.socket.watch(limit_s=timeout_s)
    else:
        wrapper.socket = PeerSocket.adopt(wrapper.socket, limit_s=timeout_s)


def _silence_pynetdicom() -> None:
    """What the peer did is in our errors; pynetdicom would log it once more, as tracebacks. Its documented switches."""
    _config.LOG_HANDLER_LEVEL = "none"
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
