"""Connections over which nobody asks for an association, or asks for too much; over real sockets."""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Iterator

import pytest

from stenosis_node.receive import listening, receiver
from stenosis_node.receive.associations import OpenAssociations
from stenosis_node.receive.listening import News, SilentConnections
from tests.unit.receive.conftest import Node, StartNode, both_paths
from tests.unit.receive.raw_scu import A_RELEASE_RQ, EXPLICIT, MR, RawScu, associate_rq, p_data
from tests.unit.receive.test_associations import ACCEPTED, REJECTED, echo
from tests.unit.wire.test_framing import request_of

SILENCES = (b"", associate_rq()[:3], associate_rq()[:100], b"\x04\0\0\1\0\0", b"\x01\0\0\2\0\0" + bytes(70_000))


@contextlib.contextmanager
def silent_callers(port: int, number: int) -> Iterator[list[RawScu]]:
    """Connections that say nothing, or not everything."""
    with contextlib.ExitStack() as stack:
        callers = []
        for n in range(number):
            callers.append(stack.enter_context(RawScu(port)))
            with contextlib.suppress(ConnectionError):
                callers[-1].send(SILENCES[n % len(SILENCES)])
        yield callers


def connections(node: Node) -> listening.AssociationServer:
    server = node.receiver._server
    assert server is not None
    return server


@both_paths
def test_a_proper_sender_gets_in_beside_silent_connections(start_node: StartNode) -> None:
    node = start_node(max_associations=4)
    with RawScu(node.port) as idle:
        assert idle.associate()[0] == ACCEPTED
        with silent_callers(node.port, 2 * connections(node).max_connections) as callers:
            for _ in range(3):
                assert echo(node.port)
            assert callers[0].seconds_until_closed(limit_s=5) < 5  # it made room
        idle.send(A_RELEASE_RQ)
        assert idle.read_pdu()[0] == 6


@both_paths
def test_an_address_takes_places_from_itself(start_node: StartNode) -> None:
    node = start_node(max_associations=4)
    where = ("127.0.0.1", node.port)
    with socket.create_connection(where, timeout=10, source_address=("127.0.0.2", 0)) as slow:
        slow.sendall(associate_rq()[:50])
        with silent_callers(node.port, 2 * connections(node).max_connections):
            slow.sendall(associate_rq()[50:])
            assert slow.recv(1)[0] == ACCEPTED


@both_paths
def test_a_request_has_a_deadline_of_its_own(start_node: StartNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "REQUEST_S", 0.5, raising=False)
    node = start_node(network_timeout_s=30)
    with silent_callers(node.port, len(SILENCES)) as callers, RawScu(node.port) as associated:
        assert associated.associate()[0] == ACCEPTED
        for caller in callers:
            assert caller.seconds_until_closed(limit_s=5) < 5
        with RawScu(node.port) as dripping:
            assert dripping.send_until_closed((bytes([b]) for b in associate_rq()), pause_s=0.2) < 5
        associated.send(A_RELEASE_RQ)  # which is not held to it
        assert associated.read_pdu()[0] == 6


@both_paths
@pytest.mark.parametrize(
    "data",
    [
        A_RELEASE_RQ,
        p_data(1, 3, bytes(20)),
        associate_rq()[:7] + b"\x02" + associate_rq()[8:],
        associate_rq()[:100] + b"\xff" * (len(associate_rq()) - 100),
    ],
    ids=["release", "data", "version", "malformed"],
)
def test_who_asks_for_no_association_holds_no_place(start_node: StartNode, data: bytes) -> None:
    node = start_node(max_associations=1)
    for _ in range(2 * connections(node).max_connections):
        with RawScu(node.port) as scu, contextlib.suppress(ConnectionError):
            scu.send(data)
            scu.seconds_until_closed()
    assert echo(node.port)


