"""The Structured Report: TID 1500 with 2D regions, one per study.

The same tree is legal in three SOP classes, because it uses SCOORD and no SCOORD3D. Comprehensive 3D SR is what
IHE AI Results names; the other two are alternatives for archives that do not take it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from typing import Final

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage

from stenosis_node.domain import (
    AxialSeries,
    Content,
    CordSlice,
    Document,
    DocumentKind,
    GradedSlice,
    NotGradable,
    PixelBox,
    SliceGeometry,
    SliceRef,
    StudyFindings,
    finding_box,
)
from stenosis_node.report import codes, encoding, identity, tree, wording
from stenosis_node.report.codes import Code
from stenosis_node.report.identity import ReportContext, tracking_uid
from stenosis_node.report.locator import Located
from stenosis_node.report.objects import TRANSFER_SYNTAX, is_preliminary, new_object, to_bytes
from stenosis_node.report.outline import Entry, Outline, Slab, reason_words
from stenosis_node.report.source import SourceImage, StudyHeader
from stenosis_node.report.tree import ACQUISITION, CONTAINS, CONTEXT, INFERRED, MODIFIER, PROPERTY, Encoded

CLASSES = (str(Comprehensive3DSRStorage), str(ComprehensiveSRStorage), str(EnhancedSRStorage))
"""Best first; every one after the first is an alternative."""


def build(
    outline: Outline,
    findings: StudyFindings,
    series: Sequence[AxialSeries],
    study: StudyHeader,
    images: dict[SliceRef, SourceImage],
    context: ReportContext,
    located: Located | str,
) -> Document:
    """The report, with its alternatives: copies that differ in class, UID and series alone."""
    series_uid = context.uid("series", "sr", 0)
    number = context.settings.series_number
    ds = new_object(study, findings, context, kind=wording.REPORT_SERIES, series=series_uid, number=number)
    _header(ds, outline, findings, context)
    shown = located.slice.ref if isinstance(located, Located) else None
    ds.CurrentRequestedProcedureEvidenceSequence = Items([_evidence(findings, shown)])
    ds.update(_content(outline, findings, series, images, context, located))
    encoding.prepare(ds)
    first = _document(context, 0, to_bytes(ds, CLASSES[0], context.uid("sr", 0)))
    others = []
    for position, sop_class in enumerate(CLASSES[1:], start=1):
        copy = dcmread(BytesIO(first.content))  # the encoded tree stays as it is: nobody looks into it
        copy.SeriesInstanceUID = context.uid("series", "sr", position)
        others.append(_document(context, position, to_bytes(copy, sop_class, context.uid("sr", position))))
    return replace(first, alternatives=tuple(others))


def _document(context: ReportContext, position: int, content: bytes) -> Document:
    return Document(
        kind=DocumentKind.SR,
        sop_class_uid=CLASSES[position],
        sop_instance_uid=context.uid("sr", position),
        series_instance_uid=context.uid("series", "sr", position),
        transfer_syntax_uid=TRANSFER_SYNTAX,
        content=content,
    )


def _header(ds: Dataset, outline: Outline, findings: StudyFindings, context: ReportContext) -> None:
    ds.Modality = "SR"
    ds.InstanceNumber = 1
    ds.ReferencedPerformedProcedureStepSequence = Items()
    ds.PerformedProcedureCodeSequence = Items()
    ds.CompletionFlag = "COMPLETE" if outline.complete else "PARTIAL"
    if not outline.complete:
        ds.CompletionFlagDescription = (
            "A series could not be graded" if outline.refusals else "At least one image could not be read"
        )
    ds.VerificationFlag = "UNVERIFIED"
    ds.PreliminaryFlag = "PRELIMINARY" if is_preliminary(findings.bundle.status) else "FINAL"
    if context.predecessors:
        ds.PredecessorDocumentsSequence = Items([_predecessors(findings, context)])
    scheme = Dataset()
    scheme.CodingSchemeDesignator = codes.PRIVATE_SCHEME
    scheme.CodingSchemeUID = identity.derived_uid("coding-scheme", codes.PRIVATE_SCHEME)
    scheme.CodingSchemeName = codes.PRIVATE_SCHEME_NAME
    scheme.CodingSchemeResponsibleOrganization = "stenosis-node project"
    ds.CodingSchemeIdentificationSequence = Items([scheme])


def _evidence(findings: StudyFindings, sagittal: SliceRef | None) -> Dataset:
    """Every instance the report refers to, by series. Frames share one entry."""
    refs = [finding.ref for found in findings.series for finding in found.slices]
    refs += [sagittal] if sagittal is not None else []
    by_series: dict[str, dict[str, Dataset]] = {}
    for ref in refs:
        whole = replace(ref, frame_number=None)
        by_series.setdefault(ref.series_instance_uid, {})[ref.sop_instance_uid] = tree.reference(whole)
    study = Dataset()
    study.StudyInstanceUID = findings.study_instance_uid
    study.ReferencedSeriesSequence = Items()
    for uid, instances in by_series.items():
        series = Dataset()
        series.SeriesInstanceUID = uid
        series.ReferencedSOPSequence = Items(instances.values())
        study.ReferencedSeriesSequence.append(series)
    return study


def _predecessors(findings: StudyFindings, context: ReportContext) -> Dataset:
    study = Dataset()
    study.StudyInstanceUID = findings.study_instance_uid
    study.ReferencedSeriesSequence = Items()
    for earlier in context.predecessors:
        series = Dataset()
        series.SeriesInstanceUID = earlier.series_instance_uid
        ref = SliceRef(earlier.series_instance_uid, earlier.sop_class_uid, earlier.sop_instance_uid, None)
        series.ReferencedSOPSequence = Items([tree.reference(ref)])
        study.ReferencedSeriesSequence.append(series)
    return study


# --------------------------------------------------------------------------- content


def _content(
    outline: Outline,
    findings: StudyFindings,
    series: Sequence[AxialSeries],
    images: dict[SliceRef, SourceImage],
    context: ReportContext,
    located: Located | str,
) -> Dataset:
    """The root container. The summary stands before everything else a text reader prints."""
    algorithm = (
        tree.text(MODIFIER, codes.ALGORITHM_NAME, wording.ALGORITHM),
        tree.text(MODIFIER, codes.ALGORITHM_VERSION, identity.algorithm_version(findings)),
    )
    groups = [_slice_group(e, algorithm) for e in outline.entries if finding_box(e.finding) is not None]
    groups += [_slab_group(s, algorithm) for s in outline.slabs if s.worst is not None]
    settings = context.settings
    children = [
        tree.code(MODIFIER, codes.LANGUAGE, codes.ENGLISH),
        tree.code(CONTEXT, codes.OBSERVER_TYPE, codes.DEVICE),
        tree.uidref(CONTEXT, codes.DEVICE_UID, context.device_uid),
        tree.text(CONTEXT, codes.DEVICE_NAME, settings.station_name),
        tree.text(CONTEXT, codes.DEVICE_MANUFACTURER, settings.manufacturer),
        tree.text(CONTEXT, codes.DEVICE_MODEL, wording.ALGORITHM),
        tree.text(CONTEXT, codes.DEVICE_SERIAL, settings.device_serial_number),
        tree.code(MODIFIER, codes.PROCEDURE_REPORTED, codes.MRI),
        tree.text(CONTAINS, codes.SUMMARY, outline.summary),
        _library(series, images, located),
    ]
    if groups:  # TID 1500 asks for measurements or evaluations; an empty container would be neither
        children.append(tree.container(codes.MEASUREMENTS, groups))
    children.append(_evaluations(outline, findings, located))
    return tree.root(codes.REPORT, children, "1500")


def _library(series: Sequence[AxialSeries], images: dict[SliceRef, SourceImage], located: Located | str) -> Encoded:
    """TID 1600: one group per source series; descriptors all its images share stand once, at the group.

    The sagittal image of the overview is a group of its own: no result stands on it.
    """
    library = [
        [
            (piece.ref, _descriptors(piece.geometry, images[piece.ref]) if piece.ref in images else [MR_DESCRIPTOR])
            for piece in source.slices
        ]
        for source in series
    ]
    if isinstance(located, Located):
        library.append([(located.slice.ref, _descriptors(located.slice.geometry, located.source))])
    groups = []
    for described in library:
        shared = set(described[0][1]).intersection(*(d for _, d in described))
        common = [_descriptor(d) for d in described[0][1] if d in shared]
        entries = [
            tree.image(CONTAINS, codes.SOURCE, ref, [_descriptor(d) for d in own if d not in shared])
            for ref, own in described
        ]
        groups.append(tree.container(codes.IMAGE_LIBRARY_GROUP, common + entries))
    return tree.container(codes.IMAGE_LIBRARY, groups)


Descriptor = tuple[Code, Code | str | float, Code | None]
"""Concept, value (code, UID or number), unit of a number."""


MR_DESCRIPTOR: Final[Descriptor] = (codes.MODALITY, codes.MR, None)


def _descriptors(geometry: SliceGeometry | None, image: SourceImage) -> list[Descriptor]:
    """What is known of an image; of one whose header breaks off that is its modality alone."""
    found = [MR_DESCRIPTOR]
    if geometry is None:
        return found
    if image.frame_of_reference_uid:
        found.append((codes.FRAME_OF_REFERENCE, image.frame_of_reference_uid, None))
    found += [
        (codes.ROWS, float(image.rows), codes.PIXELS),
        (codes.COLUMNS, float(image.columns), codes.PIXELS),
        (codes.HORIZONTAL_SPACING, geometry.column_spacing_mm, codes.MILLIMETRE),
        (codes.VERTICAL_SPACING, geometry.row_spacing_mm, codes.MILLIMETRE),
    ]
    if image.spacing_between_mm is not None:
        found.append((codes.SPACING_BETWEEN_SLICES, image.spacing_between_mm, codes.MILLIMETRE))
    if geometry.thickness_mm is not None:
        found.append((codes.SLICE_THICKNESS, geometry.thickness_mm, codes.MILLIMETRE))
    found += [(n, v, codes.MILLIMETRE) for n, v in zip(codes.POSITION, geometry.position, strict=True)]
    cosines = geometry.row_direction + geometry.column_direction
    found += [(n, v, codes.UNIT_VECTOR) for n, v in zip(codes.ORIENTATION, cosines, strict=True)]
    return found


def _descriptor(descriptor: Descriptor) -> Encoded:
    name, value, unit = descriptor
    if isinstance(value, Code):
        return tree.code(ACQUISITION, name, value)
    if isinstance(value, str):
        return tree.uidref(ACQUISITION, name, value)
    return tree.num(ACQUISITION, name, value, unit or codes.PIXELS)


def _slice_group(entry: Entry, algorithm: tuple[Encoded, ...]) -> Encoded:
    """TID 1410: one slice with a canal box. The score of the predicted grade comes first: viewers show few lines."""
    finding = entry.finding
    evaluations = [tree.code(CONTAINS, codes.OUTCOME, codes.OUTCOME_VALUE[finding.outcome])]
    scores: list[tuple[Code, float]] = []
    box: PixelBox | None = None
    match finding:
        case GradedSlice():
            box = finding.box
            others = [g for g in finding.scores if g is not finding.grade]
            scores = [(codes.GRADE_SCORE[g], finding.scores[g]) for g in (finding.grade, *others)]
            scores += [(codes.CONTENT_SCORE, finding.content_score), (codes.CANAL_SCORE, finding.box_score)]
            evaluations.append(tree.code(CONTAINS, codes.SCHIZAS, codes.SCHIZAS_VALUE[finding.grade]))
            evaluations.append(tree.code(CONTAINS, codes.CONTENT, codes.CONTENT_VALUE[Content.ROOTLET]))
        case CordSlice():
            box = finding.box
            scores = [(codes.CONTENT_SCORE, finding.content_score), (codes.CANAL_SCORE, finding.box_score)]
            evaluations.append(tree.code(CONTAINS, codes.CONTENT, codes.CONTENT_VALUE[Content.CORD]))
        case NotGradable():  # scores of grades would read as a grade: they stay out
            box = finding.box
            scores = [(codes.CANAL_SCORE, finding.box_score)] if finding.box_score is not None else []
            if finding.content is not None:
                evaluations.append(tree.code(CONTAINS, codes.CONTENT, codes.CONTENT_VALUE[finding.content]))
    if entry.isolated:
        evaluations.append(tree.code(CONTAINS, codes.AGREEMENT, codes.ISOLATED))
    reason = reason_words(finding)
    if reason is not None:
        evaluations.append(tree.text(CONTAINS, codes.COMMENT, reason))
    return _group(entry, entry.label, "slice", algorithm, scores, box, evaluations)


def _slab_group(slab: Slab, algorithm: tuple[Encoded, ...]) -> Encoded:
    """TID 1410 on the worst slice's box: a group without a region makes OHIF 3.12 fail."""
    worst = slab.worst
    if worst is None or not isinstance(worst.finding, GradedSlice):
        raise ValueError("a slab group needs a graded slice")
    finding = worst.finding
    name = f"{slab.name[0].upper()}{slab.name[1:]}"
    label = f"{name}: worst Schizas {finding.grade} (image {worst.number})"
    scores = [(codes.GRADE_SCORE[finding.grade], finding.scores[finding.grade])]
    evaluations = [tree.code(CONTAINS, codes.SCHIZAS_WORST, codes.SCHIZAS_VALUE[finding.grade])]
    if worst.isolated:
        evaluations.append(tree.code(CONTAINS, codes.AGREEMENT, codes.ISOLATED))
    what = f"slab {slab.number}"
    return _group(slab.entries[0], label, what, algorithm, scores, finding.box, evaluations, on=worst)


