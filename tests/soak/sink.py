"""A PACS that keeps every byte it gets: ``python -m tests.soak.sink PORT FOLDER``.

Each data set that arrives is a line of FOLDER/arrivals.tsv (UID, study, class, sha256) and, once, a file named after
its sha256. What FOLDER/mode says happens to the next one: ok; slow; slower; refuse (0xA700); cannot (0xC000); abort
(instead of the third answer of an association); reject (no association).

Storage commitment is promised as FOLDER/commitment says: same (over the association that asked), new (over one to the
port in FOLDER/node), never, busy (the request is answered with 0x0213).
"""

from __future__ import annotations

import hashlib
import logging
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, AllStoragePresentationContexts, build_role, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification

COMMITMENT_INSTANCE = UID("1.2.840.10008.1.20.1.1")


@dataclass(frozen=True)
class Stored:
    """One data set that arrived and was answered with Success, or about to be."""

    sop_instance_uid: str
    study_instance_uid: str
    sop_class_uid: str
    sha256: str


def read_arrivals(folder: Path) -> list[Stored]:
    """All that arrived so far, repeats included."""
    path = folder / "arrivals.tsv"
    lines = path.read_text().splitlines() if path.exists() else []
    return [Stored(*line.split("\t")) for line in lines]


class Sink:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._answers: Counter[int] = Counter()

    def mode(self, of: str = "mode", otherwise: str = "ok") -> str:
        path = self._folder / of
        return path.read_text().strip() if path.exists() else otherwise

    def on_requested(self, event: evt.Event) -> None:
        if self.mode() == "reject":
            event.assoc.acse.send_reject(0x02, 0x01, 0x01)
            event.assoc.is_rejected = True
            event.assoc.kill()

    def on_store(self, event: evt.Event) -> int:
        mode = self.mode()
        self._answers[id(event.assoc)] += 1
        if mode == "refuse":
            return 0xA700
        if mode == "cannot":
            return 0xC000
        if mode in ("slow", "slower"):
            time.sleep(1.0 if mode == "slow" else 3.0)
        self._keep(event)
        if mode == "abort" and self._answers[id(event.assoc)] >= 2:  # kept, but the sender never hears of it
            event.assoc.abort()
        return 0x0000

    def on_action(self, event: evt.Event) -> tuple[int, None]:
        """Someone asks for storage commitment."""
        how = self.mode("commitment", "same")
        if how == "busy":
            return 0x0213, None
        if how != "never":
            answering = (event.action_information, event.assoc if how == "same" else None)
            threading.Thread(target=self._promise, args=answering, daemon=True).start()
        return 0x0000, None

    def _promise(self, asked: Dataset, association: Association | None) -> None:
        """Commit to everything, over this association or one of its own."""
        time.sleep(0.1)  # the request is to be answered first
        answer = Dataset()
        answer.TransactionUID, answer.ReferencedSOPSequence = asked.TransactionUID, asked.ReferencedSOPSequence
        if association is not None:
            association.send_n_event_report(answer, 1, StorageCommitmentPushModel, COMMITMENT_INSTANCE)
            return
        ae = AE("PACS")
        ae.add_requested_context(StorageCommitmentPushModel)
        role = build_role(StorageCommitmentPushModel, scp_role=True)
        ours = ae.associate("127.0.0.1", int(self.mode("node")), ae_title="STENOSIS", ext_neg=[role])
        if ours.is_established:
            ours.send_n_event_report(answer, 1, StorageCommitmentPushModel, COMMITMENT_INSTANCE)
            ours.release()

    def _keep(self, event: evt.Event) -> None:
        content = event.encoded_dataset(include_meta=False)
        digest = hashlib.sha256(content).hexdigest()
        request = event.request
        fields = request.AffectedSOPInstanceUID, event.dataset.StudyInstanceUID, request.AffectedSOPClassUID, digest
        with self._lock:
            kept = self._folder / digest
            if not kept.exists():
                kept.write_bytes(content)
            with (self._folder / "arrivals.tsv").open("a") as arrivals:
                arrivals.write("\t".join(map(str, fields)) + "\n")


def main(port: str, folder: str) -> None:
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    sink = Sink(Path(folder))
    ae = AE("PACS")
    ae.supported_contexts = AllStoragePresentationContexts
    ae.add_supported_context(Verification)
    ae.add_supported_context(StorageCommitmentPushModel)
    handlers = [
        (evt.EVT_REQUESTED, sink.on_requested),
        (evt.EVT_C_STORE, sink.on_store),
        (evt.EVT_N_ACTION, sink.on_action),
    ]
    ae.start_server(("127.0.0.1", int(port)), block=True, evt_handlers=handlers)


if __name__ == "__main__":
    main(*sys.argv[1:])
