"""What reception writes: instances, and the jobs they open, postpone or re-open."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Table, bindparam, exists, select, update

from stenosis_node.domain import JobState, ReceivedInstance
from stenosis_node.jobs.database import Database
from stenosis_node.jobs.leases import NO_LEASE, add_event, lock_jobs, revoke_deliveries, set_job
from stenosis_node.jobs.prepared import Prepared
from stenosis_node.jobs.records import MR_CLASSES, BeingDeleted, EventKind, Step, Touch
from stenosis_node.jobs.retention import RESEND_GRACE, lacks_files
from stenosis_node.jobs.schema import document, event, instance, job

_LOOKED_AT: Final = (
    *("id", "study_instance_uid", "state", "n_instances", "n_bytes", "first_claimed_at", "lease_until", "purged_at"),
    *("last_instance_at", "quiet_until", "ceiling_at"),
)
"""Columns of a job that decide what an instance does to it."""
_POSTPONED: Final = ("n_instances", "n_bytes", "last_instance_at", "complete_because", "quiet_until")
_ADDED: Final = (
    *("job_id", "study_instance_uid", "series_instance_uid", "sop_instance_uid", "sop_class_uid", "received_at"),
    *("transfer_syntax_uid", "path", "size_bytes", "sha256", "calling_ae_title", "conflicts"),
)


@dataclass(frozen=True, slots=True)
class _Clock:
    now: datetime
    quiet: timedelta
    ceiling: timedelta


class Receiving(Database):
    """The part of the store that the receiving process uses."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        looked_at = select(*(job.c[name] for name in _LOOKED_AT))
        of_study = looked_at.where(job.c.study_instance_uid == bindparam("study")).with_for_update()
        self._job_of = self._prepared(of_study, {"study": job.c.study_instance_uid.type})
        postpone = update(job).where(job.c.id == bindparam("of_job")).values(_parameters(_POSTPONED))
        self._postpone = self._prepared(postpone, {"of_job": job.c.id.type, **_types(job, _POSTPONED)})
        add = self._insert(instance).values(_parameters(_ADDED)).on_conflict_do_nothing().returning(instance.c.id)
        self._add = self._prepared(add, _types(instance, _ADDED))

    def _prepared(self, statement: Any, parameters: dict[str, Any]) -> Prepared:
        return Prepared(statement, self._engine.dialect, parameters)

    def touch(
        self,
        received: ReceivedInstance,
        *,
        conflict: bool = False,
        quiet_period_s: float,
        ceiling_s: float,
        now: datetime | None = None,
    ) -> Touch:
        """Write one received instance down; its bytes are durable already. See :meth:`touch_many`."""
        (touch,) = self.touch_many([(received, conflict)], quiet_period_s=quiet_period_s, ceiling_s=ceiling_s, now=now)
        return touch

    def touch_many(
        self,
        arrivals: Sequence[tuple[ReceivedInstance, bool]],
        *,
        quiet_period_s: float,
        ceiling_s: float,
        now: datetime | None = None,
    ) -> tuple[Touch, ...]:
        """Write received instances down in one transaction; all of them or none.

        A new MR instance opens or postpones the job of its study. If the study was claimed or closed before, it starts
        again: RECEIVED, leases revoked, attempts 0. Cancelled while it is received, it stays so until nothing has come
        for the quiet period. A new instance of another class is only counted. An exact resend changes nothing. Newness
        is decided by the row, not by the file.

        Once this returns the housekeeping leaves the files alone; look afterwards whether they are still there.

        arrivals   pairs of the instance and whether other bytes came than those that are kept
        raises     BeingDeleted when the housekeeping is about to delete the file of an instance that came again
        """
        by_study: dict[str, list[int]] = defaultdict(list)
        for i, (received, _) in enumerate(arrivals):
            by_study[received.study_instance_uid].append(i)
        touches: dict[int, Touch] = {}
        with self._writing_often("touch_many") as connection:
            clock = _Clock(self._now(connection, now), timedelta(seconds=quiet_period_s), timedelta(seconds=ceiling_s))
            for study in sorted(by_study):  # one order of locks for jobs, and for instances that have none
                indices = sorted(by_study[study], key=lambda i: _uids(arrivals[i][0]))
                group = [arrivals[i] for i in indices]
                touches.update(zip(indices, self._touch_study(connection, study, group, clock), strict=True))
        return tuple(touches[i] for i in range(len(arrivals)))

    def postpone_open(self, study_uids: Collection[str], *, until: datetime, now: datetime | None = None) -> None:
        """Keep studies open until ``until`` at least, but never beyond their ceiling: associations still carry them."""
        waiting = (
            job.c.study_instance_uid.in_(study_uids)
            & (job.c.state == JobState.RECEIVED)
            & (job.c.quiet_until < until)
            & (job.c.quiet_until < job.c.ceiling_at)
            & job.c.first_claimed_at.is_(None)
        )
        with self._reading() as connection:  # almost always there is nothing to write
            if connection.execute(select(job.c.id).where(waiting).limit(1)).first() is None:
                return
        with self._writing("postpone_open") as connection:
            for row in lock_jobs(connection, waiting):
                set_job(connection, row.id, quiet_until=min(until, row.ceiling_at))

    def is_own_document(self, sop_instance_uid: str) -> bool:
        """Whether this node made the document: then it only came back from a peer."""
        with self._reading() as connection:
            found = select(document.c.sop_instance_uid).where(document.c.sop_instance_uid == sop_instance_uid).limit(1)
            return connection.execute(found).first() is not None

    def known_paths(self, paths: Collection[Path]) -> frozenset[str]:
        """Paths of rows whose files are to be there, among them each of these that has one.

        paths  relative to the spool, named after their SOP Instance UIDs (that is what is indexed)
        """
        uids = [path.stem for path in paths]
        with self._reading() as connection:
            kept = select(instance.c.path).where(instance.c.sop_instance_uid.in_(uids), instance.c.deleted_at.is_(None))
            return frozenset(connection.execute(kept).scalars())

    # ----------------------------------------------------------------- one study

    def _touch_study(
        self, connection: Connection, study: str, group: Sequence[tuple[ReceivedInstance, bool]], clock: _Clock
    ) -> list[Touch]:
        row = self._job_of.execute(connection, {"study": study})
        opened = False
        if row is None and any(_is_mr(received) for received, _ in group):
            row, opened = self._open(connection, study, group, clock)
        adopter = row.id if row is not None and row.purged_at is None else None
        new = [self._add_instance(connection, received, adopter, conflict=conflict) for received, conflict in group]
        for (received, conflict), is_new in zip(group, new, strict=True):
            if not is_new:
                _seen_again(connection, received, conflict=conflict, clock=clock)
            elif conflict and adopter is not None:  # the file of a reception that was refused, or died before its row
                _say_conflict(connection, adopter, received, clock)

        reopened = False
        if row is not None and row.purged_at is not None:
            reopened = self._touch_purged(connection, row, any(new), clock)
        elif row is not None and any(new):
            mr = any(is_new and _is_mr(received) for (received, _), is_new in zip(group, new, strict=True))
            values: dict[str, Any] = {
                "n_instances": row.n_instances + sum(new),
                "n_bytes": row.n_bytes + sum(a.size_bytes for (a, _), is_new in zip(group, new, strict=True) if is_new),
            }
            if mr and not opened:
                reopened = _postpone_or_reopen(connection, row, values, clock)
            self._change(connection, row.id, values)
        job_id = None if row is None else row.id
        return [
            Touch(job_id=job_id, new_instance=is_new, reopened=reopened and is_new and _is_mr(received))
            for (received, _), is_new in zip(group, new, strict=True)
        ]

    def _open(
        self, connection: Connection, study: str, group: Iterable[tuple[ReceivedInstance, bool]], clock: _Clock
    ) -> tuple[Any, bool]:
        """The new job of a study, with the instances that came before its first MR instance."""
        opening = (
            self._insert(job)
            .values(
                study_instance_uid=study,
                state=JobState.RECEIVED,
                state_since=clock.now,
                created_at=clock.now,
                opened_at=clock.now,
                last_instance_at=clock.now,
                quiet_until=clock.now + min(clock.quiet, clock.ceiling),
                ceiling_at=clock.now + clock.ceiling,
            )
            .on_conflict_do_nothing(index_elements=[job.c.study_instance_uid])
            .returning(job.c.id)
        )
        job_id = connection.execute(opening).scalar_one_or_none()
        if job_id is not None:
            adopted, size = _adopt_orphans(connection, job_id, study)
            set_job(connection, job_id, n_instances=adopted, n_bytes=size)
            first = min((received for received, _ in group if _is_mr(received)), key=lambda one: one.received_at)
            sender = first.calling_ae_title
            add_event(connection, job_id, clock.now, EventKind.OPENED, f"first MR instance received from {sender}")
        row = self._job_of.execute(connection, {"study": study})
        assert row is not None  # noqa: S101  inserted here, or by the process that was faster
        return row, job_id is not None

    def _add_instance(
        self, connection: Connection, received: ReceivedInstance, job_id: int | None, *, conflict: bool
    ) -> bool:
        """Whether the row is new."""
        row = {
            "job_id": job_id,
            "study_instance_uid": received.study_instance_uid,
            "series_instance_uid": received.series_instance_uid,
            "sop_instance_uid": received.sop_instance_uid,
            "sop_class_uid": received.sop_class_uid,
            "received_at": received.received_at,
            "conflicts": int(conflict),
            **_of_file(received),
        }
        return self._add.execute(connection, _named(row)) is not None

    def _change(self, connection: Connection, job_id: int, values: dict[str, Any]) -> None:
        """Change columns of a job; the usual ones, after a new MR instance, by the statement that is ready."""
        if values.keys() == set(_POSTPONED):
            self._postpone.execute(connection, {"of_job": job_id, **_named(values)})
        else:
            set_job(connection, job_id, **values)

    def _touch_purged(self, connection: Connection, row: Any, any_new: bool, clock: _Clock) -> bool:
        """A study whose files were deleted starts again when all it needs is back and something new is among it.

        Until then new instances wait as orphans: grading a part of the study would replace a good result by a bad one.
        """
        of_study = instance.c.study_instance_uid == row.study_instance_uid
        if lacks_files(connection, row.id):
            if any_new and not _said_lately(connection, row.id, EventKind.AFTER_PURGE, clock.now - RESEND_GRACE):
                add_event(
                    connection,
                    row.id,
                    clock.now,
                    EventKind.AFTER_PURGE,
                    "a new instance came after the files of this study had been deleted; send the whole study again",
                )
            return False
        has_new = connection.execute(
            select(
                exists().where(
                    of_study,
                    instance.c.job_id.is_(None),
                    instance.c.purged_at.is_(None),
                    instance.c.sop_class_uid.in_(MR_CLASSES),
                )
            )
        ).scalar_one()
        if not has_new:
            return False
        adopted, size = _adopt_orphans(connection, row.id, row.study_instance_uid)
        values: dict[str, Any] = {"purged_at": None, "tidied_at": None}
        values |= {"n_instances": row.n_instances + adopted, "n_bytes": row.n_bytes + size}
        reopened = _postpone_or_reopen(connection, row, values, clock)
        set_job(connection, row.id, **values)
        return reopened


