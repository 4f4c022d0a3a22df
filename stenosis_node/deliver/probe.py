"""Would a delivery work? C-ECHO and the SOP classes the peer accepts, or a search, before any study arrives."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
)
from pynetdicom.presentation import build_context

from stenosis_node.config import Peer
from stenosis_node.deliver.storing import UNCOMPRESSED
from stenosis_node.deliver.web import reach
from stenosis_node.errors import NodeError
from stenosis_node.wire.association import associate, describe
from stenosis_node.wire.commitment import PUSH_MODEL

VERIFICATION: Final = UID("1.2.840.10008.1.1")
REPORT_CLASSES: Final = (Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage)
"""SOP classes a report can be sent as, best first."""
PROBED: Final = (
    *REPORT_CLASSES,
    BasicTextSRStorage,
    SecondaryCaptureImageStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    PUSH_MODEL,
)


@dataclass(frozen=True, slots=True)
class AcceptedClass:
    """A SOP class the peer takes."""

    sop_class_uid: str
    name: str
    transfer_syntaxes: tuple[str, ...]
    """Names of the accepted ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeReport:
    """What a peer answered."""

    address: str
    """How the peer is named in sentences."""
    echo_ok: bool
    """C-ECHO was answered with Success; of a DICOMweb server: a search, or a request for its options."""
    seconds: float
    """From the connection request to the end of the association."""
    error: str | None
    """Why there was no association or no echo; None when all went well."""
    accepted: tuple[AcceptedClass, ...]
    refused: tuple[str, ...]
    """Names of the SOP classes that were asked for and not accepted; a DICOMweb server cannot be asked."""

    @property
    def report_class(self) -> str | None:
        """SOP class a report would be sent as; None when that is not known."""
        taken = {one.sop_class_uid for one in self.accepted}
        return next((str(sop_class) for sop_class in REPORT_CLASSES if sop_class in taken), None)


def probe(peer: Peer, *, calling_ae_title: str) -> ProbeReport:
    """Associate, echo, release. Never raises for what the peer does: ``error`` says it."""
    return _probe_web(peer) if peer.protocol == "dicomweb" else _probe_dimse(peer, calling_ae_title)


def _probe_web(peer: Peer) -> ProbeReport:
    begin = time.monotonic()
    error: str | None = None
    try:
        reach(peer)
    except NodeError as failure:
        error = str(failure)
    seconds = time.monotonic() - begin
    return ProbeReport(
        address=describe(peer), echo_ok=error is None, seconds=seconds, error=error, accepted=(), refused=()
    )


def _probe_dimse(peer: Peer, calling_ae_title: str) -> ProbeReport:
    contexts = [build_context(c, s) for c in PROBED for s in UNCOMPRESSED] + [build_context(VERIFICATION)]
    accepted: dict[str, list[str]] = {}
    error: str | None = None
    echo_ok = False
    begin = time.monotonic()
    try:
        with associate(peer, contexts, calling_ae_title=calling_ae_title) as association:
            for context in association.accepted_contexts:
                syntaxes = accepted.setdefault(str(context.abstract_syntax), [])
                syntaxes.append(UID(context.transfer_syntax[0]).name)
            if VERIFICATION not in accepted:
                error = f"{describe(peer)} does not accept C-ECHO (Verification)"
            else:
                status = association.send_c_echo()
                echo_ok = status.get("Status") == 0x0000
                if not echo_ok:
                    what = f"answered 0x{status.Status:04X} to" if "Status" in status else "did not answer"
                    error = f"{describe(peer)} {what} C-ECHO"
    except NodeError as failure:
        error = str(failure)
    except (RuntimeError, ValueError):
        error = f"{describe(peer)} ended the association before C-ECHO"
    return ProbeReport(
        address=describe(peer),
        echo_ok=echo_ok,
        seconds=time.monotonic() - begin,
        error=error,
        accepted=tuple(AcceptedClass(c, UID(c).name, tuple(accepted[c])) for c in map(str, PROBED) if c in accepted),
        refused=tuple(UID(c).name for c in map(str, PROBED) if accepted and c not in accepted),
    )
