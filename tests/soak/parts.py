"""The parts of the suite: each does harm to a running node under continuous sending, then lets it come to rest."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

import psutil

from tests.acceptance.processes import wait_until
from tests.acceptance.studies import Study
from tests.conftest import require_tool
from tests.soak.sender import Sender, Stream
from tests.soak.servers import CutLine, PostgreSQL, RecordingPacs, SoakNode

RECEIVE = (
    *("spool.folder.made", "spool.folder.durable"),
    *(f"spool.instance.{step}" for step in ("written", "flushed", "named", "durable")),
    *("receive.put", "jobs.touch_many.written", "jobs.touch_many.committed", "receive.committed"),
)
CHECK = (
    *("jobs.claim_check.written", "jobs.claim_check.committed", "check.claimed"),
    *("jobs.conclude_check.written", "jobs.conclude_check.committed", "check.concluded"),
)
GRADE = (
    *("jobs.claim.written", "jobs.claim.committed", "grade.claimed", "grade.read"),
    *("jobs.record_decisions.written", "jobs.record_decisions.committed"),
    *(f"spool.findings.{step}" for step in ("written", "flushed", "named", "durable")),
    *("grade.found", "spool.documents.made", "spool.document.written", "spool.document.flushed"),
    *(f"spool.documents.{step}" for step in ("flushed", "renamed", "durable")),
    *("grade.composed", "jobs.advance_graded.written", "jobs.advance_graded.committed", "grade.advanced"),
)
DELIVER = (
    *("jobs.remember_capability.written", "jobs.remember_capability.committed"),  # once: when a peer first says it
    *("jobs.claim_delivery.written", "jobs.claim_delivery.committed", "deliver.claimed", "deliver.connected"),
    *("deliver.stored", "deliver.answered", "jobs.record_document.written", "jobs.record_document.committed"),
    *("deliver.recorded", "deliver.sent"),
    *("jobs.advance_delivery.written", "jobs.advance_delivery.committed", "deliver.advanced"),
)
CHORES = tuple(f"jobs.{step}.{when}" for step in ("free_leases_of", "purgeable") for when in ("written", "committed"))
FLOW = (RECEIVE, GRADE, DELIVER, (*CHECK, *CHORES))
"""Every failpoint on the way of a study from the scanner to the PACS, by process."""


@dataclass
class Round:
    """One node with its PACS and scanners."""

    node: SoakNode
    pacs: RecordingPacs
    sender: Sender
    rng: random.Random
    say: Callable[[str], None]
    server: PostgreSQL | None = None
    disks: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    """Mounted for the round."""
    kills: int = 0
    hits: int = 0
    violations: list[str] = field(default_factory=list)
    """Found on the way."""


class CannotRun(Exception):
    """This machine or this user cannot do what a part needs."""


@contextlib.contextmanager
def revived(a_round: Round) -> Iterator[None]:
    """Afterwards serve runs, whatever was done to it."""
    try:
        yield
    finally:
        if a_round.node.revive():
            a_round.say("  serve started again")


def _send_until_taken(a_round: Round, study: Study) -> None:
    """Also when serve dies of it, again and again."""
    for _ in range(60):
        a_round.node.revive()
        with contextlib.suppress(AssertionError):
            a_round.sender.send(study, limit_s=5)
            return
    raise AssertionError(f"study {study.uid} was never taken")


def kill_at_points(a_round: Round) -> None:
    """A process dies at each failpoint on a study's way; each study meets one of every process."""
    node, before = a_round.node, a_round.hits
    for number, met in enumerate(zip_longest(*FLOW)):
        points = [point for point in met if point is not None]
        for point in points:
            node.arm(point, "self")
        _send_until_taken(a_round, a_round.sender.new_study())  # once: an association keeps its study from being graded

        def all_hit() -> bool:
            node.revive()
            return not node.armed()

        wait_until(all_hit, limit_s=240, what=f"{', '.join(points)} are reached", log=node.log)
        node.revive()
        a_round.hits += len(points)
        if number % 5 == 4:
            a_round.say(f"  {a_round.hits - before} of {sum(map(len, FLOW))} failpoints hit")


