"""The storage provider itself: what happens on each association and each C-STORE."""

from __future__ import annotations

import errno
import logging
import socket
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, cast

from pydicom.dataset import Dataset
from pynetdicom import AE, _config, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import EventHandlerType
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.presentation import PresentationContext

from stenosis_node.config import Config
from stenosis_node.domain import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, ReceivedInstance
from stenosis_node.errors import ConfigError, NodeError
from stenosis_node.failpoint import failpoint
from stenosis_node.jobs import MR_CLASSES, JobStore
from stenosis_node.receive.associations import OpenAssociation, OpenAssociations
from stenosis_node.receive.commit import Arrival, Committer
from stenosis_node.receive.commitment import CommitmentReports
from stenosis_node.receive.contexts import supported_contexts, unknown_as_storage
from stenosis_node.receive.listening import AssociationServer
from stenosis_node.spool import PutOutcome, Spool
from stenosis_node.wire import MAX_PDU_BYTES
from stenosis_node.wire.header import MissingUid, UnreadableHeader, read_uids
from stenosis_node.wire.part10 import file_meta

log = logging.getLogger("stenosis_node.receive")

SUCCESS: Final = 0x0000
PROCESSING_FAILURE: Final = 0x0110
OUT_OF_RESOURCES: Final = 0xA700
DOES_NOT_MATCH: Final = 0xA900
CANNOT_UNDERSTAND: Final = 0xC000

VERIFICATION: Final = "1.2.840.10008.1.1"

POSTPONE_EVERY_S: Final = 1.0
POSTPONE_BY_S: Final = 3.0
"""A study with an open association stays open this much longer than the last tick."""
STOP_S: Final = 5.0


class _Refused(Exception):
    """The instance is answered with a failure status. ``comment``: at most 64 ASCII characters (PS3.7 C.4)."""

    def __init__(self, status: int, comment: str) -> None:
        super().__init__(comment)
        self.status = status
        self.comment = comment


