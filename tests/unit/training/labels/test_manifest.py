"""The manifest: what is read is what was written, and every fault is named with file, row and column."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from stenosis_node.domain import Grade, PixelBox
from training.labels.errors import LabelError
from training.labels.manifest import from_rows, merge, read_manifest, side_by_side, write_manifest
from training.labels.rows import NAMES, BoxSource, LabelRow, Region

KEY, OTHER_KEY = "0" * 64, "1" * 64
ROW = LabelRow(
    study_uid="1.2",
    series_uid="1.2.3",
    sop_uid="1.2.3.4",
    path="images/a.dcm",
    patient_key=KEY,
    z_mm=-12.5,
    level="L4/L5",
    box=PixelBox(10, 20.5, 30, 40),
    box_source=BoxSource.EXPERT,
    region=Region.ROOTLET,
    grade=Grade.B,
    reader="r1",
    date="2026-01-31",
    vendor="SIEMENS",
    fov_mm=180,
)
CORD = replace(ROW, sop_uid="1.2.3.5", region=Region.CORD, grade=None, frame=2)


def problems_of(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(LabelError) as caught:
        read_manifest(path)
    return str(caught.value)


def changed(tmp_path: Path, **cells: str) -> str:
    """What is said of a CSV file whose second data row has other cells."""
    frame = from_rows([ROW, CORD], "test").astype(object)
    for name, value in cells.items():
        frame.loc[3, name] = value
    path = tmp_path / "labels.csv"
    frame.to_csv(path, index=False)
    with pytest.raises(LabelError) as caught:
        read_manifest(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: row 3, column ")
    return message.removeprefix(f"{path}: row 3, column ")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_what_is_written_is_read_again(tmp_path: Path, suffix: str) -> None:
    made = from_rows([ROW, CORD], "test")
    path = tmp_path / "new" / f"labels{suffix}"
    write_manifest(made, path)
    read = read_manifest(path)
    pd.testing.assert_frame_equal(read, made)
    assert list(read.columns) == list(NAMES)
    assert str(read["frame"].dtype) == "Int64"
    assert read["frame"].isna().tolist() == [True, False]
    assert read.loc[2, "grade_set"] == "B"
    assert read.loc[2, "split_group"] == KEY
    assert not list(path.parent.glob(".*"))


def test_uids_are_never_numbers(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    write_manifest(from_rows([replace(ROW, study_uid="1.20", series_uid="1.2", sop_uid="3")], "test"), path)
    assert read_manifest(path).loc[2, ["study_uid", "sop_uid"]].tolist() == ["1.20", "3"]


def test_a_spreadsheet_with_semicolons_byte_order_mark_and_empty_lines_is_read(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    header = "study_uid;series_uid;sop_uid;path;patient_key;reader;grade"
    rows = [f"1.2;1.3;1.{i};a.dcm;{KEY};r1;C" for i in (1, 2)]
    path.write_text("\ufeff" + "\r\n".join([header, rows[0], "", rows[1], "", ""]), encoding="utf-8")
    read = read_manifest(path)
    assert read.index.tolist() == [2, 4]
    assert read["grade_set"].tolist() == ["C", "C"]


def test_columns_of_ones_own_are_kept_and_misspelt_ones_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    frame = from_rows([ROW], "test").assign(x_sub="A3")
    write_manifest(frame, path)
    assert read_manifest(path).loc[2, "x_sub"] == "A3"
    frame.rename(columns={"grade": "graed"}).to_csv(path, index=False)
    with pytest.raises(LabelError, match="column 'graed' is unknown; did you mean grade"):
        read_manifest(path)
    frame.drop(columns="reader").to_csv(path, index=False)
    with pytest.raises(LabelError, match="column reader is missing; add it"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"sop_uid": "1.2E+10"}, "sop_uid: '1.2E+10' is no UID"),
        ({"sop_uid": ""}, "sop_uid: is empty; every row needs it"),
        ({"patient_key": "4711"}, "patient_key: is no key; a patient ID must not stand here"),
        ({"x0": "ten"}, "x0: 'ten' is no number"),
        ({"x1": "inf"}, "x1: 'inf' is no number"),
        ({"frame": "1.5"}, "frame: '1.5' is no whole number"),
        ({"frame": "0"}, "frame: 0 is no frame"),
        ({"y1": ""}, "y1: is empty though other sides of the box are given"),
        ({"x1": "5"}, "x1: 5 is not right of x0 10"),
        ({"x0": "-3"}, "x0: the box begins outside the image"),
        ({"box_source": ""}, "box_source: is empty though there is a box"),
        ({"box_source": "guess"}, "box_source: 'guess' is unknown; write one of expert, mask, weak, phantom"),
        ({"region": "root"}, "region: 'root' is unknown"),
        ({"grade": "A"}, "grade: a slice of region cord has no Schizas grade"),
        ({"region": "rootlet", "grade": "E"}, "grade: 'E' is no grade"),
        ({"region": "rootlet", "grade_set": "C,D"}, "grade_set: 'C,D' is no set of grades; write them as C|D"),
        ({"region": "rootlet", "grade": "B", "grade_set": "C|D"}, "grade_set: 'C|D' is not the grade B"),
        ({"level": "L45"}, "level: 'L45' is no level; write a disc as L4/L5"),
        ({"date": "31.01.2026"}, "date: '31.01.2026' is no date; write it as 2026-01-31"),
        ({"fov_mm": "0"}, "fov_mm: 0 mm is no width"),
        ({"flags": "Not Sure"}, "flags: 'Not Sure' is no flag"),
        ({"split_group": "elsewhere"}, "split_group: the patient of row 2 is in two groups"),
        ({"sop_uid": "1.2.3.4", "frame": ""}, "reader: r1 labels the slice of row 2 again"),
        ({"patient_key": OTHER_KEY, "split_group": ""}, "patient_key: study_uid 1.2 has another patient in row 2"),
    ],
)
def test_a_fault_is_named_with_row_and_column(tmp_path: Path, cells: dict[str, str], message: str) -> None:
    assert changed(tmp_path, **cells).startswith(message)


def test_all_faults_are_named_at_once(tmp_path: Path) -> None:
    said = changed(tmp_path, level="nowhere", date="today")
    assert "level:" in said
    assert "date:" in said


def test_files_that_are_no_manifest_are_named(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"labels\.xlsx: a manifest is a \.csv or a \.parquet file"):
        read_manifest(tmp_path / "labels.xlsx")
    with pytest.raises(LabelError, match="does not exist; 'stenosis-train import' makes a manifest"):
        read_manifest(tmp_path / "labels.csv")
    broken = tmp_path / "labels.parquet"
    broken.write_bytes(b"PAR1 or not")
    with pytest.raises(LabelError, match="cannot be read as parquet"):
        read_manifest(broken)
    assert "cannot be read as csv" in problems_of(tmp_path / "a.csv", 'study_uid,sop_uid\n1,"2\n3,4,5\n')
    assert "No columns to parse from file" in problems_of(tmp_path / "b.csv", "")
    (tmp_path / "c.csv").write_bytes("study_uid\nÄ\n".encode("latin-1"))
    with pytest.raises(LabelError, match="cannot be read as csv"):
        read_manifest(tmp_path / "c.csv")


def test_readers_are_merged_and_stand_side_by_side() -> None:
    one = from_rows([ROW, CORD], "one")
    two = from_rows([replace(ROW, reader="r2", grade=Grade.C)], "two")
    whole = merge([one, two, one])
    assert whole["reader"].tolist() == ["r1", "r1", "r2"]
    wide = side_by_side(whole)
    assert wide[["sop_uid", "r1", "r2"]].values.tolist() == [["1.2.3.4", "B", "C"], ["1.2.3.5", "", ""]]


def test_merging_refuses_two_opinions_of_one_reader_and_keys_of_two_secrets() -> None:
    one = from_rows([ROW], "one")
    with pytest.raises(LabelError, match="row 3, column reader: r1 labels the slice of row 2 again"):
        merge([one, from_rows([replace(ROW, grade=Grade.D)], "two")])
    with pytest.raises(LabelError, match="has another patient in row 2; import both with the same secret"):
        merge([one, from_rows([replace(ROW, reader="r2", patient_key=OTHER_KEY)], "two")])


def test_a_manifest_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file" / "labels.csv"
    path.parent.write_text("in the way", encoding="utf-8")
    with pytest.raises(LabelError, match="cannot be written"):
        write_manifest(from_rows([ROW], "test"), path)
