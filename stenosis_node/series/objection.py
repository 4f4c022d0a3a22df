"""An objection: one rule that speaks against a slice."""

from __future__ import annotations

from dataclasses import dataclass

from stenosis_node.domain import SeriesReason


@dataclass(frozen=True, slots=True)
class Objection:
    """A reason code and a clause that follows "Rejected: "."""

    reason: SeriesReason
    clause: str