def test_what_is_closed_from_outside() -> None:
    silent = SilentConnections()
    pairs = [socket.socketpair() for _ in range(4)]
    for (ours, theirs), address in zip(pairs, "abba", strict=True):
        theirs.settimeout(0.1)
        silent.add(ours, address, is_consumed=address == "b")
    consumed = [socket.socket(fileno=pairs[n][0].detach()) for n in (1, 2)]  # as TLS does
    silent.remove(pairs[0][0])

    def closed() -> list[int]:
        found = []
        for number, (_, theirs) in enumerate(pairs):
            with contextlib.suppress(TimeoutError):
                assert theirs.recv(1) == b""
                found.append(number)
        return found

    assert closed() == []
    assert silent.close_one()
    assert closed() == [1]
    assert silent.close_one()
    assert closed() == [1, 2]
    assert silent.close_one()
    assert closed() == [1, 2, 3]
    assert not silent.close_one()
    for sock in (*consumed, *(s for pair in pairs for s in pair)):
        sock.close()


def test_what_is_new() -> None:
    now = 0.0
    news = News(clock=lambda: now)
    assert news.tell("a", "x") == 0
    assert [news.tell("a", "x") for _ in range(5)] == [None] * 5
    assert news.tell("a", "y") == news.tell("b", "x") == 0
    now = 59.9
    assert news.tell("a", "x") is None
    now = 60.0
    assert news.tell("a", "x") == 6
    assert news.tell("a", "x") is None


def closed_connections(caplog: pytest.LogCaptureFixture, event: str) -> list[str]:
    return [r.getMessage() for r in caplog.records if getattr(r, "event", "") == event]


@pytest.mark.parametrize("event", ["connection_refused", "tls_failed", "request_refused"])
def test_closed_connections_are_logged_once_a_minute(
    node: Node, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, event: str
) -> None:
    now = 1000.0
    server = connections(node)
    monkeypatch.setattr(server, "_news", News(clock=lambda: now), raising=False)

    def no_tls(connection: socket.socket) -> socket.socket:
        raise OSError("no certificate")

    if event == "connection_refused":
        monkeypatch.setattr(server, "max_connections", 0)
    elif event == "tls_failed":
        monkeypatch.setattr(server, "secure", no_tls)

    def call() -> None:
        with RawScu(node.port) as scu, contextlib.suppress(ConnectionError):
            scu.send(b"\x01\0\0\x80\0\0")
            scu.seconds_until_closed()

    for _ in range(20):
        call()
    assert len(closed_connections(caplog, event)) == 1
    now += 60
    call()
    (_, again) = closed_connections(caplog, event)
    assert "127.0.0.1" in again
    assert "19 more" in again


@both_paths
def test_a_long_request_that_is_legal(node: Node) -> None:
    syntaxes = [f"1.2.840.10008.1.2.4.{n}" for n in range(101, 155)]
    with RawScu(node.port) as scu:
        scu.send(request_of([(MR, [EXPLICIT, *syntaxes])] * 128))
        answer = scu.read_pdu()
        assert answer[0] == ACCEPTED
        assert answer.count(b"\x40\0\0\x13" + EXPLICIT.encode()) == 128


@both_paths
@pytest.mark.parametrize("request_", [[(MR, [EXPLICIT])] * 3000, [(MR, ["1.2"] * 2000)] * 5], ids=["contexts", "items"])
def test_a_request_of_too_much_is_not_decoded(node: Node, request_: list[tuple[str, list[str]]]) -> None:
    with RawScu(node.port) as scu:
        scu.send(request_of(request_))
        with contextlib.suppress(ConnectionError):
            assert scu.read_pdu() == b""
    assert echo(node.port)


@both_paths
@pytest.mark.parametrize("where", ["admit", "contexts"])
def test_what_goes_wrong_admits_nobody(
    node: Node, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, fast_path: bool, where: str
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the rules are broken")

    if where == "admit":
        monkeypatch.setattr(OpenAssociations, "admit", broken)
    else:
        monkeypatch.setattr(receiver, "supported_contexts", broken)
        monkeypatch.setattr("stenosis_node.receive.fast_path.supported_contexts", broken)
    caplog.set_level(logging.ERROR)
    with RawScu(node.port) as scu:
        answer = b""
        with contextlib.suppress(ConnectionError):
            answer = scu.associate()
        assert answer[:1] in (b"", bytes([REJECTED]))
        assert fast_path or answer[:1] == bytes([REJECTED])
        assert scu.seconds_until_closed(limit_s=5) < 5
    assert "the rules are broken" in caplog.text
    monkeypatch.undo()
    deadline = time.monotonic() + 5
    while not echo(node.port):
        assert time.monotonic() < deadline
