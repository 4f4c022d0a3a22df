"""Asking a peer what it knows of a study, and fetching what we lack: C-FIND, C-GET and C-MOVE."""

from __future__ import annotations

from stenosis_node.query.conversation import PeerAway
from stenosis_node.query.fetching import FetchedInstance, FetchOutcome, Progress, get_instances, move_instances
from stenosis_node.query.finding import KnownInstance, find_instances

__all__ = [
    "FetchOutcome",
    "FetchedInstance",
    "KnownInstance",
    "PeerAway",
    "Progress",
    "find_instances",
    "get_instances",
    "move_instances",
]
