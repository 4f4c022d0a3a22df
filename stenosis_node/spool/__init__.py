"""Bytes on disk: instances received, findings and documents made. What a method returned is durable.

    <root>/instances/<study>/<series>/<sop>.dcm    as received, never altered
    <root>/quarantine/<name>-<digest>.dcm          what could not be kept there, with its reason beside it (.txt)
    <root>/findings/<key>.json
    <root>/documents/<key>/                        a complete set of documents: files and documents.json
    <root>/serve.lock

Every file is written without a name (where the file system has no such files: under a temporary one), flushed, given
its name without ever replacing another, and its folder flushed. Of several writers the first wins and all get what
the first wrote. Folders have mode 0700, files 0600. Errors of the disk are TransientError; nothing half-written is
left behind.
"""

from __future__ import annotations

from stenosis_node.spool.documents import documents_in
from stenosis_node.spool.files import Chunk, least_free_bytes, nearest
from stenosis_node.spool.looking import Leftovers, holder, instances_in, leftovers
from stenosis_node.spool.quarantine import Cleared, clear_quarantine
from stenosis_node.spool.store import UID, Arriving, PutOutcome, PutResult, Spool

__all__ = [
    "UID",
    "Arriving",
    "Chunk",
    "Cleared",
    "Leftovers",
    "PutOutcome",
    "PutResult",
    "Spool",
    "clear_quarantine",
    "documents_in",
    "holder",
    "instances_in",
    "least_free_bytes",
    "leftovers",
    "nearest",
]