def _say_conflict(connection: Connection, job_id: int, received: ReceivedInstance, clock: _Clock) -> None:
    add_event(
        connection,
        job_id,
        clock.now,
        EventKind.CONFLICT,
        f"instance {received.sop_instance_uid} came again with other bytes; the first are kept, "
        "the others are in the quarantine",
    )


def _parameters(columns: Iterable[str]) -> dict[str, Any]:
    """A parameter for each column: its own name is SQLAlchemy's."""
    return {name: bindparam(f"new_{name}") for name in columns}


def _types(table: Table, columns: Iterable[str]) -> dict[str, Any]:
    return {f"new_{name}": table.c[name].type for name in columns}


def _named(values: dict[str, Any]) -> dict[str, Any]:
    return {f"new_{name}": value for name, value in values.items()}


def _of_file(received: ReceivedInstance) -> dict[str, Any]:
    return {
        "transfer_syntax_uid": received.transfer_syntax_uid,
        "path": received.path.as_posix(),
        "size_bytes": received.size_bytes,
        "sha256": received.sha256,
        "calling_ae_title": received.calling_ae_title,
    }


def _uids(received: ReceivedInstance) -> tuple[str, str]:
    return received.series_instance_uid, received.sop_instance_uid


def _is_mr(received: ReceivedInstance) -> bool:
    return received.sop_class_uid in MR_CLASSES


