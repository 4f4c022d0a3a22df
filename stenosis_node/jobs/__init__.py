"""The queue: a job per study, its instances, results, documents and deliveries, in SQLite or PostgreSQL."""

from __future__ import annotations

from stenosis_node.jobs.admin import Admin
from stenosis_node.jobs.commitment import CommitmentOutcome, Committing
from stenosis_node.jobs.completeness import Completeness
from stenosis_node.jobs.delivering import Delivering
from stenosis_node.jobs.grading import Grading
from stenosis_node.jobs.leases import CheckLease, CommitmentLease, DeliveryLease, Lease, WithdrawalLease
from stenosis_node.jobs.peers import PeerCapability, Peers, PeerSummary
from stenosis_node.jobs.reading import NodeStatus, Reading
from stenosis_node.jobs.recalling import Recalling
from stenosis_node.jobs.receiving import Receiving
from stenosis_node.jobs.reconciling import FileRow, Reconciling, ResultRow
from stenosis_node.jobs.records import (
    MR_CLASSES,
    BeingDeleted,
    DeliverySummary,
    DocumentRow,
    EventKind,
    JobDetail,
    JobEvent,
    JobSummary,
    PeerSpec,
    PreviousResult,
    Purge,
    RecallTarget,
    Receipt,
    ResultSummary,
    Step,
    StoredInstance,
    Touch,
    WithdrawalReason,
    WithdrawalState,
    WithdrawalSummary,
    split_alternatives,
)
from stenosis_node.jobs.retention import Retention
from stenosis_node.jobs.withdrawals import Withdrawing

__all__ = [
    "MR_CLASSES",
    "BeingDeleted",
    "CheckLease",
    "CommitmentLease",
    "CommitmentOutcome",
    "DeliveryLease",
    "DeliverySummary",
    "DocumentRow",
    "EventKind",
    "FileRow",
    "JobDetail",
    "JobEvent",
    "JobStore",
    "JobSummary",
    "Lease",
    "NodeStatus",
    "PeerCapability",
    "PeerSpec",
    "PeerSummary",
    "PreviousResult",
    "Purge",
    "RecallTarget",
    "Receipt",
    "ResultRow",
    "ResultSummary",
    "Step",
    "StoredInstance",
    "Touch",
    "WithdrawalLease",
    "WithdrawalReason",
    "WithdrawalState",
    "WithdrawalSummary",
    "split_alternatives",
]


class JobStore(
    Receiving,
    Completeness,
    Grading,
    Delivering,
    Committing,
    Recalling,
    Withdrawing,
    Peers,
    Reading,
    Admin,
    Retention,
    Reconciling,
):
    """Every row of the node. Safe to share between the threads of one process; each process makes its own.

    Times are aware; ``now`` is the caller's clock, None the clock of the database (SQLite: of this machine).
    Errors of the database are TransientError.
    """
