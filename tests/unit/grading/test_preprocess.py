from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from stenosis_node.domain import PixelBox, SliceGeometry, Vector
from stenosis_node.grading.manifest import LocateInput, PatchInput, Window
from stenosis_node.grading.preprocess import (
    Orientation,
    UprightSlice,
    has_contrast,
    make_canvas,
    make_context_patch,
    make_patch,
    make_upright,
    window,
)

AXES: list[tuple[Vector, Vector]] = [
    (row, column)
    for a, b in itertools.product((1.0, -1.0), (1.0, -1.0))
    for row, column in (((a, 0.0, 0.0), (0.0, b, 0.0)), ((0.0, a, 0.0), (b, 0.0, 0.0)))
]
"""The eight ways an axial slice can be stored."""

PATIENT_BOX = (-14.0, -3.0, 22.0, 9.0)
"""A bright block in the patient: left and right side, front and back, mm. Not symmetric in any way."""


def _geometry(row: Vector, column: Vector, shape: tuple[int, int], spacing: tuple[float, float]) -> SliceGeometry:
    """Geometry whose image is centred on the patient's origin."""
    rows, columns = shape
    corner = (
        np.zeros(3) - np.array(row) * (columns - 1) / 2 * spacing[1] - np.array(column) * (rows - 1) / 2 * spacing[0]
    )
    return SliceGeometry(tuple(corner), row, column, *spacing, 4.0)


def _draw(geometry: SliceGeometry, shape: tuple[int, int]) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    position = (
        np.array(geometry.position)
        + np.multiply.outer(x * geometry.column_spacing_mm, geometry.row_direction)
        + np.multiply.outer(y * geometry.row_spacing_mm, geometry.column_direction)
    )
    left, front, right, back = PATIENT_BOX
    inside = (
        (position[..., 0] > left) & (position[..., 0] < right) & (position[..., 1] > front) & (position[..., 1] < back)
    )
    return np.where(inside, 900.0, 100.0).astype(np.float32)


def _bright(image: torch.Tensor) -> PixelBox:
    ys, xs = np.nonzero(image.numpy() > image.numpy().mean() + 0.3 * (image.numpy().max() - image.numpy().mean()))
    return PixelBox(float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1))


@pytest.mark.parametrize(("row", "column"), AXES)
def test_every_orientation_is_turned_upright_and_boxes_map_back(row: Vector, column: Vector) -> None:
    shape, spacing = (160, 200), (0.9, 0.5)
    geometry = _geometry(row, column, shape, spacing)
    stored = _draw(geometry, shape)
    upright = make_upright(stored, geometry)

    box = _bright(upright.pixels)
    height, width = upright.field_mm
    left_mm = box.x0 * upright.column_spacing_mm - width / 2
    front_mm = box.y0 * upright.row_spacing_mm - height / 2
    assert left_mm == pytest.approx(PATIENT_BOX[0], abs=1.0)  # image left is patient right (negative x)
    assert front_mm == pytest.approx(PATIENT_BOX[1], abs=1.0)  # image top is the front (negative y)
    assert upright.to_stored(box) == _bright(torch.from_numpy(stored))


@pytest.mark.parametrize(("row", "column"), AXES)
@pytest.mark.parametrize("spacing", [(0.4, 0.4), (1.1, 0.6), (0.7, 1.3)])
def test_a_box_on_the_canvas_maps_back_to_the_stored_pixels(
    row: Vector, column: Vector, spacing: tuple[float, float]
) -> None:
    shape = (150, 170)
    geometry = _geometry(row, column, shape, spacing)
    stored = _draw(geometry, shape)
    upright = make_upright(stored, geometry)
    canvas = make_canvas(upright, LocateInput())

    assert all(side % 32 == 0 for side in canvas.pixels.shape)
    found = _bright(canvas.pixels)
    back = upright.to_stored(canvas.to_image((found.x0, found.y0, found.x1, found.y1)))
    truth = _bright(torch.from_numpy(stored))
    for edge, true_edge, mm in zip(
        (back.x0, back.y0, back.x1, back.y1),
        (truth.x0, truth.y0, truth.x1, truth.y1),
        (spacing[1], spacing[0]) * 2,
        strict=True,
    ):
        assert abs(edge - true_edge) * mm < 0.8


def test_canvas_boxes_round_trip_exactly() -> None:
    canvas = make_canvas(UprightSlice(torch.rand(97, 131), 0.83, 0.61), LocateInput())
    box = PixelBox(12.25, 30.5, 60.0, 44.125)
    back = canvas.to_image(canvas.from_image(box))
    assert (back.x0, back.y0, back.x1, back.y1) == pytest.approx((box.x0, box.y0, box.x1, box.y1))


