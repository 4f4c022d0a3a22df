"""What the documents say, for every kind of study."""

from __future__ import annotations

import re
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from stenosis_node.config import Report
from stenosis_node.domain import (
    BundleStatus,
    Decision,
    Document,
    DocumentKind,
    GradedSlice,
    SeriesDecision,
    SeriesFindings,
    SeriesReason,
)
from stenosis_node.errors import PermanentError
from stenosis_node.report import Predecessor, check, codes, compose, content_key, readback, wording

from . import mr_study
from .conftest import Result


def opened(document: Document) -> Dataset:
    return pydicom.dcmread(BytesIO(document.content))


def texts(document: Document) -> list[str]:
    return [item.text for item in readback.tree(opened(document)).walk() if item.kind == "TEXT"]


def words_of(document: Document) -> list[str]:
    """Texts of a report, the comment of a capture."""
    ds = opened(document)
    return texts(document) if document.kind is DocumentKind.SR else [str(ds.get("ImageComments", ""))]


def summary(documents: tuple[Document, ...]) -> str:
    found = readback.tree(opened(documents[-1])).first(codes.SUMMARY)
    assert found is not None
    return found.text


def test_overview_first_images_next_report_last(good: Result) -> None:
    kinds = [d.kind for d in good.documents]
    assert kinds == [DocumentKind.SC_OVERVIEW] + [DocumentKind.SC] * 9 + [DocumentKind.GSPS, DocumentKind.SR]
    numbers = [int(opened(d).InstanceNumber) for d in good.documents[:-2]]
    assert numbers == sorted(numbers)
    report = good.documents[-1]
    assert [a.sop_class_uid for a in report.alternatives] == [
        "1.2.840.10008.5.1.4.1.1.88.33",
        "1.2.840.10008.5.1.4.1.1.88.22",
    ]
    series = {d.series_instance_uid for d in (*good.documents, *report.alternatives)}
    assert len(series) == 5  # captures, presentation states, each SR: viewers load one SR per series


def test_key_images_are_the_worst_of_each_slab_and_what_is_not_gradable(good: Result) -> None:
    keys = [opened(d).ImageComments.split(". ")[0] for d in good.documents if d.key and d.kind is DocumentKind.SC]
    assert keys == [
        "Image 3 of 11, slab 1: Schizas A",
        "Image 5 of 11, slab 2: Schizas C (isolated slice)",
        "Image 7 of 11, slab 2: not gradable",
        "Image 9 of 11, slab 3: Schizas D",
    ]


def test_the_same_input_gives_the_same_bytes_and_other_input_other_uids(good: Result) -> None:
    context = mr_study.context(good.findings)
    again = compose(good.findings, [good.series], context)
    assert [d.content for d in again] == [d.content for d in good.documents]
    assert again == good.documents
    later = compose(good.findings, [good.series], replace(context, created=context.created.replace(hour=11)))
    assert not {d.sop_instance_uid for d in later} & {d.sop_instance_uid for d in again}


def test_times_come_from_the_context_alone(good: Result) -> None:
    for document in good.documents:
        ds = opened(document)
        made = ds.get("ContentDate", ds.get("PresentationCreationDate"))
        assert (made, ds.InstanceCreationTime, ds.SeriesTime) == ("20260105", "103000", "103000")
        assert ds.ContributingEquipmentSequence[0].ContributionDateTime == "20260105103000+0000"


def test_received_files_are_not_touched(tmp_path: Path) -> None:
    series = mr_study.classic(tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    found = mr_study.findings(series, "AABC?-c")
    check(compose(found, [series], mr_study.context(found)), found, [series])
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("letters", "words"),
    [
        ("ccccccc", "No Schizas grade could be given, this does not exclude stenosis: 7 with spinal cord."),
        ("-------", "No Schizas grade could be given, this does not exclude stenosis: 7 without a located canal."),
        ("xxxxxxx", "No Schizas grade could be given, this does not exclude stenosis: 7 not readable."),
        ("cc-x???", "2 with spinal cord, 1 without a located canal, 3 not gradable, 1 not readable."),
    ],
)
def test_a_study_without_a_grade_says_so_and_never_reads_as_no_stenosis(
    tmp_path: Path, letters: str, words: str
) -> None:
    series = mr_study.blinded(mr_study.classic(tmp_path), letters)
    found = mr_study.findings(series, letters)
    documents = compose(found, [series], mr_study.context(found))
    check(documents, found, [series])
    assert words in summary(documents)
    root = readback.tree(opened(documents[-1]))
    overall = next(i for q in root.named(codes.QUALITATIVE) for i in q.named(codes.SCHIZAS_OVERALL))
    assert overall.code is not None
    assert overall.code[2] == "Not graded, which does not exclude stenosis"
    assert documents[0].kind is DocumentKind.SC_OVERVIEW
    if set(letters) <= {"-", "x"}:
        assert root.first(codes.MEASUREMENTS) is None  # TID 1500 knows no empty container


