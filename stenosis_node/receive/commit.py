"""Group commit: many associations, one transaction.

A commit costs a flush of the disk whatever it holds. Association threads hand their row to one committer thread and
wait; it takes everything that queued up while the commit before was running. Nobody waits longer for being grouped.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Final, NamedTuple

from stenosis_node.domain import ReceivedInstance
from stenosis_node.errors import TransientError

MAX_GROUP: Final = 64


class Arrival(NamedTuple):
    """A received instance, and whether its bytes conflict with those kept under the same UID."""

    received: ReceivedInstance
    conflict: bool


class Committer:
    """Runs ``touch`` (a group of arrivals, one transaction) on a thread of its own."""

    def __init__(self, touch: Callable[[Sequence[Arrival]], object]) -> None:
        self._touch = touch
        self._queue: SimpleQueue[tuple[Arrival, Future[None]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)
        self._thread.start()

    def commit(self, arrival: Arrival) -> None:
        """Return when the row is durable. Raises what ``touch`` raised, TransientError after :meth:`close`."""
        done: Future[None] = Future()
        if not self._thread.is_alive():
            raise TransientError("the node is stopping")
        self._queue.put((arrival, done))
        done.result()

    @property
    def waiting(self) -> int:
        """Arrivals that wait for the running commit to end (about: other threads go on)."""
        return self._queue.qsize()

    def close(self) -> None:
        """Commit what is queued, then end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        stopping = False
        while not stopping:
            group: list[tuple[Arrival, Future[None]]] = []
            while len(group) < MAX_GROUP and not (group and self._queue.empty()):
                item = self._queue.get()
                if item is None:
                    stopping = True
                    break
                group.append(item)
            self._commit_group(group)

    def _commit_group(self, group: list[tuple[Arrival, Future[None]]]) -> None:
        if not group:
            return
        try:
            self._touch([arrival for arrival, _ in group])
        except Exception as error:  # noqa: BLE001  raised again in the thread that waits for it
            if len(group) > 1:  # one arrival must not fail those that happened to share its transaction
                for item in group:
                    self._commit_group([item])
                return
            group[0][1].set_exception(error)
            return
        for _, done in group:
            done.set_result(None)
