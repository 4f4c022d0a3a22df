"""The words: boxes, geometry, and findings that survive JSON unchanged."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stenosis_node.domain import (
    BundleIdentity,
    BundleStatus,
    CanalNotFound,
    Content,
    CordSlice,
    Decision,
    Grade,
    GradedSlice,
    NotGradable,
    PixelBox,
    SeriesDecision,
    SeriesFindings,
    SeriesReason,
    SliceGeometry,
    SliceRef,
    StudyFindings,
    Unreadable,
    finding_box,
    worst,
)

score = st.floats(0, 1, allow_nan=False)
refs = st.builds(SliceRef, st.just("1.2"), st.just("1.3"), st.just("1.4"), st.none() | st.integers(1, 200))
boxes = st.builds(
    lambda x, y, w, h: PixelBox(x, y, x + w, y + h),
    st.floats(0, 500),
    st.floats(0, 500),
    st.floats(0.5, 100),
    st.floats(0.5, 100),
)
scores = st.dictionaries(st.sampled_from(Grade), score, min_size=4, max_size=4)
findings = st.one_of(
    st.builds(CanalNotFound, refs, st.integers(0, 5), st.none() | score),
    st.builds(CordSlice, refs, st.integers(0, 5), boxes, score, score),
    st.builds(GradedSlice, refs, st.integers(0, 5), boxes, score, score, st.sampled_from(Grade), scores),
    st.builds(
        NotGradable,
        refs,
        st.integers(0, 5),
        st.text(),
        st.none() | boxes,
        st.none() | score,
        st.none() | st.sampled_from(Content),
        st.none() | score,
        st.none() | scores,
    ),
    st.builds(Unreadable, refs, st.integers(0, 5), st.text()),
)


def _study(slices: tuple[object, ...]) -> StudyFindings:
    return StudyFindings(
        study_instance_uid="1.1",
        series=(SeriesFindings("1.2", slices),),  # type: ignore[arg-type]
        bundle=BundleIdentity("phantom", "1", BundleStatus.DEMONSTRATION, "ab" * 32, "research"),
        software_version="0.1.0",
        decisions=(
            SeriesDecision(
                "1.2", 4, "t2_tse_tra", 20, Decision.GRADED, SeriesReason.CHOSEN, "axial, TR 4000 ms", {"TE": "100"}
            ),
        ),
    )


@given(st.lists(findings, max_size=6).map(tuple))
def test_findings_survive_json(slices: tuple[object, ...]) -> None:
    study = _study(slices)
    text = study.to_json()
    assert StudyFindings.from_json(text) == study
    assert StudyFindings.from_json(text).to_json() == text


@pytest.mark.parametrize("break_it", ["outcome", "box", "bundle"])
def test_findings_of_another_version_are_refused(break_it: str) -> None:
    ref = SliceRef("1.2", "1.3", "1.4", None)
    tree = json.loads(_study((CordSlice(ref, 0, PixelBox(0, 0, 1, 1), 0.9, 0.9),)).to_json())
    if break_it == "outcome":
        tree["series"][0]["slices"][0]["outcome"] = "maybe"
    elif break_it == "box":
        tree["series"][0]["slices"][0]["box"]["x1"] = -1
    else:
        del tree["bundle"]
    with pytest.raises(ValueError, match=r".+"):
        StudyFindings.from_json(json.dumps(tree))


@pytest.mark.parametrize("edges", [(0, 0, 0, 1), (2, 0, 1, 1), (0, 1, 1, 1), (0, 0, math.nan, 1)])
def test_a_box_has_an_inside(edges: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match="x0 < x1"):
        PixelBox(*edges)


def test_worst_orders_by_severity() -> None:
    assert worst([Grade.B, Grade.D, Grade.A]) is Grade.D
    assert worst([]) is None


def test_finding_box_of_each_outcome() -> None:
    ref = SliceRef("1.2", "1.3", "1.4", None)
    box = PixelBox(0, 0, 1, 1)
    assert finding_box(CanalNotFound(ref, 0, 0.1)) is None
    assert finding_box(Unreadable(ref, 0, "truncated")) is None
    assert finding_box(CordSlice(ref, 0, box, 0.9, 0.9)) == box
    assert finding_box(NotGradable(ref, 0, "low score", None, None)) is None


def test_geometry_maps_pixel_edges_to_the_patient() -> None:
    geometry = SliceGeometry((-100.0, -90.0, 30.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), 0.5, 0.8, 4.0)
    assert geometry.normal == (0.0, 0.0, 1.0)
    # the centre of the top-left pixel is (0.5, 0.5) in edges and lies at Image Position (Patient)
    assert geometry.to_patient(0.5, 0.5) == (-100.0, -90.0, 30.0)
    # ten columns to the right are ten column spacings, ten rows down ten row spacings: the pair is never swapped
    assert geometry.to_patient(10.5, 0.5) == pytest.approx((-92.0, -90.0, 30.0))
    assert geometry.to_patient(0.5, 10.5) == pytest.approx((-100.0, -85.0, 30.0))
