"""Training items: a slice as a network sees it, strayed as the recipe allows. Item and seed decide everything.

Spatial changes and noise are torchvision transforms (v2) on the canvas with its box, or on the region around the canal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from stenosis_node.grading.manifest import PatchInput
from stenosis_node.grading.preprocess import window
from training.learning.labels import LabelledSlice
from training.learning.store import SliceStore
from training.recipes import Augmentation, Stage, StageRecipe

CROP_PX: Final = 192
"""Side of the crop the detector trains on: 144 mm."""
_CANAL_SHARE: Final = 0.9
"""Of crops, those placed so that they hold the whole canal."""
_CANAL_MARGIN_PX: Final = 4.0


@dataclass(frozen=True, slots=True)
class LocateItem:
    """A square crop at the locate spacing, or the whole canvas in validation."""

    image: Tensor
    """float32 ``[H, W]`` in 0..1."""
    boxes: Tensor
    """float32 ``[0 or 1, 4]`` (x0, y0, x1, y1), pixel edges of the image."""


@dataclass(frozen=True, slots=True)
class PatchItem:
    """A patch and what readers say of it."""

    patch: Tensor
    """float32 ``[1 + 2 * context, P, P]`` in 0..1."""
    target: Tensor
    """float32 ``[classes]``: shares that add up to 1."""


@dataclass(frozen=True, slots=True)
class Draw:
    """One turn of a slice in an epoch."""

    slice: LabelledSlice
    seed: int | None
    """Of its augmentation; None: as it is."""


class Items(Dataset[LocateItem | PatchItem]):
    """The turns of an epoch as a dataset."""

    def __init__(self, store: SliceStore, recipe: StageRecipe, draws: Sequence[Draw]) -> None:
        self._store = store
        self._recipe = recipe
        self._draws = draws

    def __len__(self) -> int:
        return len(self._draws)

    def __getitem__(self, index: int) -> LocateItem | PatchItem:
        draw = self._draws[index]
        with torch.random.fork_rng(devices=[]):
            if draw.seed is not None:
                torch.manual_seed(draw.seed)
            augmentation = None if draw.seed is None else self._recipe.augmentation
            if self._recipe.stage is Stage.LOCATE:
                return locate_item(self._store, draw.slice, augmentation)
            return patch_item(self._store, draw.slice, self._recipe, augmentation)


def locate_item(store: SliceStore, one: LabelledSlice, augmentation: Augmentation | None) -> LocateItem:
    """The canvas with the readers' box; in training an augmented crop of it. ValueError without a box."""
    if one.box is None:
        raise ValueError(f"slice {one.key} has no box")
    entry = one.entry
    box, x, y = entry.upright(one.box), entry.columns_per_px, entry.rows_per_px
    pixels = torch.from_numpy(store.canvas(entry))
    boxes = torch.tensor([[box.x0 / x, box.y0 / y, box.x1 / x, box.y1 / y]])
    if augmentation is None:
        return LocateItem(pixels, boxes)
    image, turned = _stray(pixels[None], boxes, augmentation, store.locate_input.spacing_mm)
    crop, kept = _crop(image[0], turned)
    return LocateItem(vary(crop, augmentation), kept)


def patch_item(
    store: SliceStore, one: LabelledSlice, recipe: StageRecipe, augmentation: Augmentation | None
) -> PatchItem:
    """The patch around the readers' box. ValueError without a box or without a label of the stage."""
    target = one.regions if recipe.stage is Stage.CLASSIFY else one.grades
    if target is None:
        raise ValueError(f"slice {one.key} has no label for {recipe.stage}")
    hardened = torch.tensor(target, dtype=torch.float32)
    if not recipe.soft_labels:
        index = one.region if recipe.stage is Stage.CLASSIFY else one.grade
        hardened = F.one_hot(torch.tensor(index), len(target)).float()
    region = _around(
        torch.from_numpy(store.region(one.entry, recipe.context_slices)), _offset_px(one, store.patch_input)
    )
    if augmentation is not None:
        region, _ = _stray(region, None, augmentation, store.patch_input.spacing_mm)
    patch = v2.functional.center_crop(region, [store.patch_input.width_px])
    patch = torch.stack([window(channel, store.patch_input.window) for channel in patch])
    return PatchItem(patch if augmentation is None else vary(patch, augmentation), hardened)


