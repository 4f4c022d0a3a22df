"""The words and marks that keep a document honest: written by the composer, demanded by the checker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

from stenosis_node.domain import (
    BundleIdentity,
    BundleStatus,
    Content,
    Decision,
    SeriesDecision,
)

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
HINDRANCE: Final = "hindrance"
"""The value of a series decision that says why the series is not gradable."""
GAPS: Final = "position_gaps"
"""The value of a series decision that says where the steps between slices are too wide."""
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
    """Series Description of our series (LO, at most 64 characters): the longest form that fits."""
    lead = [DEMO_SERIES] if status is BundleStatus.DEMONSTRATION else []
    number = [f"REVISION {revision}"] if revision > 1 else []
    named = [f"REVISION {revision}, supersedes revision {supersedes}"] if number and supersedes else number
    short = kind.replace("AI stenosis", "AI")
    forms = (" ".join([*lead, words, *tail]) for tail in (named, number) for words in (kind, short))
    return next((text for text in forms if len(text) <= 64), " ".join(lead + number)[:64])


def revision_sentence(revision: int, supersedes: Sequence[int]) -> str:
    """What a text reader is told of earlier reports; empty when there are none."""
    if not supersedes:
        return ""
    earlier = [str(number) for number in sorted(set(supersedes))]
    listed = earlier[0] if len(earlier) == 1 else f"{', '.join(earlier[:-1])} and {earlier[-1]}"
    return f"Revision {revision}, supersedes revision{'s' if len(earlier) > 1 else ''} {listed}. "


# --------------------------------------------------------------------------- the rule and what is known of it

RULE_ID: Final = "worst-image"
"""How a bundle's model card names the rule below."""
RULE: Final = "The grade of a slab and of the examination is the most severe grade of any of its graded images."


def operating_sentence(bundle: BundleIdentity) -> str:
    """How the grade of an image follows from its scores when it is not simply the highest; empty when it is."""
    if bundle.severe_threshold is None:
        return ""
    return (
        f" An image is graded C or D when the network scores of C and D add up to {bundle.severe_threshold:.3f} (of 1) "
        "or more, even where A or B scores higher, and A or B otherwise."
    )


def rule_sentences(bundle: BundleIdentity) -> str:
    """The rules of image and examination, with sensitivity and specificity on whole studies when the bundle measured
    them."""
    point = bundle.operating_point
    rule = RULE + operating_sentence(bundle)
    if point is None or point.rule != RULE_ID:
        return f"{rule} Sensitivity and specificity of this rule on whole studies: not measured."
    return (
        f"{rule} For a study with {point.positive}, by the model card of {bundle.name} {bundle.version} "
        f"({point.studies} {point.source}): sensitivity {percent(point.sensitivity)}, "
        f"specificity {percent(point.specificity)}."
    )


def agreement_sentence(bundle: BundleIdentity) -> str:
    """Agreement with readers, who they were and how many; empty when the bundle did not measure it."""
    known = bundle.agreement
    if known is None:
        return ""
    return (
        f"Agreement with {known.readers} {known.kind}, by the model card of {bundle.name} {bundle.version}: "
        f"{known.measure} {known.value:.2f}."
    )


# --------------------------------------------------------------------------- series as a whole


def series_name(decision: SeriesDecision) -> str:
    """``series 5``."""
    return "series" if decision.series_number is None else f"series {decision.series_number}"


def refusal(decision: SeriesDecision) -> str:
    """Why an axial T2 series was not graded, without the full stop."""
    return f"Axial T2 {series_name(decision)} was not graded: {clause(decision.values.get(HINDRANCE, ''))}".rstrip(": ")


def gap_sentence(decision: SeriesDecision) -> str:
    """Warning that images of a graded series may be missing; empty when nothing suggests it."""
    gaps = decision.values.get(GAPS, "")
    return f"Images of {series_name(decision)} may be missing: {clause(gaps)}." if gaps else ""


def other_series(decisions: Sequence[SeriesDecision]) -> str:
    """One line on the series that no result speaks of; empty when there are none."""
    others = [d for d in decisions if d.decision in (Decision.REJECTED, Decision.LOCATOR)]
    if not others:
        return ""
    reasons = Counter(d.reason.value.replace("-", " ") for d in others)
    listed = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items(), key=lambda r: (-r[1], r[0])))
    return f"Not graded: {len(others)} other series ({listed})."


def clause(text: str) -> str:
    """Words of another part of the program as part of a sentence: printable, no full stop, at most 300 characters."""
    words = "".join(c if c.isprintable() else " " for c in text).strip().rstrip(".")
    return words if len(words) <= 300 else f"{words[:296]} ..."


def slab_positions(shown: str | None, reason: str) -> str:
    """Where a reader sees at which height the slabs lie.

    shown   the sagittal image on the overview, ``series 3, image 8``; None when there is none
    reason  why there is none
    """
    if shown is None:
        return f"No sagittal image shows where the slabs lie: {clause(reason)}."
    name = f" ({shown})" if shown else ""
    return f"The overview image shows where the slabs lie on a sagittal image{name}, which was not graded."


# --------------------------------------------------------------------------- scores


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