def test_a_slice_that_could_not_be_read_makes_the_report_partial(good: Result, tmp_path: Path) -> None:
    assert opened(good.documents[-1]).CompletionFlag == "PARTIAL"
    series = mr_study.classic(tmp_path)
    found = mr_study.findings(series, "AABC?-c")
    assert opened(compose(found, [series], mr_study.context(found))[-1]).CompletionFlag == "COMPLETE"


def test_the_words_of_a_decoder_stay_out_of_the_documents(good: Result) -> None:
    assert all("private" not in text for text in texts(good.documents[-1]))


def test_a_demonstration_bundle_is_named_everywhere(good: Result) -> None:
    for document in good.documents:
        assert opened(document).SeriesDescription.startswith("DEMO NOT CLINICAL")
    assert opened(good.documents[-1]).PreliminaryFlag == "PRELIMINARY"
    assert summary(good.documents).startswith("Demonstration weights - not for clinical use. AI result, not verified.")


def test_no_figure_stands_beside_a_result_but_the_scores_of_its_networks(good: Result) -> None:
    """Above all none of a publication: what others measured says nothing about these weights."""
    graded = [f for f in good.findings.series[0].slices if isinstance(f, GradedSlice)]
    said = [text for document in good.documents for text in words_of(document)]
    figures = {figure for text in said for figure in re.findall(r"[<>]?[\d.]+ ?%", text)}
    assert figures == {wording.shares(f.scores)[f.grade] for f in graded}
    numbers = {i.name for i in readback.tree(opened(good.documents[-1])).walk() if i.kind == "NUM" and i.unit == "%"}
    assert {name[1] for name in numbers} == {codes.PRIVATE_SCHEME}
    assert {name[0][:2] for name in numbers} == {"S-"}


@pytest.mark.parametrize("status", [BundleStatus.RESEARCH, BundleStatus.VALIDATED])
def test_other_bundles_carry_no_demonstration_mark(tmp_path: Path, status: BundleStatus) -> None:
    series = mr_study.classic(tmp_path, (3,))
    found = mr_study.findings(series, "ABC", status)
    documents = compose(found, [series], mr_study.context(found))
    check(documents, found, [series])
    assert opened(documents[-1]).PreliminaryFlag == "FINAL"
    assert "DEMO" not in opened(documents[-1]).SeriesDescription
    assert ("research weights" in summary(documents).lower()) == (status is BundleStatus.RESEARCH)


def test_a_revision_names_what_it_supersedes(tmp_path: Path) -> None:
    series = mr_study.classic(tmp_path, (3,))
    found = mr_study.findings(series, "ABC")
    first = compose(found, [series], mr_study.context(found))[-1]
    earlier = Predecessor(
        revision=1,
        sop_class_uid=first.sop_class_uid,
        sop_instance_uid=first.sop_instance_uid,
        series_instance_uid=first.series_instance_uid,
    )
    documents = compose(found, [series], mr_study.context(found, 12, (earlier,)))
    check(documents, found, [series])
    ds = opened(documents[-1])
    assert ds.SeriesDescription == "DEMO NOT CLINICAL AI report REVISION 12, supersedes revision 1"
    assert ". AI result, not verified. Revision 12, supersedes revision 1. Worst Schizas" in summary(documents)
    named = ds.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert named.ReferencedSOPInstanceUID == first.sop_instance_uid
    group = readback.tree(ds).first(codes.MEASUREMENTS).children[0].first(codes.TRACKING_UID)  # type: ignore[union-attr]
    before = readback.tree(opened(first)).first(codes.MEASUREMENTS).children[0].first(codes.TRACKING_UID)  # type: ignore[union-attr]
    assert group is not None
    assert before is not None
    assert group.text == before.text  # the same finding, followed over revisions


def test_enhanced_frames_are_referred_to_one_by_one(tmp_path: Path) -> None:
    series = mr_study.enhanced(tmp_path)
    found = mr_study.findings(series, "cAB-ACA")
    documents = compose(found, [series], mr_study.context(found))
    check(documents, found, [series])
    root = readback.tree(opened(documents[-1]))
    frames = {ref[2] for item in root.walk() for ref in item.refs}
    assert frames == {1, 2, 3, 4, 5, 6, 7}
    listed = opened(documents[-1]).CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert len(listed.ReferencedSOPSequence) == 1
    assert "ReferencedFrameNumber" not in listed.ReferencedSOPSequence[0]
    capture = opened(documents[2])
    assert capture.SourceImageSequence[0].ReferencedFrameNumber == 2
    spacing = [float(v) for v in capture.PixelSpacing]
    assert spacing[0] == pytest.approx(spacing[1], rel=0.01)  # anisotropic frames are drawn in true proportions


