"""Findings become documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from stenosis_node.domain import (
    AxialSeries,
    CordSlice,
    Document,
    DocumentKind,
    GradedSlice,
    NotGradable,
    SagittalSlice,
    StudyFindings,
)
from stenosis_node.report import capture, gsps, overview, sr, wording
from stenosis_node.report.identity import ReportContext, derived_uid
from stenosis_node.report.locator import Located, locate
from stenosis_node.report.outline import Outline, outline
from stenosis_node.report.source import read_sources


def compose(
    findings: StudyFindings,
    series: Sequence[AxialSeries],
    context: ReportContext,
    sagittal: SagittalSlice | str = wording.NO_SAGITTAL,
) -> tuple[Document, ...]:
    """The wanted documents of a result: the overview, one annotated image per slice with an outcome to show (or only
    of key images, or none), one presentation state per graded series, the SR last.

    sagittal  the slice on which the overview shows where the slabs lie, or why there is none (part of a sentence)

    The same arguments give the same bytes. Raises PermanentError when findings and images do not belong together or a
    received file is gone.
    """
    story = outline(findings, series, revision=context.revision, supersedes=[p.revision for p in context.predecessors])
    by_uid = {s.series_instance_uid: s for s in series}
    graded = [by_uid[found.series_instance_uid] for found in findings.series]
    study, sources = read_sources(piece for one in graded for piece in one.slices)
    located: Located | str = sagittal if isinstance(sagittal, str) else locate(story, graded, sagittal, sources)
    context = _naming_what_else_is_said(context, story, located)
    wanted, key_images = context.wanted, story.key_images
    documents = [
        capture.build(
            overview.draw_overview(story, sources, located),
            DocumentKind.SC_OVERVIEW,
            story.entries,
            sources,
            study,
            findings,
            context,
            number=1,
            comment=story.summary,
            key=True,
            located=located if isinstance(located, Located) else None,
        )
    ]
    for index, entry in enumerate(story.entries):
        if not (wanted.captures == "all" or (wanted.captures == "key" and index in key_images)):
            continue
        if entry.image.pixels is None or not isinstance(entry.finding, GradedSlice | CordSlice | NotGradable):
            continue
        picture, scale = capture.annotated(entry, sources[entry.image.ref], story.status)
        documents.append(
            capture.build(
                picture,
                DocumentKind.SC,
                [entry],
                sources,
                study,
                findings,
                context,
                number=index + 2,
                comment=f"{entry.label}. {wording.NOT_VERIFIED}",
                key=index in key_images,
                scale=scale,
            )
        )
    if wanted.presentation_states:
        documents += gsps.build(story, sources, study, findings, context)
    documents.append(sr.build(story, findings, graded, study, sources, context, located))
    return tuple(documents)


def _naming_what_else_is_said(context: ReportContext, story: Outline, located: Located | str) -> ReportContext:
    """The same UID must mean the same bytes, so what the content key leaves out goes into the UIDs.

    That a localizer arrives late makes no new result; yet a report made again from other decisions is another one.
    """
    ref = located.slice.ref if isinstance(located, Located) else located
    said = (*story.refusals, *story.warnings, story.other_series, ref)
    return replace(context, key=derived_uid(context.key, *said))
