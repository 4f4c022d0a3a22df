"""What an administrator does and sees: dead letters, pause, recall, revisions. Real processes throughout."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydicom import Dataset
from pynetdicom import AE, StoragePresentationContexts, evt
from pynetdicom.sop_class import Verification

from stenosis_node.domain import DeliveryState, JobState
from stenosis_node.jobs import JobDetail
from tests.acceptance.processes import SR_CLASSES, Node, Orthanc, send, wait_until
from tests.acceptance.studies import PATIENT_ID, Study
from tests.conftest import free_port, require_tool
from tests.unit.dicom_peers import running

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]

KEY_OBJECT_SELECTION = "1.2.840.10008.5.1.4.1.1.88.59"
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.fixture(scope="module")
def archive_port() -> int:
    """Of the second required peer, which refuses at first."""
    return free_port()


@pytest.fixture(scope="module")
def node(
    tmp_path_factory: pytest.TempPathFactory, shipped: Path, pacs: Orthanc, node_port: int, archive_port: int
) -> Iterator[Node]:
    """Orthanc takes rejection notes; the archive is another peer that must have everything."""
    peers = {"pacs": pacs.port, "archive": archive_port}
    server = Node(tmp_path_factory.mktemp("node"), shipped, peers=peers, port=node_port, networks=False)
    server.settings["metrics"] = {"port": free_port()}
    server.settings["peers.pacs"]["rejection_notes"] = True
    server.start()
    yield server
    assert server.stop() == 0


@contextmanager
def refusing(port: int) -> Iterator[None]:
    """A peer that answers every C-STORE with 0x0122, SOP class not supported."""
    ae = AE("PACS")
    ae.supported_contexts = StoragePresentationContexts[:120]
    ae.add_supported_context(Verification)
    for uid in SR_CLASSES:
        ae.add_supported_context(uid)
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda event: 0x0122)])
    try:
        yield
    finally:
        server.shutdown()


@contextmanager
def storing(port: int, folder: Path) -> Iterator[Path]:
    """DCMTK's storescp in its place; the folder it stores into."""
    folder.mkdir()
    command = [require_tool("storescp", "dcmtk"), "--bit-preserving", "-od", str(folder), str(port)]
    with running(command, port):
        yield folder


@pytest.fixture
def archive(archive_port: int, tmp_path: Path) -> Iterator[Path]:
    """The second peer, content with everything."""
    with storing(archive_port, tmp_path / "archive") as folder:
        yield folder


def page(node: Node, name: str) -> str:
    with _opener.open(f"http://127.0.0.1:{node.settings['metrics']['port']}{name}", timeout=10) as answer:
        return str(answer.read().decode())


def metric(node: Node, name: str, **labels: str) -> float:
    families = text_string_to_metric_families(page(node, "/metrics"))
    samples = [s for family in families for s in family.samples if s.name == f"stenosis_node_{name}"]
    return next(s.value for s in samples if labels.items() <= s.labels.items())


def status(node: Node) -> tuple[int, Any]:
    done = node.cli("status", "--json")
    return done.returncode, json.loads(done.stdout)


def deliveries(job: JobDetail | None) -> dict[str, DeliveryState]:
    assert job is not None
    return {d.peer: d.state for d in job.deliveries if d.revision == job.job.revision}


def notes(pacs: Orthanc, study: Study) -> list[Dataset]:
    return [ds for ds in pacs.of_study(study.uid).values() if ds.SOPClassUID == KEY_OBJECT_SELECTION]


def rejected(note: Dataset) -> set[str]:
    (study,) = note.CurrentRequestedProcedureEvidenceSequence
    return {ref.ReferencedSOPInstanceUID for s in study.ReferencedSeriesSequence for ref in s.ReferencedSOPSequence}


def test_a_refusal_is_seen_everywhere_and_mended_with_one_command(
    node: Node, archive_port: int, tmp_path: Path
) -> None:
    assert status(node)[0] == 0
    study = Study(tmp_path / "study")
    study.axial(4)
    with refusing(archive_port):
        assert send(node.port, study.files).returncode == 0
        job = node.wait_state(study.uid, JobState.FAILED)
        wait_until(lambda: deliveries(node.job(study.uid))["pacs"] is DeliveryState.DELIVERED, log=node.log)
    assert "archive" in (job.job.message or "")

    code, said = status(node)
    assert (code, said["healthy"], said["running"]) == (1, False, True)
    assert {problem["about"] for problem in said["problems"]} == {"jobs", "peer archive"}
    states = {peer["name"]: peer["state"] for peer in said["peers"]}
    assert states == {"pacs": "ok", "archive": "dead-letters"}
    assert metric(node, "dead_letters", peer="archive") == 1
    assert metric(node, "jobs", state="failed") == 1
    assert metric(node, "problems") == 2
    assert json.loads(page(node, "/health"))["healthy"] is False

    with storing(archive_port, tmp_path / "archive"):
        done = node.cli("retry", "--peer", "archive", "--json")
        assert json.loads(done.stdout) == {"peer": "archive", "retried": 1, "paused": False}
        job = node.wait_state(study.uid, JobState.DELIVERED)
    assert [event.kind for event in job.events].count("graded") == 1
    assert status(node)[0] == 0
    assert metric(node, "dead_letters", peer="archive") == metric(node, "problems") == 0