def _wait_for_progress(a_round: Round) -> None:
    before = a_round.sender.successes
    wait_until(
        lambda: a_round.sender.successes > before, limit_s=180, what="an instance is taken", log=a_round.node.log
    )


def kill_at_random(a_round: Round, kills: int, *, until: float = float("inf"), longest_s: float = 5.0) -> None:
    """SIGKILL to a random process at random times, serve itself every now and then. ``until`` is a monotonic time.

    AssertionError when there was no time for a single one.
    """
    node, rng = a_round.node, a_round.rng
    with Stream(a_round.sender):
        while a_round.kills < kills and time.monotonic() < until:
            if a_round.kills % 4 == 0:  # on a slow machine too something must be under way
                _wait_for_progress(a_round)
            time.sleep(rng.uniform(0.02, longest_s))
            running = node.processes()
            if not running:
                node.revive()
                continue
            role = "serve" if rng.random() < 0.25 else rng.choice(sorted(running))
            with contextlib.suppress(psutil.NoSuchProcess, KeyError):
                running[role].kill()
                a_round.kills += 1
                if a_round.kills % 50 == 0:
                    a_round.say(f"  {a_round.kills} kills, {len(a_round.sender.acknowledged)} instances acknowledged")
            if role == "serve":
                running["serve"].wait(10)
                node.revive()
        node.revive()
        wait_until(lambda: len(node.processes()) == 4, limit_s=60, what="every process runs", log=node.log)
    assert a_round.kills, "no process was killed in the time that was given"


@contextlib.contextmanager
def small_disk(folder: Path, *, mb: int) -> Iterator[Path]:
    """A file system of its own at ``folder``. CannotRun when this user may not mount one."""
    if os.geteuid() != 0:
        raise CannotRun("mounting a small disk needs root")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    command = [require_tool("mount", "mount"), "-t", "tmpfs", "-o", f"size={mb}m,mode=0700", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:  # root in a container may not either
        raise CannotRun(f"a small disk cannot be mounted: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run([require_tool("umount", "mount"), "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take the last byte of the disk on which the folder lies."""
    filler = folder / ".filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 65536)
    with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0")
    return filler


def disk_full(a_round: Round, folder: Path, *, seconds: float) -> None:
    """The disk at ``folder`` is full for a while, then has room again."""
    with Stream(a_round.sender):
        time.sleep(seconds / 2)
        filler = fill(folder)
        time.sleep(seconds)
        filler.unlink()
        time.sleep(seconds / 2)


def database_locked(a_round: Round, *, seconds: float) -> None:
    """Another process holds SQLite's write lock."""
    with Stream(a_round.sender):
        time.sleep(2)
        blocker = sqlite3.connect(a_round.node.database_url.removeprefix("sqlite:///"), timeout=30)
        try:
            blocker.execute("BEGIN IMMEDIATE")
            time.sleep(seconds)
            blocker.execute("ROLLBACK")
        finally:
            blocker.close()
        time.sleep(2)


def database_gone(a_round: Round, *, seconds: float) -> None:
    """PostgreSQL ends at once, and comes back."""
    assert a_round.server is not None
    with Stream(a_round.sender):
        time.sleep(2)
        a_round.server.stop()
        time.sleep(seconds)
        a_round.server.start()
        time.sleep(2)


def pacs_in_trouble(a_round: Round, *, seconds: float) -> None:
    """The PACS refuses, aborts in the middle of studies, takes no association, is slow, is down; then all is well."""
    with Stream(a_round.sender):
        for mode in ("refuse", "abort", "reject", "slow"):
            a_round.pacs.mode(mode)
            time.sleep(seconds)
        a_round.pacs.stop()
        time.sleep(seconds)
        a_round.pacs.mode("ok")
        a_round.pacs.start()


def line_cut(a_round: Round, *, cuts: int) -> None:
    """The scanner's connection is reset in the middle of instances."""
    with CutLine(a_round.node.port, a_round.rng, at_most=4 * 33_000) as line:
        while line.cuts < cuts:
            study = a_round.sender.new_study()
            with contextlib.suppress(AssertionError):
                a_round.sender.send(study, port=line.port, limit_s=3)
            a_round.sender.send(study)
    a_round.say(f"  {line.cuts} connections reset")
