"""From files of every kind to proven documents: scanned, chosen, decoded, composed, past the gate and dciodvfy."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from stenosis_node.domain import AxialSeries, Decision
from stenosis_node.report import check, compose
from stenosis_node.series import choose, find_files, read, scan
from tests.conftest import require_tool
from tests.unit.series.builder import enhanced_instance, save, stack, t2_instance, write_series
from tests.unit.series.test_vendors import VENDORS

from . import mr_study
from .test_sources_validated import NO_DIRECTORY
from .test_validators import DCIODVFY_ALLOWED, run

SYNTAXES = {"RLE": RLELossless, "JPEG-LS": JPEGLSLossless, "JPEG 2000": JPEG2000Lossless}
TILTED = stack(3, top=(0, 0, 40)) + stack(3, tilt=20)
N = len(TILTED)


def pictures(n: int) -> np.ndarray:
    """uint16 [n, rows, columns]."""
    return np.stack([mr_study.picture(i) for i in range(n)])


def compressed(dataset: FileDataset, syntax: str) -> FileDataset:
    dataset.compress(syntax, generate_instance_uid=False)
    return dataset


def enhanced(folder: Path, *, vendor: str = "philips", syntax: str | None = None) -> None:
    dataset = enhanced_instance("e", TILTED, pictures(N))
    VENDORS[vendor](dataset)
    save(folder, compressed(dataset, syntax) if syntax else dataset)


def classic(folder: Path, *, syntax: str | None = None, **changes: object) -> None:
    for i, (orientation, center) in enumerate(TILTED):
        dataset = t2_instance("s", i, orientation, center, pixels=mr_study.picture(i), **changes)
        save(folder, compressed(dataset, syntax) if syntax else dataset)


def two_blocks(folder: Path) -> None:
    for name, top, number in (("upper", 60.0, 5), ("lower", -20.0, 6)):
        write_series(folder, name, stack(4, top=(0, 0, top)), SeriesNumber=number, SeriesDescription=name)


def one_compressed_slice_cut_off(folder: Path) -> None:
    classic(folder, syntax=JPEGLSLossless)
    path = min(folder.iterdir())
    path.write_bytes(path.read_bytes()[:-2000])


KINDS: dict[str, Callable[[Path], None]] = {
    **{f"classic, {name}": lambda f, s=syntax: classic(f, syntax=s) for name, syntax in SYNTAXES.items()},
    **{f"enhanced, {name}": lambda f, s=syntax: enhanced(f, syntax=s) for name, syntax in SYNTAXES.items()},
    **{f"enhanced, {vendor}": lambda f, v=vendor: enhanced(f, vendor=v) for vendor in VENDORS},
    "two blocks": two_blocks,
    "inverted": lambda f: classic(f, PhotometricInterpretation="MONOCHROME1", RescaleSlope=2, RescaleIntercept=-10),
    "feet first": lambda f: classic(f, PatientPosition="FFS"),
    "rows from front to back": lambda f: write_series(f, places=[([0, 1, 0, 1, 0, 0], c) for _, c in stack(6)]),
    "a slice cut off": one_compressed_slice_cut_off,
}


def graded(folder: Path) -> tuple[AxialSeries, ...]:
    headers = {one.series_instance_uid: one for one in scan(find_files(folder)).series}
    decisions = choose(list(headers.values()))
    assert {d.decision for d in decisions} == {Decision.GRADED}, decisions
    found = [read(headers[d.series_instance_uid], decision=d) for d in decisions]
    return tuple(sorted(found, key=lambda one: one.series_number or 0))


@pytest.mark.parametrize("kind", KINDS)
def test_from_files_to_documents(kind: str, tmp_path: Path) -> None:
    tool = require_tool("dciodvfy", "dicom3tools")
    (tmp_path / "in").mkdir()
    KINDS[kind](tmp_path / "in")
    series = graded(tmp_path / "in")
    letters = [
        "".join("x" if piece.pixels is None else "ACB-?c"[i % 6] for i, piece in enumerate(one.slices))
        for one in series
    ]
    assert sum(row.count("x") for row in letters) == (kind == "a slice cut off")
    found = mr_study.findings(series, letters)

    documents = compose(found, series, mr_study.context(found))

    check(documents, found, series)
    for document in (documents[0], documents[1], *documents[-2:]):
        (tmp_path / "out.dcm").write_bytes(document.content)
        lines = run(tool, "-new", tmp_path / "out.dcm")
        assert lines, "the program said nothing: it did not run"
        assert [line for line in lines if not any(p.search(line) for p in (*DCIODVFY_ALLOWED, NO_DIRECTORY))] == []
    report = pydicom.dcmread(BytesIO(documents[-1].content))
    assert report.CompletionFlag == ("PARTIAL" if kind == "a slice cut off" else "COMPLETE")
    assert len(report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence) == len(series)
