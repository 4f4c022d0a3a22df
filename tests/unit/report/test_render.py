"""Pictures: grey values, proportions, marks, and nothing on the anatomy."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset

from stenosis_node.domain import BundleStatus, PixelBox, SliceGeometry
from stenosis_node.report import capture, compose, overview, render
from stenosis_node.report.outline import outline
from stenosis_node.report.source import SourceImage, Voi, read_sources

from . import mr_study
from .conftest import Result

RAMP = np.linspace(0, 1000, 64 * 64, dtype=np.float32).reshape(64, 64)


def source(voi: Voi, *, monochrome1: bool = False) -> SourceImage:
    return SourceImage(64, 64, monochrome1, voi, None, None)


def test_a_linear_window_maps_its_ends_to_black_and_white() -> None:
    shown = render.windowed(RAMP, source(Voi(500, 400)))
    assert shown[RAMP < 299].max() == 0
    assert shown[RAMP > 700].min() == 255
    assert abs(int(shown[np.unravel_index(np.abs(RAMP - 500).argmin(), RAMP.shape)]) - 128) <= 1


@pytest.mark.parametrize("function", ["LINEAR_EXACT", "SIGMOID"])
def test_other_window_functions(function: str) -> None:
    shown = render.windowed(RAMP, source(Voi(500, 400, function)))
    assert (np.diff(shown.ravel().astype(int)) >= 0).all()
    assert shown.max() > 240
    assert shown.min() < 15


def test_a_lookup_table_is_applied() -> None:
    table = tuple(min(i // 4, 255) for i in range(1001))
    shown = render.windowed(RAMP, source(Voi(lut=(0, table, 8))))
    assert abs(int(shown[32, 32]) - int(RAMP[32, 32] // 4)) <= 1


@pytest.mark.parametrize("voi", [Voi(), Voi(50000, 10), Voi(-9000, 1), Voi(500, 1e9)])
def test_without_a_usable_window_the_values_decide(voi: Voi) -> None:
    shown = render.windowed(RAMP, source(voi))
    assert shown.max() == 255
    assert shown.min() == 0
    assert 100 < shown.mean() < 156


def test_an_inverted_source_is_shown_through_its_window_and_bright_is_bright() -> None:
    """Pixels arrive already inverted; the window of the header was meant for the values before."""
    shown = render.windowed(RAMP, source(Voi(300, 400), monochrome1=True))  # 100 to 500 before, 900 to 500 now
    assert shown[RAMP < 499].max() == 0
    assert shown[RAMP > 901].min() == 255
    assert abs(int(shown[np.unravel_index(np.abs(RAMP - 700).argmin(), RAMP.shape)]) - 128) <= 1
    table = tuple(min(i // 4, 255) for i in range(1001))
    shown = render.windowed(RAMP, source(Voi(lut=(0, table, 8)), monochrome1=True))
    assert abs(int(shown[32, 32]) - (255 - int((1000 - RAMP[32, 32]) // 4))) <= 1


@pytest.mark.parametrize("voi", [Voi(), Voi(9000, 10)])
def test_an_inverted_source_without_a_usable_window_is_bright_where_it_is_bright(voi: Voi) -> None:
    shown = render.windowed(RAMP, source(voi, monochrome1=True))
    assert (shown[0, 0], shown[-1, -1]) == (0, 255)
    assert 100 < shown.mean() < 156


@pytest.mark.parametrize(("width", "function"), [(0, "LINEAR"), (1, "LINEAR"), (0, "SIGMOID"), (-5, "LINEAR_EXACT")])
def test_windows_without_width_are_ignored(tmp_path: Path, width: float, function: str) -> None:
    def edit(ds: Dataset) -> None:
        ds.WindowCenter, ds.WindowWidth, ds.VOILUTFunction = "500", str(width), function

    series = mr_study.classic(tmp_path, (1,), edit=edit)
    _, sources = read_sources(series.slices)
    shown = render.windowed(RAMP, sources[series.slices[0].ref])
    assert 100 < shown.mean() < 156
    assert np.unique(shown).size > 200


def test_values_that_are_no_numbers_do_not_spoil_a_picture() -> None:
    values = RAMP.copy()
    values[0, 0] = np.nan
    assert render.windowed(values, source(Voi())).mean() > 50
    assert render.windowed(np.full((8, 8), 7, np.float32), source(Voi())).shape == (8, 8)


def geometry(row_mm: float = 1.0, column_mm: float = 1.0) -> SliceGeometry:
    return SliceGeometry((0, 0, 0), (1, 0, 0), (0, 1, 0), row_mm, column_mm, 4)


@pytest.mark.parametrize(
    ("rows", "columns", "spacing"),
    [
        (128, 128, (1.4, 1.25)),
        (256, 208, (0.8, 0.8)),
        (640, 640, (0.3, 0.3)),
        (1024, 512, (0.2, 0.2)),
        (96, 256, (1, 1)),
    ],
)
def test_display_keeps_true_proportions(rows: int, columns: int, spacing: tuple[float, float]) -> None:
    x, y = render.display_scale(geometry(*spacing), rows, columns)
    assert (rows * y) / (columns * x) == pytest.approx((rows * spacing[0]) / (columns * spacing[1]))
    sides = sorted((rows * y, columns * x))
    assert sides[1] <= 1024.01
    assert sides[0] >= 511.9 or sides[1] == pytest.approx(1024)


@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        ((1, 0, 0), "L"),
        ((-1, 0, 0), "R"),
        ((0, 1, 0), "P"),
        ((0, 0.92, -0.39), "PF"),
        ((0, -0.99, 0.1), "A"),
        ((0, 0, 1), "H"),
    ],
)
def test_orientation_letters(direction: tuple[float, float, float], expected: str) -> None:
    assert render.letters(direction) == expected
    opposite = tuple(-v for v in direction)
    assert render.letters(opposite) == render.opposite(expected)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def drawn(good: Result) -> list[tuple[Image.Image, Image.Image, tuple[float, float, float, float]]]:
    """(picture, the plain slice, where the box is drawn) of each capture."""
    story = outline(good.findings, [good.series])
    _, sources = read_sources(good.series.slices)
    found = []
    for entry in story.entries:
        if entry.image.pixels is None or entry.finding.outcome == "canal_not_found":
            continue
        picture, scale = capture.annotated(entry, sources[entry.image.ref], BundleStatus.DEMONSTRATION)
        plain = render.enlarged(render.windowed(entry.image.pixels, sources[entry.image.ref]), scale)
        box = render.scaled_box(mr_study.BOX, scale, 0, 0)
        found.append((picture, plain, box))
    return found


def test_nothing_but_the_outline_of_the_box_lies_on_the_anatomy(
    drawn: list[tuple[Image.Image, Image.Image, tuple[float, float, float, float]]],
) -> None:
    assert len(drawn) == 9
    for picture, plain, box in drawn:
        left, top = capture.GUTTER, 30 + capture.GUTTER
        on_page = np.asarray(picture)[top : top + plain.height, left : left + plain.width]
        changed = (on_page != np.asarray(plain)).any(axis=2)
        x0, y0, x1, y1 = (round(v) for v in box)
        allowed = np.zeros_like(changed)
        allowed[y0 - 3 : y1 + 3, x0 - 3 : x1 + 3] = True
        allowed[y0:y1, x0:x1] = False  # the canal itself stays free
        assert changed.any()
        assert not (changed & ~allowed).any()


def test_pictures_use_one_colour_beside_grey(
    drawn: list[tuple[Image.Image, Image.Image, tuple[float, float, float, float]]],
) -> None:
    """Colour never carries meaning alone: whatever is coloured has the one accent's hue."""
    for picture, _, _ in drawn:
        hue, saturation, value = (np.asarray(c) for c in picture.convert("HSV").split())
        vivid = hue[(saturation > 160) & (value > 120)]
        assert vivid.size > 1000
        assert np.ptp(vivid.astype(int)) <= 6


