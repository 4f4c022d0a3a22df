from __future__ import annotations

import threading

import pytest

from stenosis_node.errors import LeaseLost, NodeError, PermanentError, TransientError
from stenosis_node.work.keeper import LeaseKeeper, work_until
from stenosis_node.work.policy import Stopping


def test_it_renews_until_the_block_ends_even_when_a_beat_fails() -> None:
    beats: list[int] = []
    enough = threading.Event()

    def renew() -> None:
        beats.append(1)
        if len(beats) == 4:
            enough.set()
        if len(beats) == 2:
            raise TransientError("the database is locked")

    with LeaseKeeper(renew, every_s=0.01, stop=threading.Event()) as keeper:
        assert enough.wait(5)
        keeper.check()
    count = len(beats)
    threading.Event().wait(0.05)

    assert len(beats) == count


def test_a_lost_lease_is_told_at_the_next_check() -> None:
    lost = threading.Event()

    def renew() -> None:
        lost.set()
        raise LeaseLost("x")

    with LeaseKeeper(renew, every_s=0.01, stop=threading.Event()) as keeper:
        keeper.check()
        assert lost.wait(5)
        for _ in range(500):
            try:
                keeper.check()
            except LeaseLost:
                return
            threading.Event().wait(0.01)
    pytest.fail("the loss was never told")


def test_a_stop_is_told_at_the_next_check() -> None:
    stop = threading.Event()

    with LeaseKeeper(lambda: None, every_s=1, stop=stop) as keeper:
        keeper.check()
        stop.set()
        with pytest.raises(Stopping):
            keeper.check()


@pytest.mark.parametrize("error", [ValueError("a bug"), PermanentError("a value does not fit")])
def test_a_beat_that_fails_in_an_unknown_way_does_not_end_the_others(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    beats: list[int] = []
    lost = threading.Event()

    def renew() -> None:
        beats.append(1)
        if len(beats) == 1:
            raise error
        lost.set()
        raise LeaseLost("x")

    with LeaseKeeper(renew, every_s=0.01, stop=threading.Event()) as keeper:
        assert lost.wait(5)
        for _ in range(500):
            if not keeper.may_go_on:
                break
            threading.Event().wait(0.01)
        with pytest.raises(LeaseLost):
            keeper.check()
    assert [record.getMessage() for record in caplog.records] == ["could not renew a lease"]


@pytest.mark.parametrize("kind", [TransientError, PermanentError])
def test_work_goes_on_after_the_database_refused_something(kind: type[NodeError]) -> None:
    stop = threading.Event()
    steps: list[int] = []

    def step() -> bool:
        steps.append(1)
        if len(steps) == 1:
            raise kind("x")
        stop.set()
        return True

    work_until(stop, step, poll_s=0.01)

    assert len(steps) == 2
