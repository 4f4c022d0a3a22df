"""The main job through real processes: dcmsend sends, the node grades, Orthanc gets the report."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest
from pydicom import dcmread

from stenosis_node.domain import Decision, JobState, SeriesReason
from tests.acceptance.processes import Node, Orthanc, cut_after, send, wait_until
from tests.acceptance.studies import PATIENT_ID, PATIENT_NAME, Study, computed_tomography
from tests.conftest import require_tool

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def graded(node: Node, pacs: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study with something to grade and something to leave alone, sent once and delivered."""
    study = Study(tmp_path_factory.mktemp("graded") / "study")
    study.axial(5)
    study.sagittal(4)
    computed_tomography(study)
    sent = send(node.port, study.files)
    assert sent.returncode == 0, sent.stderr
    node.wait_state(study.uid, JobState.DELIVERED)
    return study


def test_the_pacs_holds_one_report_and_its_captures(graded: Study, pacs: Orthanc) -> None:
    (report,) = pacs.reports(graded.uid)

    assert report.CompletionFlag == "COMPLETE"
    assert report.VerificationFlag == "UNVERIFIED"
    assert report.PreliminaryFlag == "PRELIMINARY"
    assert report.PatientID == PATIENT_ID
    assert report.SeriesDescription.startswith("DEMO NOT CLINICAL")
    assert len(pacs.captures(graded.uid)) >= 1


def test_what_comes_back_is_valid_dicom(graded: Study, pacs: Orthanc, tmp_path: Path) -> None:
    dciodvfy, dsrdump = require_tool("dciodvfy", "dicom3tools"), require_tool("dsrdump", "dcmtk")
    for uid, content in pacs.files_of_study(graded.uid).items():
        path = tmp_path / f"{uid}.dcm"
        path.write_bytes(content)
        checked = subprocess.run([dciodvfy, str(path)], capture_output=True, text=True, check=False)
        errors = [line for line in checked.stderr.splitlines() if line.startswith("Error")]
        assert errors == [], (dcmread(path).SOPClassUID.name, errors)
    (report,) = pacs.reports(graded.uid)
    dumped = subprocess.run(
        [dsrdump, str(tmp_path / f"{report.SOPInstanceUID}.dcm")], capture_output=True, text=True, check=False
    )
    assert dumped.returncode == 0, dumped.stderr
    assert "CONTAINER" in dumped.stdout


def test_every_series_has_a_decision_and_its_reason(graded: Study, node: Node) -> None:
    job = node.job(graded.uid)
    assert job is not None
    decisions = {d.series_number: (d.decision, d.reason) for d in job.series}

    assert decisions[3] == (Decision.GRADED, SeriesReason.CHOSEN)
    assert decisions[2] == (Decision.LOCATOR, SeriesReason.LOCATOR)
    assert decisions[9] == (Decision.REJECTED, SeriesReason.NOT_MR)


def test_bytes_that_can_never_be_graded_are_gone_and_the_others_stay(graded: Study, node: Node) -> None:
    kept = wait_until(lambda: len(node.stored(graded.uid)) == 9 and node.stored(graded.uid))

    assert {dcmread(path).SeriesNumber for path in kept} == {2, 3}


def test_the_same_study_again_gives_nothing_new(graded: Study, node: Node, pacs: Orthanc) -> None:
    before = set(pacs.files_of_study(graded.uid))
    events = node.job(graded.uid).events  # type: ignore[union-attr]

    assert send(node.port, graded.files).returncode == 0
    _let_quiet_period_pass(node)

    job = node.job(graded.uid)
    assert job is not None
    assert job.job.state is JobState.DELIVERED
    assert len(job.results) == 1
    assert [e for e in job.events[len(events) :] if e.kind in ("claimed", "graded", "delivered")] == []
    assert set(pacs.files_of_study(graded.uid)) == before


def test_our_own_result_routed_back_is_dropped(graded: Study, node: Node, pacs: Orthanc) -> None:
    before = set(pacs.files_of_study(graded.uid))

    pacs.route(graded.uid)
    _let_quiet_period_pass(node)

    job = node.job(graded.uid)
    assert job is not None
    assert job.job.state is JobState.DELIVERED
    assert len(job.results) == 1
    assert not [p for p in node.stored(graded.uid) if dcmread(p).SOPInstanceUID in before]


def test_a_late_slice_gives_one_revision_that_names_the_first(node: Node, pacs: Orthanc, tmp_path: Path) -> None:
    study = Study(tmp_path / "study")
    series = study.axial(4)
    assert send(node.port, study.files).returncode == 0
    node.wait_state(study.uid, JobState.DELIVERED)
    (first,) = pacs.reports(study.uid)

    assert send(node.port, [series.add_slice()]).returncode == 0
    wait_until(lambda: len(pacs.reports(study.uid)) == 2, log=node.log)
    node.wait_state(study.uid, JobState.DELIVERED)

    (second,) = [r for r in pacs.reports(study.uid) if r.SOPInstanceUID != first.SOPInstanceUID]
    named = [
        instance.ReferencedSOPInstanceUID
        for item in second.PredecessorDocumentsSequence
        for listed in item.ReferencedSeriesSequence
        for instance in listed.ReferencedSOPSequence
    ]
    assert named == [first.SOPInstanceUID]
    assert "REVISION 2" in second.SeriesDescription.upper()
    assert [r.revision for r in node.job(study.uid).results] == [1, 2]  # type: ignore[union-attr]


