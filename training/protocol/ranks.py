"""Which process this is of those that train together."""

from __future__ import annotations

import os


def leads() -> bool:
    """Of several processes that train together (torchrun), the one that writes and says how far it is."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0
