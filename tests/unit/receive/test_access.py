"""The access rules, as tables; and the door that asks them."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import pytest

from stenosis_node.config import Config, Receive, load
from stenosis_node.receive import AccessRules, AssociationRequest, admit, admits_address
from stenosis_node.receive.access import MAX_ON_STOCK_PATH, Door, canonical
from tests.unit.receive.conftest import StartNode, both_paths
from tests.unit.receive.raw_scu import EXPLICIT, MR, RawScu

PEERS = {ip_address("10.0.0.5"): {"PACS"}, ip_address("fd00::5"): {"PACS"}, ip_address("10.0.0.6"): {"ARCHIVE"}}
REACHABLE = {"host": "0.0.0.0"}
CALLED, CALLING, ADDRESS = (1, 1, 7), (1, 1, 3), (1, 1, 1)
LIMIT, CONGESTION = (2, 3, 2), (2, 3, 1)
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"


def rules(**settings: object) -> AccessRules:
    return AccessRules(Receive.model_validate({"ae_title": "NODE", **settings}), PEERS)


def request(
    calling: str = "CT1",
    address: str = "10.1.1.1",
    *,
    called: str = "NODE",
    present: int = 0,
    of_caller: int = 0,
    in_last_minute: int = 0,
) -> AssociationRequest:
    return AssociationRequest(
        called_ae_title=called,
        calling_ae_title=calling,
        address=address,
        open_associations=present,
        open_of_caller=of_caller,
        in_last_minute=in_last_minute,
    )


def outcome(asked: AssociationRequest, settings: dict[str, object]) -> tuple[int, int, int] | None:
    answer = admit(asked, rules(**settings))
    if answer.accepted:
        return None
    assert answer.sentence
    return answer.result, answer.source, answer.diagnostic


@pytest.mark.parametrize(
    ("asked", "settings", "expected"),
    [
        (request(), {}, None),
        (request(called="NODE   "), {}, None),
        (request(called="node"), {}, CALLED),
        (request(called="OTHER"), {}, CALLED),
        (request(called="OTHER"), {"check_called_ae_title": False}, None),
        (request("CT1 "), {"calling_ae_titles": ["CT1"]}, None),
        (request("ct1"), {"calling_ae_titles": ["CT1"]}, CALLING),
        (request(present=1), {"max_associations": 2}, None),
        (request(present=2), {"max_associations": 2}, LIMIT),
        (request(called="OTHER", present=2), {"max_associations": 2}, CALLED),
    ],
)
def test_titles_and_total_on_loopback(
    asked: AssociationRequest, settings: dict[str, object], expected: tuple[int, int, int] | None
) -> None:
    assert outcome(asked, settings) == expected


@pytest.mark.parametrize(
    ("calling", "address", "settings", "expected"),
    [
        # without lists: peers from their hosts, and this machine
        ("PACS", "10.0.0.5", {}, None),
        ("PACS", "::ffff:10.0.0.5", {}, None),
        ("PACS", "fd00::5", {}, None),
        ("PACS", "fd00:0:0::5%eth0", {}, None),
        ("ARCHIVE", "10.0.0.5", {}, CALLING),
        ("PACS", "10.0.0.7", {}, ADDRESS),
        ("CT1", "10.0.0.5", {}, CALLING),
        ("CT1", "10.1.1.1", {}, ADDRESS),
        ("CT1", "127.0.0.1", {}, None),
        ("CT1", "::1", {}, None),
        ("CT1", "::ffff:127.0.0.1", {}, None),
        ("CT1", "an unknown address", {}, ADDRESS),
        # anyone, because the site says so
        ("CT1", "10.1.1.1", {"allow_any": True}, None),
        ("CT1", "an unknown address", {"allow_any": True}, None),
        # titles alone
        ("CT1", "10.1.1.1", {"calling_ae_titles": ["CT1"]}, None),
        ("CT2", "10.1.1.1", {"calling_ae_titles": ["CT1"]}, CALLING),
        ("CT2", "127.0.0.1", {"calling_ae_titles": ["CT1"]}, CALLING),
        ("PACS", "10.0.0.5", {"calling_ae_titles": ["CT1"]}, None),
        ("PACS", "10.1.1.1", {"calling_ae_titles": ["CT1"]}, CALLING),
        # addresses alone
        ("CT1", "10.1.1.1", {"allowed_addresses": ["10.1.0.0/16"]}, None),
        ("CT1", "::ffff:10.1.1.1", {"allowed_addresses": ["10.1.0.0/16"]}, None),
        ("CT1", "10.1.1.1", {"allowed_addresses": ["::ffff:10.1.0.0/112"]}, None),
        ("CT1", "10.2.1.1", {"allowed_addresses": ["10.1.0.0/16"]}, ADDRESS),
        ("CT1", "10.1.1.1", {"allowed_addresses": ["fd00::/8"]}, ADDRESS),
        ("CT1", "fd00::9", {"allowed_addresses": ["fd00::/8"]}, None),
        ("CT1", "127.0.0.1", {"allowed_addresses": ["10.1.0.0/16"]}, ADDRESS),
        ("PACS", "10.0.0.5", {"allowed_addresses": ["10.1.0.0/16"]}, None),
        ("CT1", "10.0.0.5", {"allowed_addresses": ["10.1.0.0/16"]}, CALLING),
        # both: a caller must be in each
        ("CT1", "10.1.1.1", {"allowed_addresses": ["10.1.0.0/16"], "calling_ae_titles": ["CT1"]}, None),
        ("CT1", "10.2.1.1", {"allowed_addresses": ["10.1.0.0/16"], "calling_ae_titles": ["CT1"]}, ADDRESS),
        ("CT2", "10.1.1.1", {"allowed_addresses": ["10.1.0.0/16"], "calling_ae_titles": ["CT1"]}, CALLING),
        ("CT1", "10.0.0.5", {"allowed_addresses": ["10.1.0.0/16"], "calling_ae_titles": ["CT1"]}, None),
        ("PACS", "10.0.0.5", {"allowed_addresses": ["10.1.0.0/16"], "calling_ae_titles": ["CT1"]}, None),
        # lists hold on loopback too
        ("CT1", "127.0.0.1", {"host": "127.0.0.1", "allowed_addresses": ["127.0.0.2"]}, ADDRESS),
    ],
)
def test_who_may_call_a_node_that_others_reach(
    calling: str, address: str, settings: dict[str, object], expected: tuple[int, int, int] | None
) -> None:
    asked = request(calling, address)
    assert outcome(asked, {**REACHABLE, **settings}) == expected
    assert admits_address(address, rules(**{**REACHABLE, **settings})) is (expected != ADDRESS)


@pytest.mark.parametrize(
    ("asked", "settings", "expected"),
    [
        (request(of_caller=25), {}, LIMIT),
        (request(of_caller=24), {}, None),
        (request(of_caller=3), {"max_associations_per_caller": 3}, LIMIT),
        (request(of_caller=49), {"max_associations_per_caller": 0}, None),
        (request(in_last_minute=600), {}, CONGESTION),
        (request(in_last_minute=599), {}, None),
        (request(in_last_minute=9_999), {"max_associations_per_minute": 0}, None),
        (request(of_caller=49, in_last_minute=9_999), {"host": "127.0.0.1"}, None),
    ],
)
def test_limits_of_one_caller(
    asked: AssociationRequest, settings: dict[str, object], expected: tuple[int, int, int] | None
) -> None:
    anyone = {} if "host" in settings else {**REACHABLE, "allow_any": True}
    assert outcome(asked, {**anyone, **settings}) == expected


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"allowed_addresses": ["10.0.0.1/24"]}, "write 10.0.0.0/24"),
        ({"allowed_addresses": ["pacs.example"]}, "is no address or network"),
        ({"allow_any": True, "calling_ae_titles": ["CT1"]}, "allow_any contradicts"),
        ({"tls": {"certificate": "node.crt"}}, "give both"),
        ({"tls": {"certificate": "node.crt", "key": "node.key"}}, "client_ca is needed"),
        ({"tls": {"client_ca": "ca.crt"}}, "no effect"),
    ],
)
def test_settings_that_say_nothing_sensible(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Receive.model_validate(settings)


def test_an_address_is_itself_however_it_is_written() -> None:
    assert canonical("::ffff:10.0.0.5") == canonical("10.0.0.5") == ip_address("10.0.0.5")
    assert canonical("fe80::1%eth0") == ip_address("fe80::1")
    assert canonical("pacs.example") is None


# --------------------------------------------------------------------------- the door


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Config]:
    def make(peer_host: str = "10.0.0.5", **receive: object) -> Config:
        return load(
            None,
            overrides={
                "spool": str(tmp_path),
                "grading": {"bundle": str(tmp_path)},
                "receive": {"ae_title": "NODE", **REACHABLE, **receive},
                "peers": {"pacs": {"ae_title": "PACS", "host": peer_host, "port": 104}},
            },
        )

    return make


def knock(door: Door, calling: str = "CT1", address: str = "10.1.1.1", present: int = 0) -> tuple[int, int, int] | None:
    answer = door.admit(called="NODE", calling=calling, address=address, present=[(calling, address)] * present)
    return None if answer.accepted else (answer.result, answer.source, answer.diagnostic)


def test_too_many_within_a_minute(config: Callable[..., Config], clock: Clock) -> None:
    door = Door(config(allow_any=True, max_associations_per_minute=3), clock=clock)
    for _ in range(3):
        assert knock(door) is None
        clock.now += 10
    assert knock(door) == knock(door) == CONGESTION  # which do not count themselves
    assert knock(door, address="10.1.1.2") is None
    clock.now += 30
    assert knock(door) is None
    assert knock(door) == CONGESTION


def test_titles_and_addresses_are_counted_each(config: Callable[..., Config]) -> None:
    door = Door(config(allow_any=True, max_associations_per_caller=2))
    here, there = ("CT1", "10.1.1.1"), ("CT1", "10.1.1.2")
    others = [here, there]
    assert not door.admit(called="NODE", calling="CT1", address="10.9.9.9", present=others).accepted
    assert door.admit(called="NODE", calling="CT2", address="10.1.1.1", present=others).accepted
    assert not door.admit(called="NODE", calling="CT2", address="10.1.1.1", present=[here, here]).accepted


def test_a_caller_that_does_not_give_up_is_logged_once_a_minute(
    config: Callable[..., Config], clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    door = Door(config(), clock=clock)
    assert not any(door.admits_address("10.6.6.6") for _ in range(50))
    assert not door.admits_address("10.6.6.7")
    assert caplog.text.count("10.6.6.6 is neither in receive.allowed_addresses") == 1
    assert caplog.text.count("10.6.6.7") == 1
    clock.now += 61
    assert not door.admits_address("10.6.6.6")
    assert caplog.text.count("10.6.6.6") == 2
    answers = [door.admit(called="NODE", calling="CT1", address="10.0.0.5", present=[]) for _ in range(3)]
    assert [answer.is_repeated for answer in answers] == [False, True, True]


def test_what_is_remembered_of_strangers_is_bounded(config: Callable[..., Config], clock: Clock) -> None:
    door = Door(config(allow_any=True), clock=clock)
    for number in range(5_000):
        clock.now += 0.1
        assert knock(door, address=str(ip_address(number))) is None
        door.admit(called="ELSE", calling="CT1", address=str(ip_address(number)), present=[])
    assert len(door._begun) <= 1_100
    assert len(door._rejected) <= 1_000


def test_a_peer_whose_name_comes_to_mean_another_address(
    config: Callable[..., Config], clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    known: dict[str, str] = {}

    def look_up(host: str) -> frozenset[object]:
        if host not in known:
            raise socket.gaierror("no such name")
        return frozenset({ip_address(known[host])})

    door = Door(config("pacs.example"), clock=clock, look_up=look_up)  # type: ignore[arg-type]
    assert "the host of peer pacs has no address" in caplog.text
    assert not door.admits_address("10.0.0.5")
    known["pacs.example"] = "10.0.0.5"
    assert not door.admits_address("10.0.0.5")  # not asked again so soon
    clock.now += 61
    assert not door.admits_address("10.0.0.5")  # but by now it is asked
    for thread in [t for t in threading.enumerate() if t.name == "look-up"]:
        thread.join()
    assert door.admits_address("10.0.0.5")
    del known["pacs.example"]
    clock.now += 61
    door.admits_address("10.9.9.9")
    for thread in [t for t in threading.enumerate() if t.name == "look-up"]:
        thread.join()
    assert knock(door, "PACS", "10.0.0.5") is None  # a name server that is away takes nobody's place


# --------------------------------------------------------------------------- over sockets


def test_an_address_that_is_not_allowed_is_closed_before_it_says_anything(start_node: StartNode) -> None:
    """127.0.0.2 is this machine too, and another address."""
    node = start_node(allowed_addresses=["127.0.0.2"])
    with socket.create_connection(("127.0.0.1", node.port), timeout=5, source_address=("127.0.0.1", 0)) as stranger:
        assert stranger.recv(1) == b""
    with socket.create_connection(("127.0.0.1", node.port), timeout=5, source_address=("127.0.0.2", 0)) as allowed:
        allowed.settimeout(0.3)
        with pytest.raises(TimeoutError):
            allowed.recv(1)


def test_congestion_is_said_to_who_calls_too_often(start_node: StartNode, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    node = start_node(host="0.0.0.0", allowed_addresses=["127.0.0.0/8"], max_associations_per_minute=3)
    answers = []
    for _ in range(8):
        with RawScu(node.port) as scu:
            answer = scu.associate()
            answers.append(answer[0] if answer[0] == 2 else tuple(answer[7:10]))
    assert answers == [2, 2, 2, *[CONGESTION] * 5]
    assert caplog.text.count("began 3 associations within a minute") == 1


@both_paths
def test_associations_that_poll_take_no_core_from_those_that_store(start_node: StartNode, fast_path: bool) -> None:
    """pynetdicom looks at each of its associations a thousand times a second."""
    node = start_node()
    with contextlib.ExitStack() as open_:

        def ask(*sop_classes: str) -> tuple[int, ...]:
            scu = open_.enter_context(RawScu(node.port))
            answer = scu.associate(contexts=[(sop_class, EXPLICIT) for sop_class in sop_classes])
            return (2,) if answer[0] == 2 else tuple(answer[7:10])

        answers = [ask(MR, STUDY_ROOT_FIND) for _ in range(MAX_ON_STOCK_PATH + 2)]
        assert answers[:MAX_ON_STOCK_PATH] == [(2,)] * MAX_ON_STOCK_PATH
        assert answers[MAX_ON_STOCK_PATH:] == [LIMIT if fast_path else (2,)] * 2
        assert ask(MR) == (2,)
