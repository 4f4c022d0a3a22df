"""What the delivering process writes: one queue per peer, and what the peer answered about each document."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Row, select, update

from stenosis_node.domain import DeliveryState, JobState
from stenosis_node.errors import LeaseLost
from stenosis_node.jobs.database import Database
from stenosis_node.jobs.leases import NO_LEASE, add_event, held_delivery, new_token, set_delivery, settle
from stenosis_node.jobs.records import DeliveryLease, EventKind, Step
from stenosis_node.jobs.schema import delivery, job, receipt, result

STORED: Final = frozenset({0x0000, 0x0001, 0x0107, 0x0111, 0x0116, *range(0xB000, 0xC000)})
"""Success, the warnings of PS3.7 C and PS3.4 B.2.3, and 0x0111: the peer has the document already."""


class Delivering(Database):
    """The part of the store that the delivering process uses."""

    def claim_delivery(
        self, peer: str, *, worker: str, lease_s: float, max_attempts: int, now: datetime | None = None
    ) -> DeliveryLease | None:
        """Take the delivery to ``peer`` that has waited longest, None when there is none. Counts an attempt.

        Only the latest result of a job is delivered, and none while the study is open again. The delivery is marked as
        started here, before a byte can leave. One whose attempts are used up, because whoever had it died, fails here.
        """
        with self._writing() as connection:
            now = self._now(connection, now)
            while (row := connection.execute(_next_delivery(peer, now)).first()) is not None:
                if row.attempts >= max_attempts:
                    _fail(connection, row, f"the delivering process died {row.attempts} times on it", now)
                    continue
                lease = DeliveryLease(
                    delivery_id=row.id,
                    job_id=row.job_id,
                    study_instance_uid=row.study_instance_uid,
                    result_id=row.result_id,
                    result_key=row.result_key,
                    revision=row.revision,
                    peer=peer,
                    token=new_token(),
                    worker=worker,
                    attempt=row.attempts + 1,
                    first_started_at=row.started_at,
                    lease_until=now + timedelta(seconds=lease_s),
                    confirmed=_confirmed(connection, row.job_id, peer),
                )
                set_delivery(
                    connection,
                    row.id,
                    attempts=lease.attempt,
                    started_at=row.started_at or now,
                    lease_token=lease.token,
                    lease_until=lease.lease_until,
                    lease_worker=worker,
                )
                sentence = f"attempt {lease.attempt} to deliver revision {row.revision} to {peer}"
                add_event(connection, row.job_id, now, EventKind.DELIVERY_STARTED, sentence)
                return lease
        return None

    def renew_delivery(self, lease: DeliveryLease, *, lease_s: float, now: datetime | None = None) -> None:
        """Keep the lease for ``lease_s`` from now. LeaseLost when it is gone."""
        with self._writing() as connection:
            until = self._now(connection, now) + timedelta(seconds=lease_s)
            renewing = update(delivery).where(delivery.c.id == lease.delivery_id, delivery.c.lease_token == lease.token)
            if connection.execute(renewing.values(lease_until=until)).rowcount == 0:
                raise LeaseLost(f"delivery {lease.delivery_id} of job {lease.job_id} to {lease.peer} was taken away")

    def release_delivery(self, lease: DeliveryLease, *, now: datetime | None = None) -> None:
        """Give the delivery back, because the node stops: the attempt does not count. LeaseLost when it is gone."""
        with self._writing() as connection:
            _, row = held_delivery(connection, lease)
            set_delivery(connection, row.id, attempts=row.attempts - 1, **NO_LEASE)
            sentence = f"delivery to {lease.peer} given back by {lease.worker}"
            add_event(connection, lease.job_id, self._now(connection, now), EventKind.RELEASED, sentence)

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

        status     DIMSE status; None: no answer
        confirmed  whether the sender takes it that the peer has the document; None: as the status says
        raises     LeaseLost
        """
        with self._writing() as connection:
            now = self._now(connection, now)
            held_delivery(connection, lease)
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

    def advance_delivery(self, lease: DeliveryLease, *, now: datetime | None = None) -> JobState:
        """The peer has everything. Returns the state of the job: DELIVERED after the last required one. LeaseLost."""
        with self._writing() as connection:
            now = self._now(connection, now)
            job_row, row = held_delivery(connection, lease)
            set_delivery(
                connection, row.id, state=DeliveryState.DELIVERED, state_since=now, message=None, attempts=0, **NO_LEASE
            )
            sentence = f"{lease.peer} has everything of revision {lease.revision}"
            add_event(connection, job_row.id, now, EventKind.DELIVERY_DONE, sentence)
            return settle(connection, job_row.id, now)

    def retry_delivery_later(
        self, lease: DeliveryLease, *, retry_at: datetime, sentence: str, max_attempts: int, now: datetime | None = None
    ) -> DeliveryState:
        """Another attempt at ``retry_at``, or FAILED when the attempts are used up; returns which. LeaseLost."""
        with self._writing() as connection:
            now = self._now(connection, now)
            _, row = held_delivery(connection, lease)
            if row.attempts >= max_attempts:
                _fail(connection, row, f"given up after {row.attempts} attempts: {sentence}", now)
                return DeliveryState.FAILED
            set_delivery(connection, row.id, retry_at=retry_at, message=sentence, **NO_LEASE)
            sentence = f"attempt {row.attempts} to deliver to {lease.peer} failed: {sentence}"
            add_event(connection, lease.job_id, now, EventKind.DELIVERY_POSTPONED, sentence)
            return DeliveryState.PENDING

    def fail_delivery(self, lease: DeliveryLease, *, sentence: str, now: datetime | None = None) -> None:
        """A human is needed. When the peer is required the job is FAILED in ``deliver``. LeaseLost."""
        with self._writing() as connection:
            _, row = held_delivery(connection, lease)
            _fail(connection, row, sentence, self._now(connection, now))


DELIVERABLE: Final = (
    (job.c.state == JobState.GRADED)
    | (job.c.state == JobState.DELIVERED)
    | ((job.c.state == JobState.FAILED) & (job.c.failed_in == Step.DELIVER))
)
"""A peer that failed, or that need not have the result, holds up no other."""


def _next_delivery(peer: str, now: datetime) -> Any:
    return (
        select(delivery, result.c.result_key, result.c.revision, job.c.study_instance_uid)
        .join(job, job.c.id == delivery.c.job_id)
        .join(result, result.c.id == delivery.c.result_id)
        .where(
            delivery.c.peer == peer,
            delivery.c.state == DeliveryState.PENDING,
            delivery.c.retry_at <= now,
            delivery.c.lease_until.is_(None) | (delivery.c.lease_until <= now),
            job.c.held.is_(False),
            job.c.revision == result.c.revision,
            DELIVERABLE,
        )
        .order_by(delivery.c.retry_at, delivery.c.id)
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


def _fail(connection: Connection, row: Row[Any], sentence: str, now: datetime) -> None:
    set_delivery(connection, row.id, state=DeliveryState.FAILED, state_since=now, message=sentence, **NO_LEASE)
    add_event(connection, row.job_id, now, EventKind.DELIVERY_FAILED, f"delivery to {row.peer} failed: {sentence}")
    if row.required:
        settle(connection, row.job_id, now)
