"""What goes wrong around the node: poisonous studies, dead peers, stop and start."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stenosis_node.domain import DeliveryState, JobState
from tests.acceptance.processes import Node, Orthanc, is_alive, send, wait_until
from tests.acceptance.studies import Study
from tests.conftest import free_port

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, shipped: Path, pacs: Orthanc, node_port: int) -> Iterator[Node]:
    """Three attempts, a tight time limit, and beside the PACS a peer that nobody ever answers for."""
    folder = tmp_path_factory.mktemp("node")
    server = Node(folder, shipped, peers={"pacs": pacs.port, "dead": free_port()}, port=node_port, networks=False)
    server.settings["jobs"] |= {"max_attempts": 3, "grade_limit_s": 8.0}
    server.settings["peers.dead"] |= {"required": False}
    server.restart_soon()
    server.start()
    yield server
    assert server.stop() == 0


def test_a_study_that_kills_the_grading_process_fails_after_three_attempts(node: Node, tmp_path: Path) -> None:
    study = Study(tmp_path / "study")
    study.axial(4)
    node.arm("grade.read", "self 3")
    assert send(node.port, study.files).returncode == 0

    job = node.wait_state(study.uid, JobState.FAILED)

    assert "died 3 times" in (job.job.message or "")
    assert node.armed() == []


def test_a_hanging_grading_process_is_ended_at_its_time_limit_and_the_study_tried_again(
    node: Node, pacs: Orthanc, tmp_path: Path
) -> None:
    study = Study(tmp_path / "study")
    study.axial(4)
    node.arm("grade.read", "hang")
    assert send(node.port, study.files).returncode == 0

    job = node.wait_state(study.uid, JobState.DELIVERED)

    assert "worker-died" in [event.kind for event in job.events]
    assert len(pacs.reports(study.uid)) == 1


def test_a_pacs_that_is_down_gets_the_report_when_it_is_up_and_nothing_is_graded_twice(
    node: Node, pacs: Orthanc, tmp_path: Path
) -> None:
    study = Study(tmp_path / "study")
    study.axial(4)
    pacs.stop()
    try:
        assert send(node.port, study.files).returncode == 0
        node.wait_state(study.uid, JobState.GRADED)
        tried = wait_until(lambda: [d for d in node.job(study.uid).deliveries if d.peer == "pacs" and d.attempts > 1])  # type: ignore[union-attr]
        assert "refused the connection" in tried[0].message
        assert node.stop() == 0
        node.start()
    finally:
        pacs.start()

    job = node.wait_state(study.uid, JobState.DELIVERED)

    assert len(pacs.reports(study.uid)) == 1
    assert [e.kind for e in job.events].count("graded") == 1


def test_a_dead_peer_holds_up_no_other(node: Node, pacs: Orthanc, tmp_path: Path) -> None:
    study = Study(tmp_path / "study")
    study.axial(4)
    assert send(node.port, study.files).returncode == 0

    job = node.wait_state(study.uid, JobState.DELIVERED)

    assert len(pacs.reports(study.uid)) == 1
    states = {d.peer: d.state for d in job.deliveries}
    assert states == {"pacs": DeliveryState.DELIVERED, "dead": DeliveryState.PENDING}


def test_sigterm_during_grading_gives_the_study_back_and_ends_in_seconds(
    node: Node, bundle: Path, pacs: Orthanc, tmp_path: Path
) -> None:
    assert node.stop() == 0
    node.networks = True
    node.settings["grading"]["bundle"] = str(bundle)
    node.settings["jobs"]["grade_limit_s"] = 60.0
    node.start()
    study = Study(tmp_path / "study")
    study.axial(12)
    assert send(node.port, study.files).returncode == 0
    wait_until(lambda: [e for e in node.job(study.uid).events if e.kind == "claimed"], log=node.log)  # type: ignore[union-attr]
    children = [node.child_pid(role) for role in ("receive", "grade", "deliver")]

    begin = time.monotonic()
    assert node.stop() == 0
    assert time.monotonic() - begin < 12
    assert not any(map(is_alive, children))
    given_back = node.job(study.uid)
    assert given_back is not None
    assert given_back.job.state is JobState.RECEIVED
    assert "graded" not in [event.kind for event in given_back.events]

    node.start()
    node.wait_state(study.uid, JobState.DELIVERED)
    assert len(pacs.reports(study.uid)) == 1
