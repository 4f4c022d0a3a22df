"""Phantom slices as the stages see them in training, drawn on the fly: item i is decided by its seed alone.

Every image passes through ``stenosis_node.grading.preprocess``, as it will in the node. Augmentation errs the way the
world does: crops that cut off context, patches centred where a detector would put them, contrast, noise. Images are
mirrored left to right but never top to bottom: roots sink to the back of the sac of a patient who lies on it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from stenosis_node.domain import Content, Grade, PixelBox
from stenosis_node.grading.manifest import LocateInput, PatchInput
from stenosis_node.grading.preprocess import UprightSlice, make_canvas, make_patch
from training.phantom.draw import draw_slice
from training.phantom.words import PhantomSlice, SliceContent

MATRICES = (224, 256, 320)
VIEWS = 2
"""Patches cut from each drawn slice: drawing costs more than a step of the network."""


@dataclass(frozen=True, slots=True)
class LocateItem:
    """A square crop at the locate spacing."""

    image: Tensor
    """float32 ``[S, S]`` in 0..1."""
    boxes: Tensor
    """float32 ``[0 or 1, 4]`` (x0, y0, x1, y1), pixel edges of the crop."""


@dataclass(frozen=True, slots=True)
class PatchItem:
    """A patch and the index of its class."""

    patch: Tensor
    """float32 ``[P, P]`` in 0..1."""
    label: int


def upright_phantom(drawn: PhantomSlice) -> UprightSlice:
    """A phantom slice as the node holds it: phantoms are drawn upright."""
    return UprightSlice(torch.from_numpy(drawn.pixels.astype(np.float32)), *drawn.spacing_mm)


class LocateSlices(Dataset[LocateItem]):
    """Crops of phantom slices for the detector, most with the canal anywhere in them, some without."""

    def __init__(self, recipe: LocateInput, *, first_seed: int, length: int, crop_px: int = 192) -> None:
        self._recipe = recipe
        self._first_seed = first_seed
        self._length = length
        self._crop = crop_px

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> LocateItem:
        rng = np.random.default_rng(self._first_seed + index)
        drawn = draw_slice(rng, matrix=int(rng.choice(MATRICES)))
        image = upright_phantom(drawn)
        canvas = make_canvas(image, self._recipe)
        box = None if drawn.box is None else canvas.from_image(drawn.box)
        return self._crop_item(vary_contrast(canvas.pixels, rng), box, rng)

    def _crop_item(
        self, pixels: Tensor, box: tuple[float, float, float, float] | None, rng: np.random.Generator
    ) -> LocateItem:
        size = self._crop
        rows, columns = pixels.shape
        pixels = F.pad(pixels, (0, max(0, size - columns), 0, max(0, size - rows)))
        rows, columns = pixels.shape
        x_low, x_high, y_low, y_high = 0, columns - size, 0, rows - size
        if box is not None and rng.random() < 0.9:  # keep the whole canal, with a margin where there is one
            x_low, x_high = _span(box[0] - 4, box[2] + 4, size, columns)
            y_low, y_high = _span(box[1] - 4, box[3] + 4, size, rows)
        x, y = int(rng.integers(x_low, x_high + 1)), int(rng.integers(y_low, y_high + 1))
        crop = pixels[y : y + size, x : x + size]
        boxes = torch.zeros(0, 4)
        if box is not None:
            moved = (box[0] - x, box[1] - y, box[2] - x, box[3] - y)
            if moved[0] >= 0 and moved[1] >= 0 and moved[2] <= size and moved[3] <= size:
                boxes = torch.tensor([moved], dtype=torch.float32)
            elif moved[0] < size and moved[1] < size and moved[2] > 0 and moved[3] > 0:
                crop = pixels.new_zeros(size, size)  # a canal cut in two is neither; an empty image is a fair negative
        if rng.random() < 0.5:
            crop = crop.flip(1)
            boxes = torch.stack((size - boxes[:, 2], boxes[:, 1], size - boxes[:, 0], boxes[:, 3]), dim=1)
        return LocateItem(crop.contiguous(), boxes)


class _Patches(Dataset[list[PatchItem]], ABC):
    """Patches around jittered canal centres, ``VIEWS`` of each drawn slice."""

    def __init__(self, recipe: PatchInput, *, first_seed: int, length: int) -> None:
        self._recipe = recipe
        self._first_seed = first_seed
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> list[PatchItem]:
        rng = np.random.default_rng(self._first_seed + index)
        drawn, label = self._draw(rng)
        patches = (jittered_patch(drawn, self._recipe, rng) for _ in range(VIEWS))
        return [PatchItem(vary_contrast(patch, rng), label) for patch in patches]

    @abstractmethod
    def _draw(self, rng: np.random.Generator) -> tuple[PhantomSlice, int]:
        """A slice and the index of its class."""


class ContentPatches(_Patches):
    """Rootlet or cord, balanced; slices at the tip of the cord are left out."""

    classes = (Content.ROOTLET, Content.CORD)

    def _draw(self, rng: np.random.Generator) -> tuple[PhantomSlice, int]:
        label = int(rng.integers(len(self.classes)))
        while True:
            drawn = draw_slice(rng, content=SliceContent(self.classes[label].value), matrix=int(rng.choice(MATRICES)))
            if not drawn.ambiguous:
                return drawn, label


class GradePatches(_Patches):
    """Grades A to D, balanced; never fat-suppressed, where C and D look the same."""

    classes = tuple(Grade)

    def _draw(self, rng: np.random.Generator) -> tuple[PhantomSlice, int]:
        label = int(rng.integers(len(self.classes)))
        drawn = draw_slice(rng, grade=self.classes[label], matrix=int(rng.choice(MATRICES)), fat_suppressed=False)
        return drawn, label


def jittered_patch(drawn: PhantomSlice, recipe: PatchInput, rng: np.random.Generator) -> Tensor:
    """A patch where a detector might centre it (1.2 mm per axis), up to 8 % too large or small, perhaps mirrored."""
    image = upright_phantom(drawn)
    box: PixelBox | None = drawn.box
    if box is None:
        raise ValueError("a patch needs a canal")
    x, y = box.center
    center = x + rng.normal(0, 1.2) / image.column_spacing_mm, y + rng.normal(0, 1.2) / image.row_spacing_mm
    scale = float(rng.uniform(0.92, 1.08))
    image = replace(
        image, row_spacing_mm=image.row_spacing_mm * scale, column_spacing_mm=image.column_spacing_mm * scale
    )
    patch = make_patch(image, center, recipe).pixels
    return patch.flip(1) if rng.random() < 0.5 else patch


def vary_contrast(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Gamma always, noise and blur-free brightness now and then; stays in 0..1."""
    image = image ** float(np.exp(rng.uniform(np.log(0.65), np.log(1.55))))
    if rng.random() < 0.3:
        noise = rng.standard_normal(tuple(image.shape), dtype=np.float32) * rng.uniform(0.01, 0.06)
        image = image + torch.from_numpy(noise)
    if rng.random() < 0.3:
        image = image * float(rng.uniform(0.8, 1.25))
    return image.clamp(0, 1)


def _span(low: float, high: float, size: int, length: int) -> tuple[int, int]:
    """First and last start of a window of ``size`` that holds [low, high] as far as the image allows."""
    first = max(0, min(int(np.ceil(high)) - size, length - size))
    last = min(length - size, max(int(np.floor(low)), 0))
    return (first, last) if first <= last else (last, last)
