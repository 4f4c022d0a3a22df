"""The queue: a job per study, its instances, results, documents and deliveries, in SQLite or PostgreSQL."""

from __future__ import annotations

from stenosis_node.jobs.admin import Admin
from stenosis_node.jobs.delivering import Delivering
from stenosis_node.jobs.grading import Grading
from stenosis_node.jobs.receiving import Receiving
from stenosis_node.jobs.records import (
    MR_CLASSES,
    BeingDeleted,
    DeliveryLease,
    DeliverySummary,
    DocumentRow,
    EventKind,
    JobDetail,
    JobEvent,
    JobSummary,
    Lease,
    PeerSpec,
    PreviousResult,
    Purge,
    Receipt,
    ResultSummary,
    Step,
    StoredInstance,
    Touch,
    split_alternatives,
)
from stenosis_node.jobs.retention import Retention

__all__ = [
    "MR_CLASSES",
    "BeingDeleted",
    "DeliveryLease",
    "DeliverySummary",
    "DocumentRow",
    "EventKind",
    "JobDetail",
    "JobEvent",
    "JobStore",
    "JobSummary",
    "Lease",
    "PeerSpec",
    "PreviousResult",
    "Purge",
    "Receipt",
    "ResultSummary",
    "Step",
    "StoredInstance",
    "Touch",
    "split_alternatives",
]


class JobStore(Receiving, Grading, Delivering, Admin, Retention):
    """Every row of the node. Safe to share between the threads of one process; each process makes its own.

    Times are aware; ``now`` is the caller's clock, None the clock of the database (SQLite: of this machine).
    Errors of the database are TransientError.
    """
