"""What an administrator does: retry, cancel, hold."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, exists, select, union_all, update

from stenosis_node.domain import DeliveryState, JobState
from stenosis_node.errors import PermanentError
from stenosis_node.jobs.database import Database
from stenosis_node.jobs.leases import NO_LEASE, add_event, lock_jobs, revoke_deliveries, set_job, settle
from stenosis_node.jobs.peers import retry_withdrawals
from stenosis_node.jobs.records import MR_CLASSES, EventKind, Step, WithdrawalReason, WithdrawalState
from stenosis_node.jobs.retention import lacks_files
from stenosis_node.jobs.schema import delivery, instance, job, result, withdrawal


class Admin(Database):
    """The part of the store that the CLI and the supervisor use."""

    def retry(self, job_id: int, *, now: datetime | None = None) -> JobState:
        """Go back to the last durable fact and try again now; returns the state.

        A job that stopped in delivery, or that only waits for another attempt of it, is GRADED: only deliveries that
        failed are pending again, and a complete result is never graded again. Any other is RECEIVED, also one whose
        result was recalled: what is graded then is a revision, even if its content is the same. Withdrawals of its
        results that failed are pending again; when a job has such and was recalled, nothing else happens.

        raises  PermanentError when there is no such job or nothing to retry
        """
        with self._writing("retry") as connection:
            now = self._now(connection, now)
            row = _locked(connection, job_id)
            n_withdrawals = retry_withdrawals(connection, withdrawal.c.job_id == job_id, {job_id}, now)
            recalled = row.state == JobState.CANCELLED and _latest_is_withdrawn(connection, row)
            if n_withdrawals and recalled:
                add_event(connection, job_id, now, EventKind.RETRIED, "withdrawal retried by an administrator")
                return JobState.CANCELLED
            match JobState(row.state):
                case JobState.FAILED | JobState.CANCELLED if row.failed_in == Step.DELIVER and not recalled:
                    _retry_deliveries(connection, row, now)
                    state = JobState.GRADED
                case JobState.FAILED | JobState.CANCELLED | JobState.REJECTED:
                    _refuse_if_gone(connection, row)
                    state = JobState.RECEIVED
                case JobState.RECEIVED:
                    _refuse_if_leased(row, now)
                    if row.retry_at is None:
                        raise PermanentError(f"job {job_id} waits for its turn or its quiet period; nothing to retry")
                    state = JobState.RECEIVED
                case JobState.GRADED | JobState.DELIVERED:
                    if not _retry_deliveries(connection, row, now) and not n_withdrawals:
                        raise PermanentError(f"job {job_id} is {row.state} and no delivery waits; nothing to retry")
                    state = JobState(row.state)
            changed: dict[str, Any] = {} if state == row.state else {"state_since": now}
            if state == JobState.RECEIVED:
                changed["purged_at"] = None  # the files are there, or came again
            if state == JobState.RECEIVED != row.state:
                changed["reissue"] = _latest_is_withdrawn(connection, row)
            set_job(
                connection,
                job_id,
                state=state,
                failed_in=None,
                reason=None,
                message=None,
                retry_at=None,
                attempts=0,
                tidied_at=None,
                **changed,
            )
            add_event(connection, job_id, now, EventKind.RETRIED, f"retried by an administrator, was {row.state}")
            if state == JobState.GRADED:  # peers may have committed to everything while the job was cancelled
                return settle(connection, job_id, now)
            return state

    def cancel(self, job_id: int, *, now: datetime | None = None) -> None:
        """Stop a job: CANCELLED, leases revoked. ``retry`` or a late instance starts it again.

        A job that is DELIVERED stays so; what waits for its optional peers, or was given up, is cancelled. Of any job
        that is over, withdrawals that wait or were given up are BY_HAND: a recall that asks for them again may make
        notes of them.

        Late is what comes after the quiet period: the rest of a study that is being received does not undo the order.

        raises  PermanentError when there is no such job or it is over
        """
        with self._writing("cancel") as connection:
            now = self._now(connection, now)
            row = _locked(connection, job_id)
            if row.state in (JobState.DELIVERED, JobState.REJECTED, JobState.CANCELLED):
                given_up = row.state == JobState.DELIVERED and _give_up_deliveries(connection, row, now)
                if not _give_up_withdrawals(connection, row, now) and not given_up:
                    raise PermanentError(f"job {job_id} is {row.state} already; nothing to cancel")
                return
            step = row.failed_in or (Step.GRADE if row.state == JobState.RECEIVED else Step.DELIVER)
            revoke_deliveries(connection, job_id)
            set_job(
                connection,
                job_id,
                state=JobState.CANCELLED,
                state_since=now,
                failed_in=step,
                message="cancelled by an administrator",
                retry_at=None,
                **NO_LEASE,
            )
            add_event(connection, job_id, now, EventKind.CANCELLED, f"cancelled by an administrator, was {row.state}")

    def hold(self, job_id: int, *, sentence: str, now: datetime | None = None) -> bool:
        """Nobody claims the job or its deliveries until :meth:`unhold`; who works on it now may finish.

        False when it was held already. PermanentError when there is no such job.
        """
        return self._set_held(job_id, True, EventKind.HELD, sentence, now)

    def unhold(self, job_id: int, *, sentence: str, now: datetime | None = None) -> bool:
        """End a :meth:`hold`. False when it was not held."""
        return self._set_held(job_id, False, EventKind.UNHELD, sentence, now)

    def _set_held(self, job_id: int, held: bool, kind: EventKind, sentence: str, now: datetime | None) -> bool:
        with self._writing("set_held") as connection:
            if _locked(connection, job_id).held == held:
                return False
            set_job(connection, job_id, held=held)
            add_event(connection, job_id, self._now(connection, now), kind, sentence)
            return True

    def free_leases_of(self, worker: str, *, now: datetime | None = None) -> int:
        """A worker is known to be dead: what it held can be claimed at once, its attempts count. Returns how many."""
        with self._writing("free_leases_of") as connection:
            now = self._now(connection, now)
            freed = 0
            lock_jobs(connection, _works_on(worker))
            for table in (job, delivery, withdrawal):
                job_id_column = table.c.id if table is job else table.c.job_id
                freeing = update(table).where(table.c.lease_worker == worker).values(**NO_LEASE)
                freeing = freeing.returning(job_id_column)
                for job_id in connection.execute(freeing).scalars().all():
                    add_event(connection, job_id, now, EventKind.WORKER_DIED, f"{worker} died while it worked on this")
                    freed += 1
            return freed


def _works_on(worker: str) -> Any:
    """Condition: a worker does something on a job."""
    ids = [select(table.c.job_id).where(table.c.lease_worker == worker) for table in (delivery, withdrawal)]
    return (job.c.lease_worker == worker) | job.c.id.in_(union_all(*ids))


def _locked(connection: Connection, job_id: int) -> Row[Any]:
    row = connection.execute(select(job).where(job.c.id == job_id).with_for_update()).first()
    if row is None:
        raise PermanentError(f"there is no job {job_id}")
    return row


def _refuse_if_leased(row: Row[Any], now: datetime) -> None:
    if row.lease_until is not None and row.lease_until > now:
        raise PermanentError(f"job {row.id} is being worked on by {row.lease_worker}; nothing to retry")


def _refuse_if_gone(connection: Connection, row: Row[Any]) -> None:
    there = (instance.c.job_id == row.id) & instance.c.purged_at.is_(None) & instance.c.sop_class_uid.in_(MR_CLASSES)
    if lacks_files(connection, row.id) or not connection.execute(select(exists().where(there))).scalar_one():
        raise PermanentError(f"files of the study of job {row.id} have been deleted; send the whole study again")


def _latest_is_withdrawn(connection: Connection, row: Row[Any]) -> bool:
    latest = (result.c.job_id == row.id) & (result.c.revision == row.revision)
    withdrawn: bool = connection.execute(
        select(exists().where(latest, result.c.withdrawn_at.is_not(None)))
    ).scalar_one()
    return withdrawn


def _give_up_deliveries(connection: Connection, row: Row[Any], now: datetime) -> bool:
    """What is not done of the deliveries to optional peers never will be. Whether there was any."""
    undone = (DeliveryState.PENDING, DeliveryState.SENT, DeliveryState.FAILED)
    giving_up = update(delivery).where(delivery.c.job_id == row.id, delivery.c.state.in_(undone))
    said = "cancelled by an administrator"
    stopped = connection.execute(
        giving_up.values(state=DeliveryState.CANCELLED, state_since=now, message=said, **NO_LEASE)
    ).rowcount
    if stopped:
        add_event(connection, row.id, now, EventKind.CANCELLED, f"{stopped} deliveries {said}")
    return stopped > 0


def _give_up_withdrawals(connection: Connection, row: Row[Any], now: datetime) -> bool:
    """The peers' administrators delete what is not withdrawn yet. Whether there was any.

    Not what is superseded by a revision that has not arrived: the peer would be left without a report.
    """
    due = (withdrawal.c.reason == WithdrawalReason.RECALLED) | (row.state == JobState.DELIVERED)
    open_ = (withdrawal.c.state == WithdrawalState.FAILED) | ((withdrawal.c.state == WithdrawalState.PENDING) & due)
    said = "no note: cancelled by an administrator"
    stopped = connection.execute(
        update(withdrawal)
        .where(withdrawal.c.job_id == row.id, open_)
        .values(state=WithdrawalState.BY_HAND, state_since=now, message=said, **NO_LEASE)
    ).rowcount
    if stopped:
        told = f"{stopped} withdrawals cancelled by an administrator: they are for a hand"
        add_event(connection, row.id, now, EventKind.CANCELLED, told)
    return stopped > 0


def _retry_deliveries(connection: Connection, row: Row[Any], now: datetime) -> bool:
    """Deliveries of the latest result that failed or were cancelled are pending again, waiting ones are due.

    Whether there were any.
    """
    latest = select(result.c.id).where(result.c.job_id == row.id, result.c.revision == row.revision).scalar_subquery()
    given_up = delivery.c.state.in_((DeliveryState.FAILED, DeliveryState.CANCELLED))
    waiting = (delivery.c.state == DeliveryState.PENDING) & (delivery.c.retry_at > now)
    again = update(delivery).where(delivery.c.result_id == latest, given_up | waiting)
    fresh = {"state": DeliveryState.PENDING, "state_since": now, "attempts": 0, "retry_at": now, "message": None}
    changed = connection.execute(again.values(**fresh, commit_attempts=0)).rowcount
    sent = (delivery.c.state == DeliveryState.SENT) & (delivery.c.commit_due_at > now)
    asking = update(delivery).where(delivery.c.result_id == latest, sent)
    return changed + connection.execute(asking.values(commit_due_at=now, commit_attempts=0)).rowcount > 0
