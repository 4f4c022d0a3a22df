"""An archive that commits, in part or not at all, at once or later: a storage commitment provider of our own."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from socketserver import BaseServer
from typing import Any

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.transport import ThreadedAssociationServer

from stenosis_node.config import Peer
from stenosis_node.wire.commitment import PUSH_MODEL, PUSH_MODEL_INSTANCE


def report(transaction: str, committed: Any = (), failed: dict[str, int] | None = None) -> Dataset:
    """Event Information of an N-EVENT-REPORT."""
    ds = Dataset()
    ds.TransactionUID = transaction
    ds.ReferencedSOPSequence, ds.FailedSOPSequence = Sequence(), Sequence()
    for uid in committed:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2", uid
        ds.ReferencedSOPSequence.append(item)
    for uid, reason in (failed or {}).items():
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID, item.FailureReason = "1.2", uid, reason
        ds.FailedSOPSequence.append(item)
    if not failed:
        del ds.FailedSOPSequence
    return ds


@dataclass
class Committer:
    """A storage commitment provider: what it answers, what it was asked, and how its reports were answered."""

    port: int = 0
    status: int = 0
    before_response: Callable[[Association, str], None] = lambda association, transaction: None
    after_response: Callable[[Association, str], None] = lambda association, transaction: None
    answer: Callable[[str], int] = lambda uid: 0
    """Status of each C-STORE."""
    stored: list[str] = field(default_factory=list)
    asked: list[Dataset] = field(default_factory=list)
    replies: queue.Queue[int | None] = field(default_factory=queue.Queue)

    @property
    def peer(self) -> Peer:
        return Peer(ae_title="ARCHIVE", host="127.0.0.1", port=self.port, timeout_s=1, commitment=True)

    def tell(self, association: Association, information: Dataset, *, kind: int = 1, instance: str = "") -> None:
        """N-EVENT-REPORT on an association."""
        status, _ = association.send_n_event_report(
            information, kind, PUSH_MODEL, UID(instance) if instance else PUSH_MODEL_INSTANCE
        )
        self.replies.put(status.get("Status"))


@contextlib.contextmanager
def committing(*classes: str) -> Iterator[Committer]:
    """The archive while the block runs; it also takes objects of these SOP classes."""
    ae = AE("ARCHIVE")
    for sop_class in classes:
        ae.add_supported_context(sop_class, ExplicitVRLittleEndian)
    ae.add_supported_context(PUSH_MODEL)
    threads: list[threading.Thread] = []
    made = Committer()

    def act(event: evt.Event) -> tuple[int, Dataset | None]:
        information = event.action_information
        made.asked.append(information)
        made.before_response(event.assoc, information.TransactionUID)
        thread = threading.Thread(target=later, args=(event.assoc, information.TransactionUID))
        threads.append(thread)
        thread.start()
        return made.status, None

    def store(event: evt.Event) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        made.stored.append(uid)
        return made.answer(uid)

    def later(association: Association, transaction: str) -> None:
        time.sleep(0.1)
        made.after_response(association, transaction)

    server = ae.make_server(
        ("127.0.0.1", 0),
        evt_handlers=[(evt.EVT_N_ACTION, act), (evt.EVT_C_STORE, store)],
        server_class=ThreadedAssociationServer,
    )
    assert isinstance(server, ThreadedAssociationServer)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    made.port = server.server_address[1]
    yield made
    for thread in threads:
        thread.join(10)
    BaseServer.shutdown(server)
    server.server_close()