def test_tilted_slabs_are_upright_too() -> None:
    tilt = np.deg2rad(40)
    geometry = SliceGeometry((0, 0, 0), (1, 0, 0), (0, float(np.cos(tilt)), -float(np.sin(tilt))), 0.5, 0.5, 4)
    assert Orientation.of(geometry) == Orientation()


def test_patch_is_centred_on_the_canal_in_millimetres() -> None:
    pixels = torch.zeros(200, 300)
    pixels[56:68, 188:220] = 1000.0  # 12 mm high, 16 mm wide, centre (204, 62)
    image = UprightSlice(pixels, row_spacing_mm=1.0, column_spacing_mm=0.5)
    recipe = PatchInput()
    patch = make_patch(image, (204.0, 62.0), recipe)
    assert patch.pixels.shape == (96, 96)
    assert patch.inside == 1.0
    found = _bright(patch.pixels)
    assert found.center == pytest.approx((48, 48), abs=1)
    assert found.x1 - found.x0 == pytest.approx(16 / recipe.spacing_mm, abs=2)
    assert found.y1 - found.y0 == pytest.approx(12 / recipe.spacing_mm, abs=2)


@pytest.mark.parametrize(
    ("center", "inside"), [((0.0, 100.0), 0.5), ((0.0, 0.0), 0.25), ((100.0, 100.0), 1.0), ((-500.0, 50.0), 0.0)]
)
def test_patch_knows_how_much_of_it_lies_inside(center: tuple[float, float], inside: float) -> None:
    image = UprightSlice(torch.rand(200, 200) + 1, 0.5, 0.5)
    patch = make_patch(image, center, PatchInput())
    assert patch.inside == pytest.approx(inside, abs=0.02)
    assert bool((patch.pixels == 0).float().mean() >= 1 - inside - 0.02)


def test_window_is_robust_and_bounded() -> None:
    pixels = torch.linspace(100, 200, 10_000).view(100, 100).clone()
    pixels[0, 0] = 1e6
    shown = window(pixels, Window())
    assert shown.min() == 0
    assert shown.max() == 1
    assert shown[50, 0].item() == pytest.approx(0.5, abs=0.02)


def test_window_does_not_depend_on_the_units_of_the_scanner() -> None:
    image = UprightSlice(torch.rand(128, 128), 1.0, 1.0)
    other = replace(image, pixels=image.pixels * 4000 + 77)
    torch.testing.assert_close(
        make_canvas(image, LocateInput()).pixels, make_canvas(other, LocateInput()).pixels, atol=1e-4, rtol=0
    )


def test_image_without_contrast_is_black_and_known() -> None:
    image = UprightSlice(torch.full((96, 96), 512.0), 1.0, 1.0)
    assert not has_contrast(image)
    assert make_canvas(image, LocateInput()).pixels.abs().max() == 0


def test_numbers_that_are_none_do_not_spread() -> None:
    stored = np.random.default_rng(0).random((96, 96)).astype(np.float32)
    stored[3, 3], stored[4, 4] = np.nan, np.inf
    upright = make_upright(stored, _geometry((1, 0, 0), (0, 1, 0), (96, 96), (1.0, 1.0)))
    assert torch.isfinite(make_canvas(upright, LocateInput()).pixels).all()


def test_a_patch_with_context_stacks_the_neighbours_from_head_to_foot() -> None:
    above, own, below = (UprightSlice(torch.rand(200, 220) * scale, 0.5, 0.5) for scale in (1.0, 50.0, 900.0))
    center, recipe = (110.0, 90.0), PatchInput()
    patch = make_context_patch([above, own, below], center, recipe)
    assert patch.pixels.shape == (3, recipe.width_px, recipe.width_px)
    for channel, image in zip(patch.pixels, (above, own, below), strict=True):
        torch.testing.assert_close(channel, make_patch(image, center, recipe).pixels)
    assert make_context_patch([own], center, recipe).pixels.shape == (1, recipe.width_px, recipe.width_px)


def test_a_neighbour_that_is_missing_or_lies_elsewhere_is_the_slice_itself() -> None:
    own = UprightSlice(torch.rand(200, 220), 0.5, 0.5)
    other_size = UprightSlice(torch.rand(200, 200), 0.5, 0.5)
    other_spacing = UprightSlice(torch.rand(200, 220), 0.6, 0.5)
    plain = make_patch(own, (110.0, 90.0), PatchInput())
    for above, below in ((None, other_size), (other_spacing, None)):
        patch = make_context_patch([above, own, below], (110.0, 90.0), PatchInput())
        torch.testing.assert_close(patch.pixels, plain.pixels.expand(3, -1, -1))
        assert patch.inside == plain.inside
    with pytest.raises(ValueError, match="middle"):
        make_context_patch([own, None, own], (1.0, 1.0), PatchInput())
    with pytest.raises(ValueError, match="odd number"):
        make_context_patch([own, own], (1.0, 1.0), PatchInput())
