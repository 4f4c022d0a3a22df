"""What a report says of itself: how it came about, what it leaves out, where the slabs lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from stenosis_node.domain import (
    AxialSeries,
    Decision,
    Document,
    DocumentKind,
    OperatingPoint,
    ReaderAgreement,
    SagittalSlice,
    SeriesReason,
    StudyFindings,
)
from stenosis_node.errors import PermanentError
from stenosis_node.report import Predecessor, check, codes, compose, content_key, readback, wording
from stenosis_node.report.gate import faults

from . import mr_study
from .broken import one, qualitative, with_capture, with_report

POINT = OperatingPoint(wording.RULE_ID, "grade C or D", 0.93, 0.88, 200, "simulated studies")
READERS = ReaderAgreement("simulated readers", 3, "weighted kappa", 0.82)
GAP = "images 1 and 2 lie 8.8 mm apart instead of 4.4 mm (1 slice missing)"
PRONE = "the patient is lying on the front (HFP)"
EARLIER = Predecessor(
    revision=1, sop_class_uid="1.2.840.10008.5.1.4.1.1.88.34", sop_instance_uid="1.2.3.4", series_instance_uid="1.2.3"
)


@dataclass(frozen=True)
class Study:
    series: tuple[AxialSeries, ...]
    findings: StudyFindings
    sagittal: SagittalSlice
    documents: tuple[Document, ...]


def opened(document: Document) -> Dataset:
    return pydicom.dcmread(BytesIO(document.content))


def said(documents: Sequence[Document], name: codes.Code) -> list[str]:
    root = readback.tree(opened(documents[-1]))
    return [i.text for q in root.named(codes.QUALITATIVE) for i in q.named(name)]


def summary(documents: Sequence[Document]) -> str:
    found = readback.tree(opened(documents[-1])).first(codes.SUMMARY)
    assert found is not None
    return found.text


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A graded series with a gap, one of a patient who lies prone, a sagittal slice; a measured bundle; a revision."""
    folder = tmp_path_factory.mktemp("rich")
    for name in ("graded", "prone"):
        (folder / name).mkdir()
    graded = mr_study.classic(folder / "graded", (3, 3))
    prone = replace(
        mr_study.classic(folder / "prone", (4,), tag="prone"),
        study_instance_uid=graded.study_instance_uid,
        series_number=5,
    )
    prone = replace(prone, slices=tuple(replace(s, pixels=None, unreadable=PRONE) for s in prone.slices))
    found = mr_study.findings([graded, prone], ["ACA" + "BD?", "xxxx"])
    found = replace(
        found,
        bundle=replace(found.bundle, operating_point=POINT, agreement=READERS),
        decisions=(
            mr_study.decided(graded.series_instance_uid, 4, Decision.GRADED, position_gaps=GAP),
            mr_study.decided(
                prone.series_instance_uid, 5, Decision.NOT_GRADABLE, SeriesReason.PATIENT_POSITION, hindrance=PRONE
            ),
            mr_study.decided("1.2.8", 3, Decision.LOCATOR, SeriesReason.LOCATOR),
            mr_study.decided("1.2.6", 1, Decision.REJECTED, SeriesReason.LOCALIZER),
            mr_study.decided("1.2.7", 2, Decision.REJECTED, SeriesReason.T1_WEIGHTED),
        ),
    )
    sagittal = mr_study.sagittal(folder)
    documents = compose(found, [graded, prone], mr_study.context(found, 2, (EARLIER,)), sagittal)
    return Study((graded, prone), found, sagittal, documents)


def test_a_rich_study_passes_the_gate(rich: Study) -> None:
    check(rich.documents, rich.findings, rich.series, rich.sagittal)


def test_the_summary_tells_everything_that_limits_the_result(rich: Study) -> None:
    assert summary(rich.documents) == (
        "Demonstration weights - not for clinical use. AI result, not verified. Revision 2, supersedes revision 1. "
        "Worst Schizas grade D on series 4, image 5 of 6, slab 2 (network score 83 %); 5 of 6 images graded; "
        f"1 not gradable. Axial T2 series 5 was not graded: {PRONE}. Images of series 4 may be missing: {GAP}."
    )


