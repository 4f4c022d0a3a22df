"""Group commit: everything queued in one call, and one bad arrival fails alone."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from stenosis_node.domain import ReceivedInstance
from stenosis_node.errors import TransientError
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


def test_what_queues_up_is_committed_together_and_failures_stay_apart() -> None:
    entered, go = threading.Event(), threading.Event()
    groups: list[list[str]] = []

    def touch(group: Sequence[Arrival]) -> None:
        uids = [a.received.sop_instance_uid for a in group]
        groups.append(uids)
        entered.set()
        assert go.wait(5)
        if "3" in uids:
            raise TransientError("number 3")

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
    assert [type(error) for error in failed] == [type(None), type(None), TransientError, type(None), type(None)]
