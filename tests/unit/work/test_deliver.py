from __future__ import annotations

import threading
from pathlib import Path

import pytest
from pydicom import dcmread

from stenosis_node.config import Peer
from stenosis_node.domain import DeliveryState, Document, DocumentKind, JobState
from stenosis_node.work.deliver import DeliverWorker, documents_for
from stenosis_node.work.grade import GradeWorker
from tests.acceptance.studies import Study
from tests.conftest import free_port
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


def with_peer(bench: Bench, port: int) -> None:
    peer = Peer(ae_title="PACS", host="127.0.0.1", port=port, timeout_s=5, retry_base_s=1000, max_attempts=2)
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


def test_documents_that_are_gone_need_a_human(bench: Bench, tmp_path: Path) -> None:
    with_peer(bench, free_port())
    study = graded(bench, tmp_path)
    bench.spool.delete_result(bench.job(study.uid).results[0].result_key)

    worker(bench).step(GO_ON)

    job = bench.job(study.uid)
    assert job.job.state is JobState.FAILED
    assert "gone" in (job.job.message or "")
