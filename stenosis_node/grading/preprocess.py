"""The one path from a stored image to what a network sees, shared by the node and training.

A slice is turned so that image left is patient right and the front of the body is up, windowed by robust percentiles
and resampled to millimetres. All steps keep track of pixel edges, so boxes map back to the stored image exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stenosis_node.domain import PixelBox, Pixels, SliceGeometry
from stenosis_node.grading.manifest import LocateInput, PatchInput, Window


@dataclass(frozen=True, slots=True)
class Orientation:
    """How a stored image is turned upright: transposed first, then flipped."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    @classmethod
    def of(cls, geometry: SliceGeometry) -> Orientation:
        """The turn after which columns run to the patient's left (+x) and rows to the back (+y), of the eight."""
        row, column = geometry.row_direction, geometry.column_direction
        transpose = abs(row[1]) + abs(column[0]) > abs(row[0]) + abs(column[1])
        across, down = (column, row) if transpose else (row, column)
        return cls(transpose, flip_rows=down[1] < 0, flip_columns=across[0] < 0)

    def turn(self, pixels: Pixels) -> Pixels:
        """The upright image, a view of the stored one."""
        image = pixels.T if self.transpose else pixels
        return image[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]

    def to_stored(self, box: PixelBox, upright_shape: tuple[int, int]) -> PixelBox:
        """A box of the upright image (``upright_shape`` rows, columns) in the stored image."""
        rows, columns = upright_shape
        x0, x1 = (columns - box.x1, columns - box.x0) if self.flip_columns else (box.x0, box.x1)
        y0, y1 = (rows - box.y1, rows - box.y0) if self.flip_rows else (box.y0, box.y1)
        return PixelBox(y0, x0, y1, x1) if self.transpose else PixelBox(x0, y0, x1, y1)


@dataclass(frozen=True, slots=True)
class UprightSlice:
    """A slice with image left = patient right and the front of the body up, still in its own pixels."""

    pixels: Tensor
    """float32 ``[rows, columns]``, finite, in the units of the scanner."""
    row_spacing_mm: float
    column_spacing_mm: float
    orientation: Orientation = Orientation()

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the upright image."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def field_mm(self) -> tuple[float, float]:
        """(height, width) of the field of view."""
        return self.shape[0] * self.row_spacing_mm, self.shape[1] * self.column_spacing_mm

    def to_stored(self, box: PixelBox) -> PixelBox:
        """A box of this image in pixel edges of the stored image."""
        return self.orientation.to_stored(box, self.shape)


def make_upright(pixels: Pixels, geometry: SliceGeometry) -> UprightSlice:
    """Turn a stored image upright."""
    orientation = Orientation.of(geometry)
    image = np.ascontiguousarray(orientation.turn(pixels), dtype=np.float32)
    row_mm, column_mm = geometry.row_spacing_mm, geometry.column_spacing_mm
    if orientation.transpose:
        row_mm, column_mm = column_mm, row_mm
    return UprightSlice(torch.from_numpy(np.nan_to_num(image, posinf=0.0, neginf=0.0)), row_mm, column_mm, orientation)


@dataclass(frozen=True, slots=True)
class Canvas:
    """The whole field of view at the locate spacing."""

    pixels: Tensor
    """float32 ``[H, W]`` in 0..1; zero beyond the image at the bottom and right."""
    columns_per_px: float
    """Columns of the upright image per canvas pixel; differs from spacing by the rounding of the size."""
    rows_per_px: float

    def to_image(self, box: tuple[float, float, float, float]) -> PixelBox:
        """A canvas box (x0, y0, x1, y1) in pixel edges of the upright image."""
        x0, y0, x1, y1 = box
        return PixelBox(
            x0 * self.columns_per_px, y0 * self.rows_per_px, x1 * self.columns_per_px, y1 * self.rows_per_px
        )

    def from_image(self, box: PixelBox) -> tuple[float, float, float, float]:
        """Inverse of :meth:`to_image`."""
        x, y = self.columns_per_px, self.rows_per_px
        return box.x0 / x, box.y0 / y, box.x1 / x, box.y1 / y