def test_geometry_may_be_mirrored_or_turned(tmp_path: Path) -> None:
    """Marks follow the geometry, not a habit."""
    series = mr_study.classic(tmp_path, (3,))
    story = outline(mr_study.findings(series, "ABC"), [series])
    image = story.entries[0].image
    turned = SliceGeometry(image.geometry.position, (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), 1.4, 1.25, 4.0)
    assert render.letters(turned.row_direction) == "R"
    assert render.letters(turned.column_direction) == "A"


def test_close_up_shows_the_canal_even_at_the_border() -> None:
    view = render.canal_view(RAMP, geometry(), PixelBox(0, 0, 10, 8), 100)
    pixels = np.asarray(view)
    assert pixels.shape == (100, 100, 3)
    assert (pixels[:20, :20] == 0).all()


@pytest.mark.parametrize("slabs", [(1,), (40,), (3, 3), (3,) * 5, (2,) * 11])
def test_overview_of_few_and_many_slabs(tmp_path: Path, slabs: tuple[int, ...]) -> None:
    series = mr_study.classic(tmp_path, slabs)
    letters = ("ABCDc?-" * 6)[: sum(slabs)]
    story = outline(mr_study.findings(series, letters), [series])
    _, sources = read_sources(series.slices)
    page = overview.draw_overview(story, sources, "there is none")
    assert page.width >= 1000
    assert min(page.size) >= 400
    assert page.height < 2000


def test_one_row_of_window_values_is_not_needed(tmp_path: Path) -> None:
    def edit(ds: Dataset) -> None:
        ds.WindowCenter, ds.WindowWidth = None, None

    series = mr_study.classic(tmp_path, (3,), edit=edit)
    _, sources = read_sources(series.slices)
    assert sources[series.slices[0].ref].voi == Voi()


def test_pictures_are_the_same_whoever_the_patient_is(tmp_path: Path) -> None:
    """Nothing identifying is drawn: Burned In Annotation says NO."""

    def somebody_else(ds: Dataset) -> None:
        ds.PatientName, ds.PatientID, ds.AccessionNumber = "Nobody^Else", "77", "B2"
        ds.PatientBirthDate, ds.PatientSex, ds.PatientAge = "19991231", "M", "026Y"
        ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20201111"
        ds.InstitutionName, ds.StudyDescription, ds.SeriesDescription = "Elsewhere", "other", "other"

    def drawn_for(name: str, edit: Callable[[Dataset], None] | None) -> list[bytes]:
        folder = tmp_path / name
        folder.mkdir()
        series = mr_study.classic(folder, (3, 3), edit=edit)
        found = mr_study.findings(series, "ACAc?-")
        documents = compose(found, [series], mr_study.context(found), mr_study.sagittal(folder, edit=edit))
        captures = [dcmread(BytesIO(d.content)) for d in documents if d.kind in ("sc", "sc-overview")]
        assert {ds.BurnedInAnnotation for ds in captures} == {"NO"}
        return [ds.PixelData for ds in captures]

    pictures = drawn_for("somebody", None)
    assert len(pictures) == 6
    assert drawn_for("somebody else", somebody_else) == pictures
