"""Which series of a study are graded: one decision per series, each with a reason, a sentence and the values seen."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Final

from stenosis_node.domain import Decision, SeriesDecision, SeriesReason
from stenosis_node.series.contrast import weighting
from stenosis_node.series.geometry import center, field_of_view, plane_of
from stenosis_node.series.headers import SeriesHeaders, SliceHeader, class_name
from stenosis_node.series.repeats import Candidate, Repeat, coverage, find_repeats
from stenosis_node.series.selection import MAX_EXTENT_MM, MIN_SLICES, Selection, select
from stenosis_node.series.wording import count, listing, span

SUPINE: Final = frozenset({"HFS", "FFS", ""})
"""Feet first is as good: directions come from the headers. Prone or on the side is not: roots fall with gravity."""
_POSITIONS: Final = {
    "P": "prone",
    "DR": "lying on the right side",
    "DL": "lying on the left side",
    "S": "supine",
}
MIN_OVERLAP: Final = 0.2
"""Share of slices shown twice from which the sentence of a chosen series mentions the other one."""


def choose(series: Sequence[SeriesHeaders]) -> tuple[SeriesDecision, ...]:
    """One decision per series, in the order given. Pure: headers only, any number of studies.

    A series is chosen when at least four positions are axial (up to 48 degrees of tilt), T2-weighted turbo spin echo
    without fat suppression, 2D, of a plausible size; no text says another body part; the patient lies supine; and no
    better series of the study shows the same places.
    """
    selections = [select(one) for one in series]
    decisions = [_alone(one, selection) for one, selection in zip(series, selections, strict=True)]
    studies: dict[str, list[Candidate]] = defaultdict(list)
    for one, selection, decision in zip(series, selections, decisions, strict=True):
        if decision.decision is Decision.GRADED:
            studies[one.study_instance_uid].append(Candidate(one, selection.layout))
    final: list[SeriesDecision] = []
    repeats = {study: find_repeats(candidates) for study, candidates in studies.items()}
    for one, selection, decision in zip(series, selections, decisions, strict=True):
        study = one.study_instance_uid
        repeat = repeats.get(study, {}).get(one.series_instance_uid)
        if repeat is not None:
            final.append(_repeated(one, selection, repeat))
        elif decision.decision is Decision.GRADED:
            others = [c for c in studies[study] if c.series.series_instance_uid not in repeats[study]]
            final.append(_chosen(one, selection, others))
        else:
            final.append(decision)
    return tuple(final)


# --------------------------------------------------------------------------- one series by itself


def _alone(series: SeriesHeaders, selection: Selection) -> SeriesDecision:
    """The decision before other series of the study are looked at."""
    if not series.slices:
        return _rejected(series, selection, *_no_image(series))
    slices = selection.layout.slices
    if len(slices) < MIN_SLICES:
        return _rejected(series, selection, *_main_objection(series, selection))
    if series.patient_position not in SUPINE:
        words = series.patient_position
        how = next((text for code, text in _POSITIONS.items() if words[2:] == code), "not lying on the back")
        return _rejected(
            series,
            selection,
            SeriesReason.PATIENT_POSITION,
            f"axial T2, but the patient is {how} ({words}): nerve roots sink differently, the grades would not hold",
        )
    if not selection.region.lumbar and (extent := _extent_mm(slices)) > MAX_EXTENT_MM:
        return _rejected(
            series,
            selection,
            SeriesReason.NOT_LUMBAR,
            f"{extent:.0f} mm from head to foot is more than a lumbar spine, and no text names it",
        )
    if not any(piece.has_pixels for piece in slices):
        return _rejected(series, selection, SeriesReason.NO_PIXEL_DATA, "axial T2, but no instance has pixel data")
    return _decision(series, selection, Decision.GRADED, SeriesReason.CHOSEN, "")


def _no_image(series: SeriesHeaders) -> tuple[SeriesReason, str]:
    classes = listing(series.other_classes)
    if "Secondary Capture" in classes:
        return SeriesReason.SCREEN_SAVE, f"pictures, not MR images ({classes})"
    return SeriesReason.NOT_MR, f"no MR images ({classes or series.modality})"


def _main_objection(series: SeriesHeaders, selection: Selection) -> tuple[SeriesReason, str]:
    """The reason for a series with too few slices that pass."""
    planes = Counter(plane_of(piece.geometry).name for piece in series.slices if piece.geometry is not None)
    first = Counter(objection.reason for objection in selection.first_objections)
    n_passing = len(selection.layout.slices)
    if SeriesReason.NOT_AXIAL in first and len(planes) > 1 and (len(first) > 1 or n_passing):
        return _mixed(planes, selection)
    if not first or (n_passing and n_passing + len(selection.layout.duplicates) >= max(first.values())):
        twice = count(len(selection.layout.duplicates), "duplicate")
        extra = f", {twice} not counted" if selection.layout.duplicates else ""
        n_needed = f"at least {MIN_SLICES} are needed"
        return SeriesReason.TOO_FEW_SLICES, f"axial T2, but only {count(n_passing, 'position')} ({n_needed}{extra})"
    reason = min(first, key=lambda code: (-first[code], list(SeriesReason).index(code)))
    clause = next(objection.clause for objection in selection.first_objections if objection.reason is reason)
    part = f" ({first[reason]} of {count(len(series.slices), 'slice')})" if first[reason] < len(series.slices) else ""
    return reason, clause + part


def _mixed(planes: Counter[str], selection: Selection) -> tuple[SeriesReason, str]:
    shown = ", ".join(f"{planes[name]} {name}" for name in ("sagittal", "coronal", "axial") if planes[name])
    if len(planes) == 3:
        return SeriesReason.LOCALIZER, f"three planes in one series ({shown}), like a localizer"
    n_passing = len(selection.layout.slices)
    others = [o for o in selection.first_objections if o.reason is not SeriesReason.NOT_AXIAL]
    if n_passing or not others:
        why = f"{n_passing} of them pass as axial T2, at least {MIN_SLICES} are needed"
    else:
        why = f"the axial ones do not pass either: {others[0].clause}"
    return SeriesReason.MIXED_ORIENTATION, f"several planes in one series ({shown}); {why}"


# --------------------------------------------------------------------------- among the series of a study


def _repeated(series: SeriesHeaders, selection: Selection, repeat: Repeat) -> SeriesDecision:
    return _rejected(
        series,
        selection,
        SeriesReason.DUPLICATE_SERIES,
        f"axial T2, but {repeat.kept.label} shows the same places and is graded instead: {repeat.why}",
    )


def _chosen(series: SeriesHeaders, selection: Selection, candidates: Sequence[Candidate]) -> SeriesDecision:
    layout = selection.layout
    slices = layout.slices
    acquisition = slices[0].acquisition
    times = [span((p.acquisition.tr_ms for p in slices), "ms"), span((p.acquisition.te_ms for p in slices), "ms")]
    timing = f"TR {times[0] or 'blank'}, TE {times[1] or 'blank'}"
    tilt = span((round(plane_of(p.geometry).off_axial_deg) for p in slices if p.geometry is not None), "degrees")
    sizes = f"{count(len(slices), 'slice')} in {count(len(layout.slabs), 'slab')}"
    parts = [
        f"Chosen: axial T2 of the lumbar spine, {timing}, {sizes}",
        f"tilted {tilt}",
        f"field of view {_fov(slices)}",
    ]
    sentence = ", ".join(parts) + "."
    if note := weighting(acquisition, series.description or series.protocol).note:
        sentence += f" Weighting: {note}."
    left_out = [objections[0] for piece, objections in selection.against.items() if piece not in selection.broken]
    if left_out:
        why = listing(objection.reason.value for objection in left_out)
        sentence += f" Left out: {count(len(left_out), 'slice')} ({why})."
    if selection.broken:
        sentence += f" Unreadable: {count(len(selection.broken), 'slice')} without usable place or size."
    if layout.duplicates:
        sentence += f" Left out: {count(len(layout.duplicates), 'slice')} at the same place as a better one."
    if holes := sum(slab.holes for slab in layout.slabs):
        sentence += f" Steps between slices suggest that {count(holes, 'slice')} did not arrive."
    for other in candidates:
        if other.series.series_instance_uid == series.series_instance_uid:
            continue
        if coverage(slices, other.layout.slices) >= MIN_OVERLAP:
            sentence += f" Some places are also shown by {other.label}, which is graded too."
    return _decision(series, selection, Decision.GRADED, SeriesReason.CHOSEN, sentence)


# --------------------------------------------------------------------------- the decision


def _rejected(series: SeriesHeaders, selection: Selection, reason: SeriesReason, clause: str) -> SeriesDecision:
    return _decision(series, selection, Decision.REJECTED, reason, f"Rejected: {clause}.")


def _decision(
    series: SeriesHeaders, selection: Selection, decision: Decision, reason: SeriesReason, sentence: str
) -> SeriesDecision:
    values = _values(series, selection)
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
        "missing slices": span(slab.holes for slab in layout.slabs if slab.holes),
        "thickness": span((p.geometry.thickness_mm for p in placed if p.geometry is not None), "mm"),
        "matrix": listing(f"{piece.rows} x {piece.columns}" for piece in slices),
        "field of view": _fov(placed),
        "patient position": series.patient_position,
        "body part": series.body_part,
        "protocol": series.protocol,
    }


def _extent_mm(slices: Sequence[SliceHeader]) -> float:
    """From the centre of the first to the centre of the last slice, head to foot."""
    heights = [float(center(piece)[2]) for piece in slices]
    return max(heights) - min(heights)


def _fov(slices: Sequence[SliceHeader]) -> str:
    sizes = [field_of_view(piece) for piece in slices if piece.geometry is not None]
    if not sizes:
        return ""
    return f"{span(round(size[0]) for size in sizes)} x {span(round(size[1]) for size in sizes)} mm"
