"""The audit file on its way to a syslog server over TLS."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stenosis_node.audit import AuditTrail, Forwarder, StudyPart, unsent_since
from stenosis_node.config import Config
from stenosis_node.errors import ConfigError
from tests.conftest import free_port
from tests.unit.audit.conftest import MakeConfig
from tests.unit.audit.schema import check, subjects_of
from tests.unit.certificates import Authority

HEADER = re.compile(
    rb"<85>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) (\S+) stenosis-node - DICOM\+RFC3881 - "
    rb"\xef\xbb\xbf(<.+>)"
)


class Server:
    """Takes RFC 5425 frames from clients that show a certificate."""

    def __init__(self, authority: Authority, port: int) -> None:
        identity = authority.issue("syslog")
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(identity.certificate, identity.key)
        self._context.load_verify_locations(authority.ca)
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._listener = socket.create_server(("127.0.0.1", port))
        self.messages: list[bytes] = []
        self.came = threading.Condition()
        self._connection: ssl.SSLSocket | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            try:
                with self._context.wrap_socket(plain, server_side=True) as connection:
                    self._connection = connection
                    stream = connection.makefile("rb")
                    while head := _length(stream):
                        message = stream.read(head)
                        with self.came:
                            self.messages.append(message)
                            self.came.notify_all()
            except OSError:
                continue

    def wait_for(self, number: int) -> list[str]:
        """XML of the messages."""
        with self.came:
            assert self.came.wait_for(lambda: len(self.messages) >= number, 20), len(self.messages)
        found = [HEADER.fullmatch(message) for message in self.messages]
        assert all(found)
        return [match[3].decode() for match in found if match]

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        if self._connection is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._connection, socket.SHUT_RDWR)
        self._thread.join(10)


def _length(stream) -> int:  # type: ignore[no-untyped-def]
    digits = b""
    while (byte := stream.read(1)) not in (b" ", b""):
        digits += byte
    return int(digits or b"0")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def config(make_config: MakeConfig, authority: Authority) -> Config:
    ours = authority.issue("node")
    return make_config(
        syslog_host="127.0.0.1",
        syslog_port=free_port(),
        syslog_ca_file=str(authority.ca),
        syslog_certificate=str(ours.certificate),
        syslog_key=str(ours.key),
    )


@pytest.fixture
def running(config: Config, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("stenosis_node.audit.syslog.LONGEST_PAUSE_S", 0.1)
    stop = threading.Event()
    thread = threading.Thread(target=Forwarder(config).run, args=(stop,))
    thread.start()
    yield
    stop.set()
    thread.join()


def record(config: Config, *numbers: int) -> None:
    trail = AuditTrail(config)
    trail.write(*(trail.events.graded(StudyPart(f"1.2.{i}", "환자-4711")) for i in numbers))


def studies(found: list[str]) -> list[str]:
    return [subjects_of(check(line))["Study Instance UID"] for line in found]


@pytest.mark.usefixtures("running")
def test_messages_arrive_as_written_in_syslog_frames(config: Config, authority: Authority) -> None:
    server = Server(authority, config.audit.syslog_port)
    try:
        record(config, 1, 2)
        found = server.wait_for(2)
        assert found == config.audit_file.read_text(encoding="utf-8").splitlines()
    finally:
        server.stop()


def test_what_was_written_while_the_server_was_away_is_sent_when_it_is_back(
    config: Config, authority: Authority
) -> None:
    record(config, 1, 2)
    forwarder = Forwarder(config)
    with pytest.raises(OSError, match="refused"):
        forwarder.step()
    forwarder.close()
    assert unsent_since(config) is not None
    config.audit_file.rename(config.audit_file.with_name("audit.log.1"))
    record(config, 3)
    server = Server(authority, config.audit.syslog_port)
    try:
        again = Forwarder(config)  # after a restart of the node
        while again.step():
            pass
        record(config, 4)
        assert again.step() == 1
        again.close()
        assert studies(server.wait_for(4)) == ["1.2.1", "1.2.2", "1.2.3", "1.2.4"]
    finally:
        server.stop()
    assert unsent_since(config) is None


def test_a_rotated_file_is_sent_to_its_end_before_the_next(config: Config, authority: Authority) -> None:
    server = Server(authority, config.audit.syslog_port)
    try:
        forwarder = Forwarder(config)
        record(config, 1)
        assert forwarder.step() == 1
        server.wait_for(1)
        forwarder.close()
        record(config, 2)
        config.audit_file.rename(config.audit_file.with_name("audit.log.1"))
        record(config, 3)
        restarted = Forwarder(config)
        while restarted.step():
            pass
        restarted.close()
        assert studies(server.wait_for(3)) == ["1.2.1", "1.2.2", "1.2.3"]
    finally:
        server.stop()


def test_a_connection_that_the_server_ended_costs_no_message(config: Config, authority: Authority) -> None:
    forwarder = Forwarder(config)
    server = Server(authority, config.audit.syslog_port)
    record(config, 1)
    forwarder.step()
    server.wait_for(1)
    server.stop()
    record(config, 2)
    with pytest.raises(OSError):  # noqa: PT011  whatever the network says
        forwarder.step()
    again = Server(authority, config.audit.syslog_port)
    try:
        assert forwarder.step() == 1
        forwarder.close()
        assert studies(again.wait_for(1)) == ["1.2.2"]
    finally:
        again.stop()


def test_a_server_of_another_authority_gets_nothing(config: Config, tmp_path: Path) -> None:
    server = Server(Authority(tmp_path / "other", "other"), config.audit.syslog_port)
    try:
        record(config, 1)
        with pytest.raises(ssl.SSLError, match="certificate verify failed"):
            Forwarder(config).step()
        assert server.messages == []
    finally:
        server.stop()


def test_files_that_cannot_be_used_are_named(make_config: MakeConfig, tmp_path: Path, authority: Authority) -> None:
    with pytest.raises(ConfigError, match=r"audit\.syslog_ca_file"):
        Forwarder(make_config(syslog_host="h", syslog_ca_file=str(tmp_path / "none")))
    broken = tmp_path / "broken.pem"
    broken.write_text("nothing")
    with pytest.raises(ConfigError, match=r"audit\.syslog_certificate"):
        Forwarder(
            make_config(
                syslog_host="h", syslog_ca_file=str(authority.ca),
                syslog_certificate=str(broken), syslog_key=str(broken),
            )
        )  # fmt: skip
    for keys, said in (
        ({"syslog_host": "h"}, "needs syslog_ca_file"),
        ({"syslog_ca_file": "x"}, "no effect"),
        ({"syslog_host": "h", "syslog_ca_file": "x", "syslog_key": "k"}, "belong together"),
    ):
        with pytest.raises(ConfigError, match=said):
            make_config(**keys)
