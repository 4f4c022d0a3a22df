"""``make soak``: every part on SQLite and PostgreSQL, with the fast path of reception on and off; docs/soak.md."""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from stenosis_node.errors import NodeError
from tests.soak import parts
from tests.soak.invariant import Bytes, Verdict, check, settle
from tests.soak.parts import Round
from tests.soak.sender import Sender
from tests.soak.servers import PostgreSQL, RecordingPacs, SoakNode

PARTS = ("points", "kills", "disk", "database", "pacs", "line")


@dataclass(frozen=True)
class Variant:
    """What a part runs on."""

    database: str
    fast_path: bool

    def __str__(self) -> str:
        return f"{self.database}, fast path {'on' if self.fast_path else 'off'}"


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
def opened(folder: Path, variant: Variant, seed: int) -> Iterator[Round]:
    """A running node with everything around it."""
    server = PostgreSQL(folder) if variant.database == "postgresql" else None
    pacs = RecordingPacs(folder / "pacs")
    node: SoakNode | None = None
    disks = contextlib.ExitStack()
    try:
        if server is not None:
            server.start()
        pacs.start()
        url = None if server is None else server.url
        node = SoakNode(folder / "node", pacs.port, database_url=url, fast_path=variant.fast_path)
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


def run(name: str, variant: Variant, work: Callable[[Round], None], seen: Bytes, *, folder: Path, seed: int) -> Row:
    """One part on a node of its own; the verdict when it came to rest."""
    folder.mkdir()
    (folder / "studies").mkdir()
    say(f"{name} ({variant})")
    begun = time.monotonic()
    with opened(folder, variant, seed) as a_round:
        try:
            work(a_round)
            settle(a_round.node, a_round.sender)
            verdict = check(a_round.node, a_round.sender, a_round.pacs, seen)
            verdict.violations += after_rest(a_round)
        except AssertionError as error:
            verdict = Verdict()
            with contextlib.suppress(NodeError):  # what it wrote may be on a disk that is gone by now
                verdict = check(a_round.node, a_round.sender, a_round.pacs, seen)
            verdict.violations.insert(0, str(error)[:4000])
        row = Row(name, variant, time.monotonic() - begun, a_round.kills, a_round.hits, verdict)
    say(f"  {row.kills} kills, {row.hits} points, {verdict.acknowledged} acknowledged, {len(verdict.violations)} bad")
    for violation in verdict.violations[:20]:
        say(f"  VIOLATION {violation}")
    return row


def after_rest(a_round: Round) -> list[str]:
    """What fsck finds in a node that stopped in order and was repaired; nothing is right."""
    a_round.node.stop()
    a_round.node.fsck("--repair")
    found = a_round.node.fsck("--deep", "--json")
    if found.returncode == 0:
        return []
    return [f"fsck: {one}" for one in json.loads(found.stdout or '{"findings": ["no answer"]}')["findings"]][:10]


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


def plan(options: argparse.Namespace) -> Iterator[tuple[str, Variant, Callable[[Round], None]]]:
    """The parts in order."""
    only = set(options.only or PARTS)
    databases = options.database or ["sqlite", "postgresql"]
    paths = {"on": [True], "off": [False], "both": [True, False]}[options.fast_path]
    variants = [Variant(database, fast) for database in databases for fast in paths]
    share = max(1, options.kills // len(variants))
    for variant in variants:
        if "points" in only:
            yield "points", variant, started(parts.kill_at_points)
        if "kills" in only:
            until = time.monotonic() + 60 * options.minutes / len(variants) if options.minutes else float("inf")
            killing = partial(parts.kill_at_random, kills=share, until=until, longest_s=options.pause)
            yield "kills", variant, started(killing)
        if "disk" in only and variant.database == "sqlite":
            for what in ("spool", "documents", "database"):
                yield f"disk full: {what}", variant, full_disk_of(what, options.seconds)
        if "database" in only:
            away = parts.database_locked if variant.database == "sqlite" else parts.database_gone
            yield "database away", variant, started(partial(away, seconds=options.seconds))
        if "pacs" in only:
            yield "PACS in trouble", variant, started(partial(parts.pacs_in_trouble, seconds=options.seconds / 2))
        if "line" in only:
            yield "line cut", variant, started(partial(parts.line_cut, cuts=options.cuts))


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
    """Exit code 0 when nothing was violated."""
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

    rows: list[Row] = []
    seen = Bytes()
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        folder.mkdir(parents=True, exist_ok=True)
        try:
            for number, (name, variant, work) in enumerate(plan(options)):
                where = folder / f"{number:02d}"
                rows.append(run(name, variant, work, seen, folder=where, seed=options.seed + number))
        except (KeyboardInterrupt, PermissionError) as error:
            say(f"stopped: {error or 'interrupted'}")
        print("\n" + table(rows) + "\n")
    bad = sum(len(row.verdict.violations) for row in rows)
    total = sum(row.verdict.acknowledged for row in rows)
    print(
        f"{sum(row.kills for row in rows)} kills, {total} instances acknowledged, {bad} violations, seed {options.seed}"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
