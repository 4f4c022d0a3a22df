"""What is sent is what lies in the spool, durable before Success; over real sockets."""

from __future__ import annotations

import logging
import sqlite3
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    Comprehensive3DSRStorage,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
)
from pynetdicom import AE
from pynetdicom.presentation import build_context

from stenosis_node.domain import DocumentKind, JobState
from stenosis_node.jobs import DocumentRow, Purge
from stenosis_node.spool import PutOutcome, PutResult
from tests.conftest import require_data, require_tool
from tests.unit.completeness import claim_complete
from tests.unit.receive.conftest import KOREAN_NAME, STUDY, Node, StartNode, both_paths, dataset_of, make_instance
from tests.unit.receive.raw_scu import RawScu, associate_rq, c_store_rq, p_data

Send = Callable[..., Dataset]

PRIVATE_CLASS = "1.3.6.1.4.1.99999.1.2"
UNKNOWN_CLASS = "1.2.840.10008.5.1.4.1.1.9999"
PRIVATE_SYNTAX = "1.3.6.1.4.1.99999.7"


@both_paths
@pytest.mark.parametrize(
    ("sop_class", "syntax"),
    [
        (MRImageStorage, ExplicitVRLittleEndian),
        (MRImageStorage, ImplicitVRLittleEndian),
        (MRImageStorage, ExplicitVRBigEndian),
        (MRImageStorage, DeflatedExplicitVRLittleEndian),
        (MRImageStorage, JPEGLosslessSV1),
        (MRImageStorage, JPEGLSLossless),
        (MRImageStorage, JPEG2000Lossless),
        (MRImageStorage, RLELossless),
        (MRImageStorage, PRIVATE_SYNTAX),
        (CTImageStorage, ExplicitVRLittleEndian),
        (PRIVATE_CLASS, ExplicitVRLittleEndian),
        (PRIVATE_CLASS, PRIVATE_SYNTAX),
        (UNKNOWN_CLASS, ImplicitVRLittleEndian),
    ],
)
def test_every_class_and_syntax_is_stored_unchanged(
    node: Node, send: Send, tmp_path: Path, sop_class: str, syntax: str
) -> None:
    path = make_instance(tmp_path, 1, sop_class=sop_class, syntax=syntax)
    assert send(node, path).Status == 0x0000
    assert node.dataset(f"{STUDY}.9.1") == dataset_of(path)
    if syntax != DeflatedExplicitVRLittleEndian:
        assert KOREAN_NAME in node.dataset(f"{STUDY}.9.1")  # no text was decoded on the way
    (stored,) = node.files()
    meta = dcmread(stored, specific_tags=[], stop_before_pixels=True).file_meta
    assert (meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID) == (sop_class, f"{STUDY}.9.1")
    assert meta.TransferSyntaxUID == syntax
    assert not node.leftovers()


def test_a_study_becomes_a_job_with_all_its_instances(node: Node, send: Send, tmp_path: Path) -> None:
    paths = [
        make_instance(tmp_path, 1, sop_class=CTImageStorage),
        make_instance(tmp_path, 2),
        make_instance(tmp_path, 3),
        make_instance(tmp_path, 4, sop_class=PRIVATE_CLASS),
    ]
    send(node, *paths)
    (job,) = node.store.list_jobs()
    assert (job.study_instance_uid, job.state) == (STUDY, JobState.RECEIVED)
    instances = node.store.instances(job.id)
    assert sorted(i.sop_instance_uid for i in instances) == [f"{STUDY}.9.{n}" for n in (1, 2, 3, 4)]
    assert sorted(node.spool.root / i.path for i in instances) == node.files()


@both_paths
def test_exact_resend_changes_nothing(node: Node, send: Send, tmp_path: Path) -> None:
    path = make_instance(tmp_path, 1)
    assert send(node, path).Status == 0
    before = [(p, p.read_bytes()) for p in node.files()]
    assert send(node, path, calling="OTHER").Status == 0
    assert [(p, p.read_bytes()) for p in node.files()] == before
    assert not node.quarantined()
    (job,) = node.store.list_jobs()
    assert job.n_instances == 1


def test_other_bytes_under_the_same_uid_are_quarantined(node: Node, send: Send, tmp_path: Path) -> None:
    first = make_instance(tmp_path, 1)
    (tmp_path / "other").mkdir()
    other = make_instance(tmp_path / "other", 1, InstanceNumber=77)
    assert send(node, first).Status == 0
    assert send(node, other).Status == 0
    assert node.dataset(f"{STUDY}.9.1") == dataset_of(first)
    assert any(dataset_of(other) in p.read_bytes() for p in node.quarantined())


