"""Storage commitment (PS3.4 annex J): what a peer confirmed counts as delivered once it promises to keep it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Connection, Row, select, update

from stenosis_node.domain import DeliveryState
from stenosis_node.jobs.database import Database
from stenosis_node.jobs.delivering import finish_delivery, next_delivery, uncommitted
from stenosis_node.jobs.leases import (
    DELIVERABLE,
    NO_LEASE,
    CommitmentLease,
    add_event,
    columns_of,
    delivery_lost,
    fail_delivery,
    held_delivery,
    renew_row,
    sending,
    set_delivery,
    settle,
)
from stenosis_node.jobs.records import EventKind
from stenosis_node.jobs.schema import commitment, delivery, job, receipt, result


class CommitmentOutcome(StrEnum):
    """What the answer of a peer meant."""

    COMMITTED = "committed"  # to everything: the delivery is DELIVERED
    INCOMPLETE = "incomplete"  # not to everything: what it does not have is sent again
    PARTIAL = "partial"  # it said nothing about some documents: it is asked again
    REPEATED = "repeated"  # it had answered before; nothing changed
    UNKNOWN = "unknown"  # nobody asked under this transaction


AWAITING: Final = (DeliveryState.SENT, DeliveryState.PENDING, DeliveryState.FAILED)


class Committing(Database):
    """The part of the store that storage commitment uses, in the delivering and in the receiving process."""

    def claim_commitment(
        self, peer: str, *, worker: str, lease_s: float, now: datetime | None = None
    ) -> CommitmentLease | None:
        """Take the SENT delivery to ``peer`` that is to be asked for (again), None when there is none.

        Counts an attempt, without a limit: whoever holds the lease decides from its ``attempt`` when to give up, by
        ``commitment_refused(permanent=True)``.
        """
        with self._writing("claim_commitment") as connection:
            now = self._now(connection, now)
            due = next_delivery(peer, DeliveryState.SENT, delivery.c.commit_due_at, now)
            while (row := connection.execute(due).first()) is not None:
                documents = uncommitted(connection, row)
                if not documents:
                    finish_delivery(connection, row, row.revision, committed_at=now, now=now)
                    settle(connection, row.job_id, now)
                    continue
                lease = CommitmentLease(
                    delivery_id=row.id,
                    **sending(row, peer=peer, worker=worker, until=now + timedelta(seconds=lease_s)),
                    attempt=row.commit_attempts + 1,
                    documents=documents,
                )
                set_delivery(
                    connection,
                    row.id,
                    commit_attempts=lease.attempt,
                    **columns_of(lease),
                )
                return lease
        return None

    def renew_commitment(self, lease: CommitmentLease, *, lease_s: float, now: datetime | None = None) -> None:
        """Keep the lease for ``lease_s`` from now. LeaseLost when it is gone, for example because the answer came."""
        with self._writing("renew_commitment") as connection:
            until = self._now(connection, now) + timedelta(seconds=lease_s)
            if not renew_row(connection, delivery, lease.delivery_id, lease.token, until):
                raise delivery_lost(lease)

    def request_commitment(
        self, lease: CommitmentLease, *, transaction_uid: str, due_at: datetime, now: datetime | None = None
    ) -> None:
        """The request is about to leave: from now on an answer under ``transaction_uid`` is known. Keeps the lease.

        Answers to earlier requests stay known too.

        due_at  without an answer commitment is asked for again then
        raises  LeaseLost
        """
        with self._writing("request_commitment") as connection:
            now = self._now(connection, now)
            _, row = held_delivery(connection, lease)
            asking = commitment.insert().values(transaction_uid=transaction_uid, delivery_id=row.id, requested_at=now)
            connection.execute(asking)
            set_delivery(connection, row.id, commit_requested_at=now, commit_due_at=due_at)
            sentence = f"{lease.peer} is asked to commit to {len(lease.documents)} documents"
            add_event(connection, lease.job_id, now, EventKind.COMMITMENT_REQUESTED, sentence)

    def release_commitment(self, lease: CommitmentLease) -> None:
        """The request has left and its answer comes some day, or the node stops: give the lease back. LeaseLost."""
        with self._writing("release_commitment") as connection:
            _, row = held_delivery(connection, lease)
            set_delivery(connection, row.id, **NO_LEASE)

    def commitment_refused(
        self,
        lease: CommitmentLease,
        *,
        retry_at: datetime,
        sentence: str,
        permanent: bool,
        now: datetime | None = None,
    ) -> None:
        """The peer could not be asked: again at ``retry_at``, or FAILED when that is of no use. LeaseLost.

        A FAILED one becomes DELIVERED if the peer commits after all.
        """
        with self._writing("commitment_refused") as connection:
            now = self._now(connection, now)
            _, row = held_delivery(connection, lease)
            if permanent:
                fail_delivery(connection, row, f"no storage commitment: {sentence}", now)
            else:
                set_delivery(connection, row.id, commit_due_at=retry_at, message=sentence, **NO_LEASE)
                told = f"{lease.peer} could not be asked to commit: {sentence}"
                add_event(connection, lease.job_id, now, EventKind.COMMITMENT_POSTPONED, told)
            self._upsert_peer(connection, lease.peer, last_error=sentence, last_error_at=now)

    def record_commitment(
        self,
        transaction_uid: str,
        *,
        committed: Collection[str],
        failed: Mapping[str, int],
        resend_after_s: float = 60.0,
        now: datetime | None = None,
    ) -> CommitmentOutcome:
        """The answer of a peer, which may come more than once, late, and after the study was opened again.

        committed       SOP Instance UIDs the peer has committed to
        failed          SOP Instance UID to Failure Reason (0008,1197): they count as not confirmed and are sent again
        resend_after_s  how long to wait with that: a peer that confirms what it then does not have may need the time
        """
        with self._writing("record_commitment") as connection:
            now = self._now(connection, now)
            found = _locked(connection, transaction_uid)
            if found is None:
                return CommitmentOutcome.UNKNOWN
            asked, row = found
            if asked.answered_at is not None:
                return CommitmentOutcome.REPEATED
            _write_committed(connection, row, committed, now)
            lost = _write_failed(connection, row, failed, asked.requested_at)
            if lost:
                outcome = CommitmentOutcome.INCOMPLETE
                _send_again(connection, row, lost, now, now + timedelta(seconds=resend_after_s))
            elif left := uncommitted(connection, row):
                outcome = CommitmentOutcome.PARTIAL
                sentence = f"{row.peer} said nothing about {len(left)} documents; it is asked again"
                add_event(connection, row.job_id, now, EventKind.COMMITMENT_POSTPONED, sentence)
            else:
                outcome = CommitmentOutcome.COMMITTED
                if row.state in AWAITING and row.commit_due_at is not None:
                    finish_delivery(connection, row, row.revision, committed_at=now, now=now)
                    if row.deliverable:
                        settle(connection, row.job_id, now)
            if outcome is not CommitmentOutcome.PARTIAL:
                answering = update(commitment).where(commitment.c.transaction_uid == transaction_uid)
                connection.execute(answering.values(answered_at=now))
            return outcome


def _locked(connection: Connection, transaction_uid: str) -> tuple[Row[Any], Row[Any]] | None:
    """The request and its delivery (with ``revision`` and ``deliverable``), the job locked before the delivery."""
    asked = select(commitment).where(commitment.c.transaction_uid == transaction_uid)
    first = connection.execute(asked).first()
    if first is None:
        return None
    of_delivery = select(delivery.c.job_id).where(delivery.c.id == first.delivery_id).scalar_subquery()
    connection.execute(select(job.c.id).where(job.c.id == of_delivery).with_for_update()).one()
    row = connection.execute(
        select(delivery, result.c.revision, (DELIVERABLE & (job.c.revision == result.c.revision)).label("deliverable"))
        .join(job, job.c.id == delivery.c.job_id)
        .join(result, result.c.id == delivery.c.result_id)
        .where(delivery.c.id == first.delivery_id)
        .with_for_update(of=delivery)
    ).one()
    return connection.execute(asked.with_for_update()).one(), row


def _receipts(row: Row[Any], uids: Collection[str]) -> Any:
    """Of a receipt: it is the peer's for one of these documents, in whichever delivery of the job."""
    same_peer = select(delivery.c.id).where(delivery.c.job_id == row.job_id, delivery.c.peer == row.peer)
    return receipt.c.delivery_id.in_(same_peer) & receipt.c.sop_instance_uid.in_(uids)


