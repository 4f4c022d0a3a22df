"""The rejection notes that tell the peers what is withdrawn: one queue per peer."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, exists, select

from stenosis_node.domain import DeliveryState
from stenosis_node.errors import LeaseLost
from stenosis_node.jobs.database import Database
from stenosis_node.jobs.leases import (
    NO_LEASE,
    WithdrawalLease,
    add_event,
    columns_of,
    held_withdrawal,
    is_free,
    is_paused,
    renew_row,
    sending,
    set_withdrawal,
)
from stenosis_node.jobs.records import EventKind, WithdrawalReason, WithdrawalState
from stenosis_node.jobs.schema import delivery, job, result, withdrawal


class Withdrawing(Database):
    """The part of the store that the sending of rejection notes uses."""

    def claim_withdrawal(
        self, peer: str, *, worker: str, lease_s: float, max_attempts: int, now: datetime | None = None
    ) -> WithdrawalLease | None:
        """Take the rejection note for ``peer`` that has waited longest, None when there is none. Counts an attempt.

        None while the peer is paused or the job is held; the note about a superseded result waits until the peer has a
        later one, DELIVERED. One whose attempts are used up, because whoever had it died, fails here.
        """
        with self._writing("claim_withdrawal") as connection:
            now = self._now(connection, now)
            while (row := connection.execute(_next_withdrawal(peer, now)).first()) is not None:
                if row.attempts >= max_attempts:
                    _fail(connection, row, f"the delivering process died {row.attempts} times on it", now)
                    continue
                lease = WithdrawalLease(
                    withdrawal_id=row.id,
                    **sending(row, peer=peer, worker=worker, until=now + timedelta(seconds=lease_s)),
                    attempt=row.attempts + 1,
                    note_key=row.note_key,
                    reason=WithdrawalReason(row.reason),
                    sop_instance_uids=tuple(row.sop_instance_uids),
                )
                set_withdrawal(
                    connection,
                    row.id,
                    attempts=lease.attempt,
                    **columns_of(lease),
                )
                return lease
        return None

    def renew_withdrawal(self, lease: WithdrawalLease, *, lease_s: float, now: datetime | None = None) -> None:
        """Keep the lease for ``lease_s`` from now. LeaseLost when it is gone."""
        with self._writing("renew_withdrawal") as connection:
            until = self._now(connection, now) + timedelta(seconds=lease_s)
            if not renew_row(connection, withdrawal, lease.withdrawal_id, lease.token, until):
                raise LeaseLost(f"withdrawal {lease.withdrawal_id} of job {lease.job_id} was taken away")

    def release_withdrawal(self, lease: WithdrawalLease) -> None:
        """Give it back, because the node stops: the attempt does not count. LeaseLost when it is gone."""
        with self._writing("release_withdrawal") as connection:
            row = held_withdrawal(connection, lease)
            set_withdrawal(connection, row.id, attempts=row.attempts - 1, **NO_LEASE)

    def advance_withdrawal(self, lease: WithdrawalLease, *, now: datetime | None = None) -> None:
        """The peer has the rejection note. LeaseLost."""
        with self._writing("advance_withdrawal") as connection:
            now = self._now(connection, now)
            row = held_withdrawal(connection, lease)
            done = {"state": WithdrawalState.DELIVERED, "state_since": now, "message": None, "attempts": 0}
            set_withdrawal(connection, row.id, **done, **NO_LEASE)
            sentence = f"{lease.peer} has the rejection note for revision {lease.revision}"
            add_event(connection, lease.job_id, now, EventKind.WITHDRAWN, sentence)
            self._upsert_peer(connection, lease.peer, last_success_at=now)

    def retry_withdrawal_later(
        self,
        lease: WithdrawalLease,
        *,
        retry_at: datetime,
        sentence: str,
        max_attempts: int,
        now: datetime | None = None,
    ) -> WithdrawalState:
        """Another attempt at ``retry_at``, or FAILED when the attempts are used up; returns which. LeaseLost."""
        with self._writing("retry_withdrawal_later") as connection:
            now = self._now(connection, now)
            row = held_withdrawal(connection, lease)
            self._upsert_peer(connection, lease.peer, last_error=sentence, last_error_at=now)
            if row.attempts >= max_attempts:
                _fail(connection, row, f"given up after {row.attempts} attempts: {sentence}", now)
                return WithdrawalState.FAILED
            set_withdrawal(connection, row.id, retry_at=retry_at, message=sentence, **NO_LEASE)
            told = f"attempt {row.attempts} to send {lease.peer} a rejection note failed: {sentence}"
            add_event(connection, lease.job_id, now, EventKind.WITHDRAWAL_POSTPONED, told)
            return WithdrawalState.PENDING

    def fail_withdrawal(self, lease: WithdrawalLease, *, sentence: str, now: datetime | None = None) -> None:
        """A human is needed. LeaseLost."""
        with self._writing("fail_withdrawal") as connection:
            now = self._now(connection, now)
            row = held_withdrawal(connection, lease)
            _fail(connection, row, sentence, now)
            self._upsert_peer(connection, lease.peer, last_error=sentence, last_error_at=now)


def _next_withdrawal(peer: str, now: datetime) -> Any:
    has_later = later_delivery(delivery.c.state == DeliveryState.DELIVERED)
    return (
        select(withdrawal, result.c.result_key, result.c.revision, job.c.study_instance_uid)
        .join(job, job.c.id == withdrawal.c.job_id)
        .join(result, result.c.id == withdrawal.c.result_id)
        .where(
            withdrawal.c.peer == peer,
            withdrawal.c.state == WithdrawalState.PENDING,
            withdrawal.c.retry_at <= now,
            is_free(withdrawal, now),
            (withdrawal.c.reason != WithdrawalReason.SUPERSEDED) | has_later,
            job.c.held.is_(False),
            ~is_paused(peer),
        )
        .order_by(withdrawal.c.retry_at, withdrawal.c.id)
        .limit(1)
        .with_for_update(skip_locked=True, of=[withdrawal, job])
    )


def later_delivery(condition: Any) -> Any:
    """Condition: of the job of a withdrawal there is such a delivery of a later result than ``result`` to its peer."""
    newer = result.alias("newer")
    return exists().where(
        delivery.c.job_id == withdrawal.c.job_id,
        delivery.c.peer == withdrawal.c.peer,
        condition,
        newer.c.id == delivery.c.result_id,
        newer.c.revision > result.c.revision,
    )


def _fail(connection: Connection, row: Row[Any], sentence: str, now: datetime) -> None:
    failed = {"state": WithdrawalState.FAILED, "state_since": now, "message": sentence}
    set_withdrawal(connection, row.id, **failed, **NO_LEASE)
    told = f"withdrawal from {row.peer} failed: {sentence}"
    add_event(connection, row.job_id, now, EventKind.WITHDRAWAL_FAILED, told)
