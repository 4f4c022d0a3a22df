"""What the rules say of one series by itself, before the other series of its study are looked at."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from stenosis_node.config import SeriesRule
from stenosis_node.domain import Decision, SeriesReason
from stenosis_node.series.geometry import center, plane_of
from stenosis_node.series.headers import SeriesHeaders, SliceHeader
from stenosis_node.series.objection import Objection
from stenosis_node.series.selection import (
    IMAGE_FAULTS,
    MAX_EXTENT_MM,
    MIN_SLICES,
    OTHER_SEQUENCES,
    Selection,
    select,
    selection_for,
)
from stenosis_node.series.site import Ruling, ruling
from stenosis_node.series.wording import count, listing

SUPINE: Final = frozenset({"HFS", "FFS", ""})
"""Feet first is as good: directions come from the headers. Prone or on the side is not: roots fall with gravity."""
_POSITIONS: Final = {
    "P": "prone",
    "DR": "lying on the right side",
    "DL": "lying on the left side",
    "S": "supine",
}
_SAYS_AXIAL: Final = re.compile(r"(?<![a-z])(?:ax(?:ial)?s?|tra(?:ns(?:v(?:erse)?)?)?)(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision about a series as if it were alone."""

    decision: Decision
    reason: SeriesReason
    clause: str
    """Why it is not graded; for a pinned series what the pin overrules. May be empty."""
    selection: Selection
    ruling: Ruling | None = None


def weigh(series: SeriesHeaders, rules: Sequence[SeriesRule]) -> Verdict:
    """Apply the rules of the site, then those of the node."""
    found = ruling(series, rules)
    if found is None:
        return _own(series)
    if not found.pins:
        clause = f"{found.label} vetoes it{found.because}"
        return Verdict(Decision.REJECTED, SeriesReason.SITE_RULE, clause, select(series), found)
    own = _own(series)
    selection = selection_for(series, Decision.GRADED, SeriesReason.SITE_RULE)
    if any(piece.has_pixels for piece in selection.layout.slices):
        return Verdict(Decision.GRADED, SeriesReason.SITE_RULE, own.clause, selection, found)
    return replace(own, ruling=found)  # a pin makes no images


def _own(series: SeriesHeaders) -> Verdict:
    """What the rules of the node say."""
    selection = select(series)
    if not series.slices:
        return Verdict(Decision.REJECTED, *_no_image(series), selection)
    slices = selection.layout.slices
    if len(slices) < MIN_SLICES:
        return _hindered(series, selection) or Verdict(
            Decision.REJECTED, *_main_objection(series, selection), selection
        )
    if series.patient_position not in SUPINE:
        words = series.patient_position
        how = next((text for code, text in _POSITIONS.items() if words[2:] == code), "not lying on the back")
        clause = f"the patient is {how} ({words}): nerve roots sink differently, the grades would not hold"
        return Verdict(Decision.NOT_GRADABLE, SeriesReason.PATIENT_POSITION, clause, selection)
    if not selection.region.lumbar and (extent := _extent_mm(slices)) > MAX_EXTENT_MM:
        clause = f"{extent:.0f} mm from head to foot is more than a lumbar spine, and no text names it"
        return Verdict(Decision.REJECTED, SeriesReason.NOT_LUMBAR, clause, selection)
    if not any(piece.has_pixels for piece in slices):
        return Verdict(Decision.NOT_GRADABLE, SeriesReason.NO_PIXEL_DATA, "no instance has pixel data", selection)
    return Verdict(Decision.GRADED, SeriesReason.CHOSEN, "", selection)


# --------------------------------------------------------------------------- axial T2 lumbar, but not gradable


def _hindered(series: SeriesHeaders, selection: Selection) -> Verdict | None:
    """Whether a series with too few slices that pass is an axial T2 lumbar series all the same.

    Only when a text names the lumbar spine: without it the size of the image is what tells a spine from the rest.
    """
    if not selection.region.lumbar:
        return None
    reason, clause = _main_objection(series, selection)
    if reason is SeriesReason.TOO_FEW_SLICES and selection.layout.slices:
        return Verdict(Decision.NOT_GRADABLE, reason, clause.removeprefix("axial T2, but "), selection)
    for kinds in (IMAGE_FAULTS, OTHER_SEQUENCES):
        tolerant = select(series, IMAGE_FAULTS | kinds)
        if len(tolerant.layout.slices) >= MIN_SLICES:
            blamed = _blamed(tolerant, kinds)
            return Verdict(Decision.NOT_GRADABLE, blamed.reason, blamed.clause, tolerant)
    if len(selection.broken) >= MIN_SLICES and _SAYS_AXIAL.search(f"{series.description} | {series.protocol}"):
        faults = listing(piece.geometry_fault or "no image size" for piece in selection.broken)
        return Verdict(Decision.NOT_GRADABLE, SeriesReason.NO_GEOMETRY, f"the headers give {faults}", selection)
    return None


def _blamed(tolerant: Selection, kinds: frozenset[SeriesReason]) -> Objection:
    """The commonest of the overlooked objections of these kinds."""
    objections = [o for overlooked in tolerant.overlooked.values() for o in overlooked if o.reason in kinds]
    first = Counter(objection.reason for objection in objections)
    reason = min(first, key=lambda code: (-first[code], list(SeriesReason).index(code)))
    return next(objection for objection in objections if objection.reason is reason)


# --------------------------------------------------------------------------- not axial T2 lumbar


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


def _extent_mm(slices: Sequence[SliceHeader]) -> float:
    """From the centre of the first to the centre of the last slice, head to foot."""
    heights = [float(center(piece)[2]) for piece in slices]
    return max(heights) - min(heights)
