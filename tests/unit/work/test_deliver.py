from __future__ import annotations

import socket
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
)

from stenosis_node.config import Peer
from stenosis_node.domain import DeliveryState, Document, DocumentKind, JobState
from stenosis_node.work import recall
from stenosis_node.work.deliver import DeliverWorker, deliver_to_all, documents_for
from stenosis_node.work.grade import GradeWorker
from tests.acceptance.studies import Study
from tests.conftest import free_port
from tests.unit.deliver.committer import Committer, committing, report
from tests.unit.dicom_peers import storescp
from tests.unit.work.conftest import Bench

GO_ON = threading.Event()


def document(kind: DocumentKind, name: str, *, key: bool = False) -> Document:
    return Document(
        kind=kind,
        sop_class_uid="1.2",
        sop_instance_uid=name,
        series_instance_uid="1.3",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        content=b"",
        key=key,
    )


DOCUMENTS = (
    document(DocumentKind.SR, "report"),
    document(DocumentKind.SC_OVERVIEW, "overview", key=True),
    document(DocumentKind.SC, "plain"),
    document(DocumentKind.SC, "worst", key=True),
)


@pytest.mark.parametrize(
    ("captures", "expected"),
    [
        ("none", ["report"]),
        ("overview", ["overview", "report"]),
        ("key", ["overview", "worst", "report"]),
        ("all", ["overview", "plain", "worst", "report"]),
    ],
)
def test_a_peer_gets_the_captures_it_asks_for_and_the_report_last(captures: str, expected: list[str]) -> None:
    peer = Peer.model_validate({"ae_title": "PACS", "host": "localhost", "port": 104, "captures": captures})

    assert [d.sop_instance_uid for d in documents_for(DOCUMENTS, peer)] == expected


@pytest.mark.parametrize(("wanted", "expected"), [(False, ["report"]), (True, ["boxes", "report"])])
def test_presentation_states_go_to_peers_that_ask_for_them(wanted: bool, expected: list[str]) -> None:
    peer = Peer(ae_title="PACS", host="localhost", port=104, captures="none", presentation_states=wanted)
    documents = (*DOCUMENTS, document(DocumentKind.GSPS, "boxes"))

    assert [d.sop_instance_uid for d in documents_for(documents, peer)] == expected


def with_peer(bench: Bench, port: int, **settings: Any) -> None:
    wanted = {"ae_title": "PACS", "timeout_s": 5, "retry_base_s": 1000, "max_attempts": 2, **settings}
    peer = Peer.model_validate({"host": "127.0.0.1", "port": port, **wanted})
    bench.config = bench.config.model_copy(update={"peers": {"pacs": peer}})


def graded(bench: Bench, tmp_path: Path) -> Study:
    study = Study(tmp_path / "study")
    study.axial(4)
    bench.receive(*study.files)
    GradeWorker(bench.config, bench.spool, bench.store, bench.pipeline, worker="grade@test").step(GO_ON)
    assert bench.job(study.uid).job.state is JobState.GRADED
    return study


def worker(bench: Bench) -> DeliverWorker:
    return DeliverWorker("pacs", bench.config, bench.spool, bench.store, worker="deliver@test")


def test_a_graded_study_is_sent_and_every_answer_is_kept(bench: Bench, tmp_path: Path) -> None:
    with storescp(tmp_path / "pacs") as port:
        with_peer(bench, port)
        study = graded(bench, tmp_path)

        assert worker(bench).step(GO_ON)

        assert not worker(bench).step(GO_ON)
    job = bench.job(study.uid)
    arrived = {dcmread(path).SOPInstanceUID for path in (tmp_path / "pacs").iterdir()}
    assert job.job.state is JobState.DELIVERED
    assert {receipt.sop_instance_uid for receipt in job.deliveries[0].receipts if receipt.confirmed} == arrived
    assert len(arrived) >= 2


