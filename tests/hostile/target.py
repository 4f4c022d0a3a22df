"""The receiving process of a node, started as the supervisor starts it, and what the kernel says about it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stenosis_node.config import load
from stenosis_node.jobs import JobStore
from stenosis_node.spool import Spool
from tests.conftest import free_port
from tests.hostile.datasets import instance, uid
from tests.hostile.peer import SUCCESS, associated
from tests.unit.receive.raw_scu import EXPLICIT

MB = 1_000_000
OBJECT_MB = 8
"""Of receive.max_object_mb."""
FAULTS = ("Traceback", "Exception in thread", "refused with 0x0110", "event=crashed", "Exception ignored", "FATAL")
"""What the log never holds, whatever peers do: each of these is a fault of ours."""


def wait_until(true: Callable[[], object], *, limit_s: float, what: str) -> float:
    """Seconds until ``true()``. AssertionError that says what never came."""
    begin = time.monotonic()
    while not true():
        if time.monotonic() - begin > limit_s:
            raise AssertionError(f"not within {limit_s:g} s: {what}")
        time.sleep(0.02)
    return time.monotonic() - begin


class Target:
    """``python -m stenosis_node.node receive`` on a spool of its own."""

    def __init__(self, folder: Path, **receive: Any) -> None:
        """
        receive  keys of [receive]
        """
        settings = {
            "port": free_port(),
            "min_free_mb": 0,
            "network_timeout_s": 2,
            "max_object_mb": OBJECT_MB,
            "max_associations": 300,
            **receive,
        }
        folder.mkdir(parents=True, exist_ok=True)
        self.config = load(
            None,
            overrides={"spool": str(folder / "spool"), "grading": {"bundle": str(folder)}, "receive": settings},
            environment=False,
        )
        self.spool = Spool(self.config.spool)
        self.port = self.config.receive.port
        self.limit_s = self.config.receive.network_timeout_s
        self.log = folder / "receive.log"
        self._scanned = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        """Of its path of reception."""
        return "fast" if self.config.receive.fast_path else "stock"

    def start(self) -> Target:
        """Run it until it is idle."""
        self.launch()
        self.wait_until_idle()
        return self

    def launch(self) -> None:
        """Start it."""
        store = JobStore(self.config.database_url)
        store.migrate()
        store.close()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "stenosis_node.node", "receive", "hostile"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={k: v for k, v in os.environ.items() if not k.startswith("STENOSIS_NODE__")},
            )
        assert self._process.stdin is not None
        self._process.stdin.write(self.config.model_dump_json(context={"secrets": "shown"}).encode() + b"\n")
        self._process.stdin.flush()

    def wait_until_idle(self) -> None:
        """Idle is what it comes back to after it has served: with its pools filled and its own threads started."""
        wait_until(lambda: not self.alive or self._listens(), limit_s=100, what="it listens")
        assert self.alive, self.log.read_text()
        with associated(self.port) as caller:
            assert caller.store(instance(EXPLICIT, 0), uid(0)) == SUCCESS
            caller.release()
        seen: list[tuple[int, int]] = []
        while len(seen) < 5 or len(set(seen[-5:])) > 1:
            seen.append((self.threads, self.descriptors))
            time.sleep(0.1)
        self.idle_threads, self.idle_descriptors = seen[-1]
        self.idle_memory = self.memory
        self.clear()

    def stop(self) -> int:
        """End it as the supervisor does; the exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        assert process.stdin is not None
        process.stdin.close()
        try:
            return process.wait(20)
        finally:
            process.kill()
            process.wait()

    @property
    def alive(self) -> bool:
        """Whether the process that was started still runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def threads(self) -> int:
        return self._status("Threads")

    @property
    def descriptors(self) -> int:
        """Open files and sockets, but for the database, whose connections are kept."""
        return sum("/jobs.db" not in name for name in self.open_files())

    def open_files(self) -> list[str]:
        """What each descriptor refers to."""
        names = []
        for link in Path(f"/proc/{self.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                names.append(str(link.readlink()))
        return names

    @property
    def memory(self) -> int:
        """Bytes resident now."""
        return self._status("VmRSS") * 1024

    @property
    def peak_memory(self) -> int:
        """Most bytes resident since :meth:`forget_peak`."""
        return self._status("VmHWM") * 1024

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    @property
    def cpu_s(self) -> float:
        """Processor time used so far, of all threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def settle(self, limit_s: float | None = None) -> None:
        """Wait until nothing is left of the callers. Raises when a thread or a descriptor leaks."""
        limit_s = limit_s or 3 * self.limit_s + 10
        try:
            wait_until(
                lambda: self.threads <= self.idle_threads and self.descriptors <= self.idle_descriptors,
                limit_s=limit_s,
                what="threads and descriptors as when idle",
            )
        except AssertionError as error:
            raise AssertionError(
                f"{error}: {self.threads} threads, {self.idle_threads} when idle; "
                f"{self.descriptors} descriptors, {self.idle_descriptors} when idle: {self.open_files()}"
            ) from None

    def faults(self) -> list[str]:
        """Lines the log should not hold, since the last call."""
        with self.log.open("rb") as log:
            log.seek(self._scanned)
            text = log.read().decode(errors="replace")
            self._scanned = log.tell()
        return [line for line in text.splitlines() if any(word in line for word in FAULTS)]

    def stored(self, sop_instance_uid: str) -> list[bytes]:
        """Encoded data sets stored under a UID."""
        return [dataset_of(path) for path in self.spool.root.glob(f"instances/*/*/{sop_instance_uid}.dcm")]

    def quarantined(self) -> dict[str, str]:
        """Name of each quarantined file, and the reason beside it."""
        folder = self.spool.root / "quarantine"
        return {path.name: path.with_suffix(".txt").read_text() for path in folder.glob("*.dcm")}

    def strays(self) -> list[Path]:
        """Files and folders where none belong: outside of <study>/<series>/<sop>.dcm, or outside of the spool."""
        root = self.spool.root
        known = re.compile(
            r"instances(/[0-9.]{1,64}){0,2}(/[0-9.]{1,64}/[0-9.]{1,64}/[0-9.]{1,64}\.dcm)?|quarantine(/[^/]+\.(dcm|txt))?"
            r"|jobs\.db(-wal|-shm)?|audit\.log|findings|documents"
        )
        inside = [path for path in root.rglob("*") if not known.fullmatch(str(path.relative_to(root)))]
        beside = [path for path in root.parent.iterdir() if path not in (root, self.log)]
        return inside + beside

    def clear(self) -> None:
        """Forget what was stored, for the next round of a long run."""
        for name in ("instances", "quarantine"):
            for path in (self.spool.root / name).iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def _status(self, name: str) -> int:
        found = re.search(rf"^{name}:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text(), re.MULTILINE)
        assert found is not None
        return int(found[1])


def dataset_of(path: Path) -> bytes:
    """What stands in a Part 10 file after the file meta information."""
    content = path.read_bytes()
    return content[144 + int.from_bytes(content[140:144], "little") :]
