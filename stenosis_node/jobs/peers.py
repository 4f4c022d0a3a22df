"""What the node knows of each peer: paused or not, what it can do, how its queue stands."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, func, select, union_all, update

from stenosis_node.domain import DeliveryState, JobState
from stenosis_node.jobs.database import Database
from stenosis_node.jobs.leases import (
    DELIVERABLE,
    NO_LEASE,
    add_event,
    lock_jobs,
    set_delivery,
    set_withdrawal,
    settle,
)
from stenosis_node.jobs.records import EventKind, WithdrawalState
from stenosis_node.jobs.schema import delivery, job, peer, result, withdrawal

JOBS_AT_ONCE: Final = 500
"""Databases limit the number of parameters of a statement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerCapability:
    """What is remembered of a peer's abilities."""

    report_class: str | None
    """SOP class of the report that it took last."""
    capability: Mapping[str, Any]
    """As given to ``remember_capability``; empty when it was never probed."""
    probed_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSummary:
    """The queue of one peer. Only deliveries that count are counted: of the latest result of a job that is not over."""

    name: str
    paused_at: datetime | None
    paused_why: str | None
    pending: int
    waiting_commitment: int
    failed: int
    oldest_pending_at: datetime | None
    """Since when the oldest pending delivery waits."""
    pending_withdrawals: int
    failed_withdrawals: int
    by_hand: int
    """Withdrawals that wait for an administrator of the peer."""
    last_success_at: datetime | None
    last_error: str | None
    last_error_at: datetime | None
    report_class: str | None

    @property
    def paused(self) -> bool:
        """Whether nothing is sent to it."""
        return self.paused_at is not None


class Peers(Database):
    """The part of the store that is about peers, whatever the job."""

    def pause_peer(self, name: str, *, why: str, now: datetime | None = None) -> None:
        """From now on nothing more is claimed for this peer, until :meth:`resume_peer`; what is being sent is ended."""
        with self._writing("pause_peer") as connection:
            self._upsert_peer(connection, name, paused_at=self._now(connection, now), paused_why=why)

    def resume_peer(self, name: str, *, now: datetime | None = None) -> int:
        """End a pause: everything that waits for this peer is due at once. Returns how many deliveries that are."""
        with self._writing("resume_peer") as connection:
            now = self._now(connection, now)
            waits = {
                table: (table.c.peer == name)
                & (table.c.state == pending)
                & table.c.lease_token.is_(None)
                & (table.c.retry_at > now)
                for table, pending in ((delivery, DeliveryState.PENDING), (withdrawal, WithdrawalState.PENDING))
            }
            ids = _lock_jobs_of(
                connection, *(select(table.c.job_id).where(waiting) for table, waiting in waits.items())
            )
            for table, waiting in waits.items():
                for start in range(0, len(ids), JOBS_AT_ONCE):
                    of_these = table.c.job_id.in_(ids[start : start + JOBS_AT_ONCE])
                    connection.execute(update(table).where(of_these, waiting).values(retry_at=now))
            self._upsert_peer(connection, name, paused_at=None, paused_why=None)
            undone = delivery.c.state.in_((DeliveryState.PENDING, DeliveryState.SENT))
            return int(connection.execute(_counted(func.count(), name).where(undone)).scalar_one())

    def remember_capability(
        self,
        name: str,
        *,
        report_class: str | None = None,
        capability: Mapping[str, Any] | None = None,
        now: datetime | None = None,
    ) -> None:
        """Keep what a peer can do; what is not given stays as it is.

        report_class  SOP class of the report that it took
        capability    anything that JSON can hold
        """
        values: dict[str, Any] = {} if report_class is None else {"report_class": report_class}
        with self._writing("remember_capability") as connection:
            if capability is not None:
                values |= {"capability": dict(capability), "probed_at": self._now(connection, now)}
            self._upsert_peer(connection, name, **values)

    def capability(self, name: str) -> PeerCapability | None:
        """What is remembered of a peer; None when nothing ever was."""
        with self._reading() as connection:
            row = connection.execute(select(peer).where(peer.c.name == name)).first()
        if row is None:
            return None
        return PeerCapability(report_class=row.report_class, capability=row.capability or {}, probed_at=row.probed_at)

    def is_paused(self, name: str) -> bool:
        """Whether an administrator stopped sending to the peer."""
        with self._reading() as connection:
            paused = select(peer.c.name).where(peer.c.name == name, peer.c.paused_at.is_not(None))
            return connection.execute(paused).first() is not None

    def peers(self) -> tuple[PeerSummary, ...]:
        """Every peer that ever got a result, or was paused or probed, by name."""
        with self._reading() as connection:
            return summaries(connection)

    def retry_peer(self, name: str, *, now: datetime | None = None) -> int:
        """Try everything again that has failed for this peer: deliveries of latest results, and withdrawals.

        Returns how many there are.
        """
        with self._writing("retry_peer") as connection:
            now = self._now(connection, now)
            failed = delivery.c.state == DeliveryState.FAILED
            not_withdrawn = (withdrawal.c.peer == name) & (withdrawal.c.state == WithdrawalState.FAILED)
            of_deliveries = _counted(delivery.c.job_id, name).where(failed)
            ids = set(_lock_jobs_of(connection, of_deliveries, select(withdrawal.c.job_id).where(not_withdrawn)))
            found = _counted(delivery.c.id, name, delivery.c.job_id, job.c.state.label("was")).where(failed)
            rows = [row for row in connection.execute(found.order_by(job.c.id)).all() if row.job_id in ids]
            for row in rows:
                again: dict[str, Any] = {"state": DeliveryState.PENDING, "attempts": 0, "message": None}
                set_delivery(connection, row.id, **again, state_since=now, retry_at=now, commit_attempts=0, **NO_LEASE)
                told = f"delivery to {name} retried by an administrator"
                add_event(connection, row.job_id, now, EventKind.RETRIED, told)
                if row.was == JobState.FAILED:
                    settle(connection, row.job_id, now)
            return len(rows) + retry_withdrawals(connection, withdrawal.c.peer == name, ids, now)


