"""The suite itself: it says what it did not do, and what was lost. No process is started here."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stenosis_node.domain import JobState
from stenosis_node.jobs import JobDetail, JobStore, WithdrawalState
from tests.soak import __main__ as soak
from tests.soak import parts
from tests.soak.__main__ import Variant
from tests.soak.invariant import Verdict, _check_result, losses
from tests.soak.servers import SoakNode
from tests.unit.cli.conftest import documents, grade, later, receive

SR = "1.2.840.10008.5.1.4.1.1.88.34"


class StillNode:
    """What the parts touch of a node, and a fsck that answers by rote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spool = folder / "spool"
        self.settings: dict[str, dict[str, Any]] = {"receive": {}, "jobs": {}}
        self.answers: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        self.asked: list[tuple[str, ...]] = []

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def findings(self, *arguments: str) -> list[dict[str, Any]]:
        self.asked.append(arguments)
        return self.answers.get(arguments, [])


class SentOne:
    """A sender with one instance that was answered with Success."""

    def __init__(self) -> None:
        self.acknowledged = {"1.2.3": "1.2"}


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """The program on a node without processes; four instances are acknowledged in each part."""

    @contextlib.contextmanager
    def opened(folder: Path, variant: Variant, seed: int, kind: type[SoakNode]) -> Iterator[Any]:
        node: Any = StillNode(folder)
        sender: Any = SentOne()
        with contextlib.ExitStack() as disks:
            yield parts.Round(node, sender, sender, None, soak.say, None, disks)  # type: ignore[arg-type]

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["soak", "--folder", str(tmp_path / "soak"), *arguments])
        return soak.main()

    monkeypatch.setattr(soak, "opened", opened)
    monkeypatch.setattr(soak, "settle", lambda *_: None)
    monkeypatch.setattr(soak, "after_rest", lambda _: [])
    monkeypatch.setattr(soak, "check", lambda *_: Verdict(acknowledged=4))
    monkeypatch.setattr(parts, "pacs_in_trouble", lambda *_, **__: None)
    return run


ONE = ("--database", "sqlite", "--fast-path", "on")


def test_what_ran_and_lost_nothing_is_a_success(main: Callable[..., int]) -> None:
    assert main("--only", "pacs", *ONE) == 0


def test_a_part_that_cannot_run_is_named_and_the_rest_runs(
    main: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    assert main("--only", "disk", "--only", "pacs", *ONE) == 1

    said = capsys.readouterr().out
    for what in ("spool", "documents", "database"):
        assert f"NOT RUN: disk full: {what} (sqlite, fast path on): mounting a small disk needs root" in said
    assert "\nPACS in trouble  sqlite, fast path on" in said


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("a fault of the suite")])
def test_what_was_broken_off_is_no_success(
    main: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(parts, "line_cut", broken)
    assert main("--only", "pacs", "--only", "line", *ONE) == 1
    assert "NOT RUN: line cut (sqlite, fast path on): " in capsys.readouterr().out


def test_a_part_in_which_nothing_was_acknowledged_is_no_success(
    main: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak, "check", lambda *_: Verdict())
    assert main("--only", "pacs", *ONE) == 1


def test_a_table_without_a_row_is_no_success(main: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "plan", lambda _: iter(()))
    assert main(*ONE) == 1


def test_disks_are_full_on_either_database(main: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, str]] = []

    def disk(what: str, seconds: float) -> Callable[[parts.Round], None]:
        return lambda a_round: done.append((what, a_round.node.folder.name))

    monkeypatch.setattr(soak, "full_disk_of", disk)
    assert main("--only", "disk", "--fast-path", "on") == 0
    assert [what for what, _ in done] == ["spool", "documents", "database", "spool", "documents"]


# --------------------------------------------------------------------------- losses


def finding(kind: str, about: str, *, is_problem: bool = True) -> dict[str, Any]:
    return {"kind": kind, "about": about, "sentence": "it is so", "fix": "", "is_problem": is_problem}


