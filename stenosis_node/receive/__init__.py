"""The storage provider: C-STORE and C-ECHO on one port, Success only for what is durable.

It is built on stock pynetdicom through its public hooks and runs in a process of its own.
"""

from __future__ import annotations

from stenosis_node.receive.access import AccessRules, Admission, AssociationRequest, admit, admits_address
from stenosis_node.receive.receiver import Receiver

__all__ = ["AccessRules", "Admission", "AssociationRequest", "Receiver", "admit", "admits_address"]
