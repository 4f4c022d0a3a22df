"""Sending documents to a peer: C-STORE, and the probe that tells beforehand whether it would work."""

from __future__ import annotations

from stenosis_node.deliver.probe import ProbeReport, probe
from stenosis_node.deliver.storing import DocumentStatus, send

__all__ = ["DocumentStatus", "ProbeReport", "probe", "send"]
