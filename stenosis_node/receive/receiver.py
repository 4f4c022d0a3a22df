"""The storage provider itself: what happens on each association and each C-STORE."""

from __future__ import annotations

import errno
import logging
import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final, cast

from pydicom.dataset import Dataset
from pynetdicom import AE, _config, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import EventHandlerType
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.presentation import PresentationContext

from stenosis_node.config import Config
from stenosis_node.domain import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from stenosis_node.errors import ConfigError, NodeError
from stenosis_node.failpoint import failpoint
from stenosis_node.jobs import JobStore
from stenosis_node.receive.access import NO_REASON, SERVICE_USER, TRANSIENT, Admission, Door
from stenosis_node.receive.associations import OpenAssociations
from stenosis_node.receive.auditing import AssociationAudit
from stenosis_node.receive.commitment import CommitmentReports
from stenosis_node.receive.contexts import VERIFICATION, supported_contexts, unknown_as_storage
from stenosis_node.receive.fast_path import FastPath
from stenosis_node.receive.intake import SUCCESS, Incoming, Intake
from stenosis_node.receive.listening import AssociationServer
from stenosis_node.spool import Spool
from stenosis_node.wire import MAX_PDU_BYTES
from stenosis_node.wire.tls import CallersTls

log = logging.getLogger("stenosis_node.receive")

POSTPONE_EVERY_S: Final = 1.0
POSTPONE_BY_S: Final = 3.0
"""A study with an open association stays open this much longer than the last tick."""
STOP_S: Final = 5.0

UNDECIDED: Final = Admission(False, TRANSIENT, SERVICE_USER, NO_REASON)
"""The access rules could not be asked."""