def test_the_rule_stands_with_figures_only_when_they_were_measured(rich: Study) -> None:
    assert said(rich.documents, codes.RULE) == [
        "The grade of a slab and of the examination is the most severe grade of any of its graded images. For a study "
        "with grade C or D, by the model card of phantom-1 1.0.0 (200 simulated studies): sensitivity 93 %, "
        "specificity 88 %."
    ]
    assert said(rich.documents, codes.READERS) == [
        "Agreement with 3 simulated readers, by the model card of phantom-1 1.0.0: weighted kappa 0.82."
    ]
    for bundle in (
        replace(rich.findings.bundle, operating_point=None),
        replace(rich.findings.bundle, operating_point=replace(POINT, rule="mean")),  # of a rule that is not ours
    ):
        assert wording.rule_sentences(bundle).endswith(
            "Sensitivity and specificity of this rule on whole studies: not measured."
        )
        assert "%" not in wording.rule_sentences(bundle)
    assert wording.agreement_sentence(replace(rich.findings.bundle, agreement=None)) == ""


def test_a_series_that_could_not_be_graded_is_one_result_with_its_reason(rich: Study) -> None:
    sentence = f"Axial T2 series 5 was not graded: {PRONE}"
    assert f"{sentence}; this does not exclude stenosis (4 images)." in said(rich.documents, codes.SLAB_RESULT)
    root = readback.tree(opened(rich.documents[-1]))
    outcomes = [i for q in root.named(codes.QUALITATIVE) for i in q.named(codes.OUTCOME)]
    (whole,) = [i for i in outcomes if i.code is not None and i.code[0] == codes.SERIES_NOT_GRADED.value]
    assert [ref[1] for child in whole.children for ref in child.refs] == [
        s.ref.sop_instance_uid for s in rich.series[1].slices
    ]
    assert opened(rich.documents[-1]).CompletionFlag == "PARTIAL"
    assert opened(rich.documents[-1]).CompletionFlagDescription == "A series could not be graded"


def test_a_study_whose_only_series_could_not_be_graded_still_gets_its_report(tmp_path: Path) -> None:
    series = mr_study.blinded(mr_study.classic(tmp_path, (4,)), "xxxx")
    found = mr_study.findings(series, "xxxx")
    refused = mr_study.decided(
        series.series_instance_uid, 4, Decision.NOT_GRADABLE, SeriesReason.NO_PIXEL_DATA, hindrance="no pixel data."
    )
    found = replace(found, decisions=(refused,))
    documents = compose(found, [series], mr_study.context(found))
    check(documents, found, [series])
    assert summary(documents).endswith(
        "No Schizas grade could be given, this does not exclude stenosis. "
        "Axial T2 series 4 was not graded: no pixel data."
    )
    assert said(documents, codes.OTHER_SERIES) == []
    pointed = compose(found, [series], mr_study.context(found), mr_study.sagittal(tmp_path))
    assert said(pointed, codes.SLAB_POSITIONS) == [
        "No sagittal image shows where the slabs lie: no axial series was graded."
    ]


def test_the_other_series_are_one_line(rich: Study) -> None:
    assert said(rich.documents, codes.OTHER_SERIES) == [
        "Not graded: 3 other series (1 localizer, 1 sagittal locator, 1 t1 weighted)."
    ]


def test_a_report_made_again_from_other_decisions_has_other_uids(rich: Study) -> None:
    context = mr_study.context(rich.findings, 2, (EARLIER,))
    fewer = replace(rich.findings, decisions=rich.findings.decisions[:-1])
    assert content_key(fewer, context.settings) == context.key  # a localizer that comes late makes no new result
    for documents in (
        compose(fewer, rich.series, context, rich.sagittal),
        compose(rich.findings, rich.series, context, "the sagittal image cannot be read"),
    ):
        assert not {d.sop_instance_uid for d in documents} & {d.sop_instance_uid for d in rich.documents}


def test_the_words_of_other_parts_are_made_printable() -> None:
    decision = mr_study.decided("1.2", 5, Decision.NOT_GRADABLE, hindrance="a\tb\x00c. ")
    assert wording.refusal(decision) == "Axial T2 series 5 was not graded: a b c"
    assert len(wording.clause("word " * 200)) <= 300
    unnumbered = replace(decision, series_number=None, values={})
    assert wording.refusal(unnumbered) == "Axial T2 series was not graded"


