"""The sagittal series and slice that orient the reader."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stenosis_node.domain import Decision, SagittalSlice, SeriesReason
from stenosis_node.errors import PermanentError
from stenosis_node.series import NO_LOCATOR, SeriesHeaders, choose, find_sagittal, read, read_sagittal
from tests.unit.series.builder import headers_of, uid, write_series

R = SeriesReason
SAGITTAL = [0.0, 1.0, 0.0, 0.0, 0.0, -1.0]


def sagittal(n: int = 5, *, first: float = -8.0, z: float = -15.0) -> list[tuple[list[float], Any]]:
    """Slices 4 mm apart from left to right, around the height of the axial ones."""
    return [(SAGITTAL, np.array([first + 4.0 * i, 0.0, z])) for i in range(n)]


def write_sagittal(folder: Path, name: str = "sag", places: Any = None, **changes: Any) -> list[Path]:
    return write_series(folder, name, places or sagittal(), **{"SeriesDescription": name, **changes})


def locators(folder: Path, **options: Any) -> list[str]:
    return [d.description for d in choose(headers_of(folder), **options) if d.decision is Decision.LOCATOR]


def parts(folder: Path) -> tuple[SeriesHeaders, SeriesHeaders]:
    """(locator, axial)."""
    headers = headers_of(folder)
    decisions = {d.decision: h for d, h in zip(choose(headers), headers, strict=True)}
    return decisions[Decision.LOCATOR], decisions[Decision.GRADED]


def test_decision(tmp_path: Path) -> None:
    write_series(tmp_path)
    write_sagittal(tmp_path)
    decision = next(d for d in choose(headers_of(tmp_path)) if d.description == "sag")
    assert (decision.decision, decision.reason) == (Decision.LOCATOR, R.LOCATOR)
    assert decision.sentence == (
        "Locator: sagittal T2, its middle slice can show where the slices of series 5 't2_tse_tra' lie. Not graded."
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"FrameOfReferenceUID": uid("elsewhere")},
        {"EchoTime": 11, "RepetitionTime": 500},
        {"places": sagittal(z=300)},
        {"SeriesDescription": "sag C-spine"},
        {"ImageType": ["ORIGINAL", "PRIMARY", "M", "LOCALIZER"]},
        {"Rows": 64, "Columns": 64, "PixelSpacing": [3, 3]},
    ],
)
def test_no_locator(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_series(tmp_path)
    write_sagittal(tmp_path, **changes)
    assert locators(tmp_path) == []


def test_none_without_an_axial_series(tmp_path: Path) -> None:
    write_sagittal(tmp_path)
    assert locators(tmp_path) == []


def test_a_series_that_is_not_gradable_has_one_too(tmp_path: Path) -> None:
    write_series(tmp_path, PatientPosition="HFP")
    write_sagittal(tmp_path, PatientPosition="HFP")
    assert locators(tmp_path) == ["sag"]


def test_plain_t2_before_stir_and_the_later_of_two(tmp_path: Path) -> None:
    write_series(tmp_path)
    stir = {"ScanningSequence": ["SE", "IR"], "InversionTime": 160}
    write_sagittal(tmp_path, "stir", AcquisitionTime="120000", **stir)
    assert locators(tmp_path) == ["stir"]
    write_sagittal(tmp_path, "early")
    assert locators(tmp_path) == ["early"]
    write_sagittal(tmp_path, "late", AcquisitionTime="110000")
    assert locators(tmp_path) == ["late"]


def test_the_locator_of_an_earlier_result_stays(tmp_path: Path) -> None:
    write_series(tmp_path)
    write_sagittal(tmp_path, "early")
    write_sagittal(tmp_path, "late", AcquisitionTime="110000")
    assert locators(tmp_path, locator=uid("series", "early")) == ["early"]
    assert locators(tmp_path, locator="1.2.3") == ["late"]


def test_the_slice_in_the_middle_of_the_axial_images(tmp_path: Path) -> None:
    write_series(tmp_path)
    write_sagittal(tmp_path)
    locator, axial = parts(tmp_path)
    found = find_sagittal(locator, [read(axial)])
    assert isinstance(found, SagittalSlice)
    assert found.geometry.position[0] == pytest.approx(0)
    assert float(found.pixels.flat[0]) == 3
    assert read_sagittal(locator, found.ref).pixels.tolist() == found.pixels.tolist()


def test_the_slice_in_the_middle_of_the_canal(tmp_path: Path) -> None:
    write_series(tmp_path)
    write_sagittal(tmp_path)
    locator, axial = parts(tmp_path)
    found = find_sagittal(locator, [read(axial)], [(3.0, 20.0, 0.0), (5.0, 20.0, -10.0), (60.0, 0.0, -20.0)])
    assert isinstance(found, SagittalSlice)
    assert found.geometry.position[0] == pytest.approx(4)


def test_the_next_one_when_it_cannot_be_decoded(tmp_path: Path) -> None:
    write_series(tmp_path)
    middle = write_sagittal(tmp_path)[2]
    content = middle.read_bytes()
    middle.write_bytes(content[:-2000])
    locator, axial = parts(tmp_path)
    found = find_sagittal(locator, [read(axial)])
    assert isinstance(found, SagittalSlice)
    assert abs(found.geometry.position[0]) == pytest.approx(4)


def test_why_there_is_none(tmp_path: Path) -> None:
    write_series(tmp_path)
    for path in write_sagittal(tmp_path):
        path.write_bytes(path.read_bytes()[:-2000])
    locator, axial = parts(tmp_path)
    assert find_sagittal(locator, [read(axial)]) == NO_LOCATOR


def test_axial_slices_that_were_not_decoded_do_not_pull_it_aside(tmp_path: Path) -> None:
    write_series(tmp_path, PatientPosition="HFP")
    write_sagittal(tmp_path)
    headers = headers_of(tmp_path)
    decisions = {d.decision: (d, h) for d, h in zip(choose(headers), headers, strict=True)}
    refused, axial = decisions[Decision.NOT_GRADABLE]
    found = find_sagittal(decisions[Decision.LOCATOR][1], [read(axial, decision=refused)])
    assert isinstance(found, SagittalSlice)
    assert found.geometry.position[0] == pytest.approx(0)


def test_a_slice_that_was_settled_on_and_is_gone_is_an_error(tmp_path: Path) -> None:
    write_series(tmp_path)
    write_sagittal(tmp_path)
    locator, _ = parts(tmp_path)
    gone = replace(locator.slices[0].ref, sop_instance_uid="1.2")
    with pytest.raises(PermanentError, match=r"sagittal image 1\.2, .* is not there any more; send the study again"):
        read_sagittal(locator, gone)
    with pytest.raises(PermanentError):
        read_sagittal(None, gone)