def test_nobody_listening_is_tried_later_and_given_up_in_the_end(bench: Bench, tmp_path: Path) -> None:
    with_peer(bench, free_port())
    study = graded(bench, tmp_path)

    assert worker(bench).step(GO_ON)

    delivery = bench.job(study.uid).deliveries[0]
    assert (delivery.state, delivery.attempts) == (DeliveryState.PENDING, 1)
    assert not worker(bench).step(GO_ON)


def test_documents_that_are_gone_are_made_again_byte_for_byte_and_sent(bench: Bench, tmp_path: Path) -> None:
    with_peer(bench, free_port())
    study = graded(bench, tmp_path)
    (result,) = bench.job(study.uid).results
    made = bench.spool.documents(result.result_key)
    bench.spool.delete_result(result.result_key)

    worker(bench).step(GO_ON)

    assert bench.job(study.uid).job.state is JobState.RECEIVED
    GradeWorker(bench.config, bench.spool, bench.store, bench.pipeline, worker="grader").step(GO_ON)
    job = bench.job(study.uid)
    assert (job.job.state, [r.revision for r in job.results]) == (JobState.GRADED, [1])
    assert bench.spool.documents(result.result_key) == made
    (delivery,) = job.deliveries
    assert (delivery.state, delivery.attempts) == (DeliveryState.PENDING, 1)


def test_documents_and_images_that_are_gone_need_a_human(bench: Bench, tmp_path: Path) -> None:
    with_peer(bench, free_port())
    study = graded(bench, tmp_path)
    bench.spool.delete_result(bench.job(study.uid).results[0].result_key)
    with sqlite3.connect(bench.config.spool / "jobs.db") as connection:
        connection.execute("UPDATE job SET purged_at = '2026-01-01 00:00:00.000000'")

    worker(bench).step(GO_ON)

    job = bench.job(study.uid)
    assert job.job.state is JobState.FAILED
    assert "is gone from the spool: put it back from a backup" in (job.job.message or "")


# ------------------------------------------------------------------- an archive of our own

OURS = (SecondaryCaptureImageStorage, Comprehensive3DSRStorage)
QUICK = {"ae_title": "ARCHIVE", "retry_base_s": 0.05, "retry_cap_s": 0.05}


def steps(bench: Bench, enough: Callable[[], object], limit_s: float = 8) -> None:
    """Errand after errand until it is enough."""
    deadline = time.monotonic() + limit_s
    while not enough():
        assert time.monotonic() < deadline, bench.store.list_jobs()
        if not worker(bench).step(GO_ON):
            time.sleep(0.02)


def state(bench: Bench, study: Study) -> DeliveryState:
    return bench.job(study.uid).deliveries[-1].state


def commit(archive: Committer, without: Callable[[], set[str]] = set) -> None:
    """The archive reports on the same association, about all it was asked for but some."""

    def answer(association: Any, transaction: str) -> None:
        asked = {item.ReferencedSOPInstanceUID for item in archive.asked[-1].ReferencedSOPSequence}
        lost = asked & without()
        failed = dict.fromkeys(lost, 0x0112)
        archive.tell(association, report(transaction, asked - lost, failed), kind=2 if failed else 1)

    archive.after_response = answer


def test_delivered_is_what_the_archive_committed_to(bench: Bench, tmp_path: Path) -> None:
    with committing(*OURS) as archive:
        commit(archive)
        with_peer(bench, archive.port, commitment=True, **QUICK)
        study = graded(bench, tmp_path)
        worker(bench).step(GO_ON)
        assert (state(bench, study), bench.job(study.uid).job.state) == (DeliveryState.SENT, JobState.GRADED)
        worker(bench).step(GO_ON)
    job = bench.job(study.uid)
    assert job.job.state is JobState.DELIVERED
    assert job.deliveries[0].committed_at is not None
    asked = [(i.ReferencedSOPClassUID, i.ReferencedSOPInstanceUID) for i in archive.asked[0].ReferencedSOPSequence]
    assert {uid for _, uid in asked} == set(archive.stored)
    assert {sop_class for sop_class, _ in asked} == set(OURS)


