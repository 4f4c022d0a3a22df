"""The command line: each verb parses, calls one module below, and prints. No logic lives here.

Exit codes are in :mod:`.outcome`.
Heavy libraries (torch, pynetdicom) are imported inside the verbs that need them, so that the others answer at once.
"""

from __future__ import annotations

from stenosis_node.cli.app import main

__all__ = ["main"]
