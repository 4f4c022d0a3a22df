"""A real PACS that routes only part of a study, and one that is asked for a study nobody routed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from stenosis_node.domain import JobState
from stenosis_node.jobs import JobDetail
from tests.acceptance.processes import Node, Orthanc, send, wait_until
from tests.acceptance.studies import PATIENT_ID, PATIENT_NAME, Study
from tests.conftest import free_port

Ran = subprocess.CompletedProcess[str]

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, shipped: Path, pacs: Orthanc, node_port: int) -> Iterator[Node]:
    """A node that delivers to the PACS and asks it; and a peer that is away."""
    server = Node(tmp_path_factory.mktemp("node"), shipped, peers={"pacs": pacs.port}, port=node_port, networks=False)
    server.settings["peers.pacs"]["query"] = "get"
    server.settings["peers.gone"] = {
        "ae_title": "GONE", "host": "127.0.0.1", "port": free_port(), "query": "get", "results": False,
        "required": False, "timeout_s": 1.0,
    }  # fmt: skip
    server.start()
    yield server
    assert server.stop() == 0


def in_pacs(study: Study, pacs: Orthanc) -> Study:
    assert send(pacs.port, study.files, called="PACS").returncode == 0
    return study


def uids(paths: list[Path]) -> list[str]:
    return [dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in paths]


def because(job: JobDetail) -> str:
    """Without the first part, which holds a time."""
    quiet, _, rest = (job.job.complete_because or "").partition("; ")
    assert quiet.startswith("quiet for ")
    return rest


@pytest.fixture(scope="module")
def partial(node: Node, pacs: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Three of five axial slices are routed, and the study is delivered."""
    study = Study(tmp_path_factory.mktemp("partial") / "study")
    axial, sagittal = study.axial(5), study.sagittal(3)
    in_pacs(study, pacs)
    pacs.route(study.uid, only=uids(axial.paths[:3] + sagittal.paths))
    node.wait_state(study.uid, JobState.DELIVERED)
    return study


def test_a_gap_is_fetched_and_there_is_exactly_one_report(partial: Study, node: Node, pacs: Orthanc) -> None:
    job = node.job(partial.uid)
    assert job is not None

    assert because(job) == "fetched 2 of 2 missing instances from pacs, which knows 8"
    assert job.job.n_instances == 8
    assert len(job.results) == 1
    (report,) = pacs.reports(partial.uid)
    for uid in uids(partial.files[-5:]):
        assert uid in report.to_json()
    claimed = [e.kind for e in job.events if e.kind in ("check-postponed", "complete", "claimed")]
    assert claimed == ["check-postponed", "complete", "claimed"]


def test_a_late_slice_gives_one_revision_and_our_own_results_there_are_no_gap(
    partial: Study, node: Node, pacs: Orthanc, tmp_path: Path
) -> None:
    late = dcmread(partial.files[-1])
    late.SOPInstanceUID = late.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    late.ImagePositionPatient[2] -= 4.4
    late.InstanceNumber += 1
    late.save_as(tmp_path / "late.dcm")
    assert send(pacs.port, [tmp_path / "late.dcm"], called="PACS").returncode == 0

    pacs.route(partial.uid, only=[late.SOPInstanceUID])

    wait_until(lambda: len(pacs.reports(partial.uid)) == 2, log=node.log)
    job = node.wait_state(partial.uid, JobState.DELIVERED)
    assert because(job) == "pacs knows the same 9 instances"
    assert [r.revision for r in job.results] == [1, 2]


def test_a_study_that_a_scanner_sends_itself_waits_for_nobody(node: Node, tmp_path: Path) -> None:
    study = Study(tmp_path / "study")
    study.sagittal(2)
    assert send(node.port, study.files).returncode == 0

    job = node.wait_state(study.uid, JobState.REJECTED)

    assert because(job) == "no queried peer sends this study"
    complete, claimed = (next(e.at for e in job.events if e.kind == kind) for kind in ("complete", "claimed"))
    quiet_since = (complete - job.job.quiet_until).total_seconds()
    assert quiet_since < 2, "the check takes part of a second"
    assert claimed > complete


