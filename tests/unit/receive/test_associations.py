"""Associations that are refused, abandoned, abused; over real sockets."""

from __future__ import annotations

import errno
import logging
import socket
import subprocess
import threading
import time
from pathlib import Path

import psutil
import pytest
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.presentation import build_context

from stenosis_node.errors import ConfigError
from stenosis_node.receive import Receiver
from stenosis_node.wire import MAX_PDU_BYTES
from tests.conftest import require_tool
from tests.unit.receive.conftest import STUDY, Node, StartNode, both_paths, dataset_of, make_instance
from tests.unit.receive.raw_scu import (
    A_ABORT,
    A_RELEASE_RQ,
    EXPLICIT,
    MR,
    RawScu,
    associate_rq,
    c_store_rq,
    p_data,
)

ACCEPTED, REJECTED = 2, 3


def echo(port: int) -> bool:
    """Whether the receiver serves a proper caller."""
    association = AE("ECHO").associate(
        "127.0.0.1", port, ae_title="STENOSIS", contexts=[build_context("1.2.840.10008.1.1")]
    )
    if not association.is_established:
        return False
    ok = association.send_c_echo().get("Status") == 0
    association.release()
    return bool(ok)


@both_paths
def test_wrong_called_ae_title(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with RawScu(node.port) as scu:
        answer = scu.associate(called="WRONG")
        assert (answer[0], *answer[7:10]) == (REJECTED, 1, 1, 7)
        scu.seconds_until_closed()
    assert "'RAW' called 'WRONG', but this node is 'STENOSIS'" in caplog.text
    tool = require_tool("echoscu", "dcmtk")
    said = subprocess.run([tool, "-v", "-aec", "WRONG", "127.0.0.1", str(node.port)], check=False, capture_output=True)
    assert said.returncode != 0
    assert "Called AE Title Not Recognized" in (said.stdout + said.stderr).decode()


@both_paths
def test_calling_ae_titles(start_node: StartNode) -> None:
    node = start_node(calling_ae_titles=("PACS",))
    with RawScu(node.port) as scu:
        answer = scu.associate(calling="STRANGER")
        assert (answer[0], *answer[7:10]) == (REJECTED, 1, 1, 3)
    with RawScu(node.port) as scu:
        assert scu.associate(calling="PACS")[0] == ACCEPTED


@both_paths
def test_limit_of_associations_frees_up_again(start_node: StartNode) -> None:
    node = start_node(max_associations=2)
    with RawScu(node.port) as one, RawScu(node.port) as two, RawScu(node.port) as three:
        assert one.associate()[0] == ACCEPTED
        assert two.associate()[0] == ACCEPTED
        answer = three.associate()
        assert (answer[0], *answer[7:10]) == (REJECTED, 2, 3, 2)
    deadline = time.monotonic() + 5
    while not echo(node.port):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@both_paths
def test_contexts_over_the_wire(node: Node) -> None:
    contexts = [
        build_context(MR, ["1.2.840.10008.1.2", "1.2.840.10008.1.2.4.70", EXPLICIT]),
        build_context("1.3.6.1.4.1.99999.1", ["1.3.6.1.4.1.99999.7"]),
        build_context("1.2.840.10008.5.1.4.1.2.2.1"),
    ]
    association = AE("A").associate("127.0.0.1", node.port, ae_title="STENOSIS", contexts=contexts)
    accepted = {str(c.abstract_syntax): str(c.transfer_syntax[0]) for c in association.accepted_contexts}
    assert association.acceptor.maximum_length == MAX_PDU_BYTES
    association.release()
    assert accepted == {MR: ExplicitVRLittleEndian, "1.3.6.1.4.1.99999.1": "1.3.6.1.4.1.99999.7"}


def _association_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith(("AcceptorThread", "connection"))}


@both_paths
@pytest.mark.parametrize("ending", ["abort", "close", "reset"])
def test_an_association_that_ends_inside_an_instance_leaves_nothing(node: Node, tmp_path: Path, ending: str) -> None:
    dataset = dataset_of(make_instance(tmp_path, 1))
    before = set(threading.enumerate())  # archives of other tests may still hold threads
    with RawScu(node.port) as scu:
        assert scu.associate()[0] == ACCEPTED
        scu.send(p_data(1, 3, c_store_rq(MR, f"{STUDY}.9.1")) + p_data(1, 0, dataset[:4000]))
        time.sleep(0.2)
        assert _association_threads() - before
        if ending == "abort":
            scu.send(A_ABORT)
            scu.seconds_until_closed()
        elif ending == "reset":
            scu.reset()
    deadline = time.monotonic() + 5
    while _association_threads() - before:
        assert time.monotonic() < deadline, "the association's thread stays"
        time.sleep(0.05)
    assert not node.files()
    assert not node.leftovers()
    assert not node.quarantined()
    assert not node.store.list_jobs()
    assert echo(node.port)


@both_paths
def test_many_fragments_make_one_instance(node: Node, tmp_path: Path) -> None:
    dataset = dataset_of(make_instance(tmp_path, 1))
    command = c_store_rq(MR, f"{STUDY}.9.1")
    pieces = [dataset[i : i + 100] for i in range(0, len(dataset), 100)]
    with RawScu(node.port) as scu:
        assert scu.associate()[0] == ACCEPTED
        scu.send(p_data(1, 1, command[:20]) + p_data(1, 3, command[20:]))
        scu.send(b"".join(p_data(1, 0, piece) for piece in pieces) + p_data(1, 2, b""))
        answer = scu.read_pdu()
        assert b"\x00\x00\x00\x09\x02\x00\x00\x00\x00\x00" in answer  # (0000,0900) Status: Success
        scu.send(A_RELEASE_RQ)
        assert scu.read_pdu()[0] == 6
    assert node.dataset(f"{STUDY}.9.1") == dataset


