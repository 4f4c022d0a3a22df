"""A chosen series in, one finding per slice out: locate the canal, tell rootlets from cord, grade.

The networks abstain where they should: a low score is a result (``NotGradable``, ``CanalNotFound``), never an error.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

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


@dataclass(slots=True)
class _Case:
    """One slice on its way through the stages; ``finding`` is set by the stage that settles it."""

    slice: AxialSlice
    image: UprightSlice | None = None
    located: Located | None = None
    box: PixelBox | None = None
    patch: Patch | None = None
    content_score: float | None = None
    finding: SliceFinding | None = None

    def abstain(self, reason: str, content: Content | None = None, scores: dict[Grade, float] | None = None) -> None:
        self.finding = NotGradable(
            self.slice.ref,
            self.slice.slab,
            reason,
            self.box,
            _rounded(self.located.score) if self.located else None,
            content,
            self.content_score,
            scores,
        )


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
        cases = [_Case(item) for item in slices]
        for stage in (self._prepare, self._locate, self._classify, self._grade):
            stage([case for case in cases if case.finding is None])
        return [case.finding for case in cases if case.finding is not None]

    def _prepare(self, cases: Sequence[_Case]) -> None:
        limits = self._manifest.locate_input
        for case in cases:
            item = case.slice
            if item.pixels is None:
                case.finding = Unreadable(item.ref, item.slab, item.unreadable or "pixel data could not be decoded")
                continue
            case.image = make_upright(item.pixels, item.geometry)
            if not has_contrast(case.image):
                case.abstain(NO_CONTRAST)
            elif not all(limits.min_field_mm <= side <= limits.max_field_mm for side in case.image.field_mm):
                case.abstain(FIELD_OF_VIEW)

    def _locate(self, cases: Sequence[_Case]) -> None:
        images = [case.image for case in cases if case.image is not None]
        thresholds, recipe = self._manifest.thresholds, self._manifest.patch_input
        for case, image, located in zip(cases, images, self.stages.locate(images), strict=True):
            if located is None or located.score < thresholds.box_score:
                best = None if located is None else _rounded(located.score)
                case.finding = CanalNotFound(case.slice.ref, case.slice.slab, best)
                continue
            case.located = located
            case.box = _to_hundredths(image.to_stored(located.box))
            case.patch = make_patch(image, located.box.center, recipe)
            if case.patch.inside < thresholds.patch_inside:
                case.abstain(PATCH_LEAVES_IMAGE)

    def _classify(self, cases: Sequence[_Case]) -> None:
        patches = [case.patch for case in cases if case.patch is not None]
        for case, scores in zip(cases, self.stages.content_scores(patches), strict=True):
            content = max(scores, key=scores.__getitem__)
            case.content_score = _rounded(scores[content])
            if scores[content] < self._manifest.thresholds.content_score:
                case.abstain(LOW_CONTENT_SCORE, content)
            elif content is Content.CORD and case.box is not None and case.located is not None:
                case.finding = CordSlice(
                    case.slice.ref, case.slice.slab, case.box, _rounded(case.located.score), case.content_score
                )

    def _grade(self, cases: Sequence[_Case]) -> None:
        patches = [case.patch for case in cases if case.patch is not None]
        for case, exact in zip(cases, self.stages.grade_scores(patches), strict=True):
            scores = {grade: _rounded(score) for grade, score in exact.items()}
            grade = max(exact, key=exact.__getitem__)
            if exact[grade] < self._manifest.thresholds.grade_score:
                case.abstain(LOW_GRADE_SCORE, Content.ROOTLET, scores)
            elif case.box is not None and case.located is not None and case.content_score is not None:
                case.finding = GradedSlice(
                    case.slice.ref,
                    case.slice.slab,
                    case.box,
                    _rounded(case.located.score),
                    case.content_score,
                    grade,
                    scores,
                )


def _rounded(score: float) -> float:
    """Six digits: what is written down stays the same when the last bits of a sum do not."""
    return round(score, 6)


def _to_hundredths(box: PixelBox) -> PixelBox:
    return PixelBox(round(box.x0, 2), round(box.y0, 2), round(box.x1, 2), round(box.y1, 2))
