"""The grading worker.

Every step leaves something durable or nothing: a worker that dies is followed by another that repeats the step with the
same result. Findings are stored before a document is composed from them, documents before the job says GRADED.
"""

from __future__ import annotations

import faulthandler
import gc
import hashlib
import logging
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from stenosis_node import report, series
from stenosis_node.audit import AuditTrail
from stenosis_node.config import Config, Grading
from stenosis_node.domain import (
    AxialSeries,
    Decision,
    Document,
    DocumentKind,
    JobState,
    SliceRef,
    StudyFindings,
)
from stenosis_node.errors import LeaseLost, StudyRejected, TransientError
from stenosis_node.failpoint import failpoint
from stenosis_node.jobs import DocumentRow, JobDetail, JobStore, Lease, PeerSpec, StoredInstance
from stenosis_node.spool import Spool
from stenosis_node.work.auditing import part_of
from stenosis_node.work.keeper import LeaseKeeper, work_until
from stenosis_node.work.policy import BackOff, Consequence, consequence, log_consequence, sentence
from stenosis_node.work.study import Grader, Selection, find, findings_key, no_candidate, sagittal_of, select

log = logging.getLogger("stenosis_node.work.grade")


def load_pipeline(settings: Grading) -> Grader:
    """Load the configured bundle. Imports torch. Raises BundleError or ConfigError.

    Everything there is by then stays until the process ends, and collections of garbage no longer look through it.
    """
    from stenosis_node.grading.pipeline import Pipeline

    pipeline = Pipeline.load(
        settings.bundle,
        device=settings.device,
        precision=settings.precision,
        threads=settings.threads,
        batch_size=settings.batch_size,
        expected_digest=settings.bundle_digest,
    )
    gc.collect()
    gc.freeze()
    return pipeline


def revision_key(content_key: str, revision: int, predecessors: Sequence[report.Predecessor]) -> str:
    """Hex digest under which the documents of a revision are stored.

    The content alone would not do: a node that goes back to earlier weights finds the content of an earlier revision,
    and the peers, which hold a later one, must get it again as documents that supersede that.
    """
    if revision == 1:
        return content_key
    parts = (content_key, str(revision), *(one.sop_instance_uid for one in predecessors))
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