def test_a_study_without_an_axial_series_is_rejected_in_words(node: Node, pacs: Orthanc, tmp_path: Path) -> None:
    study = Study(tmp_path / "study")
    study.sagittal(4)
    assert send(node.port, study.files).returncode == 0

    job = node.wait_state(study.uid, JobState.REJECTED)

    assert job.job.reason == "no-candidate"
    assert "not-axial" in (job.job.message or "")
    assert pacs.files_of_study(study.uid) == {}


def test_other_modalities_alone_make_no_job_and_leave_no_bytes(node: Node, tmp_path: Path) -> None:
    study = Study(tmp_path / "study")
    computed_tomography(study)

    assert send(node.port, study.files).returncode == 0
    _let_quiet_period_pass(node)

    assert node.job(study.uid) is None


def test_one_slice_of_thirty_that_cannot_be_decoded(node: Node, pacs: Orthanc, tmp_path: Path) -> None:
    study = Study(tmp_path / "study")
    series = study.axial(30)
    broken = dcmread(series.paths[17])
    broken.PixelData = broken.PixelData[:1000]
    broken.save_as(series.paths[17])
    assert send(node.port, study.files).returncode == 0

    node.wait_state(study.uid, JobState.DELIVERED)

    (report,) = pacs.reports(study.uid)
    assert report.CompletionFlag == "PARTIAL"
    assert broken.SOPInstanceUID in report.to_json()


def test_an_axial_series_that_nobody_can_decode_still_gets_a_report(node: Node, pacs: Orthanc, tmp_path: Path) -> None:
    study = Study(tmp_path / "study")
    for path in study.axial(4).paths:
        dataset = dcmread(path)
        dataset.PixelData = b"\0" * 10
        dataset.save_as(path)
    assert send(node.port, study.files).returncode == 0

    node.wait_state(study.uid, JobState.DELIVERED)

    (report,) = pacs.reports(study.uid)
    assert report.CompletionFlag == "PARTIAL"


def test_instances_without_pixel_data(node: Node, pacs: Orthanc, tmp_path: Path) -> None:
    study = Study(tmp_path / "study")
    for path in study.axial(4).paths:
        dataset = dcmread(path)
        del dataset.PixelData
        dataset.save_as(path)
    assert send(node.port, study.files).returncode == 0

    job = node.wait_state(study.uid, JobState.DELIVERED)

    assert {(d.decision, d.reason) for d in job.series} == {(Decision.NOT_GRADABLE, SeriesReason.NO_PIXEL_DATA)}
    (report,) = pacs.reports(study.uid)
    assert "no instance has pixel data" in report.to_json()


def test_a_file_that_is_not_dicom_is_not_even_sent_and_the_others_are(node: Node, tmp_path: Path) -> None:
    study = Study(tmp_path / "study")
    study.sagittal(4)
    (tmp_path / "study" / "00.dcm").write_bytes(b"this is no DICOM file" * 100)

    send(node.port, study.files, options=["--no-halt", "--no-illegal-proposal"])

    assert node.wait_state(study.uid, JobState.REJECTED).job.n_instances == 4


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)) * 20, b"\x04\0\xff\xff\xff\xff\0\0"])
def test_bytes_that_are_no_association_leave_the_node_in_service(node: Node, garbage: bytes) -> None:
    with socket.create_connection(("127.0.0.1", node.port), timeout=10) as sock:
        sock.sendall(garbage)
        with contextlib.suppress(OSError):  # the node may have hung up before
            sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while sock.recv(4096):
                pass

    assert _echo(node.port)


def test_a_wrong_called_ae_title_is_refused_by_name(node: Node, tmp_path: Path) -> None:
    study = Study(tmp_path / "study")
    study.sagittal(1)

    sent = send(node.port, study.files, called="SOMEBODY")

    assert sent.returncode != 0
    assert "Association Rejected" in sent.stderr
    assert "'SCANNER' called 'SOMEBODY', but this node is 'STENOSIS'" in node.log.read_text()
    assert node.job(study.uid) is None


def test_an_association_cut_in_the_middle_of_an_instance_leaves_nothing(node: Node, tmp_path: Path) -> None:
    study = Study(tmp_path / "study")
    first, second = study.sagittal(2).paths
    assert send(node.port, [first]).returncode == 0

    with cut_after(second.stat().st_size // 2, node.port) as (port, was_cut):
        assert send(port, [second]).returncode != 0
        assert was_cut.is_set()

    job = node.wait_state(study.uid, JobState.REJECTED)
    assert job.job.n_instances == 1
    assert [p for p in (node.spool / "instances").rglob("*") if p.is_file() and p.suffix != ".dcm"] == []
    assert _echo(node.port)


def test_no_patient_attribute_gets_into_the_log(graded: Study, node: Node) -> None:
    text = node.log.read_text()

    assert graded.uid in text or "graded" in text
    assert PATIENT_NAME.split("^", maxsplit=1)[0] not in text
    assert PATIENT_ID not in text
    assert "19500101" not in text


def _echo(port: int) -> bool:
    echoscu = require_tool("echoscu", "dcmtk")
    done = subprocess.run([echoscu, "-aec", "STENOSIS", "127.0.0.1", str(port)], timeout=20, check=False)
    return done.returncode == 0


def _let_quiet_period_pass(node: Node) -> None:
    """A sentinel study that goes through all of the queue: whatever was due before it has happened."""
    with tempfile.TemporaryDirectory() as folder:
        sentinel = Study(Path(folder) / "study")
        sentinel.sagittal(1)
        assert send(node.port, sentinel.files).returncode == 0
        node.wait_state(sentinel.uid, JobState.REJECTED)
