"""Sending the documents of a result to one peer, whatever its protocol."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence

from stenosis_node.config import Peer
from stenosis_node.deliver.statuses import CLASS_NOT_SUPPORTED, Answer, DocumentStatus, NoAnswer
from stenosis_node.deliver.storing import Candidates, over_dimse
from stenosis_node.deliver.web import over_http
from stenosis_node.domain import Document
from stenosis_node.failpoint import failpoint
from stenosis_node.wire.association import describe

log = logging.getLogger("stenosis_node.deliver")


def send(
    documents: Sequence[Document],
    peer: Peer,
    *,
    calling_ae_title: str,
    confirmed: Collection[str],
    on_status: Callable[[DocumentStatus], None],
    report_class: str | None = None,
) -> None:
    """Store the documents at the peer, in the order given, over one association or HTTP connection.

    confirmed     SOP Instance UIDs the peer has confirmed before, of documents or their alternatives: not sent again
    on_status     called for each answer, and for each document that left and got none, also when that makes this raise
    report_class  SOP class the peer took last time, where a document has alternatives: that one is tried first

    Over DIMSE all presentation contexts are proposed together. A document whose SOP class the peer does not accept is
    replaced by its first accepted alternative; when there is none, nothing at all is sent. DICOMweb has no negotiation:
    there an alternative is sent when the peer answers that it does not support the SOP class.

    raises  TransientError (not reachable, rejected for now, aborted, time limit, out of resources)
            PermanentError (no accepted context, a status no retry can change); both name the peer and what to do
    """
    due = [
        _candidates(document, report_class)
        for document in documents
        if not any(one.sop_instance_uid in confirmed for one in (document, *document.alternatives))
    ]
    if not due:
        return
    opened = over_http(peer) if peer.protocol == "dicomweb" else over_dimse(due, peer, calling_ae_title)
    with opened as conversation:
        failpoint("deliver.connected")
        for candidates in conversation.sendable(due):
            _deliver(candidates, conversation.store, on_status, describe(peer))
    log.info("%d documents stored at %s", len(due), describe(peer), extra={"event": "documents_sent"})


def _candidates(document: Document, report_class: str | None) -> Candidates:
    """The document and its alternatives in the order in which they are tried."""
    return tuple(sorted((document, *document.alternatives), key=lambda one: one.sop_class_uid != report_class))


def _deliver(
    candidates: Candidates,
    store: Callable[[Document], Answer],
    on_status: Callable[[DocumentStatus], None],
    peer: str,
) -> None:
    """Store the first of the candidates whose SOP class the peer supports."""
    for document in candidates:
        uid = document.sop_instance_uid
        try:
            answer = store(document)
        except NoAnswer:
            on_status(DocumentStatus(uid, None, "no answer", confirmed=False))
            raise
        failpoint("deliver.stored")
        verdict = answer.verdict
        on_status(DocumentStatus(uid, answer.status, _text(answer), confirmed=verdict.error is None))
        if verdict.error is None:
            return
        if answer.status != CLASS_NOT_SUPPORTED or document is candidates[-1]:
            raise verdict.error(f"{peer} answered {answer.said} ({verdict.meaning}) for document {uid}")


def _text(answer: Answer) -> str:
    """What is written down of an answer: not the comment, which may quote the patient, only that there is one."""
    said = answer.verdict.meaning
    return f"{said}; the peer gave a comment, which its own log has" if answer.comment.strip() else said
