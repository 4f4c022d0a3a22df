"""What the workers and the commands tell the audit stream about studies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

from stenosis_node.audit import NONE, AuditTrail, StudyPart, patient_of
from stenosis_node.config import Peer
from stenosis_node.domain import Document
from stenosis_node.jobs import StoredInstance
from stenosis_node.wire.part10 import UnreadableFile, read_header

FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"
RETRIEVE: Final = {"move": "1.2.840.10008.5.1.4.1.2.2.2", "get": "1.2.840.10008.5.1.4.1.2.2.3"}
"""SOP classes of the Study Root model by ``query`` of a peer."""


def part_of(study_uid: str, instances: Collection[StoredInstance], root: Path) -> StudyPart:
    """These images of a study.

    root  of the spool
    """
    counts = Counter(one.sop_class_uid for one in instances)
    return StudyPart(study_uid, first_patient(root / one.path for one in instances), counts)


def first_patient(paths: Iterable[Path]) -> str:
    """Patient ID of the first file that is there; empty when none is."""
    return next((patient_of(path) for path in paths if path.exists()), "")


def deleted_parts(root: Path, instances: Iterable[Path], result_keys: Iterable[str]) -> list[StudyPart]:
    """What is about to be deleted, by study, as far as it is still there.

    root       of the spool
    instances  ``instances/<study>/<series>/<sop>.dcm``
    """
    studies: dict[str, list[Path]] = {}
    for relative in instances:
        studies.setdefault(relative.parts[1], []).append(root / relative)
    for key in result_keys:
        if documents := sorted((root / "documents" / key).glob("*.dcm")):
            studies.setdefault(_study_of(documents[0]), []).extend(documents)
    found = ((uid, [path for path in paths if path.exists()]) for uid, paths in studies.items())
    return [StudyPart(uid, patient_of(paths[0]), {"": len(paths)}) for uid, paths in found if paths]


def _study_of(document: Path) -> str:
    try:
        return str(read_header(document, tags=["StudyInstanceUID"]).StudyInstanceUID)
    except (UnreadableFile, OSError, AttributeError):  # it goes all the same
        return NONE


class DeliveryAudit:
    """One attempt to deliver documents to a peer."""

    def __init__(self, trail: AuditTrail, peer: Peer, study: StudyPart) -> None:
        """
        study  whose images the documents are about
        """
        self._trail = trail
        self._peer = peer
        self._study = study
        self._classes: dict[str, str] = {}
        self._confirmed: Counter[str] = Counter()

    def begin(self, documents: Iterable[Document]) -> None:
        """These are about to be sent."""
        due = tuple(documents)
        self._classes = {
            one.sop_instance_uid: one.sop_class_uid for document in due for one in (document, *document.alternatives)
        }
        counts = Counter(document.sop_class_uid for document in due)
        self._trail.record(self._trail.events.sending(self._peer, self._part(counts)))

    def confirm(self, sop_instance_uid: str) -> None:
        """The peer has this one."""
        self._confirmed[self._classes[sop_instance_uid]] += 1

    def end(self, *, failure: str = "", is_final: bool = False) -> None:
        """The attempt is over. ``is_final``: nobody tries again by itself."""
        part = self._part(self._confirmed)
        self._trail.record(self._trail.events.sent(self._peer, part, failure=failure, is_final=is_final))

    def _part(self, counts: Counter[str]) -> StudyPart:
        return StudyPart(self._study.study_uid, self._study.patient_id, counts)
