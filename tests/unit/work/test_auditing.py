"""What grading and delivering leave in the audit stream."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree as ET

from stenosis_node.config import Peer
from stenosis_node.domain import JobState
from stenosis_node.errors import TransientError
from stenosis_node.work.deliver import DeliverWorker
from stenosis_node.work.grade import GradeWorker
from tests.acceptance.studies import PATIENT_ID, Study
from tests.conftest import free_port
from tests.unit.audit.schema import check, event_of, outcome_of, subjects_of
from tests.unit.dicom_peers import storescp
from tests.unit.work.conftest import Bench

GO_ON = threading.Event()
MR = "1.2.840.10008.5.1.4.1.1.4"


def messages(bench: Bench) -> list[ET.Element]:
    return [check(line) for line in bench.config.audit_file.read_text(encoding="utf-8").splitlines()]


def counts(message: ET.Element) -> dict[str, int]:
    return {one.attrib["UID"]: int(one.attrib["NumberOfInstances"]) for one in message.iter("SOPClass")}


def with_peer(bench: Bench, port: int) -> None:
    peer = Peer(ae_title="PACS", host="127.0.0.1", port=port, timeout_s=5, retry_base_s=0.01, max_attempts=2)
    bench.config = bench.config.model_copy(update={"peers": {"pacs": peer}})


def graded(bench: Bench, tmp_path: Path) -> Study:
    study = Study(tmp_path / "study")
    study.axial(4)
    bench.receive(*study.files)
    GradeWorker(bench.config, bench.spool, bench.store, bench.pipeline, worker="grade@test").step(GO_ON)
    return study


def deliver(bench: Bench) -> bool:
    return DeliverWorker("pacs", bench.config, bench.spool, bench.store, worker="deliver@test").step(GO_ON)


def test_images_read_and_documents_sent(bench: Bench, tmp_path: Path) -> None:
    with storescp(tmp_path / "pacs") as port:
        with_peer(bench, port)
        study = graded(bench, tmp_path)
        deliver(bench)
    job = bench.job(study.uid)
    assert job.job.state is JobState.DELIVERED

    read, begun, sent = messages(bench)

    assert [event_of(one) for one in (read, begun, sent)] == ["110103", "110102", "110104"]
    assert all(outcome_of(one) == 0 for one in (read, begun, sent))
    expected = {"Study Instance UID": study.uid, "Patient Number": PATIENT_ID}
    assert [subjects_of(one) for one in (read, begun, sent)] == [expected] * 3
    assert counts(read) == {MR: 4}
    confirmed = Counter(
        document.sop_class_uid
        for document in job.results[0].documents
        for receipt in job.deliveries[0].receipts
        if receipt.confirmed and receipt.sop_instance_uid == document.sop_instance_uid
    )
    assert counts(sent) == counts(begun) == confirmed
    we, pacs = sent.findall("ActiveParticipant")
    assert (we.attrib["UserIsRequestor"], pacs.attrib["UserID"]) == ("true", "PACS")


def test_each_failed_attempt_and_when_it_is_given_up(bench: Bench, tmp_path: Path) -> None:
    with_peer(bench, free_port())
    study = graded(bench, tmp_path)
    for _ in range(2):
        while not deliver(bench):
            time.sleep(0.02)
    assert bench.job(study.uid).job.state is JobState.FAILED

    _, *attempts = messages(bench)

    assert [event_of(one) for one in attempts] == ["110102", "110104"] * 2
    assert [outcome_of(one) for one in attempts[1::2]] == [4, 8]
    assert "refused the connection" in (attempts[1].findtext("EventIdentification/EventOutcomeDescription") or "")
    assert counts(attempts[1]) == {}


def test_grading_that_fails(bench: Bench, tmp_path: Path) -> None:
    def busy() -> None:
        raise TransientError("the card is busy")

    bench.pipeline.before = busy
    study = graded(bench, tmp_path)

    read, failed = messages(bench)

    assert [outcome_of(one) for one in (read, failed)] == [0, 4]
    assert subjects_of(failed) == {"Study Instance UID": study.uid, "Patient Number": PATIENT_ID}


def test_work_goes_on_when_nothing_can_be_recorded(bench: Bench, tmp_path: Path) -> None:
    bench.config = bench.config.model_copy(
        update={"audit": bench.config.audit.model_copy(update={"file": Path("/proc/audit.log")})}
    )
    with storescp(tmp_path / "pacs") as port:
        with_peer(bench, port)
        study = graded(bench, tmp_path)
        deliver(bench)
    assert bench.job(study.uid).job.state is JobState.DELIVERED