def make_canvas(image: UprightSlice, recipe: LocateInput) -> Canvas:
    """What the locate stage sees."""
    resampled = window(_resample(image, recipe.spacing_mm), recipe.window)
    rows, columns = resampled.shape
    bottom, right = -rows % recipe.multiple_px, -columns % recipe.multiple_px
    return Canvas(
        F.pad(resampled, (0, right, 0, bottom)),
        columns_per_px=image.shape[1] / columns,
        rows_per_px=image.shape[0] / rows,
    )


@dataclass(frozen=True, slots=True)
class Patch:
    """The square around the canal."""

    pixels: Tensor
    """float32 ``[P, P]`` in 0..1, or ``[1 + 2 * context, P, P]`` with neighbours; zero outside the image."""
    inside: float
    """Part of the patch that lies inside the image, 0..1."""


def make_patch(image: UprightSlice, center: tuple[float, float], recipe: PatchInput) -> Patch:
    """What the classifiers see.

    center  (x, y) in pixel edges of the upright image; the patch is centred there to half a patch pixel
    """
    resampled = _resample(image, recipe.spacing_mm)
    rows, columns = resampled.shape
    size = recipe.width_px
    left = round(center[0] * columns / image.shape[1] - size / 2)
    top = round(center[1] * rows / image.shape[0] - size / 2)
    part = resampled[max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)]
    pixels = torch.zeros(size, size)
    if part.numel():
        y, x = max(-top, 0), max(-left, 0)
        pixels[y : y + part.shape[0], x : x + part.shape[1]] = window(part, recipe.window)
    return Patch(pixels, inside=part.numel() / size**2)


def make_context_patch(images: Sequence[UprightSlice | None], center: tuple[float, float], recipe: PatchInput) -> Patch:
    """What the classifiers see of a slice and its neighbours, each windowed by its own percentiles.

    images   an odd number, from head to foot, the slice itself in the middle. A neighbour that is None (none in this
             slab, or not decoded) or does not lie in the same pixels is replaced by the slice itself
    center   as in :func:`make_patch`
    returns  a patch with pixels ``[len(images), P, P]``; a slice alone still has a channel
    """
    own = images[len(images) // 2]
    if own is None or len(images) % 2 == 0:
        raise ValueError("the slice itself stands in the middle of an odd number of images")
    patch = make_patch(own, center, recipe)
    channels = [
        make_patch(image, center, recipe).pixels
        if image is not None and image is not own and _same_grid(image, own)
        else patch.pixels
        for image in images
    ]
    return Patch(torch.stack(channels), patch.inside)


def _same_grid(one: UprightSlice, other: UprightSlice) -> bool:
    return one.shape == other.shape and bool(np.allclose(one.field_mm, other.field_mm))


def window(pixels: Tensor, percentiles: Window) -> Tensor:
    """Map two percentiles to 0 and 1 and clip; an image without contrast becomes 0."""
    low, high = np.percentile(pixels.numpy(), (percentiles.low_percentile, percentiles.high_percentile))
    if not high > low:
        return torch.zeros_like(pixels)
    return ((pixels - float(low)) / float(high - low)).clamp_(0, 1)


def has_contrast(image: UprightSlice) -> bool:
    """Whether the pixels differ at all."""
    return bool(image.pixels.min() < image.pixels.max())


def _resample(image: UprightSlice, spacing_mm: float) -> Tensor:
    """Bilinear with antialiasing; edges of the image stay edges."""
    height_mm, width_mm = image.field_mm
    size = max(1, round(height_mm / spacing_mm)), max(1, round(width_mm / spacing_mm))
    resampled: Tensor = F.interpolate(
        image.pixels[None, None], size=size, mode="bilinear", antialias=True, align_corners=False
    )
    return resampled[0, 0]
