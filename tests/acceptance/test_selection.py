"""The right series, once, and nothing of what is not ours: through one real node, with dcmsend and Orthanc."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    RawDataStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from stenosis_node.domain import Decision, JobState
from stenosis_node.jobs import JobStore
from stenosis_node.series import choose, find_files, scan
from stenosis_node.spool import Spool
from tests.acceptance.cases import drawn, real
from tests.acceptance.processes import Node, Orthanc, send, wait_until
from tests.acceptance.studies import AXIAL, Series, Study, computed_tomography

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(400)]
NETWORKS = False

COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.33"
CT_PATIENT, CT_PATIENT_ID = "CTSECRET-0815", "CTID-4711"
N_CT = 1000


def edit(series: Series, **values: Any) -> Series:
    """Set attributes of every file of a series."""
    for path in series.paths:
        dataset = dcmread(path)
        for keyword, value in values.items():
            setattr(dataset, keyword, value)
        dataset.save_as(path)
    return series


def lower(series: Series, by_mm: float) -> Series:
    for path in series.paths:
        dataset = dcmread(path)
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, y, float(z) - by_mm]
        dataset.save_as(path)
    return series


def other_object(study: Study, sop_class: str, name: str) -> Path:
    """An instance of the study that is no image of a scanner, as small as it can be."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study.uid, generate_uid()
    dataset.PatientName, dataset.PatientID = "Nobody^Acceptance", "SECRET-4711"
    dataset.Modality, dataset.SeriesDescription, dataset.SeriesNumber = "OT", name, 90
    path = study.folder / f"90-{name}.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path


def radiologists_objects(study: Study) -> list[Path]:
    classes = {
        "pr": GrayscaleSoftcopyPresentationStateStorage,
        "kos": KeyObjectSelectionDocumentStorage,
        "sr": COMPREHENSIVE_SR,
    }
    return [other_object(study, sop_class, name) for name, sop_class in classes.items()]


def explained(node: Node, study_uid: str) -> dict[str, dict[str, Any]]:
    """Series of a job by description, as ``explain --json`` gives them."""
    done = node.cli("explain", study_uid, "--json")
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout)["studies"]
    return {one["description"]: one for one in answer["series"]}


def let_queue_pass(node: Node, folder: Path) -> None:
    """A sentinel study that goes through the whole queue: whatever was due before it has happened."""
    sentinel = Study(folder / "sentinel")
    sentinel.sagittal(1)
    assert send(node.port, sentinel.files).returncode == 0
    node.wait_state(sentinel.uid, JobState.REJECTED)


def assert_one_result(node: Node, pacs: Orthanc, study: Study) -> None:
    job = node.wait_state(study.uid, JobState.DELIVERED)
    assert [result.revision for result in job.results] == [1]
    assert len(pacs.reports(study.uid)) == 1


# --------------------------------------------------------------------------- selection


def test_a_study_with_everything_in_it(node: Node, pacs: Orthanc, tmp_path: Path) -> None:
    study = Study(tmp_path / "study")
    t2 = {"orientation": AXIAL, "te": 104, "tr": 4000}
    edit(study.series(3, "t2_tse_tra upper", 4, **t2), AcquisitionDate="20260301", AcquisitionTime="091500")
    edit(study.series(4, "t2_tse_tra upper rpt", 4, **t2), AcquisitionDate="20260301", AcquisitionTime="092200")
    lower(study.series(5, "t2_tse_tra lower", 4, **t2), 50)
    study.series(6, "t1_tse_tra", 4, orientation=AXIAL, te=11, tr=560)
    edit(study.series(7, "t2_stir_tra", 4, **t2), InversionTime=160)
    edit(study.series(8, "t2_spc_tra", 4, **t2), MRAcquisitionType="3D")
    edit(study.series(10, "t2_tse_tra C3-7", 4, **t2), PatientPosition="HFP")
    edit(lower(study.series(11, "t2_tse_tra prone", 4, **t2), 75), PatientPosition="HFP")
    study.sagittal(4)
    study.series(12, "localizer", 3, orientation=AXIAL, te=4, tr=9)
    computed_tomography(study)
    other_object(study, SecondaryCaptureImageStorage, "capture")
    other_object(study, RawDataStorage, "raw")
    assert send(node.port, study.files).returncode == 0
    assert_one_result(node, pacs, study)

    series = explained(node, study.uid)
    assert {name: (one["decision"], one["reason"]) for name, one in series.items()} == {
        "t2_tse_tra upper": ("rejected", "repeat-of-better-series"),
        "t2_tse_tra upper rpt": ("graded", "axial-t2-lumbar"),
        "t2_tse_tra lower": ("graded", "axial-t2-lumbar"),
        "t1_tse_tra": ("rejected", "t1-weighted"),
        "t2_stir_tra": ("rejected", "stir"),
        "t2_spc_tra": ("rejected", "3d-acquisition"),
        "t2_tse_tra C3-7": ("rejected", "not-lumbar"),
        "t2_tse_tra prone": ("not-gradable", "patient-position"),
        "t2_tse_sag": ("locator", "sagittal-locator"),
        "localizer": ("rejected", "localizer"),
        "topogram": ("rejected", "not-mr"),
        "capture": ("rejected", "screen-save"),
        "raw": ("rejected", "not-mr"),
    }
    assert series["t2_tse_tra upper"]["values"]["better because"] == "that one was acquired 7 min later"
    (report,) = pacs.reports(study.uid)
    assert report.CompletionFlag == "PARTIAL"
    text = report.to_json()
    assert "the patient is prone (HFP)" in text


