"""What survives if the power fails, from the system calls of a whole node: bytes, name and row, then the answer.

PostgreSQL answers COMMIT when its log is on the disk (``fsync`` and ``synchronous_commit`` are looked at); that answer
is what must have come before anything is said to a scanner or a PACS.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg
from pydicom import dcmread
from pydicom.dataset import Dataset

from stenosis_node.receive.fast_path import SPILL_BYTES
from tests.soak.invariant import settle
from tests.soak.parts import Round
from tests.soak.trace import Call, TracedNode, read_trace

LARGE_BYTES: Final = SPILL_BYTES + (2 << 20)


def order_of_calls(a_round: Round) -> None:
    """Send slices and one object that goes to the disk while it arrives; then the order of the node's calls.

    AssertionError where something was answered or sent that a power cut could have taken back.
    """
    node, sender = a_round.node, a_round.sender
    assert isinstance(node, TracedNode)
    database = _Sqlite()
    if a_round.server is not None:
        _check_durability(a_round.server.url)
        database = _Server(a_round.server.port)
    study = sender.new_study()
    _make_large(study.files[0])
    sender.send(study)
    settle(node, sender)
    detail = node.job(study.uid)
    assert detail is not None
    node.stop()
    order = _Order(read_trace(node.trace), database)

    answers = [c for c in order.calls if c.name == "sendto" and f":{node.port}->" in c.path and _is_pdata(c)]
    arrivals = sorted((order.named(uid), uid) for uid in sender.acknowledged)
    assert len(answers) == len(arrivals), f"{len(answers)} answers to {len(arrivals)} instances"
    pieces = [
        order.check_instance(order.calls[link], uid, before=a) for a, (link, uid) in zip(answers, arrivals, strict=True)
    ]
    assert max(pieces) >= 3 or not node.settings["receive"]["fast_path"], (
        f"no object went to the disk while it arrived: {pieces} writes"
    )

    result = detail.results[0]
    kept = order.check_documents(node.spool / "documents" / result.result_key)
    committed = order.committed(result.result_key, after=kept)
    for receipt in detail.deliveries[0].receipts:
        uid = receipt.sop_instance_uid
        sent = [c for c in order.calls if c.name == "sendto" and f":{a_round.pacs.port}]" in c.path and uid in c.text]
        assert sent, f"document {uid} was never sent"
        assert committed.end < sent[0].begin, f"document {uid} was sent before its row was durable"
    a_round.say(
        f"  {len(arrivals)} answers and {len(detail.deliveries[0].receipts)} documents sent, each after its row"
    )


def _make_large(path: Path) -> None:
    """Let a slice be larger than what reception collects in memory."""
    dataset = dcmread(path)
    block = Dataset()
    block.add_new(0x00091001, "OB", bytes(LARGE_BYTES))
    dataset.private_block(0x0009, "SOAK", create=True)
    dataset.add(block[0x00091001])
    dataset.save_as(path, enforce_file_format=True)


def _check_durability(url: str) -> None:
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        for setting in ("fsync", "synchronous_commit"):
            row = connection.execute(f"SHOW {setting}").fetchone()
            assert row == ("on",), f"{setting} of the server is {row}"


class _Sqlite:
    """A row is durable when the log it was written to is flushed."""

    def committed(self, calls: list[Call], text: str, *, after: Call) -> Call:
        """The call after which a row with this text, written after another call, survives."""
        logs = [call for call in calls if call.path.endswith("-wal")]
        written = [c for c in logs if c.name == "pwrite64" and text in c.text and c.begin > after.end]
        assert written, f"no row with {text}"
        flushes = [c for c in logs if c.name in ("fsync", "fdatasync") and c.begin > written[0].end]
        assert flushes, "the log of the database is never flushed"
        return flushes[0]


class _Server(_Sqlite):
    """A row is durable when PostgreSQL has answered the COMMIT that follows it on its connection."""

    def __init__(self, port: int) -> None:
        self._port = port

    def committed(self, calls: list[Call], text: str, *, after: Call) -> Call:
        """The call that brought the answer."""
        asked = [c for c in calls if c.name == "sendto" and f":{self._port}]" in c.path and c.begin > after.end]
        written = [c for c in asked if text in c.text and "INSERT" in c.text]
        assert written, f"no row with {text}"
        for ask in asked:
            if ask.path == written[0].path and ask.begin >= written[0].begin and "COMMIT" in ask.text:
                answers = [c for c in calls if c.name == "recvfrom" and c.path == ask.path and c.begin > ask.begin]
                return next(answer for answer in answers if "COMMIT" in answer.text)
        raise AssertionError(f"the row with {text} is never committed")


@dataclass(frozen=True)
class _Order:
    """The calls of a node, and what of them is durable when."""

    calls: list[Call]
    database: _Sqlite

    def committed(self, text: str, *, after: Call) -> Call:
        """The call after which the row with this text survives."""
        return self.database.committed(self.calls, text, after=after)

    def named(self, uid: str) -> int:
        """Index of the call that gave an instance its name."""
        return next(i for i, c in enumerate(self.calls) if c.name.startswith("link") and f'/{uid}.dcm"' in c.text)

    def check_instance(self, link: Call, uid: str, *, before: Call) -> int:
        """The bytes are flushed before they have a name, the name before the row is, the row before the answer.

        Returns in how many calls the bytes were written.
        """
        opened, final = _quoted(link)[:2]  # a link of /proc to a descriptor, or a temporary name
        if opened.startswith("/proc/"):
            number = int(opened.rpartition("/")[2])
            earlier = [c for c in self.calls if c.descriptor == number and "/instances/#" in c.path]
            opened = [c for c in earlier if c.end < link.begin][-1].path
        written = [c for c in self.calls if c.name.startswith(("write", "pwrite")) and c.path == opened]
        flushed = self.first("fsync", opened, after=written[-1])
        assert flushed.end < link.begin, f"instance {uid} has its name before its bytes are durable"
        folder = self.first("fsync", str(Path(final).parent), after=link)
        assert self.committed(uid, after=folder).end < before.begin, f"instance {uid} is answered before it is durable"
        return len(written)

    def check_documents(self, folder: Path) -> Call:
        """Every document is flushed, and their folder, before it has its name; the flush of that name."""
        renamed = next(c for c in self.calls if c.name.startswith("rename") and f'"{folder}"' in c.text)
        temporary = _quoted(renamed)[0]
        for file in sorted(path.name for path in folder.iterdir()):
            written = [c for c in self.calls if c.name == "write" and c.path == f"{temporary}/{file}"]
            flushed = self.first("fsync", f"{temporary}/{file}", after=written[-1])
            assert flushed.end < renamed.begin, f"document {file} has its name before its bytes are durable"
        assert any(c.name == "fsync" and c.path == temporary and c.end < renamed.begin for c in self.calls)
        return self.first("fsync", str(folder.parent), after=renamed)

    def first(self, name: str, path: str, *, after: Call) -> Call:
        """The first call of this name on this path after another one."""
        found = [c for c in self.calls if c.name == name and c.path == path and c.begin > after.end]
        assert found, f"no {name} of {path}"
        return found[0]


def _is_pdata(call: Call) -> bool:
    return ', "\\4\\0' in call.text


def _quoted(call: Call) -> list[str]:
    return call.text.split('"')[1::2]
