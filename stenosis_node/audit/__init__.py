"""The audit stream: DICOM audit messages (PS3.15 A.5) of what the node did with studies, and who asked for it.

It is the only place where the node writes a Patient ID. :class:`AuditTrail` appends messages to a file that only the
node's user can read; :class:`Forwarder` sends that file to a syslog server over TLS.
"""

from __future__ import annotations

from stenosis_node.audit import codes
from stenosis_node.audit.events import NONE, Events, StudyPart
from stenosis_node.audit.message import Message, Outcome
from stenosis_node.audit.patient import patient_of
from stenosis_node.audit.syslog import Forwarder, unsent_since
from stenosis_node.audit.trail import AuditTrail, CannotAudit

__all__ = [
    "NONE",
    "AuditTrail",
    "CannotAudit",
    "Events",
    "Forwarder",
    "Message",
    "Outcome",
    "StudyPart",
    "codes",
    "patient_of",
    "unsent_since",
]
