"""The real programs: ``stenosis-node serve``, Orthanc, DCMTK's dcmsend. Ended by pid, never by name."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread

from stenosis_node.domain import JobState
from stenosis_node.jobs import JobDetail, JobStore
from tests.conftest import free_port, require_tool

SR_CLASSES = {f"1.2.840.10008.5.1.4.1.1.88.{n}" for n in (11, 22, 33, 34)}
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def wait_until(is_true: Callable[[], Any], *, limit_s: float = 120, what: str = "", log: Path | None = None) -> Any:
    """Poll until the value is true and return it; fail with the end of the log when it never is."""
    deadline = time.monotonic() + limit_s
    while not (value := is_true()):
        if time.monotonic() > deadline:
            tail = "" if log is None else "\n" + "\n".join(log.read_text(errors="replace").splitlines()[-40:])
            raise AssertionError(f"not within {limit_s} s: {what or is_true}{tail}")
        time.sleep(0.1)
    return value


def send(
    port: int, files: Iterable[Path], *, called: str = "STENOSIS", options: Iterable[str] = ()
) -> subprocess.CompletedProcess[str]:
    """``dcmsend`` to the node."""
    command = [
        require_tool("dcmsend", "dcmtk"), "--timeout", "10", "-aet", "SCANNER", "-aec", called, *options,
        "127.0.0.1", str(port), *map(str, files),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@contextmanager
def cut_after(n_bytes: int, port: int) -> Iterator[tuple[int, threading.Event]]:
    """A port that leads to ``port`` until the caller has sent so many bytes; then the line is dead."""
    cut = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def forward() -> None:
            caller, _ = server.accept()
            with caller, socket.create_connection(("127.0.0.1", port)) as node:
                threading.Thread(target=_pump, args=(node, caller, 1 << 40), daemon=True).start()
                _pump(caller, node, n_bytes)
                cut.set()

        thread = threading.Thread(target=forward, daemon=True)
        thread.start()
        yield server.getsockname()[1], cut
        thread.join(20)


def _pump(source: socket.socket, sink: socket.socket, n_bytes: int) -> None:
    with contextlib.suppress(OSError):
        while n_bytes > 0 and (data := source.recv(min(n_bytes, 65536))):
            sink.sendall(data)
            n_bytes -= len(data)


class Orthanc:
    """A PACS on ports of its own, with a database that survives ``stop`` and ``start``."""

    ae_title = "PACS"

    def __init__(self, folder: Path, node_port: int) -> None:
        self._program = require_tool("Orthanc", "orthanc")
        folder.mkdir(parents=True)
        self.port, self.http_port = free_port(), free_port()
        self._settings = folder / "orthanc.json"
        self.log = folder / "orthanc.log"
        self._settings.write_text(
            json.dumps(
                {
                    "Name": "acceptance",
                    "StorageDirectory": str(folder / "storage"),
                    "IndexDirectory": str(folder / "storage"),
                    "Plugins": [],
                    "DicomAet": self.ae_title,
                    "DicomPort": self.port,
                    "DicomCheckCalledAet": True,
                    "HttpPort": self.http_port,
                    "RemoteAccessAllowed": False,
                    "AuthenticationEnabled": False,
                    "DicomModalities": {"node": ["STENOSIS", "127.0.0.1", node_port]},
                }
            )
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([self._program, str(self._settings)], stdout=log, stderr=subprocess.STDOUT)
        wait_until(self._answers, what="Orthanc answers", log=self.log)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None

    def of_study(self, study_uid: str) -> dict[str, Dataset]:
        """Every instance of a study it holds, by SOP Instance UID, read with pydicom."""
        return {uid: dcmread(BytesIO(content)) for uid, content in self.files_of_study(study_uid).items()}

    def files_of_study(self, study_uid: str) -> dict[str, bytes]:
        query = {"Level": "Instance", "Query": {"StudyInstanceUID": study_uid}, "Expand": True}
        found = json.loads(self._call("/tools/find", json.dumps(query).encode()))
        return {e["MainDicomTags"]["SOPInstanceUID"]: self._call(f"/instances/{e['ID']}/file") for e in found}

    def reports(self, study_uid: str) -> list[Dataset]:
        return [ds for ds in self.of_study(study_uid).values() if ds.SOPClassUID in SR_CLASSES]

    def captures(self, study_uid: str) -> list[Dataset]:
        return [ds for ds in self.of_study(study_uid).values() if ds.SOPClassUID == SECONDARY_CAPTURE]

    def route(self, study_uid: str, *, only: Iterable[str] | None = None) -> None:
        """C-STORE to the node, as a route of a PACS would, what it holds of the study, or some instances of it."""
        level = "Study" if only is None else "Instance"
        query = {"Level": level, "Query": {"StudyInstanceUID": study_uid}, "Expand": True}
        found = json.loads(self._call("/tools/find", json.dumps(query).encode()))
        if only is not None:
            uids = set(only)
            found = [one for one in found if one["MainDicomTags"]["SOPInstanceUID"] in uids]
        self._call("/modalities/node/store", json.dumps([one["ID"] for one in found]).encode())

    def _answers(self) -> bool:
        try:
            self._call("/system")
        except (urllib.error.URLError, ConnectionError):
            return False
        return True

    def _call(self, path: str, body: bytes | None = None, *, method: str | None = None) -> bytes:
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", data=body, method=method)
        with _opener.open(request, timeout=30) as answer:
            return bytes(answer.read())


STANDIN = Path(__file__).with_name("standin")
REPOSITORY = Path(__file__).parents[2]


class Node:
    """``stenosis-node serve`` on a spool and a configuration of its own."""

    def __init__(
        self,
        folder: Path,
        bundle: Path,
        *,
        peers: dict[str, int] | None = None,
        port: int | None = None,
        networks: bool = True,
    ) -> None:
        """``networks``: False where it matters what becomes of a study, not what its grades are. The grading process
        starts in a second then, and finds grade B in every slice; everything else of it is the real thing."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.spool = folder / "spool"
        self.port = port or free_port()
        self.config = folder / "node.toml"
        self.log = folder / "node.log"
        self.failpoints = folder / "failpoints"
        self.failpoints.mkdir(exist_ok=True)
        self.networks = networks
        self.environment: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self.settings: dict[str, dict[str, Any]] = {
            "grading": {"bundle": str(bundle), "threads": 1},
            "receive": {"port": self.port, "min_free_mb": 1},
            "jobs": {"quiet_period_s": 1.0, "retry_base_s": 0.2, "max_attempts": 20},
        }
        for name, peer_port in (peers or {}).items():
            self.settings[f"peers.{name}"] = {
                "ae_title": Orthanc.ae_title, "host": "127.0.0.1", "port": peer_port, "timeout_s": 5.0,
                "retry_base_s": 0.3, "retry_cap_s": 1.0, "max_attempts": 200,
            }  # fmt: skip

    def write_config(self) -> Path:
        lines = [f"spool = {json.dumps(str(self.spool))}"]
        for section, keys in self.settings.items():
            lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
        self.config.write_text("\n".join(lines) + "\n")
        return self.config

    def start(self, *, wait: bool = True) -> Node:
        """Run it; ``wait`` until it listens."""
        already = self.listening()
        self.write_config()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*CLI, "serve", "--config", str(self.config)],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(),
            )
        if wait:
            wait_until(lambda: self._dead() or self.listening() > already, what="the node listens", log=self.log)
            assert not self._dead(), self.log.read_text()
        return self

    def restart_soon(self) -> None:
        """A child that died starts again after half a second, however often it has died: from the next start of serve,
        and without networks."""
        self.environment["STENOSIS_SOAK_LONGEST_DELAY_S"] = "0.5"

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        if self._process is None:
            return 0
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(30)
        self._process = None
        return code

    def kill(self) -> None:
        """SIGKILL to serve alone; its children must notice."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def wait_dead(self, limit_s: float = 60) -> None:
        """Wait for serve to end by itself."""
        assert self._process is not None
        self._process.wait(limit_s)
        self._process = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def child_pid(self, role: str) -> int:
        """Pid of the child that runs now, from the log."""
        starts = [line for line in self.log.read_text().splitlines() if f"{role} process started" in line]
        return int(starts[-1].rsplit("pid=", 1)[1])

    def listening(self) -> int:
        """How often the log says that it listens."""
        return self.log.read_text().count("event=listening") if self.log.exists() else 0

    def arm(self, name: str, action: str = "self") -> None:
        part = self.failpoints / f"{name}.part"
        part.write_text(action)
        part.rename(self.failpoints / name)

    def armed(self) -> list[str]:
        return sorted(path.name for path in self.failpoints.iterdir())

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A verb on the same configuration."""
        return subprocess.run(
            [*CLI, *arguments, "--config", str(self.config)],
            capture_output=True, text=True, timeout=60, env=self._environment(), check=False,
        )  # fmt: skip

    def job(self, study_uid: str) -> JobDetail | None:
        """The job of a study as the database has it now."""
        store = JobStore(f"sqlite:///{self.spool / 'jobs.db'}")
        try:
            return store.job(study_uid)
        finally:
            store.close()

    def wait_state(self, study_uid: str, *states: JobState, limit_s: float = 180) -> JobDetail:
        """Wait until the job is in one of the states."""

        def reached() -> JobDetail | None:
            job = self.job(study_uid)
            return job if job is not None and job.job.state in states else None

        job: JobDetail = wait_until(reached, limit_s=limit_s, what=f"{study_uid} {states}", log=self.log)
        return job

    def stored(self, study_uid: str) -> list[Path]:
        """Instances of a study on disk."""
        return sorted((self.spool / "instances" / study_uid).rglob("*.dcm"))

    def _dead(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _environment(self) -> dict[str, str]:
        environment = {**os.environ, "STENOSIS_NODE_FAILPOINT": str(self.failpoints), **self.environment}
        return environment if self.networks else {**environment, "PYTHONPATH": f"{STANDIN}:{REPOSITORY}"}


CLI = (sys.executable, "-m", "stenosis_node")


def is_alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