class GradeWorker:
    """Claims quiet studies and takes them from RECEIVED to GRADED or REJECTED, one at a time."""

    def __init__(self, config: Config, spool: Spool, store: JobStore, pipeline: Grader, *, worker: str) -> None:
        self._config = config
        self._spool = spool
        self._store = store
        self._pipeline = pipeline
        self._worker = worker
        self._wanted = report.Wanted.by(config.peers.values())
        self._back_off = BackOff(config.jobs.retry_base_s, config.jobs.retry_cap_s)
        self._audit = AuditTrail(config)

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set. A study under way is then given back between two batches of slices."""
        work_until(stop, lambda: self.step(stop))

    def step(self, stop: threading.Event) -> bool:
        """Claim and grade one study; False when none is due. Raises TransientError when the database is away."""
        jobs = self._config.jobs
        lease = self._store.claim(
            JobState.RECEIVED, worker=self._worker, lease_s=jobs.lease_s, max_attempts=jobs.max_attempts
        )
        if lease is None:
            return False
        failpoint("grade.claimed")

        def renew() -> None:
            self._store.renew(lease, lease_s=jobs.lease_s)

        with _time_limit(jobs.grade_limit_s), LeaseKeeper(renew, every_s=jobs.lease_s / 3, stop=stop) as keeper:
            try:
                self._grade(lease, keeper)
            except Exception as error:  # noqa: BLE001  POLICY says what follows from each
                self._conclude(lease, error)
        return True

    def _grade(self, lease: Lease, keeper: LeaseKeeper) -> None:
        """RECEIVED to GRADED or REJECTED. Whatever goes wrong is raised; nothing of it is half done."""
        received = {self._spool.instance_path(one.path): one for one in self._store.instances(lease.job_id)}
        self._report(lease, received.values())
        names = {
            path: (lease.study_instance_uid, one.series_instance_uid, one.sop_instance_uid)
            for path, one in received.items()
        }
        scan = series.scan(received, {path: one.calling_ae_title for path, one in received.items()}, names)
        for file in scan.unreadable:
            if file.fault is not None:
                raise file.fault.for_instance(received[file.path].sop_instance_uid) from file.fault
            log.warning("%s %s", file.path.name, file.reason, extra={"event": "unreadable_file", "job": lease.job_id})
        selection = next(
            (found for found in self._select(lease, scan) if found.study_instance_uid == lease.study_instance_uid),
            Selection(lease.study_instance_uid, (), ()),
        )
        lost = {_ref(received[file.path]): file for file in scan.unreadable}
        if selection.reported:
            self._store.record_decisions(lease, selection.decisions)
            self._make_result(lease, keeper, selection, lost)
        else:
            rejected = no_candidate(selection.decisions)
            self._store.reject(lease, reason=rejected.reason, sentence=rejected.sentence, decisions=selection.decisions)
            log.info("job %d rejected: %s", lease.job_id, rejected, extra={"event": "rejected"})
        failpoint("grade.advanced")

    def _report(self, lease: Lease, images: Collection[StoredInstance], *, failure: str = "") -> None:
        """To the audit stream: the images of this study are read, or could not be graded."""
        part = part_of(lease.study_instance_uid, images, self._spool.root)
        self._audit.record(self._audit.events.graded(part, failure=failure))

    def _select(self, lease: Lease, scan: series.Scan) -> tuple[Selection, ...]:
        """Choose, with the locator that was decided before, if any."""
        detail = self._store.job(lease.job_id)
        before = detail.series if detail is not None else ()
        locator = next((one.series_instance_uid for one in before if one.decision is Decision.LOCATOR), "")
        return select(scan, self._config.series.rules, locator=locator)

    def _make_result(
        self,
        lease: Lease,
        keeper: LeaseKeeper,
        selection: Selection,
        lost: Mapping[SliceRef, series.UnreadableFile],
    ) -> None:
        images = tuple(series.read(headers, lost, decision=decision) for headers, decision in selection.reported)
        keeper.check()
        failpoint("grade.read")
        refused = [headers.series_instance_uid for headers, _ in selection.decided(Decision.NOT_GRADABLE)]
        chosen_key = findings_key(images, self._pipeline.identity, refused)
        findings = self._find(selection, images, keeper, chosen_key)
        keeper.check()
        failpoint("grade.found")
        context = self._context(lease, report.content_key(findings, self._config.report, self._wanted))
        documents = self._spool.documents(context.key)
        if documents is None:
            sagittal = sagittal_of(selection, findings)
            documents = report.compose(findings, images, context, sagittal)
            report.check(documents, findings, images, sagittal, self._wanted)
            documents = self._spool.put_documents(context.key, documents)
        failpoint("grade.composed")
        self._store.advance_graded(
            lease,
            result_key=context.key,
            chosen_key=chosen_key,
            documents=[_row(one) for document in documents for one in (document, *document.alternatives)],
            peers=[PeerSpec(name, peer.required) for name, peer in self._config.peers.items() if peer.results],
            bundle=self._pipeline.identity,
        )
        log.info(
            "job %d graded: %d series, %d not gradable, %d documents",
            lease.job_id, len(images) - len(refused), len(refused), len(documents),
            extra={"event": "graded"},
        )  # fmt: skip

    def _find(
        self, selection: Selection, images: Sequence[AxialSeries], keeper: LeaseKeeper, key: str
    ) -> StudyFindings:
        """Stored findings of exactly these slices, weights and software, or new ones, stored before they are used."""
        if self._spool.findings(key) is None:
            findings = find(selection, images, self._pipeline, progress=lambda done, of: keeper.check())
            self._spool.put_findings(key, findings.to_json())
        stored = self._spool.findings(key)
        if stored is None:
            raise TransientError(f"findings {key} were deleted while they were needed")
        return StudyFindings.from_json(stored)

    def _context(self, lease: Lease, content_key: str) -> report.ReportContext:
        """Of the latest revision when that has the same content, else of the next one.

        When the latest was recalled and an administrator wants the study graded nevertheless, of the next one in any
        case: peers that act on rejection notes would not take the same documents again.
        """
        detail = self._store.job(lease.job_id)
        if detail is None:
            raise LeaseLost(f"job {lease.job_id} is gone")
        for latest in detail.results[-1:]:
            if lease.reissue and latest.withdrawn_at is not None:
                break
            same = self._revision(detail, content_key, latest.revision, latest.first_claimed_at)
            if same.key == latest.result_key:
                return same
        return self._revision(detail, content_key, lease.revision + 1, lease.first_claimed_at)

    def _revision(self, detail: JobDetail, content_key: str, revision: int, created: datetime) -> report.ReportContext:
        predecessors = self._history(detail, revision)
        return report.ReportContext(
            key=revision_key(content_key, revision, predecessors),
            created=created,
            settings=self._config.report,
            ae_title=self._config.receive.ae_title,
            revision=revision,
            predecessors=predecessors,
            wanted=self._wanted,
        )

    def _history(self, detail: JobDetail, revision: int) -> tuple[report.Predecessor, ...]:
        """The reports that peers may hold of earlier revisions: the confirmed ones, else one of each result."""
        receipts = (receipt for delivery in detail.deliveries for receipt in delivery.receipts)
        confirmed = {receipt.sop_instance_uid for receipt in receipts if receipt.confirmed}
        named = []
        for result in self._store.predecessors(detail.job.id):
            if result.revision >= revision:
                continue
            reports = [row for row in result.documents if row.kind is DocumentKind.SR]
            held = [row for row in reports if row.sop_instance_uid in confirmed] or reports[:1]
            named += [
                report.Predecessor(
                    revision=result.revision,
                    sop_class_uid=row.sop_class_uid,
                    sop_instance_uid=row.sop_instance_uid,
                    series_instance_uid=row.series_instance_uid,
                )
                for row in held
            ]
        return tuple(named)

    def _conclude(self, lease: Lease, error: Exception) -> None:
        """What POLICY says. Raises TransientError when the database is away: the lease then ends by itself."""
        what, text = consequence(error), sentence(error)
        jobs = self._config.jobs
        log_consequence(log, error, f"job {lease.job_id}: grading", attempt=lease.attempt)
        try:
            match what:
                case Consequence.DROP:
                    pass
                case Consequence.RELEASE:
                    self._store.release(lease)
                case Consequence.REJECT:
                    assert isinstance(error, StudyRejected)  # noqa: S101  the only class with this consequence
                    self._store.reject(lease, reason=error.reason, sentence=error.sentence)
                case Consequence.FAIL:
                    self._store.fail(lease, sentence=text)
                    self._report(lease, self._store.instances(lease.job_id), failure=text)
                case Consequence.RETRY:
                    again = datetime.now(UTC) + timedelta(seconds=self._back_off.delay_s(lease.attempt))
                    self._store.retry_later(lease, retry_at=again, sentence=text, max_attempts=jobs.max_attempts)
                    self._report(lease, self._store.instances(lease.job_id), failure=text)
        except LeaseLost:
            log.info("job %d went to someone else meanwhile", lease.job_id, extra={"event": "lease_lost"})


@contextmanager
def _time_limit(limit_s: float) -> Iterator[None]:
    """End this process, whatever it is stuck in, when the block takes longer.

    The watchdog is a thread of the interpreter itself and needs no GIL; it writes where every thread was and exits. The
    supervisor then frees the lease, and the attempt stays counted.
    """
    faulthandler.dump_traceback_later(limit_s, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _ref(received: StoredInstance) -> SliceRef:
    return SliceRef(received.series_instance_uid, received.sop_class_uid, received.sop_instance_uid, None)


def _row(document: Document) -> DocumentRow:
    return DocumentRow(
        sop_instance_uid=document.sop_instance_uid,
        sop_class_uid=document.sop_class_uid,
        series_instance_uid=document.series_instance_uid,
        kind=document.kind,
    )
