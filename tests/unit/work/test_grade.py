from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import FileDataset

from stenosis_node import series
from stenosis_node.config import Peer, Series, SeriesRule
from stenosis_node.domain import Decision, DocumentKind, JobState, SeriesDecision, SeriesReason, StudyFindings
from stenosis_node.errors import PermanentError, TransientError
from stenosis_node.jobs import DeliveryLease
from stenosis_node.report import render_html
from stenosis_node.series import choose
from stenosis_node.work.grade import GradeWorker
from stenosis_node.work.study import grade_files
from tests.acceptance.studies import Study
from tests.unit.completeness import conclude_checks
from tests.unit.work.conftest import Bench

GO_ON = threading.Event()
"""Never set: nobody asks the worker to stop."""


def worker(bench: Bench) -> GradeWorker:
    """A grader that finds every quiet study complete."""
    conclude_checks(bench.store)
    return GradeWorker(bench.config, bench.spool, bench.store, bench.pipeline, worker="grade@test")


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path / "study")


def test_a_quiet_study_becomes_a_result(bench: Bench, study: Study) -> None:
    study.axial(4)
    study.sagittal(4)
    bench.receive(*study.files)

    assert worker(bench).step(GO_ON)

    job = bench.job(study.uid)
    assert job.job.state is JobState.DELIVERED  # there is no peer that must have it
    documents = bench.spool.documents(job.results[0].result_key)
    assert documents is not None
    assert documents[-1].kind is DocumentKind.SR
    assert documents[0].kind is DocumentKind.SC_OVERVIEW
    assert {d.sop_instance_uid for d in documents} <= {row.sop_instance_uid for row in job.documents}
    assert not worker(bench).step(GO_ON)


def test_a_study_without_candidate_is_rejected_with_the_reasons_seen(bench: Bench, study: Study) -> None:
    study.sagittal(4)
    bench.receive(*study.files)

    worker(bench).step(GO_ON)

    job = bench.job(study.uid)
    assert (job.job.state, job.job.reason) == (JobState.REJECTED, "no-candidate")
    assert "not-axial" in (job.job.message or "")
    assert bench.pipeline.calls == 0


@pytest.mark.parametrize("n_gone", [1, 4])
def test_a_received_file_that_is_gone_fails_the_job_and_is_named(bench: Bench, study: Study, n_gone: int) -> None:
    study.axial(4)
    bench.receive(*study.files)
    gone = sorted(bench.spool.iter_instances())[:n_gone]
    for path in gone:
        bench.spool.instance_path(path).unlink()

    worker(bench).step(GO_ON)

    job = bench.job(study.uid).job
    assert job.state is JobState.FAILED
    assert f"{gone[0].stem} is gone" in (job.message or "")