class Receiver:
    """C-STORE and C-ECHO provider. Success is answered when bytes and row are durable, never before.

    ``spool`` and ``store`` stay the caller's: they are used from the threads of the associations, and not closed here.
    """

    def __init__(self, config: Config, spool: Spool, store: JobStore) -> None:
        self._rules = config.receive
        self._jobs = config.jobs
        self._spool = spool
        self._store = store
        self._open = OpenAssociations(config.receive)
        self._reports = CommitmentReports(config, store)
        self._stopping = threading.Event()
        self._server: AssociationServer | None = None
        self._committer = Committer(self._touch)
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
        for thread in [*aborting, *self._threads]:
            thread.join(STOP_S)
        self._server = None
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
            (evt.EVT_RELEASED, self._on_closed, ["released"]),
            (evt.EVT_ABORTED, self._on_closed, ["aborted"]),
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
        server.limit_s = self._rules.network_timeout_s
        server.max_connections = ae.maximum_associations
        return server

    # ----------------------------------------------------------------- associations

    def _on_requested(self, event: evt.Event) -> None:
        """Admit or reject, and accept every storage context that is asked for."""
        association = event.assoc
        request = cast(A_ASSOCIATE, association.requestor.primitive)
        where = association.requestor.address_info
        address = "an unknown address" if where is None else where.address
        calling = request.calling_ae_title
        admission = self._open.admit(association, called=request.called_ae_title, calling=calling, address=address)
        if not admission.accepted:
            log.warning(
                "association from %s rejected: %s", address, admission.sentence, extra={"event": "association_rejected"}
            )
            association.acse.send_reject(admission.result, admission.source, admission.diagnostic)
            association.is_rejected = True
            association.kill()
            return
        association.acceptor.supported_contexts = supported_contexts(
            _contexts(event), commitment_reports=self._reports.are_taken(association, calling)
        )
        log.info("association from %s at %s accepted", calling, address, extra={"event": "association_accepted"})

    def _on_closed(self, event: evt.Event, how: str) -> None:
        record = self._open.get(event.assoc)
        if record is not None:
            log.info(
                "association from %s %s: %d instances stored, %d refused",
                record.calling_ae_title,
                how,
                record.stored,
                record.refused,
                extra={"event": f"association_{how}"},
            )

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
        """Status of a C-STORE request; every failure is logged with its reason and has an Error Comment."""
        record = self._open.get(event.assoc)
        assert record is not None  # noqa: S101  only admitted associations get this far
        uid = str(cast(C_STORE, event.request).AffectedSOPInstanceUID)
        try:
            self._store_instance(event, record)
        except _Refused as refused:
            status, comment = refused.status, refused.comment
            log.warning("instance %s refused with 0x%04X: %s", uid, status, comment, extra={"event": "refused"})
        except (NodeError, OSError) as error:
            status, comment = OUT_OF_RESOURCES, "cannot be stored durably now, send again later"
            log.error("instance %s refused with 0x%04X: %s", uid, status, error, extra={"event": "refused"})  # noqa: TRY400
        except Exception:
            status, comment = PROCESSING_FAILURE, "internal error, see the log of the node"
            log.exception("instance %s refused with 0x%04X", uid, status, extra={"event": "refused"})
        else:
            record.stored += 1
            return SUCCESS
        record.refused += 1
        answer = Dataset()
        answer.Status = status
        answer.ErrorComment = comment
        return answer

    def _store_instance(self, event: evt.Event, record: OpenAssociation) -> None:
        """Bytes, then row. Nothing of the data set is decoded but its UIDs."""
        request = cast(C_STORE, event.request)
        sop_class, sop_instance = str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID)
        syntax = str(event.context.transfer_syntax)
        if self._open.is_too_large(event.assoc):
            raise _Refused(OUT_OF_RESOURCES, f"larger than the {self._rules.max_object_mb} MB this node takes")
        if request.DataSet is None:
            raise _Refused(DOES_NOT_MATCH, "no data set")
        dataset = event.encoded_dataset(include_meta=False)
        if not self._has_room(len(dataset)):
            raise _Refused(OUT_OF_RESOURCES, "disk of the node is almost full")
        if sop_class not in MR_CLASSES and self._store.is_own_document(sop_instance):
            log.info("own document %s came back", sop_instance, extra={"event": "own_document"})
            return

        meta = file_meta(sop_class_uid=sop_class, sop_instance_uid=sop_instance, transfer_syntax_uid=syntax)
        chunks = (meta, dataset)
        try:
            uids = read_uids(dataset, syntax)
        except UnreadableHeader as error:
            self._spool.quarantine(sop_instance, chunks, str(error))
            raise _Refused(CANNOT_UNDERSTAND, "data set unreadable in its transfer syntax") from error
        except MissingUid as error:
            self._spool.quarantine(sop_instance, chunks, str(error))
            raise _Refused(DOES_NOT_MATCH, str(error)[:64]) from error
        if (uids.sop_class, uids.sop_instance) != (sop_class, sop_instance):
            self._spool.quarantine(sop_instance, chunks, "SOP class or instance UID differs from the C-STORE command")
            raise _Refused(DOES_NOT_MATCH, "SOP class or instance UID differs from the command")

        record.studies.add(uids.study)
        put = self._spool.put(uids.study, uids.series, sop_instance, chunks)
        received = ReceivedInstance(
            study_instance_uid=uids.study,
            series_instance_uid=uids.series,
            sop_instance_uid=sop_instance,
            sop_class_uid=sop_class,
            transfer_syntax_uid=syntax,
            path=put.path,
            size_bytes=put.size_bytes,
            sha256=put.sha256,
            calling_ae_title=record.calling_ae_title,
            received_at=datetime.now(UTC),
        )
        conflict = put.outcome is PutOutcome.CONFLICT
        if conflict:
            log.warning(
                "instance %s came with other bytes than before; the first are kept", sop_instance,
                extra={"event": "conflict"},
            )  # fmt: skip
        failpoint("receive.put")
        self._committer.commit(Arrival(received, conflict))
        if not self._spool.instance_path(put.path).exists():  # deleted by the housekeeping before the row was touched
            self._spool.put(uids.study, uids.series, sop_instance, chunks)
        failpoint("receive.committed")

    def _has_room(self, size_bytes: int) -> bool:
        left_bytes: int = self._spool.free_bytes() - size_bytes
        return left_bytes >= self._rules.min_free_mb * 1_000_000

    def _touch(self, arrivals: Sequence[Arrival]) -> None:
        """One transaction for a group of arrivals."""
        self._store.touch_many(arrivals, quiet_period_s=self._jobs.quiet_period_s, ceiling_s=self._jobs.ceiling_s)


def _contexts(event: evt.Event) -> list[PresentationContext]:
    return cast(A_ASSOCIATE, event.assoc.requestor.primitive).presentation_context_definition_list


def _silence_pynetdicom() -> None:
    """pynetdicom logs every PDU, and a port scan as an error with a traceback; what an administrator needs we log.

    Both switches are its documented ones and hold for the process, which does nothing but receive.
    """
    _config.LOG_HANDLER_LEVEL = "none"
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
