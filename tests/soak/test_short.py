"""The short form of the crash and fault suite, for every run of the tests; ``make soak`` is the long one."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest

from stenosis_node.failpoint import POINTS
from tests.soak import parts, scenes
from tests.soak.__main__ import Variant, run, started
from tests.soak.invariant import Bytes, settle
from tests.soak.sender import SLICES, Sender
from tests.soak.servers import RecordingPacs
from tests.soak.trace import Call, TracedNode, read_trace

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]


def test_the_long_form_goes_through_every_point_but_those_that_cannot_be_reached() -> None:
    scenes_ = (*scenes.FIRST, *scenes.SCENES, *scenes.LAST)
    hit = {*chain(*parts.FLOW), *chain(*(scene.points for scene in scenes_))}

    assert hit | scenes.NOT_HIT.keys() == POINTS
    assert not hit & scenes.NOT_HIT.keys()


def test_processes_killed_at_random_lose_and_double_nothing(tmp_path: Path) -> None:
    """On the stock path of reception; the crash tests of tests/acceptance are on the fast one."""
    kills = started(lambda a_round: parts.kill_at_random(a_round, 4, longest_s=2.0))
    row = run("kills", Variant("sqlite", fast_path=False), kills, Bytes(), folder=tmp_path / "kills", seed=1)

    assert row.verdict.violations == []
    assert row.kills == 4
    assert row.verdict.acknowledged > 0


def test_nothing_is_answered_or_sent_before_it_would_survive_a_power_cut(tmp_path: Path) -> None:
    pacs = RecordingPacs(tmp_path / "pacs")
    (tmp_path / "studies").mkdir()
    pacs.start()
    node = TracedNode(tmp_path / "node", pacs.port)
    try:
        node.start()
        sender = Sender(tmp_path / "studies", node.port)
        study = sender.new_study()
        sender.send(study)
        settle(node, sender)
        detail = node.job(study.uid)
    finally:
        node.stop()
        pacs.stop()
    calls = read_trace(node.trace)
    assert detail is not None

    answers = [call for call in calls if call.name == "sendto" and f":{node.port}->" in call.path and _is_pdata(call)]
    arrivals = sorted((_named(calls, uid), uid) for uid in sender.acknowledged)
    assert len(answers) == len(arrivals) == SLICES
    for answer, (link, uid) in zip(answers, arrivals, strict=True):
        _assert_durable_file(calls, calls[link], uid, before=answer)

    result = detail.results[0]
    folder = node.spool / "documents" / result.result_key
    renamed = next(call for call in calls if call.name.startswith("rename") and f'"{folder}"' in call.text)
    temporary = _quoted(renamed)[0]
    for file in sorted(path.name for path in folder.iterdir()):
        written = [call for call in calls if call.name == "write" and call.path == f"{temporary}/{file}"]
        flushed = _first(calls, "fsync", f"{temporary}/{file}", after=written[-1])
        assert flushed.end < renamed.begin
    assert any(call.name == "fsync" and call.path == temporary and call.end < renamed.begin for call in calls)
    kept = _first(calls, "fsync", str(folder.parent), after=renamed)
    committed = _committed(calls, result.result_key, after=kept)
    for receipt in detail.deliveries[0].receipts:
        uid = receipt.sop_instance_uid
        sent = [c for c in calls if c.name == "sendto" and f":{pacs.port}]" in c.path and uid in c.text]
        assert sent, uid
        assert committed.end < sent[0].begin


def _is_pdata(call: Call) -> bool:
    return ', "\\4\\0' in call.text


def _quoted(call: Call) -> list[str]:
    return call.text.split('"')[1::2]


def _named(calls: list[Call], uid: str) -> int:
    """Index of the call that gave an instance its name."""
    return next(i for i, call in enumerate(calls) if call.name.startswith("link") and f'/{uid}.dcm"' in call.text)


def _first(calls: list[Call], name: str, path: str, *, after: Call) -> Call:
    found = [call for call in calls if call.name == name and call.path == path and call.begin > after.end]
    assert found, f"no {name} of {path}"
    return found[0]


def _committed(calls: list[Call], text: str, *, after: Call) -> Call:
    """The flush of the database's log that follows the first writing of a row with this text."""
    written = [
        call
        for call in calls
        if call.name == "pwrite64" and call.path.endswith("-wal") and text in call.text and call.begin > after.end
    ]
    assert written, f"no row with {text}"
    of_log = [c for c in calls if c.name in ("fsync", "fdatasync") and c.path.endswith("-wal")]
    flushes = [c for c in of_log if c.begin > written[0].end]
    assert flushes, "the log of the database is never flushed"
    return flushes[0]


def _assert_durable_file(calls: list[Call], link: Call, uid: str, *, before: Call) -> None:
    """The bytes are flushed before they have a name, the name before the row is, the row before the answer."""
    opened, final = _quoted(link)[:2]  # a link of /proc to a descriptor, or a temporary name
    if opened.startswith("/proc/"):
        number = int(opened.rpartition("/")[2])
        earlier = [c for c in calls if c.descriptor == number and "/instances/#" in c.path and c.end < link.begin]
        opened = earlier[-1].path
    written = [c for c in calls if c.name.startswith(("write", "pwrite")) and c.path == opened]
    flushed = _first(calls, "fsync", opened, after=written[-1])
    assert flushed.end < link.begin
    folder = _first(calls, "fsync", str(Path(final).parent), after=link)
    assert _committed(calls, uid, after=folder).end < before.begin
