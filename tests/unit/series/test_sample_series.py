"""The sample study of the project: exactly its axial T2 series is chosen, and its slabs match the truth."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stenosis_node.domain import Decision, SeriesReason
from stenosis_node.series import choose, find_files, read, scan

SAMPLE = Path(__file__).parents[3] / "sample_series"


def test_decisions() -> None:
    result = scan(find_files(SAMPLE / "dicom"))
    truth = json.loads((SAMPLE / "expected.json").read_text(encoding="utf-8"))
    assert result.unreadable == ()
    decisions = choose(result.series)
    chosen = [d.series_instance_uid for d in decisions if d.decision is Decision.GRADED]
    assert chosen == [truth["axial_t2"]["series_instance_uid"]]
    assert {d.description: d.reason for d in decisions} == {
        "t2_tse_tra": SeriesReason.CHOSEN,
        "t1_tse_tra": SeriesReason.T1_WEIGHTED,
        "t2_tse_sag": SeriesReason.LOCATOR,
        "localizer": SeriesReason.LOCALIZER,
    }


def test_slices_and_slabs_match_the_truth() -> None:
    truth = json.loads((SAMPLE / "expected.json").read_text(encoding="utf-8"))["axial_t2"]
    (headers,) = (
        series
        for series in scan(find_files(SAMPLE / "dicom")).series
        if series.series_instance_uid == truth["series_instance_uid"]
    )
    series = read(headers)
    assert [(p.ref.sop_instance_uid, p.slab) for p in series.slices] == [
        (one["sop_instance_uid"], one["slab"]) for one in truth["slices"]
    ]
    assert [piece.unreadable for piece in series.slices] == [None] * len(truth["slices"])
    heights = [piece.geometry.to_patient(160, 160)[2] for piece in series.slices]
    assert heights == pytest.approx(sorted(heights, reverse=True))