def test_a_file_that_was_never_acknowledged_stays_and_says_so(node: Node, send: Send, tmp_path: Path) -> None:
    refused = make_instance(tmp_path, 1, syntax=ImplicitVRLittleEndian)  # as if the commit had failed, or a crash come
    kept = node.spool.put(STUDY, f"{STUDY}.9", f"{STUDY}.9.1", [refused.read_bytes()])
    series = dcmread(refused).SeriesInstanceUID
    node.spool.instance_path(kept.path).rename(_made(node.spool.root / "instances" / STUDY / series) / kept.path.name)
    (tmp_path / "other").mkdir()
    other = make_instance(tmp_path / "other", 1, InstanceNumber=77)
    assert send(node, other).Status == 0
    (job,) = node.store.list_jobs()
    (row,) = node.store.instances(job.id)
    assert row.transfer_syntax_uid == ImplicitVRLittleEndian  # of the bytes that are there
    detail = node.store.job(job.id)
    assert detail is not None
    assert detail.conflicts == 1
    assert any(dataset_of(other) in p.read_bytes() for p in node.quarantined())


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


@both_paths
def test_a_transfer_syntax_that_is_no_uid_is_refused_alone(node: Node, tmp_path: Path) -> None:
    dataset = dataset_of(make_instance(tmp_path, 1))
    request = associate_rq(contexts=((MRImageStorage, "1.2.840.9.9.3"),))
    with RawScu(node.port) as scu:
        scu.send(request.replace(b"1.2.840.9.9.3", b"1.2\0.840.9.93"))
        scu.read_pdu()
        scu.send(p_data(1, 3, c_store_rq(MRImageStorage, f"{STUDY}.9.1")) + p_data(1, 2, dataset))
        assert b"\x00\x00\x00\x09\x02\x00\x00\x00\x00\x00" not in scu.read_pdu()
    assert not node.files()
    assert not node.store.list_jobs()


def test_own_documents_that_come_back_are_acknowledged_and_dropped(node: Node, send: Send, tmp_path: Path) -> None:
    send(node, make_instance(tmp_path, 1))
    later = datetime.now(UTC) + timedelta(hours=2)
    lease = claim_complete(node.store, now=later)
    assert lease is not None
    own = DocumentRow(
        sop_instance_uid=f"{STUDY}.9.7",
        sop_class_uid=Comprehensive3DSRStorage,
        series_instance_uid=f"{STUDY}.1",
        kind=DocumentKind.SR,
    )
    node.store.advance_graded(lease, result_key="k" * 8, chosen_key="c", documents=[own], peers=[], now=later)
    before = node.store.list_jobs()
    assert send(node, make_instance(tmp_path, 7, sop_class=Comprehensive3DSRStorage)).Status == 0x0000
    assert send(node, make_instance(tmp_path, 8, sop_class=Comprehensive3DSRStorage)).Status == 0x0000
    assert [p.name for p in node.files()] == [f"{STUDY}.9.1.dcm", f"{STUDY}.9.8.dcm"]  # 8 is somebody else's report
    (job,) = node.store.list_jobs()
    assert (job.state, job.revision) == (before[0].state, 1)
    assert not node.quarantined()


@both_paths
@pytest.mark.parametrize(
    ("change", "status", "comment"),
    [
        ({"StudyInstanceUID": None}, 0xA900, "no (0020,000D) Study Instance UID"),
        ({"SeriesInstanceUID": None}, 0xA900, "no (0020,000E) Series Instance UID"),
        ({"SOPInstanceUID": "1.2.3"}, 0xA900, "SOP class or instance UID differs from the command"),
        ({"SOPClassUID": CTImageStorage}, 0xA900, "SOP class or instance UID differs from the command"),
    ],
)
def test_instances_that_do_not_match_are_refused_and_quarantined(
    node: Node, send: Send, tmp_path: Path, change: dict[str, str | None], status: int, comment: str
) -> None:
    path = make_instance(tmp_path, 1)
    ds = dcmread(path)
    for keyword, value in change.items():
        if value is None:
            del ds[keyword]
        else:
            ds[keyword].value = value
    wrong = tmp_path / "wrong.dcm"
    meta = path.read_bytes()[: len(path.read_bytes()) - len(dataset_of(path))]
    ds.save_as(wrong)
    wrong.write_bytes(meta + dataset_of(wrong))
    answer = send(node, wrong)
    assert answer.Status == status
    assert answer.ErrorComment == comment
    assert len(answer.ErrorComment) <= 64
    assert not node.files()
    assert any(dataset_of(wrong) in p.read_bytes() for p in node.quarantined())
    assert not node.store.list_jobs()
    assert send(node, path).Status == 0  # the object was refused, not the sender


