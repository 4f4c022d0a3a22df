"""The N-EVENT-REPORT of storage commitment (PS3.4 annex J.3.3), over whichever association it comes."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, cast

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import evt
from pynetdicom.dimse_primitives import N_EVENT_REPORT

from stenosis_node.errors import TransientError

log = logging.getLogger("stenosis_node.commitment")

PUSH_MODEL: Final = UID("1.2.840.10008.1.20.1")
PUSH_MODEL_INSTANCE: Final = UID("1.2.840.10008.1.20.1.1")

EVENT_TYPES: Final = (1, 2)
"""All committed; failures exist."""
SUCCESS: Final = 0x0000
PROCESSING_FAILURE: Final = 0x0110
NO_SUCH_INSTANCE: Final = 0x0112
NO_SUCH_EVENT_TYPE: Final = 0x0113
INVALID_ARGUMENT: Final = 0x0115
RESOURCE_LIMITATION: Final = 0x0213
UNKNOWN_REASON: Final = PROCESSING_FAILURE

_UID = re.compile(r"[0-9][0-9.]{0,63}")


@dataclass(frozen=True, slots=True)
class CommitmentReport:
    """What a peer says it keeps."""

    transaction_uid: str
    committed: frozenset[str]
    """SOP Instance UIDs."""
    failed: dict[str, int] = field(default_factory=dict)
    """SOP Instance UID to Failure Reason (0008,1197)."""


def answer_report(event: evt.Event, record: Callable[[CommitmentReport], bool]) -> tuple[int, None]:
    """Status of the response, which has no Event Reply. Never raises.

    record  writes the report down durably; False when nobody asked under its transaction UID. May raise TransientError
    """
    return _status(event, record), None


def _status(event: evt.Event, record: Callable[[CommitmentReport], bool]) -> int:
    calling = str(event.assoc.remote["ae_title"]).strip()
    if event.event_type not in EVENT_TYPES:
        return NO_SUCH_EVENT_TYPE
    if cast(N_EVENT_REPORT, event.request).AffectedSOPInstanceUID != PUSH_MODEL_INSTANCE:
        return NO_SUCH_INSTANCE
    try:
        report = _read(event.event_information)
    except Exception:  # noqa: BLE001  whatever pydicom raises for bytes it cannot read
        log.warning("unreadable storage commitment report from %s", calling, extra={"event": "commitment_unreadable"})
        return INVALID_ARGUMENT
    try:
        known = record(report)
    except TransientError as error:
        log.error("storage commitment report from %s not kept: %s", calling, error, extra={"event": "not_kept"})  # noqa: TRY400
        return RESOURCE_LIMITATION
    except Exception:
        log.exception("storage commitment report from %s not kept", calling, extra={"event": "not_kept"})
        return PROCESSING_FAILURE
    if not known:
        log.warning("storage commitment report from %s that nobody asked for", calling, extra={"event": "not_asked"})
        return INVALID_ARGUMENT
    return SUCCESS


def _read(information: Dataset) -> CommitmentReport:
    """ValueError, or what pydicom raises, when it lacks something. An instance that is in both sequences has failed."""
    failed = {
        _uid(item.ReferencedSOPInstanceUID): int(item.get("FailureReason") or UNKNOWN_REASON)
        for item in information.get("FailedSOPSequence") or ()
    }
    committed = {_uid(item.ReferencedSOPInstanceUID) for item in information.get("ReferencedSOPSequence") or ()}
    return CommitmentReport(_uid(information.TransactionUID), frozenset(committed - failed.keys()), failed)


def _uid(value: object) -> str:
    text = str(value).strip()
    if not _UID.fullmatch(text):
        raise ValueError("not a UID")
    return text
