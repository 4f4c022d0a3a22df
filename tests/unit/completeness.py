"""Tests that grade need studies that were found complete."""

from __future__ import annotations

from datetime import datetime

from stenosis_node.domain import JobState
from stenosis_node.jobs import JobStore, Lease


def conclude_checks(store: JobStore, *, now: datetime | None = None) -> int:
    """Every study that is quiet is complete. Returns how many that are."""
    concluded = 0
    while (lease := store.claim_check(worker="checker", lease_s=60, now=now)) is not None:
        store.conclude_check(lease, because="it is quiet", now=now)
        concluded += 1
    return concluded


def claim_complete(
    store: JobStore, *, worker: str = "grade-1", max_attempts: int = 3, now: datetime | None = None
) -> Lease | None:
    """What a grader gets once every quiet study was found complete."""
    conclude_checks(store, now=now)
    return store.claim(JobState.RECEIVED, worker=worker, lease_s=60, max_attempts=max_attempts, now=now)
