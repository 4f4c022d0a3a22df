"""Which presentation contexts are accepted: every storage one that is asked for, in every transfer syntax, and
storage commitment for the reports of peers that we asked to commit.

A PACS routes whole studies, and a refused context makes it mark the route as failed. The bytes are only stored, so a
SOP class or transfer syntax nobody knows (private, retired, newer than our libraries) is as good as any other. The
contexts are computed from each request and set on its association; pynetdicom's process-wide switch for this
(UNRESTRICTED_STORAGE_SERVICE) is not needed, and would take the first transfer syntax asked for instead of the best.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.pdu_primitives import SOPClassCommonExtendedNegotiation
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.service_class import ServiceClass, StorageServiceClass, VerificationServiceClass
from pynetdicom.sop_class import uid_to_service_class

from stenosis_node.wire.commitment import PUSH_MODEL

VERIFICATION: Final = UID("1.2.840.10008.1.1")


def supported_contexts(
    requested: Iterable[PresentationContext], *, commitment_reports: bool = False
) -> list[PresentationContext]:
    """One supported context per storage (or unknown) SOP class asked for, and Verification.

    Transfer syntaxes in the order we prefer them: Explicit VR LE, compressed, Implicit VR LE, the rest.

    commitment_reports  take storage commitment too: with the requestor as provider, which then sends N-EVENT-REPORT
    """
    wanted: dict[UID, dict[UID, None]] = {}
    for context in requested:
        sop_class = context.abstract_syntax
        if not sop_class or not context.transfer_syntax:
            continue
        if _is_accepted(sop_class) or (commitment_reports and sop_class == PUSH_MODEL):
            wanted.setdefault(sop_class, {}).update(dict.fromkeys(context.transfer_syntax))
    supported = [build_context(sop_class, sorted(syntaxes, key=_preference)) for sop_class, syntaxes in wanted.items()]
    for context in supported:
        if context.abstract_syntax == PUSH_MODEL:
            context.scu_role, context.scp_role = False, True  # as seen from the requestor
    return supported


def unknown_as_storage(requested: Iterable[PresentationContext]) -> dict[UID, SOPClassCommonExtendedNegotiation]:
    """Tell pynetdicom that SOP classes it does not know belong to the Storage Service Class.

    This is the answer to SOP Class Common Extended Negotiation (PS3.7 D.3.3.6): the acceptor decides which service a
    SOP class belongs to, whether or not the requestor said so.
    """
    items: dict[UID, SOPClassCommonExtendedNegotiation] = {}
    for context in requested:
        sop_class = context.abstract_syntax
        if sop_class and uid_to_service_class(sop_class) is ServiceClass:
            item = SOPClassCommonExtendedNegotiation()
            item.sop_class_uid = sop_class
            item.service_class_uid = UID(StorageServiceClass.uid)
            items[sop_class] = item
    return items


def are_storage_only(requested: Iterable[PresentationContext]) -> bool:
    """Whether nothing else is asked for than to store or to verify."""
    return all(context.abstract_syntax and _is_accepted(context.abstract_syntax) for context in requested)


def _is_accepted(sop_class: UID) -> bool:
    return uid_to_service_class(sop_class) in (StorageServiceClass, VerificationServiceClass, ServiceClass)


def _preference(transfer_syntax: str) -> int:
    syntax = UID(transfer_syntax)
    if syntax == ExplicitVRLittleEndian:
        return 0
    if not syntax.is_private and syntax.is_transfer_syntax and syntax.is_compressed:
        return 1
    return 2 if syntax == ImplicitVRLittleEndian else 3
