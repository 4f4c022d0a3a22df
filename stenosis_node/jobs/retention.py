"""Which files are to be deleted, decided in the rows first so that a late instance cannot lose a file it needs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, delete, exists, select, update

from stenosis_node.domain import Decision, DeliveryState, JobState, SeriesReason
from stenosis_node.jobs.database import Database
from stenosis_node.jobs.leases import add_event
from stenosis_node.jobs.records import MR_CLASSES, EventKind, Purge, WithdrawalState
from stenosis_node.jobs.schema import delivery, discarded, instance, job, result, series, withdrawal

FINISHED: Final = (JobState.DELIVERED, JobState.REJECTED, JobState.CANCELLED)
CLOSED: Final = (JobState.DELIVERED, JobState.REJECTED)

MAY_CHANGE: Final = (SeriesReason.TOO_FEW_SLICES, SeriesReason.DUPLICATE_SERIES, SeriesReason.SITE_RULE)
"""Reasons that late instances or other rules can overturn: such series are kept as long as graded ones."""

ORPHAN_GRACE: Final = timedelta(hours=1)
"""How long instances wait for the first MR instance of their study."""

RESEND_GRACE: Final = timedelta(hours=1)
"""How long instances of a deleted study that came again wait for the rest of it, or for a retry."""

JOBS_AT_ONCE: Final = 100


def _never_graded() -> Any:
    """Of an instance: it is no MR, or its series was rejected for good."""
    rejected = exists().where(
        series.c.job_id == instance.c.job_id,
        series.c.series_instance_uid == instance.c.series_instance_uid,
        series.c.decision == Decision.REJECTED,
        series.c.reason.not_in(MAY_CHANGE),
    )
    return instance.c.sop_class_uid.not_in(MR_CLASSES) | rejected


def lacks_files(connection: Connection, job_id: int) -> bool:
    """Whether files that grading the study again would need are deleted, or are about to be."""
    gone = exists().where(instance.c.job_id == job_id, instance.c.purged_at.is_not(None), ~_never_graded())
    lacks: bool = connection.execute(select(gone)).scalar_one()
    return lacks


class Retention(Database):
    """The part of the store that the housekeeping uses."""

    def purgeable(
        self, *, instances_days: float, documents_days: float, keep_ungradable: bool, now: datetime | None = None
    ) -> Purge:
        """Decide which files are to be deleted and mark their rows; at most 100 jobs of each kind at once.

        Delete the files, then call :meth:`mark_purged`. What a crash in between leaves is returned again. Call until
        the answer is empty.

        instances_days   received instances of a finished study (not of a failed one) go after this many days, and new
                         ones that came after these were deleted
        documents_days   documents of a finished study go after this many days
        keep_ungradable  keep instances of closed studies that can never be graded, and those of studies without MR
        """
        with self._writing("purgeable") as connection:
            now = self._now(connection, now)
            _mark_instances(connection, now - timedelta(days=instances_days), now)
            _mark_results(connection, now - timedelta(days=documents_days), now)
            if not keep_ungradable:
                _mark_ungradable(connection, now)
            _mark_resent(connection, now - RESEND_GRACE, now)
            kept = timedelta(days=instances_days)
            _mark_orphans(connection, now - kept, now - (kept if keep_ungradable else ORPHAN_GRACE), now)
            instances = connection.execute(
                select(instance.c.id, instance.c.path)
                .where(instance.c.purged_at.is_not(None), instance.c.deleted_at.is_(None))
                .order_by(instance.c.purged_at, instance.c.id)
                .limit(100_000)
            ).all()
            results = connection.execute(
                select(result.c.id, result.c.result_key, result.c.chosen_key)
                .where(result.c.purged_at.is_not(None), result.c.deleted_at.is_(None))
                .order_by(result.c.purged_at, result.c.id)
            ).all()
            notes = [note for row in results for note in _notes_of(connection, row.id)]
        return Purge(
            instances=tuple(Path(row.path) for row in instances),
            instance_ids=tuple(row.id for row in instances),
            result_keys=tuple(dict.fromkeys([*(row.result_key for row in results), *notes])),
            chosen_keys=tuple(dict.fromkeys(row.chosen_key for row in results)),
            result_ids=tuple(row.id for row in results),
        )

    def mark_purged(self, purge: Purge, *, now: datetime | None = None) -> None:
        """The files of ``purge`` are gone. Rows of studies that never had a job go too, and are counted."""
        with self._writing("mark_purged") as connection:
            now = self._now(connection, now)
            for ids in _portions(purge.instance_ids):
                gone = instance.c.id.in_(ids) & instance.c.purged_at.is_not(None)
                orphans = delete(instance).where(gone, instance.c.job_id.is_(None)).returning(instance.c.size_bytes)
                self._count_discarded(connection, connection.execute(orphans).scalars().all())
                connection.execute(update(instance).where(gone).values(deleted_at=now))
            for ids in _portions(purge.result_ids):
                gone = result.c.id.in_(ids) & result.c.purged_at.is_not(None)
                connection.execute(update(result).where(gone).values(deleted_at=now))

    def _count_discarded(self, connection: Connection, sizes: Sequence[int]) -> None:
        if sizes:
            counting = self._insert(discarded).values(id=1, n_instances=len(sizes), n_bytes=sum(sizes))
            more = {name: discarded.c[name] + counting.excluded[name] for name in ("n_instances", "n_bytes")}
            connection.execute(counting.on_conflict_do_update(index_elements=[discarded.c.id], set_=more))


def _portions(ids: Sequence[int]) -> list[Sequence[int]]:
    """Databases limit the number of parameters of a statement."""
    return [ids[i : i + 500] for i in range(0, len(ids), 500)]


def _finished(connection: Connection, *conditions: Any) -> list[int]:
    wanted = select(job.c.id).where(*conditions).order_by(job.c.state_since).limit(JOBS_AT_ONCE)
    return list(connection.execute(wanted.with_for_update(skip_locked=True)).scalars())


def _mark_instances(connection: Connection, before: datetime, now: datetime) -> None:
    ids = _finished(connection, job.c.purged_at.is_(None), job.c.state.in_(FINISHED), job.c.state_since <= before)
    if not ids:
        return
    there = instance.c.job_id.in_(ids) & instance.c.purged_at.is_(None)
    connection.execute(update(instance).where(there).values(purged_at=now))
    connection.execute(update(job).where(job.c.id.in_(ids)).values(purged_at=now, tidied_at=now))
    for job_id in ids:
        add_event(connection, job_id, now, EventKind.PURGED, "the received files of this study are deleted")


def _mark_results(connection: Connection, before: datetime, now: datetime) -> None:
    waiting = delivery.c.state.in_((DeliveryState.PENDING, DeliveryState.SENT))
    pending = exists().where(delivery.c.job_id == job.c.id, waiting)
    withdrawing = exists().where(
        withdrawal.c.result_id == result.c.id,
        withdrawal.c.state.in_((WithdrawalState.PENDING, WithdrawalState.FAILED)),
    )
    finished = exists().where(
        job.c.id == result.c.job_id,
        job.c.state.in_(FINISHED),
        job.c.state_since <= before,
        ~pending | (job.c.state == JobState.CANCELLED),
    )
    wanted = (
        select(result.c.id)
        .where(result.c.purged_at.is_(None), result.c.created_at <= before, finished, ~withdrawing)  # created_at: index
        .order_by(result.c.created_at, result.c.id)
        .limit(JOBS_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    ids = connection.execute(wanted).scalars().all()
    if ids:
        # of a result that was forgotten before, findings and notes are still to go
        connection.execute(update(result).where(result.c.id.in_(ids)).values(purged_at=now, deleted_at=None))


def _notes_of(connection: Connection, result_id: int) -> list[str]:
    """Keys of the rejection notes that withdraw a result."""
    wanted = select(withdrawal.c.note_key).where(
        withdrawal.c.result_id == result_id, withdrawal.c.note_key.is_not(None)
    )
    return list(connection.execute(wanted.order_by(withdrawal.c.id)).scalars())


def _mark_ungradable(connection: Connection, now: datetime) -> None:
    """What can never be graded of closed studies."""
    ids = _finished(connection, job.c.tidied_at.is_(None), job.c.purged_at.is_(None), job.c.state.in_(CLOSED))
    if not ids:
        return
    there = instance.c.job_id.in_(ids) & instance.c.purged_at.is_(None)
    connection.execute(update(instance).where(there, _never_graded()).values(purged_at=now))
    connection.execute(update(job).where(job.c.id.in_(ids)).values(tidied_at=now))


def _mark_resent(connection: Connection, before: datetime, now: datetime) -> None:
    """Instances of a deleted study that came again, once none has for a while and the study did not start again."""
    coming = exists().where(instance.c.job_id == job.c.id, instance.c.received_at > before)
    ids = _finished(connection, job.c.tidied_at.is_(None), job.c.purged_at.is_not(None), ~coming)
    for job_id in ids:
        there = (instance.c.job_id == job_id) & instance.c.purged_at.is_(None)
        if connection.execute(update(instance).where(there).values(purged_at=now)).rowcount:
            add_event(connection, job_id, now, EventKind.PURGED, "the files that came again are deleted")
    if ids:
        connection.execute(update(job).where(job.c.id.in_(ids)).values(tidied_at=now))


def _mark_orphans(connection: Connection, before: datetime, other_before: datetime, now: datetime) -> None:
    """MR instances without a job came after their study was deleted; other ones wait for its first MR instance."""
    mr = instance.c.sop_class_uid.in_(MR_CLASSES)
    old = (mr & (instance.c.received_at <= before)) | (~mr & (instance.c.received_at <= other_before))
    there = instance.c.job_id.is_(None) & instance.c.purged_at.is_(None)
    wanted = select(instance.c.id).where(there, old).with_for_update(skip_locked=True)  # it waits for no reception
    for ids in _portions(connection.execute(wanted).scalars().all()):
        connection.execute(update(instance).where(instance.c.id.in_(ids)).values(purged_at=now))
