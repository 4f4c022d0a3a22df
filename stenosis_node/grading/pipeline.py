"""A chosen series in, one finding per slice out: locate the canal, tell rootlets from cord, grade.

The networks abstain where they should: a low score is a result (``NotGradable``, ``CanalNotFound``), never an error.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, TypeVar

import torch

from stenosis_node.domain import (
    AxialSeries,
    AxialSlice,
    BundleIdentity,
    CanalNotFound,
    Content,
    CordSlice,
    Grade,
    GradedSlice,
    NotGradable,
    PixelBox,
    SeriesFindings,
    SliceFinding,
    Unreadable,
)
from stenosis_node.errors import TransientError
from stenosis_node.grading.bundle import Networks, read_bundle
from stenosis_node.grading.manifest import DecisionRules, Manifest
from stenosis_node.grading.preprocess import Patch, UprightSlice, has_contrast, make_context_patch, make_upright
from stenosis_node.grading.stages import Located, Precision, Stages
from stenosis_node.grading.switch import call_rootlets

log = logging.getLogger("stenosis_node.grading")

NO_CONTRAST: Final = "image without contrast"
FIELD_OF_VIEW: Final = "field of view outside the range of the networks"
PATCH_LEAVES_IMAGE: Final = "canal too close to the edge of the image"
LOW_CONTENT_SCORE: Final = "rootlet or cord undecided (low score)"
CONTRADICTION: Final = "rootlet or cord undecided (image and its neighbours disagree)"
LOW_GRADE_SCORE: Final = "grade undecided (low score)"

_MILD: Final = (Grade.A, Grade.B)
_SEVERE: Final = (Grade.C, Grade.D)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A slice that can be located."""

    slice: AxialSlice
    image: UprightSlice
    around: tuple[UprightSlice | None, ...]
    """What the classifiers see: neighbours of the slab and the slice itself, from head to foot."""


@dataclass(frozen=True, slots=True)
class _Canal:
    """A slice whose canal was located."""

    slice: AxialSlice
    box: PixelBox
    """In the stored image."""
    score: float
    patch: Patch


@dataclass(frozen=True, slots=True)
class _Scored:
    """A slice with a score for each content."""

    canal: _Canal
    scores: dict[Content, float]


@dataclass(frozen=True, slots=True)
class _Rootlets:
    """A slice whose canal holds rootlets."""

    canal: _Canal
    score: float


_Before = TypeVar("_Before")
_After = TypeVar("_After")