@both_paths
def test_bytes_that_are_no_data_set(node: Node, send: Send, tmp_path: Path) -> None:
    path = make_instance(tmp_path, 1)
    content = path.read_bytes()
    truncated = tmp_path / "truncated.dcm"
    truncated.write_bytes(content[: content.index(STUDY.encode(), 400) + 4])
    noise = tmp_path / "noise.dcm"
    noise.write_bytes(content[: len(content) - len(dataset_of(path))] + b"\x08\0\x05\0not dicom at all")
    for wrong in (truncated, noise):
        answer = send(node, wrong)
        assert answer.Status == 0xC000
        assert answer.ErrorComment == "data set unreadable in its transfer syntax"
    assert not node.files()
    assert len([p for p in node.quarantined() if p.stat().st_size > 150]) >= 2


@both_paths
def test_too_large_an_object_is_refused_and_the_association_goes_on(
    start_node: StartNode, send: Send, tmp_path: Path
) -> None:
    node = start_node(max_object_mb=1)
    ds = dcmread(make_instance(tmp_path, 1))
    ds.PixelData = bytes(1_500_000)
    ds.save_as(tmp_path / "large.dcm")
    small = make_instance(tmp_path, 2)
    assert send(node, tmp_path / "large.dcm").Status == 0xA700
    assert send(node, tmp_path / "large.dcm", small).Status == 0
    assert [p.name for p in node.files()] == [f"{STUDY}.9.2.dcm"]


@both_paths
def test_a_large_object_arrives_whole_and_between_others(node: Node, send: Send, tmp_path: Path) -> None:
    ds = dcmread(make_instance(tmp_path, 1))
    ds.PixelData = bytes(range(256)) * 40_000  # more than is collected in memory
    large, small = tmp_path / "large.dcm", make_instance(tmp_path, 2)
    ds.save_as(large)
    assert send(node, large, small, large).Status == 0
    assert node.dataset(f"{STUDY}.9.1") == dataset_of(large)
    assert node.dataset(f"{STUDY}.9.2") == dataset_of(small)
    assert not node.leftovers()
    assert not node.quarantined()
    ds.StudyInstanceUID = ""
    ds.save_as(large)
    assert send(node, large).Status == 0xA900
    assert any(dataset_of(large) in p.read_bytes() for p in node.quarantined())
    assert not node.leftovers()


@both_paths
def test_disk_below_the_floor(start_node: StartNode, send: Send, tmp_path: Path) -> None:
    node = start_node(min_free_mb=10**9)
    answer = send(node, make_instance(tmp_path, 1))
    assert answer.Status == 0xA700
    assert answer.ErrorComment == "disk of the node is almost full"
    assert not node.files()
    assert not node.quarantined()


@both_paths
def test_no_success_without_a_row(node: Node, send: Send, tmp_path: Path) -> None:
    with sqlite3.connect(node.spool.root / "jobs.db") as database:
        database.execute("ALTER TABLE instance RENAME TO lost")
    first, second = make_instance(tmp_path, 1), make_instance(tmp_path, 2)
    answer = send(node, first)
    assert answer.Status == 0xA700
    assert answer.ErrorComment == "cannot be stored durably now, send again later"
    with sqlite3.connect(node.spool.root / "jobs.db") as database:
        database.execute("ALTER TABLE lost RENAME TO instance")
    assert send(node, first, second).Status == 0
    (job,) = node.store.list_jobs()
    assert job.n_instances == 2


