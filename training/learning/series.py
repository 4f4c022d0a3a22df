"""The labelled images as the stacks they belong to, read and ordered as the node does it.

What is labelled is read, whether or not the node would choose its series: the labels decide what is learnt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from stenosis_node.domain import AxialSeries, AxialSlice, SliceGeometry, SliceRef
from stenosis_node.series import scan
from stenosis_node.series.geometry import arrange
from stenosis_node.series.reading import decode
from training.labels.errors import LabelError
from training.labels.images import is_picture, read_pixels
from training.labels.manifest import image_path
from training.labels.rows import SLICE

_PICTURE_CLASS: Final = "1.2.840.10008.5.1.4.1.1.4"

Key = tuple[str, str, str, int]
"""Study, series and SOP Instance UID, frame (0 for single-frame images)."""


def slice_key(row: object) -> Key:
    """Key of a manifest row (a named tuple with the columns of :data:`training.labels.rows.SLICE`)."""
    study, series, sop, frame = (getattr(row, name) for name in SLICE)
    return str(study), str(series), str(sop), 0 if frame is pd.NA or pd.isna(frame) else int(frame)


def key_of(study_uid: str, piece: AxialSlice) -> Key:
    """Key of a slice of a stack."""
    ref = piece.ref
    return study_uid, ref.series_instance_uid, ref.sop_instance_uid, ref.frame_number or 0


def stacks(manifest: pd.DataFrame, path: Path) -> Iterator[AxialSeries]:
    """Each series of a manifest with the pixels of its labelled slices, from head to foot.

    path    of the manifest; relative image paths start at its folder
    raises  LabelError naming every image of a series that is missing or cannot be decoded
    """
    for (study, series), rows in manifest.groupby(["study_uid", "series_uid"], sort=False):
        yield read_stack(str(study), str(series), rows, path)


def read_stack(study_uid: str, series_uid: str, rows: pd.DataFrame, manifest: Path) -> AxialSeries:
    """One series of a manifest. Raises LabelError."""
    files = {str(text): image_path(str(text), manifest) for text in rows["path"].unique()}
    missing = [path for path in files.values() if not path.is_file()]
    if missing:
        raise LabelError("\n".join(f"{manifest}: image {path} does not exist" for path in missing))
    pictures = is_picture(next(iter(files.values())))
    slices = _pictures(rows, manifest) if pictures else _dicom(series_uid, list(files.values()), rows, manifest)
    return AxialSeries(study_uid, series_uid, None, None, tuple(slices))


def _dicom(series_uid: str, paths: Sequence[Path], rows: pd.DataFrame, manifest: Path) -> list[AxialSlice]:
    wanted = {(sop, frame) for _, _, sop, frame in map(slice_key, rows.itertuples())}
    found = scan(paths)
    problems = [f"{manifest}: image {bad.path}: the file {bad.reason}" for bad in found.unreadable]
    pieces = [
        piece
        for series in found.series
        for piece in series.slices
        if (piece.ref.sop_instance_uid, piece.ref.frame_number or 0) in wanted
    ]
    placed = [piece for piece in pieces if piece.geometry is not None and piece.rows > 0 and piece.columns > 0]
    seen = {(piece.ref.sop_instance_uid, piece.ref.frame_number or 0) for piece in placed}
    problems += [
        f"{manifest}: SOP instance {sop}{f', frame {frame}' if frame else ''} of series {series_uid} is no MR image "
        "with pixels and position: correct the path, or drop the row"
        for sop, frame in sorted(wanted - seen)
    ]
    pixels = dict(decode(placed))
    problems += [f"{manifest}: image {p.path}: {pixels[p.ref][1]}" for p in placed if pixels[p.ref][0] is None]
    if problems:
        raise LabelError("\n".join(problems))
    layout = arrange(placed)
    slabs = [slab.slices for slab in layout.slabs]
    # A repeat at the same place is labelled, so it is learnt, but it is nobody's neighbour.
    slabs += [(piece,) for piece in layout.duplicates]
    return [
        AxialSlice(piece.ref, piece.path.absolute(), piece.instance_number, piece.geometry, index, pixels[piece.ref][0])
        for index, slab in enumerate(slabs)
        for piece in slab
    ]


def _pictures(rows: pd.DataFrame, manifest: Path) -> list[AxialSlice]:
    """Pictures have no place: each is a slab of its own, upright, of the field of view that the manifest gives."""
    slices = []
    for index, row in enumerate(rows.drop_duplicates(subset=list(SLICE)).itertuples()):
        path = image_path(str(row.path), manifest)
        pixels = np.asarray(read_pixels(path), dtype=np.float32)
        pixels = pixels if pixels.ndim == 2 else pixels[..., :3].mean(axis=2)
        width = float(row.fov_mm)
        if not width > 0:
            raise LabelError(
                f"{manifest}: row {row.Index}, column fov_mm: {path.name} is a picture; give the width of it in mm"
            )
        spacing = width / pixels.shape[1]
        geometry = SliceGeometry(
            (0.0, 0.0, -10.0 * index), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), spacing, spacing, thickness_mm=None
        )
        ref = SliceRef(str(row.series_uid), _PICTURE_CLASS, str(row.sop_uid), None)
        slices.append(AxialSlice(ref, path.absolute(), None, geometry, index, pixels))
    return slices