def test_nothing_but_a_prone_series_is_reported_as_not_gradable(node: Node, pacs: Orthanc, tmp_path: Path) -> None:
    study = Study(tmp_path / "study")
    edit(study.axial(4), PatientPosition="HFP")
    assert send(node.port, study.files).returncode == 0
    assert_one_result(node, pacs, study)
    (report,) = pacs.reports(study.uid)
    assert report.CompletionFlag == "PARTIAL"
    assert "the patient is prone (HFP)" in report.to_json()
    assert "this does not exclude stenosis" in report.to_json()


def test_what_is_received_is_decided_as_the_files_are(node: Node, pacs: Orthanc, tmp_path: Path) -> None:
    """A hundred studies: every kind of series that is not graded, files of real scanners among them."""
    cases = drawn(tmp_path / "drawn") + real(tmp_path / "real")
    waiting = {case.study_uid for case in cases}
    assert len(waiting) == len(cases) > 80

    done = send(node.port, [tmp_path], options=["+sd", "+r"])

    assert done.returncode == 0, done.stderr
    over = {JobState.REJECTED, JobState.DELIVERED, JobState.FAILED}
    wait_until(lambda: not waiting_for(node, waiting, over), limit_s=200, what="every study is over", log=node.log)
    for case in cases:
        job = node.job(case.study_uid)
        assert job is not None
        assert {(one.decision, one.reason) for one in job.series} == {case.expected}, job.series
        on_disk = choose(scan(find_files(case.folder)).series)
        assert {(one.series_instance_uid, one.sentence) for one in job.series} == {
            (one.series_instance_uid, one.sentence) for one in on_disk
        }
        not_gradable = case.expected[0] is Decision.NOT_GRADABLE
        assert job.job.state is (JobState.DELIVERED if not_gradable else JobState.REJECTED)
        assert len(pacs.reports(case.study_uid)) == not_gradable


def waiting_for(node: Node, studies: set[str], over: set[JobState]) -> set[str]:
    """Take those that are over out of the set."""
    for study_uid in sorted(studies):
        job = node.job(study_uid)
        if job is None or job.job.state not in over:
            break
        studies.remove(study_uid)
    return studies


# --------------------------------------------------------------------------- resends and loops


def test_the_same_study_from_two_peers_at_once(node: Node, pacs: Orthanc, tmp_path: Path) -> None:
    study = Study(tmp_path / "study")
    study.axial(6)
    with ThreadPoolExecutor(2) as pool:
        senders = [pool.submit(send, node.port, study.files, options=["-aet", name]) for name in ("MR1", "PACS2")]
    assert [sender.result().returncode for sender in senders] == [0, 0]
    assert_one_result(node, pacs, study)
    job = node.job(study.uid)
    assert job is not None
    assert (job.job.n_instances, job.conflicts) == (6, 0)

    assert send(node.port, study.files, options=["-aet", "PACS2"]).returncode == 0
    let_queue_pass(node, tmp_path)
    assert_one_result(node, pacs, study)


