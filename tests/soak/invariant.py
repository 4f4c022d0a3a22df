"""What must hold after everything: each acknowledged instance in one terminal job, its result once at the PACS."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from stenosis_node.domain import DeliveryState, DocumentKind, JobState
from stenosis_node.jobs import EventKind, JobDetail, WithdrawalState
from tests.acceptance.processes import SR_CLASSES, wait_until
from tests.soak.sender import Sender
from tests.soak.servers import RecordingPacs, SoakNode
from tests.soak.sink import read_arrivals


@dataclass
class Verdict:
    """Counts, and every violation as a sentence."""

    acknowledged: int = 0
    studies: int = 0
    documents: int = 0
    """Different ones at the PACS."""
    repeats: int = 0
    """Times a document arrived again, with the same UID and the same bytes."""
    revisions: int = 0
    """Results beyond the first of a study: some of its instances came after it had been graded."""
    violations: list[str] = field(default_factory=list)


class Bytes:
    """Over all runs: a UID stands for the same bytes for ever."""

    def __init__(self) -> None:
        self.of_uid: dict[str, set[str]] = defaultdict(set)


OVER = (JobState.DELIVERED, JobState.FAILED, JobState.REJECTED, JobState.CANCELLED)
REJECTION_NOTE = "1.2.840.10008.5.1.4.1.1.88.59"
"""Class of the documents that withdraw others."""


def settle(node: SoakNode, sender: Sender, *, limit_s: float = 600) -> None:
    """Wait until every study with an acknowledged instance has a terminal job."""
    waiting = set(sender.acknowledged.values())

    def done() -> bool:
        with node.store() as store:
            for uid in list(waiting):
                found = store.job(uid)
                if found is None or found.job.state not in OVER:
                    return False
                if any(one.state is WithdrawalState.PENDING for one in found.withdrawals):
                    return False
                waiting.discard(uid)
        return True

    wait_until(done, limit_s=limit_s, what="every job is terminal", log=node.log)


LEFT_BY_A_CRASH = ("file-without-row", "unreadable-file")
"""Kinds of fsck's problems that are none while nobody was told that the instance is kept."""


def losses(findings: Iterable[Mapping[str, Any]], acknowledged: Container[str]) -> list[str]:
    """What is lost or damaged according to ``fsck --json`` without ``--repair``.

    acknowledged  SOP Instance UIDs
    """
    return [
        f"fsck: {one['about']}: {one['sentence']}"
        for one in findings
        if one["is_problem"]
        and (one["kind"] not in LEFT_BY_A_CRASH or PurePosixPath(one["about"]).stem in acknowledged)
    ]


def check(node: SoakNode, sender: Sender, pacs: RecordingPacs, seen: Bytes) -> Verdict:
    """From the PACS's bytes, the database, the spool and the sender's list."""
    verdict = Verdict(acknowledged=len(sender.acknowledged))
    arrivals = read_arrivals(pacs.folder)
    at_pacs: dict[str, set[str]] = defaultdict(set)
    of_class: dict[str, str] = {}
    for one in arrivals:
        at_pacs[one.study_instance_uid].add(one.sop_instance_uid)
        of_class[one.sop_instance_uid] = one.sop_class_uid
        seen.of_uid[one.sop_instance_uid].add(one.sha256)
    verdict.documents = len(of_class)
    verdict.repeats = len(arrivals) - len(of_class)
    for uid, digests in seen.of_uid.items():
        if len(digests) > 1:
            verdict.violations.append(f"document {uid} arrived with {len(digests)} different contents")
    of_study: dict[str, set[str]] = defaultdict(set)
    for sop, study in sender.acknowledged.items():
        of_study[study].add(sop)
    verdict.studies = len(of_study)
    with node.store() as store:
        for study, sops in of_study.items():
            detail = store.job(study)
            if detail is None:
                verdict.violations.append(f"study {study}: {len(sops)} instances acknowledged, no job")
                continue
            end = sender.ends.get(study, JobState.DELIVERED)
            kept = [one.sop_instance_uid for one in store.instances(detail.job.id)]
            if lost := sops - store.received_uids(detail.job.id):
                verdict.violations.append(f"study {study}: {len(lost)} acknowledged instances are in no job")
            may_go = end is JobState.REJECTED or any(one.kind is EventKind.PURGED for one in detail.events)
            if not may_go and (gone := sops - set(kept)):
                verdict.violations.append(f"study {study}: {len(gone)} instances are deleted before their time")
            if len(kept) != len(set(kept)):
                verdict.violations.append(f"study {study}: an instance is there twice")
            for one in store.instances(detail.job.id):
                if not (node.spool / one.path).exists():
                    verdict.violations.append(f"study {study}: the file of {one.sop_instance_uid} is gone")
            verdict.revisions += max(0, len(detail.results) - 1)
            verdict.violations += _check_result(detail, at_pacs[study], of_class, end)
    return verdict


def _check_result(
    detail: JobDetail, held: set[str], of_class: dict[str, str], end: JobState = JobState.DELIVERED
) -> list[str]:
    """The latest result is there, whole and once, with a note for what is withdrawn, and nothing that is of no result.

    end  how the job is to end; CANCELLED: its result was recalled after it had been delivered
    """
    study = detail.job.study_instance_uid
    if detail.job.state is not end:
        return [f"study {study} ended {detail.job.state}: {detail.job.message}"]
    if end is JobState.REJECTED:
        return [f"study {study}: the PACS holds {len(held)} documents of a rejected study"] if held else []
    wrong = []
    notes = {uid for uid in held if of_class[uid] == REJECTION_NOTE}
    told = [one for one in detail.withdrawals if one.state is WithdrawalState.DELIVERED]
    if len(notes) != len(told):
        wrong.append(f"study {study}: {len(notes)} rejection notes at the PACS for {len(told)} withdrawals")
    held = held - notes
    ours = {row.sop_instance_uid for result in detail.results for row in result.documents}
    if stray := held - ours:
        wrong.append(f"study {study}: the PACS holds {len(stray)} documents of no result")
    latest = detail.results[-1]
    reports = {row.sop_instance_uid for row in latest.documents if row.kind is DocumentKind.SR} & held
    if len(reports) != 1:
        wrong.append(f"study {study}: {len(reports)} reports of the latest result at the PACS")
    # the PACS is the only peer, and nothing is made that no peer gets; of the report it gets one class
    others = {row.sop_instance_uid for row in latest.documents if row.kind is not DocumentKind.SR}
    if missing := others - held:
        wrong.append(f"study {study}: {len(missing)} captures or presentation states of the latest result never came")
    for delivery in detail.deliveries:
        if delivery.state is DeliveryState.DELIVERED:
            confirmed = {receipt.sop_instance_uid for receipt in delivery.receipts if receipt.confirmed}
            if never := confirmed - held:
                wrong.append(f"study {study}: {len(never)} confirmed documents never arrived")
    n_reports = sum(of_class[uid] in SR_CLASSES for uid in held)
    if n_reports > len(detail.results):
        wrong.append(f"study {study}: {n_reports} reports for {len(detail.results)} results")
    return wrong