def _write_committed(connection: Connection, row: Row[Any], uids: Collection[str], now: datetime) -> None:
    mine = _receipts(row, uids) & receipt.c.committed_at.is_(None)
    connection.execute(update(receipt).where(mine).values(committed_at=now, confirmed=True))


def _write_failed(
    connection: Connection, row: Row[Any], failed: Mapping[str, int], requested_at: datetime
) -> tuple[str, ...]:
    """Which of the failed ones are not confirmed any more. One that was sent again since the request is, and one that
    the peer committed to under another request: that is the stronger word."""
    lost = []
    for uid, reason in failed.items():
        stale = _receipts(row, [uid]) & receipt.c.confirmed & (receipt.c.at <= requested_at)
        stale &= receipt.c.committed_at.is_(None)
        said = {"confirmed": False, "text": f"not committed, failure reason 0x{reason:04X}"}
        if connection.execute(update(receipt).where(stale).values(**said)).rowcount:
            lost.append(uid)
    return tuple(lost)


def _send_again(
    connection: Connection, row: Row[Any], lost: tuple[str, ...], now: datetime, retry_at: datetime
) -> None:
    sentence = f"{row.peer} did not commit to {len(lost)} documents that it had confirmed"
    add_event(connection, row.job_id, now, EventKind.NOT_COMMITTED, sentence)
    values: dict[str, Any] = {"commit_due_at": None}  # not everything is sent any more
    if row.state in (DeliveryState.SENT, DeliveryState.PENDING):  # who sends it now takes the lost ones for confirmed
        values |= {"state": DeliveryState.PENDING, "state_since": now, "retry_at": retry_at, "message": sentence}
        values |= NO_LEASE
    set_delivery(connection, row.id, **values)
