"""``make soak``: every part on SQLite and PostgreSQL, with the fast path of reception on and off; docs/soak.md."""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from stenosis_node.errors import NodeError
from tests.soak import parts, power_cut, scenes
from tests.soak.invariant import Bytes, Verdict, check, losses, settle
from tests.soak.parts import CannotRun, Round
from tests.soak.sender import Sender
from tests.soak.servers import PostgreSQL, RecordingPacs, SoakNode
from tests.soak.trace import TracedNode

PARTS = ("power", "points", "kills", "disk", "database", "pacs", "line")
DISKS = {"sqlite": ("spool", "documents", "database"), "postgresql": ("spool", "documents")}
"""What may be on a full disk, by database: PostgreSQL ends by itself when its own disk is full."""


@dataclass(frozen=True)
class Variant:
    """What a part runs on."""

    database: str
    fast_path: bool

    def __str__(self) -> str:
        return f"{self.database}, fast path {'on' if self.fast_path else 'off'}"


@dataclass(frozen=True)
class Part:
    """Something that was asked for."""

    name: str
    variant: Variant
    work: Callable[[Round], None]
    kind: type[SoakNode] = SoakNode

    def __str__(self) -> str:
        return f"{self.name} ({self.variant})"


@dataclass(frozen=True)
class Missed:
    """A part that did not run to its end."""

    part: Part
    why: str


@dataclass(frozen=True)
class Row:
    """A line of the table at the end."""

    part: str
    variant: Variant
    seconds: float
    kills: int
    hits: int
    verdict: Verdict


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


@contextlib.contextmanager
def opened(folder: Path, variant: Variant, seed: int, kind: type[SoakNode] = SoakNode) -> Iterator[Round]:
    """A node with everything around it."""
    server = PostgreSQL(folder) if variant.database == "postgresql" else None
    pacs = RecordingPacs(folder / "pacs")
    node: SoakNode | None = None
    disks = contextlib.ExitStack()
    try:
        if server is not None:
            server.start()
        pacs.start()
        url = None if server is None else server.url
        node = kind(folder / "node", pacs.port, database_url=url, fast_path=variant.fast_path)
        sender = Sender(folder / "studies", node.port)
        yield Round(node, pacs, sender, random.Random(seed), say, server, disks)
    finally:
        if node is not None:
            with contextlib.suppress(Exception):
                node.stop()
        disks.close()
        pacs.stop()
        if server is not None:
            server.remove()


def run(part: Part, seen: Bytes, *, folder: Path, seed: int) -> Row:
    """One part on a node of its own; the verdict when it came to rest."""
    folder.mkdir()
    (folder / "studies").mkdir()
    say(str(part))
    begun = time.monotonic()
    with opened(folder, part.variant, seed, part.kind) as a_round:
        try:
            part.work(a_round)
            settle(a_round.node, a_round.sender)
            verdict = check(a_round.node, a_round.sender, a_round.pacs, seen)
            verdict.violations += a_round.violations + after_rest(a_round)
            if not verdict.acknowledged:
                verdict.violations.append("no instance was acknowledged: this run shows nothing")
        except AssertionError as error:
            verdict = Verdict()
            with contextlib.suppress(NodeError):  # what it wrote may be on a disk that is gone by now
                verdict = check(a_round.node, a_round.sender, a_round.pacs, seen)
            verdict.violations.insert(0, str(error)[:4000])
        row = Row(part.name, part.variant, time.monotonic() - begun, a_round.kills, a_round.hits, verdict)
    say(f"  {row.kills} kills, {row.hits} points, {verdict.acknowledged} acknowledged, {len(verdict.violations)} bad")
    for violation in verdict.violations[:20]:
        say(f"  VIOLATION {violation}")
    return row


def after_rest(a_round: Round) -> list[str]:
    """What is lost in a node that stopped in order, and what a repair leaves behind.

    Losses are looked for before the repair, which writes some of them down and then finds nothing any more.
    """
    node = a_round.node
    node.stop()
    wrong = losses(node.findings("--deep"), a_round.sender.acknowledged)
    node.findings("--deep", "--repair")
    left = [one for one in node.findings("--deep") if one["is_problem"]]
    return wrong + [f"fsck, after a repair: {one['about']}: {one['sentence']}" for one in left]


def started(work: Callable[[Round], None]) -> Callable[[Round], None]:
    """The part with the node running first."""

    def starting(a_round: Round) -> None:
        a_round.node.start()
        work(a_round)

    return starting


def full_disk_of(what: str, seconds: float) -> Callable[[Round], None]:
    """The part with one of the folders on a small disk of its own."""

    def work(a_round: Round) -> None:
        node = a_round.node
        folder = {"spool": node.spool, "documents": node.spool / "documents", "database": node.folder / "database"}
        node.settings["receive"]["min_free_mb"] = 0  # to the last byte: the watermark would refuse everything before
        disk = a_round.disks.enter_context(parts.small_disk(folder[what], mb=256))
        if what == "database":
            node.database_url = f"sqlite:///{disk / 'jobs.db'}"
            node.settings["jobs"]["database_url"] = node.database_url
        node.start()
        parts.disk_full(a_round, disk, seconds=seconds)

    return work


