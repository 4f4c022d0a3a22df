"""What the grading process writes: claims, decisions, results."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, insert, select, update

from stenosis_node.domain import BundleIdentity, DeliveryState, DocumentKind, JobState, SeriesDecision
from stenosis_node.errors import LeaseLost
from stenosis_node.jobs.database import Database
from stenosis_node.jobs.leases import (
    NO_LEASE,
    Lease,
    add_event,
    cancel_deliveries,
    columns_of,
    fail_job,
    held_job,
    is_free,
    new_token,
    renew_row,
    set_job,
    settle,
)
from stenosis_node.jobs.records import (
    BeingDeleted,
    DocumentRow,
    EventKind,
    PeerSpec,
    PreviousResult,
    Step,
    StoredInstance,
    split_alternatives,
)
from stenosis_node.jobs.schema import delivery, document, instance, job, result, series

REJECTED: Final = "the study was rejected"
"""Why a delivery was cancelled; if the study has its result again after all, it is made."""


class Grading(Database):
    """The part of the store that the grading process uses."""

    def claim(
        self, state: JobState, *, worker: str, lease_s: float, max_attempts: int, now: datetime | None = None
    ) -> Lease | None:
        """Take the complete study in ``state`` that has waited longest, None when there is none. Counts an attempt.

        A job whose attempts are used up, because whoever had it died, becomes FAILED here.

        raises  ValueError when jobs in ``state`` are not worked on as a whole (only RECEIVED ones are)
        """
        if state is not JobState.RECEIVED:
            raise ValueError(f"a job that is {state} cannot be claimed; deliveries have claim_delivery")
        with self._writing("claim") as connection:
            now = self._now(connection, now)
            while (row := connection.execute(_next_job(state, now)).first()) is not None:
                if row.attempts >= max_attempts:
                    sentence = f"the grading process died {row.attempts} times on this study"
                    fail_job(connection, row.id, Step.GRADE, sentence, now)
                    continue
                lease = Lease(
                    job_id=row.id,
                    study_instance_uid=row.study_instance_uid,
                    state=state,
                    token=new_token(),
                    worker=worker,
                    attempt=row.attempts + 1,
                    claimed_at=now,
                    first_claimed_at=row.first_claimed_at or now,
                    lease_until=now + timedelta(seconds=lease_s),
                    revision=row.revision,
                    reissue=row.reissue,
                )
                set_job(
                    connection,
                    row.id,
                    attempts=lease.attempt,
                    first_claimed_at=lease.first_claimed_at,
                    retry_at=None,
                    **columns_of(lease),
                )
                sentence = f"attempt {lease.attempt} to grade, by {worker}"
                add_event(connection, row.id, now, EventKind.CLAIMED, sentence)
                return lease
        return None

    def renew(self, lease: Lease, *, lease_s: float, now: datetime | None = None) -> None:
        """Keep the lease for ``lease_s`` from now. LeaseLost when it is gone."""
        with self._writing("renew") as connection:
            until = self._now(connection, now) + timedelta(seconds=lease_s)
            if not renew_row(connection, job, lease.job_id, lease.token, until):
                raise LeaseLost(f"job {lease.job_id} was taken away while it was being graded")

    def release(self, lease: Lease, *, now: datetime | None = None) -> None:
        """Give the job back unworked, because the node stops: the attempt does not count. LeaseLost when it is gone."""
        with self._writing("release") as connection:
            row = held_job(connection, lease)
            set_job(connection, lease.job_id, attempts=row.attempts - 1, **NO_LEASE)
            add_event(
                connection,
                lease.job_id,
                self._now(connection, now),
                EventKind.RELEASED,
                f"given back by {lease.worker}",
            )

    def instances(self, job_id: int) -> tuple[StoredInstance, ...]:
        """The instances of the study whose files are in the spool, of every SOP class, by series and UID."""
        wanted = (
            select(instance)
            .where(instance.c.job_id == job_id, instance.c.purged_at.is_(None))
            .order_by(instance.c.series_instance_uid, instance.c.sop_instance_uid)
        )
        with self._reading() as connection:
            return tuple(
                StoredInstance(
                    path=Path(row.path),
                    sop_class_uid=row.sop_class_uid,
                    sop_instance_uid=row.sop_instance_uid,
                    series_instance_uid=row.series_instance_uid,
                    transfer_syntax_uid=row.transfer_syntax_uid,
                    calling_ae_title=row.calling_ae_title,
                    size_bytes=row.size_bytes,
                )
                for row in connection.execute(wanted)
            )

    def record_decisions(self, lease: Lease, decisions: Sequence[SeriesDecision]) -> None:
        """Write down why each series was chosen or not, replacing what was said of the same series. LeaseLost."""
        with self._writing("record_decisions") as connection:
            held_job(connection, lease)
            _write_decisions(connection, lease.job_id, decisions)

    def advance_graded(
        self,
        lease: Lease,
        *,
        result_key: str,
        chosen_key: str,
        documents: Sequence[DocumentRow],
        peers: Sequence[PeerSpec],
        bundle: BundleIdentity | None = None,
        now: datetime | None = None,
    ) -> JobState:
        """The documents are durable: write the result and its deliveries down, and end the step.

        A new ``result_key`` is the next revision; deliveries of earlier ones that are not done are cancelled. The key
        of the latest result makes no new revision and no new delivery.

        result_key   names the documents in the spool
        chosen_key   names the set of instances that were chosen
        bundle       the weights, by which the result can be recalled
        returns      GRADED; DELIVERED when no required peer lacks anything; FAILED when the result is the latest
                     one and a required delivery of it had failed; CANCELLED when it is the latest one and withdrawn
        raises       LeaseLost; BeingDeleted when the housekeeping is about to delete documents of the same key, or
                     has since the claim, so that what was written may be gone
        """
        with self._writing("advance_graded") as connection:
            now = self._now(connection, now)
            row = held_job(connection, lease)
            _refuse_if_being_deleted(connection, row.id, result_key, lease.claimed_at)
            done: dict[str, Any] = {"attempts": 0, "retry_at": None, "state": JobState.GRADED, "state_since": now}
            done |= {"message": None, "reason": None, "failed_in": None, "reissue": False, **NO_LEASE}
            latest = _latest_result(connection, row)
            if latest is not None and latest.result_key == result_key:
                if latest.withdrawn_at is not None:
                    return _still_withdrawn(connection, latest, now)
                set_job(connection, row.id, **done)
                _keep_result(connection, latest, now)
                return settle(connection, row.id, now)
            revision = row.revision + 1
            cancel_deliveries(connection, row.id, f"superseded by revision {revision}", now)
            result_id = connection.execute(
                insert(result)
                .values(
                    job_id=row.id,
                    revision=revision,
                    result_key=result_key,
                    chosen_key=chosen_key,
                    first_claimed_at=row.first_claimed_at,
                    created_at=now,
                    bundle=None if bundle is None else f"{bundle.name} {bundle.version}",
                    bundle_digest=None if bundle is None else bundle.digest,
                )
                .returning(result.c.id)
            ).scalar_one()
            _write_documents(connection, result_id, documents)
            for peer in peers:
                pending = {"state": DeliveryState.PENDING, "state_since": now, "retry_at": now}
                ours = {"job_id": row.id, "result_id": result_id, "peer": peer.name, "required": peer.required}
                connection.execute(insert(delivery).values(**ours, **pending))
                self._upsert_peer(connection, peer.name)
            set_job(connection, row.id, revision=revision, **done)
            n_documents = len(split_alternatives(documents)[0])
            to = f"{len(peers)} peer{'' if len(peers) == 1 else 's'}"
            sentence = f"revision {revision} graded: {n_documents} documents for {to}"
            add_event(connection, row.id, now, EventKind.GRADED, sentence)
            return settle(connection, row.id, now)

    def reject(
        self,
        lease: Lease,
        *,
        reason: str,
        sentence: str,
        decisions: Sequence[SeriesDecision] = (),
        now: datetime | None = None,
    ) -> None:
        """Nothing in the study can be graded: REJECTED, with the code and the sentence. LeaseLost."""
        with self._writing("reject") as connection:
            now = self._now(connection, now)
            held_job(connection, lease)
            _write_decisions(connection, lease.job_id, decisions)
            cancel_deliveries(connection, lease.job_id, REJECTED, now)
            set_job(
                connection,
                lease.job_id,
                state=JobState.REJECTED,
                state_since=now,
                reason=reason,
                message=sentence,
                attempts=0,
                **NO_LEASE,
            )
            add_event(connection, lease.job_id, now, EventKind.REJECTED, sentence)

    def fail(self, lease: Lease, *, sentence: str, now: datetime | None = None) -> None:
        """A human is needed: FAILED in ``grade``. LeaseLost."""
        with self._writing("fail") as connection:
            held_job(connection, lease)
            fail_job(connection, lease.job_id, Step.GRADE, sentence, self._now(connection, now))

    def retry_later(
        self, lease: Lease, *, retry_at: datetime, sentence: str, max_attempts: int, now: datetime | None = None
    ) -> JobState:
        """Another attempt at ``retry_at``, or FAILED when the attempts are used up; returns which. LeaseLost."""
        with self._writing("retry_later") as connection:
            now = self._now(connection, now)
            row = held_job(connection, lease)
            if row.attempts >= max_attempts:
                fail_job(connection, row.id, Step.GRADE, f"given up after {row.attempts} attempts: {sentence}", now)
                return JobState.FAILED
            set_job(connection, row.id, retry_at=retry_at, message=sentence, **NO_LEASE)
            add_event(connection, row.id, now, EventKind.POSTPONED, f"attempt {row.attempts} failed: {sentence}")
            return JobState.RECEIVED

    def predecessors(self, job_id: int) -> tuple[PreviousResult, ...]:
        """Earlier results whose delivery had started, by revision: what a new revision must name."""
        started = select(delivery.c.result_id).where(delivery.c.started_at.is_not(None))
        return self._results(job_id, result.c.id.in_(started.where(delivery.c.job_id == job_id)))

    def latest_result(self, job_id: int) -> PreviousResult | None:
        """The result of the highest revision, started or not."""
        results = self._results(job_id)
        return results[-1] if results else None

    def _results(self, job_id: int, *conditions: Any) -> tuple[PreviousResult, ...]:
        wanted = select(result).where(result.c.job_id == job_id, *conditions).order_by(result.c.revision)
        with self._reading() as connection:
            return tuple(
                PreviousResult(
                    revision=row.revision,
                    result_key=row.result_key,
                    chosen_key=row.chosen_key,
                    documents=read_documents(connection, row.id),
                )
                for row in connection.execute(wanted).all()
            )


def read_documents(connection: Connection, result_id: int) -> tuple[DocumentRow, ...]:
    """Documents of a result, by UID."""
    wanted = select(document).where(document.c.result_id == result_id).order_by(document.c.sop_instance_uid)
    return tuple(
        DocumentRow(
            sop_instance_uid=row.sop_instance_uid,
            sop_class_uid=row.sop_class_uid,
            series_instance_uid=row.series_instance_uid,
            kind=DocumentKind(row.kind),
        )
        for row in connection.execute(wanted)
    )


def _next_job(state: JobState, now: datetime) -> Any:
    return (
        select(job)
        .where(
            job.c.state == state,
            job.c.complete_because.is_not(None),
            job.c.quiet_until <= now,
            job.c.held.is_(False),
            job.c.retry_at.is_(None) | (job.c.retry_at <= now),
            is_free(job, now),
        )
        .order_by(job.c.quiet_until, job.c.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )


def _latest_result(connection: Connection, row: Row[Any]) -> Row[Any] | None:
    return connection.execute(
        select(result).where(result.c.job_id == row.id, result.c.revision == row.revision)
    ).first()


def _keep_result(connection: Connection, latest: Row[Any], now: datetime) -> None:
    """The result that there is stays the latest; its documents are there, whatever was deleted before."""
    connection.execute(update(result).where(result.c.id == latest.id).values(purged_at=None, deleted_at=None))
    sentence = f"the result is the same as revision {latest.revision}; nothing new is sent"
    add_event(connection, latest.job_id, now, EventKind.UNCHANGED, sentence)
    cancelled = (delivery.c.state == DeliveryState.CANCELLED) & (delivery.c.message == REJECTED)
    again = {"state": DeliveryState.PENDING, "state_since": now, "attempts": 0, "retry_at": now, "message": None}
    connection.execute(update(delivery).where(delivery.c.result_id == latest.id, cancelled).values(**again))


def _still_withdrawn(connection: Connection, latest: Row[Any], now: datetime) -> JobState:
    """What was recalled is never sent again as it was, and as a revision only if an administrator asks for it."""
    sentence = f"the result is the same as revision {latest.revision}, which was recalled; nothing is sent"
    set_job(
        connection,
        latest.job_id,
        state=JobState.CANCELLED,
        state_since=now,
        failed_in=Step.DELIVER,
        message=f"recalled: {latest.withdrawn_why}",
        retry_at=None,
        attempts=0,
        **NO_LEASE,
    )
    add_event(connection, latest.job_id, now, EventKind.UNCHANGED, sentence)
    return JobState.CANCELLED


def _refuse_if_being_deleted(connection: Connection, job_id: int, result_key: str, claimed_at: datetime) -> None:
    doomed = select(result.c.revision).where(
        result.c.job_id == job_id,
        result.c.result_key == result_key,
        result.c.purged_at.is_not(None),
        result.c.deleted_at.is_(None) | (result.c.deleted_at >= claimed_at),
    )
    if connection.execute(doomed.limit(1)).first() is not None:
        raise BeingDeleted("earlier documents of the same content are being deleted; they are made again afterwards")


def _write_documents(connection: Connection, result_id: int, documents: Sequence[DocumentRow]) -> None:
    if documents:
        connection.execute(
            insert(document),
            [
                {
                    "result_id": result_id,
                    "sop_instance_uid": row.sop_instance_uid,
                    "sop_class_uid": row.sop_class_uid,
                    "series_instance_uid": row.series_instance_uid,
                    "kind": row.kind,
                }
                for row in documents
            ],
        )


def _write_decisions(connection: Connection, job_id: int, decisions: Sequence[SeriesDecision]) -> None:
    """Series of which nothing is said keep what was said before: their files may be gone."""
    if not decisions:
        return
    said = [decision.series_instance_uid for decision in decisions]
    connection.execute(delete(series).where(series.c.job_id == job_id, series.c.series_instance_uid.in_(said)))
    connection.execute(
        insert(series),
        [
            {
                "job_id": job_id,
                "series_instance_uid": decision.series_instance_uid,
                "series_number": decision.series_number,
                "description": decision.description,
                "n_instances": decision.n_instances,
                "decision": decision.decision,
                "reason": decision.reason,
                "sentence": decision.sentence,
                "header_values": decision.values,
            }
            for decision in decisions
        ],
    )
