"""Group commit: many associations, one transaction.

A commit costs a flush of the disk whatever it holds. Each association thread queues its row and waits for its turn;
whoever has the turn commits all that queued up while the commit before ran. Nobody waits longer for being grouped.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from stenosis_node.domain import ReceivedInstance
from stenosis_node.errors import TransientError
from stenosis_node.jobs import BeingDeleted

MAX_GROUP: Final = 64


class Arrival(NamedTuple):
    """A received instance, and whether its bytes conflict with those kept under the same UID."""

    received: ReceivedInstance
    conflict: bool


class _Waiting:
    """An arrival whose thread waits for its commit; only who has the turn looks at it or changes it."""

    __slots__ = ("arrival", "error", "is_done")

    def __init__(self, arrival: Arrival) -> None:
        self.arrival = arrival
        self.is_done = False
        self.error: Exception | None = None


class Committer:
    """Commits arrivals in groups: ``touch`` writes a group in one transaction, all of it or nothing."""

    def __init__(self, touch: Callable[[Sequence[Arrival]], object]) -> None:
        self._touch = touch
        self._turn = threading.Lock()
        self._queue: deque[_Waiting] = deque()

    def commit(self, arrival: Arrival) -> None:
        """Return when the row is durable. Raises what ``touch`` raised for it."""
        mine = _Waiting(arrival)
        self._queue.append(mine)
        with self._turn:
            while not mine.is_done:  # else whoever had the turn before took it along
                self._commit([self._queue.popleft() for _ in range(min(MAX_GROUP, len(self._queue)))])
        if mine.error is not None:
            raise mine.error

    @property
    def waiting(self) -> int:
        """Arrivals that wait for a running commit to end."""
        return len(self._queue)

    def _commit(self, group: Sequence[_Waiting]) -> None:
        error: Exception | None = None
        try:
            self._touch([one.arrival for one in group])
        except Exception as raised:  # noqa: BLE001  raised again in the thread that it belongs to
            error = raised
            if len(group) > 1 and _blames_one(error):
                for one in group:
                    self._commit([one])
                return
        for one in group:
            one.error, one.is_done = error, True


def _blames_one(error: Exception) -> bool:
    """Whether the other arrivals may succeed without the one that is to blame.

    When the database is away they do not, and to try each would make everybody wait for a timeout per arrival.
    """
    return isinstance(error, BeingDeleted) or not isinstance(error, TransientError)