@both_paths
def test_patient_attributes_stay_out_of_the_log(
    node: Node, send: Send, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    send(node, make_instance(tmp_path, 1))
    send(node, make_instance(tmp_path, 2, StudyInstanceUID=""))
    assert "association from SENDER" in caplog.text
    assert "refused with 0xA900" in caplog.text
    assert "SECRETID" not in caplog.text
    assert "Hong" not in caplog.text


def test_study_stays_open_while_its_association_is(start_node: StartNode, tmp_path: Path) -> None:
    node = start_node(jobs={"quiet_period_s": 1.2})
    ae = AE("SLOW")
    ds = dcmread(make_instance(tmp_path, 1))
    association = ae.associate(
        "127.0.0.1", node.port, ae_title="STENOSIS", contexts=[build_context(MRImageStorage, ExplicitVRLittleEndian)]
    )
    assert association.send_c_store(ds).Status == 0

    def claim() -> object:
        return claim_complete(node.store, now=datetime.now(UTC))

    time.sleep(2.2)
    assert claim() is None
    association.release()
    deadline = time.monotonic() + 7
    while claim() is None:
        assert time.monotonic() < deadline, "the study does not close after its association"
        time.sleep(0.2)


# ------------------------------------------------------------------- DCMTK as sender, real files


@both_paths
def test_dcmtk_echo_and_store(node: Node, tmp_path: Path) -> None:
    where = ["-aec", "STENOSIS", "127.0.0.1", str(node.port)]
    subprocess.run([require_tool("echoscu", "dcmtk"), *where], check=True, timeout=20)
    (tmp_path / "out").mkdir()
    paths = [make_instance(tmp_path / "out", n) for n in range(1, 6)]
    subprocess.run([require_tool("storescu", "dcmtk"), *where, *map(str, paths)], check=True, timeout=20)
    for number, path in enumerate(paths, start=1):
        assert node.dataset(f"{STUDY}.9.{number}") == dataset_of(path)


@pytest.mark.parametrize("option", ["-xe", "-xb", "-xi", "-xd"])
def test_dcmtk_in_each_uncompressed_syntax(node: Node, tmp_path: Path, option: str) -> None:
    path = make_instance(tmp_path, 1)
    command = [require_tool("storescu", "dcmtk"), option, "-aec", "STENOSIS", "127.0.0.1", str(node.port), str(path)]
    subprocess.run(command, check=True, timeout=20)
    (stored,) = node.files()
    ds = dcmread(stored)
    assert ds.PixelData == bytes(range(256)) * 32 or option == "-xb"
    assert (
        ds.file_meta.TransferSyntaxUID
        == {
            "-xe": ExplicitVRLittleEndian,
            "-xb": ExplicitVRLittleEndian,  # the best that was offered: storescu offers the others too
            "-xi": ImplicitVRLittleEndian,
            "-xd": DeflatedExplicitVRLittleEndian,
        }[option]
    )


def test_four_senders_at_once(node: Node, tmp_path: Path) -> None:
    tool = require_tool("dcmsend", "dcmtk")
    senders = []
    for group in range(4):
        folder = tmp_path / str(group)
        folder.mkdir()
        for number in range(1, 16):
            make_instance(folder, number, study=f"{STUDY}.{group}")
        command = [tool, "-aec", "STENOSIS", "--scan-directories", "127.0.0.1", str(node.port), str(folder)]
        senders.append(subprocess.Popen(command))
    assert [sender.wait(60) for sender in senders] == [0] * 4
    assert len(node.files()) == 60
    assert sorted(job.n_instances for job in node.store.list_jobs()) == [15] * 4
    assert not node.leftovers()


def test_real_files_in_many_syntaxes(node: Node, send: Send) -> None:
    syntaxes = set()
    expected: dict[str, bytes] = {}
    for path in sorted(require_data("dcm_qa_ts").rglob("*")) + sorted(require_data("pydicom_data").rglob("*.dcm")):
        if not path.is_file() or path.suffix in {".json", ".nii", ".gz", ".txt", ".bval", ".bvec", ".md"}:
            continue
        try:
            ds = dcmread(path, stop_before_pixels=True)
        except Exception:
            continue
        if (
            "StudyInstanceUID" not in ds
            or ds.SOPInstanceUID in expected
            or "MediaStorageSOPClassUID" not in ds.file_meta
        ):
            continue
        if ds.file_meta.MediaStorageSOPInstanceUID != ds.SOPInstanceUID:
            continue
        status = send(node, path)
        assert status.Status == 0, (path, status)
        expected[str(ds.SOPInstanceUID)] = dataset_of(path)
        syntaxes.add(str(ds.file_meta.TransferSyntaxUID))
    assert len(syntaxes) >= 5
    for uid, dataset in expected.items():
        assert node.dataset(uid) == dataset


@pytest.mark.parametrize("sop_class", [MRImageStorage, CTImageStorage])
def test_a_resend_survives_a_deletion_that_was_under_way(
    start_node: StartNode, send: Send, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sop_class: str
) -> None:
    """The file is still there when the bytes come, and gone when their row is written."""
    node = start_node()
    path = make_instance(tmp_path, 1, sop_class=sop_class)
    assert send(node, path).Status == 0
    if sop_class == MRImageStorage:
        later = datetime.now(UTC) + timedelta(hours=2)
        lease = claim_complete(node.store, now=later)
        assert lease is not None
        node.store.reject(lease, reason="no-candidate", sentence="nothing axial")

    def due() -> Purge:
        later = datetime.now(UTC) + timedelta(days=8)
        return node.store.purgeable(instances_days=7, documents_days=90, keep_ungradable=False, now=later)

    purge = due()
    assert len(purge.instances) == 1
    refused = send(node, path)
    assert (refused.Status, refused.ErrorComment) == (0xA700, "cannot be stored durably now, send again later")

    real_put = node.spool.put
    outcomes: list[PutOutcome] = []

    def put(*args: Any, **options: Any) -> PutResult:
        result = real_put(*args, **options)
        outcomes.append(result.outcome)
        if len(outcomes) == 1:
            node.spool.delete_instances(purge.instances)
            node.store.mark_purged(purge)
        return result

    monkeypatch.setattr(node.spool, "put", put)
    assert send(node, path).Status == 0

    assert outcomes == [PutOutcome.SAME, PutOutcome.NEW]
    assert node.dataset(f"{STUDY}.9.1") == dataset_of(path)
