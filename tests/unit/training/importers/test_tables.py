"""A CSV through a mapping: other names, words, boxes and readers; what does not fit is left out by row."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from tests.unit.series.builder import enhanced_instance, save, stack
from tests.unit.training.importers.conftest import reasons
from training.importers.intake import Intake
from training.importers.kinds import Kind
from training.importers.mapping import Mapping, read_mapping
from training.importers.run import run_import
from training.labels.errors import LabelError

Write = Callable[..., Path]


def mapping(tmp_path: Path, text: str) -> Mapping:
    path = tmp_path / "mapping.toml"
    path.write_text(text, encoding="utf-8")
    return read_mapping(path)


def table(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "labels.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_our_own_names_need_no_mapping(tmp_path: Path, study: list[Path], intake: Intake) -> None:
    first = pydicom.dcmread(study[0])
    source = table(
        tmp_path, "path,region,grade,level,x0,y0,x1,y1", f"dicom/{study[0].name},rootlet,C,L4/L5,60,40,100.5,70"
    )
    frame = run_import(Kind.CSV, source, Mapping(), intake).frame
    row = frame.iloc[0]
    assert (row.study_uid, row.sop_uid) == (first.StudyInstanceUID, first.SOPInstanceUID)
    assert (row.region, row.grade, row.grade_set, row.level) == ("rootlet", "C", "C", "L4/L5")
    assert (row.x0, row.y0, row.x1, row.y1) == (60, 40, 100.5, 70)
    assert (row.reader, row.date, row.box_source) == ("r1", "2026-01-31", "expert")
    assert row.fov_mm == 96  # 192 columns, half a millimetre apart; the rows are one millimetre apart
    assert row.patient_key == intake.keys.key("SECRET")
    assert "SECRET" not in frame.to_csv()
    assert intake.left_out == []


def test_their_names_words_and_boxes_through_a_mapping(tmp_path: Path, study: list[Path], intake: Intake) -> None:
    uids = [str(pydicom.dcmread(path).SOPInstanceUID) for path in study]
    words = mapping(
        tmp_path,
        """
        images = "dicom"
        [columns]
        sop_uid = "SOP"
        grade = "stenosis"
        [values.grade]
        0 = "A"
        2 = "C|D"
        [box]
        columns = ["left", "top", "w", "h"]
        layout = "xywh"
        first_pixel = 1
        source = "mask"
        """,
    )
    source = table(
        tmp_path,
        "SOP;stenosis;left;top;w;h",
        f"{uids[0]};0;11;21;30;20",
        f"{uids[1]};2;;;;",
        f"{uids[2]};5;11;21;30;20",
        f"{uids[3]};0;180;21;30;20",
        f"{uids[4]};0;ten;21;30;20",
        "1.2.3;0;11;21;30;20",
    )
    frame = run_import(Kind.CSV, source, words, intake).frame
    assert frame["grade_set"].tolist() == ["A", "C|D"]
    assert frame["grade"].tolist() == ["A", ""]
    assert frame.iloc[0][["x0", "y0", "x1", "y1"]].tolist() == [10, 20, 40, 40]
    assert frame["box_source"].tolist() == ["mask", ""]
    left_out = reasons(intake)
    assert left_out["grade '5' is none of ours; map it in [values.grade]"] == ["labels.csv, row 4"]
    assert left_out["the box lies outside the image"] == ["labels.csv, row 5: (179, 20, 209, 40) in 192 x 128"]
    assert left_out["the box (ten, 21, 30, 20) is no box of four numbers"] == ["labels.csv, row 6"]
    assert left_out[f"no image with this SOP Instance UID below {tmp_path / 'dicom'}"] == ["labels.csv, row 7: 1.2.3"]


def test_a_column_per_reader_gives_a_row_per_reader(tmp_path: Path, study: list[Path], intake: Intake) -> None:
    words = mapping(
        tmp_path,
        """
        images = "dicom"
        [columns]
        path = "file"
        region = "where"
        [readers]
        kim = { grade = "g1" }
        lee = { grade = "g2" }
        """,
    )
    source = table(
        tmp_path, "file,where,g1,g2", f"{study[0].name},rootlet,A,B", f"{study[1].name},cord,,", f"{study[2].name},,D,"
    )
    frame = run_import(Kind.CSV, source, words, intake).frame
    assert frame[["reader", "region", "grade"]].values.tolist() == [
        ["kim", "rootlet", "A"],
        ["lee", "rootlet", "B"],
        ["kim", "cord", ""],
        ["lee", "cord", ""],
        ["kim", "", "D"],
    ]
    assert reasons(intake) == {"neither a box nor a region nor a grade": ["labels.csv, row 4, reader lee"]}


def test_a_frame_is_named_by_its_number(tmp_path: Path, intake: Intake) -> None:
    places = stack(3)
    save(tmp_path / "dicom", enhanced_instance("e", places, np.ones((3, 128, 128))), "e.dcm")
    source = table(tmp_path, "path,frame,region", "dicom/e.dcm,2,cord", "dicom/e.dcm,9,cord", "dicom/e.dcm,,cord")
    frame = run_import(Kind.CSV, source, Mapping(), intake).frame
    assert frame["frame"].tolist() == [2]
    assert frame["z_mm"].tolist() == pytest.approx([places[1][1][2]])
    assert reasons(intake) == {
        "no such frame": ["labels.csv, row 3"],
        "the image has several frames and the label names none": ["labels.csv, row 4"],
    }


def test_frame_1_is_an_image_of_a_single_frame(tmp_path: Path, study: list[Path], intake: Intake) -> None:
    rows = [f"dicom/{study[0].name},1,cord", f"dicom/{study[1].name},2,cord"]
    frame = run_import(Kind.CSV, table(tmp_path, "path,frame,region", *rows), Mapping(), intake).frame
    assert len(frame) == 1
    assert frame["frame"].isna().all()
    assert reasons(intake) == {"no such frame": ["labels.csv, row 3"]}
    uids = [str(pydicom.dcmread(path).SOPInstanceUID) for path in study]
    source = table(tmp_path, "sop_uid,frame,region", f"{uids[0]},1,cord", f"{uids[1]},2,cord")
    frame = run_import(Kind.CSV, source, mapping(tmp_path, 'images = "dicom"'), intake).frame
    assert frame["sop_uid"].tolist() == uids[:1]


def test_a_row_with_more_cells_than_the_header_is_left_out(tmp_path: Path, study: list[Path], intake: Intake) -> None:
    """A comma in an unquoted cell shifts all that follow it."""
    names = [f"dicom/{path.name}" for path in study]
    source = table(tmp_path, "path,region,x0,y0,x1,y1", f"{names[0]},cord,1,2,30,40", f"{names[1]},cord,1,5,2,30,40")
    frame = run_import(Kind.CSV, source, Mapping(), intake).frame
    assert len(frame) == 1
    assert reasons(intake) == {"the row has more cells than the header": ["labels.csv, row 3"]}


def test_missing_and_unreadable_images_are_named(tmp_path: Path, study: list[Path], intake: Intake) -> None:
    (tmp_path / "text.dcm").write_text("no image", encoding="utf-8")
    whole = study[1].read_bytes()
    (tmp_path / "cut.dcm").write_bytes(whole[:200])
    source = table(
        tmp_path, "path,region", f"dicom/{study[0].name},cord", "gone.dcm,cord", "text.dcm,cord", "cut.dcm,cord"
    )
    assert len(run_import(Kind.CSV, source, Mapping(), intake).frame) == 1
    left_out = reasons(intake)
    assert left_out["the image does not exist"] == ["labels.csv, row 3: gone.dcm"]
    assert left_out["the image is no DICOM file"] == ["labels.csv, row 4: text.dcm"]
    assert any(what == ["labels.csv, row 5: cut.dcm"] for what in left_out.values())


def test_pictures_need_to_say_whose_they_are(tmp_path: Path, picture: Write, intake: Intake) -> None:
    for name in ("p1_a.png", "p1_b.png", "p2_a.png"):
        picture(name)
    source = table(tmp_path, "path,region", "p1_a.png,cord", "p1_b.png,rootlet", "p2_a.png,cord")
    assert len(run_import(Kind.CSV, source, Mapping(), intake).frame) == 0
    assert len(intake.left_out) == 3
    assert "patient_pattern" in intake.left_out[0].why
    words = Mapping(patient_pattern=r"(p\d+)_")
    named = Intake(keys=intake.keys, reader="r1", pixel_spacing_mm=0.5, patient_pattern=re.compile(r"(p\d+)_"))
    frame = run_import(Kind.CSV, source, words, named).frame
    assert frame["patient_key"].nunique() == 2
    assert frame["study_uid"].nunique() == 2
    assert frame["sop_uid"].nunique() == 3
    assert frame["fov_mm"].tolist() == [50, 50, 50]


def test_two_labels_of_one_reader_for_one_slice_are_both_left_out(
    tmp_path: Path, study: list[Path], intake: Intake
) -> None:
    names = [f"dicom/{path.name}" for path in study]
    source = table(
        tmp_path, "path,grade", f"{names[0]},A", f"{names[0]},B", f"{names[0]},A", f"{names[1]},C", f"{names[1]},C"
    )
    frame = run_import(Kind.CSV, source, Mapping(), intake).frame
    assert frame["grade"].tolist() == ["C"]
    assert {why: len(what) for why, what in reasons(intake).items()} == {
        "one reader labels one slice in several ways": 3,
        "the same label of the same slice again": 1,
    }


def test_patients_without_an_id_are_flagged_and_kept_by_study(tmp_path: Path, intake: Intake) -> None:
    from tests.unit.series.builder import write_series

    paths = write_series(tmp_path / "dicom", PatientID="")
    source = table(tmp_path, "path,region", *(f"dicom/{path.name},cord" for path in paths[:2]))
    frame = run_import(Kind.CSV, source, Mapping(), intake).frame
    assert frame["flags"].tolist() == ["patient-unknown"] * 2
    assert frame["patient_key"].nunique() == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[columns]\ngraed = 'x'", "the mapping fills graed, which no table can fill"),
        ("[columns]\ngrade = 'g'", "there is no column 'g', which the mapping names; there are path, region"),
        ("[box]\ncolumns = ['a', 'b', 'c', 'd']", "there is no column 'a' for the box"),
    ],
)
def test_a_mapping_that_does_not_fit_the_table_is_refused(
    tmp_path: Path, study: list[Path], intake: Intake, text: str, message: str
) -> None:
    source = table(tmp_path, "path,region", f"dicom/{study[0].name},cord")
    with pytest.raises(LabelError, match=re.escape(message)):
        run_import(Kind.CSV, source, mapping(tmp_path, text), intake)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colunms = 1", "mapping.toml: colunms: extra inputs"),
        ("[classes]\nx = { grade = 'E' }", "mapping.toml: classes.x.grade: "),
        ("[classes]\nx = { region = 'cord', grade = 'A' }", "region cord has no grade"),
        ("patient_pattern = 'x+'", "the pattern needs a group in parentheses"),
        ("[box", "is no TOML"),
    ],
)
def test_a_faulty_mapping_names_the_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(LabelError, match=re.escape(message)):
        mapping(tmp_path, text)