class Pipeline:
    """Loaded weights, ready to grade. Same machine, bundle and series: same findings."""

    def __init__(
        self,
        networks: Networks,
        manifest: Manifest,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        batch_size: int = 16,
    ) -> None:
        self.stages = Stages(networks, manifest, device=device, precision=precision)
        self.identity: BundleIdentity = manifest.identity()
        self._manifest = manifest
        self._context_slices = max(manifest.classify.context_slices, manifest.grade.context_slices)
        self._batch_size = batch_size

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        threads: int = 0,
        batch_size: int = 16,
        expected_digest: str | None = None,
    ) -> Self:
        """Read a bundle and make it ready. Arguments are those of ``config.Grading``.

        raises  BundleError when the bundle does not fit, ConfigError when the device is not there
        """
        if threads:
            torch.set_num_threads(threads)
        manifest, networks = read_bundle(folder, expected_digest=expected_digest)
        pipeline = cls(networks, manifest, device=device, precision=precision, batch_size=batch_size)
        log.info(
            "loaded bundle %s %s on %s in %s",
            manifest.name,
            manifest.version,
            pipeline.stages.device,
            "bf16" if pipeline.stages.reduced else "fp32",
            extra={"event": "bundle-loaded"},
        )
        return pipeline

    def grade(self, series: AxialSeries, *, progress: Callable[[int, int], None] | None = None) -> SeriesFindings:
        """Grade every slice of a series, in its order. ``progress`` gets (slices done, slices in all).

        raises  TransientError when the GPU runs out of memory
        """
        total = len(series.slices)
        scored: list[_Scored | SliceFinding] = []
        try:
            for start in range(0, total, self._batch_size):
                scored += self._score_batch(series.slices, range(start, min(start + self._batch_size, total)))
                if progress is not None and len(scored) < total:
                    progress(len(scored), total)
            findings = self._grade_scored(scored)
            if progress is not None and total:
                progress(total, total)
        except torch.cuda.OutOfMemoryError as error:
            raise TransientError("the GPU is out of memory; lower grading.batch_size or free the GPU") from error
        return SeriesFindings(series.series_instance_uid, tuple(findings))

    def _score_batch(self, slices: Sequence[AxialSlice], indices: range) -> list[_Scored | SliceFinding]:
        """Each stage settles some slices with a finding and hands the others on."""
        prepared = [self._prepare(slices, index) for index in indices]
        canals = _advance(prepared, _Prepared, self._locate)
        return _advance(canals, _Canal, self._score)

    def _grade_scored(self, scored: Sequence[_Scored | SliceFinding]) -> list[SliceFinding]:
        """What rootlets and cord are is decided over the whole series; only then are slices graded."""
        called = _advance(scored, _Scored, self._call)
        findings: list[SliceFinding] = []
        for start in range(0, len(called), self._batch_size):
            findings += _advance(called[start : start + self._batch_size], _Rootlets, self._grade)
        return findings

    def _prepare(self, slices: Sequence[AxialSlice], index: int) -> _Prepared | SliceFinding:
        item = slices[index]
        if item.pixels is None:
            return Unreadable(item.ref, item.slab, item.unreadable or "pixel data could not be decoded")
        image = make_upright(item.pixels, item.plane)
        if not has_contrast(image):
            return NotGradable(item.ref, item.slab, NO_CONTRAST, box=None, box_score=None)
        limits = self._manifest.locate_input
        if not all(limits.min_field_mm <= side <= limits.max_field_mm for side in image.field_mm):
            return NotGradable(item.ref, item.slab, FIELD_OF_VIEW, box=None, box_score=None)
        return _Prepared(item, image, self._around(slices, index, image))

    def _around(self, slices: Sequence[AxialSlice], index: int, image: UprightSlice) -> tuple[UprightSlice | None, ...]:
        reach = self._context_slices
        return tuple(
            image if step == 0 else _neighbour(slices, index, index + step) for step in range(-reach, reach + 1)
        )

    def _locate(self, prepared: Sequence[_Prepared]) -> list[_Canal | SliceFinding]:
        located = self.stages.locate([entry.image for entry in prepared])
        return [self._canal(entry, best) for entry, best in zip(prepared, located, strict=True)]

    def _canal(self, entry: _Prepared, best: Located | None) -> _Canal | SliceFinding:
        item, thresholds = entry.slice, self._manifest.thresholds
        if best is None:
            return CanalNotFound(item.ref, item.slab, best_score=None)
        score = _rounded(best.score)
        if best.score < thresholds.box_score:
            return CanalNotFound(item.ref, item.slab, best_score=score)
        box = _to_hundredths(entry.image.to_stored(best.box))
        patch = make_context_patch(entry.around, best.box.center, self._manifest.patch_input)
        if patch.inside < thresholds.patch_inside:
            return NotGradable(item.ref, item.slab, PATCH_LEAVES_IMAGE, box, score)
        return _Canal(item, box, score, patch)

    def _score(self, canals: Sequence[_Canal]) -> list[_Scored | SliceFinding]:
        scores = self.stages.content_scores([canal.patch for canal in canals])
        return [_Scored(canal, row) for canal, row in zip(canals, scores, strict=True)]

    def _call(self, scored: Sequence[_Scored]) -> list[_Rootlets | SliceFinding]:
        if not self._manifest.decision.monotone_switch:
            return [self._content(entry, max(entry.scores, key=entry.scores.__getitem__)) for entry in scored]
        heights = [_height_mm(entry.canal) for entry in scored]
        below = call_rootlets(heights, [entry.scores[Content.ROOTLET] for entry in scored])
        return [
            self._switched(entry, Content.ROOTLET if rootlets else Content.CORD)
            for entry, rootlets in zip(scored, below, strict=True)
        ]

    def _switched(self, entry: _Scored, content: Content) -> _Rootlets | SliceFinding:
        """The neighbours decide for a slice that is not sure of itself, but never against one that is."""
        if entry.scores[content] <= 1 - self._manifest.decision.contradiction:
            own = max(entry.scores, key=entry.scores.__getitem__)
            return _undecided(entry, own, CONTRADICTION)
        return _as_called(entry, content)

    def _content(self, entry: _Scored, content: Content) -> _Rootlets | SliceFinding:
        if entry.scores[content] < self._manifest.thresholds.content_score:
            return _undecided(entry, content, LOW_CONTENT_SCORE)
        return _as_called(entry, content)

    def _grade(self, rootlets: Sequence[_Rootlets]) -> list[SliceFinding]:
        scores = self.stages.grade_scores([entry.canal.patch for entry in rootlets])
        return [self._graded(entry, row) for entry, row in zip(rootlets, scores, strict=True)]

    def _graded(self, entry: _Rootlets, exact: dict[Grade, float]) -> SliceFinding:
        canal = entry.canal
        ref, slab = canal.slice.ref, canal.slice.slab
        likeliest = max(exact, key=exact.__getitem__)
        scores = {each: _rounded(score) for each, score in exact.items()}
        if exact[likeliest] < self._manifest.thresholds.grade_score:
            return NotGradable(
                ref, slab, LOW_GRADE_SCORE, canal.box, canal.score, Content.ROOTLET, entry.score, scores
            )  # fmt: skip
        grade = call_grade(exact, self._manifest.decision)
        return GradedSlice(ref, slab, canal.box, canal.score, entry.score, grade, scores)


