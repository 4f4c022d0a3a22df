"""Every kind of source gives documents that pass the gate and that independent programs find no fault with."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import JPEGLSLossless, RLELossless

from stenosis_node.domain import AxialSeries
from stenosis_node.report import check, compose
from tests.conftest import require_tool

from . import mr_study
from .test_validators import DCENTVFY_ALLOWED, DCIODVFY_ALLOWED, DCMTK_ALLOWED, run

Edit = Callable[[Dataset], None]


def named(charset: str | list[str] | None, name: str, **texts: str) -> Edit:
    def edit(ds: Dataset) -> None:
        if charset is not None:
            ds.SpecificCharacterSet = charset
        ds.PatientName = name
        for keyword, text in texts.items():
            setattr(ds, keyword, text)

    return edit


def without_type_2(ds: Dataset) -> None:
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"):
        delattr(ds, keyword)
    for keyword in ("AccessionNumber", "ReferringPhysicianName", "StudyID", "BodyPartExamined", "PatientAge"):
        delattr(ds, keyword)


def odd_values(ds: Dataset) -> None:
    with pydicom.config.disable_value_validation():
        ds.add_new("PatientSex", "CS", "female")
        ds.add_new("PatientBirthDate", "DA", "19.2.1950")
        ds.add_new("StudyDate", "DA", "20260230")
        ds.add_new("StudyTime", "TM", "25:00")
        ds.add_new("PatientAge", "AS", "76")
        ds.add_new("BodyPartExamined", "CS", "Lendenwirbelsaeule, gesamt")


def private(ds: Dataset) -> None:
    block = ds.private_block(0x0029, "SYNTH", create=True)
    block.add_new(0x10, "OB", b"\x00\x01")
    block.add_new(0x11, "UN", b"anything at all ")


def inverted(ds: Dataset) -> None:
    ds.PhotometricInterpretation = "MONOCHROME1"
    ds.WindowCenter, ds.WindowWidth = ["600", "90"], ["1200", "0"]


def sigmoid_and_table(ds: Dataset) -> None:
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [256, 0, 8])
    table.LUTData = bytes(v for i in range(256) for v in (i, 0))
    ds.VOILUTSequence = [table]
    ds.VOILUTFunction = "SIGMOID"
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = "2", "-10", "US"


def lossy(ds: Dataset) -> None:
    ds.LossyImageCompression, ds.LossyImageCompressionRatio = "01", "11.3"
    ds.LossyImageCompressionMethod = "ISO_10918_1"


KINDS: dict[str, Edit] = {
    "korean": named(["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동", StudyDescription="요추"),
    "japanese": named(["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    "japanese half-width": named(["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
    "chinese": named("GB18030", "Wang^XiaoDong=王^小东", InstitutionName="北京医院"),
    "utf-8": named("ISO_IR 192", "Hong^Gildong=洪^吉洞=홍^길동"),
    "latin": named("ISO_IR 100", "Müller^Jürgen^^Dr.", InstitutionName="Krankenhaus Köln"),
    "no character set": named(None, "Doe^Jane"),
    "no type 2 attributes": without_type_2,
    "odd values": odd_values,
    "private tags": private,
    "inverted": inverted,
    "sigmoid, table, rescale": sigmoid_and_table,
    "lossy": lossy,
}


@dataclass(frozen=True)
class Made:
    images: tuple[Path, ...]
    documents: tuple[Path, ...]


def made(folder: Path, series: AxialSeries, letters: str) -> Made:
    """The documents as files, after the gate."""
    found = mr_study.findings(series, letters)
    documents = compose(found, [series], mr_study.context(found))
    check(documents, found, [series])
    paths = []
    for i, document in enumerate(documents):
        paths.append(folder / f"out-{i}-{document.kind}.dcm")
        paths[-1].write_bytes(document.content)
    return Made(tuple(sorted({s.path for s in series.slices})), tuple(paths))


def undeclared(folder: Path) -> AxialSeries:
    """Names in bytes that no Specific Character Set declares."""
    series = mr_study.classic(folder, (1,), edit=lambda ds: setattr(ds, "PatientName", "QQQQQQQQ"))
    raw = "홍^길동".encode("euc_kr").ljust(8)
    for piece in series.slices:
        piece.path.write_bytes(piece.path.read_bytes().replace(b"QQQQQQQQ", raw))
    return series


def compressed(folder: Path, syntax: str) -> AxialSeries:
    """The files as an archive stores them."""
    series = mr_study.classic(folder, (1,))
    for piece in series.slices:
        ds = pydicom.dcmread(piece.path)
        ds.compress(syntax, generate_instance_uid=False)
        ds.save_as(piece.path)
    return series


MAKERS: dict[str, Callable[[Path], AxialSeries]] = {
    **{name: lambda folder, edit=edit: mr_study.classic(folder, (1,), edit=edit) for name, edit in KINDS.items()},
    "undeclared bytes": undeclared,
    "RLE": lambda folder: compressed(folder, RLELossless),
    "JPEG-LS": lambda folder: compressed(folder, JPEGLSLossless),
    "long UIDs": lambda folder: mr_study.classic(folder, (1,), make_uid=mr_study.long_uid),
    "frames of an enhanced instance": lambda folder: mr_study.enhanced(folder, (1,)),
    "angled stacks": lambda folder: mr_study.classic(folder, (1, 1, 1)),
}


PUT_RIGHT = ("no type 2 attributes", "odd values")
NO_DIRECTORY = re.compile(r"^Warning - .* - Missing attribute or value that would be needed to build DICOMDIR$")
"""Of attributes that are empty because the source does not have them."""


@pytest.mark.parametrize("kind", list(MAKERS))
def test_documents_of_every_kind_of_source(kind: str, tmp_path: Path) -> None:
    series = MAKERS[kind](tmp_path)
    result = made(tmp_path, series, "D" + "AB"[: len(series.slices) - 1])
    allowed = DCIODVFY_ALLOWED + ((NO_DIRECTORY,) if kind in PUT_RIGHT else ())
    dciodvfy, dump = require_tool("dciodvfy", "dicom3tools"), require_tool("dsrdump", "dcmtk")
    for file in result.documents:
        lines = run(dciodvfy, "-new", file)
        assert lines, "the program said nothing: it did not run"
        assert [line for line in lines if not any(p.search(line) for p in allowed)] == []
    printed = run(dump, result.documents[-1])
    assert [line for line in printed if line[:2] in ("W:", "E:", "F:") and line != DCMTK_ALLOWED] == []


SAME_PATIENT = [k for k in MAKERS if k not in (*PUT_RIGHT, "undeclared bytes")]


@pytest.mark.parametrize("kind", SAME_PATIENT)
def test_patient_and_study_are_those_of_the_images(kind: str, tmp_path: Path) -> None:
    """What is put right on the way (odd values, absent attributes) differs by intent and is left out."""
    series = MAKERS[kind](tmp_path)
    result = made(tmp_path, series, "D" + "AB"[: len(series.slices) - 1])
    source = pydicom.dcmread(result.images[0], stop_before_pixels=True)
    for file in result.documents:
        ds = pydicom.dcmread(BytesIO(file.read_bytes()))
        assert (str(ds.PatientName), ds.PatientID) == (str(source.PatientName), source.PatientID)
        assert ds.StudyInstanceUID == source.StudyInstanceUID
        assert ds.get("StudyDescription") == source.StudyDescription


def test_dcentvfy_finds_one_patient_in_images_and_documents(tmp_path: Path) -> None:
    tool = require_tool("dcentvfy", "dicom3tools")
    series = mr_study.classic(tmp_path, (2,))
    result = made(tmp_path, series, "DA")
    lines = run(tool, *result.images, *result.documents)
    assert [line for line in lines if not DCENTVFY_ALLOWED.match(line)] == []
