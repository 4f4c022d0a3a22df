"""The audit file on its way to a syslog server: RFC 5424 messages over TLS (RFC 5425), as PS3.15 A.6 has them.

The file is the queue and a cursor beside it says how far it was sent, so nothing is lost while the server is away, and
no more than a batch is in memory. Syslog has no acknowledgements: the cursor moves when the server's TCP has
acknowledged every byte and the connection still stands. What was under way when a connection broke is sent again.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import socket
import ssl
import struct
import termios
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final

from stenosis_node.config import Audit, Config
from stenosis_node.errors import ConfigError
from stenosis_node.failpoint import failpoint
from stenosis_node.wire.tls import server_context

log = logging.getLogger("stenosis_node.audit")

PRIORITY: Final = 10 * 8 + 5
"""Facility authpriv, severity notice (PS3.15 A.6)."""
MESSAGE_ID: Final = "DICOM+RFC3881"
BOM: Final = b"\xef\xbb\xbf"
BATCH: Final = 100
POLL_S: Final = 0.5
CONNECT_S: Final = 10.0
ACKNOWLEDGED_S: Final = 10.0
LONGEST_PAUSE_S: Final = 60.0
COMPLAIN_EVERY_S: Final = 300.0

_TIME = re.compile(rb'EventDateTime="([^"]{1,40})"')
_NOT_IN_NAMES = re.compile(r"[^!-~]")


def client_context(settings: Audit) -> ssl.SSLContext:
    """TLS 1.2 with ephemeral keys and AEAD, or 1.3 (BCP 195). ConfigError when the files cannot be used."""
    return server_context(
        settings.syslog_ca_file, settings.syslog_certificate, settings.syslog_key, section="audit.syslog_"
    )


def frame(line: bytes, *, host: str) -> bytes:
    """One message with its length in front (RFC 5425 section 4.3). ``line``: XML in UTF-8."""
    found = _TIME.search(line)
    time_ = found[1].decode("ascii", "replace") if found else "-"
    name = _NOT_IN_NAMES.sub("-", host)[:255] or "-"
    head = f"<{PRIORITY}>1 {time_} {name} stenosis-node - {MESSAGE_ID} - "
    message = head.encode("ascii", "replace") + BOM + line
    return b"%d %s" % (len(message), message)


class Tail:
    """Reads lines of a file that others append to and rename. Remembers, across restarts, what was taken for good."""

    def __init__(self, path: Path, *, remembers: bool = True) -> None:
        """
        remembers  whether the place where it begins is written down, so that a file which is renamed before anything
                   was sent is found again
        """
        self._path = path
        self._remembers = remembers
        self._cursor = cursor_path(path)
        self._file: BinaryIO | None = None
        self._taken = 0  # offset behind the last line that is done with
        self._read = 0

    def read(self, most: int) -> list[bytes]:
        """The next lines, without their ends; they come again unless :meth:`take` says that they are done with."""
        if self._file is None and not self._open():
            return []
        lines = self._lines(most)
        while not lines and self._move_on():
            lines = self._lines(most)
        return lines

    def take(self) -> None:
        """Everything that was read is done with. Raises OSError."""
        assert self._file is not None  # noqa: S101  something was read
        self._taken = self._read
        part = self._cursor.with_name(f"{self._cursor.name}.part")
        state = {"inode": os.fstat(self._file.fileno()).st_ino, "offset": self._taken}
        part.write_text(json.dumps(state), encoding="ascii")
        part.chmod(0o600)
        failpoint("audit.cursor.written")
        part.replace(self._cursor)
        failpoint("audit.cursor.renamed")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> bool:
        inode, offset = read_cursor(self._path)
        if inode is not None:
            for path in rotated(self._path):
                with suppress(OSError):
                    if path.stat().st_ino == inode:
                        self._use(path, offset)
                        return True
            log.warning(
                "the audit file that was being sent is gone: what it still held was not sent",
                extra={"event": "audit_rotated"},
            )
        try:
            self._use(self._path, 0)
        except FileNotFoundError:
            return False
        if self._remembers:
            self.take()
        return True

    def _use(self, path: Path, offset: int) -> None:
        self.close()
        self._file = path.open("rb")
        size = os.fstat(self._file.fileno()).st_size
        self._taken = offset if offset <= size else 0  # truncated in place
        self._read = self._taken

    def _lines(self, most: int) -> list[bytes]:
        assert self._file is not None  # noqa: S101  opened before
        self._file.seek(self._taken)
        self._read = self._taken
        lines: list[bytes] = []
        while len(lines) < most:
            line = self._file.readline()
            if not line.endswith(b"\n"):  # the end, or somebody is writing
                break
            self._read += len(line)
            if line.startswith(b"<"):
                lines.append(line[:-1])
        if not lines:
            self._taken = self._read
        return lines

    def _move_on(self) -> bool:
        """At the end of a file that was renamed: go on with the one that followed it."""
        assert self._file is not None  # noqa: S101  opened before
        here = os.fstat(self._file.fileno())
        with suppress(FileNotFoundError):
            if os.path.samestat(here, self._path.stat()):
                if here.st_size < self._taken:
                    self._taken = 0
                return False
        fcntl.flock(self._file, fcntl.LOCK_SH)  # whoever still writes to it has the lock
        fcntl.flock(self._file, fcntl.LOCK_UN)
        if os.fstat(self._file.fileno()).st_size > self._read:
            return True
        later = [p for p in rotated(self._path) if _mtime(p) > here.st_mtime_ns and not _same(p, here)]
        if not later:
            return False
        self._use(later[0], 0)
        return True


def cursor_path(path: Path) -> Path:
    """Where it is kept how far the file was sent."""
    return path.with_name(f"{path.name}.cursor")


def read_cursor(path: Path) -> tuple[int | None, int]:
    """Inode and offset; None when nothing was sent yet."""
    try:
        state = json.loads(cursor_path(path).read_text(encoding="ascii"))
        return int(state["inode"]), int(state["offset"])
    except (OSError, ValueError, KeyError, TypeError):
        return None, 0


def rotated(path: Path) -> list[Path]:
    """The file and what it was renamed to, oldest first."""
    found = [p for p in path.parent.glob(f"{path.name}*") if p.suffix not in (".cursor", ".part", ".gz", ".xz", ".zst")]
    return sorted(found, key=_mtime)


def _mtime(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _same(path: Path, here: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), here)
    except OSError:
        return False


class Forwarder:
    """Sends the audit file to the syslog server for as long as it runs."""

    def __init__(self, config: Config) -> None:
        """ConfigError when the TLS files cannot be used."""
        settings = config.audit
        assert settings.syslog_host is not None  # noqa: S101  the caller asks for it
        self._settings = settings
        self._where = (settings.syslog_host, settings.syslog_port)
        self._tail = Tail(config.audit_file)
        self._host = socket.gethostname()
        self._connection: ssl.SSLSocket | None = None
        self._complained = 0.0
        client_context(settings)

    def run(self, stop: threading.Event) -> None:
        """Send until ``stop`` is set. What cannot be sent stays in the file."""
        pause_s = 1.0
        try:
            while not stop.is_set():
                try:
                    sent = self.step()
                except (OSError, ConfigError) as error:
                    self._hang_up()
                    self._complain(error)
                    stop.wait(pause_s)
                    pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                    continue
                pause_s = 1.0
                if not sent:
                    stop.wait(POLL_S)
        finally:
            self.close()

    def close(self) -> None:
        """Hang up."""
        self._hang_up()
        self._tail.close()

    def step(self) -> int:
        """Send the next batch; how many messages it had. Raises OSError, ConfigError: then it was not sent."""
        lines = self._tail.read(BATCH)
        if not lines:
            return 0
        if self._connection is None or _is_over(self._connection):
            self._hang_up()
            self._connection = self._connect()
        self._connection.settimeout(CONNECT_S)
        self._connection.sendall(b"".join(frame(line, host=self._host) for line in lines))
        failpoint("audit.sent")
        _wait_acknowledged(self._connection)
        self._tail.take()
        return len(lines)

    def _connect(self) -> ssl.SSLSocket:
        plain = socket.create_connection(self._where, timeout=CONNECT_S)
        try:
            return client_context(self._settings).wrap_socket(plain, server_hostname=self._where[0])
        except BaseException:
            plain.close()
            raise

    def _hang_up(self) -> None:
        if self._connection is not None:
            with suppress(OSError):
                self._connection.close()
            self._connection = None

    def _complain(self, error: Exception) -> None:
        now = time.monotonic()
        if not self._complained or now - self._complained >= COMPLAIN_EVERY_S:
            self._complained = now
            log.warning(
                "audit messages cannot be sent to %s port %d (%s); they stay in the audit file",
                *self._where, error, extra={"event": "audit_not_sent"},
            )  # fmt: skip


def _is_over(connection: ssl.SSLSocket) -> bool:
    """Whether the server has closed the connection. It never says anything on its own."""
    connection.settimeout(0.0)
    try:
        return not connection.recv(1)
    except ssl.SSLWantReadError:
        return False
    except OSError:
        return True


def _wait_acknowledged(connection: ssl.SSLSocket) -> None:
    """Until the server's TCP has every byte. OSError when the connection ends, or it takes too long."""
    deadline = time.monotonic() + ACKNOWLEDGED_S
    while _in_flight(connection):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not acknowledged within {ACKNOWLEDGED_S:g} s")
        time.sleep(0.005)
    if _is_over(connection):
        raise ConnectionResetError("the server closed the connection")


def _in_flight(connection: socket.socket) -> int:
    """Bytes that the other side's TCP has not acknowledged."""
    try:
        (number,) = struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, b"\0\0\0\0"))
    except OSError:
        return 0
    return int(number)


def unsent_since(config: Config) -> datetime | None:
    """Time of the oldest message that the syslog server does not have; None when it has all of them. Cheap."""
    if config.audit.syslog_host is None:
        return None
    tail = Tail(config.audit_file, remembers=False)
    try:
        lines: Sequence[bytes] = tail.read(1)
    except OSError:
        return None
    finally:
        tail.close()
    found = _TIME.search(lines[0]) if lines else None
    if found is None:
        return None
    try:
        return datetime.fromisoformat(found[1].decode("ascii").replace("Z", "+00:00")).astimezone(UTC)
    except ValueError:
        return None
