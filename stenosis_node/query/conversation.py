"""What C-FIND, C-GET and C-MOVE have in common: a bounded stream of responses, and what a final status means."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Final, Self

from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext

from stenosis_node.config import Peer
from stenosis_node.errors import PermanentError, TransientError
from stenosis_node.wire.association import associate, describe, hang_up

Responses = Iterator[tuple[Dataset, Dataset | None]]

PENDING: Final = frozenset({0xFF00, 0xFF01})
SUCCESS: Final = 0x0000
SOME_FAILED: Final = 0xB000
MOVE_DESTINATION_UNKNOWN: Final = 0xA801


class PeerAway(TransientError):
    """The peer cannot be reached, or ended or left a conversation: another one will hardly go better at the moment."""


_MEANINGS: Final[dict[int, tuple[str, type[PermanentError | TransientError]]]] = {
    0x0105: ("no such attribute", PermanentError),
    0x0106: ("invalid attribute value", PermanentError),
    0x0110: ("processing failure", TransientError),
    0x0115: ("invalid argument value", PermanentError),
    0x0122: ("SOP class not supported", PermanentError),
    0x0124: ("not authorised", PermanentError),
    0x0211: ("unrecognised operation", PermanentError),
    0x0212: ("mistyped argument", PermanentError),
    0xA700: ("out of resources", TransientError),
    0xA701: ("out of resources, cannot count the matches", TransientError),
    0xA702: ("out of resources, cannot perform the sub-operations", TransientError),
    MOVE_DESTINATION_UNKNOWN: ("move destination unknown", PermanentError),
    0xA900: ("the identifier does not match the SOP class", PermanentError),
    0xFE00: ("cancelled", TransientError),
}


class Watch:
    """Ends the connection under a conversation that falls silent, lasts too long or brings too many bytes."""

    CHECK_S: Final = 0.25

    def __init__(self, association: Association, *, silence_s: float, total_s: float, max_bytes: int) -> None:
        """
        max_bytes  that may arrive between two calls of :meth:`consumed`
        """
        self.why: str | None = None
        """What was too much, as the predicate of a sentence about the peer; None while all is well."""
        self._association = association
        self._silence_s = silence_s
        self._total_s = total_s
        self._max_bytes = max_bytes
        self._begin = self._last = time.monotonic()
        self._bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._association.dimse_timeout = self._total_s + self._silence_s  # the watch is faster
        self._association.bind(evt.EVT_DATA_RECV, self._on_bytes)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        self._association.unbind(evt.EVT_DATA_RECV, self._on_bytes)

    def consumed(self) -> None:
        """What has arrived is dealt with; the next bytes count anew."""
        self._bytes = 0
        self._last = time.monotonic()

    def _on_bytes(self, event: evt.Event) -> None:
        self._last = time.monotonic()
        self._bytes += len(event.data)
        if self._bytes > self._max_bytes:
            self._end(f"sent more than {self._max_bytes // 1_000_000} MB at once")

    def _look(self) -> None:
        while not self._done.wait(self.CHECK_S):
            now = time.monotonic()
            if now - self._last > self._silence_s:
                self._end(f"did not answer for {self._silence_s:g} s")
            elif now - self._begin > self._total_s:
                self._end(f"was not done after {self._total_s:g} s")

    def _end(self, why: str) -> None:
        self.why = self.why or why
        hang_up(self._association)


@contextlib.contextmanager
def conversation(peer: Peer, contexts: Sequence[PresentationContext], **options: Any) -> Iterator[Association]:
    """As :func:`associate`. PeerAway when there is no association for now, PermanentError when there never will be."""
    with contextlib.ExitStack() as stack:
        try:
            association = stack.enter_context(associate(peer, contexts, **options))
        except TransientError as error:
            raise PeerAway(str(error)) from error
        yield association


def responses(
    begun: Responses, operation: str, peer: Peer, watch: Watch
) -> Iterator[tuple[int, Dataset, Dataset | None]]:
    """(status, status elements, identifier) of each response up to the final one.

    raises  PeerAway when the association ends, or the watch ends it, before the final response
    """
    for elements, identifier in begun:
        if "Status" not in elements or watch.why:
            why = watch.why or "aborted, or sent what is no response,"
            raise PeerAway(f"{describe(peer)} {why} during {operation}")
        yield int(elements.Status), elements, identifier


def failure(status: int, operation: str, peer: Peer) -> PermanentError | TransientError:
    """The error that a failure status calls for. Unknown ones may pass: attempts are limited."""
    unnamed = "unable to process" if status >> 12 == 0xC else "unknown failure"
    meaning, kind = _MEANINGS.get(status, (unnamed, TransientError))
    return kind(f"{describe(peer)} answered 0x{status:04X} ({meaning}) to {operation}")


def uid_of(identifier: Any, keyword: str) -> str:
    """A single UID in a response; empty when there is none."""
    value = identifier.get(keyword)
    text = "" if value is None else str(value).strip("\0 ")
    return text if text and len(text) <= 64 and not set(text) - set("0123456789.") else ""
