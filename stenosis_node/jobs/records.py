"""What the store takes and returns: frozen, detached from the database. All times are aware and in UTC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

from stenosis_node.domain import DeliveryState, DocumentKind, JobState, SeriesDecision
from stenosis_node.errors import TransientError

MR_CLASSES: Final = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.4",  # MR Image Storage
        "1.2.840.10008.5.1.4.1.1.4.1",  # Enhanced MR Image Storage
        "1.2.840.10008.5.1.4.1.1.4.4",  # Legacy Converted Enhanced MR Image Storage
    }
)
"""Only instances of these SOP classes open or postpone a job."""


class BeingDeleted(TransientError):
    """The housekeeping is about to delete a file that has come again: wait until it has, then send or make it again."""


class Step(StrEnum):
    """Where a job stopped."""

    GRADE = "grade"
    DELIVER = "deliver"


class WithdrawalState(StrEnum):
    """What is durable about withdrawing one result from one peer."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    BY_HAND = "by-hand"  # the peer takes no rejection notes: its administrator deletes the listed documents


class WithdrawalReason(StrEnum):
    """Why a result is withdrawn."""

    RECALLED = "recalled"
    SUPERSEDED = "superseded"  # by a later revision


class EventKind(StrEnum):
    """What can happen to a job. The words are stable: scripts read them."""

    OPENED = "opened"
    REOPENED = "reopened"
    CONFLICT = "conflict"
    AFTER_PURGE = "after-purge"
    COMPLETE = "complete"
    CHECK_POSTPONED = "check-postponed"
    CLAIMED = "claimed"
    POSTPONED = "postponed"
    RELEASED = "released"
    GRADED = "graded"
    UNCHANGED = "unchanged"
    REJECTED = "rejected"
    FAILED = "failed"
    DELIVERY_STARTED = "delivery-started"
    DELIVERY_POSTPONED = "delivery-postponed"
    DELIVERY_DONE = "delivery-done"
    DELIVERY_FAILED = "delivery-failed"
    DELIVERY_SENT = "delivery-sent"
    COMMITMENT_REQUESTED = "commitment-requested"
    COMMITMENT_POSTPONED = "commitment-postponed"
    NOT_COMMITTED = "not-committed"
    DELIVERY_COMMITTED = "delivery-committed"
    DELIVERED = "delivered"
    RECALLED = "recalled"
    WITHDRAWAL_POSTPONED = "withdrawal-postponed"
    WITHDRAWAL_FAILED = "withdrawal-failed"
    WITHDRAWN = "withdrawn"
    WORKER_DIED = "worker-died"
    RETRIED = "retried"
    CANCELLED = "cancelled"
    HELD = "held"
    UNHELD = "unheld"
    PURGED = "purged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Touch:
    """What one received instance did."""

    job_id: int | None
    """None: no MR instance of the study has come yet, so there is no job."""
    new_instance: bool
    """False for an exact resend: nothing changed."""
    reopened: bool
    """The study had been claimed or closed and starts again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredInstance:
    """One instance whose file is in the spool."""

    path: Path
    """Relative to the spool."""
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    size_bytes: int
    calling_ae_title: str = ""
    """Who sent it first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentRow:
    """A document of a result. Alternatives (another SOP class, own UID) are rows too."""

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    kind: DocumentKind


def split_alternatives(documents: Sequence[DocumentRow]) -> tuple[tuple[DocumentRow, ...], tuple[DocumentRow, ...]]:
    """The documents of a result, and its report in the SOP classes that a peer gets only when it refuses the first.

    Of the SR classes the one with the highest UID, Comprehensive 3D before Comprehensive before Enhanced, is the first.
    """
    reports = [row for row in documents if row.kind is DocumentKind.SR]
    others = tuple(sorted(reports, key=lambda row: row.sop_class_uid, reverse=True)[1:])
    return tuple(row for row in documents if row not in others), others


