"""What the rows say must lie in the spool, page by page, and the few things that may be put right in them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from sqlalchemy import select, update

from stenosis_node.domain import DeliveryState, JobState
from stenosis_node.jobs.database import Database
from stenosis_node.jobs.leases import add_event, revoke_deliveries, set_job
from stenosis_node.jobs.records import EventKind
from stenosis_node.jobs.schema import delivery, instance, job, result, withdrawal

PAGE: Final = 2000
KEYS_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class FileRow:
    """A file that must be there."""

    path: Path
    """Relative to the spool."""
    study_instance_uid: str
    sop_instance_uid: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ResultRow:
    """A result whose findings and documents must be there."""

    id: int
    job_id: int
    revision: int
    result_key: str
    chosen_key: str
    job_state: JobState
    is_latest: bool
    images_kept: bool
    """The received files of the study are not deleted, so that the result can be made again."""
    is_due: bool
    """A peer has not got it yet."""


class Reconciling(Database):
    """The part of the store that ``fsck`` uses."""

    def expected_files(self) -> Iterator[FileRow]:
        """Every instance that is neither deleted nor to be, in the order in which they came. Many short reads."""
        last = 0
        while True:
            wanted = (
                select(instance)
                .where(instance.c.id > last, instance.c.purged_at.is_(None))
                .order_by(instance.c.id)
                .limit(PAGE)
            )
            with self._reading() as connection:
                rows = connection.execute(wanted).all()
            if not rows:
                return
            for row in rows:
                yield FileRow(Path(row.path), row.study_instance_uid, row.sop_instance_uid, row.size_bytes, row.sha256)
            last = rows[-1].id

    def expected_results(self) -> Iterator[ResultRow]:
        """Every result whose documents are neither deleted nor to be. Many short reads."""
        last = 0
        while True:
            with self._reading() as connection:
                rows = connection.execute(
                    select(result, job.c.state, job.c.purged_at.label("job_purged_at"), job.c.revision.label("latest"))
                    .join(job, job.c.id == result.c.job_id)
                    .where(result.c.id > last, result.c.purged_at.is_(None), result.c.deleted_at.is_(None))
                    .order_by(result.c.id)
                    .limit(PAGE)
                ).all()
                undone = (DeliveryState.PENDING, DeliveryState.SENT)
                ids = [row.id for row in rows]
                waiting = select(delivery.c.result_id).where(
                    delivery.c.result_id.in_(ids), delivery.c.state.in_(undone)
                )
                due = set(connection.execute(waiting).scalars())
            if not rows:
                return
            for row in rows:
                yield ResultRow(
                    id=row.id,
                    job_id=row.job_id,
                    revision=row.revision,
                    result_key=row.result_key,
                    chosen_key=row.chosen_key,
                    job_state=JobState(row.state),
                    is_latest=row.revision == row.latest,
                    images_kept=row.job_purged_at is None,
                    is_due=row.id in due,
                )
            last = rows[-1].id

    def known_keys(self, keys: Collection[str]) -> frozenset[str]:
        """Those of the keys under which a row looks for findings, documents or a rejection note."""
        known: set[str] = set()
        listed = list(keys)
        for start in range(0, len(listed), KEYS_AT_ONCE):
            some = listed[start : start + KEYS_AT_ONCE]
            with self._reading() as connection:
                for column in (result.c.result_key, result.c.chosen_key, withdrawal.c.note_key):
                    known |= set(connection.execute(select(column).where(column.in_(some))).scalars())
        return frozenset(known)

    def jobs_without_result(self) -> tuple[int, ...]:
        """Jobs that are GRADED or DELIVERED and have no result row: no run of this node leaves such."""
        has = select(result.c.id).where(result.c.job_id == job.c.id).exists()
        wanted = select(job.c.id).where(job.c.state.in_((JobState.GRADED, JobState.DELIVERED)), ~has)
        with self._reading() as connection:
            return tuple(connection.execute(wanted.order_by(job.c.id)).scalars())

    def grade_again(self, job_id: int, *, now: datetime | None = None) -> bool:
        """The documents of the latest result are lost, its images are not: GRADED becomes RECEIVED.

        From the same images, weights, settings and software the same documents come, byte for byte.
        Returns whether it was done.
        """
        with self._writing("grade_again") as connection:
            now = self._now(connection, now)
            row = connection.execute(select(job).where(job.c.id == job_id).with_for_update()).first()
            if row is None or row.state != JobState.GRADED or row.purged_at is not None:
                return False
            revoke_deliveries(connection, job_id)
            set_job(connection, job_id, state=JobState.RECEIVED, state_since=now, attempts=0, retry_at=None)
            sentence = f"fsck: the documents of revision {row.revision} are gone; they are made again"
            add_event(connection, job_id, now, EventKind.RETRIED, sentence)
            return True

    def forget_documents(self, result_id: int, *, now: datetime | None = None) -> None:
        """The documents of a result that nobody waits for are lost: it is written down that they are deleted.

        The housekeeping deletes what else belongs to the result when its time comes.
        """
        with self._writing("forget_documents") as connection:
            now = self._now(connection, now)
            gone = update(result).where(result.c.id == result_id, result.c.purged_at.is_(None))
            connection.execute(gone.values(deleted_at=now))