def test_what_the_archive_lost_is_sent_again_and_nothing_else(bench: Bench, tmp_path: Path) -> None:
    with committing(*OURS) as archive:
        commit(archive, without=lambda: {archive.stored[-1]} if len(archive.asked) == 1 else set())
        with_peer(bench, archive.port, commitment=True, **QUICK)
        study = graded(bench, tmp_path)
        steps(bench, lambda: state(bench, study) is DeliveryState.DELIVERED)
    assert len(archive.asked) == 2
    assert archive.stored[-1] == archive.stored[-2]
    assert len(set(archive.stored)) == len(archive.stored) - 1
    again = [item.ReferencedSOPInstanceUID for item in archive.asked[1].ReferencedSOPSequence]
    assert again == [archive.stored[-1]]


def test_an_archive_that_never_reports_is_asked_again_and_given_up_in_the_end(bench: Bench, tmp_path: Path) -> None:
    with committing(*OURS) as archive:
        archive.after_response = lambda association, transaction: association.release()
        with_peer(bench, archive.port, commitment=True, commitment_wait_s=0.1, **QUICK)
        study = graded(bench, tmp_path)
        steps(bench, lambda: state(bench, study) is DeliveryState.FAILED)
    job = bench.job(study.uid)
    assert "asked 2 times and has not answered" in (job.job.message or "")
    assert len({asked.TransactionUID for asked in archive.asked}) == len(archive.asked) == 2
    late = [item.ReferencedSOPInstanceUID for item in archive.asked[0].ReferencedSOPSequence]
    bench.store.record_commitment(archive.asked[0].TransactionUID, committed=late, failed={})
    assert bench.job(study.uid).job.state is JobState.DELIVERED


def test_the_receiving_process_may_be_faster(bench: Bench, tmp_path: Path) -> None:
    """The report came over another association while we waited on ours."""
    with committing(*OURS) as archive:

        def elsewhere(association: Any, transaction: str) -> None:
            asked = [item.ReferencedSOPInstanceUID for item in archive.asked[-1].ReferencedSOPSequence]
            bench.store.record_commitment(transaction, committed=asked, failed={})
            association.release()

        archive.after_response = elsewhere
        with_peer(bench, archive.port, commitment=True, **QUICK)
        study = graded(bench, tmp_path)
        worker(bench).step(GO_ON)
        worker(bench).step(GO_ON)
    job = bench.job(study.uid)
    assert job.job.state is JobState.DELIVERED
    assert not worker(bench).step(GO_ON)


def test_a_peer_without_storage_commitment_needs_a_human(bench: Bench, tmp_path: Path) -> None:
    with storescp(tmp_path / "pacs") as port:
        with_peer(bench, port, commitment=True)
        study = graded(bench, tmp_path)
        worker(bench).step(GO_ON)
        worker(bench).step(GO_ON)
        job = bench.job(study.uid)
        assert "set commitment = false" in (job.job.message or "")
        arrived = len(list((tmp_path / "pacs").iterdir()))

        with_peer(bench, port)
        bench.store.retry(job.job.id)
        worker(bench).step(GO_ON)
    assert bench.job(study.uid).job.state is JobState.DELIVERED
    assert len(list((tmp_path / "pacs").iterdir())) == arrived


def test_commitment_that_is_switched_off_meanwhile(bench: Bench, tmp_path: Path) -> None:
    with committing(*OURS) as archive:
        with_peer(bench, archive.port, commitment=True, **QUICK)
        study = graded(bench, tmp_path)
        worker(bench).step(GO_ON)
        with_peer(bench, archive.port, **QUICK)
        worker(bench).step(GO_ON)
        assert "switched off" in (bench.job(study.uid).job.message or "")
        bench.store.retry_peer("pacs")
        worker(bench).step(GO_ON)
    assert archive.asked == []
    assert bench.job(study.uid).job.state is JobState.DELIVERED


