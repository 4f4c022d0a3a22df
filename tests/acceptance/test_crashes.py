"""SIGKILL of each process at each step: nothing is lost, and the PACS gets exactly one report."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from stenosis_node.domain import JobState
from tests.acceptance.processes import Node, Orthanc, is_alive, send, wait_until
from tests.acceptance.studies import Study

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]
NETWORKS = False

RECEIVE = ["receive.put", "receive.committed"]
GRADE = ["grade.claimed", "grade.read", "grade.found", "grade.composed", "grade.advanced"]
DELIVER = ["deliver.claimed", "deliver.answered", "deliver.recorded", "deliver.sent", "deliver.advanced"]


@pytest.fixture(autouse=True)
def nothing_armed(node: Node) -> Iterator[None]:
    """Every failpoint a test armed was hit."""
    yield
    assert node.armed() == []


def send_until_taken(node: Node, study: Study) -> None:
    """As a PACS does: the whole study again until every instance was answered with Success."""
    wait_until(lambda: send(node.port, study.files).returncode == 0, limit_s=60, what="study sent", log=node.log)


def assert_one_result(node: Node, pacs: Orthanc, study: Study) -> None:
    node.wait_state(study.uid, JobState.DELIVERED)
    job = node.job(study.uid)
    assert job is not None
    assert job.job.n_instances == len(study.files)
    assert [r.revision for r in job.results] == [1]
    held = pacs.of_study(study.uid)
    assert len(pacs.reports(study.uid)) == 1
    # nothing but the captures of this one result
    assert held.keys() <= {document.sop_instance_uid for document in job.documents}


@pytest.mark.parametrize("steps", [RECEIVE, GRADE, DELIVER], ids=["receive", "grade", "deliver"])
def test_each_process_killed_at_each_of_its_steps(node: Node, pacs: Orthanc, tmp_path: Path, steps: list[str]) -> None:
    study = Study(tmp_path / "study")
    study.axial(4)
    study.sagittal(2)
    for step in steps:
        node.arm(step, "self")

    send_until_taken(node, study)

    assert_one_result(node, pacs, study)
    assert node.armed() == []


@pytest.mark.parametrize("step", ["receive.put", "grade.composed", "deliver.answered"])
def test_serve_killed_at_a_step_takes_its_children_along_and_goes_on_after_a_restart(
    node: Node, pacs: Orthanc, tmp_path: Path, step: str
) -> None:
    study = Study(tmp_path / "study")
    study.axial(4)
    children = [node.child_pid(role) for role in ("receive", "grade", "deliver")]
    node.arm(step, "serve")

    if step.startswith("receive"):
        send(node.port, study.files)
    else:
        send_until_taken(node, study)
    node.wait_dead()
    wait_until(lambda: not any(map(is_alive, children)), limit_s=5, what="the children end", log=node.log)
    node.start()
    send_until_taken(node, study)

    assert_one_result(node, pacs, study)


def test_children_killed_from_outside_are_started_again_and_the_node_goes_on(
    node: Node, pacs: Orthanc, tmp_path: Path
) -> None:
    before = {role: node.child_pid(role) for role in ("receive", "grade", "deliver")}
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)

    wait_until(lambda: all(node.child_pid(role) != pid for role, pid in before.items()), log=node.log)
    study = Study(tmp_path / "study")
    study.axial(4)
    send_until_taken(node, study)

    assert_one_result(node, pacs, study)
