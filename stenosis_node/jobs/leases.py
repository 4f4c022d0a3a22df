"""Who works on what: tokens, fencing, and the rows that say so. Shared by the parts of the store."""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, insert, select, update

from stenosis_node.domain import DeliveryState, JobState
from stenosis_node.errors import LeaseLost
from stenosis_node.jobs.records import DeliveryLease, EventKind, Lease, Step
from stenosis_node.jobs.schema import delivery, event, job, result

NO_LEASE: Final[dict[str, Any]] = {"lease_token": None, "lease_until": None, "lease_worker": None}


def new_token() -> str:
    """Never given twice."""
    return secrets.token_hex(16)


def add_event(connection: Connection, job_id: int, at: datetime, kind: EventKind, sentence: str) -> None:
    """Write down what happened."""
    connection.execute(insert(event).values(job_id=job_id, at=at, kind=kind, sentence=sentence))


def held_job(connection: Connection, lease: Lease) -> Row[Any]:
    """The job's row, locked. LeaseLost when the lease was revoked or is someone else's now."""
    row = connection.execute(
        select(job).where(job.c.id == lease.job_id, job.c.lease_token == lease.token).with_for_update()
    ).first()
    if row is None:
        raise LeaseLost(f"job {lease.job_id} was taken away while it was being graded")
    return row


def held_delivery(connection: Connection, lease: DeliveryLease) -> tuple[Row[Any], Row[Any]]:
    """The rows of job and delivery, locked in this order, as reception does. LeaseLost when the lease is gone."""
    job_row = connection.execute(select(job).where(job.c.id == lease.job_id).with_for_update()).one()
    delivery_row = connection.execute(
        select(delivery)
        .where(delivery.c.id == lease.delivery_id, delivery.c.lease_token == lease.token)
        .with_for_update()
    ).first()
    if delivery_row is None:
        raise LeaseLost(f"delivery {lease.delivery_id} of job {lease.job_id} to {lease.peer} was taken away")
    return job_row, delivery_row


def set_job(connection: Connection, job_id: int, **values: Any) -> None:
    """Change columns of a job."""
    connection.execute(update(job).where(job.c.id == job_id).values(**values))


def set_delivery(connection: Connection, delivery_id: int, **values: Any) -> None:
    """Change columns of a delivery."""
    connection.execute(update(delivery).where(delivery.c.id == delivery_id).values(**values))


def fail_job(connection: Connection, job_id: int, step: Step, sentence: str, now: datetime) -> None:
    """FAILED, and where; nobody works on it."""
    set_job(
        connection,
        job_id,
        state=JobState.FAILED,
        state_since=now,
        failed_in=step,
        message=sentence,
        retry_at=None,
        **NO_LEASE,
    )
    add_event(connection, job_id, now, EventKind.FAILED, sentence)


def revoke_deliveries(connection: Connection, job_id: int) -> None:
    """Whoever sends a result of the job gets LeaseLost. The deliveries stay pending."""
    connection.execute(
        update(delivery).where(delivery.c.job_id == job_id, delivery.c.lease_token.is_not(None)).values(**NO_LEASE)
    )


def settle(connection: Connection, job_id: int, now: datetime) -> JobState:
    """The state that follows from the required deliveries of the latest result; written down, and returned.

    All delivered: DELIVERED. One failed: FAILED in ``deliver``. Else: GRADED.
    """
    row = connection.execute(select(job.c.state, job.c.failed_in).where(job.c.id == job_id)).one()
    required = connection.execute(
        select(delivery.c.state, delivery.c.peer, delivery.c.message)
        .join(result, result.c.id == delivery.c.result_id)
        .join(job, (job.c.id == result.c.job_id) & (job.c.revision == result.c.revision))
        .where(job.c.id == job_id, delivery.c.required)
        .order_by(delivery.c.id)
    ).all()
    failed = next((r for r in required if r.state == DeliveryState.FAILED), None)
    if failed is not None:
        if (row.state, row.failed_in) != (JobState.FAILED, Step.DELIVER):
            fail_job(connection, job_id, Step.DELIVER, f"delivery to {failed.peer} failed: {failed.message}", now)
        return JobState.FAILED
    done = all(r.state == DeliveryState.DELIVERED for r in required)
    state = JobState.DELIVERED if done else JobState.GRADED
    if row.state != state:
        set_job(connection, job_id, state=state, state_since=now, failed_in=None, reason=None, message=None)
        if done:
            text = "every required peer has everything" if required else "there is no peer that must have it"
            add_event(connection, job_id, now, EventKind.DELIVERED, text)
    return state
