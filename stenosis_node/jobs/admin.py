"""What an administrator reads and does: the list, the whole story of a job, retry, cancel, hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, exists, func, select, update

from stenosis_node.domain import Decision, DeliveryState, JobState, SeriesDecision, SeriesReason
from stenosis_node.errors import PermanentError
from stenosis_node.jobs.database import Database
from stenosis_node.jobs.grading import read_documents
from stenosis_node.jobs.leases import NO_LEASE, add_event, revoke_deliveries, set_job
from stenosis_node.jobs.records import (
    MR_CLASSES,
    DeliverySummary,
    EventKind,
    JobDetail,
    JobEvent,
    JobSummary,
    Receipt,
    ResultSummary,
    Step,
)
from stenosis_node.jobs.retention import lacks_files
from stenosis_node.jobs.schema import delivery, event, instance, job, receipt, result, series


class Admin(Database):
    """The part of the store that the CLI and the supervisor use."""

    # ----------------------------------------------------------------- reading

    def list_jobs(
        self, *, states: Collection[JobState] | None = None, study: str | None = None, limit: int = 50
    ) -> tuple[JobSummary, ...]:
        """Jobs, newest first.

        states   only these; None: all
        study    only the job of this Study Instance UID
        """
        wanted = select(job).order_by(job.c.id.desc()).limit(limit)
        if states is not None:
            wanted = wanted.where(job.c.state.in_(states))
        if study is not None:
            wanted = wanted.where(job.c.study_instance_uid == study)
        with self._reading() as connection:
            return tuple(_summary(row) for row in connection.execute(wanted))

    def counts(self) -> dict[JobState, int]:
        """Number of jobs in each state, zeros included."""
        with self._reading() as connection:
            found = connection.execute(select(job.c.state, func.count()).group_by(job.c.state)).all()
        return dict.fromkeys(JobState, 0) | {JobState(state): n for state, n in found}

    def job(self, id_or_study_uid: int | str) -> JobDetail | None:
        """Everything known about a job, found by its number or its Study Instance UID; None when there is none."""
        by_id = str(id_or_study_uid).isdecimal() and len(str(id_or_study_uid)) < 19  # fits the column
        condition = job.c.id == int(id_or_study_uid) if by_id else job.c.study_instance_uid == id_or_study_uid
        with self._reading() as connection:
            row = connection.execute(select(job).where(condition)).first()
            return None if row is None else _detail(connection, row)

    # ----------------------------------------------------------------- acting

    def retry(self, job_id: int, *, now: datetime | None = None) -> JobState:
        """Go back to the last durable fact and try again now; returns the state.

        A job that stopped in delivery, or that only waits for another attempt of it, is GRADED: only deliveries that
        failed are pending again, and a complete result is never graded again. Any other is RECEIVED.

        raises  PermanentError when there is no such job or nothing to retry
        """
        with self._writing() as connection:
            now = self._now(connection, now)
            row = _locked(connection, job_id)
            match JobState(row.state):
                case JobState.FAILED | JobState.CANCELLED if row.failed_in == Step.DELIVER:
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
                    if not _retry_deliveries(connection, row, now):
                        raise PermanentError(f"job {job_id} is {row.state} and no delivery waits; nothing to retry")
                    state = JobState(row.state)
            changed: dict[str, Any] = {} if state == row.state else {"state_since": now}
            if state == JobState.RECEIVED:
                changed["purged_at"] = None  # the files are there, or came again
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
            return state

    def cancel(self, job_id: int, *, now: datetime | None = None) -> None:
        """Stop a job: CANCELLED, leases revoked. ``retry`` or a late instance starts it again.

        Late is what comes after the quiet period: the rest of a study that is being received does not undo the order.

        raises  PermanentError when there is no such job or it is over
        """
        with self._writing() as connection:
            now = self._now(connection, now)
            row = _locked(connection, job_id)
            if row.state in (JobState.DELIVERED, JobState.REJECTED, JobState.CANCELLED):
                raise PermanentError(f"job {job_id} is {row.state} already; nothing to cancel")
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

    def hold(self, job_id: int, *, sentence: str, now: datetime | None = None) -> None:
        """Nobody claims the job or its deliveries until :meth:`unhold`; who works on it now may finish."""
        self._set_held(job_id, True, EventKind.HELD, sentence, now)

    def unhold(self, job_id: int, *, sentence: str, now: datetime | None = None) -> None:
        """End a :meth:`hold`."""
        self._set_held(job_id, False, EventKind.UNHELD, sentence, now)

    def _set_held(self, job_id: int, held: bool, kind: EventKind, sentence: str, now: datetime | None) -> None:
        with self._writing() as connection:
            _locked(connection, job_id)
            set_job(connection, job_id, held=held)
            add_event(connection, job_id, self._now(connection, now), kind, sentence)

    def free_leases_of(self, worker: str, *, now: datetime | None = None) -> int:
        """A worker is known to be dead: what it held can be claimed at once, its attempts count. Returns how many."""
        with self._writing() as connection:
            now = self._now(connection, now)
            freed = 0
            for table, id_column in ((job, job.c.id), (delivery, delivery.c.job_id)):
                freeing = update(table).where(table.c.lease_worker == worker).values(**NO_LEASE).returning(id_column)
                for job_id in connection.execute(freeing).scalars().all():
                    add_event(connection, job_id, now, EventKind.WORKER_DIED, f"{worker} died while it worked on this")
                    freed += 1
            return freed


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


def _retry_deliveries(connection: Connection, row: Row[Any], now: datetime) -> bool:
    """Failed deliveries of the latest result are pending again, waiting ones are due. Whether there were any."""
    latest = select(result.c.id).where(result.c.job_id == row.id, result.c.revision == row.revision).scalar_subquery()
    failed = delivery.c.state == DeliveryState.FAILED
    waiting = (delivery.c.state == DeliveryState.PENDING) & (delivery.c.retry_at > now)
    again = update(delivery).where(delivery.c.result_id == latest, failed | waiting)
    changed = connection.execute(
        again.values(state=DeliveryState.PENDING, state_since=now, attempts=0, retry_at=now, message=None)
    )
    return changed.rowcount > 0


# --------------------------------------------------------------------------- rows to records


def _summary(row: Row[Any]) -> JobSummary:
    return JobSummary(
        id=row.id,
        study_instance_uid=row.study_instance_uid,
        state=JobState(row.state),
        state_since=row.state_since,
        failed_in=None if row.failed_in is None else Step(row.failed_in),
        reason=row.reason,
        message=row.message,
        created_at=row.created_at,
        last_instance_at=row.last_instance_at,
        n_instances=row.n_instances,
        quiet_until=row.quiet_until,
        retry_at=row.retry_at,
        held=row.held,
        attempts=row.attempts,
        worker=row.lease_worker,
        lease_until=row.lease_until,
        revision=row.revision,
        first_claimed_at=row.first_claimed_at,
    )


def _detail(connection: Connection, row: Row[Any]) -> JobDetail:
    decisions = connection.execute(
        select(series)
        .where(series.c.job_id == row.id)
        .order_by(series.c.series_number.is_(None), series.c.series_number, series.c.series_instance_uid)
    )
    events = connection.execute(select(event).where(event.c.job_id == row.id).order_by(event.c.id))
    conflicts = select(func.coalesce(func.sum(instance.c.conflicts), 0)).where(instance.c.job_id == row.id)
    results = connection.execute(select(result).where(result.c.job_id == row.id).order_by(result.c.revision)).all()
    return JobDetail(
        job=_summary(row),
        series=tuple(
            SeriesDecision(
                series_instance_uid=r.series_instance_uid,
                series_number=r.series_number,
                description=r.description,
                n_instances=r.n_instances,
                decision=Decision(r.decision),
                reason=SeriesReason(r.reason),
                sentence=r.sentence,
                values=dict(r.header_values),
            )
            for r in decisions
        ),
        events=tuple(JobEvent(at=r.at, kind=EventKind(r.kind), sentence=r.sentence) for r in events),
        results=tuple(
            ResultSummary(
                revision=r.revision,
                result_key=r.result_key,
                chosen_key=r.chosen_key,
                first_claimed_at=r.first_claimed_at,
                created_at=r.created_at,
                documents=read_documents(connection, r.id),
            )
            for r in results
        ),
        deliveries=_deliveries(connection, row.id),
        conflicts=int(connection.execute(conflicts).scalar_one()),
    )


def _deliveries(connection: Connection, job_id: int) -> tuple[DeliverySummary, ...]:
    receipts: dict[int, list[Receipt]] = defaultdict(list)
    answered = (
        select(receipt)
        .join(delivery, delivery.c.id == receipt.c.delivery_id)
        .where(delivery.c.job_id == job_id)
        .order_by(receipt.c.at, receipt.c.sop_instance_uid)
    )
    for r in connection.execute(answered):
        receipts[r.delivery_id].append(
            Receipt(sop_instance_uid=r.sop_instance_uid, status=r.status, text=r.text, confirmed=r.confirmed, at=r.at)
        )
    wanted = (
        select(delivery, result.c.revision, result.c.result_key)
        .join(result, result.c.id == delivery.c.result_id)
        .where(delivery.c.job_id == job_id)
        .order_by(result.c.revision, delivery.c.peer)
    )
    return tuple(
        DeliverySummary(
            id=r.id,
            revision=r.revision,
            result_key=r.result_key,
            peer=r.peer,
            required=r.required,
            state=DeliveryState(r.state),
            state_since=r.state_since,
            message=r.message,
            attempts=r.attempts,
            retry_at=r.retry_at,
            started_at=r.started_at,
            worker=r.lease_worker,
            lease_until=r.lease_until,
            receipts=tuple(receipts[r.id]),
        )
        for r in connection.execute(wanted)
    )