# --------------------------------------------------------------------------- the sagittal image


def test_the_sagittal_image_is_evidence_and_no_result_stands_on_it(rich: Study) -> None:
    ds, uid = opened(rich.documents[-1]), rich.sagittal.ref.sop_instance_uid
    listed = ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert uid in {i.ReferencedSOPInstanceUID for series in listed for i in series.ReferencedSOPSequence}
    assert uid in {i.ReferencedSOPInstanceUID for i in opened(rich.documents[0]).SourceImageSequence}
    assert all(uid not in str(opened(d).SourceImageSequence) for d in rich.documents[1:-2])
    assert said(rich.documents, codes.SLAB_POSITIONS) == [
        "The overview image shows where the slabs lie on a sagittal image (series 3, image 8), which was not graded."
    ]


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda ds: setattr(ds, "FrameOfReferenceUID", "1.2.3"), "does not share the Frame of Reference"),
        (lambda ds: delattr(ds, "FrameOfReferenceUID"), "does not share the Frame of Reference"),
    ],
)
def test_a_sagittal_image_of_another_frame_of_reference_is_not_shown(
    tmp_path: Path, edit: Callable[[Dataset], None], reason: str
) -> None:
    series = mr_study.classic(tmp_path, (3,))
    found = mr_study.findings(series, "ABC")
    sagittal = mr_study.sagittal(tmp_path, edit=edit)
    documents = compose(found, [series], mr_study.context(found), sagittal)
    check(documents, found, [series], sagittal)
    (words,) = said(documents, codes.SLAB_POSITIONS)
    assert words.startswith("No sagittal image shows where the slabs lie: ")
    assert reason in words
    assert sagittal.ref.sop_instance_uid.encode() not in documents[0].content


def test_without_a_sagittal_image_the_report_says_why(tmp_path: Path) -> None:
    series = mr_study.classic(tmp_path, (3,))
    found = mr_study.findings(series, "ABC")
    documents = compose(found, [series], mr_study.context(found), "no sagittal T2 series shares the frame")
    check(documents, found, [series], "no sagittal T2 series shares the frame")
    assert said(documents, codes.SLAB_POSITIONS) == [
        "No sagittal image shows where the slabs lie: no sagittal T2 series shares the frame."
    ]


def test_a_lossy_sagittal_image_makes_the_overview_lossy(tmp_path: Path) -> None:
    def edit(ds: Dataset) -> None:
        ds.LossyImageCompression, ds.LossyImageCompressionRatio = "01", "9"

    series = mr_study.classic(tmp_path, (3,))
    found, sagittal = mr_study.findings(series, "ABC"), mr_study.sagittal(tmp_path, edit=edit)
    documents = compose(found, [series], mr_study.context(found), sagittal)
    check(documents, found, [series], sagittal)
    assert [opened(d).LossyImageCompression for d in documents[:2]] == ["01", "00"]


def test_a_sagittal_file_that_is_gone_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    series = mr_study.classic(tmp_path, (3,))
    found, sagittal = mr_study.findings(series, "ABC"), mr_study.sagittal(tmp_path)
    sagittal.path.unlink()
    with pytest.raises(PermanentError, match="is gone; send the study again"):
        compose(found, [series], mr_study.context(found), sagittal)


# --------------------------------------------------------------------------- broken variants

Edit = Callable[[Dataset], None]


def words(name: codes.Code, text: str) -> Edit:
    return lambda ds: setattr(one(qualitative(ds), name), "TextValue", text)


def without(name: codes.Code) -> Edit:
    return lambda ds: qualitative(ds).ContentSequence.remove(one(qualitative(ds), name))


def shorter_summary(text: str) -> Edit:
    def edit(ds: Dataset) -> None:
        item = one(ds, codes.SUMMARY)
        assert text in item.TextValue
        item.TextValue = item.TextValue.replace(text, "")

    return edit


