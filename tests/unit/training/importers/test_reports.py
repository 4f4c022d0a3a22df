"""Reports of ours as a radiologist corrects and saves them: what they touched or signed is a label, nothing else."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid

from stenosis_node.domain import Content, Document, DocumentKind, Grade, StudyFindings
from stenosis_node.report import codes, compose
from stenosis_node.report.codes import Code
from stenosis_node.report.tree import coded
from tests.unit.report import mr_study
from tests.unit.training.importers.conftest import reasons
from training.importers.intake import Intake
from training.importers.kinds import Kind
from training.importers.mapping import Mapping
from training.importers.run import run_import
from training.labels.errors import LabelError

OUTCOMES = "ccABCD"
AI_ONLY = "a report of the AI that nobody verified: its values are no reader's"


@dataclass(frozen=True)
class Sent:
    """What the node sent, with the images it was made of."""

    folder: Path
    findings: StudyFindings
    report: Document

    def copy(self, **attributes: Any) -> Dataset:
        """The report as another program saves it: new identity, the old one named as predecessor."""
        ds: Dataset = pydicom.dcmread(BytesIO(self.report.content))
        series, instance = Dataset(), Dataset()
        instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
        series.SeriesInstanceUID, series.ReferencedSOPSequence = ds.SeriesInstanceUID, Sequence([instance])
        study = Dataset()
        study.StudyInstanceUID, study.ReferencedSeriesSequence = ds.StudyInstanceUID, Sequence([series])
        ds.PredecessorDocumentsSequence = Sequence([study])
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        ds.SeriesInstanceUID = generate_uid()
        ds.Manufacturer, ds.ManufacturerModelName = "Viewer Ltd", "Viewer"
        ds.ContentDate, ds.ContentTime = "20260301", "101500"
        for name, value in attributes.items():
            setattr(ds, name, value)
        return ds

    def save(self, ds: Dataset, name: str = "corrected.dcm") -> None:
        ds.save_as(self.folder / name, enforce_file_format=True)

    def sop(self, index: int) -> str:
        return self.findings.series[0].slices[index].ref.sop_instance_uid


@pytest.fixture
def sent(tmp_path: Path) -> Sent:
    """Six images: two with the cord, then A, B, C and D; the report of the node beside them."""
    folder = tmp_path / "study"
    folder.mkdir()
    series = mr_study.classic(folder, (6,))
    findings = mr_study.findings(series, OUTCOMES)
    documents = compose(findings, [series], mr_study.context(findings))
    report = next(one for one in documents if one.kind is DocumentKind.SR)
    (folder / "ours.dcm").write_bytes(report.content)
    return Sent(folder, findings, report)


def verify(ds: Dataset, name: str = "Kim^Minsu", moment: str = "20260302093000") -> Dataset:
    observer = Dataset()
    observer.VerifyingObserverName, observer.VerifyingOrganization = name, "Hospital"
    observer.VerificationDateTime = moment
    observer.VerifyingObserverIdentificationCodeSequence = Sequence()
    ds.VerificationFlag = "VERIFIED"
    ds.VerifyingObserverSequence = Sequence([*(ds.get("VerifyingObserverSequence") or []), observer])
    return ds


def observed_by(ds: Dataset, name: str) -> Dataset:
    item = Dataset()
    item.RelationshipType, item.ValueType = "HAS OBS CONTEXT", "PNAME"
    item.ConceptNameCodeSequence = Sequence([coded(Code("121008", "DCM", "Person Observer Name"))])
    item.PersonName = name
    ds.ContentSequence.insert(1, item)
    return ds


def measurements(ds: Dataset) -> Sequence:
    found: Sequence = next(i for i in ds.ContentSequence if concept(i) == codes.MEASUREMENTS.value).ContentSequence
    return found


def concept(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeValue)


def part(group: Dataset, code: Code) -> Any:
    return next(item for item in group.ContentSequence if concept(item) == code.value)


def group_of(ds: Dataset, sop: str) -> Dataset:
    """The group of an image, not the one of its slab."""
    return next(
        group
        for group in measurements(ds)
        if any(concept(item) == codes.OUTCOME.value for item in group.ContentSequence)
        and part(group, codes.IMAGE_REGION).ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == sop
    )


def regrade(group: Dataset, grade: Grade) -> None:
    part(group, codes.SCHIZAS).ConceptCodeSequence = Sequence([coded(codes.SCHIZAS_VALUE[grade])])


def move(group: Dataset, by: float) -> None:
    region = part(group, codes.IMAGE_REGION)
    region.GraphicData = [float(value) + by for value in region.GraphicData]


def without_algorithm(group: Dataset, label: str) -> Dataset:
    """A group as a viewer makes it of what a reader drew: no codes of ours, the grade in the label."""
    drawn = deepcopy(group)
    kept = [part(drawn, c) for c in (codes.TRACKING_ID, codes.TRACKING_UID, codes.FINDING, codes.IMAGE_REGION)]
    kept[0].TextValue, kept[1].UID = "Rectangle 1", generate_uid()
    kept[2].ConceptCodeSequence = Sequence([coded(Code("CORNERSTONEFREETEXT", "CORNERSTONEJS", label))])
    drawn.ContentSequence = Sequence(kept)
    return drawn


def test_a_report_of_ours_is_no_label(sent: Sent, intake: Intake) -> None:
    assert len(run_import(Kind.SR, sent.folder, Mapping(), intake).frame) == 0
    assert reasons(intake) == {AI_ONLY: ["ours.dcm"]}


def test_a_verified_report_makes_its_values_those_of_the_verifier(sent: Sent, intake: Intake) -> None:
    sent.save(verify(verify(sent.copy(), "Older^Reader", "20260301000000")))
    frame = run_import(Kind.SR, sent.folder, Mapping(reader_names={"Kim^Minsu": "reader-1"}), intake).frame
    assert frame["region"].tolist() == ["cord", "cord", "rootlet", "rootlet", "rootlet", "rootlet"]
    assert frame["grade"].tolist() == ["", "", "A", "B", "C", "D"]
    assert set(frame["reader"]) == {"reader-1"}
    assert set(frame["date"]) == {"2026-03-02"}
    assert set(frame["flags"]) == {"ai-confirmed"}
    assert set(frame["box_source"]) == {"expert"}
    assert frame["sop_uid"].tolist() == [sent.sop(i) for i in range(6)]
    box = mr_box(sent, 2)
    assert frame.iloc[2][["x0", "y0", "x1", "y1"]].tolist() == pytest.approx(box)
    assert (frame["path"].map(lambda path: Path(path).is_file())).all()
    assert reasons(intake) == {AI_ONLY: ["ours.dcm"]}


def mr_box(sent: Sent, index: int) -> list[float]:
    finding: Any = sent.findings.series[0].slices[index]
    return [finding.box.x0, finding.box.y0, finding.box.x1, finding.box.y1]


def corrected(sent: Sent, finish: Callable[[Dataset], Dataset]) -> Dataset:
    """A to B on the third image, the box of the fourth moved, cord written over C, D deleted."""
    ds = finish(sent.copy())
    regrade(group_of(ds, sent.sop(2)), Grade.B)
    move(group_of(ds, sent.sop(3)), 4.0)
    content = part(group_of(ds, sent.sop(4)), codes.CONTENT)
    content.ConceptCodeSequence = Sequence([coded(codes.CONTENT_VALUE[Content.CORD])])
    measurements(ds).remove(group_of(ds, sent.sop(5)))
    sent.save(ds)
    return ds


def test_corrections_in_a_verified_report(sent: Sent, intake: Intake) -> None:
    corrected(sent, verify)
    frame = run_import(Kind.SR, sent.folder, Mapping(), intake).frame
    assert frame[["region", "grade", "flags"]].values.tolist() == [
        ["cord", "", "ai-confirmed"],
        ["cord", "", "ai-confirmed"],
        ["rootlet", "B", "ai-corrected"],
        ["rootlet", "B", "ai-corrected"],
        ["cord", "", "ai-corrected"],
    ]
    moved = [side + 4 for side in mr_box(sent, 3)]
    assert frame.iloc[3][["x0", "y0", "x1", "y1"]].tolist() == pytest.approx(moved)
    left_out = reasons(intake)
    assert left_out["the reader deleted what the AI had found: no label"] == [f"corrected.dcm, image {sent.sop(5)}"]


def test_in_a_report_nobody_verified_only_what_changed_is_the_readers(sent: Sent, intake: Intake) -> None:
    corrected(sent, lambda ds: observed_by(ds, "Lee^Jae"))
    frame = run_import(Kind.SR, sent.folder, Mapping(), intake).frame
    assert frame["sop_uid"].tolist() == [sent.sop(2), sent.sop(3), sent.sop(4)]
    assert set(frame["reader"]) == {"Lee^Jae"}
    assert frame["box_source"].tolist() == ["weak", "expert", "weak"]
    assert set(frame["date"]) == {"2026-03-01"}
    unchanged = "the value of the AI, unchanged in a report that is not verified"
    assert reasons(intake)[unchanged] == [f"corrected.dcm, image {sent.sop(i)}" for i in (0, 1)]


def test_a_changed_report_without_a_name_needs_one(sent: Sent, intake: Intake) -> None:
    corrected(sent, lambda ds: ds)
    assert run_import(Kind.SR, sent.folder, Mapping(), intake).frame["reader"].tolist() == ["r1"] * 3
    nameless = Intake(keys=intake.keys)
    assert len(run_import(Kind.SR, sent.folder, Mapping(), nameless).frame) == 0
    assert reasons(nameless)["it names no reader: give --reader"] == ["corrected.dcm"]


def test_without_the_original_a_change_cannot_be_told(sent: Sent, intake: Intake) -> None:
    corrected(sent, lambda ds: observed_by(ds, "Lee^Jae"))
    (sent.folder / "ours.dcm").unlink()
    assert len(run_import(Kind.SR, sent.folder, Mapping(), intake).frame) == 0
    assert len(intake.left_out) == 5
    assert {one.why for one in intake.left_out} == {
        "a value of the AI, or a change of it: add the AI's report to tell, or verify the report"
    }


def test_a_second_result_of_ours_is_never_taken_for_a_correction(sent: Sent, intake: Intake) -> None:
    ds = sent.copy(Manufacturer="stenosis-node", ManufacturerModelName="stenosis-node")
    regrade(group_of(ds, sent.sop(2)), Grade.D)
    sent.save(ds, "revision.dcm")
    assert len(run_import(Kind.SR, sent.folder, Mapping(), intake).frame) == 0
    assert reasons(intake) == {AI_ONLY: ["ours.dcm", "revision.dcm"]}


def test_a_group_a_reader_added_is_a_label_and_its_grade_stands_in_the_words(sent: Sent, intake: Intake) -> None:
    ds = observed_by(sent.copy(), "Lee^Jae")
    template = group_of(ds, sent.sop(5))
    drawn = [without_algorithm(template, "Schizas grade c"), without_algorithm(template, "canal")]
    move(drawn[0], 2.0)
    part(drawn[1], codes.IMAGE_REGION).ValueType = "SCOORD3D"
    groups = measurements(ds)
    groups.remove(template)
    groups.extend(drawn)
    sent.save(ds)
    frame = run_import(Kind.SR, sent.folder, Mapping(), intake).frame
    assert frame[["sop_uid", "region", "grade", "flags", "box_source"]].values.tolist() == [
        [sent.sop(5), "rootlet", "C", "reader-added", "expert"]
    ]
    assert reasons(intake)["no region drawn on one image"] == ["corrected.dcm: 1 groups"]


def as_ohif_saves(group: Dataset, label: str) -> Dataset:
    """A group redrawn by a viewer: new identity, no codes of ours, the box below each of two numbers."""
    drawn = without_algorithm(group, label)
    box = drawn.ContentSequence.pop()
    box.RelationshipType = "INFERRED FROM"
    for name in ("Area", "Perimeter"):
        number = Dataset()
        number.RelationshipType, number.ValueType = "CONTAINS", "NUM"
        number.ConceptNameCodeSequence = Sequence([coded(Code("1", "99TEST", name))])
        number.ContentSequence = Sequence([deepcopy(box)])
        drawn.ContentSequence.append(number)
    return drawn


def test_what_a_viewer_redraws_unchanged_is_still_the_value_of_the_ai(sent: Sent, intake: Intake) -> None:
    ds = observed_by(sent.copy(), "unknown^unknown")
    groups = measurements(ds)
    old = [group_of(ds, sent.sop(i)) for i in (3, 4, 5)]
    drawn = [as_ohif_saves(one, label) for one, label in zip(old, ("", "Schizas D", ""), strict=True)]
    for number in drawn[2].ContentSequence[3:]:
        number.ContentSequence[0].GraphicData = [float(value) - 3 for value in number.ContentSequence[0].GraphicData]
    for one in old:
        groups.remove(one)
    groups.extend(drawn)
    sent.save(ds)
    frame = run_import(Kind.SR, sent.folder, Mapping(), intake).frame
    assert frame[["sop_uid", "region", "grade", "flags", "box_source", "reader"]].values.tolist() == [
        [sent.sop(4), "rootlet", "D", "ai-corrected", "weak", "r1"],
        [sent.sop(5), "", "", "reader-added", "expert", "r1"],
    ]
    assert frame.iloc[1]["x0"] == pytest.approx(mr_box(sent, 5)[0] - 3)
    unchanged = reasons(intake)["the value of the AI, unchanged in a report that is not verified"]
    assert f"corrected.dcm, image {sent.sop(3)}" in unchanged


def test_a_readers_group_stands_above_that_of_the_ai_on_the_same_image(sent: Sent, intake: Intake) -> None:
    ds = verify(sent.copy())
    added = without_algorithm(group_of(ds, sent.sop(2)), "Schizas C")
    move(added, 5.0)
    twice = [without_algorithm(group_of(ds, sent.sop(3)), f"Schizas {grade}") for grade in "CD"]
    for one, by in zip(twice, (6.0, 9.0), strict=True):
        move(one, by)
    measurements(ds).extend([added, *twice])
    sent.save(ds)
    frame = run_import(Kind.SR, sent.folder, Mapping(), intake).frame.set_index("sop_uid")
    assert frame.loc[sent.sop(2), ["grade", "flags"]].tolist() == ["C", "reader-added"]
    assert sent.sop(3) not in frame.index
    assert len(reasons(intake)["several groups of the reader on one image"]) == 2
    assert len(reasons(intake)["the AI's group, beside one of the reader on the same image"]) == 2


def test_of_two_reports_of_a_reader_the_later_counts_and_two_readers_both_do(sent: Sent, intake: Intake) -> None:
    first = verify(sent.copy(), moment="20260302093000")
    second = verify(sent.copy(), moment="20260305093000")
    regrade(group_of(second, sent.sop(2)), Grade.C)
    third = verify(sent.copy(), "Lee^Jae", "20260301093000")
    for name, ds in (("z-first.dcm", first), ("a-second.dcm", second), ("third.dcm", third)):
        sent.save(ds, name)
    frame = run_import(Kind.SR, sent.folder, Mapping(), intake).frame
    on_third = frame[frame["sop_uid"] == sent.sop(2)].set_index("reader")["grade"]
    assert on_third.to_dict() == {"Kim^Minsu": "C", "Lee^Jae": "A"}
    replaced = reasons(intake)["replaced by a later report"]
    assert len(replaced) == 6
    assert replaced[0].startswith("a-second.dcm")


def test_images_that_are_not_there_are_named(sent: Sent, intake: Intake, tmp_path: Path) -> None:
    sent.save(verify(sent.copy()))
    only_reports = tmp_path / "reports"
    only_reports.mkdir()
    (sent.folder / "corrected.dcm").rename(only_reports / "corrected.dcm")
    assert len(run_import(Kind.SR, only_reports, Mapping(), intake).frame) == 0
    assert {one.why for one in intake.left_out} == {"the image is not there: name its folder with --images"}
    elsewhere = Intake(keys=intake.keys, images=sent.folder)
    assert len(run_import(Kind.SR, only_reports / "corrected.dcm", Mapping(), elsewhere).frame) == 6
    (tmp_path / "empty").mkdir()
    with pytest.raises(LabelError, match="no TID 1500 report in"):
        run_import(Kind.SR, tmp_path / "empty", Mapping(), intake)