@dataclass(frozen=True, slots=True)
class PeerSpec:
    """A peer a result is to be delivered to."""

    name: str
    required: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviousResult:
    """A result made before."""

    revision: int
    result_key: str
    chosen_key: str
    documents: tuple[DocumentRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSummary:
    """One line of the list of jobs."""

    id: int
    study_instance_uid: str
    state: JobState
    state_since: datetime
    failed_in: Step | None
    """Where a failed or cancelled job stopped."""
    reason: str | None
    """Code of a rejection."""
    message: str | None
    """The sentence behind the state, or behind the last failed attempt."""
    created_at: datetime
    last_instance_at: datetime
    n_instances: int
    complete_because: str | None = None
    """Why nothing more is waited for; None: not decided yet."""
    fetch_rounds: int = 0
    """How often instances that were missing have been fetched."""
    quiet_until: datetime
    retry_at: datetime | None
    held: bool
    attempts: int
    worker: str | None
    """Who holds the lease."""
    lease_until: datetime | None
    revision: int
    first_claimed_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """What happened."""

    at: datetime
    kind: EventKind
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultSummary:
    """One revision of the result of a job."""

    id: int
    revision: int
    result_key: str
    chosen_key: str
    first_claimed_at: datetime
    created_at: datetime
    bundle: str | None = None
    """Name and version of the weights; None: made by a version of the node that did not write them down."""
    bundle_digest: str | None = None
    withdrawn_at: datetime | None = None
    withdrawn_why: str | None = None
    documents: tuple[DocumentRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What a peer answered about one document."""

    sop_instance_uid: str
    status: int | None
    """DIMSE status; None: no answer."""
    text: str
    confirmed: bool
    at: datetime
    committed_at: datetime | None = None
    """When the peer took responsibility for keeping it (storage commitment)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverySummary:
    """Sending one result to one peer."""

    id: int
    revision: int
    result_key: str
    peer: str
    required: bool
    state: DeliveryState
    state_since: datetime
    message: str | None
    attempts: int
    retry_at: datetime
    started_at: datetime | None
    worker: str | None
    lease_until: datetime | None
    commit_attempts: int = 0
    commit_requested_at: datetime | None = None
    commit_due_at: datetime | None = None
    """When commitment is asked for, again if need be; None while not everything is sent, or without commitment."""
    committed_at: datetime | None = None
    receipts: tuple[Receipt, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WithdrawalSummary:
    """Withdrawing one result from one peer."""

    id: int
    revision: int
    result_key: str
    peer: str
    state: WithdrawalState
    state_since: datetime
    reason: WithdrawalReason
    why: str
    message: str | None
    """Of the last failed attempt."""
    note_key: str | None
    """Of the rejection note in the spool; None: the peer takes none."""
    sop_instance_uids: tuple[str, ...]
    """What the peer had confirmed."""
    created_at: datetime
    attempts: int
    retry_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDetail:
    """Everything known about a job."""

    job: JobSummary
    series: tuple[SeriesDecision, ...]
    events: tuple[JobEvent, ...]
    """Oldest first."""
    results: tuple[ResultSummary, ...]
    """By revision."""
    deliveries: tuple[DeliverySummary, ...]
    """By revision, then peer."""
    withdrawals: tuple[WithdrawalSummary, ...] = ()
    """By revision, then peer."""
    conflicts: int
    """How many times other bytes came under a known UID; they are in the quarantine."""

    @property
    def documents(self) -> tuple[DocumentRow, ...]:
        """Of the latest result."""
        return self.results[-1].documents if self.results else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Purge:
    """Files that are to be deleted now. The rows say so already; call ``mark_purged`` when they are gone."""

    instances: tuple[Path, ...]
    """Relative to the spool."""
    instance_ids: tuple[int, ...]
    result_keys: tuple[str, ...]
    """Of results, and of the rejection notes that withdraw them."""
    chosen_keys: tuple[str, ...]
    """Of results none of whose revisions stays."""
    result_ids: tuple[int, ...]

    def __bool__(self) -> bool:
        return bool(self.instance_ids or self.result_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallTarget:
    """A result as one peer has it."""

    job_id: int
    study_instance_uid: str
    result_id: int
    revision: int
    is_latest: bool
    result_key: str
    peer: str
    bundle: str | None
    documents: tuple[DocumentRow, ...]
    """What the peer confirmed, by UID; empty when nothing has reached it, or none is known to have."""
    unanswered: tuple[DocumentRow, ...]
    """What was sent to it without an answer: it may have these too."""
