"""Spool and database that tell different stories."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from stenosis_node.config import Config
from stenosis_node.domain import Document, DocumentKind, JobState
from stenosis_node.errors import ConfigError, TransientError
from stenosis_node.jobs import DocumentRow, FileRow, JobStore, PeerSpec
from stenosis_node.spool import Spool
from stenosis_node.work.reconcile import FindingKind, Reconciliation, reconcile
from tests.unit.work.conftest import EXPLICIT, put

KEY, CHOSEN = "ab" * 32, "cd" * 32
SC = Document(
    kind=DocumentKind.SC, sop_class_uid="1.2.840.10008.5.1.4.1.1.7", sop_instance_uid="1.2.9",
    series_instance_uid="1.2", transfer_syntax_uid=EXPLICIT, content=b"capture", key=True,
)  # fmt: skip


def receive(spool: Spool, store: JobStore, uid: str) -> Path:
    received = put(spool, uid)
    store.touch(received, quiet_period_s=0, ceiling_s=3600)
    return spool.root / received.path


def grade(spool: Spool, store: JobStore, *, peers: tuple[PeerSpec, ...]) -> int:
    """A job whose result was written down."""
    receive(spool, store, "1.2.3.4.1")
    check = store.claim_check(worker="w", lease_s=60)
    assert check is not None
    store.conclude_check(check, because="all there")
    lease = store.claim(JobState.RECEIVED, worker="w", lease_s=60, max_attempts=3)
    assert lease is not None
    spool.put_findings(CHOSEN, "{}")
    spool.put_documents(KEY, [SC])
    rows = [
        DocumentRow(sop_instance_uid="1.2.9", sop_class_uid=SC.sop_class_uid, series_instance_uid="1.2", kind=SC.kind)
    ]
    store.advance_graded(lease, result_key=KEY, chosen_key=CHOSEN, documents=rows, peers=peers)
    return lease.job_id


def kinds(found: Reconciliation) -> list[FindingKind]:
    return [one.kind for one in found.findings]


def test_a_spool_and_a_database_that_agree_are_clean_and_looking_changes_nothing(
    config: Config, spool: Spool, store: JobStore
) -> None:
    grade(spool, store, peers=())
    before = sorted(config.spool.rglob("*"))

    found = reconcile(config, store, deep=True)

    assert (found.files, found.rows, found.results, found.findings, found.running) == (1, 1, 1, (), None)
    assert sorted(config.spool.rglob("*")) == before


def test_a_file_without_a_row_is_taken_in(config: Config, spool: Spool, store: JobStore) -> None:
    put(spool, "1.2.3.4.1")

    assert kinds(reconcile(config, store)) == [FindingKind.FILE_WITHOUT_ROW]
    assert reconcile(config, store, repair=True).problems == ()

    assert reconcile(config, store, deep=True).findings == ()
    job = store.job("1.2.3")
    assert job is not None
    assert job.job.n_instances == 1


def test_beside_a_running_node_young_files_are_left_alone(config: Config, spool: Spool, store: JobStore) -> None:
    young, old = put(spool, "1.2.3.4.1"), put(spool, "1.2.3.4.2")
    then = (datetime.now(UTC) - timedelta(hours=2)).timestamp()
    os.utime(spool.root / old.path, (then, then))
    (spool.root / "instances" / ".tmp-1").touch()

    with spool.hold():
        found = reconcile(config, store, repair=True)

    assert found.running == os.getpid()
    assert [(one.about, one.repaired) for one in found.findings] == [(old.path.as_posix(), True)]
    assert store.known_paths([young.path, old.path]) == {old.path.as_posix()}


def test_no_serve_starts_during_a_repair(
    config: Config, spool: Spool, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[str] = []

    def while_a_serve_starts() -> Iterator[FileRow]:
        with pytest.raises(ConfigError) as error, Spool(config.spool).hold():
            pass
        refused.append(str(error.value))
        return iter(())

    monkeypatch.setattr(store, "expected_files", while_a_serve_starts)
    spool.put_findings(CHOSEN, "{}")
    (spool.root / "instances" / ".tmp-1").touch()

    found = reconcile(config, store, repair=True)

    assert f"process {os.getpid()}" in refused[0]
    assert found.running is None
    assert all(one.repaired for one in found.findings)
    assert len(found.findings) == 2
    with spool.hold():  # it is free again
        pass


def test_a_repair_that_fails_gives_the_spool_back(
    config: Config, spool: Spool, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> Iterator[FileRow]:
        raise TransientError("the database does not answer")

    monkeypatch.setattr(store, "expected_files", fail)
    with pytest.raises(TransientError):
        reconcile(config, store, repair=True)
    with spool.hold():
        pass


def test_looking_holds_nothing(config: Config, spool: Spool, store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def while_a_serve_starts() -> Iterator[FileRow]:
        with spool.hold():
            return iter(())

    monkeypatch.setattr(store, "expected_files", while_a_serve_starts)
    assert reconcile(config, store, deep=True).findings == ()


def test_a_lost_file_is_a_problem_until_the_study_is_sent_again(config: Config, spool: Spool, store: JobStore) -> None:
    receive(spool, store, "1.2.3.4.1").unlink()

    (finding,) = reconcile(config, store, repair=True).problems
    assert finding.kind is FindingKind.MISSING_FILE
    assert "send study 1.2.3 again" in finding.fix

    receive(spool, store, "1.2.3.4.1")
    assert reconcile(config, store, deep=True).findings == ()


def test_damaged_files_go_to_the_quarantine_so_that_they_can_be_sent_again(
    config: Config, spool: Spool, store: JobStore
) -> None:
    short, flipped = receive(spool, store, "1.2.3.4.1"), receive(spool, store, "1.2.3.4.2")
    short.write_bytes(short.read_bytes()[:-1])
    flipped.write_bytes(flipped.read_bytes()[:-1] + b"\xff")

    assert kinds(reconcile(config, store)) == [FindingKind.WRONG_SIZE]
    assert kinds(reconcile(config, store, deep=True)) == [FindingKind.WRONG_SIZE, FindingKind.WRONG_BYTES]
    reconcile(config, store, deep=True, repair=True)

    assert not short.exists()
    assert not flipped.exists()
    assert len(list((spool.root / "quarantine").glob("*.dcm"))) == 2
    receive(spool, store, "1.2.3.4.1")
    receive(spool, store, "1.2.3.4.2")
    assert reconcile(config, store, deep=True).problems == ()


def test_lost_documents_that_are_still_to_be_sent_are_made_again(config: Config, spool: Spool, store: JobStore) -> None:
    job_id = grade(spool, store, peers=(PeerSpec("pacs", True),))
    spool.delete_result(KEY)

    assert [one.kind for one in reconcile(config, store).problems] == [FindingKind.MISSING_DOCUMENTS]
    assert reconcile(config, store, repair=True).problems == ()

    job = store.job(str(job_id))
    assert job is not None
    assert job.job.state is JobState.RECEIVED


def test_lost_documents_that_nobody_waits_for_are_written_down_as_deleted(
    config: Config, spool: Spool, store: JobStore
) -> None:
    grade(spool, store, peers=())
    spool.delete_result(KEY)

    assert reconcile(config, store, repair=True).problems == ()
    assert reconcile(config, store).findings == ()


def test_what_else_belongs_to_lost_documents_goes_in_its_time(config: Config, spool: Spool, store: JobStore) -> None:
    grade(spool, store, peers=())
    spool.put_findings(CHOSEN, "{}")
    spool.delete_result(KEY)
    reconcile(config, store, repair=True)

    assert store.purgeable(instances_days=9, documents_days=9, keep_ungradable=True).result_ids == ()
    due = store.purgeable(instances_days=9, documents_days=0, keep_ungradable=True)
    assert due.chosen_keys == (CHOSEN,)
    store.mark_purged(due)
    assert not store.purgeable(instances_days=9, documents_days=0, keep_ungradable=True)


def test_damaged_documents_are_found_by_reading_them(config: Config, spool: Spool, store: JobStore) -> None:
    grade(spool, store, peers=())
    (spool.root / "documents" / KEY / "000.dcm").write_bytes(b"other")

    assert reconcile(config, store).findings == ()
    assert kinds(reconcile(config, store, deep=True)) == [FindingKind.DAMAGED_DOCUMENTS]


def test_what_nothing_refers_to_is_a_note_and_goes(config: Config, spool: Spool, store: JobStore) -> None:
    spool.put_findings(CHOSEN, "{}")
    spool.put_documents(KEY, [SC])
    spool.quarantine("1.2.3", [b"rubbish"], "no instance")
    (spool.root / "documents" / ".tmp-1").mkdir()
    (spool.root / "instances" / "1.2.3").mkdir()
    (spool.root / "instances" / "1.2.3" / "notes.txt").write_text("mine")

    found = reconcile(config, store, repair=True)

    assert found.problems == ()
    assert {one.kind for one in found.findings if one.repaired} == {
        FindingKind.UNREADABLE_FILE,
        FindingKind.FINDINGS_WITHOUT_RESULT,
        FindingKind.DOCUMENTS_WITHOUT_RESULT,
        FindingKind.TEMPORARY_FILE,
    }
    left = reconcile(config, store)
    assert "no instance" in {one.sentence for one in left.findings}
    assert set(kinds(left)) == {FindingKind.QUARANTINED}
