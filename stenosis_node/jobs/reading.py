"""What an administrator reads: the list of jobs, the whole story of one, the state of the node."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, func, literal_column, select

from stenosis_node.domain import Decision, DeliveryState, JobState, SeriesDecision, SeriesReason
from stenosis_node.jobs.database import Database
from stenosis_node.jobs.grading import read_documents
from stenosis_node.jobs.peers import PeerSummary, summaries
from stenosis_node.jobs.records import (
    DeliverySummary,
    EventKind,
    JobDetail,
    JobEvent,
    JobSummary,
    Receipt,
    ResultSummary,
    Step,
    WithdrawalReason,
    WithdrawalState,
    WithdrawalSummary,
)
from stenosis_node.jobs.schema import delivery, discarded, event, instance, job, receipt, result, series, withdrawal


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """The state of the node at one moment."""

    at: datetime
    jobs: Mapping[JobState, int]
    """Zeros included."""
    peers: tuple[PeerSummary, ...]
    oldest_waiting_at: datetime | None
    """When the study that has waited longest for grading, or for the check before it, fell quiet."""
    last_result_at: datetime | None
    """None also when its documents are deleted."""
    results_24h: int
    rejected_24h: int
    instances: int
    """Received since the beginning, exact resends and instances of studies without MR not counted."""
    instance_bytes: int
    discarded: int
    """Instances of studies without MR that were received, and deleted."""
    discarded_bytes: int
    conflicts: int
    """Times other bytes came under a known UID."""

    @property
    def failed(self) -> int:
        """Jobs that need a human."""
        return self.jobs[JobState.FAILED]

    @property
    def oldest_waiting_s(self) -> float:
        """Age of :attr:`oldest_waiting_at`; 0 when nothing waits."""
        return 0.0 if self.oldest_waiting_at is None else (self.at - self.oldest_waiting_at).total_seconds()

    @property
    def oldest_pending_s(self) -> float:
        """Age of the delivery that has waited longest, of whichever peer; 0 when none waits."""
        waiting = [one.oldest_pending_at for one in self.peers if one.oldest_pending_at is not None]
        return (self.at - min(waiting)).total_seconds() if waiting else 0.0

    @property
    def paused_peers(self) -> tuple[str, ...]:
        """Names."""
        return tuple(one.name for one in self.peers if one.paused)


class Reading(Database):
    """The part of the store that only reads, for the CLI and for monitoring."""

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
            return _counts(connection)

    def job(self, id_or_study_uid: int | str) -> JobDetail | None:
        """Everything known about a job, found by its number or its Study Instance UID; None when there is none."""
        by_id = str(id_or_study_uid).isdecimal() and len(str(id_or_study_uid)) < 19  # fits the column
        condition = job.c.id == int(id_or_study_uid) if by_id else job.c.study_instance_uid == id_or_study_uid
        with self._reading() as connection:
            row = connection.execute(select(job).where(condition)).first()
            return None if row is None else _detail(connection, row)

    def status(self, *, now: datetime | None = None) -> NodeStatus:
        """The state of the node, cheap enough to be asked for every few seconds."""
        with self._reading() as connection:
            now = self._now(connection, now)
            day_ago = now - timedelta(days=1)
            waiting = select(func.min(job.c.quiet_until)).where(
                job.c.state == JobState.RECEIVED, job.c.quiet_until <= now, job.c.held.is_(False)
            )
            results = select(func.count()).where(result.c.created_at > day_ago, result.c.purged_at.is_(None))
            latest = select(func.max(result.c.created_at)).where(result.c.purged_at.is_(None))
            rejected = select(func.count()).where(
                job.c.state == JobState.REJECTED, job.c.state_since > day_ago, job.c.purged_at.is_(None)
            )
            received = select(func.coalesce(func.sum(job.c.n_instances), 0), func.coalesce(func.sum(job.c.n_bytes), 0))
            conflicts = select(func.coalesce(func.sum(instance.c.conflicts), 0)).where(
                literal_column("conflicts") > literal_column("0")  # as the index has it
            )
            n_instances, n_bytes = connection.execute(received).one()
            gone = connection.execute(select(discarded.c.n_instances, discarded.c.n_bytes)).first() or (0, 0)
            return NodeStatus(
                at=now,
                jobs=_counts(connection),
                peers=summaries(connection),
                oldest_waiting_at=connection.execute(waiting).scalar_one(),
                last_result_at=connection.execute(latest).scalar_one(),
                results_24h=connection.execute(results).scalar_one(),
                rejected_24h=connection.execute(rejected).scalar_one(),
                instances=int(n_instances),
                instance_bytes=int(n_bytes),
                discarded=gone[0],
                discarded_bytes=gone[1],
                conflicts=int(connection.execute(conflicts).scalar_one()),
            )


def _counts(connection: Connection) -> dict[JobState, int]:
    found = connection.execute(select(job.c.state, func.count()).group_by(job.c.state)).all()
    return dict.fromkeys(JobState, 0) | {JobState(state): n for state, n in found}


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
        complete_because=row.complete_because,
        fetch_rounds=row.fetch_rounds,
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
                id=r.id,
                revision=r.revision,
                result_key=r.result_key,
                chosen_key=r.chosen_key,
                first_claimed_at=r.first_claimed_at,
                created_at=r.created_at,
                bundle=r.bundle,
                bundle_digest=r.bundle_digest,
                withdrawn_at=r.withdrawn_at,
                withdrawn_why=r.withdrawn_why,
                documents=read_documents(connection, r.id),
            )
            for r in results
        ),
        deliveries=_deliveries(connection, row.id),
        withdrawals=_withdrawals(connection, row.id),
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
            Receipt(
                sop_instance_uid=r.sop_instance_uid,
                status=r.status,
                text=r.text,
                confirmed=r.confirmed,
                at=r.at,
                committed_at=r.committed_at,
            )
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
            commit_attempts=r.commit_attempts,
            commit_requested_at=r.commit_requested_at,
            commit_due_at=r.commit_due_at,
            committed_at=r.committed_at,
            receipts=tuple(receipts[r.id]),
        )
        for r in connection.execute(wanted)
    )


def _withdrawals(connection: Connection, job_id: int) -> tuple[WithdrawalSummary, ...]:
    wanted = (
        select(withdrawal, result.c.revision, result.c.result_key)
        .join(result, result.c.id == withdrawal.c.result_id)
        .where(withdrawal.c.job_id == job_id)
        .order_by(result.c.revision, withdrawal.c.peer)
    )
    return tuple(
        WithdrawalSummary(
            id=r.id,
            revision=r.revision,
            result_key=r.result_key,
            peer=r.peer,
            state=WithdrawalState(r.state),
            state_since=r.state_since,
            reason=WithdrawalReason(r.reason),
            why=r.why,
            message=r.message,
            note_key=r.note_key,
            sop_instance_uids=tuple(r.sop_instance_uids),
            created_at=r.created_at,
            attempts=r.attempts,
            retry_at=r.retry_at,
        )
        for r in connection.execute(wanted)
    )
