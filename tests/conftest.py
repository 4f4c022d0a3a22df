"""Fixtures every suite may use."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1:
    # Threads of torch that have no processor of their own wait by spinning: with two workers on two processors, and
    # the processes that the tests start, tests of networks took three to six times as long.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED_DATA = Path(os.environ.get("STENOSIS_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
"""Real MR files of public data sets, read in place; tests that need them skip when they are absent."""

DEBIAN_PATHS = "/usr/bin:/usr/sbin:/usr/local/bin"
"""Looked up before PATH: pynetdicom installs its own storescu and echoscu into the environment."""


def require_tool(name: str, package: str) -> str:
    """Absolute path of an external program, found outside the virtual environment.

    Missing on a newcomer's machine it is a skip that names the Debian package; in CI it is a failure.
    """
    found = shutil.which(name, path=DEBIAN_PATHS) or shutil.which(name)
    if found is not None:
        return found
    reason = f"{name} is not installed (Debian package {package})"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def require_data(*parts: str) -> Path:
    """A folder or file of the real MR test data, or a skip."""
    path = SHARED_DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"real MR test data not present: {'/'.join(parts)}")
    return path


def free_port() -> int:
    """A TCP port that is free on loopback right now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _lasting_threads() -> set[threading.Thread]:
    """Threads the interpreter would wait for at its end."""
    return {thread for thread in threading.enumerate() if not thread.daemon and thread is not threading.main_thread()}


@pytest.fixture(autouse=True)
def _no_thread_outlives_its_test() -> Iterator[None]:
    """A thread that waits for ever keeps the whole run from ending: it is found where it was started."""
    before = _lasting_threads()
    yield
    deadline = time.monotonic() + 20
    while (left := _lasting_threads() - before) and time.monotonic() < deadline:
        time.sleep(0.02)
    if left:
        faulthandler.dump_traceback(file=sys.__stderr__ or sys.stderr)
        pytest.fail(f"threads outlive the test: {sorted(thread.name for thread in left)}")


_exit_status = 0


def pytest_sessionfinish(exitstatus: int) -> None:
    """Keep the status for :func:`pytest_unconfigure`."""
    global _exit_status  # noqa: PLW0603  pytest hands the status over in one hook and ends in another
    _exit_status = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End for sure: what is still running is shown, and a run whose tests passed does not hang for it.

    A worker of pytest-xdist waits here for the others, as long as they need; the run that started it ends it.
    """
    if not hasattr(config, "workerinput"):
        faulthandler.dump_traceback_later(60, exit=True)
    if _lasting_threads() or multiprocessing.active_children():
        print("left over at the end:", _lasting_threads(), multiprocessing.active_children(), file=sys.__stderr__)
        faulthandler.dump_traceback(file=sys.__stderr__ or sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_exit_status)
