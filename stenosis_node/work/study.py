"""One study from files to documents, without database and without sockets: the middle of the grading step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from stenosis_node import __version__, report, series
from stenosis_node.config import Config, SeriesRule
from stenosis_node.domain import (
    AxialSeries,
    BundleIdentity,
    Decision,
    Document,
    RejectionReason,
    SagittalSlice,
    SeriesDecision,
    SeriesFindings,
    StudyFindings,
    Vector,
    finding_box,
)
from stenosis_node.errors import StudyRejected


class Grader(Protocol):
    """What the worker needs of :class:`grading.pipeline.Pipeline`."""

    @property
    def identity(self) -> BundleIdentity: ...

    def grade(self, series: AxialSeries, *, progress: Callable[[int, int], None] | None = None) -> SeriesFindings: ...


@dataclass(frozen=True, slots=True)
class Selection:
    """The series of one study, each with its decision."""

    study_instance_uid: str
    decisions: tuple[SeriesDecision, ...]
    headers: tuple[series.SeriesHeaders, ...]
    """In the order of ``decisions``."""

    def decided(self, decision: Decision) -> tuple[tuple[series.SeriesHeaders, SeriesDecision], ...]:
        """The series of which this was decided."""
        pairs = zip(self.headers, self.decisions, strict=True)
        return tuple((headers, made) for headers, made in pairs if made.decision is decision)

    @property
    def reported(self) -> tuple[tuple[series.SeriesHeaders, SeriesDecision], ...]:
        """The series a report is about: the graded ones, then the axial T2 ones that cannot be graded."""
        return self.decided(Decision.GRADED) + self.decided(Decision.NOT_GRADABLE)

    @property
    def locator(self) -> series.SeriesHeaders | None:
        """The sagittal series that orients the reader."""
        return next((headers for headers, _ in self.decided(Decision.LOCATOR)), None)


@dataclass(frozen=True, slots=True)
class GradedStudy:
    """What came of one study on disk. Without a candidate there are decisions only."""

    study_instance_uid: str
    decisions: tuple[SeriesDecision, ...]
    series: tuple[AxialSeries, ...] = ()
    findings: StudyFindings | None = None
    documents: tuple[Document, ...] = ()


def grade_files(
    paths: Iterable[Path],
    pipeline: Grader,
    config: Config,
    *,
    created: datetime,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[GradedStudy, ...]:
    """Grade the studies these files belong to, ordered by Study Instance UID. No database, no sockets.

    created   all times in the documents come from it
    progress  gets (slices done, slices in all) for each series
    raises    PermanentError when our own documents do not pass the check
    """
    return tuple(
        _grade_study(selection, pipeline, config, created=created, progress=progress)
        for selection in select(series.scan(paths), config.series.rules)
    )


def _grade_study(
    selection: Selection,
    pipeline: Grader,
    config: Config,
    *,
    created: datetime,
    progress: Callable[[int, int], None] | None,
) -> GradedStudy:
    if not selection.reported:
        return GradedStudy(selection.study_instance_uid, selection.decisions)
    images = tuple(series.read(headers, decision=decision) for headers, decision in selection.reported)
    findings = find(selection, images, pipeline, progress)
    sagittal = sagittal_of(selection, findings)
    context = report.ReportContext(
        key=report.content_key(findings, config.report),
        created=created,
        settings=config.report,
        ae_title=config.receive.ae_title,
    )
    documents = report.compose(findings, images, context, sagittal)
    report.check(documents, findings, images, sagittal)
    return GradedStudy(selection.study_instance_uid, selection.decisions, images, findings, documents)


def select(scan: series.Scan, rules: Sequence[SeriesRule], *, locator: str = "") -> tuple[Selection, ...]:
    """Choose per study. One selection per study that was found, ordered by Study Instance UID.

    locator  Series Instance UID of the locator so far: it stays
    """
    selections = []
    for study in sorted({headers.study_instance_uid for headers in scan.series}):
        headers = tuple(h for h in scan.series if h.study_instance_uid == study)
        selections.append(Selection(study, series.choose(headers, rules, locator=locator), headers))
    return tuple(selections)


def find(
    selection: Selection,
    images: Sequence[AxialSeries],
    pipeline: Grader,
    progress: Callable[[int, int], None] | None = None,
) -> StudyFindings:
    """Grade the chosen series of a study, one after the other, and settle which sagittal slice shows where they lie."""
    found = tuple(pipeline.grade(image, progress=progress) for image in images)
    sagittal: SagittalSlice | str = series.NO_LOCATOR
    if selection.locator is not None:
        sagittal = series.find_sagittal(selection.locator, images, _canal(images, found))
    return StudyFindings(
        selection.study_instance_uid,
        found,
        pipeline.identity,
        __version__,
        selection.decisions,
        sagittal.ref if isinstance(sagittal, SagittalSlice) else None,
    )


def _canal(images: Sequence[AxialSeries], found: Sequence[SeriesFindings]) -> list[Vector]:
    """Where the canal was found, in patient coordinates."""
    pieces = (piece for image in images for piece in image.slices)
    findings = (finding for one in found for finding in one.slices)
    boxes = ((piece.geometry, finding_box(finding)) for piece, finding in zip(pieces, findings, strict=True))
    return [geometry.to_patient(*box.center) for geometry, box in boxes if geometry is not None and box is not None]


def sagittal_of(selection: Selection, findings: StudyFindings) -> SagittalSlice | str:
    """The sagittal slice that was settled on with the findings, or why there is none; nothing newer, for the same
    findings must give the same documents.

    raises  PermanentError when the slice cannot be had any more
    """
    ref = findings.locator
    if ref is None:
        return series.NO_LOCATOR
    locator = next((h for h in selection.headers if h.series_instance_uid == ref.series_instance_uid), None)
    return series.read_sagittal(locator, ref)


def findings_key(images: Sequence[AxialSeries], bundle: BundleIdentity, refused: Collection[str] = ()) -> str:
    """Hex SHA-256 under which findings are stored: study, slices (in any order), weights and software.

    refused  Series Instance UIDs of the series among ``images`` that are not gradable
    """
    slices = sorted((s.ref.sop_instance_uid, s.ref.frame_number or 0) for image in images for s in image.slices)
    lines = [images[0].study_instance_uid, *(f"{uid} {frame}" for uid, frame in slices), bundle.digest, __version__]
    lines += [f"not gradable {uid}" for uid in sorted(refused)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def no_candidate(decisions: Sequence[SeriesDecision]) -> StudyRejected:
    """Why a study without a series to grade ends REJECTED, in words an administrator can check."""
    reasons = sorted({decision.reason.value for decision in decisions})
    found = f"{len(decisions)} series: {', '.join(reasons)}" if decisions else "no readable series"
    return StudyRejected(RejectionReason.NO_CANDIDATE, f"no axial T2 series of the lumbar spine among {found}")
