"""Reports read back from files: as sent, as an archive gives them back, and as text, JSON and page."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from stenosis_node.domain import Document, DocumentKind, Grade, StudyFindings
from stenosis_node.errors import PermanentError
from stenosis_node.report import Predecessor, as_json, compose, find_results, readback, render_delivered, render_text
from stenosis_node.report.text import columns, folded
from stenosis_node.report.view import Report, read_report

from . import mr_study
from .conftest import Result


def report_of(documents: tuple[Document, ...]) -> Report:
    ds = readback.read(documents[-1])
    return read_report(ds, readback.tree(ds))


def written(folder: Path, documents: tuple[Document, ...]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, document in enumerate(documents):
        (folder / f"{number:02d}-{document.kind}.dcm").write_bytes(document.content)
    return folder


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def composed(
    folder: Path, letters: str, *, tag: str = "classic", edit: Callable[[Dataset], None] | None = None
) -> tuple[StudyFindings, tuple[Document, ...]]:
    folder.mkdir(parents=True, exist_ok=True)
    series = mr_study.blinded(mr_study.classic(folder, (len(letters),), tag=tag, edit=edit), letters)
    found = mr_study.findings(series, letters)
    return found, compose(found, [series], mr_study.context(found))


# --------------------------------------------------------------------------- what is read


def test_the_report_read_back_says_what_the_networks_said(good: Result) -> None:
    report = report_of(good.documents)
    assert report.grade is Grade.D
    assert [image.grade for image in report.images] == [
        getattr(f, "grade", None) for f in good.findings.series[0].slices
    ]
    assert [image.outcome for image in report.images] == [f.outcome for f in good.findings.series[0].slices]
    third = report.images[2]
    assert third.label == "Image 3 of 11, slab 1"
    assert third.box == (52.0, 66.5, 76.0, 84.0)
    assert third.scores[Grade.A] == pytest.approx(0.83)
    assert (third.box_score, third.content_score) == (pytest.approx(0.98), pytest.approx(0.991))
    assert third.series_instance_uid == good.series.series_instance_uid
    assert [slab.grade for slab in report.slabs] == [Grade.A, Grade.C, Grade.D]
    assert report.created == "2026-01-05T10:30:00+00:00"
    assert report.demonstration
    assert report.status == "partial, preliminary, not verified"


def test_key_images_follow_from_the_report_alone(good: Result) -> None:
    key = {
        readback.reference(readback.read(d).SourceImageSequence[0])
        for d in good.documents
        if d.kind is DocumentKind.SC and d.key
    }
    assert report_of(good.documents).key_images == key


# --------------------------------------------------------------------------- files among others


def test_a_report_is_found_among_images_captures_and_other_files(good: Result, tmp_path: Path) -> None:
    written(tmp_path / "ours", good.documents)
    (tmp_path / "notes.txt").write_text("no DICOM", encoding="utf-8")
    (tmp_path / "empty").touch()
    found = find_results([*files(tmp_path), *(piece.path for piece in good.series.slices)])
    (result,) = found.results
    assert result.report == report_of(good.documents)
    assert [path.name for path in result.captures] == ["00-sc-overview.dcm", *(f"{n:02d}-sc.dcm" for n in range(1, 10))]
    assert found.n_others == len(good.series.slices) + 1  # and the presentation state
    assert sorted(path.name for path in found.not_dicom) == ["empty", "notes.txt"]
    assert found.unreadable == []


def given_back(document: Document, path: Path) -> None:
    """As an archive may give it: another transfer syntax, its own attributes, no private ones."""
    ds = pydicom.dcmread(BytesIO(document.content))
    ds.remove_private_tags()
    ds.add_new((0x0088, 0x0130), "SH", "FILESET")
    ds.add_new((0x0100, 0x0410), "CS", "AO")
    block = ds.private_block(0x0019, "ARCHIVE", create=True)
    block.add_new(1, "LO", "stored by someone")
    ds.InstanceAvailability = "ONLINE"
    if document.kind is DocumentKind.SR:
        ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    elif document.kind in (DocumentKind.SC, DocumentKind.SC_OVERVIEW):
        ds.compress(RLELossless, generate_instance_uid=False)
    ds.save_as(path, enforce_file_format=True)


def test_what_an_archive_gives_back_reads_the_same(good: Result, tmp_path: Path) -> None:
    for number, document in enumerate(good.documents):
        given_back(document, tmp_path / f"{number:02d}")
    (result,) = find_results(files(tmp_path)).results
    assert result.report == report_of(good.documents)
    assert len(result.captures) == 10
    ours = render_delivered(find_results(files(written(tmp_path / "sent", good.documents))).results)
    assert render_delivered([result]) == ours


def test_implicit_vr_reads_the_same(good: Result, tmp_path: Path) -> None:
    ds = pydicom.dcmread(BytesIO(good.documents[-1].content))
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    ds.save_as(tmp_path / "sr", implicit_vr=True, little_endian=True, enforce_file_format=True)
    (result,) = find_results(files(tmp_path)).results
    assert result.report == report_of(good.documents)


def test_the_same_report_in_three_classes_counts_once_and_each_alone_is_enough(good: Result, tmp_path: Path) -> None:
    report = good.documents[-1]
    every = (report, *report.alternatives)
    written(tmp_path / "all", every)
    for number, one in enumerate(every):
        (tmp_path / "all" / str(number)).write_bytes(one.content)
    (result,) = find_results(files(tmp_path / "all")).results
    assert result.report.sop_instance_uid == report.sop_instance_uid
    for one in report.alternatives:
        (tmp_path / "alone").write_bytes(one.content)
        (result,) = find_results([tmp_path / "alone"]).results
        assert result.report.images == report_of(good.documents).images


def test_several_studies_and_a_revision(good: Result, tmp_path: Path) -> None:
    _, other = composed(tmp_path / "mr", "AB", tag="other")
    first = good.documents[-1]
    earlier = Predecessor(
        revision=1,
        sop_class_uid=first.sop_class_uid,
        sop_instance_uid=first.sop_instance_uid,
        series_instance_uid=first.series_instance_uid,
    )
    context = replace(mr_study.context(good.findings, 2, (earlier,)), created=mr_study.CREATED.replace(hour=12))
    revised = compose(good.findings, [good.series], context)
    for name, documents in (("a", good.documents), ("b", revised), ("c", other)):
        written(tmp_path / "out" / name, documents)
    found = find_results(files(tmp_path / "out")).results
    by_study = {result.report.study_instance_uid: result for result in found}
    assert len(found) == 2
    latest = by_study[good.findings.study_instance_uid]
    assert latest.report.revision == 2
    assert latest.report.supersedes == latest.earlier == (first.sop_instance_uid,)
    assert {path.parent.name for path in latest.captures} == {"b"}
    page = render_delivered(found)
    assert page.count("<main>") == 2
    ids = [part.split('"')[0] for part in page.split('<figure id="')[1:]]
    assert len(set(ids)) == len(ids) == 10 + 3


def test_reports_of_others_and_broken_ones_are_told_apart(good: Result, tmp_path: Path) -> None:
    content = good.documents[-1].content

    def foreign(ds: Dataset) -> None:
        item = next(i for i in ds.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "121015")
        item.TextValue = "somebody else"

    ds = pydicom.dcmread(BytesIO(content))
    foreign(ds)
    ds.save_as(tmp_path / "foreign")
    undefined = pydicom.dcmread(BytesIO(content))
    undefined.ContentSequence.is_undefined_length = True
    buffer = BytesIO()
    undefined.save_as(buffer)
    (tmp_path / "half").write_bytes(content[: len(content) // 2])
    (tmp_path / "nearly").write_bytes(content[:-3])
    (tmp_path / "stub").write_bytes(content[:900])
    (tmp_path / "undefined").write_bytes(buffer.getvalue()[: -len(content) // 3])
    found = find_results(files(tmp_path))
    assert found.results == ()
    assert [path.name for path in found.foreign] == ["foreign"]
    assert {path.name for path, _ in found.unreadable} == {"half", "nearly", "stub", "undefined"}
    assert all("breaks off" in why or "damaged" in why for _, why in found.unreadable)


def test_a_picture_that_cannot_be_decoded_is_an_error_that_names_it(good: Result, tmp_path: Path) -> None:
    written(tmp_path, good.documents)
    ds = pydicom.dcmread(tmp_path / "02-sc.dcm")
    ds.PixelData = ds.PixelData[:100]
    ds.save_as(tmp_path / "02-sc.dcm")
    with pytest.raises(PermanentError, match="cannot be decoded"):
        render_delivered(find_results(files(tmp_path)).results)


# --------------------------------------------------------------------------- text


def test_the_text_is_complete_and_in_order(good: Result) -> None:
    text = render_text(report_of(good.documents))
    assert all(columns(line) <= 80 for line in text.splitlines())
    order = [
        "DEMO NOT CLINICAL", "Hong Gildong", "not verified", "AI result, not verified", "of the examination: D",
        "Slabs, from head to foot", "Images, from head to foot", "Image 1 of 11", "Image 11 of 11", "Aggregation rule",
        "Origin", "sha256", "SR 2.25.",
    ]  # fmt: skip
    places = [text.index(words) for words in order]
    assert places == sorted(places)
    assert text.count("this does not exclude stenosis") == 3
    assert "probab" not in text.lower()
    lines = text.splitlines()
    row = next(k for k, line in enumerate(lines) if line.startswith("Image 5 of 11"))
    assert lines[row].split() == ["Image", "5", "of", "11,", "slab", "2", "C", "6", "%", "6", "%", "83", "%", "5", "%"]
    assert lines[row + 1].strip() == "Isolated slice, both neighbours in the slab are grade A"


def test_a_study_without_a_grade_has_a_text_that_says_so(tmp_path: Path) -> None:
    _, documents = composed(tmp_path, "-xx")
    text = render_text(report_of(documents))
    assert "of the examination: none given" in text
    assert "No Schizas grade could be given, this does not exclude stenosis" in " ".join(text.split())


def test_wide_characters_count_twice_and_long_words_are_cut() -> None:
    assert columns("한글 ab") == 7
    lines = folded("나" * 100, first="name  ", rest="      ")
    assert len(lines) == 3
    assert all(columns(line) <= 80 for line in lines)
    assert folded("about 98 %") == ["about 98 %"]


def test_control_characters_never_reach_a_terminal(tmp_path: Path) -> None:
    _, documents = composed(tmp_path, "A")
    ds = readback.read(documents[-1])
    ds.PatientID = "A\x1b[2J\x07B"
    report = read_report(ds, readback.tree(ds))
    assert report.person.patient_id == "A [2J B"
    assert "\x1b" not in render_text(report)


# --------------------------------------------------------------------------- JSON


def test_json_has_the_promised_keys(good: Result) -> None:
    entry = json.loads(json.dumps(as_json(report_of(good.documents))))
    assert set(entry) == {
        "sop_class_uid", "sop_instance_uid", "series_instance_uid", "study_instance_uid", "revision", "supersedes",
        "created", "completion", "preliminary", "verification", "demonstration", "patient", "study", "algorithm",
        "summary", "grade", "slabs", "slab_sentences", "statements", "images",
    }  # fmt: skip
    for image in entry["images"]:
        assert set(image) == {
            "series_instance_uid", "sop_class_uid", "sop_instance_uid", "frame_number", "label", "outcome",
            "outcome_reason", "grade", "scores", "content", "content_score", "box", "box_score", "isolated",
            "tracking_uid",
        }  # fmt: skip
    graded, cord, lost = entry["images"][4], entry["images"][0], entry["images"][9]
    assert (graded["grade"], graded["isolated"], graded["content"]) == ("C", True, "rootlet")
    assert sum(graded["scores"].values()) == pytest.approx(1, abs=1e-3)
    assert (cord["grade"], cord["scores"], cord["content"], cord["outcome"]) == (None, {}, "cord", "cord")
    assert (lost["outcome"], lost["box"]) == ("canal_not_found", None)
    assert lost["outcome_reason"] == "no spinal canal was located above the threshold"
    assert entry["grade"] == "D"
    assert entry["slabs"][1]["grade"] == "C"
    assert entry["patient"] == {"name": "Hong^Gildong", "id": "SYN-1", "birth_date": "19500101", "sex": "F"}


def test_frames_are_named(tmp_path: Path) -> None:
    series = mr_study.enhanced(tmp_path)
    found = mr_study.findings(series, "cAB-ACA")
    entry = as_json(report_of(compose(found, [series], mr_study.context(found))))
    assert [image["frame_number"] for image in entry["images"]] == [1, 2, 3, 4, 5, 6, 7]
