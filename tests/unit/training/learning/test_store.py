from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import pytest
import torch
from PIL import Image

from stenosis_node.domain import PixelBox, SliceGeometry, Vector
from stenosis_node.grading.preprocess import make_canvas, make_patch, make_upright
from tests.unit.training.learning.conftest import Phantoms
from training.labels.errors import LabelError
from training.labels.images import derived_uid
from training.labels.manifest import from_rows, read_manifest
from training.labels.rows import BoxSource, LabelRow, Region
from training.learning import store as store_module
from training.learning.errors import TrainingError
from training.learning.items import patch_item
from training.learning.labels import labelled
from training.learning.sampling import usable
from training.learning.series import key_of, read_stack, stacks
from training.learning.store import open_store
from training.recipes import DEFAULT, Stage, StageRecipe

SINGLE: StageRecipe = replace(DEFAULT.grade, context_slices=0)


def test_processes_that_open_a_store_at_once_prepare_it_once(
    phantoms: Phantoms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torchrun starts them; threads here, which locks of files hold apart as well."""
    built: list[Path] = []

    def build(*args: Any) -> None:
        built.append(args[2])
        time.sleep(0.3)
        real_build(*args)

    real_build = store_module._build
    monkeypatch.setattr(store_module, "_build", build)
    with ThreadPoolExecutor(3) as pool:
        opening = [pool.submit(open_store, phantoms.manifest, phantoms.path, tmp_path / "cache") for _ in range(3)]
        stores = [one.result() for one in opening]
    assert len(built) == 1
    assert {len(store.entries) for store in stores} == {len(phantoms.store.entries)}


def test_a_stack_is_read_from_head_to_foot_whatever_the_order_of_the_rows(phantoms: Phantoms) -> None:
    shuffled = phantoms.manifest.sample(frac=1, random_state=3)
    for stack in stacks(shuffled, phantoms.path):
        by_slab: dict[int, list[float]] = {}
        for piece in stack.slices:
            by_slab.setdefault(piece.slab, []).append(piece.plane.position[2])
        assert all(heights == sorted(heights, reverse=True) for heights in by_slab.values())
        assert all(piece.pixels is not None for piece in stack.slices)


def test_the_canvas_and_the_patch_are_what_the_node_sees(phantoms: Phantoms) -> None:
    store = phantoms.store
    slices = {one.key: one for one in usable(labelled(phantoms.manifest, store, "truth"), Stage.GRADE)}
    stack = next(stacks(phantoms.manifest, phantoms.path))
    compared = 0
    for piece in stack.slices:
        one = slices.get(key_of(stack.study_instance_uid, piece))
        if one is None or one.box is None or piece.pixels is None:
            continue
        image = make_upright(piece.pixels, piece.plane)
        canvas = make_canvas(image, store.locate_input).pixels.numpy()
        assert np.abs(store.canvas(one.entry) - canvas).max() < 1e-4
        node = make_patch(image, one.entry.upright(one.box).center, store.patch_input).pixels
        ours = patch_item(store, one, SINGLE, None).patch[0]
        shifted = min(
            float((torch.roll(node, (y, x), (0, 1)) - ours)[2:-2, 2:-2].abs().mean())
            for y in (-1, 0, 1)
            for x in (-1, 0, 1)
        )
        assert shifted < 0.01  # the same resampled pixels; the region's own centre is rounded, so a step aside
        compared += 1
    assert compared > 5


def test_channels_are_the_neighbours_and_the_slice_itself_at_the_end_of_a_slab(phantoms: Phantoms) -> None:
    store = phantoms.store
    slices = {one.key: one for one in labelled(phantoms.manifest, store, "truth")}
    for stack in stacks(phantoms.manifest, phantoms.path):
        for before, piece in zip((None, *stack.slices), stack.slices, strict=False):
            one = slices[key_of(stack.study_instance_uid, piece)]
            if one.entry.region_at is None:
                continue
            head, own, _ = store.region(one.entry, 1)
            alone = before is None or before.slab != piece.slab
            assert np.array_equal(head, own) == alone
            assert np.array_equal(store.region(one.entry, 0)[0], own)


def test_a_store_is_made_once_and_again_when_a_box_moves(phantoms: Phantoms, tmp_path: Path) -> None:
    few = phantoms.manifest[phantoms.manifest["study_uid"] == phantoms.manifest["study_uid"].iloc[0]]
    first = open_store(few, phantoms.path, tmp_path).folder
    assert open_store(few, phantoms.path, tmp_path).folder == first
    moved = few.copy()
    moved.loc[moved["x0"].first_valid_index(), "x0"] -= 1
    assert open_store(moved, phantoms.path, tmp_path).folder != first
    assert not list(tmp_path.glob("*.partial"))


def _vector(values: Sequence[float]) -> Vector:
    x, y, z = map(float, values)
    return x, y, z


def test_boxes_follow_an_image_that_is_stored_lying_down(phantoms: Phantoms, tmp_path: Path) -> None:
    """The same slice stored transposed and mirrored, with its header saying so, is the same to the networks."""
    row = phantoms.manifest[phantoms.manifest["x0"].notna() & (phantoms.manifest["reader"] == "truth")].iloc[[5]].copy()
    instance = pydicom.dcmread(phantoms.path.parent / row["path"].iloc[0])
    pixels = instance.pixel_array
    geometry = SliceGeometry(
        _vector(instance.ImagePositionPatient), _vector(instance.ImageOrientationPatient[:3]),
        _vector(instance.ImageOrientationPatient[3:]), instance.PixelSpacing[0], instance.PixelSpacing[1], None,
    )  # fmt: skip
    last = geometry.to_patient(pixels.shape[1] - 0.5, 0.5)  # centre of the last pixel of the first row
    instance.PixelData = np.ascontiguousarray(pixels[:, ::-1].T).tobytes()
    instance.Rows, instance.Columns = pixels.shape[::-1]
    instance.PixelSpacing = list(instance.PixelSpacing)[::-1]
    cosines = list(instance.ImageOrientationPatient)
    instance.ImageOrientationPatient = cosines[3:] + [-value for value in cosines[:3]]
    instance.ImagePositionPatient = list(last)
    instance.save_as(tmp_path / "lying.dcm")
    lying = row.copy()
    lying["path"] = "lying.dcm"
    width = pixels.shape[1]
    box = row[["x0", "y0", "x1", "y1"]].iloc[0]
    lying[["x0", "y0", "x1", "y1"]] = [box.y0, width - box.x1, box.y1, width - box.x0]
    manifest = tmp_path / "manifest.csv"
    turned = open_store(lying, manifest, tmp_path / "cache")
    straight = open_store(row, phantoms.path, tmp_path / "cache")
    (one,), (other,) = labelled(lying, turned, "truth"), labelled(row, straight, "truth")
    assert one.box is not None
    assert other.box is not None
    np.testing.assert_allclose(one.entry.upright(one.box).center, other.entry.upright(other.box).center)
    np.testing.assert_allclose(turned.canvas(one.entry), straight.canvas(other.entry), atol=1e-4)
    np.testing.assert_allclose(turned.region(one.entry, 0), straight.region(other.entry, 0), atol=1e-4)


def test_every_image_that_is_missing_or_broken_is_named_and_nothing_is_left(phantoms: Phantoms, tmp_path: Path) -> None:
    source = phantoms.path.parent
    few = phantoms.manifest[phantoms.manifest["study_uid"] == phantoms.manifest["study_uid"].iloc[0]]
    paths = list(few["path"].unique())
    for text in paths:
        (tmp_path / text).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / text, tmp_path / text)
    (tmp_path / paths[0]).write_bytes((tmp_path / paths[0]).read_bytes()[:3000])
    with pytest.raises(LabelError, match=Path(paths[0]).name):
        open_store(few, tmp_path / "manifest.csv", tmp_path / "cache")
    (tmp_path / paths[3]).unlink()
    with pytest.raises(LabelError, match=f"{Path(paths[3]).name} does not exist"):
        open_store(few, tmp_path / "manifest.csv", tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_cache_that_cannot_be_written_says_so(phantoms: Phantoms, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(TrainingError, match="free space or name another --cache"):
        open_store(phantoms.manifest, phantoms.path, tmp_path / "file")


def test_a_picture_takes_its_size_from_the_manifest(tmp_path: Path) -> None:
    drawn = np.linspace(0, 255, 200 * 320).reshape(200, 320).astype(np.uint8)
    Image.fromarray(drawn).save(tmp_path / "slice.png")
    row = LabelRow(
        study_uid="1.2", series_uid="1.3", sop_uid=derived_uid("a"), path="slice.png", patient_key="0" * 64,
        fov_mm=160.0, box=PixelBox(100, 80, 140, 120), box_source=BoxSource.MASK, region=Region.ROOTLET, reader="anna",
    )  # fmt: skip
    manifest = from_rows([row], "test")
    store = open_store(manifest, tmp_path / "manifest.csv", tmp_path / "cache")
    (one,) = labelled(manifest, store, "anna")
    assert one.entry.spacing_mm == (0.5, 0.5)
    assert store.canvas(one.entry).shape == (160, 224)
    unsized = from_rows([replace(row, fov_mm=None)], "test")
    with pytest.raises(LabelError, match=r"row 2, column fov_mm: slice\.png is a picture"):
        read_stack("1.2", "1.3", unsized, tmp_path / "manifest.csv")


def test_a_manifest_written_and_read_names_the_same_slices(phantoms: Phantoms) -> None:
    again: pd.DataFrame = read_manifest(phantoms.path)
    assert len(labelled(again, phantoms.store, "consensus")) == again.groupby(["series_uid", "sop_uid"]).ngroups