def test_two_series_make_one_report(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = mr_study.classic(tmp_path / "a", (3,), tag="one")
    two = replace(
        mr_study.classic(tmp_path / "b", (3,), tag="two"), study_instance_uid=one.study_instance_uid, series_number=7
    )
    found = mr_study.findings([one, two], ["ABA", "ADA"])
    documents = compose(found, [two, one], mr_study.context(found))
    check(documents, found, [two, one])
    assert "Worst Schizas grade D on series 7, image 2 of 3, slab 1" in summary(documents)
    assert sum(d.kind is DocumentKind.SR for d in documents) == 1


def test_uids_of_the_full_length(tmp_path: Path) -> None:
    series = mr_study.classic(tmp_path, (3,), make_uid=mr_study.long_uid)
    assert len(series.slices[0].ref.sop_instance_uid) == 64
    found = mr_study.findings(series, "ABC")
    documents = compose(found, [series], mr_study.context(found))
    check(documents, found, [series])
    assert all(len(d.sop_instance_uid) <= 64 for d in documents)


def test_private_tags_stay_behind(tmp_path: Path) -> None:
    def edit(ds: Dataset) -> None:
        ds.private_block(0x0029, "SYNTH", create=True).add_new(0x10, "LO", "secret")

    series = mr_study.classic(tmp_path, (3,), edit=edit)
    found = mr_study.findings(series, "ABC")
    for document in compose(found, [series], mr_study.context(found)):
        assert b"secret" not in document.content


def test_lossy_history_is_inherited(tmp_path: Path) -> None:
    def edit(ds: Dataset) -> None:
        ds.LossyImageCompression, ds.LossyImageCompressionRatio = "01", ["12.5", "2"]
        ds.LossyImageCompressionMethod = ["ISO_10918_1", "ISO_15444_1"]

    series = mr_study.classic(tmp_path, (3,), edit=edit)
    found = mr_study.findings(series, "ABC")
    documents = compose(found, [series], mr_study.context(found))
    check(documents, found, [series])
    assert [float(v) for v in opened(documents[1]).LossyImageCompressionRatio] == [12.5, 2.0]


def test_a_vanished_source_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    series = mr_study.classic(tmp_path, (3,))
    found = mr_study.findings(series, "ABC")
    series.slices[1].path.unlink()
    with pytest.raises(PermanentError, match="is gone; send the study again"):
        compose(found, [series], mr_study.context(found))


def test_findings_of_other_images_are_refused(tmp_path: Path, good: Result) -> None:
    series = mr_study.classic(tmp_path, (3,))
    with pytest.raises(PermanentError, match="do not match the images"):
        compose(good.findings, [series], mr_study.context(good.findings))
    shorter = SeriesFindings(series.series_instance_uid, mr_study.findings(series, "ABC").series[0].slices[:2])
    with pytest.raises(PermanentError, match="do not match the images"):
        compose(replace(good.findings, series=(shorter,)), [series], mr_study.context(good.findings))


def test_a_box_outside_its_image_does_not_leave(tmp_path: Path) -> None:
    series = mr_study.classic(tmp_path, (3,))
    found = mr_study.findings(series, "ABC")
    outside = replace(found.series[0].slices[0], box=mr_study.PixelBox(100, 100, 140, 140))
    found = replace(found, series=(replace(found.series[0], slices=(outside, *found.series[0].slices[1:])),))
    with pytest.raises(PermanentError, match="box-inside"):
        check(compose(found, [series], mr_study.context(found)), found, [series])


def test_the_content_key_follows_the_result_and_the_output_settings_alone(good: Result) -> None:
    key = content_key(good.findings, Report())
    rejected = SeriesDecision("1.2.3", 9, "LOC", 3, Decision.REJECTED, SeriesReason.LOCALIZER, "A localizer.")
    assert content_key(replace(good.findings, decisions=(rejected,)), Report()) == key
    assert content_key(good.findings, Report(series_number=8000)) != key
    assert content_key(replace(good.findings, software_version="0.2.0"), Report()) != key
    other = mr_study.findings(good.series, "ccA" + "ACA?" + "BC-x")
    assert content_key(other, Report()) != key
    assert len(key) == 64