@pytest.mark.parametrize("when", ["before the result", "after it"])
def test_the_same_uid_with_other_bytes(node: Node, pacs: Orthanc, tmp_path: Path, when: str) -> None:
    study = Study(tmp_path / "study")
    axial = study.axial(4)
    assert send(node.port, study.files).returncode == 0
    if when == "after it":
        node.wait_state(study.uid, JobState.DELIVERED)
    kept = node.stored(study.uid)[0].read_bytes()
    changed = edit(axial, InstitutionName="Another hospital")
    quarantined = len(list((node.spool / "quarantine").rglob("*.dcm")))

    assert send(node.port, changed.paths).returncode == 0

    assert_one_result(node, pacs, study)
    let_queue_pass(node, tmp_path)
    assert_one_result(node, pacs, study)
    job = node.job(study.uid)
    assert job is not None
    assert (job.job.n_instances, job.conflicts) == (4, 4)
    assert node.stored(study.uid)[0].read_bytes() == kept
    assert len(list((node.spool / "quarantine").rglob("*.dcm"))) == quarantined + 4
    assert "came again with other bytes" in node.cli("job", study.uid).stdout


def test_a_radiologists_own_objects_before_and_after_the_result(node: Node, pacs: Orthanc, tmp_path: Path) -> None:
    study = Study(tmp_path / "study")
    study.axial(4)
    radiologists_objects(study)
    assert send(node.port, study.files).returncode == 0
    assert_one_result(node, pacs, study)

    later = radiologists_objects(study)
    assert send(node.port, later).returncode == 0
    pacs.route(study.uid)  # our own result comes back as well
    let_queue_pass(node, tmp_path)

    assert_one_result(node, pacs, study)
    job = node.job(study.uid)
    assert job is not None
    assert job.job.n_instances == 10
    wait_until(lambda: len(node.stored(study.uid)) == 4, what="what is not MR is deleted", log=node.log)


# --------------------------------------------------------------------------- privacy


def write_ct(folder: Path, study: Study, n: int) -> list[Path]:
    """Small CT instances of one series, each with its own UID and the patient's name in it."""
    template_path = computed_tomography(study)
    dataset = dcmread(template_path)
    template_path.unlink()
    dataset.PatientName, dataset.PatientID = CT_PATIENT, CT_PATIENT_ID
    dataset.Rows = dataset.Columns = 16
    dataset.PixelData = (CT_PATIENT * 64).encode()[:512]
    folder.mkdir()
    paths = []
    for number in range(n):
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{study.uid}.{number}"[-64:].lstrip(
            "."
        )
        dataset.InstanceNumber = number + 1
        paths.append(folder / f"{number:04d}.dcm")
        dataset.save_as(paths[-1], enforce_file_format=True)
    return paths


def traces(node: Node, text: str) -> list[str]:
    """Files of the spool and the log that hold a text: database and write-ahead log included."""
    files = [path for path in [*node.spool.rglob("*"), node.log] if path.is_file()]
    return sorted(str(path.relative_to(node.folder)) for path in files if text.encode() in path.read_bytes())


def test_of_a_thousand_ct_instances_nothing_is_left_but_their_number(node: Node, pacs: Orthanc, tmp_path: Path) -> None:
    study, ct_only = Study(tmp_path / "study"), Study(tmp_path / "ct_only")
    study.axial(4)
    with_mr = write_ct(tmp_path / "ct1", study, N_CT - 100)
    alone = write_ct(tmp_path / "ct2", ct_only, 100)

    assert send(node.port, [*study.files, tmp_path / "ct1", tmp_path / "ct2"], options=["+sd"]).returncode == 0

    assert_one_result(node, pacs, study)
    wait_until(lambda: len(node.stored(study.uid)) == 4, what="the CT instances are deleted", log=node.log)
    job = node.job(study.uid)
    assert job is not None
    assert job.job.n_instances == 4 + len(with_mr)
    ct = explained(node, study.uid)["topogram"]
    assert (ct["decision"], ct["reason"], ct["n_instances"]) == ("rejected", "not-mr", len(with_mr))

    assert node.job(ct_only.uid) is None
    assert len(node.stored(ct_only.uid)) == len(alone)  # an MR instance may still make a study of it
    purge_as_of(node, datetime.now(UTC) + timedelta(hours=2))
    assert node.stored(ct_only.uid) == []
    assert traces(node, CT_PATIENT) == []
    assert traces(node, CT_PATIENT_ID) == ["spool/audit.log"], "the only place for a Patient ID"


def purge_as_of(node: Node, now: datetime) -> None:
    """What the housekeeping of the node does at that time."""
    store = JobStore(f"sqlite:///{node.spool / 'jobs.db'}")
    try:
        due = store.purgeable(instances_days=7, documents_days=90, keep_ungradable=False, now=now)
        Spool(node.spool).delete_instances(due.instances)
        store.mark_purged(due)
    finally:
        store.close()
