"""Where messages are handed in.

What serves patients goes on when the audit file cannot be written: messages are then held in memory, at most
``MAX_HELD``, and written as soon as they can be; when some had to be dropped, a message says how many and since when.
What an administrator does is refused instead, for there a human is present who can help.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from datetime import UTC, datetime
from typing import Final

from stenosis_node.audit.events import Events
from stenosis_node.audit.journal import Journal
from stenosis_node.audit.message import Message, to_xml
from stenosis_node.config import Config
from stenosis_node.errors import PermanentError

log = logging.getLogger("stenosis_node.audit")

MAX_HELD: Final = 10_000
"""Messages in memory; about ten megabytes."""
COMPLAIN_EVERY_S: Final = 60.0


class CannotAudit(PermanentError):
    """The audit file cannot be written."""


class AuditTrail:
    """Appends to the audit file of a node. Threads may share it."""

    def __init__(self, config: Config) -> None:
        self.events: Final = Events(config)
        self._journal = Journal(config.audit_file)
        self._source_id = config.audit.source_id or config.receive.ae_title
        self._site_id = config.audit.site_id
        self._lock = threading.Lock()
        self._held: deque[str] = deque()
        self._lost = 0
        self._failing_since: datetime | None = None
        self._complained = 0.0

    def check(self) -> None:
        """CannotAudit when nothing could be written now."""
        try:
            self._journal.check()
        except OSError as error:
            raise self._cannot(error) from error

    def write(self, *messages: Message) -> None:
        """On the disk when this returns. Raises CannotAudit."""
        try:
            self._journal.append([self._line(message) for message in messages])
        except OSError as error:
            raise self._cannot(error) from error

    def record(self, *messages: Message) -> None:
        """On the disk when this returns, or held until it can be. Never raises."""
        lines = [self._line(message) for message in messages]
        with self._lock:
            self._held += lines
            self._append()

    def flush(self) -> None:
        """Write what is held, if there is anything. Never raises."""
        with self._lock:
            if self._held or self._lost:
                self._append()

    def lose(self, number: int) -> None:
        """So many messages were never handed in."""
        with self._lock:
            self._failing_since = self._failing_since or datetime.now(UTC)
            self._lost += number

    def _append(self) -> None:
        lines = list(self._held)
        if self._lost:
            lines.append(self._line(self.events.recording_gap(self._lost, self._failing_since or datetime.now(UTC))))
        if not lines:
            return
        try:
            self._journal.append(lines)
        except OSError as error:
            self._failing_since = self._failing_since or datetime.now(UTC)
            while len(self._held) > MAX_HELD:
                self._held.popleft()
                self._lost += 1
            self._complain(error)
        else:
            if self._failing_since is not None:
                log.warning(
                    "the audit file is written again; %d messages are lost", self._lost, extra={"event": "audit_again"}
                )
            self._held.clear()
            self._lost = 0
            self._failing_since = None

    def _complain(self, error: OSError) -> None:
        now = time.monotonic()
        if not self._complained or now - self._complained >= COMPLAIN_EVERY_S:
            self._complained = now
            log.error(
                "%s; %d audit messages are held in memory, %d are lost",
                self._cannot(error), len(self._held), self._lost, extra={"event": "audit_failed"},
            )  # fmt: skip

    def _cannot(self, error: OSError) -> CannotAudit:
        return CannotAudit(
            f"audit.file: {self._journal.path} cannot be written ({error.strerror}): let the node's user write it, "
            "and see that the disk has room"
        )

    def _line(self, message: Message) -> str:
        return to_xml(message, source_id=self._source_id, site_id=self._site_id)
