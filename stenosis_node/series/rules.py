"""Which series of a study are graded: one decision per series, each with a reason, a sentence and the values seen."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from stenosis_node.config import SeriesRule
from stenosis_node.domain import Decision, SeriesDecision, SeriesReason
from stenosis_node.series.alone import Verdict, weigh
from stenosis_node.series.contrast import weighting
from stenosis_node.series.geometry import Layout, field_of_view, plane_of
from stenosis_node.series.headers import SeriesHeaders, SliceHeader, class_name
from stenosis_node.series.repeats import Candidate, Repeat, coverage, covering, find_repeats
from stenosis_node.series.sagittal import pick_locator
from stenosis_node.series.selection import OTHER_SEQUENCES, Selection
from stenosis_node.series.wording import GAPS, HINDRANCE, count, listing, span

MIN_OVERLAP: Final = 0.2
"""Share of slices shown twice from which the sentence of a chosen series mentions the other one."""


def choose(
    series: Sequence[SeriesHeaders], rules: Sequence[SeriesRule] = (), *, locator: str = ""
) -> tuple[SeriesDecision, ...]:
    """One decision per series, in the order given. Pure: headers only, any number of studies.

    GRADED        at least four positions are axial (up to 48 degrees of tilt), T2-weighted turbo spin echo without fat
                  suppression, 2D, of a plausible size; no text says another body part; the patient lies supine; and no
                  better series of the study shows the same places. Or a rule of the site pins it
    NOT_GRADABLE  axial T2 of the lumbar spine all the same, which no graded series shows (docs/decisions/0007)
    LOCATOR       the sagittal T2 series that orients the reader, at most one per study
    REJECTED      everything else

    rules    of the site; the first that matches a series decides
    locator  Series Instance UID of the locator of an earlier result: it stays the locator
    """
    by_study: dict[str, list[_Weighed]] = defaultdict(list)
    for place, one in enumerate(series):
        by_study[one.study_instance_uid].append(_Weighed(place, one, weigh(one, rules)))
    decisions: dict[int, SeriesDecision] = {}
    for members in by_study.values():
        decisions |= _decide_study(members, locator)
    return tuple(decisions[place] for place in range(len(series)))


@dataclass(frozen=True, slots=True)
class _Weighed:
    """A series with its place in the input and what was said of it alone."""

    place: int
    series: SeriesHeaders
    verdict: Verdict

    @property
    def candidate(self) -> Candidate:
        pinned = self.verdict.ruling is not None and self.verdict.ruling.pins
        return Candidate(self.series, self.verdict.selection.layout, pinned)


# --------------------------------------------------------------------------- the series of a study


def _decide_study(members: Sequence[_Weighed], locator: str) -> dict[int, SeriesDecision]:
    """Decisions by place in the input."""
    candidates = [one.candidate for one in members if one.verdict.decision is Decision.GRADED]
    repeats = find_repeats(candidates)
    kept = [c for c in candidates if c.series.series_instance_uid not in repeats]
    refused = _refused(members, kept)
    axial = [(c.series, c.layout.slices) for c in kept]
    axial += [(one.series, one.verdict.selection.layout.slices) for one in members if one.place in refused]
    others = [one.series for one in members if one.verdict.decision is Decision.REJECTED and not one.verdict.ruling]
    sagittal = pick_locator(others, axial, locator)
    decisions = {}
    for one in members:
        if (repeat := repeats.get(one.series.series_instance_uid)) is not None:
            decisions[one.place] = _repeated(one, repeat)
        elif one.verdict.decision is Decision.GRADED:
            decisions[one.place] = _chosen(one, kept, repeats)
        elif one.place in refused:
            decisions[one.place] = _not_gradable(one)
        elif sagittal is one.series:
            decisions[one.place] = _locator(one, axial)
        else:
            decisions[one.place] = _rejected(one, kept)
    return decisions


def _refused(members: Sequence[_Weighed], kept: Sequence[Candidate]) -> frozenset[int]:
    """Places of the series that the report must call not gradable.

    What a graded series shows needs no word. T2 of another kind is named only where there is nothing better.
    """
    refused = {
        one.place: one.verdict.reason
        for one in members
        if one.verdict.decision is Decision.NOT_GRADABLE
        and covering(one.series, one.verdict.selection.layout.slices, kept) is None
    }
    plain = frozenset(place for place, reason in refused.items() if reason not in OTHER_SEQUENCES)
    return plain if plain or kept else frozenset(refused)


# --------------------------------------------------------------------------- sentences


def _repeated(one: _Weighed, repeat: Repeat) -> SeriesDecision:
    return _decision(
        one,
        Decision.REJECTED,
        SeriesReason.DUPLICATE_SERIES,
        f"Rejected: axial T2, but {repeat.kept.label} shows the same places and is graded instead: {repeat.why}.",
        {"better series": repeat.kept.label, "better because": repeat.why},
    )


def _not_gradable(one: _Weighed) -> SeriesDecision:
    clause = one.verdict.clause
    sentence = f"Not gradable: axial T2 of the lumbar spine, but {clause}."
    return _decision(one, Decision.NOT_GRADABLE, one.verdict.reason, sentence, {HINDRANCE: clause})


def _locator(one: _Weighed, axial: Sequence[tuple[SeriesHeaders, Sequence[SliceHeader]]]) -> SeriesDecision:
    labels = listing(Candidate(headers, one.verdict.selection.layout).label for headers, _ in axial)
    sentence = f"Locator: sagittal T2, its middle slice can show where the slices of {labels} lie. Not graded."
    return _decision(one, Decision.LOCATOR, SeriesReason.LOCATOR, sentence)


def _rejected(one: _Weighed, kept: Sequence[Candidate]) -> SeriesDecision:
    verdict = one.verdict
    if verdict.decision is not Decision.NOT_GRADABLE:
        return _decision(one, Decision.REJECTED, verdict.reason, f"Rejected: {verdict.clause}.")
    better = covering(one.series, verdict.selection.layout.slices, kept)
    instead = (
        f"{better.label} shows the same places and is graded" if better else "the study has better axial T2 series"
    )
    values = {"better series": better.label} if better else {}
    return _decision(one, Decision.REJECTED, verdict.reason, f"Rejected: {verdict.clause}; {instead}.", values)


def _chosen(one: _Weighed, kept: Sequence[Candidate], repeats: Mapping[str, Repeat]) -> SeriesDecision:
    series, verdict = one.series, one.verdict
    layout, ruling = verdict.selection.layout, verdict.ruling
    slices = layout.slices
    times = [span((p.acquisition.tr_ms for p in slices), "ms"), span((p.acquisition.te_ms for p in slices), "ms")]
    timing = f"TR {times[0] or 'blank'}, TE {times[1] or 'blank'}"
    tilt = span((round(plane_of(p.geometry).off_axial_deg) for p in slices if p.geometry is not None), "degrees")
    sizes = f"{count(len(slices), 'slice')} in {count(len(layout.slabs), 'slab')}"
    facts = f"{timing}, {sizes}, tilted {tilt}, field of view {_fov(slices)}"
    if ruling is None:
        sentences = [f"Chosen: axial T2 of the lumbar spine, {facts}."]
    else:
        sentences = [f"Chosen: {ruling.label} pins it{ruling.because}. Axial MR, {facts}."]
        if verdict.clause:
            sentences.append(f"Overruled: {verdict.clause}.")
    if note := weighting(slices[0].acquisition, series.description or series.protocol).note:
        sentences.append(f"Weighting: {note}.")
    sentences += _left_out(verdict)
    for other in kept:
        if other.series is not series and coverage(slices, other.layout.slices) >= MIN_OVERLAP:
            sentences.append(f"Some places are also shown by {other.label}, which is graded too.")
    reason = SeriesReason.CHOSEN if ruling is None else SeriesReason.SITE_RULE
    replaced = [uid for uid, repeat in repeats.items() if repeat.kept.series is series]
    return _decision(one, Decision.GRADED, reason, " ".join(sentences), {"repeats left out": ", ".join(replaced)})


def _left_out(verdict: Verdict) -> list[str]:
    """Sentences on slices of a chosen series that are not graded."""
    selection = verdict.selection
    layout, sentences = selection.layout, []
    left_out = [objections[0] for piece, objections in selection.against.items() if piece not in selection.broken]
    if left_out:
        why = listing(objection.reason.value for objection in left_out)
        sentences.append(f"Left out: {count(len(left_out), 'slice')} ({why}).")
    if selection.broken:
        sentences.append(f"Unreadable: {count(len(selection.broken), 'slice')} without usable place or size.")
    if layout.duplicates:
        sentences.append(f"Left out: {count(len(layout.duplicates), 'slice')} at the same place as a better one.")
    if missing := sum(gap.missing for gap in layout.gaps):
        sentences.append(
            f"Steps between slices suggest that {count(missing, 'slice')} did not arrive: {_gaps(layout)}."
        )
    return sentences


# --------------------------------------------------------------------------- the decision


def _decision(
    one: _Weighed,
    decision: Decision,
    reason: SeriesReason,
    sentence: str,
    more: Mapping[str, str] = MappingProxyType({}),
) -> SeriesDecision:
    series, selection, ruling = one.series, one.verdict.selection, one.verdict.ruling
    if ruling is not None and ruling.pins and decision is not Decision.GRADED:
        sentence += f" {ruling.label[0].upper()}{ruling.label[1:]} pins it in vain: it has no axial MR images to grade."
    values = {**_values(series, selection), **more, "site rule": ruling.label if ruling else ""}
    further = listing(
        o.reason.value for objections in selection.against.values() for o in objections if o.reason != reason
    )
    if decision is Decision.REJECTED and further:
        values["also against"] = further
    return SeriesDecision(
        series_instance_uid=series.series_instance_uid,
        series_number=series.series_number,
        description=series.description,
        n_instances=series.n_instances,
        decision=decision,
        reason=reason,
        sentence=sentence,
        values={key: value for key, value in values.items() if value},
    )


def _values(series: SeriesHeaders, selection: Selection) -> dict[str, str]:
    """What the rules saw, of the slices that pass or else of all."""
    layout = selection.layout
    slices = layout.slices or series.slices
    placed = [piece for piece in slices if piece.geometry is not None]
    planes = [plane_of(piece.geometry) for piece in placed if piece.geometry is not None]
    names = Counter(plane.name for plane in planes)
    acquisitions = [piece.acquisition for piece in slices]
    classes = [*(class_name(piece.ref.sop_class_uid) for piece in series.slices), *series.other_classes]
    return {
        "SOP class": listing(classes),
        "image type": listing("\\".join(a.image_type) for a in acquisitions),
        "sequence": listing(" ".join(filter(None, (*a.scanning_sequence, a.sequence_name))) for a in acquisitions),
        "dimensions": listing(a.dimensions for a in acquisitions),
        "scan options": listing("\\".join(a.scan_options) for a in acquisitions),
        "TR": span((a.tr_ms for a in acquisitions), "ms"),
        "TE": span((a.te_ms for a in acquisitions), "ms"),
        "TI": span((a.ti_ms for a in acquisitions), "ms"),
        "echo train": span(a.echo_train for a in acquisitions),
        "contrast": listing(a.contrast for a in acquisitions),
        "plane": ", ".join(f"{n} {name}" for name, n in names.most_common()),
        "off axial": span((round(plane.off_axial_deg, 1) for plane in planes), "degrees"),
        "slices": str(len(series.slices)) if series.slices else "",
        "slices that pass": str(len(layout.slices)) if series.slices else "",
        "slices per slab": " + ".join(str(len(slab.slices)) for slab in layout.slabs),
        "pitch": span((slab.pitch_mm for slab in layout.slabs), "mm"),
        GAPS: _gaps(layout),
        "duplicates": count(len(layout.duplicates), "slice") if layout.duplicates else "",
        "thickness": span((p.geometry.thickness_mm for p in placed if p.geometry is not None), "mm"),
        "matrix": listing(f"{piece.rows} x {piece.columns}" for piece in slices),
        "field of view": _fov(placed),
        "patient position": series.patient_position,
        "body part": series.body_part,
        "protocol": series.protocol,
        "manufacturer": series.manufacturer,
        "station": series.station,
        "coil": series.coil,
        "calling AE title": listing(series.calling_ae_titles),
    }


def _gaps(layout: Layout) -> str:
    """Where slices seem to be missing; images are counted from head to foot."""
    number = {piece: i for i, piece in enumerate(layout.slices, start=1)}
    return "; ".join(
        f"images {number[gap.before]} and {number[gap.after]} lie {gap.step_mm:.1f} mm apart instead of "
        f"{gap.pitch_mm:.1f} mm ({count(gap.missing, 'slice')} missing)"
        for gap in layout.gaps
    )


def _fov(slices: Sequence[SliceHeader]) -> str:
    sizes = [field_of_view(piece) for piece in slices if piece.geometry is not None]
    if not sizes:
        return ""
    return f"{span(round(size[0]) for size in sizes)} x {span(round(size[1]) for size in sizes)} mm"