class Receiver:
    """C-STORE and C-ECHO provider. Success is answered when bytes and row are durable, never before.

    ``spool`` and ``store`` stay the caller's: they are used from the threads of the associations, and not closed here.
    """

    def __init__(
        self,
        config: Config,
        spool: Spool,
        store: JobStore,
        *,
        secure: Callable[[socket.socket], socket.socket] | None = None,
    ) -> None:
        """
        secure  makes a TLS connection of an accepted one, see :class:`AssociationServer`; None: as [receive.tls] says
        """
        self._secure = CallersTls(config.receive.tls).secure if secure is None and config.receive.tls.is_on else secure
        self._rules = config.receive
        self._store = store
        self._intake = Intake(config, spool, store)
        self._audit = AssociationAudit(config)
        self._door = Door(config, turned_away=self._audit.turned_away)
        self._open = OpenAssociations(config.receive, self._door, self._audit)
        self._reports = CommitmentReports(config, store)
        self._stopping = threading.Event()
        self._server: AssociationServer | None = None
        self._threads: list[threading.Thread] = []

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return self._rules.port

    def start(self) -> None:
        """Listen and serve on threads; returns at once. ConfigError when the address cannot be bound."""
        _silence_pynetdicom()
        self._server = self._listen()
        self._threads = [
            threading.Thread(target=self._server.serve_forever, args=(0.2,), name="accept", daemon=True),
            threading.Thread(target=self._keep_studies_open, name="open-studies", daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        self._audit.start()
        log.info(
            "listening as %s on %s port %d",
            self._rules.ae_title,
            self._rules.host,
            self._rules.port,
            extra={"event": "listening"},
        )

    def stop(self) -> None:
        """Take no more associations, abort the open ones, finish what is being committed. Idempotent."""
        if self._server is None:
            return
        self._stopping.set()
        self._server.shutdown()
        aborting = [threading.Thread(target=a.abort, daemon=True) for a in self._server.active_associations]
        for thread in aborting:
            thread.start()
        self._server.end_connections(STOP_S)
        for thread in [*aborting, *self._threads]:
            thread.join(STOP_S)
        self._server = None
        self._audit.stop()
        log.info("stopped listening", extra={"event": "stopped"})

    def serve_forever(self, stop: threading.Event) -> None:
        """Serve until ``stop`` is set. RuntimeError when the accepting thread died: the supervisor then restarts us."""
        self.start()
        try:
            while not stop.wait(1.0):
                if not all(thread.is_alive() for thread in self._threads):
                    raise RuntimeError("a thread of the receiver ended unexpectedly")
        finally:
            self.stop()

    # ----------------------------------------------------------------- set-up

    def _listen(self) -> AssociationServer:
        ae = AE(self._rules.ae_title)
        ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        ae.maximum_pdu_size = MAX_PDU_BYTES
        ae.maximum_associations = 2 * self._rules.max_associations + 16  # the limit that counts is in admit()
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = self._rules.network_timeout_s
        ae.add_supported_context(VERIFICATION)
        handlers: list[EventHandlerType] = [
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_SOP_COMMON, lambda event: unknown_as_storage(_contexts(event))),
            (evt.EVT_DATA_RECV, self._open.measure),
            (evt.EVT_C_ECHO, lambda event: SUCCESS),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_N_EVENT_REPORT, self._reports.answer),
            (evt.EVT_PDU_SENT, _on_sent),
            (evt.EVT_RELEASED, lambda event: self._open.say_ended(event.assoc, "released")),
            (evt.EVT_ABORTED, lambda event: self._open.say_ended(event.assoc, "aborted")),
            (evt.EVT_CONN_CLOSE, _stop_waiting),
        ]
        where = f"{self._rules.host} port {self._rules.port}"
        try:
            server = ae.make_server(
                (self._rules.host, self._rules.port), evt_handlers=handlers, server_class=AssociationServer
            )
        except socket.gaierror as error:
            raise ConfigError(f"receive.host: {self._rules.host!r} is no address of this machine ({error})") from error
        except OSError as error:
            match error.errno:
                case errno.EADDRINUSE:
                    text = f"receive.port: {where} is in use by another program; stop it or choose another port"
                case errno.EACCES:
                    text = f"receive.port: no permission to listen on {where}; choose a port of 1024 or above"
                case _:
                    text = f"receive.host: cannot listen on {where}: {error.strerror}"
            raise ConfigError(text) from error
        assert isinstance(server, AssociationServer)  # noqa: S101  what server_class asked for
        server.secure = self._secure
        if self._rules.fast_path:
            server.fast_path = FastPath(self._open, self._intake, limit_s=self._rules.network_timeout_s)
        server.limit_s = self._rules.network_timeout_s
        server.door = self._door
        server.audit = self._audit
        server.max_connections = ae.maximum_associations
        return server

    # ----------------------------------------------------------------- associations

    def _on_requested(self, event: evt.Event) -> None:
        """Admit or reject, and accept every storage context that is asked for. What goes wrong here admits nobody.

        pynetdicom swallows an exception of this handler and then accepts the association by itself.
        """
        try:
            admission = self._admit(event)
        except Exception:
            log.exception("an association is rejected, for it could not be decided on", extra={"event": "admit_failed"})
            admission = UNDECIDED
        if not admission.accepted:
            association = event.assoc
            association.is_rejected = True
            try:
                association.acse.send_reject(admission.result, admission.source, admission.diagnostic)
            finally:
                association.kill()

    def _admit(self, event: evt.Event) -> Admission:
        association = event.assoc
        request = cast(A_ASSOCIATE, association.requestor.primitive)
        where = association.requestor.address_info
        address = "an unknown address" if where is None else where.address
        calling = request.calling_ae_title
        admission = self._open.admit(association, called=request.called_ae_title, calling=calling, address=address)
        if admission.accepted:
            association.acceptor.supported_contexts = supported_contexts(
                _contexts(event), commitment_reports=self._reports.are_taken(association, calling)
            )
        return admission

    def _keep_studies_open(self) -> None:
        """A study does not close under an association that still carries it."""
        while not self._stopping.wait(POSTPONE_EVERY_S):
            studies = self._open.studies()
            now = datetime.now(UTC)
            try:
                if studies:
                    self._store.postpone_open(studies, until=now + timedelta(seconds=POSTPONE_BY_S), now=now)
            except NodeError as error:
                log.warning("studies of open associations not postponed: %s", error, extra={"event": "postpone_failed"})

    # ----------------------------------------------------------------- services

    def _on_store(self, event: evt.Event) -> Dataset | int:
        """Status of a C-STORE request; every failure has an Error Comment."""
        record = self._open.get(event.assoc)
        assert record is not None  # noqa: S101  only admitted associations get this far
        request = cast(C_STORE, event.request)
        dataset = None if request.DataSet is None else event.encoded_dataset(include_meta=False)
        incoming = Incoming(
            sop_class=str(request.AffectedSOPClassUID),
            sop_instance=str(request.AffectedSOPInstanceUID),
            transfer_syntax=str(event.context.transfer_syntax),
            dataset=dataset,
            size_bytes=max(record.dataset_bytes, 0 if dataset is None else len(dataset)),
        )
        answer = self._intake.take(incoming, record)
        if answer.status == SUCCESS:
            return SUCCESS
        response = Dataset()
        response.Status = answer.status
        response.ErrorComment = answer.comment
        return response


def _contexts(event: evt.Event) -> list[PresentationContext]:
    return cast(A_ASSOCIATE, event.assoc.requestor.primitive).presentation_context_definition_list


def _on_sent(event: evt.Event) -> None:
    """A response has left."""
    if isinstance(event.pdu, P_DATA_TF):
        failpoint("receive.answered")


def _stop_waiting(event: evt.Event) -> None:
    """Wake the thread that waits for the request of a connection which is closed.

    pynetdicom would let it wait until acse_timeout: whoever sends anything but a request, and hangs up, would hold the
    place of a connection meanwhile. None is also what a wait that took too long ends with.
    """
    if event.assoc.requestor.primitive is None:
        event.assoc.dul.to_user_queue.put(None)


def _silence_pynetdicom() -> None:
    """pynetdicom logs every PDU, and a port scan as an error with a traceback; what an administrator needs we log.

    Both switches are its documented ones and hold for the process, which does nothing but receive.
    """
    _config.LOG_HANDLER_LEVEL = "none"
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