def test_what_a_repair_would_write_down_as_deleted_is_a_loss() -> None:
    lost = [
        finding("missing-documents", "documents/ab"),
        finding("missing-file", "instances/1.2/1.2.1/1.2.3.dcm"),
        finding("file-without-row", "instances/1.2/1.2.1/1.2.3.dcm"),
    ]
    assert len(losses(lost, {"1.2.3"})) == 3


def test_what_a_crash_left_before_anybody_was_told_is_none() -> None:
    left = [
        finding("file-without-row", "instances/1.2/1.2.1/1.2.4.dcm"),
        finding("unreadable-file", "instances/1.2/1.2.1/1.2.4.dcm"),
        finding("temporary-file", "instances/.tmp-1", is_problem=False),
        finding("documents-without-result", "documents/ab", is_problem=False),
    ]
    assert losses(left, {"1.2.3"}) == []


def test_fsck_is_asked_before_it_repairs(tmp_path: Path) -> None:
    node: Any = StillNode(tmp_path)
    node.answers[("--deep",)] = [finding("missing-documents", "documents/ab")]
    sender: Any = SentOne()

    wrong = soak.after_rest(parts.Round(node, sender, sender, None, soak.say))  # type: ignore[arg-type]

    assert "fsck: documents/ab: it is so" in wrong
    assert node.asked == [("--deep",), ("--deep", "--repair"), ("--deep",)]


# --------------------------------------------------------------------------- results


NOTE = "1.2.840.10008.5.1.4.1.1.88.59"


@pytest.fixture
def delivered(tmp_path: Path) -> tuple[JobDetail, list[str]]:
    """A job that is DELIVERED, and its documents: overview, capture, report."""
    store = JobStore(f"sqlite:///{tmp_path / 'jobs.db'}")
    store.migrate()
    receive(store, 1)
    job_id = grade(store, now=later(10))
    lease = store.claim_delivery("pacs", worker="w", lease_s=60, max_attempts=3, now=later(11))
    assert lease is not None
    overview, capture, report = (row.sop_instance_uid for row in documents(job_id))
    for uid in (overview, report):
        store.record_document(lease, uid, status=0, text="Success", now=later(12))
    store.advance_delivery(lease, now=later(13))
    detail = store.job(str(job_id))
    store.close()
    assert detail is not None
    return detail, [overview, capture, report]


def test_a_capture_that_never_came_is_a_violation(delivered: tuple[JobDetail, list[str]]) -> None:
    detail, (overview, capture, report) = delivered
    of_class = {overview: "", capture: "", report: SR}

    assert _check_result(detail, {overview, capture, report}, of_class) == []
    (wrong,) = _check_result(detail, {overview, report}, of_class)
    assert "1 captures or presentation states of the latest result never came" in wrong


def test_each_withdrawal_has_its_note_and_no_note_is_there_without(delivered: tuple[JobDetail, list[str]]) -> None:
    detail, uids = delivered
    of_class = {**dict.fromkeys(uids, ""), uids[2]: SR, "1.2.3": NOTE}
    told: Any = SimpleNamespace(state=WithdrawalState.DELIVERED)
    withdrawn = replace(detail, withdrawals=(told,))

    assert _check_result(withdrawn, {*uids, "1.2.3"}, of_class) == []
    (wrong,) = _check_result(withdrawn, set(uids), of_class)
    assert "0 rejection notes at the PACS for 1 withdrawals" in wrong
    (wrong,) = _check_result(detail, {*uids, "1.2.3"}, of_class)
    assert "1 rejection notes at the PACS for 0 withdrawals" in wrong


def test_a_job_ends_as_it_was_made_to_end(delivered: tuple[JobDetail, list[str]]) -> None:
    detail, uids = delivered
    of_class = {**dict.fromkeys(uids, ""), uids[2]: SR}
    rejected = replace(detail, job=replace(detail.job, state=JobState.REJECTED))

    assert _check_result(rejected, set(), of_class, JobState.REJECTED) == []
    (wrong,) = _check_result(rejected, set(uids), of_class, JobState.REJECTED)
    assert "the PACS holds 3 documents of a rejected study" in wrong
    (wrong,) = _check_result(detail, set(uids), of_class, JobState.CANCELLED)
    assert "ended delivered" in wrong
