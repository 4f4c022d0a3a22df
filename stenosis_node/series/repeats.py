"""Series that show the same slices again: a repeat because of motion, or a filtered copy."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np

from stenosis_node.series.geometry import Layout, center, field_of_view, geometry_of, head_normal
from stenosis_node.series.headers import SeriesHeaders, SliceHeader

COVERED: Final = 0.8
"""Share of the slices of a series that must lie on slices of another one to make it a repeat."""
UNSEEN: Final = 0.1
"""Share of its slices that may lie nowhere else all the same; one slice always may."""
PINNED: Final = "a rule of the site pins that one"
_SAME_NORMAL: Final = math.cos(math.radians(3))
_PITCH_SHARE: Final = 0.6
_DEFAULT_PITCH_MM: Final = 4.0
_SAYS_REPEAT: Final = re.compile(
    r"(?<![a-z])(?:re-?peat(?:ed)?|rpt|re-?do|again|wdh|wiederh\w*)(?![a-z])", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A series that passed the rules on its own."""

    series: SeriesHeaders
    layout: Layout
    pinned: bool = False
    """A rule of the site wants it graded: it is never left out."""

    @property
    def acquired(self) -> str:
        """When its last slice was acquired, comparable as text; empty when unknown."""
        return max((piece.acquired for piece in self.layout.slices), default="")

    @property
    def complete(self) -> bool:
        """Whether nearly all slices come with pixel data."""
        slices = self.layout.slices
        return sum(piece.has_pixels for piece in slices) >= 0.9 * len(slices)

    @property
    def called_repeat(self) -> bool:
        """Whether its name says that it was made again. It counts only where the headers tell no time."""
        return bool(_SAYS_REPEAT.search(f"{self.series.description} | {self.series.protocol}"))

    @property
    def normalised(self) -> bool:
        """Whether the intensity was evened out over the surface coil (Siemens NORM, GE and Philips do it silently)."""
        return all("NORM" in piece.acquisition.image_type for piece in self.layout.slices)

    @property
    def pixel_area(self) -> float:
        """Of one pixel, mm2."""
        geometry = geometry_of(self.layout.slices[0])
        return geometry.row_spacing_mm * geometry.column_spacing_mm

    @property
    def label(self) -> str:
        """How the administrator knows the series."""
        number, text = self.series.series_number, self.series.description
        return f"series {'without number' if number is None else number}" + (f" '{text}'" if text else "")


@dataclass(frozen=True, slots=True)
class Repeat:
    """A candidate that another one replaces."""

    kept: Candidate
    why: str


def find_repeats(candidates: Sequence[Candidate]) -> dict[str, Repeat]:
    """Series Instance UID of each candidate to leave out, with the better one. All candidates are of one study.

    A repeat is made because the first was bad, so the later of two series at the same places is the better one. A later
    series that leaves places of the first unseen (it was broken off, or planned elsewhere) replaces nothing: both stay.
    """
    kept: list[Candidate] = []
    repeats: dict[str, Repeat] = {}
    for candidate in sorted(candidates, key=_rank, reverse=True):
        better = None if candidate.pinned else covering(candidate.series, candidate.layout.slices, kept)
        if better is None:
            kept.append(candidate)
        else:
            repeats[candidate.series.series_instance_uid] = Repeat(
                better, PINNED if better.pinned else _why(better, candidate)
            )
    return repeats


def _rank(candidate: Candidate) -> tuple[bool, bool, str, bool, bool, float, int, str]:
    """The larger is the better of two series at the same places."""
    series = candidate.series
    return (
        candidate.pinned,
        candidate.complete,
        candidate.acquired,
        candidate.called_repeat,
        candidate.normalised,
        -round(candidate.pixel_area, 3),
        series.series_number or 0,
        series.series_instance_uid,
    )


def covering(series: SeriesHeaders, slices: Sequence[SliceHeader], kept: Sequence[Candidate]) -> Candidate | None:
    """The series that covers most of this one; None when all of them together leave gaps in it."""
    own = series.frame_of_reference_uid
    peers = [
        k for k in kept if None in (own, k.series.frame_of_reference_uid) or own == k.series.frame_of_reference_uid
    ]
    share = coverage(slices, [piece for peer in peers for piece in peer.layout.slices])
    unseen = round((1 - share) * len(slices))
    if share < COVERED or unseen > max(1, UNSEEN * len(slices)):
        return None
    return max(peers, key=lambda peer: coverage(slices, peer.layout.slices))


def _why(better: Candidate, worse: Candidate) -> str:
    if better.complete != worse.complete:
        return "that one has all its pixel data"
    if better.acquired and not worse.acquired:
        return "only that one says when it was acquired"
    if better.acquired != worse.acquired:
        return f"that one was acquired {_later(worse.acquired, better.acquired)}later"
    if better.called_repeat and not worse.called_repeat:
        return "its name calls that one the repeat"
    if better.normalised and not worse.normalised:
        return "that one is corrected for the sensitivity of the coil"
    if round(better.pixel_area, 3) < round(worse.pixel_area, 3):
        return "that one has the finer pixels"
    if (better.series.series_number or 0) > (worse.series.series_number or 0):
        return "that one has the higher series number"
    return "the headers show no difference, so one of the two is taken"


def coverage(slices: Sequence[SliceHeader], others: Sequence[SliceHeader]) -> float:
    """Share of ``slices`` that lie on one of ``others`` within 0.6 pitches along the normal and 0.3 fields in plane."""
    if not slices or not others:
        return 0.0
    normals = np.asarray([head_normal(geometry_of(piece)) for piece in others])
    centers = np.asarray([center(piece) for piece in others])
    hits = 0
    for piece in slices:
        normal = head_normal(geometry_of(piece))
        apart = centers - center(piece)
        along = np.abs(apart @ normal)
        in_plane = np.linalg.norm(apart - np.outer(apart @ normal, normal), axis=1)
        pitch = piece.spacing_between_mm or geometry_of(piece).thickness_mm or _DEFAULT_PITCH_MM
        near = (normals @ normal > _SAME_NORMAL) & (along <= _PITCH_SHARE * pitch)
        hits += bool(np.any(near & (in_plane <= 0.3 * min(field_of_view(piece)))))
    return hits / len(slices)


def _later(before: str, after: str) -> str:
    try:
        start, end = (datetime.strptime(text[:14], "%Y%m%d%H%M%S") for text in (before, after))  # noqa: DTZ007
    except ValueError:
        return ""
    minutes = (end - start).total_seconds() / 60
    return f"{minutes:.0f} min " if minutes >= 1 else f"{(end - start).total_seconds():.0f} s "
