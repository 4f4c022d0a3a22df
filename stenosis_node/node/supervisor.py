"""Runs the children of ``serve``, starts a dead one again and frees what it had claimed."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from stenosis_node.config import ENV_PREFIX, Config
from stenosis_node.errors import TransientError
from stenosis_node.jobs import JobStore
from stenosis_node.node.child import EXIT_CONFIGURATION

log = logging.getLogger("stenosis_node.node")

TICK_S: Final = 0.1
STOP_S: Final = 8.0
"""A child that has not ended this long after it was asked to is killed."""
FIRST_DELAY_S: Final = 0.5
LONGEST_DELAY_S: Final = 5.0
HEALTHY_S: Final = 30.0
"""A child that lived this long starts the back-off anew."""


@dataclass(slots=True)
class _Child:
    role: str
    worker: str
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    begun: float = 0.0
    """Monotonic time of the last start."""
    due: float = 0.0
    """Monotonic time of the next start while there is no process."""
    delay_s: float = FIRST_DELAY_S


class Supervisor:
    """One process per role. ``name`` tells the workers of this node from those of others on the same queue."""

    def __init__(self, config: Config, store: JobStore, roles: Iterable[str], *, name: str) -> None:
        self._config_line = config.model_dump_json(context={"secrets": "shown"}).encode() + b"\n"
        self._store = store
        self._children = [_Child(role, f"{role}@{name}") for role in roles]

    def run(self, stop: threading.Event) -> int:
        """Keep the children alive until ``stop`` is set, then end them. The exit code of ``serve``.

        Not 0 only when a child says at its first start that the configuration is wrong. Call it from the main thread:
        the kernel kills the children when the thread that started them ends.
        """
        for child in self._children:
            self._free_leases(child)  # of a serve that was killed: its children are dead too
        try:
            while not stop.is_set():
                for child in self._children:
                    if self._tend(child) == EXIT_CONFIGURATION and child.starts == 1:
                        return EXIT_CONFIGURATION
                stop.wait(TICK_S)
            return 0
        finally:
            self._end_all()

    def _tend(self, child: _Child) -> int | None:
        """Start the child if it is due; its exit code if it just died."""
        if child.process is None:
            if time.monotonic() >= child.due:
                self._start(child)
            return None
        code = child.process.poll()
        if code is None:
            return None
        self._forget(child)
        if time.monotonic() - child.begun >= HEALTHY_S:
            child.delay_s = FIRST_DELAY_S
        self._put_off(child, _how(code))
        self._free_leases(child)
        return code

    def _put_off(self, child: _Child, why: str) -> None:
        """Start the child later, each time in a row later than the last."""
        child.due = time.monotonic() + child.delay_s
        log.error(
            "the %s process %s; it is started again in %.1f s", child.role, why, child.delay_s,
            extra={"event": "child_died"},
        )  # fmt: skip
        child.delay_s = min(2 * child.delay_s, LONGEST_DELAY_S)

    def _start(self, child: _Child) -> None:
        # the line on stdin already holds what the environment said; applied again, relative paths would be read twice
        environment = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
        try:
            child.process = subprocess.Popen(
                [sys.executable, "-m", "stenosis_node.node", child.role, child.worker],
                stdin=subprocess.PIPE,
                env=environment,
                start_new_session=True,  # Ctrl-C in a terminal reaches serve alone, which ends its children in order
            )
        except OSError as error:  # too many processes, no memory: that may pass
            self._put_off(child, f"cannot be started ({error.strerror})")
            return
        child.starts += 1
        child.begun = time.monotonic()
        assert child.process.stdin is not None  # noqa: S101  PIPE was asked for
        with contextlib.suppress(BrokenPipeError):  # it died already: the next tick sees it
            child.process.stdin.write(self._config_line)
            child.process.stdin.flush()
        log.info("%s process started", child.role, extra={"event": "child_started", "pid": child.process.pid})

    def _forget(self, child: _Child) -> None:
        if child.process is not None and child.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                child.process.stdin.close()
        child.process = None

    def _end_all(self) -> None:
        running = [child for child in self._children if child.process is not None]
        for child in running:
            assert child.process is not None and child.process.stdin is not None  # noqa: S101, PT018  just filtered
            with contextlib.suppress(BrokenPipeError):
                child.process.stdin.close()
        deadline = time.monotonic() + STOP_S
        for child in running:
            assert child.process is not None  # noqa: S101
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.warning("the %s process does not end; killed", child.role, extra={"event": "child_killed"})
                child.process.kill()
                child.process.wait()
            child.process = None
            self._free_leases(child)

    def _free_leases(self, child: _Child) -> None:
        try:
            self._store.free_leases_of(child.worker, now=None)
        except TransientError as error:  # they end by themselves after jobs.lease_s
            log.warning("leases of %s not freed: %s", child.worker, error, extra={"event": "free_failed"})


def _how(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
