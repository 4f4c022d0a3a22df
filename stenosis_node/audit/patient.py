"""The Patient ID of a study, for audit messages and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Final

MAX_LENGTH: Final = 256
"""A Patient ID has 64 characters; whatever is longer is not worth keeping."""


def patient_of(path: Path) -> str:
    """The Patient ID in a file; empty when it has none, or cannot be read. Never raises for what is in a file."""
    from stenosis_node.wire.part10 import UnreadableFile, read_header  # pydicom, which most commands do not need

    try:
        return str(read_header(path, tags=["PatientID", "SpecificCharacterSet"]).get("PatientID") or "")[:MAX_LENGTH]
    except (UnreadableFile, OSError, ValueError, LookupError, TypeError):
        return ""