MEASURED = f"{wording.RULE} (200 simulated studies): sensitivity 93 %, specificity 88 %."
CONTENT_FAULTS: list[tuple[str, Edit]] = [
    ("air", lambda ds: ds.ContentSequence.remove(one(ds, codes.DEVICE_MODEL))),
    ("air", lambda ds: setattr(one(ds, codes.DEVICE_MANUFACTURER), "TextValue", "somebody else")),
    ("rule", without(codes.RULE)),
    ("rule", words(codes.RULE, "The mean of all grades.")),
    ("rule-figures", words(codes.RULE, MEASURED.replace("93", "99"))),
    ("rule-figures", words(codes.RULE, MEASURED.replace("200", "20"))),
    ("rule-figures", words(codes.RULE, wording.RULE)),
    ("readers", without(codes.READERS)),
    ("readers", words(codes.READERS, "Agreement with readers: weighted kappa 0.82.")),
    ("refusal same-words", shorter_summary(f" Axial T2 series 5 was not graded: {PRONE}.")),
    ("gaps", without(codes.WARNING)),
    ("gaps same-words", shorter_summary(GAP)),
    ("other-series", without(codes.OTHER_SERIES)),
    ("other-series", words(codes.OTHER_SERIES, "Not graded: 1 other series (1 localizer).")),
    ("revision-words same-words", shorter_summary("Revision 2, supersedes revision 1. ")),
    ("orientation", without(codes.SLAB_POSITIONS)),
    ("orientation", words(codes.SLAB_POSITIONS, "No sagittal image shows where the slabs lie: no reason.")),
]


@pytest.mark.parametrize(("rules", "edit"), CONTENT_FAULTS, ids=[f"{i}-{r}" for i, (r, _) in enumerate(CONTENT_FAULTS)])
def test_broken_content(rich: Study, rules: str, edit: Edit) -> None:
    found = faults(with_report(rich.documents, edit), rich.findings, rich.series, rich.sagittal)
    assert {fault.rule for fault in found} == set(rules.split())


def test_an_overview_without_the_sagittal_image_the_report_speaks_of(rich: Study) -> None:
    def edit(ds: Dataset) -> None:
        ds.SourceImageSequence.pop()
        ds.ReferencedSeriesSequence.pop()

    found = faults(with_capture(rich.documents, edit, index=0), rich.findings, rich.series, rich.sagittal)
    assert {fault.rule for fault in found} == {"orientation"}


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"operating_point": None}, "rule-figures"),
        ({"agreement": None}, "readers"),
        ({"agreement": replace(READERS, kind="radiologists")}, "readers"),
    ],
)
def test_figures_nobody_measured_do_not_leave(rich: Study, changes: dict[str, object], rule: str) -> None:
    bundle = replace(rich.findings.bundle, **changes)
    found = faults(rich.documents, replace(rich.findings, bundle=bundle), rich.series, rich.sagittal)
    assert {fault.rule for fault in found} == {rule}


# --------------------------------------------------------------------------- bad input


def test_one_slice_of_thirty_that_cannot_be_decoded_or_placed(tmp_path: Path) -> None:
    letters = "A" * 14 + "x" + "B" * 14 + "x"
    series = mr_study.blinded(mr_study.classic(tmp_path, (30,)), letters)
    *placed, last = series.slices
    series = replace(series, slices=(*placed, replace(last, geometry=None, slab=1)))
    found = mr_study.findings(series, letters)
    sagittal = mr_study.sagittal(tmp_path)
    documents = compose(found, [series], mr_study.context(found), sagittal)
    check(documents, found, [series], sagittal)
    assert "28 of 30 images graded; 2 not readable" in summary(documents)
    assert opened(documents[-1]).CompletionFlag == "PARTIAL"
    assert sum(d.kind is DocumentKind.SC for d in documents) == 28
    last_slab = said(documents, codes.SLAB_RESULT)[-1]
    assert last_slab == ("Slab 2 (image 30 of 30): not graded, this does not exclude stenosis; 1 not readable.")


def test_slices_without_any_place_leave_no_line(tmp_path: Path) -> None:
    series = mr_study.blinded(mr_study.classic(tmp_path, (3,)), "xxx")
    series = replace(series, slices=tuple(replace(s, geometry=None) for s in series.slices))
    found, sagittal = mr_study.findings(series, "xxx"), mr_study.sagittal(tmp_path)
    documents = compose(found, [series], mr_study.context(found), sagittal)
    check(documents, found, [series], sagittal)
    assert said(documents, codes.SLAB_POSITIONS) == [
        "No sagittal image shows where the slabs lie: no axial image crosses the sagittal slice."
    ]
