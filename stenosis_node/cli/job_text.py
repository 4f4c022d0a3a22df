"""Jobs as text for people. Scripts take ``--json``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from stenosis_node.cli.output import decisions_table, local_time, table
from stenosis_node.domain import DeliveryState, JobState

if TYPE_CHECKING:
    from rich.table import Table

    from stenosis_node.cli.findings import Outcomes
    from stenosis_node.jobs import DeliverySummary, JobDetail, JobSummary, ResultSummary, WithdrawalSummary

UID_CHARACTERS = 24
"""A longer UID is shortened in the middle where many jobs share a table."""


Headlines = Mapping[int, str]
"""By number of the job: what was found, in a few words."""


def jobs_table(summaries: Iterable[JobSummary], headlines: Headlines) -> Table:
    """One row per job."""
    rows = (
        (
            str(job.id),
            job.state.value,
            local_time(job.state_since),
            str(job.n_instances),
            _short(job.study_instance_uid),
            with_headline(job, headlines.get(job.id)),
        )
        for job in summaries
    )
    return table((">Job", "=State", "=Since", ">Images", "=Study", "What"), rows)


HELD = "held by an administrator until unhold"


def follow_line(job: JobSummary, headline: str | None) -> str:
    """One line of ``jobs --follow``."""
    now, what = local_time(datetime.now(UTC)), with_headline(job, headline)
    return f"{now}  job {job.id}  {job.state:<9}  {job.n_instances} images  {job.study_instance_uid}  {what}"


def with_headline(job: JobSummary, headline: str | None) -> str:
    """What the job does, and what was found."""
    return "; ".join(part for part in (activity(job), headline) if part)


def activity(job: JobSummary) -> str:
    """What the job waits for, who works on it, or why it ended."""
    if job.state is JobState.REJECTED:
        return f"{job.reason}: {job.message}"
    if job.state is JobState.FAILED and job.failed_in is not None:
        return f"in {job.failed_in}: {job.message}"
    if job.state is JobState.GRADED:
        return HELD if job.held else "is being delivered"
    return _waiting(job, datetime.now(UTC)) if job.state is JobState.RECEIVED else job.message or ""


def _waiting(job: JobSummary, now: datetime) -> str:
    checked = job.complete_because is not None
    if job.worker is not None and job.lease_until is not None and job.lease_until > now:
        return f"is being graded, attempt {job.attempts}" if checked else "is being compared with its source"
    if job.held:
        return HELD
    if not checked and job.message and job.retry_at is not None:  # a round of the check is over
        return f"{job.message}; compared again at {_clock(max(job.retry_at, job.quiet_until))}"
    if job.retry_at is not None and job.retry_at > now:
        return f"attempt {job.attempts} failed, next at {_clock(job.retry_at)}: {job.message}"
    if job.quiet_until > now:
        return f"complete at {_clock(job.quiet_until)} unless more images arrive"
    return "waits for the grading process" if checked else "waits to be checked for completeness"


def job_sections(detail: JobDetail, outcomes: Mapping[str, Outcomes | None]) -> Iterator[str | Table]:
    """Everything about a job, top to bottom.

    outcomes  by the ``chosen_key`` of each result; None: not stored any more
    """
    job = detail.job
    yield f"Job {job.id}: {job.state} since {local_time(job.state_since)}"
    yield f"Study {job.study_instance_uid}, {job.n_instances} images, last at {local_time(job.last_instance_at)}"
    if said := activity(job):
        yield said[0].upper() + said[1:]
    if job.complete_because:
        yield f"Complete because {job.complete_because}"
    if detail.conflicts:
        yield f"{detail.conflicts} times other bytes came under a known UID: the first were kept, see the quarantine"
    if detail.series:
        yield "\nSeries"
        yield decisions_table(detail.series)
    yield "\nSteps"
    yield table(("=Time", "=Step", "What"), ((local_time(e.at), e.kind.value, e.sentence) for e in detail.events))
    yield ""
    for result in detail.results:
        yield f"Result, revision {result.revision}: {_made(result)}; made {local_time(result.created_at)}"
        found = outcomes.get(result.chosen_key)
        yield f"Slices: {found.sentence() if found else 'what was found is not stored here any more'}"
        if result.bundle:
            yield f"Weights: {result.bundle}, digest {(result.bundle_digest or '')[:12]}"
        if result.withdrawn_at is not None:
            yield f"Withdrawn {local_time(result.withdrawn_at)}: {result.withdrawn_why}"
    for delivery in detail.deliveries:
        yield from _delivery_sections(delivery, detail)
    for withdrawal in detail.withdrawals:
        yield from _withdrawal_lines(withdrawal)


def _made(result: ResultSummary) -> str:
    """How many documents, and how many of each kind; the same report in another SOP class is an alternative."""
    from stenosis_node.jobs import split_alternatives

    documents, alternatives = split_alternatives(result.documents)
    counts = Counter(document.kind.value for document in documents)
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    other = f"; the report also in {len(alternatives)} other SOP classes" if alternatives else ""
    return f"{len(documents)} documents ({kinds}{other})"


def _delivery_sections(delivery: DeliverySummary, detail: JobDetail) -> Iterator[str | Table]:
    need = "" if delivery.required else " (not required)"
    tried = f", {delivery.attempts} attempt{'s' * (delivery.attempts > 1)}" if delivery.attempts else ""
    yield (
        f"\nDelivery of revision {delivery.revision} to {delivery.peer}{need}: {delivery.state} "
        f"since {local_time(delivery.state_since)}{tried}"
    )
    if delivery.message:
        yield delivery.message
    if delivery.state is DeliveryState.FAILED:
        yield f"Nobody tries it any more: 'stenosis-node retry {detail.job.id}' does, or retry --peer {delivery.peer}"
    yield from _commitment_lines(delivery)
    kinds = {document.sop_instance_uid: document.kind.value for r in detail.results for document in r.documents}
    answers: dict[tuple[str, str, str], list[datetime]] = {}
    for receipt in delivery.receipts:
        status = "no answer" if receipt.status is None else f"0x{receipt.status:04X}"
        key = (kinds.get(receipt.sop_instance_uid, "document"), status, receipt.text)
        answers.setdefault(key, []).append(receipt.at)
    if answers:
        rows = ((kind, str(len(at)), status, text, local_time(max(at))) for (kind, status, text), at in answers.items())
        yield table(("=Sent", ">Count", "=Answer", "Text", "=Last"), rows)


def _commitment_lines(delivery: DeliverySummary) -> Iterator[str]:
    if delivery.committed_at is not None:
        yield f"Delivered and committed at {local_time(delivery.committed_at)}"
    elif delivery.commit_requested_at is not None:
        asked = f"{delivery.commit_attempts} time{'s' * (delivery.commit_attempts != 1)}"
        again = f", again at {local_time(delivery.commit_due_at)}" if delivery.commit_due_at else ""
        yield f"Commitment was asked for {asked}, last at {local_time(delivery.commit_requested_at)}{again}"


def _withdrawal_lines(withdrawal: WithdrawalSummary) -> Iterator[str]:
    """What was withdrawn and how; where a person must delete, the UIDs to delete."""
    from stenosis_node.jobs import WithdrawalReason, WithdrawalState

    number = len(withdrawal.sop_instance_uids)
    because = f"{withdrawal.reason} {withdrawal.why}".rstrip()
    if withdrawal.reason is WithdrawalReason.RECALLED and withdrawal.why:
        because = f"recalled ({withdrawal.why})"
    yield (
        f"\nWithdrawal of revision {withdrawal.revision} from {withdrawal.peer}, {because}: "
        f"{withdrawal.state} since {local_time(withdrawal.state_since)}"
    )
    if withdrawal.message:
        yield withdrawal.message
    match withdrawal.state:
        case WithdrawalState.BY_HAND:
            yield f"The administrator of {withdrawal.peer} must delete:"
            yield from (f"  {uid}" for uid in withdrawal.sop_instance_uids)
        case WithdrawalState.DELIVERED:
            yield f"A rejection note for {number} documents was sent"
        case WithdrawalState.PENDING:
            yield f"A rejection note for {number} documents waits to be sent"
        case WithdrawalState.FAILED:
            yield f"Nobody sends the rejection note any more: 'stenosis-node retry --peer {withdrawal.peer}' does"


def _clock(moment: datetime) -> str:
    return moment.astimezone().strftime("%H:%M:%S")


def _short(uid: str) -> str:
    if len(uid) <= UID_CHARACTERS:
        return uid
    tail = UID_CHARACTERS // 2
    return f"{uid[: UID_CHARACTERS - tail - 1]}…{uid[-tail:]}"
