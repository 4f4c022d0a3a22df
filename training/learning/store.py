"""What the networks see of each labelled slice, computed once and kept on disk: nothing but augmentation is left.

Per slice a canvas (the whole field of view at the locate spacing) and, where anyone drew a box, a region: the canal
with a margin for rotation and shift at the patch spacing, the slices above and below it as further channels. Both pass
through ``stenosis_node.grading.preprocess``, as they will in the node.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from stenosis_node.domain import AxialSlice, PixelBox
from stenosis_node.grading.manifest import LocateInput, PatchInput, Window
from stenosis_node.grading.preprocess import Orientation, UprightSlice, make_canvas, make_patch, make_upright
from training.labels.errors import LabelError
from training.labels.images import box_fault
from training.labels.manifest import has_box, image_path
from training.labels.rows import BOX
from training.learning.errors import TrainingError
from training.learning.series import Key, files_beside, key_of, read_stack, slice_key

log = logging.getLogger("stenosis_train")

VERSION: Final = 2
REGION_PX: Final = 160
"""Side of a region: a patch of 96 turned by 10 degrees, scaled by 1.1 and shifted by 6 mm stays inside."""
_FULL: Final = 65535

Words = npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class SliceEntry:
    """Where a slice lies in the store."""

    key: Key
    canvas_at: int
    """Offset in the file of canvases, in pixels."""
    canvas_shape: tuple[int, int]
    columns_per_px: float
    rows_per_px: float
    orientation: tuple[bool, bool, bool]
    upright_shape: tuple[int, int]
    spacing_mm: tuple[float, float]
    """(row, column) of the stored image."""
    region_at: int | None
    """Index in the file of regions; None where nobody drew a box."""
    region_center: tuple[float, float] | None
    """(x, y) in pixel edges of the upright image."""

    def upright(self, box: PixelBox) -> PixelBox:
        """A box of the stored image in pixel edges of the upright one."""
        turn = Orientation(*self.orientation)
        rows, columns = self.upright_shape
        x0, y0, x1, y1 = (box.y0, box.x0, box.y1, box.x1) if turn.transpose else (box.x0, box.y0, box.x1, box.y1)
        if turn.flip_columns:
            x0, x1 = columns - x1, columns - x0
        if turn.flip_rows:
            y0, y1 = rows - y1, rows - y0
        return PixelBox(x0, y0, x1, y1)

    @property
    def upright_spacing_mm(self) -> tuple[float, float]:
        """(row, column) of the upright image."""
        return self.spacing_mm[::-1] if self.orientation[0] else self.spacing_mm


class SliceStore:
    """The slices of a manifest, memory-mapped. Make it with :func:`open_store`."""

    def __init__(self, folder: Path) -> None:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        self.folder = folder
        self.locate_input = LocateInput(**index["locate_input"])
        self.patch_input = PatchInput(**index["patch_input"])
        self.entries = {entry.key: entry for entry in map(_entry, index["slices"])}
        self._canvases: Words = np.memmap(folder / "canvases", dtype=np.uint16, mode="r")
        regions = folder / "regions"
        empty = regions.stat().st_size == 0
        flat: Words = np.zeros(0, np.uint16) if empty else np.memmap(regions, dtype=np.uint16, mode="r")
        self._regions: Words = flat.reshape(-1, 3, REGION_PX, REGION_PX)

    def canvas(self, entry: SliceEntry) -> npt.NDArray[np.float32]:
        """float32 ``[H, W]`` in 0..1, as :func:`make_canvas` gives it."""
        rows, columns = entry.canvas_shape
        flat = self._canvases[entry.canvas_at : entry.canvas_at + rows * columns]
        return _unit(flat.reshape(rows, columns))

    def region(self, entry: SliceEntry, context_slices: int) -> npt.NDArray[np.float32]:
        """float32 ``[1 + 2 * context_slices, R, R]``: the neighbour towards the head, the slice, the one below.

        Each channel is in its own scale. ValueError when nobody drew a box.
        """
        if entry.region_at is None:
            raise ValueError(f"slice {entry.key} has no box")
        region = self._regions[entry.region_at]
        return _unit(region[1 - context_slices : 2 + context_slices])


def open_store(manifest: pd.DataFrame, path: Path, cache: Path, *, workers: int = 1) -> SliceStore:
    """The store of a checked manifest, made below ``cache`` when it is not there yet (about 0.2 MB a slice).

    path    of the manifest
    raises  LabelError for images that are missing or cannot be read and boxes outside their image, all at once;
            TrainingError when the disk is full
    """
    locate_input, patch_input = LocateInput(), PatchInput()
    folder = cache / _digest(manifest, path, locate_input, patch_input)
    try:
        with _sole_builder(cache):
            if not (folder / "index.json").exists():
                partial = folder.with_suffix(".partial")
                shutil.rmtree(partial, ignore_errors=True)
                try:
                    partial.mkdir()
                    _build(manifest, path, partial, locate_input, patch_input, workers)
                    partial.replace(folder)
                finally:
                    shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise TrainingError(
            f"{cache} cannot be written: {error.strerror}; free space or name another --cache"
        ) from error
    return SliceStore(folder)


@contextmanager
def _sole_builder(cache: Path) -> Iterator[None]:
    """Of several processes, those of torchrun for example, one prepares the images; the others wait and find them."""
    cache.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(cache / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _build(
    manifest: pd.DataFrame, path: Path, folder: Path, locate_input: LocateInput, patch_input: PatchInput, workers: int
) -> None:
    groups = list(manifest.groupby(["study_uid", "series_uid"], sort=False))
    tasks = [(str(study), str(series), rows, path, locate_input, patch_input) for (study, series), rows in groups]
    entries: list[dict[str, Any]] = []
    problems: list[str] = []
    at = 0
    with (folder / "canvases").open("wb") as canvases, (folder / "regions").open("wb") as regions:
        n_regions = 0
        for done, made in enumerate(_each(tasks, workers), 1):
            if isinstance(made, str):
                problems.append(made)
                continue
            for entry, canvas, region in made:
                entry["canvas_at"] = at
                at += canvas.size
                canvases.write(canvas.tobytes())
                if region is not None:
                    entry["region_at"] = n_regions
                    n_regions += 1
                    regions.write(region.tobytes())
                entries.append(entry)
            if done % 50 == 0 or done == len(tasks):
                log.info("prepared %d of %d series (%d slices)", done, len(tasks), len(entries))
    if problems:
        raise LabelError("\n".join(problems))
    index = {
        "slices": entries,
        "locate_input": locate_input.model_dump(mode="json"),
        "patch_input": patch_input.model_dump(mode="json"),
    }
    (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")


_Task = tuple[str, str, pd.DataFrame, Path, LocateInput, PatchInput]
_Made = list[tuple[dict[str, Any], Words, Words | None]]


def _each(tasks: list[_Task], workers: int) -> Iterator[_Made | str]:
    if workers <= 1:
        yield from map(_prepare, tasks)
        return
    one_thread = functools.partial(torch.set_num_threads, 1)  # the processes share the processors
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=one_thread) as pool:
        yield from pool.map(_prepare, tasks, chunksize=4)


def _prepare(task: _Task) -> _Made | str:
    """Entries of one series, or what is wrong with it."""
    study, series, rows, path, locate_input, patch_input = task
    try:
        stack = read_stack(study, series, rows, path)
    except LabelError as error:
        return str(error)
    outside = _outside(study, stack.slices, rows, path)
    if outside:
        return "\n".join(outside)
    labelled = {slice_key(row) for row in rows.itertuples()}
    boxes = _boxes(rows)
    wide = _region_input(patch_input)
    images = [None if one.pixels is None else make_upright(one.pixels, one.plane) for one in stack.slices]
    made: _Made = []
    for index, (piece, image) in enumerate(zip(stack.slices, images, strict=True)):
        key = key_of(study, piece)
        if image is None or key not in labelled:  # a neighbour, which nobody labelled
            continue
        canvas = make_canvas(image, locate_input)
        turn = image.orientation
        entry: dict[str, Any] = {
            "key": list(key),
            "canvas_shape": list(canvas.pixels.shape),
            "columns_per_px": canvas.columns_per_px,
            "rows_per_px": canvas.rows_per_px,
            "orientation": [turn.transpose, turn.flip_rows, turn.flip_columns],
            "upright_shape": list(image.shape),
            "spacing_mm": [piece.plane.row_spacing_mm, piece.plane.column_spacing_mm],
            "region_at": None,
            "region_center": None,
        }
        region = None
        if key in boxes:
            placed = _entry({**entry, "canvas_at": 0}).upright(boxes[key])
            entry["region_center"] = list(placed.center)
            around = [neighbour(stack.slices, images, index, step) or image for step in (-1, 0, 1)]
            region = np.stack([_words(make_patch(one, placed.center, wide).pixels.numpy()) for one in around])
        made.append((entry, (canvas.pixels.numpy() * _FULL).round().astype(np.uint16), region))
    return made


def neighbour(
    slices: Sequence[AxialSlice], images: Sequence[UprightSlice | None], index: int, step: int
) -> UprightSlice | None:
    """The image one step away in the same slab, when it lies in the same pixels; None: the slice stands for it."""
    other = index + step
    if not 0 <= other < len(images) or slices[other].slab != slices[index].slab:
        return None
    there, here = images[other], images[index]
    if there is None or here is None:
        return None
    same = there.shape == here.shape and np.allclose(there.field_mm, here.field_mm)
    return there if same else None


def _outside(study: str, slices: Sequence[AxialSlice], rows: pd.DataFrame, path: Path) -> list[str]:
    """Boxes that lie outside their image, by row of the manifest."""
    sizes = {key_of(study, one): one.pixels.shape for one in slices if one.pixels is not None}
    problems = []
    for row in rows[has_box(rows)].itertuples():
        height, width = sizes[slice_key(row)]
        fault = box_fault(PixelBox(*(float(getattr(row, name)) for name in BOX)), width, height)
        problems += [f"{path}: row {row.Index}, {fault}"] if fault else []
    return problems


def _boxes(rows: pd.DataFrame) -> Mapping[Key, PixelBox]:
    """The mean of the boxes that readers drew, per slice, in the stored image."""
    drawn: dict[Key, list[tuple[float, ...]]] = {}
    for row in rows[has_box(rows)].itertuples():
        drawn.setdefault(slice_key(row), []).append(tuple(getattr(row, name) for name in BOX))
    return {key: PixelBox(*(float(v) for v in np.mean(boxes, axis=0))) for key, boxes in drawn.items()}


def _region_input(patch: PatchInput) -> PatchInput:
    """A wider patch, windowed by its extremes: the patch cut from it is windowed by its own percentiles later."""
    return PatchInput(
        spacing_mm=patch.spacing_mm,
        width_mm=REGION_PX * patch.spacing_mm,
        window=Window(low_percentile=0.0, high_percentile=100.0),
    )


def _unit(words: Words) -> npt.NDArray[np.float32]:
    return words.astype(np.float32) / np.float32(_FULL)


def _words(pixels: npt.NDArray[np.float32]) -> Words:
    return (pixels * _FULL).round().astype(np.uint16)


def _entry(plain: dict[str, Any]) -> SliceEntry:
    study, series, sop, frame = plain["key"]
    center = plain["region_center"]
    return SliceEntry(
        key=(study, series, sop, frame),
        canvas_at=plain["canvas_at"],
        canvas_shape=tuple(plain["canvas_shape"]),
        columns_per_px=plain["columns_per_px"],
        rows_per_px=plain["rows_per_px"],
        orientation=tuple(plain["orientation"]),
        upright_shape=tuple(plain["upright_shape"]),
        spacing_mm=tuple(plain["spacing_mm"]),
        region_at=plain["region_at"],
        region_center=None if center is None else (center[0], center[1]),
    )


def _digest(manifest: pd.DataFrame, path: Path, locate_input: LocateInput, patch_input: PatchInput) -> str:
    """Names the store: images (by path, size and time) and those beside them, boxes, and how they are prepared."""
    made = hashlib.sha256(f"{VERSION} {REGION_PX} {path.absolute().parent}".encode())
    made.update(locate_input.model_dump_json().encode())
    made.update(patch_input.model_dump_json().encode())
    columns = ["study_uid", "series_uid", "sop_uid", "frame", "path", *BOX, "fov_mm"]
    made.update(pd.util.hash_pandas_object(manifest[columns].astype(str), index=False).to_numpy().tobytes())
    images = {image_path(str(text), path) for text in manifest["path"].unique()}
    for image in sorted({*images, *files_beside(images)}):
        made.update(f"{image} {_state(image)}".encode(errors="surrogateescape"))
    return made.hexdigest()[:24]


def _state(image: Path) -> str:
    """Changes when a file is written again."""
    try:
        found = image.stat()
    except OSError:
        return "missing"
    return f"{found.st_size} {found.st_mtime_ns}"
