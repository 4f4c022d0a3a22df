"""A chosen series in, one finding per slice out: locate the canal, tell rootlets from cord, grade.

The networks abstain where they should: a low score is a result (``NotGradable``, ``CanalNotFound``), never an error.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
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
from stenosis_node.grading.manifest import Manifest
from stenosis_node.grading.preprocess import Patch, UprightSlice, has_contrast, make_patch, make_upright
from stenosis_node.grading.stages import Located, Precision, Stages

log = logging.getLogger("stenosis_node.grading")

NO_CONTRAST: Final = "image without contrast"
FIELD_OF_VIEW: Final = "field of view outside the range of the networks"
PATCH_LEAVES_IMAGE: Final = "canal too close to the edge of the image"
LOW_CONTENT_SCORE: Final = "rootlet or cord undecided (low score)"
LOW_GRADE_SCORE: Final = "grade undecided (low score)"


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A slice that can be located."""

    slice: AxialSlice
    image: UprightSlice


@dataclass(frozen=True, slots=True)
class _Canal:
    """A slice whose canal was located."""

    slice: AxialSlice
    box: PixelBox
    """In the stored image."""
    score: float
    patch: Patch


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
        findings: list[SliceFinding] = []
        try:
            for start in range(0, len(series.slices), self._batch_size):
                findings += self._grade_batch(series.slices[start : start + self._batch_size])
                if progress is not None:
                    progress(len(findings), len(series.slices))
        except torch.cuda.OutOfMemoryError as error:
            raise TransientError("the GPU is out of memory; lower grading.batch_size or free the GPU") from error
        return SeriesFindings(series.series_instance_uid, tuple(findings))

    def _grade_batch(self, slices: Sequence[AxialSlice]) -> list[SliceFinding]:
        """Each stage settles some slices with a finding and hands the others on."""
        prepared = [self._prepare(item) for item in slices]
        canals = _advance(prepared, _Prepared, self._locate)
        rootlets = _advance(canals, _Canal, self._classify)
        return _advance(rootlets, _Rootlets, self._grade)

    def _prepare(self, item: AxialSlice) -> _Prepared | SliceFinding:
        if item.pixels is None:
            return Unreadable(item.ref, item.slab, item.unreadable or "pixel data could not be decoded")
        image = make_upright(item.pixels, item.plane)
        if not has_contrast(image):
            return NotGradable(item.ref, item.slab, NO_CONTRAST, box=None, box_score=None)
        limits = self._manifest.locate_input
        if not all(limits.min_field_mm <= side <= limits.max_field_mm for side in image.field_mm):
            return NotGradable(item.ref, item.slab, FIELD_OF_VIEW, box=None, box_score=None)
        return _Prepared(item, image)

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
        patch = make_patch(entry.image, best.box.center, self._manifest.patch_input)
        if patch.inside < thresholds.patch_inside:
            return NotGradable(item.ref, item.slab, PATCH_LEAVES_IMAGE, box, score)
        return _Canal(item, box, score, patch)

    def _classify(self, canals: Sequence[_Canal]) -> list[_Rootlets | SliceFinding]:
        scores = self.stages.content_scores([canal.patch for canal in canals])
        return [self._content(canal, row) for canal, row in zip(canals, scores, strict=True)]

    def _content(self, canal: _Canal, scores: dict[Content, float]) -> _Rootlets | SliceFinding:
        ref, slab = canal.slice.ref, canal.slice.slab
        content = max(scores, key=scores.__getitem__)
        score = _rounded(scores[content])
        if scores[content] < self._manifest.thresholds.content_score:
            return NotGradable(ref, slab, LOW_CONTENT_SCORE, canal.box, canal.score, content, score)
        if content is Content.CORD:
            return CordSlice(ref, slab, canal.box, canal.score, score)
        return _Rootlets(canal, score)

    def _grade(self, rootlets: Sequence[_Rootlets]) -> list[SliceFinding]:
        scores = self.stages.grade_scores([entry.canal.patch for entry in rootlets])
        return [self._graded(entry, row) for entry, row in zip(rootlets, scores, strict=True)]

    def _graded(self, entry: _Rootlets, exact: dict[Grade, float]) -> SliceFinding:
        canal = entry.canal
        ref, slab = canal.slice.ref, canal.slice.slab
        grade = max(exact, key=exact.__getitem__)
        scores = {each: _rounded(score) for each, score in exact.items()}
        if exact[grade] < self._manifest.thresholds.grade_score:
            return NotGradable(
                ref, slab, LOW_GRADE_SCORE, canal.box, canal.score, Content.ROOTLET, entry.score, scores
            )  # fmt: skip
        return GradedSlice(ref, slab, canal.box, canal.score, entry.score, grade, scores)


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
