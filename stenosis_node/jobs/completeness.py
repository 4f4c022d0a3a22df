"""Whether a study is complete: asked once it is quiet, by whoever can ask its source, before it may be graded."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, exists, func, select

from stenosis_node.domain import JobState
from stenosis_node.errors import LeaseLost
from stenosis_node.jobs.database import Database
from stenosis_node.jobs.leases import (
    NO_LEASE,
    CheckLease,
    add_event,
    columns_of,
    held_job,
    is_free,
    new_token,
    renew_row,
    set_job,
)
from stenosis_node.jobs.records import EventKind
from stenosis_node.jobs.schema import instance, job


class Completeness(Database):
    """The part of the store that the check for completeness uses."""

    def claim_check(
        self, *, worker: str, lease_s: float, not_from: Collection[str] = (), now: datetime | None = None
    ) -> CheckLease | None:
        """Take the quiet study that has waited longest for its check, None when there is none.

        A check counts no attempt: once ``past_ceiling`` it must conclude whatever it finds.

        not_from  calling AE titles: studies of which an instance came from these wait, up to their ceiling
        """
        with self._writing("claim_check") as connection:
            now = self._now(connection, now)
            row = connection.execute(_next_check(now, not_from)).first()
            if row is None:
                return None
            lease = CheckLease(
                job_id=row.id,
                study_instance_uid=row.study_instance_uid,
                token=new_token(),
                worker=worker,
                lease_until=now + timedelta(seconds=lease_s),
                calling_ae_titles=_senders(connection, row.id),
                fetch_rounds=row.fetch_rounds,
                last_instance_at=row.last_instance_at,
                past_ceiling=now >= row.ceiling_at,
            )
            set_job(
                connection,
                row.id,
                retry_at=None,
                **columns_of(lease),
            )
            return lease

    def renew_check(self, lease: CheckLease, *, lease_s: float, now: datetime | None = None) -> None:
        """Keep the lease for ``lease_s`` from now. LeaseLost when it is gone."""
        with self._writing("renew_check") as connection:
            until = self._now(connection, now) + timedelta(seconds=lease_s)
            if not renew_row(connection, job, lease.job_id, lease.token, until):
                raise LeaseLost(f"job {lease.job_id} was taken away while it was being checked")

    def release_check(self, lease: CheckLease) -> None:
        """Give the study back unchecked, because the node stops. LeaseLost when it is gone."""
        with self._writing("release_check") as connection:
            held_job(connection, lease)
            set_job(connection, lease.job_id, **NO_LEASE)

    def conclude_check(self, lease: CheckLease, *, because: str, now: datetime | None = None) -> bool:
        """The study is complete, may be graded, and says why.

        Returns False, and the study is checked again when it is quiet, if an MR instance has come since the check
        began and the ceiling is not reached. LeaseLost.
        """
        with self._writing("conclude_check") as connection:
            now = self._now(connection, now)
            row = held_job(connection, lease)
            if row.last_instance_at != lease.last_instance_at and now < row.ceiling_at:
                set_job(connection, row.id, **NO_LEASE)
                return False
            set_job(connection, row.id, complete_because=because, message=None, retry_at=None, **NO_LEASE)
            add_event(connection, row.id, now, EventKind.COMPLETE, f"because {because}")
            return True

    def postpone_check(
        self, lease: CheckLease, *, retry_at: datetime, sentence: str, fetched: bool, now: datetime | None = None
    ) -> None:
        """Check again at ``retry_at``, or at the ceiling if that is earlier; not before the study is quiet. LeaseLost.

        fetched  missing instances were fetched, or were tried to: counts a round
        """
        with self._writing("postpone_check") as connection:
            now = self._now(connection, now)
            row = held_job(connection, lease)
            set_job(
                connection,
                row.id,
                fetch_rounds=row.fetch_rounds + fetched,
                retry_at=max(now, min(retry_at, row.ceiling_at)),
                message=sentence,
                **NO_LEASE,
            )
            add_event(connection, row.id, now, EventKind.CHECK_POSTPONED, sentence)

    def received_uids(self, job_id: int) -> frozenset[str]:
        """SOP Instance UIDs of everything that ever came of a study, whether its file is still there or not."""
        with self._reading() as connection:
            wanted = select(instance.c.sop_instance_uid).where(instance.c.job_id == job_id)
            return frozenset(connection.execute(wanted).scalars())


def _next_check(now: datetime, not_from: Collection[str]) -> Any:
    of_these = exists().where(instance.c.job_id == job.c.id, instance.c.calling_ae_title.in_(not_from))
    return (
        select(job)
        .where(
            job.c.state == JobState.RECEIVED,
            job.c.complete_because.is_(None),
            job.c.quiet_until <= now,
            job.c.held.is_(False),
            job.c.retry_at.is_(None) | (job.c.retry_at <= now),
            is_free(job, now),
            *([~of_these | (job.c.ceiling_at <= now)] if not_from else []),
        )
        .order_by(job.c.quiet_until, job.c.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )


def _senders(connection: Connection, job_id: int) -> tuple[str, ...]:
    title = instance.c.calling_ae_title
    wanted = select(title).where(instance.c.job_id == job_id).group_by(title).order_by(func.count().desc(), title)
    return tuple(connection.execute(wanted).scalars())
