"""Where slabs lie on a sagittal image: geometry alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stenosis_node.domain import AxialSeries, PixelBox, SliceGeometry
from stenosis_node.report import locator, overview, render
from stenosis_node.report.locator import Located, crossing, locate, spread
from stenosis_node.report.outline import outline
from stenosis_node.report.source import read_sources

from . import mr_study

SAGITTAL = SliceGeometry((0.0, -100.0, 150.0), (0.0, 1.0, 0.0), (0.0, 0.0, -1.0), 0.5, 1.0, 4.0)
"""200 columns of 1 mm from front to back, 600 rows of 0.5 mm from head to foot, in the plane x = 0."""
SIZE = (600, 200)


def axial(tilt_deg: float = 0.0, x_mm: float = -80.0, y_mm: float = -50.0, z_mm: float = 50.0) -> SliceGeometry:
    tilt = np.deg2rad(tilt_deg)
    down = (0.0, float(np.cos(tilt)), float(np.sin(tilt)))
    return SliceGeometry((x_mm, y_mm, z_mm), (1.0, 0.0, 0.0), down, 0.8, 0.8, 4.0)


FIELD = PixelBox(0, 0, 200, 100)
"""160 mm from right to left, 80 mm from front to back."""


def test_a_straight_slice_is_a_level_line_as_long_as_its_field_of_view() -> None:
    line = crossing(axial(), FIELD, SAGITTAL, SIZE)
    assert line is not None
    (x, y), (x_end, y_end) = line
    assert y == pytest.approx(y_end)
    assert y == pytest.approx((150 - 50) / 0.5 + 0.5)  # 100 mm below the centre of the first row
    assert x == pytest.approx(-50 - 0.4 + 100 + 0.5)  # the field begins half a pixel before the first centre
    assert x_end - x == pytest.approx(80)


def test_a_tilted_slice_is_an_oblique_line_through_its_true_points() -> None:
    geometry = axial(tilt_deg=20)
    line = crossing(geometry, FIELD, SAGITTAL, SIZE)
    assert line is not None
    for x, y in line:
        point = np.asarray(SAGITTAL.to_patient(x, y))
        assert point[0] == pytest.approx(0)
        assert (point - np.asarray(geometry.position)) @ np.asarray(geometry.normal) == pytest.approx(0, abs=1e-9)
    assert line[1][1] < line[0][1]  # towards the back it rises: its column direction points up


@pytest.mark.parametrize(
    ("geometry", "reason"),
    [
        (axial(x_mm=10), "wholly to the left of the sagittal plane"),
        (axial(x_mm=-300), "wholly to the right"),
        (axial(z_mm=400), "above the sagittal image"),
        (axial(y_mm=150), "behind it"),
        (SAGITTAL, "the same plane"),
        (replace(SAGITTAL, position=(3.0, -100.0, 150.0)), "parallel to it"),
    ],
)
def test_slices_that_do_not_cross_have_no_line(geometry: SliceGeometry, reason: str) -> None:
    assert crossing(geometry, FIELD, SAGITTAL, SIZE) is None, reason


def test_a_line_ends_at_the_border_of_the_sagittal_image() -> None:
    line = crossing(axial(tilt_deg=10, y_mm=-160), PixelBox(0, 0, 200, 400), SAGITTAL, SIZE)
    assert line is not None
    assert [x for x, _ in line] == [pytest.approx(0), pytest.approx(200)]
    assert all(0 <= y <= 600 for _, y in line)


def test_mirrored_and_oblique_sagittal_images_show_the_same_points() -> None:
    turn = np.deg2rad(12)
    oblique = SliceGeometry(
        (0.0, 100.0, -150.0), (float(np.sin(turn)), float(-np.cos(turn)), 0.0), (0.0, 0.0, 1.0), 0.6, 0.9, 4.0
    )
    line = crossing(axial(tilt_deg=-10), FIELD, oblique, (500, 250))
    assert line is not None
    for x, y in line:
        point = np.asarray(oblique.to_patient(x, y)) - np.asarray(axial(tilt_deg=-10).position)
        assert point @ np.asarray(axial(tilt_deg=-10).normal) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([50, 150], [50, 150]),
        ([50, 55, 60], [50, 90, 130]),
        ([2], [20]),
        ([290, 295], [240, 280]),
        ([], []),
    ],
)
def test_labels_keep_their_distance_and_stay_on_the_page(wanted: list[float], expected: list[float]) -> None:
    assert spread(wanted, 40, 300) == pytest.approx(expected)


@pytest.fixture
def study(tmp_path: Path) -> tuple[AxialSeries, Located]:
    series = mr_study.classic(tmp_path, (3, 4, 2))
    story = outline(mr_study.findings(series, "ACA" + "cccc" + "??"), [series])
    _, sources = read_sources(series.slices)
    found = locate(story, [series], mr_study.sagittal(tmp_path), sources)
    assert isinstance(found, Located)
    return series, found


def test_each_slab_has_its_line_and_letter(study: tuple[AxialSeries, Located]) -> None:
    series, found = study
    assert [locator.mark_letter(mark.slab) for mark in found.marks] == ["C", "s", "?"]
    assert [len(mark.borders) for mark in found.marks] == [2, 2, 1]
    heights = [(mark.key[0][1] + mark.key[1][1]) / 2 for mark in found.marks]
    assert heights == sorted(heights)
    first = found.marks[0]
    worst = series.slices[1].plane  # the image of grade C: its line goes through its own plane
    for x, y in first.key:
        apart = np.asarray(found.slice.geometry.to_patient(x, y)) - np.asarray(worst.position)
        assert apart @ np.asarray(worst.normal) == pytest.approx(0, abs=1e-6)
    assert first.gap is not None
    assert first.key[0][0] < first.gap[0][0] < first.gap[1][0] < first.key[1][0]


def test_the_whole_height_is_on_the_page_and_the_canal_stays_free(study: tuple[AxialSeries, Located]) -> None:
    _, found = study
    height = 800
    page = Image.new("RGB", (900, height + 2 * locator.RIM), render.PAPER)
    locator.draw_panel(page, found, (0, 0), height, found.source.name)
    plain = replace(found, marks=())
    without = Image.new("RGB", page.size, render.PAPER)
    locator.draw_panel(without, plain, (0, 0), height, found.source.name)
    wide = locator.panel_width(found, height) - locator.LABELS
    changed = (np.asarray(page) != np.asarray(without)).any(axis=2)[locator.RIM : locator.RIM + height, :wide]
    assert changed.any()
    scale = height / found.source.rows
    mark = found.marks[0]
    assert mark.gap is not None
    middle = [(a + b) / 2 for a, b in zip(*mark.gap, strict=True)]
    left = min(max(found.center_x - wide / scale / 2, 0), found.source.columns - wide / scale)
    x, y = round((middle[0] - left) * scale), round(middle[1] * scale)
    assert not changed[y - 4 : y + 5, x - 4 : x + 5].any()


@pytest.mark.parametrize("slabs", [(1,), (3, 4), (2,) * 6, (2,) * 11])
def test_pages_of_few_and_many_slabs(tmp_path: Path, slabs: tuple[int, ...]) -> None:
    series = mr_study.classic(tmp_path, slabs)
    story = outline(mr_study.findings(series, ("ABCDc?-" * 6)[: sum(slabs)]), [series])
    _, sources = read_sources(series.slices)
    found = locate(story, [series], mr_study.sagittal(tmp_path, spacing=2.5), sources)
    page = overview.draw_overview(story, sources, found)
    assert 760 < page.height < 2000
    assert page.width < 2000


def test_a_whole_spine_and_a_tiny_sagittal_image(tmp_path: Path) -> None:
    series = mr_study.classic(tmp_path, (3,))
    story = outline(mr_study.findings(series, "ABC"), [series])
    _, sources = read_sources(series.slices)
    sagittal = mr_study.sagittal(tmp_path, spacing=6.0)  # 960 mm high
    found = locate(story, [series], sagittal, sources)
    assert isinstance(found, Located)
    assert overview.draw_overview(story, sources, found).height < 1100
    far = replace(sagittal, geometry=replace(sagittal.geometry, position=(500.0, 0.0, 0.0)))
    assert locate(story, [series], far, sources) == "no axial image crosses the sagittal slice"