def test_an_archive_that_is_down_costs_commitment_an_attempt_each_time(bench: Bench, tmp_path: Path) -> None:
    with committing(*OURS) as archive:
        with_peer(bench, archive.port, commitment=True, **QUICK)
        study = graded(bench, tmp_path)
        worker(bench).step(GO_ON)
    steps(bench, lambda: state(bench, study) is DeliveryState.FAILED)
    assert "given up after 2 attempts" in (bench.job(study.uid).job.message or "")


def test_out_of_resources_then_well(bench: Bench, tmp_path: Path) -> None:
    with committing(*OURS) as archive:
        archive.answer = lambda uid: 0xA700 if len(archive.stored) == 2 else 0xB000
        with_peer(bench, archive.port, **QUICK)
        study = graded(bench, tmp_path)
        steps(bench, lambda: state(bench, study) is DeliveryState.DELIVERED)
    assert archive.stored[1] == archive.stored[2]
    assert len(set(archive.stored)) == len(archive.stored) - 1
    assert {r.status for r in bench.job(study.uid).deliveries[0].receipts} == {0xB000}


def test_a_pause_takes_effect_after_the_document_being_sent(bench: Bench, tmp_path: Path) -> None:
    def pause(uid: str) -> int:
        if len(archive.stored) == 1:
            bench.store.pause_peer("pacs", why="archive is being moved")
        return 0

    with committing(*OURS) as archive:
        archive.answer = pause
        with_peer(bench, archive.port, **QUICK)
        study = graded(bench, tmp_path)
        assert worker(bench).step(GO_ON)
        delivery = bench.job(study.uid).deliveries[0]
        assert (len(archive.stored), delivery.state, delivery.attempts) == (1, DeliveryState.PENDING, 0)
        assert not worker(bench).step(GO_ON)
        bench.store.resume_peer("pacs")
        assert worker(bench).step(GO_ON)
    assert state(bench, study) is DeliveryState.DELIVERED
    assert len(archive.stored) == len(set(archive.stored))


def test_the_report_class_a_peer_took_is_remembered(bench: Bench, tmp_path: Path) -> None:
    with committing(SecondaryCaptureImageStorage, ComprehensiveSRStorage) as archive:
        with_peer(bench, archive.port, **QUICK)
        study = graded(bench, tmp_path)
        worker(bench).step(GO_ON)
        assert state(bench, study) is DeliveryState.DELIVERED
    known = bench.store.capability("pacs")
    assert known is not None
    assert known.report_class == ComprehensiveSRStorage


def sent_classes(bench: Bench, study: Study, archive: Committer) -> list[str]:
    """SOP class of everything that arrived, in order; a rejection note is what no result lists."""
    job = bench.job(study.uid)
    known = {row.sop_instance_uid: row.sop_class_uid for result in job.results for row in result.documents}
    return [known.get(uid, "note") for uid in archive.stored]


def withdraw(bench: Bench, study: Study) -> None:
    targets = bench.store.recallable(job_id=bench.job(study.uid).job.id)
    planned = recall.plan(targets, bench.config, bench.spool)
    recall.recall(planned, why="wrong patient", config=bench.config, spool=bench.spool, store=bench.store)


def test_a_recalled_result_is_withdrawn_by_a_note(bench: Bench, tmp_path: Path) -> None:
    with committing(*OURS, KeyObjectSelectionDocumentStorage) as archive:
        with_peer(bench, archive.port, rejection_notes=True, **QUICK)
        study = graded(bench, tmp_path)
        worker(bench).step(GO_ON)
        withdraw(bench, study)
        assert worker(bench).step(GO_ON)
        assert not worker(bench).step(GO_ON)
    assert sent_classes(bench, study, archive)[-2:] == [Comprehensive3DSRStorage, "note"]
    (withdrawal,) = bench.job(study.uid).withdrawals
    assert withdrawal.state == "delivered"