def _said_lately(connection: Connection, job_id: int, kind: EventKind, after: datetime) -> bool:
    said = exists().where(event.c.job_id == job_id, event.c.kind == kind, event.c.at > after)
    lately: bool = connection.execute(select(said)).scalar_one()
    return lately


def _adopt_orphans(connection: Connection, job_id: int, study: str) -> tuple[int, int]:
    """How many, and their bytes. Not those that are being deleted: their rows go with them."""
    adopting = update(instance).where(
        instance.c.study_instance_uid == study, instance.c.job_id.is_(None), instance.c.purged_at.is_(None)
    )
    sizes = connection.execute(adopting.values(job_id=job_id).returning(instance.c.size_bytes)).scalars().all()
    return len(sizes), sum(sizes)


def _seen_again(connection: Connection, received: ReceivedInstance, *, conflict: bool, clock: _Clock) -> None:
    """An instance that is known: its file may have been deleted before, or other bytes may have come."""
    known = connection.execute(
        select(instance)
        .where(
            instance.c.sop_instance_uid == received.sop_instance_uid,
            instance.c.series_instance_uid == received.series_instance_uid,
            instance.c.study_instance_uid == received.study_instance_uid,
        )
        .with_for_update()
    ).first()
    if known is None or (known.purged_at is not None and known.deleted_at is None):
        raise BeingDeleted(f"instance {received.sop_instance_uid} is being deleted; send it again")
    values: dict[str, Any] = {}
    if known.purged_at is not None:  # there is a file again, to be deleted like the one before
        values |= {"purged_at": None, "deleted_at": None, "received_at": clock.now, **_of_file(received)}
        if known.job_id is not None:
            set_job(connection, known.job_id, tidied_at=None)
    if conflict:
        values["conflicts"] = known.conflicts + 1
        if known.conflicts == 0 and known.job_id is not None:
            _say_conflict(connection, known.job_id, received, clock)
    if values:
        connection.execute(update(instance).where(instance.c.id == known.id).values(**values))


