"""Rules on what a report says of itself: how it came about, what it leaves out, how far it can be trusted."""

from __future__ import annotations

import re
from collections.abc import Iterator

from stenosis_node.domain import BundleStatus, Decision, SeriesDecision
from stenosis_node.report import codes, readback, wording
from stenosis_node.report.gate.evidence import Evidence, Fault, Opened
from stenosis_node.report.readback import Item


def content_faults(report: Opened, overview: Opened | None, evidence: Evidence) -> Iterator[Fault]:
    """Every rule. ``overview`` is the first picture of the same result."""
    summary = report.root.first(codes.SUMMARY)
    text = summary.text if summary is not None else ""
    yield from _trust(report.root, evidence)
    yield from _refusals(report.root, text, evidence)
    yield from _omissions(report.root, text, evidence)
    yield from _revision(report, text)
    yield from _orientation(report.root, overview, evidence)


def _said(root: Item, name: codes.Code) -> list[str]:
    return [item.text for q in root.named(codes.QUALITATIVE) for item in q.named(name)]


def _trust(root: Item, evidence: Evidence) -> Iterator[Fault]:
    """The rule with figures that were measured for it, and no others."""
    bundle = evidence.study.bundle
    point, agreement = bundle.operating_point, bundle.agreement
    rules = _said(root, codes.RULE)
    if len(rules) != 1 or wording.RULE not in rules[0]:
        yield Fault("rule", "the report does not name the rule its overall grade follows")
        return
    if wording.operating_sentence(bundle) not in rules[0]:
        yield Fault("rule", "the report does not say at which scores an image is graded C or D")
    figures = re.findall(r"[<>]?\d+ %", rules[0])
    if point is None or point.rule != wording.RULE_ID:
        if figures or "not measured" not in rules[0]:
            yield Fault("rule-figures", "the rule has figures that nobody measured, or does not say so")
    elif figures != [wording.percent(v) for v in (point.sensitivity, point.specificity)] or (
        str(point.studies) not in rules[0].split("(")[-1]
    ):
        yield Fault("rule-figures", "sensitivity and specificity of the rule are not those of the model card")
    said = _said(root, codes.READERS)
    if len(said) != (agreement is not None):
        yield Fault("readers", "agreement with readers is printed although it was not measured, or is missing")
    elif agreement is not None and f"with {agreement.readers} {agreement.kind}" not in said[0]:
        yield Fault("readers", "agreement with readers is printed without their kind and number")
    if (
        agreement is not None
        and bundle.status is BundleStatus.DEMONSTRATION
        and not agreement.kind.startswith("simulated")
    ):
        yield Fault("readers", "readers of a demonstration bundle are not called simulated")


def refused(evidence: Evidence) -> dict[str, SeriesDecision]:
    """Series of the result that were not fit for grading, by their UID."""
    chosen = {found.series_instance_uid for found in evidence.study.series}
    return {
        d.series_instance_uid: d
        for d in evidence.study.decisions
        if d.decision is Decision.NOT_GRADABLE and d.series_instance_uid in chosen
    }


def _refusals(root: Item, summary: str, evidence: Evidence) -> Iterator[Fault]:
    for decision in refused(evidence).values():
        sentence = wording.refusal(decision)
        slabs = [text for text in _said(root, codes.SLAB_RESULT) if text.startswith(sentence)]
        if sentence not in summary or not slabs or wording.NO_EXCLUSION not in slabs[0]:
            yield Fault("refusal", "a series that could not be graded is not named in summary and results")


def _omissions(root: Item, summary: str, evidence: Evidence) -> Iterator[Fault]:
    decisions = evidence.study.decisions
    expected = [t for d in decisions if d.decision is Decision.GRADED and (t := wording.gap_sentence(d))]
    if _said(root, codes.WARNING) != expected or any(text not in summary for text in expected):
        yield Fault("gaps", "gaps between the images of a graded series are not warned of in summary and results")
    others = sum(d.decision in (Decision.REJECTED, Decision.LOCATOR) for d in decisions)
    said = _said(root, codes.OTHER_SERIES)
    if len(said) != (others > 0) or (said and not said[0].startswith(f"Not graded: {others} other series")):
        yield Fault("other-series", "the report does not say how many other series the study has")


def _revision(report: Opened, summary: str) -> Iterator[Fault]:
    named = bool(report.ds.get("PredecessorDocumentsSequence"))
    if named != (re.search(r"Revision \d+, supersedes revisions? \d", summary) is not None):
        yield Fault("revision-words", "predecessors are named in the header or in the summary, but not in both")


def _orientation(root: Item, overview: Opened | None, evidence: Evidence) -> Iterator[Fault]:
    """The sagittal image is on the overview, in the image library and in words, or in none of them and it says why."""
    library = any(
        evidence.is_locator(ref) for lib in root.named(codes.IMAGE_LIBRARY) for item in lib.walk() for ref in item.refs
    )
    said = _said(root, codes.SLAB_POSITIONS)
    shown = [text.startswith("The overview image shows where the slabs lie") for text in said]
    without = any(text.startswith("No sagittal image shows where the slabs lie: ") for text in said)
    pictured = overview is not None and any(
        evidence.is_locator(readback.reference(item)) for item in overview.ds.get("SourceImageSequence") or ()
    )
    if len(said) != 1 or not (shown[0] or without) or not (shown[0] == library == pictured):
        yield Fault("orientation", "report, image library and overview differ on the sagittal image")
