"""What is wrong with labels, in sentences that name the file, the row, the column and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

SHOWN: Final = 20
"""Problems written out in one error."""


class LabelError(Exception):
    """Labels, or what they were to be made from, cannot be used as they are."""


def refuse(problems: Sequence[str]) -> None:
    """Raise one LabelError for all problems; do nothing when there are none."""
    if problems:
        more = len(problems) - SHOWN
        raise LabelError("\n".join(problems[:SHOWN]) + (f"\n... and {more} more" if more > 0 else ""))