@pytest.mark.parametrize("when", ["while scanning", "while decoding"])
def test_a_disk_that_does_not_give_a_file_is_tried_later(
    bench: Bench, study: Study, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study.axial(4)
    bench.receive(*study.files)
    path = bench.spool.instance_path(min(bench.spool.iter_instances()))

    def break_disk() -> None:
        path.unlink()
        path.mkdir()  # reading a folder fails with a number of the system, as a broken sector does

    if when == "while scanning":
        break_disk()
    else:

        def choose_then_break(
            headers: Sequence[series.SeriesHeaders], rules: Sequence[SeriesRule], *, locator: str
        ) -> tuple[SeriesDecision, ...]:
            break_disk()
            return choose(headers, rules, locator=locator)

        monkeypatch.setattr(series, "choose", choose_then_break)

    worker(bench).step(GO_ON)

    job = bench.job(study.uid).job
    assert job.state is JobState.RECEIVED
    assert job.retry_at is not None
    assert f"{path.stem} cannot be read: Is a directory" in (job.message or "")


@pytest.mark.parametrize("cut_at", ["its first bytes", "the orientation"])
def test_a_slice_whose_header_breaks_off_makes_the_report_partial(bench: Bench, study: Study, cut_at: str) -> None:
    study.axial(5)
    bench.receive(*study.files)
    path = bench.spool.instance_path(min(bench.spool.iter_instances()))
    content = path.read_bytes()
    path.write_bytes(content[: 300 if cut_at == "its first bytes" else content.index(b"\x20\x00\x37\x00DS")])

    worker(bench).step(GO_ON)

    job = bench.job(study.uid)
    assert job.job.state is JobState.DELIVERED
    documents = bench.spool.documents(job.results[0].result_key)
    assert documents is not None
    written = dcmread(BytesIO(documents[-1].content))
    assert written.CompletionFlag == "PARTIAL"
    assert path.stem in str(written)
    assert "1 not readable" in render_html(documents)


def test_a_study_in_which_no_canal_is_found_still_gets_a_report(bench: Bench, study: Study) -> None:
    study.axial(4)
    bench.receive(*study.files)
    bench.pipeline.blind = True

    worker(bench).step(GO_ON)

    kinds = [row.kind for row in bench.job(study.uid).documents]
    assert DocumentKind.SR in kinds


def test_stored_findings_are_used_again_and_an_unchanged_result_is_no_revision(bench: Bench, study: Study) -> None:
    study.axial(4)
    sagittal = study.sagittal(4)
    bench.receive(*study.files)
    worker(bench).step(GO_ON)

    touch = bench.receive(sagittal.add_slice())
    worker(bench).step(GO_ON)

    assert touch.reopened
    assert bench.pipeline.calls == 1
    assert [result.revision for result in bench.job(study.uid).results] == [1]


def test_a_late_slice_of_the_graded_series_is_a_revision(bench: Bench, study: Study) -> None:
    axial = study.axial(4)
    bench.receive(*study.files)
    worker(bench).step(GO_ON)

    bench.receive(axial.add_slice())
    worker(bench).step(GO_ON)

    assert bench.pipeline.calls == 2
    assert [result.revision for result in bench.job(study.uid).results] == [1, 2]


def test_an_axial_t2_series_that_cannot_be_graded_gets_a_report_that_says_so(bench: Bench, study: Study) -> None:
    study.axial(4)
    for path in study.files:
        dataset = dcmread(path)
        dataset.PatientPosition = "HFP"
        dataset.save_as(path)
    bench.receive(*study.files)

    worker(bench).step(GO_ON)

    job = bench.job(study.uid)
    assert job.job.state is JobState.DELIVERED
    assert [one.decision for one in job.series] == [Decision.NOT_GRADABLE]
    documents = bench.spool.documents(job.results[0].result_key)
    assert documents is not None
    assert DocumentKind.SC not in {document.kind for document in documents}
    assert documents[-1].kind is DocumentKind.SR
    assert "the patient is prone (HFP)" in render_html(documents)


def test_a_site_rule_about_the_sender_is_obeyed_and_changing_it_is_a_revision(bench: Bench, study: Study) -> None:
    axial = study.axial(4)
    other = study.series(7, "t2_tse_tra_upper", 4, orientation=[1, 0, 0, 0, 0.98, 0.2], te=104, tr=4000)
    bench.receive(*study.files)
    veto = SeriesRule(action="veto", calling_ae_title="^test$", series_description="upper", why="Not asked for.")
    plain = bench.config
    bench.config = plain.model_copy(update={"series": Series(rules=(veto,))})
    worker(bench).step(GO_ON)

    decisions = {one.series_instance_uid: one for one in bench.job(study.uid).series}
    assert decisions[axial.uid].decision is Decision.GRADED
    assert decisions[other.uid].reason is SeriesReason.SITE_RULE
    assert "Not asked for." in decisions[other.uid].sentence

    bench.config = plain
    bench.receive(study.sagittal(1).paths[0])
    worker(bench).step(GO_ON)
    assert [result.revision for result in bench.job(study.uid).results] == [1, 2]


def test_a_series_that_becomes_gradable_is_graded_anew(bench: Bench, study: Study) -> None:
    """The slices are the same, so only the decision tells the findings apart."""
    study.axial(4)
    for path in study.files:
        dataset = dcmread(path)
        dataset.PatientPosition = "HFP"
        dataset.save_as(path)
    bench.receive(*study.files)
    worker(bench).step(GO_ON)
    pin = SeriesRule(action="pin", series_description="t2_tse_tra", why="The header is wrong.")
    bench.config = bench.config.model_copy(update={"series": Series(rules=(pin,))})
    bench.receive(study.sagittal(1).paths[0])
    worker(bench).step(GO_ON)

    job = bench.job(study.uid)
    assert [result.revision for result in job.results] == [1, 2]
    assert DocumentKind.SC in {row.kind for row in job.results[1].documents}


def test_the_locator_is_settled_once(bench: Bench, study: Study) -> None:
    study.axial(4)
    first = study.sagittal(5)
    bench.receive(*study.files)
    worker(bench).step(GO_ON)
    result = bench.job(study.uid).results[0]
    stored = bench.spool.findings(result.chosen_key)
    assert stored is not None
    locator = StudyFindings.from_json(stored).locator
    assert locator is not None
    assert locator.sop_instance_uid == dcmread(first.paths[1]).SOPInstanceUID  # 2.2 mm off the middle of the canal
    before = bench.spool.documents(result.result_key)

    later = study.series(8, "t2_tse_sag_rpt", 5, orientation=[0, 1, 0, 0, 0, -1], te=100, tr=3500)
    for path in later.paths:
        dataset = dcmread(path)
        dataset.SeriesTime = "230000"
        dataset.save_as(path)
    bench.spool.delete_result(result.result_key)
    bench.receive(*later.paths)
    worker(bench).step(GO_ON)

    job = bench.job(study.uid)
    assert [one.revision for one in job.results] == [1]
    assert [one.series_instance_uid for one in job.series if one.decision is Decision.LOCATOR] == [first.uid]
    assert bench.spool.documents(result.result_key) == before


def test_a_sagittal_series_that_comes_after_the_result_makes_no_new_one(bench: Bench, study: Study) -> None:
    study.axial(4)
    bench.receive(*study.files)
    worker(bench).step(GO_ON)
    bench.receive(*study.sagittal(5).paths)
    worker(bench).step(GO_ON)
    assert bench.pipeline.calls == 1
    assert [one.revision for one in bench.job(study.uid).results] == [1]


def test_a_peer_that_is_only_asked_gets_no_results(bench: Bench, study: Study) -> None:
    study.axial(4)
    asked = Peer(ae_title="Q", host="127.0.0.1", port=1, results=False)
    bench.config = bench.config.model_copy(update={"peers": {"q": asked}})
    bench.receive(*study.files)
    worker(bench).step(GO_ON)
    job = bench.job(study.uid)
    assert (job.job.state, job.deliveries) == (JobState.DELIVERED, ())


def send_all(bench: Bench) -> tuple[DeliveryLease, set[str]]:
    """Confirm what peer ``p`` does not have yet; the delivery, and the documents it was about."""
    lease = bench.store.claim_delivery("p", worker="deliver@test", lease_s=60, max_attempts=9)
    assert lease is not None
    documents = bench.spool.documents(lease.result_key)
    assert documents is not None
    sent = {document.sop_instance_uid for document in documents} - lease.confirmed
    for uid in sent:
        bench.store.record_document(lease, uid, status=0, text="")
    bench.store.advance_delivery(lease)
    return lease, sent


def report_of(bench: Bench, key: str) -> FileDataset:
    documents = bench.spool.documents(key)
    assert documents is not None
    return dcmread(BytesIO(documents[-1].content))


def predecessors(written: FileDataset) -> set[str]:
    return {
        item.ReferencedSOPInstanceUID
        for study in written.get("PredecessorDocumentsSequence", [])
        for one in study.ReferencedSeriesSequence
        for item in one.ReferencedSOPSequence
    }


def test_going_back_to_earlier_weights_is_a_revision_that_is_sent(bench: Bench, study: Study) -> None:
    study.axial(4)
    sagittal = study.sagittal(4)
    bench.config = bench.config.model_copy(update={"peers": {"p": Peer(ae_title="P", host="127.0.0.1", port=1)}})
    weights = bench.pipeline.identity
    bench.receive(*study.files)
    worker(bench).step(GO_ON)
    first, _ = send_all(bench)
    bench.pipeline.identity = replace(weights, digest="cd" * 32, version="2")
    bench.receive(sagittal.add_slice())
    worker(bench).step(GO_ON)
    second, _ = send_all(bench)

    bench.pipeline.identity = weights
    bench.receive(sagittal.add_slice())
    worker(bench).step(GO_ON)

    third, sent = send_all(bench)
    assert third.revision == 3
    assert len(sent) == 3  # overview, worst image, report
    earlier = {report_of(bench, lease.result_key).SOPInstanceUID for lease in (first, second)}
    assert predecessors(report_of(bench, third.result_key)) == earlier

    bench.receive(sagittal.add_slice())
    worker(bench).step(GO_ON)
    assert bench.job(study.uid).job.state is JobState.DELIVERED
    assert bench.store.claim_delivery("p", worker="deliver@test", lease_s=60, max_attempts=9) is None


def test_a_recalled_result_comes_back_as_a_revision_when_it_is_retried_and_not_by_a_late_image(
    bench: Bench, study: Study
) -> None:
    study.axial(4)
    sagittal = study.sagittal(4)
    bench.config = bench.config.model_copy(update={"peers": {"p": Peer(ae_title="P", host="127.0.0.1", port=1)}})
    bench.receive(*study.files)
    worker(bench).step(GO_ON)
    first, sent_first = send_all(bench)
    store = bench.store
    store.recall(store.recallable(job_id=first.job_id), why="the wrong job", notes={})

    bench.receive(sagittal.add_slice())
    worker(bench).step(GO_ON)
    assert bench.job(study.uid).job.state is JobState.CANCELLED

    store.retry(first.job_id)
    worker(bench).step(GO_ON)

    second, sent = send_all(bench)
    assert (second.revision, bench.job(study.uid).job.state) == (2, JobState.DELIVERED)
    assert len(sent) == len(sent_first)
    assert not sent & sent_first, "peers that act on notes take no rejected UID again"
    assert predecessors(report_of(bench, second.result_key)) == {report_of(bench, first.result_key).SOPInstanceUID}
    assert bench.pipeline.calls == 1


def test_deleted_documents_of_an_unchanged_result_are_made_again_byte_for_byte(bench: Bench, study: Study) -> None:
    study.axial(4)
    sagittal = study.sagittal(4)
    bench.config = bench.config.model_copy(update={"peers": {"p": Peer(ae_title="P", host="127.0.0.1", port=1)}})
    bench.receive(*study.files)
    worker(bench).step(GO_ON)
    key = send_all(bench)[0].result_key
    before = bench.spool.documents(key)
    bench.spool.delete_result(key)

    bench.receive(sagittal.add_slice())
    worker(bench).step(GO_ON)

    assert bench.job(study.uid).job.state is JobState.DELIVERED
    assert bench.spool.documents(key) == before


def test_a_slice_that_comes_while_grading_takes_the_lease_and_its_result_away(bench: Bench, study: Study) -> None:
    axial = study.axial(4)
    bench.receive(*study.files)
    bench.pipeline.before = lambda: bench.receive(axial.add_slice()) and None

    worker(bench).step(GO_ON)
    assert bench.job(study.uid).results == ()
    assert bench.job(study.uid).job.state is JobState.RECEIVED

    bench.pipeline.before = lambda: None
    worker(bench).step(GO_ON)
    assert [result.revision for result in bench.job(study.uid).results] == [1]


def test_a_stop_gives_the_study_back_and_counts_no_attempt(bench: Bench, study: Study) -> None:
    study.axial(4)
    bench.receive(*study.files)
    stop = threading.Event()
    bench.pipeline.before = stop.set

    worker(bench).step(stop)

    job = bench.job(study.uid).job
    assert (job.state, job.worker, job.attempts) == (JobState.RECEIVED, None, 0)


def out_of_memory() -> None:
    raise TransientError("the GPU is out of memory")


def test_what_may_work_later_is_tried_later(bench: Bench, study: Study) -> None:
    study.axial(4)
    bench.receive(*study.files)
    bench.pipeline.before = out_of_memory

    worker(bench).step(GO_ON)

    job = bench.job(study.uid).job
    assert (job.state, job.message) == (JobState.RECEIVED, "the GPU is out of memory")
    assert job.retry_at is not None
    assert job.retry_at > datetime.now(UTC) + timedelta(seconds=600)
    assert not worker(bench).step(GO_ON)


def test_and_not_for_ever(bench: Bench, study: Study) -> None:
    study.axial(4)
    bench.receive(*study.files)
    bench.pipeline.before = out_of_memory
    impatient = bench.config.jobs.model_copy(update={"retry_base_s": 0.001})
    bench.config = bench.config.model_copy(update={"jobs": impatient})

    deadline = time.monotonic() + 20
    while bench.job(study.uid).job.state is JobState.RECEIVED and time.monotonic() < deadline:
        worker(bench).step(GO_ON)

    job = bench.job(study.uid).job
    assert job.state is JobState.FAILED
    assert bench.pipeline.calls == bench.config.jobs.max_attempts
    assert "the GPU is out of memory" in (job.message or "")


def test_what_needs_a_human_fails_at_once(bench: Bench, study: Study) -> None:
    study.axial(4)
    bench.receive(*study.files)

    def fail() -> None:
        raise PermanentError("the overview does not say DEMO")

    bench.pipeline.before = fail
    worker(bench).step(GO_ON)

    job = bench.job(study.uid).job
    assert (job.state, job.message) == (JobState.FAILED, "the overview does not say DEMO")


def test_a_bug_is_tried_again_and_its_text_is_kept_out_of_the_job(bench: Bench, study: Study) -> None:
    study.axial(4)
    bench.receive(*study.files)
    bench.pipeline.before = lambda: int("Hong^Gildong") and None

    worker(bench).step(GO_ON)

    job = bench.job(study.uid).job
    assert job.state is JobState.RECEIVED
    assert "ValueError" in (job.message or "")
    assert "Hong" not in (job.message or "")


def test_files_on_disk_are_graded_per_study_with_the_same_bytes_each_time(
    bench: Bench, study: Study, tmp_path: Path
) -> None:
    other = Study(tmp_path / "other")
    study.axial(4)
    study.sagittal(3)
    other.sagittal(3)
    created = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)
    paths = [*study.files, *other.files]

    first = grade_files(paths, bench.pipeline, bench.config, created=created)
    second = grade_files(reversed(paths), bench.pipeline, bench.config, created=created)

    assert [s.study_instance_uid for s in first] == sorted([study.uid, other.uid])
    by_uid = {s.study_instance_uid: s for s in first}
    assert by_uid[other.uid].findings is None
    assert by_uid[other.uid].documents == ()
    assert by_uid[study.uid].documents
    assert [s.documents for s in first] == [s.documents for s in second]
