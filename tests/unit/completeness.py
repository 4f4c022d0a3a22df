"""Tests that grade need studies that were found complete."""

from __future__ import annotations

from datetime import datetime

from stenosis_node.jobs import JobStore


def conclude_checks(store: JobStore, *, now: datetime | None = None) -> int:
    """Every study that is quiet is complete. Returns how many that are."""
    concluded = 0
    while (lease := store.claim_check(worker="checker", lease_s=60, now=now)) is not None:
        store.conclude_check(lease, because="it is quiet", now=now)
        concluded += 1
    return concluded
