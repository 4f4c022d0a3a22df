"""What one peer can make the receiving process hold is bounded, and the bound is stated (docs/decisions/0014)."""

from __future__ import annotations

import contextlib
import struct
import time

import pytest

from tests.hostile.conftest import LONG
from tests.hostile.datasets import instance, uid
from tests.hostile.peer import ASSOCIATE_AC, SUCCESS, Caller, associated, latency_s, store_pdus
from tests.hostile.target import MB, OBJECT_MB, Target
from tests.unit.receive.raw_scu import A_ABORT, EXPLICIT, MR, associate_rq, c_store_rq, p_data
from tests.unit.wire.test_framing import request_of

PROPER = instance(EXPLICIT, 0)
FLOOD = (1000 if LONG else 150) * MB
"""More than all that :func:`bounded` allows."""


def bounded(target: Target) -> bool:
    """Whether no more was held at any time than 1.5 times what an idle process holds, and one instance three times."""
    assert 0.5 * target.idle_memory + 3 * OBJECT_MB * MB < FLOOD
    return target.peak_memory < 1.5 * target.idle_memory + 3 * OBJECT_MB * MB


def flood(caller: Caller, piece: bytes, *, total: int = FLOOD) -> int:
    """Send the piece again and again until it is not taken any more; how many bytes were."""
    caller.socket.settimeout(3)
    sent = 0
    with contextlib.suppress(OSError):
        while sent < total:
            caller.send(piece)
            sent += len(piece)
    return sent


def test_a_pdu_that_claims_four_gigabytes(target: Target) -> None:
    for associated_first in (True, False):
        for kind in (1, 2, 4, 5, 7):
            with Caller(target.port) as caller:
                if associated_first:
                    assert caller.associate()[0] == ASSOCIATE_AC
                caller.send(bytes([kind, 0]) + b"\xff\xff\xff\xf0")
                assert flood(caller, bytes(1 << 20)) < 20 * MB, kind
    assert bounded(target)


def test_endless_fragments_of_a_data_set(target: Target) -> None:
    with associated(target.port) as caller:
        caller.send(p_data(1, 3, c_store_rq(MR, uid(0))))
        sent = flood(caller, p_data(1, 0, bytes(100_000)))
        print(f"{target.name}: {sent / MB:.0f} MB taken")
    assert bounded(target)


def test_endless_fragments_of_a_command(target: Target) -> None:
    with associated(target.port) as caller:
        flood(caller, p_data(1, 1, bytes(100_000)))
    assert bounded(target)


def test_endless_fragments_beside_a_command(target: Target) -> None:
    """Each PDU begins with an empty piece of a command."""
    body = struct.pack(">LBB", 2, 1, 1) + struct.pack(">LBB", 100_002, 1, 0) + bytes(100_000)
    with associated(target.port) as caller:
        caller.send(p_data(1, 3, c_store_rq(MR, uid(0))))
        flood(caller, struct.pack(">BBL", 4, 0, len(body)) + body)
    assert bounded(target)


def test_requests_that_do_not_wait_for_their_answer(target: Target) -> None:
    """Nobody may, without having asked for asynchronous operations; what came is not kept in memory without bound."""
    ds = PROPER + struct.pack("<HH2sHL", 0x7FE1, 0x0010, b"OB", 0, 4 * MB) + bytes(4 * MB)
    with associated(target.port) as caller:
        flood(caller, store_pdus(ds, uid(0)))
    assert bounded(target)


def test_too_large_an_object_is_refused_and_the_next_one_stored(target: Target) -> None:
    ds = PROPER + struct.pack("<HH2sHL", 0x7FE1, 0x0010, b"OB", 0, 12 * MB) + bytes(12 * MB)
    with associated(target.port) as caller:
        assert caller.store(ds, uid(0)) == 0xA700
        assert caller.store(PROPER, uid(0)) == SUCCESS
        caller.release()
    assert bounded(target)
    assert target.stored(uid(0)) == [PROPER]


@pytest.mark.parametrize("contexts", [128, 129, 3000, 15_000])
def test_a_request_of_many_contexts(target: Target, contexts: int) -> None:
    """As many as there are context IDs, or more; others are served meanwhile."""
    syntaxes = ["1.2.840.10008.1.2"] if contexts > 128 else [f"1.2.840.10008.1.2.4.{n}" for n in range(100, 160)]
    request = request_of([("1.2.840.10008.1.1", syntaxes)] * contexts)
    with Caller(target.port) as caller, associated(target.port) as other:
        begin = time.monotonic()
        with contextlib.suppress(ConnectionError):
            caller.send(request)
        assert other.store(PROPER, uid(0)) == SUCCESS
        served = time.monotonic() - begin
        caller.socket.settimeout(60)
        answer = b""
        with contextlib.suppress(ConnectionError):
            answer = caller.read_pdu()
        taken = time.monotonic() - begin
        print(f"{target.name}: others served after {served:.2f} s, answered after {taken:.1f} s")
        other.release()
    assert answer[:1] == (b"\x02" if contexts == 128 else b"")
    assert taken < 60
    assert bounded(target)


def _event_report() -> bytes:
    def one(number: int, value: bytes) -> bytes:
        return struct.pack("<HHL", 0, number, len(value)) + value

    body = (
        one(0x0002, b"1.2.840.10008.1.20.1")
        + one(0x0100, b"\0\x01")
        + one(0x0110, b"\1\0")
        + one(0x0800, b"\1\1")
        + one(0x1000, b"1.2.840.10008.1.20.1.1")
        + one(0x1002, b"\1\0")
    )
    return p_data(1, 3, one(0, struct.pack("<L", len(body))) + body)


def test_requests_of_other_services(target: Target) -> None:
    """Thousands of event reports nobody asked for do not become as many threads."""
    most = 0
    with associated(target.port) as caller:
        caller.socket.settimeout(5)
        with contextlib.suppress(OSError):
            for _ in range(40):
                caller.send(_event_report() * 50)
                most = max(most, target.threads)
    assert most < target.idle_threads + 20, most
    assert bounded(target)


def test_ends_at_every_point(target: Target) -> None:
    """Of a request and a C-STORE: nothing is left of what did not arrive whole."""
    stream = associate_rq() + store_pdus(PROPER, uid(0), fragment=600)
    ways = ("abort", "close", "reset")
    for n, end in enumerate(range(1, len(stream), 17 if LONG else 101)):
        for how in ways if LONG else ways[n % 3 :][:1]:
            with Caller(target.port) as caller, contextlib.suppress(ConnectionError):
                caller.send(stream[:end] + (A_ABORT if how == "abort" else b""))
                if how == "reset":
                    caller.reset()
    target.settle()
    assert target.stored(uid(0)) == []
    assert target.quarantined() == {}
    assert list(target.spool.root.rglob(".tmp-*")) == []
    assert latency_s(target.port, PROPER, uid(0), n=1) > 0
