"""What is open right now: admitted associations, the studies they carry, and how much of an instance has arrived."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from io import BytesIO

from pynetdicom import evt
from pynetdicom.association import Association

from stenosis_node import config
from stenosis_node.receive.access import Admission, AssociationRequest, admit
from stenosis_node.wire import P_DATA_TF


@dataclass(slots=True)
class OpenAssociation:
    """One admitted association. Only its own threads write to it."""

    calling_ae_title: str
    address: str
    studies: set[str] = field(default_factory=set)
    stored: int = 0
    refused: int = 0
    dataset_bytes: int = 0
    """Of the instance that is arriving."""


class OpenAssociations:
    """The admitted associations whose threads are alive."""

    def __init__(self, rules: config.Receive) -> None:
        self._rules = rules
        self._max_object_bytes = rules.max_object_mb * 1_000_000
        self._open: dict[Association, OpenAssociation] = {}
        self._lock = threading.Lock()

    def admit(self, association: Association, *, called: str, calling: str, address: str) -> Admission:
        """Ask the access rules; an admitted association is open from now on."""
        with self._lock:
            self._forget_ended()
            request = AssociationRequest(
                called_ae_title=called,
                calling_ae_title=calling,
                address=address,
                open_associations=len(self._open),
            )
            admission = admit(request, self._rules)
            if admission.accepted:
                self._open[association] = OpenAssociation(calling.strip(), address)
        return admission

    def get(self, association: Association) -> OpenAssociation | None:
        """The record of an association, None when it was not admitted."""
        return self._open.get(association)

    def studies(self) -> set[str]:
        """Study Instance UIDs that arrived over associations which are still open."""
        with self._lock:
            self._forget_ended()
            return set().union(*(record.studies.copy() for record in self._open.values()))

    def is_too_large(self, association: Association) -> bool:
        """Whether the data set that just arrived went over receive.max_object_mb (and was thrown away)."""
        record = self._open.get(association)
        return record is not None and record.dataset_bytes > self._max_object_bytes

    def measure(self, event: evt.Event) -> None:
        """Count the data set bytes of an arriving PDU; beyond the limit drop what was collected: memory stays bounded.

        Bound to EVT_DATA_RECV: runs in the thread that also collects the data set, before this PDU is added to it.
        """
        pdu: bytes = event.data
        record = self._open.get(event.assoc)
        if record is None or len(pdu) < 12 or pdu[0] != P_DATA_TF:
            return
        if pdu[11] & 1:  # message control header of the first PDV: a command, so a new message begins
            record.dataset_bytes = 0
        else:
            record.dataset_bytes += len(pdu)
            message = event.assoc.dimse.message
            if record.dataset_bytes > self._max_object_bytes and message is not None:
                collected = message.data_set
                if isinstance(collected, BytesIO):
                    collected.seek(0)
                    collected.truncate()

    def _forget_ended(self) -> None:
        for association in [a for a in self._open if not a.is_alive()]:
            del self._open[association]
