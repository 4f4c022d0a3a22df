"""What a report says, before it takes a form: SR, pictures and page all draw from one outline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from stenosis_node.domain import (
    SEVERITY,
    AxialSeries,
    AxialSlice,
    BundleStatus,
    CanalNotFound,
    CordSlice,
    Decision,
    Grade,
    GradedSlice,
    NotGradable,
    SeriesDecision,
    SliceFinding,
    StudyFindings,
    Unreadable,
)
from stenosis_node.errors import PermanentError
from stenosis_node.report import wording


@dataclass(frozen=True, slots=True)
class Entry:
    """One slice with its finding and its place in the study."""

    image: AxialSlice
    finding: SliceFinding
    place: str
    """``image 14 of 30, slab 3``; counted from head to foot."""
    number: int
    """1-based place in its series, from head to foot."""
    isolated: bool
    """Graded C or D between two neighbours of grade A in the same slab."""

    @property
    def label(self) -> str:
        """``Image 14 of 30, slab 3: Schizas C``: the tracking identifier, and the comment of the capture."""
        return f"{self.place[0].upper()}{self.place[1:]}: {result_words(self)}"


@dataclass(frozen=True, slots=True)
class Slab:
    """The slices of one slab of one series."""

    name: str
    """``slab 3 (images 9 to 13 of 30)``."""
    number: int
    entries: tuple[Entry, ...]
    worst: Entry | None
    """Most severe slice; among equals the one with the highest score. None when no slice was graded."""
    refusal: str = ""
    """Why the whole series was not graded; it then is one slab."""

    @property
    def grade(self) -> Grade | None:
        """Grade of the worst slice."""
        return grade_of(self.worst) if self.worst else None

    @property
    def sentence(self) -> str:
        """The slab in words."""
        if self.refusal:
            return f"{self.refusal}; {wording.NO_EXCLUSION} ({count_images(len(self.entries))})."
        name = f"{self.name[0].upper()}{self.name[1:]}"
        graded = sum(isinstance(e.finding, GradedSlice) for e in self.entries)
        if self.worst is None:
            return f"{name}: not graded, {wording.NO_EXCLUSION}; {outcome_words(self.entries)}."
        mark = f", {wording.ISOLATED}" if self.worst.isolated else ""
        return (
            f"{name}: worst Schizas {self.grade} on image {self.worst.number} (network score {score_words(self.worst)}"
            f"{mark}); "
            f"{graded} of {len(self.entries)} images graded."
        )


@dataclass(frozen=True, slots=True)
class Outline:
    """The whole study."""

    entries: tuple[Entry, ...]
    slabs: tuple[Slab, ...]
    worst: Entry | None
    status: BundleStatus
    several_series: bool
    warnings: tuple[str, ...] = ()
    """Sentences: what else keeps the result from being complete."""
    other_series: str = ""
    """One sentence on the series that were not chosen; empty when there are none."""
    revision: str = ""
    """The sentence of a revision; empty for a first result."""

    @property
    def complete(self) -> bool:
        """Whether every chosen slice could be read."""
        return not any(isinstance(e.finding, Unreadable) for e in self.entries)

    @property
    def refusals(self) -> tuple[str, ...]:
        """Why whole series were not graded."""
        return tuple(slab.refusal for slab in self.slabs if slab.refusal)

    @property
    def looked_at(self) -> tuple[Entry, ...]:
        """The entries of series that were fit for grading."""
        return tuple(entry for slab in self.slabs if not slab.refusal for entry in slab.entries)

    @property
    def key_images(self) -> frozenset[int]:
        """Indices into ``entries`` of the worst image of each slab and of every image that is not gradable."""
        worst = {id(slab.worst) for slab in self.slabs if slab.worst is not None}
        return frozenset(i for i, e in enumerate(self.entries) if id(e) in worst or isinstance(e.finding, NotGradable))

    @property
    def summary(self) -> str:
        """The study in few sentences; the first thing a reader sees."""
        banner = wording.BANNER[self.status]
        lead = f"{banner[0].upper()}{banner[1:]}. " if banner else ""
        more = "".join(f" {text}." for text in self.refusals) + "".join(f" {text}" for text in self.warnings)
        return f"{lead}{wording.NOT_VERIFIED}. {self.revision}{self._result}{more}"

    @property
    def _result(self) -> str:
        images = self.looked_at
        if self.worst is None:
            text = f"No Schizas grade could be given, {wording.NO_EXCLUSION}"
            return f"{text}: {outcome_words(images)}." if images else f"{text}."
        mark = f", {wording.ISOLATED}" if self.worst.isolated else ""
        rest = [e for e in images if not isinstance(e.finding, GradedSlice)]
        others = f"; {outcome_words(rest)}" if rest else ""
        return (
            f"Worst Schizas grade {grade_of(self.worst)} on {self.worst.place} "
            f"(network score {score_words(self.worst)}{mark}); "
            f"{len(images) - len(rest)} of {count_images(len(images))} graded{others}."
        )


def grade_of(entry: Entry) -> Grade | None:
    """The grade of an entry, None when it was not graded."""
    return entry.finding.grade if isinstance(entry.finding, GradedSlice) else None


def score_of(entry: Entry) -> float:
    """Network score of the predicted grade; 0 when the entry was not graded."""
    return entry.finding.scores[entry.finding.grade] if isinstance(entry.finding, GradedSlice) else 0.0


def score_words(entry: Entry) -> str:
    """Network score of the predicted grade for a reader, as beside the scores of the other grades."""
    finding = entry.finding
    return wording.shares(finding.scores)[finding.grade] if isinstance(finding, GradedSlice) else wording.percent(0.0)


def result_words(entry: Entry) -> str:
    """The outcome of one slice in a few words."""
    finding = entry.finding
    match finding:
        case GradedSlice():
            return f"Schizas {finding.grade}" + (f" ({wording.ISOLATED})" if entry.isolated else "")
        case CordSlice():
            return "spinal cord, not graded"
        case NotGradable():
            return "not gradable"
        case CanalNotFound():
            return "canal not found"
        case Unreadable():
            return "could not be read"
    assert_never(finding)


def reason_words(finding: SliceFinding) -> str | None:
    """Why a slice has no grade, as printable text of at most 200 characters."""
    match finding:
        case NotGradable():
            text = "".join(c if c.isprintable() else " " for c in finding.reason).strip()
            return text[:200] or "the networks abstain"
        case CanalNotFound():
            return "no spinal canal was located above the threshold"
        case Unreadable():  # the decoder's own words may hold paths: they stay on the job
            return "the pixel data could not be decoded"
        case CordSlice() | GradedSlice():
            return None
    assert_never(finding)


def outcome_words(entries: Sequence[Entry]) -> str:
    """``3 graded, 2 with spinal cord, 1 without canal``."""
    counts = Counter(e.finding.outcome for e in entries)
    words = (
        (counts["graded"], "graded"),
        (counts["cord"], "with spinal cord"),
        (counts["canal_not_found"], "without a located canal"),
        (counts["not_gradable"], "not gradable"),
        (counts["unreadable"], "not readable"),
    )
    total = [f"{count} {text}" for count, text in words if count]
    return ", ".join(total) or "no images"


def outline(
    findings: StudyFindings, series: Sequence[AxialSeries], *, revision: int = 1, supersedes: Sequence[int] = ()
) -> Outline:
    """Put findings and images together. Raises PermanentError when they do not belong together.

    supersedes  the revisions whose reports peers may hold
    """
    by_uid = {s.series_instance_uid: s for s in series}
    decisions = {d.series_instance_uid: d for d in findings.decisions}
    several = len(findings.series) > 1
    slabs: list[Slab] = []
    for position, found in enumerate(findings.series):
        source = by_uid.get(found.series_instance_uid)
        refs = tuple(f.ref for f in found.slices)
        if source is None or tuple(s.ref for s in source.slices) != refs:
            raise PermanentError(
                f"findings of series {found.series_instance_uid} do not match the images read; grade the study again"
            )
        prefix = f"series {source.series_number if source.series_number is not None else position + 1}, "
        decision = decisions.get(found.series_instance_uid)
        if decision is not None and decision.decision is Decision.NOT_GRADABLE:
            slabs.append(_refused(source, found.slices, prefix if several else "", decision))
        else:
            slabs += _slabs(source, found.slices, prefix if several else "")
    entries = tuple(entry for slab in slabs for entry in slab.entries)
    graded = [d for d in findings.decisions if d.decision is Decision.GRADED]
    return Outline(
        entries,
        tuple(slabs),
        _worst(entries),
        findings.bundle.status,
        several,
        warnings=tuple(filter(None, map(wording.gap_sentence, graded))),
        other_series=wording.other_series(findings.decisions),
        revision=wording.revision_sentence(revision, supersedes),
    )


def _refused(source: AxialSeries, found: Sequence[SliceFinding], prefix: str, decision: SeriesDecision) -> Slab:
    """A series that is not fit for grading, whatever its slices look like."""
    total = len(found)
    entries = tuple(
        Entry(image, finding, f"{prefix}image {i + 1} of {total}", i + 1, isolated=False)
        for i, (image, finding) in enumerate(zip(source.slices, found, strict=True))
    )
    return Slab(f"{prefix}{count_images(total)}", 1, entries, None, wording.refusal(decision))


def _slabs(source: AxialSeries, found: Sequence[SliceFinding], prefix: str) -> list[Slab]:
    total = len(found)
    members: dict[int, list[int]] = {}
    for i, image in enumerate(source.slices):
        members.setdefault(image.slab, []).append(i)
    slabs = []
    for slab, indices in members.items():
        entries = tuple(
            Entry(
                image=source.slices[i],
                finding=found[i],
                place=f"{prefix}image {i + 1} of {total}, slab {slab + 1}",
                number=i + 1,
                isolated=_isolated([found[j] for j in indices], k),
            )
            for k, i in enumerate(indices)
        )
        first, last = indices[0] + 1, indices[-1] + 1
        images = f"image {first}" if first == last else f"images {first} to {last}"
        slabs.append(Slab(f"{prefix}slab {slab + 1} ({images} of {total})", slab + 1, entries, _worst(entries)))
    return slabs


def count_images(count: int) -> str:
    """``1 image``, ``3 images``."""
    return "1 image" if count == 1 else f"{count} images"


def _isolated(slab: Sequence[SliceFinding], k: int) -> bool:
    here = slab[k]
    if not isinstance(here, GradedSlice) or SEVERITY[here.grade] < SEVERITY[Grade.C] or not 0 < k < len(slab) - 1:
        return False
    return all(isinstance(n, GradedSlice) and n.grade is Grade.A for n in (slab[k - 1], slab[k + 1]))


def _worst(entries: Sequence[Entry]) -> Entry | None:
    graded = [e for e in entries if isinstance(e.finding, GradedSlice)]
    return max(graded, key=lambda e: (SEVERITY[grade_of(e) or Grade.A], score_of(e)), default=None)