def vary(image: Tensor, augmentation: Augmentation) -> Tensor:
    """Contrast and noise; stays in 0..1. The channels of a patch share the contrast."""
    if augmentation.gamma:
        image = image ** float(torch.empty(1).uniform_(-augmentation.gamma, augmentation.gamma).exp())
    if augmentation.noise:
        sigma = float(torch.rand(1)) * augmentation.noise
        shaped = image if image.ndim == 3 else image[None]
        noisy: Tensor = v2.functional.gaussian_noise(shaped, sigma=sigma, clip=True)
        image = noisy.view_as(image)
    return image


def _stray(image: Tensor, boxes: Tensor | None, augmentation: Augmentation, spacing_mm: float) -> tuple[Tensor, Tensor]:
    """Turn, scale, shift and mirror ``[C, H, W]`` and its boxes together."""
    rows, columns = image.shape[-2:]
    shift = augmentation.translate_mm / spacing_mm
    steps: list[v2.Transform] = []
    if augmentation.rotation_deg or augmentation.scale or shift:
        steps.append(
            v2.RandomAffine(
                degrees=augmentation.rotation_deg,
                translate=(min(1.0, shift / columns), min(1.0, shift / rows)) if shift else None,
                scale=(1 - augmentation.scale, 1 + augmentation.scale) if augmentation.scale else None,
                interpolation=v2.InterpolationMode.BILINEAR,
            )
        )
    steps.append(v2.RandomHorizontalFlip(augmentation.flip))
    given = torch.zeros(0, 4) if boxes is None else boxes
    marked = tv_tensors.BoundingBoxes(given, format="XYXY", canvas_size=(rows, columns))
    turned, moved = v2.Compose(steps)(tv_tensors.Image(image), marked)
    return turned.as_subclass(Tensor), moved.as_subclass(Tensor)


def _crop(pixels: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """A square from anywhere, mostly one that holds the canal. A canal cut in two is neither: the crop is empty."""
    rows, columns = pixels.shape
    pixels = F.pad(pixels, (0, max(0, CROP_PX - columns), 0, max(0, CROP_PX - rows)))
    rows, columns = pixels.shape
    x0, y0, x1, y1 = boxes[0].tolist()
    x_low, x_high, y_low, y_high = 0, columns - CROP_PX, 0, rows - CROP_PX
    if float(torch.rand(1)) < _CANAL_SHARE:
        x_low, x_high = _span(x0 - _CANAL_MARGIN_PX, x1 + _CANAL_MARGIN_PX, columns)
        y_low, y_high = _span(y0 - _CANAL_MARGIN_PX, y1 + _CANAL_MARGIN_PX, rows)
    x, y = int(torch.randint(x_low, x_high + 1, (1,))), int(torch.randint(y_low, y_high + 1, (1,)))
    crop = pixels[y : y + CROP_PX, x : x + CROP_PX]
    moved = (x0 - x, y0 - y, x1 - x, y1 - y)
    if min(moved[:2]) >= 0 and max(moved[2:]) <= CROP_PX:
        return crop.contiguous(), torch.tensor([moved])
    if moved[0] < CROP_PX and moved[1] < CROP_PX and moved[2] > 0 and moved[3] > 0:
        crop = torch.zeros(CROP_PX, CROP_PX)
    return crop.contiguous(), torch.zeros(0, 4)


def _span(low: float, high: float, length: int) -> tuple[int, int]:
    """First and last start of a crop that holds [low, high] as far as the image allows."""
    first = max(0, min(int(high + 0.999) - CROP_PX, length - CROP_PX))
    last = min(length - CROP_PX, max(int(low), 0))
    return (first, last) if first <= last else (last, last)


def _offset_px(one: LabelledSlice, patch: PatchInput) -> tuple[float, float]:
    """Centre of this chain's box from the centre of the region, (x, y) in patch pixels."""
    if one.box is None or one.entry.region_center is None:
        return 0.0, 0.0
    x, y = one.entry.upright(one.box).center
    row_mm, column_mm = one.entry.upright_spacing_mm
    return (
        (x - one.entry.region_center[0]) * column_mm / patch.spacing_mm,
        (y - one.entry.region_center[1]) * row_mm / patch.spacing_mm,
    )


def _around(region: Tensor, offset: tuple[float, float]) -> Tensor:
    """The largest square of a region whose middle is ``offset`` pixels from the region's."""
    side = region.shape[-1]
    x, y = (min(max(side // 2 + round(step), side // 4), side - side // 4) for step in offset)
    half = min(x, side - x, y, side - y)
    return region[..., y - half : y + half, x - half : x + half]
