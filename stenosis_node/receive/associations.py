"""What is open right now: admitted associations, the studies they carry, and how much of an instance has arrived."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import Final, Protocol

from pynetdicom import evt
from pynetdicom.association import Association

from stenosis_node import config
from stenosis_node.receive.access import Admission, Door
from stenosis_node.receive.auditing import AssociationAudit, Tally
from stenosis_node.wire import P_DATA_TF
from stenosis_node.wire.association import hang_up
from stenosis_node.wire.framing import HEAD_BYTES

log = logging.getLogger("stenosis_node.receive")

MAX_COMMAND_BYTES: Final = 1 << 14
"""Of a command set; the longest legitimate one has a few hundred."""
MIN_BYTES_PER_S: Final = 1_000
"""An instance that arrives more slowly than this ends its association."""
MAX_WAITING_REQUESTS: Final = 2
"""Of one association; a peer that waits for its answers has none."""


class Living(Protocol):
    """An association of either path."""

    def is_alive(self) -> bool:
        """Whether its thread still runs."""


@dataclass(slots=True)
class OpenAssociation:
    """One admitted association. Only its own threads write to it."""

    calling_ae_title: str
    address: str
    tally: Tally
    studies: set[str] = field(default_factory=set)
    stored: int = 0
    refused: int = 0
    command_bytes: int = 0
    """Of the command set that is arriving over the stock path."""
    dataset_bytes: int = 0
    """Of the instance that is arriving over the stock path."""
    began: float = 0.0
    """When its first byte came: a monotonic time."""


class OpenAssociations:
    """The admitted associations whose threads are alive."""

    def __init__(self, rules: config.Receive, door: Door, audit: AssociationAudit) -> None:
        self._door = door
        self._audit = audit
        self._has_fast_path = rules.fast_path
        self._max_object_bytes = rules.max_object_mb * 1_000_000
        self._limit_s = rules.network_timeout_s
        self._open: dict[Living, OpenAssociation] = {}
        self._lock = threading.Lock()

    def admit(self, association: Living, *, called: str, calling: str, address: str) -> Admission:
        """Ask the access rules; an admitted association is open from now on."""
        with self._lock:
            self._forget_ended()
            present = [(record.calling_ae_title, record.address) for record in self._open.values()]
            admission = self._door.admit(
                called=called,
                calling=calling,
                address=address,
                present=present,
                beside_fast_path=self._beside_fast_path(association),
            )
            if admission.accepted:
                tally = self._audit.admitted(calling.strip(), address)
                self._open[association] = OpenAssociation(calling.strip(), address, tally)
        if admission.accepted:
            log.info(
                "association from %s at %s accepted", calling.strip(), address, extra={"event": "association_accepted"}
            )
        else:
            if not admission.is_repeated:
                self._audit.rejected(calling.strip(), address, admission.sentence)
            level = logging.DEBUG if admission.is_repeated else logging.WARNING
            log.log(
                level, "association from %s rejected: %s", address, admission.sentence,
                extra={"event": "association_rejected"},
            )  # fmt: skip
        return admission

    def _beside_fast_path(self, association: Living) -> int:
        if not self._has_fast_path or not isinstance(association, Association):
            return 0
        return sum(isinstance(other, Association) for other in self._open)

    def get(self, association: Living) -> OpenAssociation | None:
        """The record of an association, None when it was not admitted."""
        return self._open.get(association)

    def say_ended(self, association: Living, how: str) -> None:
        """Log how an admitted association ended: released or aborted."""
        record = self._open.get(association)
        if record is not None:
            record.tally.report()
            log.info(
                "association from %s %s: %d instances stored, %d refused",
                record.calling_ae_title,
                how,
                record.stored,
                record.refused,
                extra={"event": f"association_{how}"},
            )

    def studies(self) -> set[str]:
        """Study Instance UIDs that arrived over associations which are still open."""
        with self._lock:
            self._forget_ended()
            return set().union(*(record.studies.copy() for record in self._open.values()))

    def measure(self, event: evt.Event) -> None:
        """Bound what the stock path holds of one peer, and how slowly an instance may come.

        What it holds: a data set, a command set, requests that wait their turn. Bound to EVT_DATA_RECV: runs in the
        thread that reads from the peer, before this PDU is looked at.
        """
        pdu: bytes = event.data
        record = self._open.get(event.assoc)
        if record is None or len(pdu) < 12 or pdu[0] != P_DATA_TF:
            return
        message = event.assoc.dimse.message
        collected = None if message is None else message.data_set
        now, is_slow = time.monotonic(), False
        for control, size in _fragments(pdu):
            if not control & 1:
                if not record.dataset_bytes:
                    record.began = now
                record.dataset_bytes += size
                is_slow |= now - record.began > self._limit_s + record.dataset_bytes / MIN_BYTES_PER_S
                continue
            record.command_bytes += size
            if not control & 2:
                continue
            record.command_bytes = 0
            if not isinstance(collected, BytesIO) or not collected.tell():  # not in the middle of a data set
                record.dataset_bytes = 0
        if record.dataset_bytes > self._max_object_bytes and isinstance(collected, BytesIO):
            collected.seek(0)
            collected.truncate()
        if is_slow:
            self._end(event.assoc, record, f"an instance arrives at less than {MIN_BYTES_PER_S} bytes a second")
        elif record.command_bytes > MAX_COMMAND_BYTES or not self._has_turn(event.assoc):
            self._end(event.assoc, record, "more than a node holds of one peer")

    def _end(self, association: Association, record: OpenAssociation, why: str) -> None:
        log.warning("association from %s ended: %s", record.calling_ae_title, why, extra={"event": "aborting"})
        hang_up(association)

    def _has_turn(self, association: Association) -> bool:
        """Wait until earlier requests of the peer are answered: it should have waited for that itself (PS3.7 D.3.3.3).

        Nothing is read from it meanwhile. False when that takes longer than an association may be silent.
        """
        deadline = time.monotonic() + self._limit_s
        while association.dimse.msg_queue.qsize() >= MAX_WAITING_REQUESTS:
            if time.monotonic() > deadline or not association.is_established:
                return False
            time.sleep(0.001)
        return True

    def _forget_ended(self) -> None:
        for association in [a for a in self._open if not a.is_alive()]:
            self._open.pop(association).tally.report()


def _fragments(pdu: bytes) -> Iterator[tuple[int, int]]:
    """Message control header and length of each fragment of a P-DATA-TF, as far as they can be told."""
    position = HEAD_BYTES
    while position + 6 <= len(pdu):
        size = int.from_bytes(pdu[position : position + 4], "big")
        yield pdu[position + 5], min(size, len(pdu))
        position += 4 + size
