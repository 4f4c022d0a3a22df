"""What follows from an error: the one table, used by both workers."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from stenosis_node.errors import ConfigError, LeaseLost, NodeError, PermanentError, StudyRejected, TransientError


class Stopping(NodeError):
    """The process was asked to end: put the work down where it is."""


class Consequence(StrEnum):
    """What happens to the claimed work."""

    RETRY = "retry"  # again after a back-off; attempts used up: FAILED
    FAIL = "fail"  # FAILED now
    REJECT = "reject"  # REJECTED: a visible outcome, no error
    DROP = "drop"  # touch nothing: someone else has it
    RELEASE = "release"  # give it back untouched, at once


POLICY: Final[tuple[tuple[type[Exception], Consequence], ...]] = (
    (LeaseLost, Consequence.DROP),
    (Stopping, Consequence.RELEASE),
    (StudyRejected, Consequence.REJECT),
    (TransientError, Consequence.RETRY),
    (PermanentError, Consequence.FAIL),
    (ConfigError, Consequence.FAIL),
    (Exception, Consequence.RETRY),  # a bug: it may be the input of the day, so it gets its attempts
)
"""The first class that matches decides."""


def consequence(error: Exception) -> Consequence:
    """Look an error up in :data:`POLICY`."""
    return next(result for kind, result in POLICY if isinstance(error, kind))


def sentence(error: Exception) -> str:
    """What the job says about an error.

    The text of an error that is not ours may quote a header value, so only its class is kept.
    """
    if isinstance(error, NodeError):
        return str(error)
    return f"unexpected {type(error).__name__}; the log has the traceback: please report it"


def log_consequence(log: logging.Logger, error: Exception, what: str, *, attempt: int) -> None:
    """One line; a bug gets its traceback."""
    follows = consequence(error)
    ours = isinstance(error, NodeError)
    quiet = follows in (Consequence.DROP, Consequence.RELEASE, Consequence.REJECT)
    level = logging.INFO if quiet else logging.WARNING if ours else logging.ERROR
    fields = {"event": "not_done", "follows": follows, "attempt": attempt}
    log.log(level, "%s: %s", what, sentence(error), extra=fields, exc_info=None if ours else error)


@dataclass(frozen=True, slots=True)
class BackOff:
    """Waiting time that doubles with each attempt, up to a cap, minus up to a quarter at random.

    The random part keeps many jobs that failed together from coming back together.
    """

    base_s: float
    cap_s: float

    def delay_s(self, attempt: int) -> float:
        """Seconds to wait after this attempt (1 is the first)."""
        doublings = min(max(attempt, 1) - 1, 64)
        full = min(self.cap_s, self.base_s * 2.0**doublings)
        return full * random.uniform(0.75, 1.0)
