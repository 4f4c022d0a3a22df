"""What is done at one peer: results are sent, commitment to them is asked for, and they are withdrawn."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Protocol
from uuid import uuid4

from stenosis_node.audit import AuditTrail, StudyPart
from stenosis_node.config import Config, Peer
from stenosis_node.deliver import DocumentStatus, request_commitment, send
from stenosis_node.domain import Document, DocumentKind
from stenosis_node.errors import LeaseLost, NodeError, PermanentError
from stenosis_node.failpoint import failpoint
from stenosis_node.jobs import CommitmentLease, CommitmentOutcome, DeliveryLease, JobStore, WithdrawalLease
from stenosis_node.spool import Spool
from stenosis_node.work.auditing import DeliveryAudit, first_patient
from stenosis_node.work.keeper import LeaseKeeper
from stenosis_node.work.policy import BackOff, Stopping
from stenosis_node.work.recall import withdraw_predecessors

log = logging.getLogger("stenosis_node.work.deliver")


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


@dataclass(frozen=True)
class Desk:
    """A peer, and everything that is needed to work for it."""

    name: str
    config: Config
    spool: Spool
    store: JobStore
    worker: str

    @property
    def peer(self) -> Peer:
        """Its configuration."""
        return self.config.peers[self.name]

    @property
    def calling_ae_title(self) -> str:
        """Our title towards it."""
        return self.peer.calling_ae_title or self.config.receive.ae_title

    @property
    def lease_s(self) -> float:
        """How long a claim holds without being renewed."""
        return self.config.jobs.lease_s

    @cached_property
    def audit(self) -> AuditTrail:
        """The audit stream."""
        return AuditTrail(self.config)

    def auditing(self, study_uid: str, key: str) -> DeliveryAudit:
        """For an attempt to send the documents of a study under ``key``."""
        patient = first_patient((self.spool.root / "documents" / key).glob("*.dcm"))
        return DeliveryAudit(self.audit, self.peer, StudyPart(study_uid, patient))

    @cached_property
    def back_off(self) -> BackOff:
        """Between attempts."""
        return BackOff(self.peer.retry_base_s, self.peer.retry_cap_s)

    def check(self, keeper: LeaseKeeper) -> None:
        """Between two documents. Raises LeaseLost, or Stopping when the node stops or the peer is paused."""
        keeper.check()
        if self.store.is_paused(self.name):
            raise Stopping(f"{self.name} is paused")

    def documents(self, key: str) -> tuple[Document, ...]:
        """From the spool. PermanentError when they are gone."""
        documents: tuple[Document, ...] | None = self.spool.documents(key)
        if documents is None:
            raise _gone(key)
        return documents


def _gone(key: str) -> PermanentError:
    return PermanentError(f"documents/{key} is gone from the spool: put it back from a backup of the spool, then retry")


class Errand(Protocol):
    """One claimed piece of work for a peer. Every method may raise LeaseLost and TransientError."""

    @property
    def what(self) -> str:
        """For the log."""

    @property
    def attempt(self) -> int:
        """1 for the first."""

    def renew(self) -> None:
        """Keep the lease."""

    def do(self, keeper: LeaseKeeper) -> None:
        """Do it all, and write down that it is done."""

    def release(self) -> None:
        """Give it back as it is."""

    def fail(self, text: str) -> None:
        """A human is needed."""

    def retry(self, text: str) -> None:
        """Again after a back-off."""


class Delivery:
    """Sending one result."""

    def __init__(self, desk: Desk, lease: DeliveryLease) -> None:
        self._desk = desk
        self._lease = lease
        self.what = f"job {lease.job_id}: delivery to {desk.name}"
        self.attempt = lease.attempt
        self._audit: DeliveryAudit | None = None

    @classmethod
    def claim(cls, desk: Desk) -> Delivery | None:
        """The one that has waited longest; None when none is due."""
        lease = desk.store.claim_delivery(
            desk.name, worker=desk.worker, lease_s=desk.lease_s, max_attempts=desk.peer.max_attempts
        )
        if lease is None:
            return None
        failpoint("deliver.claimed")
        return cls(desk, lease)

    def renew(self) -> None:
        """Keep the lease."""
        self._desk.store.renew_delivery(self._lease, lease_s=self._desk.lease_s)

    def do(self, keeper: LeaseKeeper) -> None:
        """Send what the peer has not confirmed yet; remember in which SOP class it takes reports."""
        desk, lease = self._desk, self._lease
        kept = desk.spool.documents(lease.result_key)
        if kept is None:
            if desk.store.make_again(lease):
                raise LeaseLost(f"the documents of job {lease.job_id} are gone from the spool; they are made again")
            raise _gone(lease.result_key)
        documents = documents_for(kept, desk.peer)
        reports = {
            one.sop_instance_uid: one.sop_class_uid
            for document in documents
            if document.kind is DocumentKind.SR
            for one in (document, *document.alternatives)
        }
        self._audit = audit = desk.auditing(lease.study_instance_uid, lease.result_key)
        audit.begin(
            document
            for document in documents
            if not any(one.sop_instance_uid in lease.confirmed for one in (document, *document.alternatives))
        )
        known = desk.store.capability(desk.name)
        report_class = None if known is None else known.report_class

        def record(answer: DocumentStatus) -> None:
            failpoint("deliver.answered")
            desk.store.record_document(
                lease, answer.sop_instance_uid, status=answer.status, text=answer.text, confirmed=answer.confirmed
            )
            if answer.confirmed:
                audit.confirm(answer.sop_instance_uid)
            failpoint("deliver.recorded")
            taken = reports.get(answer.sop_instance_uid) if answer.confirmed else None
            if taken not in (None, report_class):
                desk.store.remember_capability(desk.name, report_class=taken)
            desk.check(keeper)

        try:
            send(
                documents,
                desk.peer,
                calling_ae_title=desk.calling_ae_title,
                confirmed=lease.confirmed,
                on_status=record,
                report_class=report_class,
            )
        except LeaseLost as error:
            self._report(str(error))
            raise
        self._report("")
        failpoint("deliver.sent")
        withdraw_predecessors(lease, config=desk.config, spool=desk.spool, store=desk.store)
        desk.store.advance_delivery(lease, commitment=desk.peer.commitment)
        failpoint("deliver.advanced")
        log.info("job %d delivered", lease.job_id, extra={"event": "delivered", "peer": desk.name})

    def release(self) -> None:
        """Give it back as it is: the attempt does not count."""
        self._report("the node stops, or the peer is paused")
        self._desk.store.release_delivery(self._lease)

    def fail(self, text: str) -> None:
        """A human is needed."""
        self._report(text, is_final=True)
        self._desk.store.fail_delivery(self._lease, sentence=text)

    def retry(self, text: str) -> None:
        """Again after a back-off."""
        self._report(text, is_final=self.attempt >= self._desk.peer.max_attempts)
        self._desk.store.retry_delivery_later(
            self._lease,
            retry_at=_later(self._desk.back_off.delay_s(self.attempt)),
            sentence=text,
            max_attempts=self._desk.peer.max_attempts,
        )

    def _report(self, failure: str, *, is_final: bool = False) -> None:
        """How the attempt ended, once, if it began."""
        if self._audit is not None:
            self._audit.end(failure=failure, is_final=is_final)
            self._audit = None


class Commitment:
    """Asking for storage commitment to one result."""

    def __init__(self, desk: Desk, lease: CommitmentLease) -> None:
        self._desk = desk
        self._lease = lease
        self.what = f"job {lease.job_id}: storage commitment by {desk.name}"
        self.attempt = lease.attempt

    @classmethod
    def claim(cls, desk: Desk) -> Commitment | None:
        """The one that is to be asked for, or has had no answer in time; None when there is none."""
        lease = desk.store.claim_commitment(desk.name, worker=desk.worker, lease_s=desk.lease_s)
        return None if lease is None else cls(desk, lease)

    def renew(self) -> None:
        """Keep the lease."""
        self._desk.store.renew_commitment(self._lease, lease_s=self._desk.lease_s)

    def do(self, keeper: LeaseKeeper) -> None:
        """Ask, and take an answer on the same association. Another one reaches the receiving process."""
        desk, lease = self._desk, self._lease
        if not desk.peer.commitment:
            raise PermanentError("commitment was switched off meanwhile: retry, and it counts as delivered without")
        if lease.attempt > desk.peer.max_attempts:
            raise PermanentError(f"{desk.name} was asked {lease.attempt - 1} times and has not answered")
        transaction_uid = f"2.25.{uuid4().int}"
        wait_s = max(desk.peer.commitment_wait_s, BackOff(desk.peer.commitment_wait_s, 86_400).delay_s(lease.attempt))
        desk.store.request_commitment(lease, transaction_uid=transaction_uid, due_at=_later(wait_s))
        failpoint("commitment.written")
        request_commitment(
            lease.documents,
            desk.peer,
            calling_ae_title=desk.calling_ae_title,
            transaction_uid=transaction_uid,
            on_report=lambda report: (
                desk.store.record_commitment(
                    report.transaction_uid,
                    committed=report.committed,
                    failed=report.failed,
                    resend_after_s=desk.peer.retry_base_s,
                )
                is not CommitmentOutcome.UNKNOWN
            ),
            may_wait=lambda: keeper.may_go_on,
        )
        failpoint("commitment.requested")
        try:
            desk.store.release_commitment(lease)
        except LeaseLost:  # the answer ended the lease
            return

    def release(self) -> None:
        """Give it back as it is."""
        self._desk.store.release_commitment(self._lease)

    def fail(self, text: str) -> None:
        """A human is needed."""
        self._refused(text, permanent=True)

    def retry(self, text: str) -> None:
        """Again after a back-off, unless that was the last attempt."""
        if self.attempt >= self._desk.peer.max_attempts:
            self._refused(f"given up after {self.attempt} attempts: {text}", permanent=True)
        else:
            self._refused(text, permanent=False)

    def _refused(self, text: str, *, permanent: bool) -> None:
        again = _later(self._desk.back_off.delay_s(self.attempt))
        self._desk.store.commitment_refused(self._lease, retry_at=again, sentence=text, permanent=permanent)


class Withdrawal:
    """Sending one rejection note.

    It cannot overtake what it withdraws: it names only what the peer has confirmed, and the delivery of a recalled
    result has been cancelled. The note about a superseded result is due when the peer has a later one.
    """

    def __init__(self, desk: Desk, lease: WithdrawalLease) -> None:
        self._desk = desk
        self._lease = lease
        self.what = f"job {lease.job_id}: rejection note to {desk.name}"
        self.attempt = lease.attempt

    @classmethod
    def claim(cls, desk: Desk) -> Withdrawal | None:
        """The one that has waited longest; None when none is due."""
        lease = desk.store.claim_withdrawal(
            desk.name, worker=desk.worker, lease_s=desk.lease_s, max_attempts=desk.peer.max_attempts
        )
        return None if lease is None else cls(desk, lease)

    def renew(self) -> None:
        """Keep the lease."""
        self._desk.store.renew_withdrawal(self._lease, lease_s=self._desk.lease_s)

    def do(self, keeper: LeaseKeeper) -> None:
        """Send the note."""
        desk = self._desk
        notes = desk.documents(self._lease.note_key)
        audit = desk.auditing(self._lease.study_instance_uid, self._lease.note_key)
        audit.begin(notes)
        try:
            send(
                notes,
                desk.peer,
                calling_ae_title=desk.calling_ae_title,
                confirmed=(),
                on_status=lambda answer: audit.confirm(answer.sop_instance_uid) if answer.confirmed else None,
            )
        except NodeError as error:
            audit.end(failure=str(error))
            raise
        audit.end()
        failpoint("withdrawal.sent")
        desk.store.advance_withdrawal(self._lease)
        log.info("job %d: rejection note sent", self._lease.job_id, extra={"event": "withdrawn", "peer": desk.name})

    def release(self) -> None:
        """Give it back as it is: the attempt does not count."""
        self._desk.store.release_withdrawal(self._lease)

    def fail(self, text: str) -> None:
        """A human is needed."""
        self._desk.store.fail_withdrawal(self._lease, sentence=text)

    def retry(self, text: str) -> None:
        """Again after a back-off."""
        self._desk.store.retry_withdrawal_later(
            self._lease,
            retry_at=_later(self._desk.back_off.delay_s(self.attempt)),
            sentence=text,
            max_attempts=self._desk.peer.max_attempts,
        )


def _later(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)
