"""C-FIND in the Study Root model: which instances of a study a peer has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.association import Association
from pynetdicom.presentation import build_context

from stenosis_node.config import Peer
from stenosis_node.errors import PermanentError
from stenosis_node.query.conversation import PENDING, SUCCESS, PeerAway, Watch, conversation, failure, responses, uid_of
from stenosis_node.wire.association import describe

STUDY_ROOT_FIND: Final = UID("1.2.840.10008.5.1.4.1.2.2.1")
MAX_MATCHES: Final = 50_000
"""More series, or more instances of one series, than any real study has."""
MAX_BYTES: Final = 100_000_000
PATIENCE: Final = 4
"""Times the time limit of the peer that all queries of a study may take together."""


@dataclass(frozen=True, slots=True)
class KnownInstance:
    """An instance as a peer knows it."""

    sop_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    """Empty when the peer does not tell: the standard leaves it free to."""


def find_instances(
    peer: Peer, study_uid: str, *, calling_ae_title: str, modality: str = "MR"
) -> tuple[KnownInstance, ...]:
    """The instances of the study's series of a modality; empty when the peer knows none.

    A series whose modality the peer does not tell counts as one of them.

    raises  PeerAway (not reachable, no answers or no end of them), TransientError (out of resources),
            PermanentError (no C-FIND there, refused for good, answers that cannot be used)
    """
    contexts = [build_context(STUDY_ROOT_FIND, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])]
    total_s = PATIENCE * peer.timeout_s
    found: dict[str, KnownInstance] = {}
    with (
        conversation(peer, contexts, calling_ae_title=calling_ae_title) as association,
        Watch(association, silence_s=peer.timeout_s, total_s=total_s, max_bytes=MAX_BYTES) as watch,
    ):
        asking = _Asking(association, peer, watch)
        series = asking.matches("SERIES", StudyInstanceUID=study_uid, SeriesInstanceUID="", Modality="")
        uids = [uid_of(s, "SeriesInstanceUID") for s in series if str(s.get("Modality") or modality) == modality]
        for series_uid in dict.fromkeys(uids):
            keys = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid}
            for match in asking.matches("IMAGE", **keys, SOPInstanceUID="", SOPClassUID=""):
                uid = uid_of(match, "SOPInstanceUID")
                found[uid] = KnownInstance(uid, series_uid, uid_of(match, "SOPClassUID"))
    return tuple(found.values())


class _Asking:
    """C-FIND requests over one association."""

    def __init__(self, association: Association, peer: Peer, watch: Watch) -> None:
        self._association = association
        self._peer = peer
        self._watch = watch
        self._message_id = 0

    def matches(self, level: str, **keys: str) -> list[Dataset]:
        """Every match that belongs to what was asked and has the UID of its level."""
        wanted = "SeriesInstanceUID" if level == "SERIES" else "SOPInstanceUID"
        found = []
        for match in self._answers(level, keys):
            if not uid_of(match, wanted):
                raise PermanentError(f'{describe(self._peer)} answers C-FIND without {wanted}: set query = "none"')
            # some archives take a key they do not know for no key: what belongs elsewhere is no match
            if all(uid_of(match, key) in ("", value) for key, value in keys.items() if value):
                found.append(match)
        return found

    def _answers(self, level: str, keys: dict[str, str]) -> Iterator[Dataset]:
        identifier = Dataset()
        identifier.QueryRetrieveLevel = level
        for key, value in keys.items():
            setattr(identifier, key, value)
        self._message_id += 1
        try:
            begun = self._association.send_c_find(identifier, STUDY_ROOT_FIND, msg_id=self._message_id)
        except (RuntimeError, ValueError) as error:
            raise PeerAway(f"{describe(self._peer)} ended the association before C-FIND") from error
        n_matches = 0
        for status, _, match in responses(begun, "C-FIND", self._peer, self._watch):
            if status in PENDING:
                n_matches += 1
                if n_matches > MAX_MATCHES:
                    raise PermanentError(f"{describe(self._peer)} gives more than {MAX_MATCHES} matches to one C-FIND")
                if match is None:
                    raise PermanentError(f"{describe(self._peer)} answers C-FIND with what cannot be decoded")
                yield match
            elif status != SUCCESS:
                raise failure(status, "C-FIND", self._peer)
