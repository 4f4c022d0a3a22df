"""Storage commitment SCU (PS3.4 annex J): asking a peer to promise that it keeps what it has stored."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_messages import N_EVENT_REPORT_RSP
from pynetdicom.events import EventHandlerType
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.presentation import build_context

from stenosis_node.config import Peer
from stenosis_node.errors import PermanentError, TransientError
from stenosis_node.failpoint import failpoint
from stenosis_node.wire.association import associate, describe, time_limit
from stenosis_node.wire.commitment import PUSH_MODEL, PUSH_MODEL_INSTANCE, CommitmentReport, answer_report

log = logging.getLogger("stenosis_node.deliver")

REQUEST_COMMITMENT: Final = 1
"""Action Type ID (PS3.4 table J.3.2-1)."""
SAME_ASSOCIATION_S: Final = 2.0
"""How long the association stays open for a peer that answers at once; most open one of their own."""
POLL_S: Final = 0.05

_PERMANENT: Final = {
    0x0105: "no such attribute",
    0x0106: "invalid attribute value",
    0x0112: "no such SOP instance",
    0x0114: "no such argument",
    0x0115: "invalid argument value",
    0x0117: "invalid SOP instance",
    0x0118: "no such SOP class",
    0x0119: "class and instance conflict",
    0x0122: "SOP class not supported",
    0x0123: "no such action",
    0x0124: "not authorised",
    0x0211: "unrecognised operation",
    0x0212: "mistyped argument",
}


def request_commitment(
    documents: Sequence[tuple[str, str]],
    peer: Peer,
    *,
    calling_ae_title: str,
    transaction_uid: str,
    on_report: Callable[[CommitmentReport], bool],
    may_wait: Callable[[], bool] = lambda: True,
    wait_s: float = SAME_ASSOCIATION_S,
) -> bool:
    """Ask the peer to commit to documents; returns whether it has answered on the same association.

    documents  (SOP Class UID, SOP Instance UID)
    on_report  called from another thread with what the peer reports; False when nobody asked for it
    may_wait   asked while waiting for the answer; False ends that, and the answer comes over another association
    wait_s     how long to wait for the answer, once the request is accepted
    raises     TransientError (not reachable, no answer to the request), PermanentError (the peer has no such service)
    """
    responding, answered = threading.Event(), threading.Event()

    def on_response(event: evt.Event) -> None:
        """It is about to be sent: a release now would overtake it."""
        if isinstance(event.message, N_EVENT_REPORT_RSP):
            responding.set()

    def on_sent(event: evt.Event) -> None:
        if responding.is_set() and isinstance(event.pdu, P_DATA_TF):
            failpoint("commitment.answered")
            answered.set()

    contexts = [build_context(PUSH_MODEL, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])]
    handlers: list[EventHandlerType] = [
        (evt.EVT_N_EVENT_REPORT, lambda event: answer_report(event, on_report)),
        (evt.EVT_DIMSE_SENT, on_response),
        (evt.EVT_PDU_SENT, on_sent),
    ]
    try:
        with associate(peer, contexts, calling_ae_title=calling_ae_title, handlers=handlers) as association:
            _ask(documents, transaction_uid, association, peer)
            deadline = time.monotonic() + wait_s
            while (
                not answered.wait(POLL_S) and association.is_established and time.monotonic() < deadline and may_wait()
            ):
                pass
    except PermanentError as error:
        raise PermanentError(f"{error}; or set commitment = false for the peer") from error
    log.info("storage commitment requested from %s", describe(peer), extra={"event": "commitment_requested"})
    return answered.is_set()


def _ask(documents: Sequence[tuple[str, str]], transaction_uid: str, association: Association, peer: Peer) -> None:
    """N-ACTION, and what its status calls for."""
    information = Dataset()
    information.TransactionUID = transaction_uid
    information.ReferencedSOPSequence = Items()
    for sop_class_uid, sop_instance_uid in documents:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
        information.ReferencedSOPSequence.append(item)
    try:
        with time_limit(association, peer.timeout_s + 1):
            status, _ = association.send_n_action(information, REQUEST_COMMITMENT, PUSH_MODEL, PUSH_MODEL_INSTANCE)
            failpoint("commitment.asked")
    except (RuntimeError, ValueError) as error:  # the association ended
        raise TransientError(f"{describe(peer)} ended the association before it was asked to commit") from error
    if "Status" not in status:
        raise TransientError(f"{describe(peer)} aborted or did not answer the request for storage commitment")
    code = int(status.Status)
    if code in _PERMANENT:
        raise PermanentError(
            f"{describe(peer)} answered 0x{code:04X} ({_PERMANENT[code]}) to the request for storage commitment: "
            f"enable it there for {association.requestor.ae_title}"
        )
    if code != 0 and not 0xB000 <= code <= 0xBFFF:
        raise TransientError(f"{describe(peer)} answered 0x{code:04X} to the request for storage commitment")