HALF_P_DATA = p_data(1, 3, c_store_rq(MR, "1.2.3"))[:40]


def test_silence_ends_the_connection(start_node: StartNode) -> None:
    node = start_node(network_timeout_s=0.7)
    silences = [
        (False, b""),
        (False, associate_rq()[:3]),
        (False, associate_rq()[:100]),
        (True, b""),
        (True, HALF_P_DATA[:3]),
        (True, HALF_P_DATA),
    ]
    callers = []
    for associated, data in silences:
        scu = RawScu(node.port)
        callers.append(scu)
        if associated:
            assert scu.associate()[0] == ACCEPTED
        scu.send(data)
    for scu, silence in zip(callers, silences, strict=True):
        with scu:
            assert scu.seconds_until_closed() < 4, silence
    assert echo(node.port)


@pytest.mark.parametrize("associated", [False, True])
def test_dripping_ends_the_connection(start_node: StartNode, associated: bool) -> None:
    node = start_node(network_timeout_s=0.7)
    with RawScu(node.port) as scu:
        if associated:
            assert scu.associate()[0] == ACCEPTED
        assert (
            scu.send_until_closed((bytes([b]) for b in (HALF_P_DATA if associated else associate_rq())), pause_s=0.2)
            < 4
        )
    assert echo(node.port)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        bytes(64),
        b"\xff" * 64,
        b"\x01\x00\xff\xff\xff\xff",
        p_data(1, 3, b"") + b"x" * 20,
        associate_rq()[:74],
    ],
    ids=["http", "tls", "zeros", "ones", "long request", "data first", "cut request"],
)
def test_garbage_ends_the_connection_and_harms_nobody(start_node: StartNode, data: bytes) -> None:
    node = start_node(network_timeout_s=0.5)
    with RawScu(node.port) as scu:
        scu.send(data)
        scu.seconds_until_closed(limit_s=7)
    assert echo(node.port)


@both_paths
def test_a_pdu_that_claims_four_gigabytes_is_not_read(node: Node) -> None:
    memory = psutil.Process().memory_info().rss
    with RawScu(node.port) as scu:
        assert scu.associate()[0] == ACCEPTED
        scu.send(b"\x04\x00\xff\xff\xff\xff")
        scu.send_until_closed((bytes(1 << 20) for _ in range(400)), pause_s=0.001)
    assert psutil.Process().memory_info().rss - memory < 50e6
    assert echo(node.port)


@both_paths
def test_endless_fragments_do_not_fill_the_memory(start_node: StartNode) -> None:
    node = start_node(max_object_mb=1)
    memory = psutil.Process().memory_info().rss
    with RawScu(node.port) as scu:
        assert scu.associate()[0] == ACCEPTED
        scu.send(p_data(1, 3, c_store_rq(MR, "1.2.3")))
        fragment = p_data(1, 0, bytes(100_000))
        for _ in range(400):
            scu.send(fragment)
        scu.send(p_data(1, 2, b""))
        assert b"\x00\x00\x00\x09\x02\x00\x00\x00\x00\xa7" in scu.read_pdu()  # out of resources
    assert psutil.Process().memory_info().rss - memory < 30e6


def test_a_disk_that_does_not_answer_refuses_one_instance(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a large one: its sender is told so, and goes on."""

    def fail(folders: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("stenosis_node.receive.intake.least_free_bytes", fail)
    pdus = p_data(1, 3, c_store_rq(MR, "1.2.3")) + p_data(1, 0, bytes(100_000)) * 60 + p_data(1, 2, b"")
    with RawScu(node.port) as scu:
        assert scu.associate()[0] == ACCEPTED
        for _ in range(2):
            scu.send(pdus)
            assert b"\x00\x00\x00\x09\x02\x00\x00\x00\x00\xa7" in scu.read_pdu()  # out of resources
        scu.send(A_RELEASE_RQ)
        assert scu.read_pdu()[0] == 6
    assert not node.leftovers()


def test_port_in_use_names_the_key(start_node: StartNode) -> None:
    node = start_node()
    second = Receiver(node.config, node.spool, node.store)
    with pytest.raises(ConfigError, match=r"receive\.port: .* is in use"):
        second.start()
    second.stop()
    assert echo(node.port)


def test_an_address_of_another_machine_names_the_key(node: Node) -> None:
    rules = node.config.receive.model_copy(update={"host": "192.0.2.1"})
    config = node.config.model_copy(update={"receive": rules})
    with pytest.raises(ConfigError, match=r"receive\.host"):
        Receiver(config, node.spool, node.store).start()


@both_paths
def test_stop_aborts_open_associations_and_frees_the_port(start_node: StartNode) -> None:
    node = start_node()
    with RawScu(node.port) as scu:
        assert scu.associate()[0] == ACCEPTED
        begin = time.monotonic()
        node.receiver.stop()
        assert scu.seconds_until_closed() < 3
    node.receiver.stop()
    assert time.monotonic() - begin < 6
    with socket.create_server(("127.0.0.1", node.port)):
        pass


def test_serve_forever_until_told(start_node: StartNode) -> None:
    node = start_node()
    node.receiver.stop()
    stop = threading.Event()
    receiver = Receiver(node.config, node.spool, node.store)
    thread = threading.Thread(target=receiver.serve_forever, args=(stop,))
    thread.start()
    deadline = time.monotonic() + 5
    while not echo(node.port):
        assert time.monotonic() < deadline
    stop.set()
    thread.join(8)
    assert not thread.is_alive()