def _group(
    entry: Entry,
    label: str,
    what: str,
    algorithm: tuple[Encoded, ...],
    scores: Sequence[tuple[Code, float]],
    box: PixelBox | None,
    evaluations: Sequence[Encoded],
    on: Entry | None = None,
) -> Encoded:
    if box is None:
        raise ValueError("a measurement group needs a region")
    source = tree.image("SELECTED FROM", codes.SOURCE, (on or entry).image.ref)
    children = [
        tree.text(CONTEXT, codes.TRACKING_ID, label),
        tree.uidref(CONTEXT, codes.TRACKING_UID, tracking_uid(entry.image.ref, what)),
        tree.code(CONTAINS, codes.FINDING, codes.SPINAL_CANAL),
        *algorithm,
        tree.code(MODIFIER, codes.FINDING_SITE, codes.LUMBAR_SPINE),
        tree.region(codes.IMAGE_REGION, box, source),
        *(tree.num(CONTAINS, name, round(100 * score, 2), codes.PERCENT) for name, score in scores),
        *evaluations,
    ]
    return tree.container(codes.GROUP, children, template="1410")


def _evaluations(outline: Outline, findings: StudyFindings, located: Located | str) -> Encoded:
    """TID 1500 rows 12 to 14: the overall result, how it came about, each slab, each image without a region and why."""
    grade = outline.worst.finding.grade if outline.worst and isinstance(outline.worst.finding, GradedSlice) else None
    overall = codes.SCHIZAS_VALUE[grade] if grade is not None else codes.NOT_GRADED
    children = [
        tree.code(CONTAINS, codes.SCHIZAS_OVERALL, overall),
        tree.text(CONTAINS, codes.RULE, wording.rule_sentences(findings.bundle)),
    ]
    agreement = wording.agreement_sentence(findings.bundle)
    children += [tree.text(CONTAINS, codes.READERS, agreement)] if agreement else []
    children += [tree.text(CONTAINS, codes.WARNING, text) for text in outline.warnings]
    children += [tree.text(CONTAINS, codes.SLAB_RESULT, slab.sentence) for slab in outline.slabs]
    for slab in outline.slabs:
        if slab.refusal:
            children.append(_outcome(codes.SERIES_NOT_GRADED, slab.refusal, slab.entries))
            continue
        for entry in slab.entries:
            if finding_box(entry.finding) is None:
                value = codes.OUTCOME_VALUE[entry.finding.outcome]
                children.append(_outcome(value, f"{entry.label}: {reason_words(entry.finding)}", [entry]))
    if outline.other_series:
        children.append(tree.text(CONTAINS, codes.OTHER_SERIES, outline.other_series))
    shown = located.source.name if isinstance(located, Located) else None
    words = wording.slab_positions(shown, located if isinstance(located, str) else "")
    children.append(tree.text(CONTAINS, codes.SLAB_POSITIONS, words))
    return tree.container(codes.QUALITATIVE, children)


def _outcome(value: Code, words: str, entries: Sequence[Entry]) -> Encoded:
    """The outcome of images without a region."""
    sources = [tree.image(INFERRED, codes.SOURCE, entry.image.ref) for entry in entries]
    return tree.code(CONTAINS, codes.OUTCOME, value, [tree.text(PROPERTY, codes.COMMENT, words), *sources])
