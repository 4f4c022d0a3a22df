"""What reception tells the audit stream, without ever waiting for it.

The threads of associations count, and hand over what is to be reported; one thread reads Patient IDs and writes.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from stenosis_node.audit import AuditTrail, Message, StudyPart, patient_of
from stenosis_node.config import Config

log = logging.getLogger("stenosis_node.receive")

GATHER_S: Final = 0.2
"""Messages are written, and flushed to the disk, this often."""
REPORT_EVERY_S: Final = 60.0
"""An association that goes on reports what came so often."""
MAX_WAITING: Final = 10_000
MAX_REMEMBERED: Final = 1_000
"""Callers that were turned away."""
STOP_S: Final = 5.0


@dataclass(slots=True)
class _Arrived:
    """Instances of one study over one association."""

    path: Path
    """Of the first, relative to the spool."""
    by_class: Counter[str] = field(default_factory=Counter)


class Tally:
    """What one association brought. Only its own threads call it."""

    def __init__(self, audit: AssociationAudit, calling: str, address: str) -> None:
        self._audit = audit
        self._calling = calling
        self._address = address
        self._studies: dict[str, _Arrived] = {}
        self._refused = 0
        self._reported = time.monotonic()

    def stored(self, study_uid: str, sop_class_uid: str, path: Path) -> None:
        """One instance is durable."""
        arrived = self._studies.get(study_uid)
        if arrived is None:
            arrived = self._studies[study_uid] = _Arrived(path)
        arrived.by_class[sop_class_uid] += 1
        if time.monotonic() - self._reported > REPORT_EVERY_S:
            self.report()

    def refused(self) -> None:
        """One instance was answered with a failure."""
        self._refused += 1

    def report(self) -> None:
        """Hand over what was counted since the last time; also when the association is over, any number of times."""
        studies, self._studies = self._studies, {}
        n_refused, self._refused = self._refused, 0
        self._reported = time.monotonic()
        for study_uid, arrived in studies.items():
            self._audit.received(self._calling, self._address, study_uid, arrived.path, arrived.by_class)
        if n_refused:
            self._audit.not_received(self._calling, self._address, n_refused)


class AssociationAudit:
    """Writes what the threads of reception hand over, in a thread of its own."""

    def __init__(self, config: Config) -> None:
        self._root = config.spool
        self._trail = AuditTrail(config)
        self._events = self._trail.events
        self._waiting: queue.Queue[Callable[[], Message]] = queue.Queue(MAX_WAITING)
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._turned_away: dict[tuple[str, str], float] = {}
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to write."""
        self._thread = threading.Thread(target=self._write, name="audit", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write what was handed over, and end."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(STOP_S)
            self._thread = None

    def admitted(self, calling: str, address: str) -> Tally:
        """An association is open."""
        self._hand_over(lambda: self._events.association(calling, address))
        return Tally(self, calling, address)

    def rejected(self, calling: str, address: str, why: str) -> None:
        """An association was refused."""
        self._hand_over(lambda: self._events.association(calling, address, refused=why))

    def turned_away(self, address: str, why: str, *, is_abuse: bool = False) -> None:
        """A connection was closed before there was an association. Told once a minute for an address and a reason."""
        now, what = time.monotonic(), (address, why)
        with self._lock:
            last = self._turned_away.pop(what, None)
            is_news = last is None or now - last >= REPORT_EVERY_S
            self._turned_away[what] = now if is_news or last is None else last
            if len(self._turned_away) > MAX_REMEMBERED:
                del self._turned_away[next(iter(self._turned_away))]
        if not is_news:
            return
        self._hand_over(lambda: self._events.association("", address, refused=why, is_abuse=is_abuse))

    def received(self, calling: str, address: str, study_uid: str, path: Path, by_class: Counter[str]) -> None:
        """Instances of a study are durable."""

        def make() -> Message:
            part = StudyPart(study_uid, patient_of(self._root / path), by_class)
            return self._events.received(calling, address, part)

        self._hand_over(make)

    def not_received(self, calling: str, address: str, number: int) -> None:
        """Instances were refused."""
        self._hand_over(lambda: self._events.not_received(calling, address, number))

    def _hand_over(self, make: Callable[[], Message]) -> None:
        try:
            self._waiting.put_nowait(make)
        except queue.Full:
            self._trail.lose(1)

    def _write(self) -> None:
        while not (self._stopping.wait(GATHER_S) and self._waiting.empty()):
            messages: list[Message] = []
            while not self._waiting.empty():
                make = self._waiting.get_nowait()
                try:
                    messages.append(make())
                except Exception:
                    log.exception("an audit message was not made", extra={"event": "audit_failed"})
                    self._trail.lose(1)
            if messages:
                self._trail.record(*messages)
            else:
                self._trail.flush()
