"""Findings become documents."""

from __future__ import annotations

from collections.abc import Sequence

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
from stenosis_node.report.identity import ReportContext
from stenosis_node.report.outline import outline
from stenosis_node.report.source import read_sources


def compose(
    findings: StudyFindings,
    series: Sequence[AxialSeries],
    context: ReportContext,
    sagittal: SagittalSlice | str = wording.NO_SAGITTAL,
) -> tuple[Document, ...]:
    """All documents of a result: the overview, one annotated image per slice with an outcome to show,
    one presentation state per graded series, the SR last.

    sagittal  the slice on which the overview shows where the slabs lie, or why there is none (part of a sentence)

    The same arguments give the same bytes. Raises PermanentError when findings and images do not belong together or a
    received file is gone.
    """
    story = outline(findings, series)
    by_uid = {s.series_instance_uid: s for s in series}
    graded = [by_uid[found.series_instance_uid] for found in findings.series]
    study, sources = read_sources(piece for one in graded for piece in one.slices)
    key_images = story.key_images
    documents = [
        capture.build(
            overview.draw_overview(story, sources),
            DocumentKind.SC_OVERVIEW,
            story.entries,
            sources,
            study,
            findings,
            context,
            number=1,
            comment=story.summary,
            key=True,
        )
    ]
    for index, entry in enumerate(story.entries):
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
    documents += gsps.build(story, sources, study, findings, context)
    documents.append(sr.build(story, findings, graded, study, sources, context))
    return tuple(documents)
