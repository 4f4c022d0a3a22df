"""Which documents a result has: those that some peer gets, and no others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from stenosis_node.config import Peer

Level = Literal["overview", "key", "all"]
_RISING: Final[tuple[Level, ...]] = ("overview", "key", "all")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What stands in a result beside its overview and its report. Unless told otherwise, everything there is."""

    captures: Level = "all"
    """Annotated images: none, the worst of each slab and those not gradable, or all."""
    presentation_states: bool = True

    @staticmethod
    def by(peers: Iterable[Peer]) -> Wanted:
        """The most that any of these peers gets; what peers get by default when none gets results."""
        receiving = [peer for peer in peers if peer.results]
        levels: list[Level] = ["overview" if peer.captures == "none" else peer.captures for peer in receiving]
        return Wanted(
            captures=max(levels, key=_RISING.index, default="key"),
            presentation_states=any(peer.presentation_states for peer in receiving),
        )


EVERYTHING: Final = Wanted()
