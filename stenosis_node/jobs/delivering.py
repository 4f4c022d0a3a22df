"""What the delivering process writes: one queue per peer, and what the peer answered about each document."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Row, select

from stenosis_node.domain import DeliveryState, JobState
from stenosis_node.jobs.database import Database
from stenosis_node.jobs.leases import (
    DELIVERABLE,
    NO_LEASE,
    DeliveryLease,
    add_event,
    columns_of,
    delivery_lost,
    fail_delivery,
    held_delivery,
    is_free,
    is_paused,
    renew_row,
    revoke_deliveries,
    sending,
    set_delivery,
    set_job,
    settle,
)
from stenosis_node.jobs.records import EventKind
from stenosis_node.jobs.schema import delivery, document, job, receipt, result

STORED: Final = frozenset({0x0000, 0x0001, 0x0107, 0x0111, 0x0116, *range(0xB000, 0xC000)})
"""Success, the warnings of PS3.7 C and PS3.4 B.2.3, and 0x0111: the peer has the document already."""


class Delivering(Database):
    """The part of the store that the delivering process uses."""

    def claim_delivery(
        self, peer: str, *, worker: str, lease_s: float, max_attempts: int, now: datetime | None = None
    ) -> DeliveryLease | None:
        """Take the delivery to ``peer`` that has waited longest, None when there is none. Counts an attempt.

        Only the latest result of a job is delivered, and none while the study is open again, while the job is held or
        while the peer is paused. The delivery is marked as started here, before a byte can leave. One whose attempts
        are used up, because whoever had it died, fails here.
        """
        with self._writing("claim_delivery") as connection:
            now = self._now(connection, now)
            due = next_delivery(peer, DeliveryState.PENDING, delivery.c.retry_at, now)
            while (row := connection.execute(due).first()) is not None:
                if row.attempts >= max_attempts:
                    died = f"the delivering process died {row.attempts} times on it"
                    given_up = f"given up after {row.attempts} attempts: {row.message}"
                    fail_delivery(connection, row, given_up if row.commit_attempts else died, now)
                    continue
                lease = DeliveryLease(
                    delivery_id=row.id,
                    **sending(row, peer=peer, worker=worker, until=now + timedelta(seconds=lease_s)),
                    attempt=row.attempts + 1,
                    first_started_at=row.started_at,
                    confirmed=_confirmed(connection, row.job_id, peer),
                )
                set_delivery(
                    connection,
                    row.id,
                    attempts=lease.attempt,
                    started_at=row.started_at or now,
                    **columns_of(lease),
                )
                sentence = f"attempt {lease.attempt} to deliver revision {row.revision} to {peer}"
                add_event(connection, row.job_id, now, EventKind.DELIVERY_STARTED, sentence)
                return lease
        return None

    def renew_delivery(self, lease: DeliveryLease, *, lease_s: float, now: datetime | None = None) -> None:
        """Keep the lease for ``lease_s`` from now. LeaseLost when it is gone."""
        with self._writing("renew_delivery") as connection:
            until = self._now(connection, now) + timedelta(seconds=lease_s)
            if not renew_row(connection, delivery, lease.delivery_id, lease.token, until):
                raise delivery_lost(lease)

    def release_delivery(self, lease: DeliveryLease, *, now: datetime | None = None) -> None:
        """Give the delivery back, because the node stops: the attempt does not count. LeaseLost when it is gone."""
        with self._writing("release_delivery") as connection:
            _, row = held_delivery(connection, lease)
            set_delivery(connection, row.id, attempts=row.attempts - 1, **NO_LEASE)
            sentence = f"delivery to {lease.peer} given back by {lease.worker}"
            add_event(connection, lease.job_id, self._now(connection, now), EventKind.RELEASED, sentence)

    def make_again(self, lease: DeliveryLease, *, now: datetime | None = None) -> bool:
        """The documents are gone from the spool: have them made again, byte for byte, if the images are still there.

        The job goes back to RECEIVED and the delivery waits; grading takes the stored findings, or the images, and
        finds that the result is the same. The attempt counts, so that this cannot go on for ever. Returns False, and
        changes nothing, when the images were deleted too. LeaseLost when the lease is gone.
        """
        with self._writing("make_again") as connection:
            now = self._now(connection, now)
            job_row, row = held_delivery(connection, lease)
            if job_row.purged_at is not None:
                return False
            revoke_deliveries(connection, job_row.id)
            set_job(
                connection,
                job_row.id,
                state=JobState.RECEIVED,
                state_since=now,
                failed_in=None,
                attempts=0,
                retry_at=None,
            )
            set_delivery(connection, row.id, retry_at=now)
            sentence = f"the documents of revision {lease.revision} are gone from the spool; they are made again"
            add_event(connection, job_row.id, now, EventKind.DELIVERY_POSTPONED, sentence)
            return True

    def record_document(
        self,
        lease: DeliveryLease,
        sop_instance_uid: str,
        *,
        status: int | None,
        text: str,
        confirmed: bool | None = None,
        now: datetime | None = None,
    ) -> None:
        """What the peer answered about one document; the latest answer counts, but what it confirmed stays confirmed.

        An answer is a fact whoever holds the lease now: what the peer has must be known when it is withdrawn.

        status     DIMSE status; None: no answer
        confirmed  whether the sender takes it that the peer has the document; None: as the status says
        raises     LeaseLost when the lease is gone, once the answer is written down
        """
        with self._writing("record_document") as connection:
            now = self._now(connection, now)
            connection.execute(select(job.c.id).where(job.c.id == lease.job_id).with_for_update()).one()
            if confirmed is None:
                confirmed = status in STORED
            said = {"status": status, "text": text, "confirmed": confirmed, "at": now}
            writing = self._insert(receipt).values(
                delivery_id=lease.delivery_id, sop_instance_uid=sop_instance_uid, **said
            )
            connection.execute(
                writing.on_conflict_do_update(
                    index_elements=[receipt.c.delivery_id, receipt.c.sop_instance_uid],
                    set_=said,
                    where=receipt.c.confirmed.is_(False),
                )
            )
            held = (delivery.c.id == lease.delivery_id) & (delivery.c.lease_token == lease.token)
            is_held = connection.execute(select(delivery.c.id).where(held)).first() is not None
        if not is_held:
            raise delivery_lost(lease)

    def advance_delivery(
        self, lease: DeliveryLease, *, commitment: bool = False, now: datetime | None = None
    ) -> JobState:
        """The peer has confirmed everything. Returns the state of the job: DELIVERED after the last required one.

        commitment  the peer is asked for storage commitment: the delivery is SENT until it has committed
        raises      LeaseLost
        """
        with self._writing("advance_delivery") as connection:
            now = self._now(connection, now)
            job_row, row = held_delivery(connection, lease)
            if commitment and uncommitted(connection, row):
                set_delivery(
                    connection,
                    row.id,
                    state=DeliveryState.SENT,
                    state_since=now,
                    message="waits for storage commitment",
                    commit_due_at=now,
                    **NO_LEASE,
                )
                sentence = f"{lease.peer} has confirmed everything of revision {lease.revision} and is asked to commit"
                add_event(connection, job_row.id, now, EventKind.DELIVERY_SENT, sentence)
            else:
                committed = now if commitment else None
                finish_delivery(connection, row, lease.revision, committed_at=committed, now=now)
            self._upsert_peer(connection, lease.peer, last_success_at=now)
            return settle(connection, job_row.id, now)

    def retry_delivery_later(
        self, lease: DeliveryLease, *, retry_at: datetime, sentence: str, max_attempts: int, now: datetime | None = None
    ) -> DeliveryState:
        """Another attempt at ``retry_at``, or FAILED when the attempts are used up; returns which. LeaseLost."""
        with self._writing("retry_delivery_later") as connection:
            now = self._now(connection, now)
            _, row = held_delivery(connection, lease)
            if row.attempts >= max_attempts:
                fail_delivery(connection, row, f"given up after {row.attempts} attempts: {sentence}", now)
                self._upsert_peer(connection, lease.peer, last_error=sentence, last_error_at=now)
                return DeliveryState.FAILED
            set_delivery(connection, row.id, retry_at=retry_at, message=sentence, **NO_LEASE)
            told = f"attempt {row.attempts} to deliver to {lease.peer} failed: {sentence}"
            add_event(connection, lease.job_id, now, EventKind.DELIVERY_POSTPONED, told)
            self._upsert_peer(connection, lease.peer, last_error=sentence, last_error_at=now)
            return DeliveryState.PENDING

    def fail_delivery(self, lease: DeliveryLease, *, sentence: str, now: datetime | None = None) -> None:
        """A human is needed. When the peer is required the job is FAILED in ``deliver``. LeaseLost."""
        with self._writing("fail_delivery") as connection:
            now = self._now(connection, now)
            _, row = held_delivery(connection, lease)
            fail_delivery(connection, row, sentence, now)
            self._upsert_peer(connection, lease.peer, last_error=sentence, last_error_at=now)


def finish_delivery(
    connection: Connection, row: Row[Any], revision: int, *, committed_at: datetime | None, now: datetime
) -> None:
    """DELIVERED, and committed if ``committed_at``."""
    set_delivery(
        connection,
        row.id,
        state=DeliveryState.DELIVERED,
        state_since=now,
        message=None,
        attempts=0,
        committed_at=committed_at,
        commit_due_at=None,
        **NO_LEASE,
    )
    if committed_at is None:
        kind, sentence = EventKind.DELIVERY_DONE, f"{row.peer} has everything of revision {revision}"
    else:
        kind = EventKind.DELIVERY_COMMITTED
        sentence = f"delivered and committed: {row.peer} keeps everything of revision {revision}"
    add_event(connection, row.job_id, now, kind, sentence)


def uncommitted(connection: Connection, row: Row[Any]) -> tuple[tuple[str, str], ...]:
    """(class, instance) of the documents of a delivery that its peer confirmed, and in no delivery committed to."""
    answers = (
        select(receipt.c.sop_instance_uid, receipt.c.committed_at)
        .join(delivery, delivery.c.id == receipt.c.delivery_id)
        .where(delivery.c.job_id == row.job_id, delivery.c.peer == row.peer, receipt.c.confirmed)
        .subquery()
    )
    committed = select(answers.c.sop_instance_uid).where(answers.c.committed_at.is_not(None))
    wanted = (
        select(document.c.sop_class_uid, document.c.sop_instance_uid)
        .where(
            document.c.result_id == row.result_id,
            document.c.sop_instance_uid.in_(select(answers.c.sop_instance_uid)),
            document.c.sop_instance_uid.not_in(committed),
        )
        .order_by(document.c.sop_instance_uid)
    )
    return tuple((found.sop_class_uid, found.sop_instance_uid) for found in connection.execute(wanted))


def next_delivery(peer: str, state: DeliveryState, due: Any, now: datetime) -> Any:
    """The delivery in ``state`` that has been due longest by the column ``due``, of a latest result that may leave."""
    return (
        select(delivery, result.c.result_key, result.c.revision, job.c.study_instance_uid)
        .join(job, job.c.id == delivery.c.job_id)
        .join(result, result.c.id == delivery.c.result_id)
        .where(
            delivery.c.peer == peer,
            delivery.c.state == state,
            due <= now,
            is_free(delivery, now),
            job.c.held.is_(False),
            job.c.revision == result.c.revision,
            DELIVERABLE,
            ~is_paused(peer),
        )
        .order_by(due, delivery.c.id)
        .limit(1)
        .with_for_update(skip_locked=True, of=[delivery, job])
    )


def _confirmed(connection: Connection, job_id: int, peer: str) -> frozenset[str]:
    confirmed = (
        select(receipt.c.sop_instance_uid)
        .join(delivery, delivery.c.id == receipt.c.delivery_id)
        .where(delivery.c.job_id == job_id, delivery.c.peer == peer, receipt.c.confirmed)
    )
    return frozenset(connection.execute(confirmed).scalars())
