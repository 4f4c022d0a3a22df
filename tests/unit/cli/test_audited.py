"""Commands are recorded with who gave them, or not carried out."""

from __future__ import annotations

import base64
import signal
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from stenosis_node.domain import JobState
from stenosis_node.jobs import JobStore
from tests.unit.audit.schema import check, event_of, outcome_of, subjects_of
from tests.unit.cli.conftest import Run, study_uid

pytestmark = pytest.mark.usefixtures("filled")


def messages(config: Path) -> list[ET.Element]:
    file = config.parent / "spool" / "audit.log"
    return [check(line) for line in file.read_text(encoding="utf-8").splitlines()]


def said(message: ET.Element) -> str:
    detail = message.find(".//ParticipantObjectDetail")
    assert detail is not None
    return base64.b64decode(detail.attrib["value"]).decode()


def ended(config: Path) -> list[ET.Element]:
    """What was recorded when each command ended; each stands behind the message that it is begun."""
    found = messages(config)
    begun, done = found[::2], found[1::2]
    for before, after in zip(begun, done, strict=True):
        assert before.findtext("EventIdentification/EventOutcomeDescription") == "begun"
        assert (outcome_of(before), said(before)) == (0, said(after))
        assert subjects_of(before) == subjects_of(after)
        assert after.findtext("EventIdentification/EventOutcomeDescription") != "begun"
    return done


def test_a_command_that_is_killed_has_said_that_it_began(
    config: Path, spawn: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "points").mkdir()
    (tmp_path / "points" / "jobs.cancel.committed").write_text("self")
    monkeypatch.setenv("STENOSIS_NODE_FAILPOINT", str(tmp_path / "points"))

    assert spawn("cancel", "5", "-c", config).code == -signal.SIGKILL

    (begun,) = messages(config)
    assert (said(begun), subjects_of(begun)["Study Instance UID"]) == ("cancel job 5", study_uid(5))
    assert begun.findtext("EventIdentification/EventOutcomeDescription") == "begun"


def test_what_an_administrator_does_is_recorded(run: Run, config: Path) -> None:
    for command in (
        ("retry", "4"),
        ("cancel", "5"),
        ("hold", "4", "--why", "a question"),
        ("unhold", "4"),
        ("pause", "pacs", "--why", "it moves"),
        ("resume", "pacs"),
        ("retry", "--peer", "pacs"),
        ("recall", "--job", "1", "--yes", "--why", "a wrong patient"),
    ):
        assert run(*command, "-c", config).code == 0

    found = ended(config)

    assert {(event_of(one), outcome_of(one)) for one in found} == {("110113 110132", 0)}
    assert [said(one) for one in found] == [
        "retry job 4",
        "cancel job 5",
        "hold job 4: a question",
        "unhold job 4",
        "pause peer pacs: it moves",
        "resume peer pacs",
        "retry everything that was given up for peer pacs",
        "recall of 1: a wrong patient",
    ]
    assert subjects_of(found[0])["Study Instance UID"] == study_uid(4)
    assert subjects_of(found[-1])["Study Instance UID"] == study_uid(1)


def test_what_was_tried_and_failed_is_recorded_too(run: Run, config: Path) -> None:
    assert run("retry", "5", "-c", config).code == 1

    (failed,) = ended(config)

    assert (said(failed), outcome_of(failed)) == ("retry job 5", 4)
    assert failed.findtext("EventIdentification/EventOutcomeDescription")


def test_a_repair_of_the_spool_is_recorded_whatever_it_leaves(run: Run, config: Path) -> None:
    for options in (("--repair",), ("--repair", "--deep")):
        assert run("fsck", *options, "-c", config).code == 1  # images of the queue are not there

    found = ended(config)

    assert [(event_of(one), outcome_of(one), said(one)) for one in found] == [
        ("110113 110132", 0, "fsck --repair"),
        ("110113 110132", 0, "fsck --repair --deep"),
    ]


def test_nothing_is_repaired_that_cannot_be_recorded(run: Run, config: Path) -> None:
    (config.parent / "spool" / "instances").mkdir()
    left = config.parent / "spool" / "instances" / ".tmp-1"
    left.touch()
    config.write_text(config.read_text() + '[audit]\nfile = "/proc/audit.log"\n')

    assert "audit.file: /proc/audit.log cannot be written" in run("fsck", "--repair", "-c", config).err
    assert left.exists()


def test_looking_at_the_queue_is_not(run: Run, config: Path) -> None:
    for command in (("jobs",), ("job", "1"), ("peers",), ("retry", "99"), ("fsck", "--deep")):
        run(*command, "-c", config)
    assert not (config.parent / "spool" / "audit.log").exists()


def test_nothing_is_done_that_cannot_be_recorded(run: Run, config: Path, filled: JobStore) -> None:
    config.write_text(config.read_text() + '[audit]\nfile = "/proc/audit.log"\n')
    for command in (("cancel", "5"), ("pause", "pacs"), ("recall", "--job", "1", "--yes")):
        done = run(*command, "-c", config)
        assert done.code == 1
        assert "audit.file: /proc/audit.log cannot be written" in done.err
    detail = filled.job("5")
    assert detail is not None
    assert detail.job.state is JobState.RECEIVED
    assert not any(peer.paused for peer in filled.peers())