def test_pull_grades_a_study_nobody_routed_and_the_second_time_nothing(
    node: Node, pacs: Orthanc, tmp_path: Path
) -> None:
    study = Study(tmp_path / "study")
    study.axial(4)
    in_pacs(study, pacs)

    pulled = node.cli("pull", "--study", study.uid, "--from", "pacs", "--wait")

    assert pulled.returncode == 0, pulled.stderr
    assert "4 images came from pacs" in pulled.stdout
    assert "is delivered" in pulled.stdout
    assert "fetched 4 of 4 images" in pulled.stderr
    job = node.job(study.uid)
    assert job is not None
    assert job.job.complete_because == "pacs knows the same 4 instances" or because(job)
    assert len(pacs.reports(study.uid)) == 1

    again = node.cli("pull", "--study", study.uid, "--from", "pacs", "--wait", "--json")

    assert again.returncode == 0, again.stderr
    said = json.loads(again.stdout)
    assert (said["known"], said["wanted"], said["came"], said["job"]["state"]) == (4, 0, 0, "delivered")
    assert node.job(study.uid) == job
    assert len(pacs.reports(study.uid)) == 1


@pytest.mark.parametrize(
    ("study", "peer", "code", "said"),
    [
        ("1.2.3.4.5", "pacs", 3, "pacs has no MR images of study 1.2.3.4.5"),
        ("1.2.3.4.5", "nobody", 3, "no peer 'nobody' in the configuration"),
        ("1.2.3.4.5", "gone", 4, "refused the connection"),
        ("1.2.*", "pacs", 2, "digits and dots"),
    ],
)
def test_pull_says_what_is_wrong(node: Node, study: str, peer: str, code: int, said: str) -> None:
    done = node.cli("pull", "--study", study, "--from", peer)

    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert said in done.stderr.replace("\n", " ")


def test_a_process_killed_at_each_step_of_the_check_loses_nothing(node: Node, pacs: Orthanc, tmp_path: Path) -> None:
    study = Study(tmp_path / "study")
    axial = study.axial(4)
    in_pacs(study, pacs)
    for step in ("check.claimed", "check.kept", "check.fetched", "check.concluded"):
        node.arm(step)

    pacs.route(study.uid, only=uids(axial.paths[:2]))

    job = node.wait_state(study.uid, JobState.DELIVERED)
    assert node.armed() == []
    assert because(job) == "pacs knows the same 4 instances"
    assert job.job.n_instances == 4
    assert len(job.results) == len(pacs.reports(study.uid)) == 1


@pytest.fixture(scope="module")
def unserved(node: Node, pacs: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, list[Ran]]:
    """A study pulled while no ``serve`` runs, by C-GET, then by C-MOVE, then by nothing; then a node with C-MOVE."""
    study = Study(tmp_path_factory.mktemp("unserved") / "study")
    study.axial(4)
    in_pacs(study, pacs)
    node.stop()
    ran = []
    for query in ("get", "find", "move"):
        node.settings["peers.pacs"]["query"] = query
        node.write_config()
        ran.append(node.cli("pull", "--study", study.uid, "--from", "pacs", "--wait"))
    assert len(node.stored(study.uid)) == 4
    node.start()
    return study, ran


def test_without_serve_what_is_pulled_waits_for_it(unserved: tuple[Study, list[Ran]], node: Node) -> None:
    study, (by_get, by_find, by_move) = unserved

    assert by_get.returncode == 1
    assert "is received, and no 'serve' works on" in by_get.stderr
    assert by_find.returncode == 2
    assert 'peers.pacs.query is "find": set it to "get"' in by_find.stderr
    assert by_move.returncode == 1
    assert "start 'stenosis-node serve' first" in by_move.stderr
    assert len(node.wait_state(study.uid, JobState.DELIVERED).results) == 1


def test_by_c_move_gaps_come_through_the_front_door(
    unserved: tuple[Study, list[Ran]], node: Node, pacs: Orthanc, tmp_path: Path
) -> None:
    routed, pulled = Study(tmp_path / "routed"), Study(tmp_path / "pulled")
    axial = routed.axial(5)
    pulled.axial(4)
    in_pacs(routed, pacs)
    in_pacs(pulled, pacs)

    pacs.route(routed.uid, only=uids(axial.paths[1:4]))
    done = node.cli("pull", "--study", pulled.uid, "--from", "pacs", "--wait")

    assert done.returncode == 0, done.stderr
    job = node.wait_state(routed.uid, JobState.DELIVERED)
    assert because(job) == "fetched 2 of 2 missing instances from pacs, which knows 5"
    for study in (routed, pulled):
        assert len(pacs.reports(study.uid)) == 1


def test_no_patient_attribute_gets_into_the_log(partial: Study, node: Node) -> None:
    text = node.log.read_text()

    assert "fetched 2 of 2 missing instances" in text
    assert PATIENT_NAME.split("^", maxsplit=1)[0] not in text
    assert PATIENT_ID not in text