def kills_within(seconds: float, kills: int, longest_s: float) -> Callable[[Round], None]:
    """SIGKILLs; their time begins with the part."""

    def work(a_round: Round) -> None:
        a_round.node.restart_soon()
        a_round.node.start()
        parts.kill_at_random(a_round, kills, until=time.monotonic() + seconds, longest_s=longest_s)

    return work


def plan(options: argparse.Namespace) -> Iterator[Part]:
    """The parts in order."""
    only = set(options.only or PARTS)
    databases = options.database or ["sqlite", "postgresql"]
    paths = {"on": [True], "off": [False], "both": [True, False]}[options.fast_path]
    variants = [Variant(database, fast) for database in databases for fast in paths]
    share = max(1, options.kills // len(variants))
    for variant in variants:
        if "power" in only:
            yield Part("power cut", variant, started(power_cut.order_of_calls), TracedNode)
        if "points" in only:
            yield Part("points", variant, scenes.of_everything)
        if "kills" in only:
            seconds = 60 * options.minutes / len(variants) if options.minutes else float("inf")
            yield Part("kills", variant, kills_within(seconds, share, options.pause))
        if "disk" in only:
            for what in DISKS[variant.database]:
                yield Part(f"disk full: {what}", variant, full_disk_of(what, options.seconds))
        if "database" in only:
            away = parts.database_locked if variant.database == "sqlite" else parts.database_gone
            yield Part("database away", variant, started(partial(away, seconds=options.seconds)))
        if "pacs" in only:
            trouble = partial(parts.pacs_in_trouble, seconds=options.seconds / 2)
            yield Part("PACS in trouble", variant, started(trouble))
        if "line" in only:
            yield Part("line cut", variant, started(partial(parts.line_cut, cuts=options.cuts)))


def carry_out(planned: Sequence[Part], one: Callable[[int, Part], Row]) -> tuple[list[Row], list[Missed]]:
    """Every part in turn, also after one that cannot run; what did not run to its end, and why."""
    rows: list[Row] = []
    missed: list[Missed] = []
    for number, part in enumerate(planned):
        try:
            rows.append(one(number, part))
        except (CannotRun, pytest.skip.Exception, pytest.fail.Exception) as error:  # the latter for a missing program
            missed.append(Missed(part, str(error)))
            say(f"  SKIPPED: {error}")
        except KeyboardInterrupt:
            missed += [Missed(left, "interrupted") for left in planned[number:]]
            break
        except Exception as error:
            traceback.print_exc()
            missed.append(Missed(part, f"broke off: {error!r}"[:500]))
    return rows, missed


def table(rows: list[Row]) -> str:
    """The rows, aligned."""
    head = ["part", "on", "s", "kills", "points", "acknowledged", "studies", "documents", "repeats", "revisions", "bad"]
    lines = [head]
    for row in rows:
        v = row.verdict
        numbers = (v.acknowledged, v.studies, v.documents, v.repeats, v.revisions, len(v.violations))
        lines.append(
            [row.part, str(row.variant), f"{row.seconds:.0f}", *map(str, (row.kills, row.hits)), *map(str, numbers)]
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def main() -> int:
    """Exit code 0 when everything that was asked for ran, and nothing was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seed", type=int, default=6)
    parser.add_argument("--kills", type=int, default=2000, help="SIGKILLs in all, shared by the variants")
    parser.add_argument("--minutes", type=float, default=0, help="of kills at most, in all; 0: as long as they take")
    parser.add_argument("--pause", type=float, default=5, help="longest time between kills, in seconds")
    parser.add_argument("--seconds", type=float, default=60, help="that a disk is full or the database is away")
    parser.add_argument("--cuts", type=int, default=100, help="connections reset per variant")
    parser.add_argument("--only", action="append", choices=PARTS)
    parser.add_argument("--database", action="append", choices=("sqlite", "postgresql"))
    parser.add_argument("--fast-path", choices=("on", "off", "both"), default="both")
    parser.add_argument("--folder", type=Path, help="where the spools go and stay; default: a temporary folder")
    options = parser.parse_args()

    seen = Bytes()
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        folder.mkdir(parents=True, exist_ok=True)

        def one(number: int, part: Part) -> Row:
            where = folder / f"{number:02d}"
            return run(part, seen, folder=where, seed=options.seed + number)

        rows, missed = carry_out(list(plan(options)), one)
        print("\n" + table(rows) + "\n")
    bad = sum(len(row.verdict.violations) for row in rows)
    total = sum(row.verdict.acknowledged for row in rows)
    print(
        f"{sum(row.kills for row in rows)} kills, {total} instances acknowledged, {bad} violations, seed {options.seed}"
    )
    for left in missed:
        print(f"NOT RUN: {left.part}: {left.why}")
    return 0 if rows and not bad and not missed else 1


if __name__ == "__main__":
    sys.exit(main())
