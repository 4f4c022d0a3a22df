"""Who works on what: tokens, fencing, and the rows that say so. Shared by the parts of the store."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, Table, exists, insert, select, update

from stenosis_node.domain import DeliveryState, JobState
from stenosis_node.errors import LeaseLost
from stenosis_node.jobs.database import storable, storable_values
from stenosis_node.jobs.records import EventKind, Step, WithdrawalReason
from stenosis_node.jobs.schema import delivery, event, job, peer, result, withdrawal

NO_LEASE: Final[dict[str, Any]] = {"lease_token": None, "lease_until": None, "lease_worker": None}


DELIVERABLE: Final = (
    (job.c.state == JobState.GRADED)
    | (job.c.state == JobState.DELIVERED)
    | ((job.c.state == JobState.FAILED) & (job.c.failed_in == Step.DELIVER))
)
"""A peer that failed, or that need not have the result, holds up no other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckLease:
    """The right to find out whether a study is complete until ``lease_until``. New instances do not revoke it."""

    job_id: int
    study_instance_uid: str
    token: str
    worker: str
    lease_until: datetime
    calling_ae_titles: tuple[str, ...]
    """Who sent the instances, most frequent first."""
    fetch_rounds: int
    """How often missing instances have been fetched for this check, or one before."""
    last_instance_at: datetime
    past_ceiling: bool
    """The study must wait no longer, whatever is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to grade a study until ``lease_until``. The token fences: whoever holds an older one gets LeaseLost."""

    job_id: int
    study_instance_uid: str
    state: JobState
    token: str
    worker: str
    attempt: int
    """1 for the first."""
    claimed_at: datetime
    first_claimed_at: datetime
    """When this set of instances was first claimed, whatever the attempt. Every time in a result is this one."""
    lease_until: datetime
    revision: int
    """Of the latest result; 0: none yet."""
    reissue: bool
    """An administrator wants it graded although its result was recalled: a revision, even of the same content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sending:
    job_id: int
    study_instance_uid: str
    result_id: int
    result_key: str
    revision: int
    peer: str
    token: str
    worker: str
    attempt: int
    """1 for the first."""
    lease_until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryLease(_Sending):
    """The right to send one result to one peer until ``lease_until``."""

    delivery_id: int
    first_started_at: datetime | None
    """Start of the first attempt before this one; None when this is the first."""
    confirmed: frozenset[str]
    """SOP Instance UIDs this peer has confirmed, in whichever result of the job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitmentLease(_Sending):
    """The right to ask one peer for storage commitment of one result until ``lease_until``."""

    delivery_id: int
    documents: tuple[tuple[str, str], ...]
    """(SOP Class UID, SOP Instance UID) of what the peer has confirmed and not committed to yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WithdrawalLease(_Sending):
    """The right to send the rejection note of one result to one peer until ``lease_until``."""

    withdrawal_id: int
    note_key: str
    reason: WithdrawalReason
    sop_instance_uids: tuple[str, ...]


def new_token() -> str:
    """Never given twice."""
    return secrets.token_hex(16)


def is_free(table: Table, now: datetime) -> Any:
    """Condition: nobody holds the lease of a row of job, delivery or withdrawal."""
    return table.c.lease_until.is_(None) | (table.c.lease_until <= now)


def sending(row: Row[Any], *, peer: str, worker: str, until: datetime) -> dict[str, Any]:
    """What every lease on something for a peer is made of. ``row``: with its job and its result."""
    return {
        "job_id": row.job_id,
        "study_instance_uid": row.study_instance_uid,
        "result_id": row.result_id,
        "result_key": row.result_key,
        "revision": row.revision,
        "peer": peer,
        "token": new_token(),
        "worker": worker,
        "lease_until": until,
    }


def columns_of(lease: Lease | CheckLease | _Sending) -> dict[str, Any]:
    """The lease as its row has it."""
    return {"lease_token": lease.token, "lease_until": lease.lease_until, "lease_worker": lease.worker}


def renew_row(connection: Connection, table: Table, row_id: int, token: str, until: datetime) -> bool:
    """Keep a lease; False when it is gone."""
    mine = (table.c.id == row_id) & (table.c.lease_token == token)
    return connection.execute(update(table).where(mine).values(lease_until=until)).rowcount > 0


def add_event(connection: Connection, job_id: int, at: datetime, kind: EventKind, sentence: str) -> None:
    """Write down what happened."""
    connection.execute(insert(event).values(job_id=job_id, at=at, kind=kind, sentence=storable(sentence)))


def lock_jobs(connection: Connection, condition: Any) -> Sequence[Row[Any]]:
    """Rows of several jobs, locked in the one order that all keep: by Study Instance UID, character by character.

    That is how Python sorts, and reception, which knows no other name of a job, locks them. What belongs to a job, its
    deliveries and withdrawals, is locked after it. Who locks in another order makes PostgreSQL find deadlocks.
    """
    uid = job.c.study_instance_uid
    order = uid.collate("C") if connection.dialect.name == "postgresql" else uid  # else that of the server's language
    return connection.execute(select(job).where(condition).order_by(order).with_for_update()).all()


def held_job(connection: Connection, lease: Lease | CheckLease) -> Row[Any]:
    """The job's row, locked. LeaseLost when the lease was revoked or is someone else's now."""
    row = connection.execute(
        select(job).where(job.c.id == lease.job_id, job.c.lease_token == lease.token).with_for_update()
    ).first()
    if row is None:
        doing = "graded" if isinstance(lease, Lease) else "checked"
        raise LeaseLost(f"job {lease.job_id} was taken away while it was being {doing}")
    return row


def held_delivery(connection: Connection, lease: DeliveryLease | CommitmentLease) -> tuple[Row[Any], Row[Any]]:
    """The rows of job and delivery, locked in this order, as reception does. LeaseLost when the lease is gone."""
    job_row = connection.execute(select(job).where(job.c.id == lease.job_id).with_for_update()).one()
    delivery_row = connection.execute(
        select(delivery)
        .where(delivery.c.id == lease.delivery_id, delivery.c.lease_token == lease.token)
        .with_for_update()
    ).first()
    if delivery_row is None:
        raise delivery_lost(lease)
    return job_row, delivery_row


def delivery_lost(lease: DeliveryLease | CommitmentLease) -> LeaseLost:
    """The error of whoever has it no longer."""
    return LeaseLost(f"delivery {lease.delivery_id} of job {lease.job_id} to {lease.peer} was taken away")


def held_withdrawal(connection: Connection, lease: WithdrawalLease) -> Row[Any]:
    """The row of the withdrawal, locked after that of its job. LeaseLost when the lease is gone."""
    connection.execute(select(job.c.id).where(job.c.id == lease.job_id).with_for_update()).one()
    row = connection.execute(
        select(withdrawal)
        .where(withdrawal.c.id == lease.withdrawal_id, withdrawal.c.lease_token == lease.token)
        .with_for_update()
    ).first()
    if row is None:
        raise LeaseLost(f"withdrawal {lease.withdrawal_id} of job {lease.job_id} from {lease.peer} was taken away")
    return row


def is_paused(name: str) -> Any:
    """Condition: nothing is sent to this peer."""
    return exists().where(peer.c.name == name, peer.c.paused_at.is_not(None))


def set_job(connection: Connection, job_id: int, **values: Any) -> None:
    """Change columns of a job."""
    connection.execute(update(job).where(job.c.id == job_id).values(**storable_values(values)))


def set_delivery(connection: Connection, delivery_id: int, **values: Any) -> None:
    """Change columns of a delivery."""
    connection.execute(update(delivery).where(delivery.c.id == delivery_id).values(**storable_values(values)))


def set_withdrawal(connection: Connection, withdrawal_id: int, **values: Any) -> None:
    """Change columns of a withdrawal."""
    connection.execute(update(withdrawal).where(withdrawal.c.id == withdrawal_id).values(**storable_values(values)))


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


def fail_delivery(connection: Connection, row: Row[Any], sentence: str, now: datetime) -> None:
    """FAILED; so is the job when the peer is required."""
    set_delivery(connection, row.id, state=DeliveryState.FAILED, state_since=now, message=sentence, **NO_LEASE)
    add_event(connection, row.job_id, now, EventKind.DELIVERY_FAILED, f"delivery to {row.peer} failed: {sentence}")
    if row.required:
        settle(connection, row.job_id, now)


def revoke_deliveries(connection: Connection, job_id: int) -> None:
    """Whoever sends a result of the job, or asks for its commitment, gets LeaseLost. The states stay."""
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


def cancel_deliveries(connection: Connection, job_id: int, why: str, now: datetime) -> None:
    """What is not done of the deliveries of a job never will be. Receipts stay."""
    undone = delivery.c.state.in_((DeliveryState.PENDING, DeliveryState.SENT))
    connection.execute(
        update(delivery)
        .where(delivery.c.job_id == job_id, undone)
        .values(state=DeliveryState.CANCELLED, state_since=now, message=why, **NO_LEASE)
    )
