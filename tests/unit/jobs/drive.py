"""Short words for what the processes of the node do, at times counted in seconds from T0."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from stenosis_node.domain import Decision, DocumentKind, JobState, ReceivedInstance, SeriesDecision, SeriesReason
from stenosis_node.jobs import (
    DeliveryLease,
    DocumentRow,
    EventKind,
    JobDetail,
    JobStore,
    JobSummary,
    Lease,
    PeerSpec,
    Touch,
)
from tests.unit.completeness import claim_complete

T0 = datetime(2025, 3, 14, 9, 0, tzinfo=UTC)
MR = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
QUIET = 10
CEILING = 100


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def instance(number: int | str, *, study: str = "1.1", series: str = "2.1", sop_class: str = MR) -> ReceivedInstance:
    sop = f"3.{number}"
    return ReceivedInstance(
        study_instance_uid=study,
        series_instance_uid=series,
        sop_instance_uid=sop,
        sop_class_uid=sop_class,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        path=Path("instances") / study / series / f"{sop}.dcm",
        size_bytes=1000,
        sha256="0" * 64,
        calling_ae_title="PACS",
        received_at=T0,
    )


def receive(store: JobStore, number: int | str, second: float, *, conflict: bool = False, **kwargs: str) -> Touch:
    return store.touch(
        instance(number, **kwargs), conflict=conflict, quiet_period_s=QUIET, ceiling_s=CEILING, now=at(second)
    )


def claim(store: JobStore, second: float, *, worker: str = "grader", max_attempts: int = 3) -> Lease | None:
    """Of the studies that are quiet all are complete."""
    return claim_complete(store, worker=worker, max_attempts=max_attempts, now=at(second))


def claimed(store: JobStore, second: float, *, worker: str = "grader") -> Lease:
    lease = claim(store, second, worker=worker)
    assert lease is not None
    return lease


def document(uid: str, kind: DocumentKind = DocumentKind.SC) -> DocumentRow:
    return DocumentRow(sop_instance_uid=uid, sop_class_uid="1.2.3", series_instance_uid="9.1", kind=kind)


def grade(store: JobStore, lease: Lease, second: float, key: str = "aa" * 8, peers: Any = ("pacs",)) -> JobState:
    """``peers``: names of required ones, or PeerSpec."""
    return store.advance_graded(
        lease,
        result_key=key,
        chosen_key=f"chosen-{key}",
        documents=[document(f"8.{key[:2]}.1"), document(f"8.{key[:2]}.2", DocumentKind.SR)],
        peers=[peer if isinstance(peer, PeerSpec) else PeerSpec(peer) for peer in peers],
        now=at(second),
    )


def graded(store: JobStore, peers: Any = ("pacs",), *, number: int = 1, study: str = "1.1") -> int:
    """A study that was received at 0 and graded at 20. Returns the number of its job."""
    job_id = receive(store, number, 0, study=study).job_id
    assert job_id is not None
    lease = claimed(store, 15)
    assert lease.job_id == job_id
    grade(store, lease, 20, peers=peers)
    return job_id


def claim_delivery(
    store: JobStore, second: float, peer: str = "pacs", *, worker: str = "sender", max_attempts: int = 3
) -> DeliveryLease | None:
    return store.claim_delivery(peer, worker=worker, lease_s=60, max_attempts=max_attempts, now=at(second))


def claimed_delivery(store: JobStore, second: float, peer: str = "pacs") -> DeliveryLease:
    lease = claim_delivery(store, second, peer)
    assert lease is not None
    return lease


def summary(store: JobStore, job_id: int = 1) -> JobSummary:
    return detail(store, job_id).job


def state(store: JobStore, job_id: int = 1) -> JobState:
    return summary(store, job_id).state


def kinds(store: JobStore, job_id: int = 1) -> list[str]:
    """What happened, oldest first, but that the study was found complete."""
    return [str(event.kind) for event in detail(store, job_id).events if event.kind is not EventKind.COMPLETE]


def detail(store: JobStore, job_id: int = 1) -> JobDetail:
    found = store.job(job_id)
    assert found is not None
    return found


def decision(
    series: str, kind: Decision = Decision.GRADED, reason: SeriesReason = SeriesReason.CHOSEN, number: int | None = 1
) -> SeriesDecision:
    return SeriesDecision(
        series_instance_uid=series,
        series_number=number,
        description="T2 TSE TRA",
        n_instances=20,
        decision=kind,
        reason=reason,
        sentence="axial, T2-weighted, lumbar",
        values={"EchoTime": "100"},
    )
