"""Sending documents to a peer by C-STORE or STOW-RS, storage commitment, and the probe that tells beforehand."""

from __future__ import annotations

from stenosis_node.deliver.commitment import request_commitment
from stenosis_node.deliver.probe import ProbeReport, probe
from stenosis_node.deliver.sending import send
from stenosis_node.deliver.statuses import DocumentStatus

__all__ = ["DocumentStatus", "ProbeReport", "probe", "request_commitment", "send"]
