"""System calls of a whole node, in the order in which they were made: what survives if the power fails in between."""

from __future__ import annotations

import re
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.acceptance.processes import CLI, wait_until
from tests.conftest import require_tool
from tests.soak.servers import SoakNode

CALLS = "write,writev,pwrite64,fsync,fdatasync,link,linkat,rename,renameat,renameat2,sendto,sendmsg,recvfrom"

_DESCRIPTOR = re.compile(r"(\d+)<(.*?)>(?:\(deleted\))?(?=[,)])")


@dataclass(frozen=True)
class Call:
    """One system call. Of two calls, ``a.end < b.begin`` says that a had returned before b was made."""

    begin: int
    end: int
    name: str
    text: str
    """Arguments as strace prints them, descriptors with their paths."""

    @property
    def path(self) -> str:
        """Of the descriptor that is the first argument; of a socket its ends; of a file without a name its folder
        and ``#`` with the number of its inode."""
        found = _DESCRIPTOR.match(self.text)
        return found[2] if found else ""

    @property
    def descriptor(self) -> int:
        """That is the first argument; -1 where it is none."""
        found = _DESCRIPTOR.match(self.text)
        return int(found[1]) if found else -1


class TracedNode(SoakNode):
    """``serve`` and all its children under strace."""

    @property
    def trace(self) -> Path:
        return self.folder / "trace"

    def start(self, *, wait: bool = True) -> TracedNode:
        self.write_config()
        command = [
            require_tool("strace", "strace"), "-f", "-yy", "-qq", "--seccomp-bpf", "-s", "4200",
            "-e", f"trace={CALLS}", "-e", "signal=none", "-o", str(self.trace),
        ]  # fmt: skip
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *CLI, "serve", "--config", str(self.config)],
                stdout=log, stderr=subprocess.STDOUT, env=self._environment(),
            )  # fmt: skip
        wait_until(lambda: self._dead() or self.listening(), limit_s=300, what="the node listens", log=self.log)
        assert not self._dead(), self.log.read_text()
        return self

    def stop(self) -> int:
        """SIGTERM to serve; strace ends with it."""
        if self._process is None:
            return 0
        for child in psutil.Process(self._process.pid).children():
            child.send_signal(signal.SIGTERM)
        code = self._process.wait(60)
        self._process = None
        return code


def read_trace(path: Path) -> list[Call]:
    """The calls that returned without an error, by their beginning."""
    begun: dict[str, tuple[int, str, str]] = {}
    calls: list[Call] = []
    for number, line in enumerate(path.read_text(errors="replace").splitlines()):
        pid, _, rest = line.partition(" ")
        rest = rest.strip()
        if rest.endswith("<unfinished ...>"):
            name, _, text = rest.removesuffix("<unfinished ...>").partition("(")
            begun[pid] = (number, name, text.rstrip())
            continue
        resumed = re.match(r"<\.\.\. (\w+) resumed>(.*)", rest)
        if resumed:
            if pid not in begun:
                continue
            begin, name, text = begun.pop(pid)
            text += resumed[2]
        else:
            begin, (name, _, text) = number, rest.partition("(")
        if re.search(r"\) += -?\d+", text) and not re.search(r"\) += -1 ", text):
            calls.append(Call(begin, number, name, text))
    return sorted(calls, key=lambda call: call.begin)