def _postpone_or_reopen(connection: Connection, row: Any, values: dict[str, Any], clock: _Clock) -> bool:
    """Fill ``values`` with what a new MR instance does to its job. Returns whether the job starts again."""
    untouched = row.state == JobState.RECEIVED and row.first_claimed_at is None
    values |= {"last_instance_at": clock.now, "complete_because": None}
    if untouched:
        values["quiet_until"] = min(max(row.quiet_until, clock.now + clock.quiet), row.ceiling_at)
        return False
    if row.state == JobState.CANCELLED and clock.now < row.last_instance_at + clock.quiet:  # the same reception
        quiet_until = max(row.quiet_until, min(clock.now + clock.quiet, row.ceiling_at))
        values |= {"quiet_until": quiet_until, "first_claimed_at": None, "failed_in": Step.GRADE}
        return False
    values |= {
        "state": JobState.RECEIVED,
        "opened_at": clock.now,
        "quiet_until": clock.now + min(clock.quiet, clock.ceiling),
        "ceiling_at": clock.now + clock.ceiling,
        "retry_at": None,
        "attempts": 0,
        "first_claimed_at": None,
        "failed_in": None,
        "reason": None,
        "message": None,
        "tidied_at": None,
        **NO_LEASE,
    }
    if row.state != JobState.RECEIVED:
        values |= {"state_since": clock.now, "fetch_rounds": 0}
    revoke_deliveries(connection, row.id)
    add_event(
        connection, row.id, clock.now, EventKind.REOPENED, f"a new instance came when the job was {_was(row, clock)}"
    )
    return True


def _was(row: Any, clock: _Clock) -> str:
    if row.state != JobState.RECEIVED:
        return str(row.state)
    return (
        "being graded" if row.lease_until is not None and row.lease_until > clock.now else "waiting for another attempt"
    )
