"""Programs the demo starts, each in its own session, so that Ctrl-C reaches the demo alone and it ends them by pid."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

DEBIAN_PATHS = "/usr/bin:/usr/sbin:/usr/local/bin"
"""Where system programs are looked for: the environment holds pynetdicom's programs of the same names."""


class DemoError(Exception):
    """The demo cannot go on. The text says why and what to do."""


def system_program(name: str) -> str | None:
    """Absolute path of a program of the operating system, None when it is not installed."""
    return shutil.which(name, path=DEBIAN_PATHS)


def free_ports(count: int) -> list[int]:
    """That many different TCP ports which are free on loopback now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


@contextmanager
def running(name: str, command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the block ends; then SIGTERM, and SIGKILL to its process group if it does not go."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until(
    what: str,
    is_true: Callable[[], bool],
    processes: dict[Path, subprocess.Popen[bytes]],
    *,
    limit_s: float,
    every_s: float = 0.25,
) -> None:
    """Poll until ``is_true``. ``processes`` maps the log of each program that must stay alive meanwhile.

    raises  DemoError when the time is up or a program ended; it quotes the end of the log
    """
    deadline = time.monotonic() + limit_s
    while not is_true():
        for log, process in processes.items():
            if process.poll() is not None:
                raise DemoError(f"{log.stem} ended with exit code {process.returncode}:\n{_tail(log)}")
        if time.monotonic() > deadline:
            logs = ", ".join(str(log) for log in processes)
            raise DemoError(f"{what}: not after {limit_s:.0f} s; see {logs}")
        time.sleep(every_s)


def listens(port: int) -> bool:
    """Whether something accepts connections on this port of loopback."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
    return "\n".join(f"    {line}" for line in lines)
