"""The words and marks that keep a document honest: written by the composer, demanded by the checker."""

from __future__ import annotations

from typing import Final

from stenosis_node.domain import BundleStatus

ALGORITHM: Final = "stenosis-node"
"""Algorithm Name, Device Observer Model Name and Manufacturer's Model Name: one thing, one name (IHE AI Results)."""

NOT_VERIFIED: Final = "AI result, not verified"
DEMO_SERIES: Final = "DEMO NOT CLINICAL"
"""Series descriptions of a demonstration bundle begin with this."""
REPORT_SERIES: Final = "AI stenosis report"
CAPTURE_SERIES: Final = "AI stenosis images"
NO_EXCLUSION: Final = "this does not exclude stenosis"
ISOLATED: Final = "isolated slice"

BANNER: Final = {
    BundleStatus.DEMONSTRATION: "demonstration weights - not for clinical use",
    BundleStatus.RESEARCH: "research weights - not for clinical use",
    BundleStatus.VALIDATED: None,
}
"""What the first lines of pixels of every Secondary Capture say, by status of the bundle."""

BANNER_HEIGHT_PX: Final = 30
BANNER_TEXT_PX: Final = 18
BANNER_LEFT_PX: Final = 12
BANNER_TOP_PX: Final = 4
BANNER_PAPER: Final = (255, 176, 0)
BANNER_INK: Final = (0, 0, 0)


def series_description(kind: str, status: BundleStatus, revision: int, supersedes: int | None) -> str:
    """Series Description of our series (LO, at most 64 characters)."""
    parts = [DEMO_SERIES] if status is BundleStatus.DEMONSTRATION else []
    parts.append(kind)
    if revision > 1:
        parts.append(f"REVISION {revision}" + (f", supersedes {supersedes}" if supersedes else ""))
    return " ".join(parts)[:64]


def percent(score: float) -> str:
    """A network score for a reader: whole percent, never a false 0 or 100."""
    value = 100 * score
    if value >= 99.5:
        return ">99 %"
    if value < 0.5:
        return "<1 %"
    return f"{value:.0f} %"
