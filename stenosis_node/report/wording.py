"""The words and marks that keep a document honest: written by the composer, demanded by the checker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

from stenosis_node.domain import BundleStatus, Content

Key = TypeVar("Key")

ALGORITHM: Final = "stenosis-node"
"""Algorithm Name, Device Observer Model Name and Manufacturer's Model Name: one thing, one name (IHE AI Results)."""

NOT_VERIFIED: Final = "AI result, not verified"
DEMO_SERIES: Final = "DEMO NOT CLINICAL"
"""Series descriptions of a demonstration bundle begin with this."""
REPORT_SERIES: Final = "AI stenosis report"
CAPTURE_SERIES: Final = "AI stenosis images"
WITHDRAWN_SERIES: Final = "AI stenosis results withdrawn"
NO_EXCLUSION: Final = "this does not exclude stenosis"
ISOLATED: Final = "isolated slice"
NO_SAGITTAL: Final = "no sagittal series was looked for"
"""Why an overview has no sagittal slice, when its caller does not say."""
CONTENT: Final = {Content.ROOTLET: "nerve rootlets", Content.CORD: "spinal cord"}
"""What the canal holds, for people; coded values keep the meanings of their standard."""

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
    """A network score (0 to 1) for a reader: whole percent, never a false 0 or 100."""
    return _words(round(_hundredths(score) / 100))


def shares(scores: Mapping[Key, float]) -> dict[Key, str]:
    """Scores (0 to 1) that share one whole, for a reader: whole percents that sum as the scores do, mostly to 100.

    What rounding down leaves over goes to the largest remainders, among equals to the higher score.
    """
    exact = {key: _hundredths(score) for key, score in scores.items()}
    whole = {key: value // 100 for key, value in exact.items()}
    left = round(sum(exact.values()) / 100) - sum(whole.values())
    for key in sorted(exact, key=lambda k: (exact[k] % 100, exact[k]), reverse=True)[:left]:
        whole[key] += 1
    return {key: _words(value) for key, value in whole.items()}


def _hundredths(score: float) -> int:
    """Hundredths of a percent, the precision of the SR: a page made from it shows the same words."""
    return round(10_000 * score)


def _words(whole: int) -> str:
    if whole >= 100:
        return ">99 %"
    return f"{whole} %" if whole > 0 else "<1 %"
