"""Delivered for sure, through real processes: an archive that calls back with its commitment, STOW-RS, pause."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from stenosis_node.domain import DeliveryState, JobState
from stenosis_node.jobs import JobDetail
from tests.acceptance.processes import Node, Orthanc, send, wait_until
from tests.acceptance.studies import Study
from tests.conftest import free_port

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(300)]

DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


class WebServer(Orthanc):
    """Orthanc with its DICOMweb plugin."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, free_port())
        settings = json.loads(self._settings.read_text())
        settings |= {"Plugins": [str(DICOMWEB)], "DicomWeb": {"Enable": True, "Root": "/dicom-web/"}}
        self._settings.write_text(json.dumps(settings))


def lose(pacs: Orthanc, sop_instance_uid: str) -> None:
    """Delete an instance behind everybody's back."""
    root = f"http://127.0.0.1:{pacs.http_port}"
    with urllib.request.urlopen(f"{root}/tools/lookup", data=sop_instance_uid.encode(), timeout=10) as answer:
        (found,) = json.loads(answer.read())
    request = urllib.request.Request(f"{root}{found['Path']}", method="DELETE")
    urllib.request.urlopen(request, timeout=10).close()


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """A DICOMweb server."""
    if not DICOMWEB.exists():
        pytest.skip("the DICOMweb plugin of Orthanc is not installed (Debian package orthanc-dicomweb)")
    server = WebServer(tmp_path_factory.mktemp("web") / "orthanc")
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def node(
    tmp_path_factory: pytest.TempPathFactory, shipped: Path, pacs: Orthanc, web: Orthanc, node_port: int
) -> Iterator[Node]:
    """A node that wants commitment from the PACS, and sends to a DICOMweb server and to a dead peer too."""
    server = Node(
        tmp_path_factory.mktemp("node"),
        shipped,
        peers={"pacs": pacs.port, "dead": free_port()},
        port=node_port,
        networks=False,
    )
    server.settings["peers.pacs"] |= {"commitment": True, "commitment_wait_s": 2.0}
    server.settings["peers.dead"] |= {"required": False, "max_attempts": 2}
    server.settings["peers.web"] = {
        "protocol": "dicomweb", "url": f"http://127.0.0.1:{web.http_port}/dicom-web",
        "timeout_s": 5.0, "retry_base_s": 0.3, "retry_cap_s": 1.0,
    }  # fmt: skip
    server.start()
    yield server
    assert server.stop() == 0


def states(job: JobDetail | None) -> dict[str, DeliveryState]:
    return {} if job is None else {one.peer: one.state for one in job.deliveries}


def test_delivered_and_committed_to_the_pacs_and_stored_by_the_web_server(
    node: Node, pacs: Orthanc, web: Orthanc, tmp_path: Path
) -> None:
    study = Study(tmp_path / "study")
    study.axial(4)
    assert send(node.port, study.files).returncode == 0

    job = node.wait_state(study.uid, JobState.DELIVERED)

    told = [event.sentence for event in job.events]
    assert any(sentence.startswith("delivered and committed: pacs") for sentence in told), told
    (committed,) = [one for one in job.deliveries if one.peer == "pacs"]
    assert committed.committed_at is not None
    assert all(receipt.committed_at for receipt in committed.receipts)
    held = pacs.files_of_study(study.uid)
    assert set(held) == {receipt.sop_instance_uid for receipt in committed.receipts}
    assert len(pacs.reports(study.uid)) == 1
    assert set(web.files_of_study(study.uid)) == set(held)
    wait_until(lambda: states(node.job(study.uid))["dead"] is DeliveryState.FAILED, limit_s=20, log=node.log)


def test_what_the_archive_lost_before_it_was_asked_is_sent_again(node: Node, pacs: Orthanc, tmp_path: Path) -> None:
    """The delivering process dies before its request leaves; meanwhile the archive loses a capture."""
    study = Study(tmp_path / "study")
    study.axial(4)
    node.arm("commitment.written")
    assert send(node.port, study.files).returncode == 0
    wait_until(lambda: node.armed() == [], limit_s=60, log=node.log)
    held = set(pacs.files_of_study(study.uid))
    lost = next(iter(pacs.captures(study.uid))).SOPInstanceUID

    lose(pacs, lost)

    job = node.wait_state(study.uid, JobState.DELIVERED, limit_s=60)
    assert "not-committed" in [event.kind for event in job.events]
    assert set(pacs.files_of_study(study.uid)) == held


def test_a_paused_peer_is_not_served_until_it_is_resumed(node: Node, pacs: Orthanc, tmp_path: Path) -> None:
    paused = node.cli("pause", "pacs", "--why", "maintenance")
    assert paused.returncode == 0, paused.stderr
    study = Study(tmp_path / "study")
    study.axial(4)
    assert send(node.port, study.files).returncode == 0
    wait_until(lambda: states(node.job(study.uid)).get("web") is DeliveryState.DELIVERED, limit_s=60, log=node.log)
    assert pacs.files_of_study(study.uid) == {}
    assert states(node.job(study.uid))["pacs"] is DeliveryState.PENDING

    assert node.cli("resume", "pacs").returncode == 0

    node.wait_state(study.uid, JobState.DELIVERED, limit_s=60)
    assert len(pacs.reports(study.uid)) == 1


def test_what_probe_says_of_them(node: Node) -> None:
    pacs, web, dead = (node.cli("probe", name, "--json") for name in ("pacs", "web", "dead"))
    taken = {one["name"] for one in json.loads(pacs.stdout)["accepted"]}
    assert "Storage Commitment Push Model SOP Class" in taken
    assert json.loads(web.stdout)["echo_ok"] is True
    assert dead.returncode == 4
