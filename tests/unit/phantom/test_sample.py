"""``sample_series/``: complete, small, clear, and the same when it is drawn again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread

from training.phantom import GENERATOR_VERSION
from training.phantom.sample import MARGINS, WISHES, write_sample
from training.phantom.seeds import SAMPLE_SEED

SAMPLE = Path(__file__).parents[3] / "sample_series"


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    return json.loads((SAMPLE / "expected.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def test_it_holds_every_content_and_grade_clearly(expected: dict[str, Any]) -> None:
    slices = expected["axial_t2"]["slices"]

    assert {s["grade"] for s in slices if s["content"] == "rootlet"} == set("ABCD")
    assert sum(s["content"] == "cord" for s in slices) >= 3
    assert not any(s["ambiguous"] or s["fat_suppressed"] or s["content"] == "other" for s in slices)
    assert len({s["slab"] for s in slices}) == len(WISHES.slab_discs)


def test_expected_json_names_the_files(expected: dict[str, Any]) -> None:
    for s in expected["axial_t2"]["slices"]:
        ds = dcmread(SAMPLE / s["path"], stop_before_pixels=True)
        assert ds.SOPInstanceUID == s["sop_instance_uid"]
    assert expected["seed"] == SAMPLE_SEED
    assert 1 <= int(expected["generator_version"]) <= int(GENERATOR_VERSION)
    assert expected["margins"] == MARGINS
    files = list((SAMPLE / "dicom").rglob("*.dcm"))
    assert len({dcmread(f, stop_before_pixels=True).SeriesInstanceUID for f in files}) == 1 + len(expected["decoys"])
    assert sum(p.stat().st_size for p in SAMPLE.rglob("*") if p.is_file()) < 8e6


def test_drawn_again_it_is_the_same_or_of_a_newer_generator(expected: dict[str, Any], tmp_path: Path) -> None:
    """The truth exactly and pixels up to the rounding of another processor; with a newer generator, as clear."""
    again = write_sample(tmp_path)

    assert sorted(p.name for p in tmp_path.iterdir()) == ["dicom", "expected.json"]
    slices = again["axial_t2"]["slices"]
    assert {s["grade"] for s in slices if s["content"] == "rootlet"} == set("ABCD")
    assert sum(s["content"] == "cord" for s in slices) >= 3
    assert [s["level"] for s in slices] == [s["level"] for s in expected["axial_t2"]["slices"]]
    if expected["generator_version"] != GENERATOR_VERSION:
        return
    assert again == expected
    for s in expected["axial_t2"]["slices"][::5]:
        old, new = (dcmread(folder / s["path"]).pixel_array.astype(int) for folder in (SAMPLE, tmp_path))
        assert np.abs(old - new).max() <= 2
