"""Withdrawing what was delivered: who gets a rejection note about which documents, and who must delete by hand.

A note lists exactly the documents that its peer confirmed. It is in the spool before the row that asks for it.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from stenosis_node.config import Config, Peer
from stenosis_node.domain import Document
from stenosis_node.errors import PermanentError, TransientError
from stenosis_node.jobs import WithdrawalReason

if TYPE_CHECKING:
    from stenosis_node.jobs import DeliveryLease, JobStore, RecallTarget
    from stenosis_node.spool import Spool

log = logging.getLogger("stenosis_node.work.recall")

UNDER_WAY_S: Final = 90.0
"""Longer than a peer that hangs is waited for."""
POLL_S: Final = 0.5


class Means(StrEnum):
    """How a result is withdrawn from a peer."""

    NOTE = "rejection-note"
    BY_HAND = "by-hand"  # its administrator deletes the documents
    STOP = "delivery-stopped"  # nothing has reached it, and nothing will


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """What is done about one result at one peer."""

    target: RecallTarget
    means: Means
    because: str
    """Why it is done by hand; empty otherwise."""


def plan(targets: Iterable[RecallTarget], config: Config, spool: Spool) -> tuple[Withdrawal, ...]:
    """What a recall would do. Changes nothing. An earlier revision that never reached a peer needs nothing done."""
    return tuple(
        _plan_one(target, config.peers.get(target.peer), spool)
        for target in targets
        if target.is_latest or target.documents or target.unanswered
    )


def _plan_one(target: RecallTarget, peer: Peer | None, spool: Spool) -> Withdrawal:
    if not target.documents:
        if not target.unanswered:
            return Withdrawal(target, Means.STOP, "")
        return Withdrawal(target, Means.BY_HAND, "the peer never answered: it may have these documents or not")
    if peer is None:
        return Withdrawal(target, Means.BY_HAND, "the peer is not configured any more")
    if not peer.rejection_notes:
        return Withdrawal(target, Means.BY_HAND, "the peer takes no rejection notes")
    try:
        _delivered(target, spool)
    except PermanentError as error:
        return Withdrawal(target, Means.BY_HAND, str(error))
    return Withdrawal(target, Means.NOTE, "")


def recall(
    planned: Iterable[Withdrawal],
    *,
    why: str,
    config: Config,
    spool: Spool,
    store: JobStore,
    limit_s: float = UNDER_WAY_S,
) -> tuple[Withdrawal, ...]:
    """Do it, job by job; what was done in the end, which is more where a delivery was still under way.

    Notes into the spool, then one transaction that also stops what was still to be delivered. Many jobs are not one
    transaction: reception would have to wait for it. Interrupted, it is simply asked for again.

    why      a sentence for the note and the job
    limit_s  how long to wait for the deliveries of a job that are under way
    raises   TransientError when they do not end, or the disk or the database does not take it
    """
    by_job: dict[int, list[Withdrawal]] = defaultdict(list)
    for one in planned:
        by_job[one.target.job_id].append(one)
    done: list[Withdrawal] = []
    for job_id, wanted in by_job.items():
        results = {one.target.result_id for one in wanted}
        deadline = time.monotonic() + limit_s
        current = tuple(wanted)
        while not _recall_job(current, why, config, spool, store, is_last_try=time.monotonic() > deadline):
            time.sleep(POLL_S)
            targets = store.recallable(job_id=job_id)
            current = plan((one for one in targets if one.result_id in results), config, spool)
        done += current
    log.info("%d results withdrawn from their peers", len(done), extra={"event": "recalled"})
    return tuple(done)


def _recall_job(
    planned: Sequence[Withdrawal], why: str, config: Config, spool: Spool, store: JobStore, *, is_last_try: bool
) -> bool:
    """False when a delivery is under way, or was since the plan was made."""
    notes = _keep_notes(planned, f"Recalled: {why}", config, spool)
    try:
        store.recall([one.target for one in planned], why=why, notes=notes)
    except TransientError:
        if is_last_try:
            raise
        return False
    return True


def withdraw_predecessors(lease: DeliveryLease, *, config: Config, spool: Spool, store: JobStore) -> int:
    """Ask for the withdrawal of every earlier revision that the peer of this delivery holds; how many there were.

    The worker that delivers to a peer calls it when the peer has confirmed every document of the new revision, just
    before ``advance_delivery``: after a crash in between it is called again, and what is withdrawn already is left
    alone. The notes leave when the new revision is DELIVERED, committed where that is asked for. A peer that takes no
    rejection notes keeps the earlier revisions; the new one says which it supersedes.

    raises  TransientError when the disk or the database does not take it
    """
    peer = config.peers[lease.peer]
    if not peer.rejection_notes or lease.revision == 1:
        return 0
    earlier = [
        target
        for target in store.recallable(job_id=lease.job_id)
        if target.peer == lease.peer and target.revision < lease.revision and target.documents
    ]
    if earlier:
        why = f"by revision {lease.revision}"
        notes = _keep_notes(plan(earlier, config, spool), f"Superseded {why}", config, spool)
        store.recall(earlier, why=why, notes=notes, reason=WithdrawalReason.SUPERSEDED)
    return len(earlier)


def _delivered(target: RecallTarget, spool: Spool) -> list[Document]:
    """The documents the peer confirmed, in the SOP class it took. PermanentError when they are gone."""
    kept = spool.documents(target.result_key) or ()
    known = {one.sop_instance_uid: one for document in kept for one in (document, *document.alternatives)}
    try:
        return [known[row.sop_instance_uid] for row in target.documents]
    except KeyError:
        raise PermanentError("the documents are not stored here any more, so no note can be made") from None


def _keep_notes(
    planned: Iterable[Withdrawal], why: str, config: Config, spool: Spool
) -> dict[tuple[int, str], str | None]:
    """Spool key of the note by result and peer, None for those that get none."""
    return {
        (one.target.result_id, one.target.peer): _keep_note(one.target, why, config, spool)
        if one.means is Means.NOTE
        else None
        for one in planned
    }


def _keep_note(target: RecallTarget, why: str, config: Config, spool: Spool) -> str:
    """Make the note, unless the same withdrawal was asked for before."""
    from stenosis_node import report  # highdicom, which the delivering process needs for nothing else

    rejected = _delivered(target, spool)
    key = report.rejection_note_key(rejected, why)
    if spool.documents(key) is None:
        created = datetime.now(UTC).replace(microsecond=0)
        note = report.rejection_note(rejected, why=why, created=created, settings=config.report)
        report.check_rejection_note(note, rejected)
        spool.put_documents(key, [note])
    return key
