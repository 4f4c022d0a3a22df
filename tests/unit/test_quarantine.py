"""What lies in the quarantine goes after its time, and earlier when it is too much."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from stenosis_node.config import Config, load
from stenosis_node.node import chores
from stenosis_node.spool import Spool, leftovers
from stenosis_node.spool.quarantine import Cleared, clear_quarantine, quarantine_limit

NOW = datetime.now(UTC)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    overrides = {"spool": str(tmp_path / "spool"), "grading": {"bundle": str(tmp_path)}}
    return load(None, overrides=overrides, environment=False)


@pytest.fixture
def spool(config: Config) -> Spool:
    return Spool(config.spool)


def put_aside(spool: Spool, name: str, *, days: float, size: int = 10_000) -> Path:
    """Days ago; 12 kB of the disk and 4 kB for the reason, where blocks have 4 kB."""
    path = spool.root / spool.quarantine(name, [name.encode().ljust(size)], "no instance")
    then = (NOW - timedelta(days=days)).timestamp()
    for one in (path, path.with_suffix(".txt")):
        os.utime(one, (then, then))
    return path


def names(spool: Spool) -> list[str]:
    return sorted(path.name.split("-")[0] + path.suffix for path in (spool.root / "quarantine").iterdir())


def test_by_default_it_is_kept_for_a_month(config: Config) -> None:
    assert config.retention.quarantine_days == 30


def test_what_was_there_for_its_time_goes_with_its_reason(spool: Spool) -> None:
    put_aside(spool, "old", days=31)
    put_aside(spool, "new", days=29)
    (spool.root / "quarantine" / ".tmp-1").touch()  # is being written

    cleared = clear_quarantine(spool.root, before=NOW - timedelta(days=30))

    assert cleared == Cleared(expired=1, crowded_out=0, limit_bytes=quarantine_limit(spool.root))
    assert names(spool) == [".tmp", "new.dcm", "new.txt"]


def test_of_what_is_too_much_the_oldest_go_first(spool: Spool) -> None:
    taken = [put_aside(spool, name, days=days) for name, days in (("b", 2), ("a", 3), ("c", 1), ("expired", 40))]
    of_one = sum(path.stat().st_blocks * 512 for path in (taken[0], taken[0].with_suffix(".txt")))

    cleared = clear_quarantine(spool.root, before=NOW - timedelta(days=30), limit_bytes=2 * of_one)

    assert (cleared.expired, cleared.crowded_out) == (1, 1)
    assert names(spool) == ["b.dcm", "b.txt", "c.dcm", "c.txt"]


def test_a_reason_without_its_bytes_goes_too_and_is_not_counted(spool: Spool) -> None:
    put_aside(spool, "half", days=31).unlink()  # a crash came between the two
    cleared = clear_quarantine(spool.root, before=NOW - timedelta(days=30))
    assert (cleared.expired, names(spool)) == (0, [])


def test_the_limit_follows_the_disk(spool: Spool) -> None:
    disk = os.statvfs(spool.root)
    assert 0 < quarantine_limit(spool.root) <= min(10 << 30, disk.f_blocks * disk.f_frsize // 10 + 1)


def test_the_housekeeping_says_how_many_and_nothing_else(
    config: Config, spool: Spool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    for number in range(3):
        put_aside(spool, f"1.2.{number}", days=31)
    chores.clear(config, spool)
    (line,) = caplog.records
    assert (line.levelno, line.getMessage()) == (
        logging.INFO,
        "3 files deleted that were in the quarantine for 30 days",
    )

    caplog.clear()
    put_aside(spool, "1.2.4", days=1)
    monkeypatch.setattr("stenosis_node.spool.quarantine.MOST_BYTES", 0)
    chores.clear(config, spool)
    (line,) = caplog.records
    assert line.levelno == logging.WARNING
    assert "the oldest 1 files are deleted before their time" in line.getMessage()
    assert leftovers(spool.root).quarantined == ()

    caplog.clear()
    chores.clear(config, spool)
    assert caplog.records == []