def test_a_peer_that_refuses_the_note_or_is_away(bench: Bench, tmp_path: Path) -> None:
    with committing(*OURS) as archive:
        with_peer(bench, archive.port, rejection_notes=True, **QUICK)
        study = graded(bench, tmp_path)
        worker(bench).step(GO_ON)
        withdraw(bench, study)
        worker(bench).step(GO_ON)
        (withdrawal,) = bench.job(study.uid).withdrawals
        assert withdrawal.state == "failed"
        assert "Key Object Selection" in (withdrawal.message or "")
        bench.store.retry_peer("pacs")
    worker(bench).step(GO_ON)
    (withdrawal,) = bench.job(study.uid).withdrawals
    assert (withdrawal.state, withdrawal.attempts) == ("pending", 1)


def test_a_revision_arrives_before_its_predecessor_is_withdrawn(bench: Bench, tmp_path: Path) -> None:
    with committing(*OURS, KeyObjectSelectionDocumentStorage) as archive:
        with_peer(bench, archive.port, rejection_notes=True, **QUICK)
        study = Study(tmp_path / "study")
        slices = study.axial(4)
        bench.receive(*study.files)
        GradeWorker(bench.config, bench.spool, bench.store, bench.pipeline, worker="grade@test").step(GO_ON)
        steps(bench, lambda: state(bench, study) is DeliveryState.DELIVERED)
        n_before = len(archive.stored)
        bench.receive(slices.add_slice())
        GradeWorker(bench.config, bench.spool, bench.store, bench.pipeline, worker="grade@test").step(GO_ON)
        steps(bench, lambda: not worker(bench).step(GO_ON))
    job = bench.job(study.uid)
    assert [result.revision for result in job.results] == [1, 2]
    arrived = sent_classes(bench, study, archive)[n_before:]
    assert arrived.index("note") == len(arrived) - 1
    assert arrived[-2] == Comprehensive3DSRStorage
    assert [one.reason for one in job.withdrawals] == ["superseded"]


def test_peers_without_results_have_no_worker_and_a_dead_one_ends_them_all(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"ae_title": "A", "host": "127.0.0.1", "port": free_port()}
    peers = {"gets": Peer.model_validate(settings), "asked": Peer.model_validate({**settings, "results": False})}
    config = bench.config.model_copy(update={"peers": peers})
    stop = threading.Event()
    running = threading.Thread(
        target=deliver_to_all, args=(config, bench.spool, bench.store, stop), kwargs={"worker": "w"}
    )
    running.start()
    time.sleep(0.2)
    names = {thread.name for thread in threading.enumerate()}
    stop.set()
    running.join(5)
    assert "gets" in names
    assert "asked" not in names

    def die(self: DeliverWorker, stop: threading.Event) -> None:
        return

    monkeypatch.setattr(DeliverWorker, "run", die)
    with pytest.raises(RuntimeError, match="ended unexpectedly"):
        deliver_to_all(config, bench.spool, bench.store, threading.Event(), worker="w")


def test_one_dead_peer_holds_up_no_other(bench: Bench, tmp_path: Path) -> None:
    """The other queue is served while one waits for a peer that takes the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent, committing(*OURS) as archive:
        with_peer(bench, archive.port, **QUICK)
        dead = Peer(ae_title="DEAD", host="127.0.0.1", port=silent.getsockname()[1], timeout_s=2)
        bench.config = bench.config.model_copy(update={"peers": {"dead": dead, **bench.config.peers}})
        study = graded(bench, tmp_path)
        stop = threading.Event()
        running = threading.Thread(
            target=deliver_to_all, args=(bench.config, bench.spool, bench.store, stop), kwargs={"worker": "w"}
        )
        running.start()
        deadline = time.monotonic() + 1.8
        states: dict[str, DeliveryState] = {}
        while time.monotonic() < deadline and states.get("pacs") is not DeliveryState.DELIVERED:
            states = {one.peer: one.state for one in bench.job(study.uid).deliveries}
            time.sleep(0.05)
        stop.set()
        running.join(10)
    assert states == {"pacs": DeliveryState.DELIVERED, "dead": DeliveryState.PENDING}
