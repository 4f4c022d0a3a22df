"""The audit file: private, whole lines by many writers, rotation, and what happens when it cannot be written."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from stenosis_node.audit import AuditTrail, CannotAudit, StudyPart
from stenosis_node.audit import trail as trail_module
from stenosis_node.audit.journal import Journal
from tests.unit.audit.conftest import MakeConfig
from tests.unit.audit.schema import check, event_of

WRITER = """
import sys
from pathlib import Path
from stenosis_node.audit.journal import Journal
journal = Journal(Path(sys.argv[1]))
for i in range(int(sys.argv[3])):
    journal.append([f"<{sys.argv[2]} {i} " + "x" * 5000 + ">"])
"""


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_is_made_where_the_configuration_says_and_private(make_config: MakeConfig, tmp_path: Path) -> None:
    for config in (make_config(), make_config(file=str(tmp_path / "elsewhere" / "a.log"))):
        trail = AuditTrail(config)
        os.umask(os.umask(0))  # whatever it is
        trail.write(trail.events.started())
        assert config.audit_file.stat().st_mode & 0o777 == 0o600
        (line,) = lines(config.audit_file)
        assert event_of(check(line)) == "110100 110120"


def test_a_file_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    path.touch(mode=0o644)
    path.chmod(0o644)
    Journal(path).append(["<a/>"])
    assert path.stat().st_mode & 0o777 == 0o600


def test_processes_write_whole_lines_while_the_file_is_rotated(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), name, "30"], cwd=Path(__file__).parents[3])
        for name in ("a", "b")
    ]
    n_rotated = 0
    while any(writer.poll() is None for writer in writers):
        if path.exists() and n_rotated < 20:
            path.rename(tmp_path / f"audit.log.{n_rotated}")
            n_rotated += 1
    assert [writer.returncode for writer in writers] == [0, 0]
    written = [line for file in tmp_path.glob("audit.log*") for line in lines(file)]
    assert all(line.startswith("<") and line.endswith("x>") for line in written)
    assert sorted(line.split("x")[0] for line in written) == sorted(f"<{n} {i} " for n in "ab" for i in range(30))
    assert n_rotated > 1


def test_a_line_that_a_crash_broke_off_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    path.write_text("<whole/>\n<brok")
    Journal(path).append(["<next/>"])
    assert lines(path) == ["<whole/>", "<brok", "<next/>"]


def test_a_message_that_does_not_fit_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    journal = Journal(path)
    journal.append(["<first/>"])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            journal.append(["<" + "x" * 1000 + ">"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert lines(path) == ["<first/>"]
    journal.append(["<second/>"])
    assert lines(path) == ["<first/>", "<second/>"]


def test_what_cannot_be_written_is_held_and_written_later(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trail_module, "MAX_HELD", 3)
    blocked = tmp_path / "folder"
    blocked.write_text("a file where a folder must be")
    config = make_config(file=str(blocked / "audit.log"))
    trail = AuditTrail(config)
    with pytest.raises(CannotAudit, match=r"audit\.file.*cannot be written"):
        trail.write(trail.events.started())
    with pytest.raises(CannotAudit):
        trail.check()
    for i in range(5):
        trail.record(trail.events.graded(StudyPart(f"1.2.{i}", "4711")))
    assert len([r for r in caplog.records if getattr(r, "event", "") == "audit_failed"]) == 1
    assert "4711" not in caplog.text

    blocked.unlink()
    trail.flush()

    written = [check(line) for line in lines(config.audit_file)]
    assert [event_of(root) for root in written] == ["110103", "110103", "110103", "110113 110133"]
    assert "2 audit messages since" in lines(config.audit_file)[-1]
    trail.flush()
    assert len(lines(config.audit_file)) == 4
