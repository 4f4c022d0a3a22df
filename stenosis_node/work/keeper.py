"""What both workers do alike: take work step by step, and keep a lease alive while its work is done."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from stenosis_node.errors import LeaseLost, PermanentError, TransientError
from stenosis_node.work.policy import Stopping

log = logging.getLogger("stenosis_node.work")

POLL_S: Final = 0.5


def work_until(stop: threading.Event, step: Callable[[], bool], *, poll_s: float = POLL_S) -> None:
    """Take steps until ``stop`` is set; rest a moment when a step says that nothing is due."""
    while not stop.is_set():
        try:
            worked = step()
        except (TransientError, PermanentError) as error:
            # the database is away, or does not take what is to be written; what was claimed comes back with its lease
            log.error("cannot work now: %s", error, extra={"event": "store_unavailable"})  # noqa: TRY400
            worked = False
        if not worked:
            stop.wait(poll_s)


class LeaseKeeper:
    """Renews a lease from a thread until the block ends. The work asks :meth:`check` between its steps."""

    def __init__(self, renew: Callable[[], None], *, every_s: float, stop: threading.Event) -> None:
        self._renew = renew
        self._every_s = every_s
        self._stop = stop
        self._done = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    @property
    def may_go_on(self) -> bool:
        """Whether :meth:`check` would raise nothing."""
        return not (self._lost.is_set() or self._stop.is_set())

    def check(self) -> None:
        """Raises LeaseLost once the lease went to someone else, Stopping once the process was asked to end."""
        if self._lost.is_set():
            raise LeaseLost("the lease was revoked or taken over while the work was under way")
        if self._stop.is_set():
            raise Stopping("the node is stopping")

    def _beat(self) -> None:
        while not self._done.wait(self._every_s):
            try:
                self._renew()
            except LeaseLost:
                self._lost.set()
                return
            except TransientError as error:  # the lease outlives two missed beats
                log.warning("could not renew a lease: %s", error, extra={"event": "renew_failed"})
            except Exception:  # a bug: to go on without a beat would be work under a dead lease, unknown to the work
                log.exception("could not renew a lease", extra={"event": "renew_failed"})