def test_nothing_is_sent_to_a_paused_peer_until_it_is_resumed_whatever_restarts(
    node: Node, pacs: Orthanc, archive: Path, tmp_path: Path
) -> None:
    assert node.cli("pause", "pacs", "--why", "upgrade").returncode == 0
    study = Study(tmp_path / "study")
    study.axial(4)
    assert send(node.port, study.files).returncode == 0
    done = {"pacs": DeliveryState.PENDING, "archive": DeliveryState.DELIVERED}
    wait_until(lambda: (job := node.job(study.uid)) and deliveries(job) == done, log=node.log)
    assert node.stop() == 0
    node.start()
    time.sleep(2)

    assert pacs.reports(study.uid) == []
    assert status(node)[0] == 0
    assert metric(node, "peer_paused", peer="pacs") == metric(node, "deliveries_pending", peer="pacs") == 1
    assert "upgrade" in node.cli("peers").stdout

    assert node.cli("resume", "pacs").returncode == 0
    node.wait_state(study.uid, JobState.DELIVERED)
    assert len(pacs.reports(study.uid)) == 1
    assert metric(node, "peer_paused", peer="pacs") == 0


def happened(node: Node, study: Study) -> list[str]:
    job = node.job(study.uid)
    return [] if job is None else [str(event.kind) for event in job.events]


def test_a_recall_withdraws_exactly_what_each_peer_has_and_only_retry_makes_a_new_revision(
    node: Node, pacs: Orthanc, archive: Path, tmp_path: Path
) -> None:
    study = Study(tmp_path / "study")
    study.axial(4)
    assert send(node.port, study.files).returncode == 0
    node.wait_state(study.uid, JobState.DELIVERED)
    ours = set(pacs.of_study(study.uid))

    dry = json.loads(node.cli("recall", "--job", study.uid, "--dry-run", "--json").stdout)
    assert {one["peer"]: one["means"] for one in dry["withdrawals"]} == {"pacs": "rejection-note", "archive": "by-hand"}
    assert set(pacs.of_study(study.uid)) == ours

    done = node.cli("recall", "--job", study.uid, "--why", "left and right are mixed up", "--yes")
    assert done.returncode == 0, done.stderr
    (note,) = wait_until(lambda: notes(pacs, study), log=node.log, what="the note arrives")
    assert rejected(note) == ours
    assert note.ConceptNameCodeSequence[0].CodeValue == "113037"
    assert (note.PatientID, note.StudyInstanceUID) == (PATIENT_ID, study.uid)

    wait_until(lambda: metric(node, "withdrawals_pending", peer="pacs") == 0, log=node.log)
    job = node.job(study.uid)
    assert job is not None
    assert {w.peer: w.state for w in job.withdrawals} == {"pacs": "delivered", "archive": "by-hand"}
    assert job.job.state is JobState.CANCELLED
    text = node.cli("job", study.uid).stdout
    assert "recalled: left and right are mixed up" in text
    held = next(w for w in job.withdrawals if w.peer == "archive").sop_instance_uids
    assert len(held) == len(list(archive.iterdir()))
    assert all(f"  {uid}\n" in text for uid in held)

    arrived = set(pacs.of_study(study.uid))
    assert send(node.port, study.sagittal(1).paths).returncode == 0
    wait_until(lambda: "unchanged" in happened(node, study), log=node.log, what="the study is graded once more")
    assert node.wait_state(study.uid, JobState.CANCELLED).job.revision == 1
    assert set(pacs.of_study(study.uid)) == arrived

    again = node.cli("retry", study.uid)
    assert (again.returncode, "as a new revision" in again.stderr) == (0, True)
    assert node.wait_state(study.uid, JobState.DELIVERED).job.revision == 2
    new = set(pacs.of_study(study.uid)) - arrived
    assert new
    assert not new & ours
    assert status(node)[0] == 0


def test_a_revision_withdraws_its_predecessor_where_notes_are_taken(
    node: Node, pacs: Orthanc, archive: Path, tmp_path: Path
) -> None:
    study = Study(tmp_path / "study")
    axial = study.axial(4)
    assert send(node.port, study.files).returncode == 0
    node.wait_state(study.uid, JobState.DELIVERED)
    first = set(pacs.of_study(study.uid))

    assert send(node.port, [axial.add_slice()]).returncode == 0
    (note,) = wait_until(lambda: notes(pacs, study), log=node.log, what="the note arrives")

    assert rejected(note) == first
    texts = [item.TextValue for item in note.ContentSequence if "TextValue" in item]
    assert "Superseded by revision 2" in texts
    job = node.wait_state(study.uid, JobState.DELIVERED)
    assert [(w.peer, w.revision) for w in job.withdrawals] == [("pacs", 1)]
    latest = [ds for ds in pacs.reports(study.uid) if ds.SOPInstanceUID not in first]
    assert "REVISION 2, supersedes" in latest[0].SeriesDescription
    assert status(node)[0] == 0