def _lock_jobs_of(connection: Connection, *job_ids: Any) -> list[int]:
    """Lock the jobs that some statements find; their numbers."""
    return [row.id for row in lock_jobs(connection, job.c.id.in_(union_all(*job_ids)))]


def retry_withdrawals(connection: Connection, condition: Any, job_ids: Collection[int], now: datetime) -> int:
    """Withdrawals that failed are pending again, those of these jobs, which are locked. Returns how many."""
    failed = select(withdrawal.c.id, withdrawal.c.job_id).where(condition, withdrawal.c.state == WithdrawalState.FAILED)
    ids = [row.id for row in connection.execute(failed).all() if row.job_id in job_ids]
    values = {"state": WithdrawalState.PENDING, "state_since": now, "attempts": 0, "retry_at": now, "message": None}
    for withdrawal_id in ids:
        set_withdrawal(connection, withdrawal_id, **values)
    return len(ids)


def summaries(connection: Connection) -> tuple[PeerSummary, ...]:
    """Of every peer that has a row, by name."""
    return tuple(_summary(connection, row) for row in connection.execute(select(peer).order_by(peer.c.name)).all())


def _summary(connection: Connection, row: Any) -> PeerSummary:
    counting = _counted(delivery.c.state, row.name, func.count().label("n"), func.min(delivery.c.state_since))
    undone = (DeliveryState.PENDING, DeliveryState.SENT, DeliveryState.FAILED)
    found = connection.execute(counting.where(delivery.c.state.in_(undone)).group_by(delivery.c.state)).all()
    deliveries = {state: (n, since) for state, n, since in found}
    notes = select(withdrawal.c.state, func.count()).where(withdrawal.c.peer == row.name).group_by(withdrawal.c.state)
    withdrawals: dict[str, int] = {state: n for state, n in connection.execute(notes)}  # noqa: C416  a row is no pair to mypy
    nothing = (0, None)
    return PeerSummary(
        name=row.name,
        paused_at=row.paused_at,
        paused_why=row.paused_why,
        pending=deliveries.get(DeliveryState.PENDING, nothing)[0],
        waiting_commitment=deliveries.get(DeliveryState.SENT, nothing)[0],
        failed=deliveries.get(DeliveryState.FAILED, nothing)[0],
        oldest_pending_at=deliveries.get(DeliveryState.PENDING, nothing)[1],
        pending_withdrawals=withdrawals.get(WithdrawalState.PENDING, 0),
        failed_withdrawals=withdrawals.get(WithdrawalState.FAILED, 0),
        by_hand=withdrawals.get(WithdrawalState.BY_HAND, 0),
        last_success_at=row.last_success_at,
        last_error=row.last_error,
        last_error_at=row.last_error_at,
        report_class=row.report_class,
    )


def _counted(first: Any, name: str, *others: Any) -> Any:
    """Deliveries to a peer that count: of the latest result of a job that is not open again, and not cancelled."""
    return (
        select(first, *others)
        .select_from(
            delivery.join(job, job.c.id == delivery.c.job_id).join(result, result.c.id == delivery.c.result_id)
        )
        .where(delivery.c.peer == name, job.c.revision == result.c.revision, DELIVERABLE)
    )
