"""Asking a peer what it knows of a study, and fetching what we lack: C-FIND, C-GET and C-MOVE."""

from __future__ import annotations

from stenosis_node.query.fetching import FetchedInstance, FetchOutcome, get_instances, move_instances
from stenosis_node.query.finding import KnownInstance, find_instances

__all__ = ["FetchOutcome", "FetchedInstance", "KnownInstance", "find_instances", "get_instances", "move_instances"]
