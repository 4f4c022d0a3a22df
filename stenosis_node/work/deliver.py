"""The delivering worker: a thread per peer, so that one dead peer holds up no other."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from stenosis_node.config import Config, Peer
from stenosis_node.deliver import DocumentStatus, send
from stenosis_node.domain import Document, DocumentKind
from stenosis_node.errors import LeaseLost, PermanentError
from stenosis_node.failpoint import failpoint
from stenosis_node.jobs import DeliveryLease, JobStore
from stenosis_node.spool import Spool
from stenosis_node.work.keeper import LeaseKeeper, work_until
from stenosis_node.work.policy import BackOff, Consequence, consequence, log_consequence, sentence

log = logging.getLogger("stenosis_node.work.deliver")

STOP_S: Final = 5.0


def documents_for(documents: Sequence[Document], peer: Peer) -> tuple[Document, ...]:
    """What this peer gets, captures before the report: who sees the report can open every image it refers to."""

    def wanted(document: Document) -> bool:
        match document.kind:
            case DocumentKind.SC_OVERVIEW:
                return peer.captures != "none"
            case DocumentKind.SC:
                return peer.captures == "all" or (peer.captures == "key" and document.key)
            case DocumentKind.GSPS:
                return peer.presentation_states
            case DocumentKind.SR:
                return True
            case DocumentKind.KOS:  # a rejection note is no part of a result
                return False

    return tuple(sorted(filter(wanted, documents), key=lambda document: document.kind is DocumentKind.SR))


class DeliverWorker:
    """Sends the documents of graded studies to one peer."""

    def __init__(self, name: str, config: Config, spool: Spool, store: JobStore, *, worker: str) -> None:
        self._name = name
        self._peer = config.peers[name]
        self._calling_ae_title = self._peer.calling_ae_title or config.receive.ae_title
        self._lease_s = config.jobs.lease_s
        self._spool = spool
        self._store = store
        self._worker = worker
        self._back_off = BackOff(self._peer.retry_base_s, self._peer.retry_cap_s)

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set. A delivery under way is then given back after the document being sent."""
        work_until(stop, lambda: self.step(stop))

    def step(self, stop: threading.Event) -> bool:
        """Claim and make one delivery; False when none is due. Raises TransientError when the database is away."""
        lease = self._store.claim_delivery(
            self._name, worker=self._worker, lease_s=self._lease_s, max_attempts=self._peer.max_attempts
        )
        if lease is None:
            return False
        failpoint("deliver.claimed")

        def renew() -> None:
            self._store.renew_delivery(lease, lease_s=self._lease_s)

        with LeaseKeeper(renew, every_s=self._lease_s / 3, stop=stop) as keeper:
            try:
                self._deliver(lease, keeper)
            except Exception as error:  # noqa: BLE001  POLICY says what follows from each
                self._conclude(lease, error)
        return True

    def _deliver(self, lease: DeliveryLease, keeper: LeaseKeeper) -> None:
        documents = self._spool.documents(lease.result_key)
        if documents is None:
            raise PermanentError(
                f"the documents of result {lease.result_key} are gone from the spool: send the study again"
            )

        def record(answer: DocumentStatus) -> None:
            failpoint("deliver.answered")
            self._store.record_document(
                lease, answer.sop_instance_uid, status=answer.status, text=answer.text, confirmed=answer.confirmed
            )
            failpoint("deliver.recorded")
            keeper.check()

        send(
            documents_for(documents, self._peer),
            self._peer,
            calling_ae_title=self._calling_ae_title,
            confirmed=lease.confirmed,
            on_status=record,
        )
        failpoint("deliver.sent")
        self._store.advance_delivery(lease)
        failpoint("deliver.advanced")
        log.info("job %d delivered", lease.job_id, extra={"event": "delivered", "peer": self._name})

    def _conclude(self, lease: DeliveryLease, error: Exception) -> None:
        """What POLICY says. Raises TransientError when the database is away: the lease then ends by itself."""
        text = sentence(error)
        log_consequence(log, error, f"job {lease.job_id}: delivery to {self._name}", attempt=lease.attempt)
        try:
            match consequence(error):
                case Consequence.DROP:
                    pass
                case Consequence.RELEASE:
                    self._store.release_delivery(lease)
                case Consequence.REJECT | Consequence.FAIL:
                    self._store.fail_delivery(lease, sentence=text)
                case Consequence.RETRY:
                    again = datetime.now(UTC) + timedelta(seconds=self._back_off.delay_s(lease.attempt))
                    self._store.retry_delivery_later(
                        lease, retry_at=again, sentence=text, max_attempts=self._peer.max_attempts
                    )
        except LeaseLost:
            log.info("job %d went to someone else meanwhile", lease.job_id, extra={"event": "lease_lost"})


def deliver_to_all(config: Config, spool: Spool, store: JobStore, stop: threading.Event, *, worker: str) -> None:
    """Run a worker per peer until ``stop`` is set. RuntimeError when one died: the supervisor then restarts us."""
    threads = [
        threading.Thread(
            target=DeliverWorker(name, config, spool, store, worker=worker).run, args=(stop,), name=name, daemon=True
        )
        for name in config.peers
    ]
    for thread in threads:
        thread.start()
    while not stop.wait(1.0):
        if not all(thread.is_alive() for thread in threads):
            raise RuntimeError("the thread of a peer ended unexpectedly")
    deadline = time.monotonic() + STOP_S
    for (
        thread
    ) in threads:  # one that waits for its peer is left behind: what it sends next has not been claimed by anyone else
        thread.join(max(0.0, deadline - time.monotonic()))
