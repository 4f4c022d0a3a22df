"""Patient attributes of real archives: character sets, odd values, missing attributes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from stenosis_node.domain import AxialSeries
from stenosis_node.report import check, compose
from stenosis_node.report.source import Voi, read_sources

from . import mr_study

KOREAN = "Hong^Gildong=洪^吉洞=홍^길동"
JAPANESE = "Yamada^Tarou=山田^太郎=やまだ^たろう"


def attributes(folder: Path, edit: Callable[[Dataset], None]) -> Mapping[str, str]:
    """What is read from a study whose files were edited."""
    study, _ = read_sources(mr_study.classic(folder, (1,), edit=edit).slices)
    return study.attributes


def written(series: AxialSeries) -> Dataset:
    """The SR of a study; it has passed the gate."""
    found = mr_study.findings(series, "D")
    documents = compose(found, [series], mr_study.context(found))
    check(documents, found, [series])
    return pydicom.dcmread(BytesIO(documents[-1].content))


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        (["", "ISO 2022 IR 149"], KOREAN),
        (["", "ISO 2022 IR 87"], JAPANESE),
        (["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
        ("ISO_IR 192", KOREAN),
        ("ISO_IR 100", "Müller^Jürgen"),
        ("ISO_IR 144", "Люкceмбypг"),
        (None, "Test^Ascii"),
    ],
)
def test_names_are_re_encoded_to_utf_8_without_loss(tmp_path: Path, charset: str | list[str] | None, name: str) -> None:
    def edit(ds: Dataset) -> None:
        if charset is not None:
            ds.SpecificCharacterSet = charset
        ds.PatientName = name

    series = mr_study.classic(tmp_path, (1,), edit=edit)
    ds = written(series)
    assert ds.SpecificCharacterSet == "ISO_IR 192"
    assert str(ds.PatientName) == name
    buffer = BytesIO()
    ds.save_as(buffer)
    assert name.encode() in buffer.getvalue()


def with_name(folder: Path, charset: str | list[str] | None, raw: bytes) -> AxialSeries:
    """A study whose Patient's Name has exactly these bytes."""
    marker = b"Q" * len(raw)

    def edit(ds: Dataset) -> None:
        if charset is not None:
            ds.SpecificCharacterSet = charset
        ds.PatientName = marker.decode()

    series = mr_study.classic(folder, (1,), edit=edit)
    for piece in series.slices:
        content = piece.path.read_bytes()
        assert content.count(marker) == 1
        piece.path.write_bytes(content.replace(marker, raw))
    return series


@pytest.mark.parametrize(
    ("charset", "raw", "expected"),
    [
        (
            ["", "ISO 2022 IR 58"],
            b"Zhang^Xiao=\x1b$)A" + "张^".encode("gb2312") + b"\x1b$)A" + "小东".encode("gb2312"),
            "Zhang^Xiao=张^小东",
        ),
        (["", "ISO 2022 IR 58"], b"Zhang^Xiao=" + "张^小东".encode("gb2312"), "Zhang^Xiao=张^小东"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=홍^길동".encode("euc_kr"), "Hong^Gildong=홍^길동"),
    ],
)
def test_declared_sets_with_and_without_the_escapes_they_ask_for(
    tmp_path: Path, charset: list[str], raw: bytes, expected: str
) -> None:
    series = with_name(tmp_path, charset, raw)
    assert str(written(series).PatientName) == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("홍^길동".encode(), "홍^길동"),
        ("홍^길동".encode("euc_kr"), "홍^길동".encode("euc_kr").decode("latin-1")),
        ("Müller^J".encode("latin-1"), "Müller^J"),
    ],
)
def test_undeclared_bytes_are_utf_8_or_kept_reversibly(tmp_path: Path, raw: bytes, expected: str) -> None:
    series = with_name(tmp_path, None, raw)
    assert str(written(series).PatientName) == expected


def test_bytes_that_do_not_fit_the_declared_set_are_kept_reversibly(tmp_path: Path) -> None:
    raw = "홍^길동".encode("euc_kr")

    series = with_name(tmp_path, "ISO_IR 192", raw)
    study, _ = read_sources(series.slices)
    assert study.attributes["PatientName"].encode("latin-1") == raw


@pytest.mark.parametrize(
    ("keyword", "value", "expected"),
    [
        ("PatientSex", "f", "F"),
        ("PatientSex", "W", ""),
        ("PatientSex", "UNKNOWN", ""),
        ("PatientBirthDate", "1950.01.02", "19500102"),
        ("PatientBirthDate", "19500000", ""),
        ("PatientBirthDate", "19500231", ""),
        ("PatientBirthDate", "ANON", ""),
        ("StudyTime", "10:15:00", "101500"),
        ("StudyTime", "late", ""),
        ("PatientAge", "76", None),
        ("PatientWeight", "heavy", None),
    ],
)
def test_odd_values_become_valid_or_empty(tmp_path: Path, keyword: str, value: str, expected: str | None) -> None:
    marker = "9" * len(value)
    vr = {"PatientAge": "AS", "PatientWeight": "DS", "PatientSex": "CS"}.get(keyword)

    def edit(ds: Dataset) -> None:
        with pydicom.config.disable_value_validation():
            ds.add_new(pydicom.datadict.tag_for_keyword(keyword), vr or "LO", marker)
            ds[keyword].VR = "LO"  # the bytes as a careless sender writes them
            ds[keyword].value = value

    assert attributes(tmp_path, edit).get(keyword) == expected


def test_missing_type_2_attributes_become_empty(tmp_path: Path) -> None:
    wanted = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyTime")

    def edit(ds: Dataset) -> None:
        for keyword in wanted:
            delattr(ds, keyword)
        del ds.BodyPartExamined

    ds = written(mr_study.classic(tmp_path, (1,), edit=edit))
    assert all(keyword in ds and not ds.get(keyword) for keyword in wanted)


def test_windows_are_found_where_the_source_keeps_them(tmp_path: Path) -> None:
    (tmp_path / "classic").mkdir()
    (tmp_path / "enhanced").mkdir()
    series = mr_study.classic(tmp_path / "classic", (3,))
    _, images = read_sources(series.slices)
    assert images[series.slices[0].ref].voi == Voi(500.0, 1000.0)  # the first of several
    series = mr_study.enhanced(tmp_path / "enhanced")
    _, images = read_sources(series.slices)
    assert images[series.slices[0].ref].voi == Voi(500.0, 1000.0)
    assert images[series.slices[0].ref].spacing_between_mm == 4.4


def test_a_lookup_table_is_read(tmp_path: Path) -> None:
    def edit(ds: Dataset) -> None:
        del ds.WindowCenter
        del ds.WindowWidth
        table = Dataset()
        table.add_new("LUTDescriptor", "US", [4, 100, 8])
        table.add_new("LUTData", "OW", b"\x00\x00\x10\x00\x80\x00\xff\x00")
        ds.VOILUTSequence = [table]

    series = mr_study.classic(tmp_path, (1,), edit=edit)
    _, images = read_sources(series.slices)
    assert images[series.slices[0].ref].voi == Voi(lut=(100, (0, 16, 128, 255), 8))
