"""Recall: which results peers have, and that they are withdrawn."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, insert, select, update

from stenosis_node.domain import DeliveryState, DocumentKind, JobState
from stenosis_node.errors import PermanentError, TransientError
from stenosis_node.jobs.database import Database, storable
from stenosis_node.jobs.leases import NO_LEASE, add_event, lock_jobs, set_job, set_withdrawal
from stenosis_node.jobs.records import (
    DocumentRow,
    EventKind,
    RecallTarget,
    Step,
    WithdrawalReason,
    WithdrawalState,
)
from stenosis_node.jobs.schema import delivery, document, job, receipt, result, withdrawal
from stenosis_node.jobs.withdrawals import later_delivery

DIGEST_CHARACTERS: Final = 12
"""Fewer of them do not name a bundle."""

OPEN: Final = withdrawal.c.state.in_((WithdrawalState.FAILED, WithdrawalState.BY_HAND)) | (
    (withdrawal.c.state == WithdrawalState.PENDING) & (withdrawal.c.reason == WithdrawalReason.SUPERSEDED)
)
"""Withdrawals that may be asked for once more; a superseded result may still be recalled."""


class Recalling(Database):
    """The part of the store that recall uses."""

    def recallable(self, *, job_id: int | None = None, bundle: str | None = None) -> tuple[RecallTarget, ...]:
        """Results as the peers have them, by job, revision and peer, that are not withdrawn from that peer yet.

        A withdrawal that failed, or waits for a hand or for a later revision, or lacks a document that the peer has
        confirmed since, does not count. A result that has not reached a peer is returned too, without documents:
        recalling it stops its delivery.

        job_id   only results of this job
        bundle   only results of these weights: ``NAME`` or ``NAME VERSION`` as shown by ``job``, or the digest of the
                 bundle or its first 12 characters at least
        raises   PermanentError when neither is given
        """
        if job_id is None and bundle is None:
            raise PermanentError("say what to recall: a job or a bundle")
        wanted = select(result, job.c.study_instance_uid, job.c.revision.label("latest"), delivery.c.peer).select_from(
            result.join(job, job.c.id == result.c.job_id).join(delivery, delivery.c.result_id == result.c.id)
        )
        if job_id is not None:
            wanted = wanted.where(result.c.job_id == job_id)
        if bundle is not None:
            wanted = wanted.where(_made_by(bundle))
        with self._reading() as connection:
            rows = connection.execute(wanted.order_by(result.c.job_id, result.c.revision, delivery.c.peer)).all()
            targets = (_target(connection, row) for row in rows)
            return tuple(target for target in targets if target is not None)

    def recall(
        self,
        targets: Sequence[RecallTarget],
        *,
        why: str,
        notes: Mapping[tuple[int, str], str | None],
        reason: WithdrawalReason = WithdrawalReason.RECALLED,
        now: datetime | None = None,
    ) -> int:
        """Withdraw results from peers, all or none; returns how many withdrawals that makes.

        The results are withdrawn, their deliveries that are not done are cancelled, and a job whose latest result is
        RECALLED is CANCELLED; SUPERSEDED leaves the job alone. Withdrawals that exist already stay as they are, but
        one that failed, waits for a hand or lacks a document becomes pending with the new note, and one that waits for
        a later revision does so no longer.

        notes    (result_id, peer) to the key of the rejection note in the spool; None or missing: the peer takes no
                 notes, and the withdrawal waits for the hand of its administrator
        raises   TransientError when a result went on to be delivered since the targets were read: read them again;
                 PermanentError when a target does not exist
        """
        why = storable(why)
        by_job: dict[int, list[RecallTarget]] = defaultdict(list)
        for target in targets:
            by_job[target.job_id].append(target)
        made = 0
        with self._writing("recall") as connection:
            now = self._now(connection, now)
            rows = lock_jobs(connection, job.c.id.in_(by_job))
            for job_id in by_job.keys() - {row.id for row in rows}:
                raise PermanentError(f"there is no job {job_id}")
            for row in rows:
                for target in by_job[row.id]:
                    _refuse_if_outdated(connection, target, now)
                    note_key = notes.get((target.result_id, target.peer))
                    made += _withdraw(connection, target, note_key, why=why, reason=reason, now=now)
                _close(connection, row, by_job[row.id], why=why, reason=reason, now=now)
        return made


def _made_by(bundle: str) -> Any:
    any_version = result.c.bundle.startswith(f"{bundle} ", autoescape=True)
    exact = (result.c.bundle == bundle) | (result.c.bundle_digest == bundle) | any_version
    return (
        exact | result.c.bundle_digest.startswith(bundle, autoescape=True)
        if len(bundle) >= DIGEST_CHARACTERS
        else exact
    )


def _target(connection: Connection, row: Row[Any]) -> RecallTarget | None:
    mine = (withdrawal.c.result_id == row.id) & (withdrawal.c.peer == row.peer)
    known = connection.execute(select(withdrawal.c.sop_instance_uids, OPEN.label("is_open")).where(mine)).first()
    documents = _answered(connection, row.job_id, row.id, row.peer, receipt.c.confirmed)
    no_answer = receipt.c.confirmed.is_(False) & receipt.c.status.is_(None)
    unanswered = _answered(connection, row.job_id, row.id, row.peer, no_answer)
    if known is not None and not known.is_open and not _not_in(known, (*documents, *unanswered)):
        return None
    if row.withdrawn_at is not None and not documents and not unanswered:
        return None
    return RecallTarget(
        job_id=row.job_id,
        study_instance_uid=row.study_instance_uid,
        result_id=row.id,
        revision=row.revision,
        is_latest=row.revision == row.latest,
        result_key=row.result_key,
        peer=row.peer,
        bundle=row.bundle,
        documents=documents,
        unanswered=unanswered,
    )


def _not_in(known: Row[Any], rows: Sequence[DocumentRow]) -> set[str]:
    """UIDs that a withdrawal does not list: an answer to what was sent may come after it."""
    return {row.sop_instance_uid for row in rows} - set(known.sop_instance_uids)


def _answered(
    connection: Connection, job_id: int, result_id: int, peer: str, condition: Any
) -> tuple[DocumentRow, ...]:
    """Documents of a result about which the peer, in whichever delivery of the job, gave such an answer."""
    uids = (
        select(receipt.c.sop_instance_uid)
        .join(delivery, delivery.c.id == receipt.c.delivery_id)
        .where(delivery.c.job_id == job_id, delivery.c.peer == peer, condition)
    )
    wanted = select(document).where(document.c.result_id == result_id, document.c.sop_instance_uid.in_(uids))
    return tuple(
        DocumentRow(
            sop_instance_uid=row.sop_instance_uid,
            sop_class_uid=row.sop_class_uid,
            series_instance_uid=row.series_instance_uid,
            kind=DocumentKind(row.kind),
        )
        for row in connection.execute(wanted.order_by(document.c.sop_instance_uid))
    )


def _refuse_if_outdated(connection: Connection, target: RecallTarget, now: datetime) -> None:
    """A note must name what the peer has, neither less nor more."""
    under_way = select(delivery.c.id).where(
        delivery.c.result_id == target.result_id,
        delivery.c.state == DeliveryState.PENDING,
        delivery.c.lease_until > now,
    )
    if connection.execute(under_way.with_for_update()).first() is not None:
        raise TransientError(f"revision {target.revision} of job {target.job_id} is being delivered; try again shortly")
    documents = _answered(connection, target.job_id, target.result_id, target.peer, receipt.c.confirmed)
    if documents != target.documents:
        raise TransientError(f"{target.peer} has got more of job {target.job_id} meanwhile; try again")


def _withdraw(
    connection: Connection,
    target: RecallTarget,
    note_key: str | None,
    *,
    why: str,
    reason: WithdrawalReason,
    now: datetime,
) -> bool:
    """The row of one withdrawal, if there is anything to withdraw. Whether it is new, or pending again."""
    fresh: dict[str, Any] = {
        "state": WithdrawalState.BY_HAND if note_key is None else WithdrawalState.PENDING,
        "state_since": now,
        "reason": reason,
        "why": why,
        "message": None,
        "note_key": note_key,
        "sop_instance_uids": sorted({row.sop_instance_uid for row in (*target.documents, *target.unanswered)}),
        "attempts": 0,
        "retry_at": now,
    }
    if not fresh["sop_instance_uids"]:
        return False
    mine = (withdrawal.c.result_id == target.result_id) & (withdrawal.c.peer == target.peer)
    known = connection.execute(select(withdrawal, OPEN.label("is_open")).where(mine).with_for_update()).first()
    if known is None:
        row = {"job_id": target.job_id, "result_id": target.result_id, "peer": target.peer, "created_at": now}
        connection.execute(insert(withdrawal).values(**row, **fresh))
        return True
    grown = _not_in(known, (*target.documents, *target.unanswered))
    if not known.is_open and not grown:
        return False
    if grown or note_key is not None or known.state == WithdrawalState.FAILED:
        set_withdrawal(connection, known.id, **fresh, **NO_LEASE)
        return True
    if known.state == WithdrawalState.PENDING and reason is WithdrawalReason.RECALLED:  # it has its note
        set_withdrawal(connection, known.id, reason=reason, why=why)
    return False


def _close(
    connection: Connection,
    row: Row[Any],
    targets: Sequence[RecallTarget],
    *,
    why: str,
    reason: WithdrawalReason,
    now: datetime,
) -> None:
    """The results of one job are withdrawn and no more of them is delivered."""
    result_ids = {target.result_id for target in targets}
    connection.execute(
        update(result)
        .where(result.c.id.in_(result_ids), result.c.withdrawn_at.is_(None))
        .values(withdrawn_at=now, withdrawn_why=why)
    )
    connection.execute(
        update(delivery)
        .where(delivery.c.result_id.in_(result_ids), delivery.c.state != DeliveryState.DELIVERED)
        .values(state=DeliveryState.CANCELLED, state_since=now, message=f"{reason}: {why}", **NO_LEASE)
    )
    revisions = ", ".join(str(revision) for revision in sorted({target.revision for target in targets}))
    add_event(connection, row.id, now, EventKind.RECALLED, f"revision {revisions} {reason}: {why}")
    if reason is WithdrawalReason.RECALLED:
        _forget_notes_without_successor(connection, row.id)
    if reason is WithdrawalReason.RECALLED and any(target.revision == row.revision for target in targets):
        set_job(
            connection,
            row.id,
            state=JobState.CANCELLED,
            state_since=now,
            failed_in=Step.DELIVER,
            reason=None,
            message=f"recalled: {why}",
            retry_at=None,
            reissue=False,
            **NO_LEASE,
        )


def _forget_notes_without_successor(connection: Connection, job_id: int) -> None:
    """Superseded results whose later ones will never arrive: the peer keeps them, and they can be recalled."""
    may_come = later_delivery(delivery.c.state != DeliveryState.CANCELLED)
    waiting = (withdrawal.c.state == WithdrawalState.PENDING) & (withdrawal.c.reason == WithdrawalReason.SUPERSEDED)
    of_result = result.c.id == withdrawal.c.result_id
    forlorn = select(withdrawal.c.id).join(result, of_result).where(withdrawal.c.job_id == job_id, waiting, ~may_come)
    ids = connection.execute(forlorn).scalars().all()
    connection.execute(delete(withdrawal).where(withdrawal.c.id.in_(ids)))
