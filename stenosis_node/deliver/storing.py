"""C-STORE of documents. Either every document has an accepted context, or nothing is sent."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Final, Protocol

from pydicom import dcmread
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context

from stenosis_node.config import Peer
from stenosis_node.deliver.statuses import SLOWEST_BYTES_PER_S, Answer, NoAnswer, judge
from stenosis_node.domain import Document
from stenosis_node.errors import PermanentError, TransientError
from stenosis_node.wire.association import associate, describe, time_limit

UNCOMPRESSED: Final = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)

Candidates = tuple[Document, ...]
"""A document and its alternatives, best first: one of them is to arrive."""


class Conversation(Protocol):
    """An open connection to a peer."""

    def sendable(self, due: Sequence[Candidates]) -> Sequence[Candidates]:
        """What the peer takes of each. PermanentError when it takes none of one."""

    def store(self, document: Document) -> Answer:
        """Send one document. NoAnswer when it left and nothing came back; TransientError, PermanentError."""


@contextlib.contextmanager
def over_dimse(due: Sequence[Candidates], peer: Peer, calling_ae_title: str) -> Iterator[Conversation]:
    """An association with a context for everything that is due. Raises as :func:`associate`."""
    with associate(peer, _contexts(due), calling_ae_title=calling_ae_title) as association:
        yield _Association(association, peer)


class _Association:
    def __init__(self, association: Association, peer: Peer) -> None:
        self._association = association
        self._peer = peer
        self._sent = 0

    def sendable(self, due: Sequence[Candidates]) -> list[Candidates]:
        """Of each document and its alternatives those that have a context."""
        accepted = {(str(c.abstract_syntax), str(c.transfer_syntax[0])) for c in self._association.accepted_contexts}

        def can_be_sent(candidate: Document) -> bool:
            return any((candidate.sop_class_uid, syntax) in accepted for syntax in _syntaxes(candidate))

        found = [tuple(filter(can_be_sent, candidates)) for candidates in due]
        refused = dict.fromkeys(
            " or ".join(UID(one.sop_class_uid).name for one in candidates)
            for candidates, left in zip(due, found, strict=True)
            if not left
        )
        if refused:
            raise PermanentError(
                f"{describe(self._peer)} does not accept {', nor '.join(refused)}; nothing was sent: enable that SOP "
                "class there"
            )
        return found

    def store(self, document: Document) -> Answer:
        """C-STORE."""
        uid = document.sop_instance_uid
        limit_s = self._peer.timeout_s + len(document.content) / SLOWEST_BYTES_PER_S
        self._association.dimse_timeout = limit_s
        self._sent += 1
        try:
            with time_limit(self._association, limit_s):
                answer = self._association.send_c_store(dcmread(BytesIO(document.content)), msg_id=self._sent)
        except (RuntimeError, ValueError) as error:  # the association ended, or its context is gone
            raise TransientError(f"{describe(self._peer)} ended the association before document {uid}") from error
        if "Status" not in answer:
            raise NoAnswer(
                f"{describe(self._peer)} aborted or did not answer for document {uid} within {limit_s:.0f} s"
            )
        status = int(answer.Status)
        comment = str(answer.get("ErrorComment") or "")
        return Answer(status=status, said=f"0x{status:04X}", verdict=judge(status), comment=comment)


def _contexts(due: Sequence[Candidates]) -> list[PresentationContext]:
    """One context per SOP class and transfer syntax, so that what was accepted is known exactly; Explicit VR first."""
    pairs: dict[tuple[str, str], None] = {}
    for candidates in due:
        for candidate in candidates:
            for syntax in _syntaxes(candidate):
                pairs[candidate.sop_class_uid, syntax] = None
    return [build_context(sop_class, syntax) for sop_class, syntax in pairs]


def _syntaxes(document: Document) -> tuple[str, ...]:
    """Transfer syntaxes the document can be sent in, best first. Compressed pixels go as they are or not at all."""
    return UNCOMPRESSED if document.transfer_syntax_uid in UNCOMPRESSED else (document.transfer_syntax_uid,)
