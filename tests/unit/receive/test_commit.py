"""Group commit: everything queued in one call, and one bad arrival fails alone."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from stenosis_node.domain import ReceivedInstance
from stenosis_node.errors import TransientError
from stenosis_node.jobs import BeingDeleted
from stenosis_node.receive.commit import Arrival, Committer


def arrival(number: int) -> Arrival:
    received = ReceivedInstance(
        study_instance_uid="1",
        series_instance_uid="1.1",
        sop_instance_uid=str(number),
        sop_class_uid="1.2",
        transfer_syntax_uid="1.2",
        path=Path("x"),
        size_bytes=1,
        sha256="",
        calling_ae_title="A",
        received_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    return Arrival(received, conflict=False)


@pytest.mark.parametrize("blame", [ValueError, BeingDeleted])
def test_what_queues_up_is_committed_together_and_failures_stay_apart(blame: type[Exception]) -> None:
    entered, go = threading.Event(), threading.Event()
    groups: list[list[str]] = []

    def touch(group: Sequence[Arrival]) -> None:
        uids = [a.received.sop_instance_uid for a in group]
        groups.append(uids)
        entered.set()
        assert go.wait(5)
        if "3" in uids:
            raise blame("number 3")

    committer = Committer(touch)
    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(committer.commit, arrival(0))
        assert entered.wait(5)
        others = [pool.submit(committer.commit, arrival(n)) for n in range(1, 6)]
        while committer.waiting < 5:
            threading.Event().wait(0.01)
        go.set()
        first.result(5)
        failed = [f.exception(5) for f in others]
    assert groups[0] == ["0"]
    assert sorted(groups[1]) == ["1", "2", "3", "4", "5"]
    assert [type(error) for error in failed] == [type(None), type(None), blame, type(None), type(None)]


def test_a_database_that_is_away_is_asked_once_for_the_whole_group() -> None:
    entered, go = threading.Event(), threading.Event()
    sizes: list[int] = []

    def touch(group: Sequence[Arrival]) -> None:
        sizes.append(len(group))
        entered.set()
        assert go.wait(5)
        raise TransientError("database is locked")

    committer = Committer(touch)
    with ThreadPoolExecutor(9) as pool:
        waiting = [pool.submit(committer.commit, arrival(0))]
        assert entered.wait(5)
        waiting += [pool.submit(committer.commit, arrival(n)) for n in range(1, 9)]
        while committer.waiting < 8:
            threading.Event().wait(0.01)
        go.set()
        assert all(isinstance(f.exception(5), TransientError) for f in waiting)
    assert sizes == [1, 8]
