"""The processes of a round: the node, the recording PACS, PostgreSQL, and a line that can be cut."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil

from stenosis_node.jobs import JobDetail, JobStore
from tests.acceptance.processes import CLI, REPOSITORY, Node, wait_until
from tests.conftest import free_port, require_tool
from tests.unit.certificates import Authority

BUNDLE = REPOSITORY / "deploy" / "bundles" / "phantom-1"


class SoakNode(Node):
    """A node with a grader that costs nothing, on either database."""

    def __init__(
        self, folder: Path, pacs_port: int, *, database_url: str | None = None, fast_path: bool = True
    ) -> None:
        super().__init__(folder, BUNDLE, peers={"pacs": pacs_port}, networks=False)
        self.receive_before: tuple[str, ...] = ()
        self.settings["receive"] |= {"fast_path": fast_path, "max_associations_per_minute": 0}
        self.settings["jobs"] |= {"quiet_period_s": 1.0, "max_attempts": 10_000, "retry_cap_s": 2.0, "lease_s": 6.0}
        self.settings["peers.pacs"] |= {"max_attempts": 100_000, "timeout_s": 5.0}
        self.database_url = database_url or f"sqlite:///{self.spool / 'jobs.db'}"
        if database_url is not None:
            self.settings["jobs"]["database_url"] = database_url

    @contextlib.contextmanager
    def store(self) -> Iterator[JobStore]:
        store = JobStore(self.database_url)
        try:
            yield store
        finally:
            store.close()

    def job(self, study_uid: str) -> JobDetail | None:
        with self.store() as store:
            return store.job(study_uid)

    def processes(self) -> dict[str, psutil.Process]:
        """The processes that run now, by role."""
        found: dict[str, psutil.Process] = {}
        with contextlib.suppress(psutil.NoSuchProcess):
            serve = psutil.Process(self.pid)
            found["serve"] = serve
            for child in serve.children():
                with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                    line = child.cmdline()
                    if "stenosis_node.node" in line:
                        found[line[line.index("stenosis_node.node") + 1]] = child
        return found

    def revive(self) -> bool:
        """Start serve again when it is dead; whether it was."""
        if self._process is not None and self._process.poll() is None:
            return False
        self._process = None
        for _ in range(5):
            self.start(wait=False)
            time.sleep(0.5)
            if self._process is not None and self._process.poll() is None:
                return True
        raise AssertionError(f"serve does not start: {self.log.read_text()[-2000:]}")

    def findings(self, *arguments: str) -> list[dict[str, Any]]:
        """What ``fsck`` finds. AssertionError when it cannot say."""
        done = subprocess.run(
            [*CLI, "fsck", "--config", str(self.config), "--json", *arguments],
            capture_output=True, text=True, timeout=600, env=self._environment(), check=False,
        )  # fmt: skip
        assert done.returncode in (0, 1), f"fsck ended with {done.returncode}: {done.stderr[-2000:]}"
        assert done.stdout, f"fsck gave no answer: {done.stderr[-2000:]}"
        found: list[dict[str, Any]] = json.loads(done.stdout)["findings"]
        return found


class RecordingPacs:
    """The sink, in a process of its own, which a round may stop."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.soak.sink", str(self.port), str(self.folder)]
        self._process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(self._listens, limit_s=60, what="the PACS listens")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def mode(self, name: str) -> None:
        self.say("mode", name)

    def say(self, what: str, text: str) -> None:
        """``mode``, ``commitment`` or ``node``: see the sink."""
        part = self.folder / f"{what}.part"
        part.write_text(text)
        part.replace(self.folder / what)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class PostgreSQL:
    """A server of our own, which a round may stop; it flushes as it does at a site."""

    def __init__(self, folder: Path) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[4]))
        self._initdb = found[-1] if found else Path(require_tool("initdb", "postgresql"))
        self._folder = Path(tempfile.mkdtemp(prefix="soak-postgresql-"))
        self.log = folder / "postgresql.log"
        self._as_user: dict[str, Any] = {}
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            shutil.chown(self._folder, "postgres", "postgres")
            self._as_user = {"user": "postgres", "group": "postgres", "extra_groups": []}
        self.port = free_port()
        self.url = f"postgresql+psycopg://test@127.0.0.1:{self.port}/postgres"
        init = [self._initdb, "--pgdata", self._folder / "data", "--auth=trust", "--username=test", "--locale=C"]
        subprocess.run([*init, "--encoding=UTF8"], check=True, stdout=subprocess.DEVNULL, cwd="/", **self._as_user)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        settings = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": ""}
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        program = self._initdb.with_name("postgres")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [program, "-D", self._folder / "data", *options], stdout=log, stderr=log, cwd="/", **self._as_user
            )
        wait_until(self._answers, limit_s=60, what="PostgreSQL answers", log=self.log)

    def stop(self) -> None:
        """Immediately: every connection breaks, and the next start recovers from the log."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(30)
            self._process = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url.replace("+psycopg", ""), connect_timeout=1).close()
        except psycopg.OperationalError:
            return False
        return True


class Archive:
    """DCMTK's dcmqrscp, which has the studies of the scanner and is asked for what is missing.

    It may be called by the titles GETTER, MOVER and SEER, which share its folder.
    """

    TITLES = ("GETTER", "MOVER", "SEER")

    def __init__(self, folder: Path, node_port: int) -> None:
        self.port = free_port()
        self._folder = folder
        (folder / "db").mkdir(parents=True)
        entries = "".join(f"{title} {folder / 'db'} RW (2000, 1024mb) ANY\n" for title in self.TITLES)
        self._config = folder / "dcmqrscp.cfg"
        self._config.write_text(
            f"NetworkTCPPort = {self.port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
            f"HostTable BEGIN\nnode = (STENOSIS, 127.0.0.1, {node_port})\nHostTable END\n"
            f"VendorTable BEGIN\nVendorTable END\nAETable BEGIN\n{entries}AETable END\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [require_tool("dcmqrscp", "dcmtk"), "-c", str(self._config)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(self._listens, limit_s=20, what="the archive listens")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextlib.contextmanager
    def asleep(self) -> Iterator[None]:
        """It answers nobody until the block ends."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def keep(self, files: Iterable[Path]) -> None:
        """Store these."""
        command = [require_tool("dcmsend", "dcmtk"), "-aec", "GETTER", "127.0.0.1", str(self.port), *map(str, files)]
        subprocess.run(command, capture_output=True, timeout=60, check=True)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class SyslogServer:
    """Takes the audit messages over TLS, and remembers them."""

    def __init__(self, folder: Path) -> None:
        authority = Authority(folder)
        self.ca = authority.ca
        self.port = free_port()
        self.messages: set[bytes] = set()
        identity = authority.issue("syslog")
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(identity.certificate, identity.key)

    def start(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                plain, _ = self._listener.accept()
                threading.Thread(target=self._take, args=(plain,), daemon=True).start()

    def _take(self, plain: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), self._context.wrap_socket(plain, server_side=True) as connection:
            stream = connection.makefile("rb")
            while length := b"".join(iter(lambda: stream.read(1).strip(), b"")):
                message = stream.read(int(length))
                if len(message) == int(length):
                    self.messages.add(message[message.index(b"<", 1) :])


class CutLine:
    """A port that leads to another; every connection is reset after a random number of bytes."""

    def __init__(self, port: int, rng: random.Random, *, at_most: int) -> None:
        self._target = port
        self._rng = rng
        self._at_most = at_most
        self.cuts = 0

    def __enter__(self) -> CutLine:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = self._server.accept()
                left = self._rng.randrange(1, self._at_most)
                threading.Thread(target=self._carry, args=(caller, left), daemon=True).start()

    def _carry(self, caller: socket.socket, left: int) -> None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._target)) as node:
            threading.Thread(target=self._back, args=(node, caller), daemon=True).start()
            while left > 0 and (data := caller.recv(min(left, 16384))):
                node.sendall(data)
                left -= len(data)
            if left <= 0:
                self.cuts += 1
            for end in (node, caller):  # a reset, not an orderly end
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        caller.close()

    @staticmethod
    def _back(node: socket.socket, caller: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := node.recv(16384):
                caller.sendall(data)
