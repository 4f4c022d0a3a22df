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


class EventKind(StrEnum):
    """What can happen to a job. The words are stable: scripts read them."""

    OPENED = "opened"
    REOPENED = "reopened"
    CONFLICT = "conflict"
    AFTER_PURGE = "after-purge"
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
    DELIVERED = "delivered"
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
class Lease:
    """The right to grade a study until ``lease_until``. The token fences: whoever holds an older one gets LeaseLost."""

    job_id: int
    study_instance_uid: str
    state: JobState
    token: str
    worker: str
    attempt: int
    """1 for the first."""
    first_claimed_at: datetime
    """When this set of instances was first claimed, whatever the attempt. Every time in a result is this one."""
    lease_until: datetime
    revision: int
    """Of the latest result; 0: none yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryLease:
    """The right to send one result to one peer until ``lease_until``."""

    delivery_id: int
    job_id: int
    study_instance_uid: str
    result_id: int
    result_key: str
    revision: int
    peer: str
    token: str
    worker: str
    attempt: int
    first_started_at: datetime | None
    """Start of the first attempt before this one; None when this is the first."""
    lease_until: datetime
    confirmed: frozenset[str]
    """SOP Instance UIDs this peer has confirmed, in whichever result of the job."""


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

    revision: int
    result_key: str
    chosen_key: str
    first_claimed_at: datetime
    created_at: datetime
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
    receipts: tuple[Receipt, ...]


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
    chosen_keys: tuple[str, ...]
    """Of results none of whose revisions stays."""
    result_ids: tuple[int, ...]

    def __bool__(self) -> bool:
        return bool(self.instance_ids or self.result_ids)