def call_grade(scores: Mapping[Grade, float], rules: DecisionRules) -> Grade:
    """The likeliest grade, or the likeliest on its side of the operating point when there is one."""
    threshold = rules.severe_threshold
    if threshold is None:
        return max(scores, key=scores.__getitem__)
    side = _SEVERE if sum(scores[grade] for grade in _SEVERE) >= threshold else _MILD
    return max(side, key=scores.__getitem__)


def _neighbour(slices: Sequence[AxialSlice], index: int, other: int) -> UprightSlice | None:
    """The image beside a slice in its slab; None when there is none, or it could not be decoded."""
    if not 0 <= other < len(slices) or slices[other].slab != slices[index].slab:
        return None
    pixels = slices[other].pixels
    return None if pixels is None else make_upright(pixels, slices[other].plane)


def _height_mm(canal: _Canal) -> float:
    """Of the middle of the canal, towards the head: comparable between slabs of any angle."""
    return canal.slice.plane.to_patient(*canal.box.center)[2]


def _as_called(entry: _Scored, content: Content) -> _Rootlets | SliceFinding:
    canal, score = entry.canal, _rounded(entry.scores[content])
    if content is Content.CORD:
        return CordSlice(canal.slice.ref, canal.slice.slab, canal.box, canal.score, score)
    return _Rootlets(canal, score)


def _undecided(entry: _Scored, content: Content, reason: str) -> NotGradable:
    canal = entry.canal
    score = _rounded(entry.scores[content])
    return NotGradable(canal.slice.ref, canal.slice.slab, reason, canal.box, canal.score, content, score)


def _advance(
    entries: Sequence[_Before | SliceFinding],
    kind: type[_Before],
    stage: Callable[[Sequence[_Before]], Sequence[_After | SliceFinding]],
) -> list[_After | SliceFinding]:
    """Replace the entries of ``kind`` by what the stage makes of them, all in one batch; findings stay."""
    results = iter(stage([entry for entry in entries if isinstance(entry, kind)]))
    advanced: list[_After | SliceFinding] = []
    for entry in entries:
        if isinstance(entry, CanalNotFound | CordSlice | GradedSlice | NotGradable | Unreadable):
            advanced.append(entry)
        else:
            advanced.append(next(results))
    return advanced


def _rounded(score: float) -> float:
    """Six digits: what is written down stays the same when the last bits of a sum do not."""
    return round(score, 6)


def _to_hundredths(box: PixelBox) -> PixelBox:
    return PixelBox(round(box.x0, 2), round(box.y0, 2), round(box.x1, 2), round(box.y1, 2))
