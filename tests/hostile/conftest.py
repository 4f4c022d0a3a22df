"""A receiving process for each path of reception, shared by all tests here, checked after each of them."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.target import Target

LONG = os.environ.get("STENOSIS_NODE_HOSTILE") == "long"
"""Whether every probe runs; else one of each kind does, so that the whole takes seconds."""
PATHS = ("fast", "stock")


@pytest.fixture(scope="package")
def running() -> Iterator[dict[str, Target]]:
    """The processes. They start together: that costs the most of all."""
    memory = Path("/dev/shm")  # that the disk is flushed is tested elsewhere
    with (
        tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder,
        contextlib.ExitStack() as stack,
    ):
        targets = {path: Target(Path(folder) / path, fast_path=path == "fast") for path in PATHS}
        for target in targets.values():
            stack.callback(target.stop)
            target.launch()
        for target in targets.values():
            target.wait_until_idle()
        yield targets
        assert [target.stop() for target in targets.values()] == [0, 0]


@pytest.fixture(params=PATHS)
def target(request: pytest.FixtureRequest, running: dict[str, Target]) -> Iterator[Target]:
    """One of the processes, before and after a test."""
    with unharmed(running[request.param]):
        yield running[request.param]


@pytest.fixture
def targets(running: dict[str, Target]) -> Iterator[tuple[Target, ...]]:
    """Both at once, for tests that mostly wait."""
    with contextlib.ExitStack() as stack:
        yield tuple(stack.enter_context(unharmed(target)) for target in running.values())


@contextlib.contextmanager
def unharmed(target: Target) -> Iterator[Target]:
    """Afterwards it is the same process, idle again, without a fault in its log or a stray file."""
    pid = target.pid
    target.forget_peak()
    yield target
    assert target.alive
    assert target.pid == pid
    target.settle()
    assert target.faults() == []
    assert target.strays() == []
    target.clear()
