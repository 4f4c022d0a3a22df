"""C-STORE of documents. Either every document has an accepted context, or nothing is sent."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context

from stenosis_node.config import Peer
from stenosis_node.deliver.statuses import judge
from stenosis_node.domain import Document
from stenosis_node.errors import PermanentError, TransientError
from stenosis_node.wire.association import associate, describe, time_limit

log = logging.getLogger("stenosis_node.deliver")

UNCOMPRESSED: Final = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
MAX_COMMENT: Final = 64
SLOWEST_BYTES_PER_S: Final = 50_000
"""A connection that takes less counts as stuck."""


@dataclass(frozen=True, slots=True)
class DocumentStatus:
    """What the peer answered for one document."""

    sop_instance_uid: str
    """Of the object that was sent: the document, or the alternative that took its place."""
    status: int
    text: str
    """Meaning of the status, and the Error Comment of the peer, which may quote the patient: for the receipt alone."""
    confirmed: bool
    """Whether the peer has the document."""


def send(
    documents: Sequence[Document],
    peer: Peer,
    *,
    calling_ae_title: str,
    confirmed: Collection[str],
    on_status: Callable[[DocumentStatus], None],
) -> None:
    """Store the documents at the peer, in the order given, over one association.

    confirmed  SOP Instance UIDs the peer has confirmed before, of documents or their alternatives: not sent again
    on_status  called for each answer, also for the one that makes this function raise

    All presentation contexts are proposed together. A document whose SOP class the peer does not accept is replaced by
    its first accepted alternative; when there is none, nothing at all is sent.

    raises  TransientError (not reachable, rejected for now, aborted, time limit, out of resources)
            PermanentError (no accepted context, a status no retry can change); both name the peer and what to do
    """
    due = [d for d in documents if not any(c.sop_instance_uid in confirmed for c in (d, *d.alternatives))]
    if not due:
        return
    with associate(peer, _contexts(due), calling_ae_title=calling_ae_title) as association:
        chosen = _choose(due, association, peer)
        for number, document in enumerate(chosen, start=1):
            _store(document, number, association, peer, on_status)
    log.info("%d documents stored at %s", len(chosen), describe(peer), extra={"event": "documents_sent"})


def _contexts(documents: Sequence[Document]) -> list[PresentationContext]:
    """One context per SOP class and transfer syntax, so that what was accepted is known exactly; Explicit VR first."""
    pairs: dict[tuple[str, str], None] = {}
    for document in documents:
        for candidate in (document, *document.alternatives):
            for syntax in _syntaxes(candidate):
                pairs[candidate.sop_class_uid, syntax] = None
    return [build_context(sop_class, syntax) for sop_class, syntax in pairs]


def _syntaxes(document: Document) -> tuple[str, ...]:
    """Transfer syntaxes the document can be sent in, best first. Compressed pixels go as they are or not at all."""
    return UNCOMPRESSED if document.transfer_syntax_uid in UNCOMPRESSED else (document.transfer_syntax_uid,)


def _choose(documents: Sequence[Document], association: Association, peer: Peer) -> list[Document]:
    """What to send: each document, or its first alternative that has a context."""
    accepted = {(str(c.abstract_syntax), str(c.transfer_syntax[0])) for c in association.accepted_contexts}

    def can_be_sent(candidate: Document) -> bool:
        return any((candidate.sop_class_uid, syntax) in accepted for syntax in _syntaxes(candidate))

    chosen: list[Document] = []
    refused: dict[str, None] = {}
    for document in documents:
        candidate = next((c for c in (document, *document.alternatives) if can_be_sent(c)), None)
        if candidate is None:
            names = [UID(c.sop_class_uid).name for c in (document, *document.alternatives)]
            refused[" or ".join(names)] = None
        else:
            chosen.append(candidate)
    if refused:
        raise PermanentError(
            f"{describe(peer)} does not accept {', nor '.join(refused)}; nothing was sent: enable that SOP class there"
        )
    return chosen


def _store(
    document: Document,
    number: int,
    association: Association,
    peer: Peer,
    on_status: Callable[[DocumentStatus], None],
) -> None:
    uid = document.sop_instance_uid
    limit_s = peer.timeout_s + len(document.content) / SLOWEST_BYTES_PER_S
    association.dimse_timeout = limit_s
    try:
        with time_limit(association, limit_s):
            answer = association.send_c_store(dcmread(BytesIO(document.content)), msg_id=number)
    except (RuntimeError, ValueError) as error:  # the association ended, or its context is gone
        raise TransientError(f"{describe(peer)} ended the association before document {uid}") from error
    if "Status" not in answer:
        raise TransientError(f"{describe(peer)} aborted or did not answer for document {uid} within {limit_s:.0f} s")
    status = int(answer.Status)
    verdict = judge(status)
    on_status(DocumentStatus(uid, status, _text(verdict.meaning, answer), confirmed=verdict.error is None))
    if verdict.error is not None:
        raise verdict.error(f"{describe(peer)} answered 0x{status:04X} ({verdict.meaning}) for document {uid}")


def _text(meaning: str, answer: Dataset) -> str:
    comment = str(answer.get("ErrorComment") or "").strip()
    printable = "".join(c if c.isascii() and c.isprintable() else "?" for c in comment)[:MAX_COMMENT]
    return f"{meaning}: {printable}" if printable else meaning
