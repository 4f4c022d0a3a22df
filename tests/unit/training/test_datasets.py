from __future__ import annotations

import numpy as np
import torch

from stenosis_node.domain import PixelBox
from stenosis_node.grading.manifest import LocateInput, PatchInput
from training.datasets import (
    VIEWS,
    ContentPatches,
    GradePatches,
    LocateSlices,
    jittered_patch,
    vary_contrast,
)
from training.phantom.words import PhantomSlice, SliceContent, SliceKind


def _half_bright(rows_bright: slice, columns_bright: slice) -> PhantomSlice:
    pixels = np.full((128, 128), 100, np.uint16)
    pixels[rows_bright, columns_bright] = 1000
    return PhantomSlice(
        pixels=pixels, spacing_mm=(1.0, 1.0), box=PixelBox(56, 58, 72, 70), sac=None, content=SliceContent.ROOTLET,
        grade=None, subgrade=None, level="L4", kind=SliceKind.DISC,
    )  # fmt: skip


def test_an_item_is_decided_by_its_seed() -> None:
    slices = LocateSlices(LocateInput(), first_seed=100, length=3)
    assert len(slices) == 3
    assert torch.equal(slices[2].image, LocateSlices(LocateInput(), first_seed=102, length=1)[0].image)
    assert not torch.equal(slices[0].image, slices[1].image)


def test_crops_hold_the_whole_canal_or_none() -> None:
    slices = LocateSlices(LocateInput(), first_seed=0, length=24, crop_px=192)
    items = [slices[index] for index in range(len(slices))]
    for item in items:
        assert item.image.shape == (192, 192)
        assert 0 <= item.image.min() <= item.image.max() <= 1
        for x0, y0, x1, y1 in item.boxes.tolist():
            assert 0 <= x0 < x1 <= 192
            assert 0 <= y0 < y1 <= 192
            assert 4 < (x1 - x0) * 0.75 < 40
    with_canal = sum(len(item.boxes) for item in items)
    assert 12 <= with_canal < len(items)


def test_boxes_stay_on_the_sac_through_crop_and_mirror() -> None:
    """CSF makes the true box brighter than its surroundings in most slices; a box that is off is not."""
    slices = LocateSlices(LocateInput(), first_seed=500, length=40)
    brighter = total = 0
    for index in range(len(slices)):
        item = slices[index]
        for x0, y0, x1, y1 in item.boxes.round().int().tolist():
            ring = item.image[max(0, y0 - 5) : y1 + 5, max(0, x0 - 5) : x1 + 5]
            brighter += bool(item.image[y0:y1, x0:x1].mean() > ring.mean())
            total += 1
    assert brighter / total > 0.7


def test_patches_are_balanced_views_of_one_slice() -> None:
    for kind, classes in ((ContentPatches, 2), (GradePatches, 4)):
        patches = kind(PatchInput(), first_seed=7, length=16)
        drawn = [patches[index] for index in range(len(patches))]
        assert all(len(views) == VIEWS for views in drawn)
        assert all(view.patch.shape == (96, 96) and view.label == views[0].label for views in drawn for view in views)
        assert {views[0].label for views in drawn} == set(range(classes))


def test_patches_are_mirrored_left_to_right_but_never_top_to_bottom() -> None:
    rng = np.random.default_rng(3)
    front = [jittered_patch(_half_bright(slice(0, 64), slice(None)), PatchInput(), rng) for _ in range(30)]
    assert all(patch[:40].mean() > patch[-40:].mean() for patch in front)
    left = [jittered_patch(_half_bright(slice(None), slice(0, 64)), PatchInput(), rng) for _ in range(30)]
    assert {bool(patch[:, :40].mean() > patch[:, -40:].mean()) for patch in left} == {True, False}


def test_contrast_varies_within_bounds() -> None:
    rng = np.random.default_rng(0)
    image = torch.rand(32, 32)
    varied = [vary_contrast(image, rng) for _ in range(20)]
    assert all(v.min() >= 0 and v.max() <= 1 for v in varied)
    assert len({round(float(v.mean()), 5) for v in varied}) > 10
