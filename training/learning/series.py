"""The labelled images as the stacks they belong to, read and ordered as the node does it.

What is labelled is read, whether or not the node would choose its series: the labels decide what is learnt. The slices
beside the labelled ones are read as well where their files are there, for a slice is seen with its neighbours.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from pydicom.datadict import tag_for_keyword
from pydicom.filereader import read_partial

from stenosis_node.domain import AxialSeries, AxialSlice, SliceGeometry, SliceRef
from stenosis_node.series import SliceHeader, scan
from stenosis_node.series.geometry import GAP_FACTOR, HOLE_FACTOR, arrange, center, geometry_of, head_normal
from stenosis_node.series.reading import decode
from stenosis_node.series.selection import select
from training.labels.errors import LabelError
from training.labels.images import grey, is_picture, read_pixels
from training.labels.manifest import image_path
from training.labels.rows import SLICE

_PICTURE_CLASS: Final = "1.2.840.10008.5.1.4.1.1.4"
_SERIES_UID: Final = tag_for_keyword("SeriesInstanceUID") or 0
_WIDEST_PITCH: Final = 2.0
"""Slices further apart than this many thicknesses are no neighbours of one stack: others lay between them."""

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
    """Each series of a manifest with the pixels of its labelled slices and of their neighbours, from head to foot.

    path    of the manifest; relative image paths start at its folder
    raises  LabelError naming every image of a series that is missing or cannot be decoded
    """
    for (study, series), rows in manifest.groupby(["study_uid", "series_uid"], sort=False):
        yield read_stack(str(study), str(series), rows, path)


def read_stack(study_uid: str, series_uid: str, rows: pd.DataFrame, manifest: Path) -> AxialSeries:
    """One series of a manifest: the labelled slices, and what lies above and below them in the same series.

    A neighbour that nobody labelled is read from the folder of the labelled files; one that cannot be decoded has no
    pixels. Slices between which others are missing are in different slabs. Raises LabelError.
    """
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
    slabs = _slabs(placed, _unlabelled(placed, paths))
    beside = list(_beside(slabs, wanted))
    if beside:
        pixels |= dict(decode(beside))
    read = {piece.order_key for piece in beside} | wanted
    return [
        AxialSlice(piece.ref, piece.path.absolute(), piece.instance_number, piece.geometry, index, *pixels[piece.ref])
        for index, slab in enumerate(slabs)
        for piece in slab
        if piece.order_key in read
    ]


def _unlabelled(labelled: Sequence[SliceHeader], paths: Sequence[Path]) -> list[SliceHeader]:
    """The other slices of the series that the node would read with the labelled ones: what speaks against them speaks
    against a labelled slice as well."""
    names = {piece.ref.series_instance_uid for piece in labelled}
    keys = {piece.order_key for piece in labelled}
    folders = {path.parent for path in paths}
    beside = {path for folder in folders for name in names for path in _series_files(folder).get(name, ())}
    others: list[SliceHeader] = []
    for series in scan({*paths, *beside}).series:
        if series.series_instance_uid not in names or all(piece.order_key in keys for piece in series.slices):
            continue
        selection = select(series)
        tolerated = {one.reason for piece in series.slices if piece.order_key in keys
                     for one in selection.against.get(piece, ())}  # fmt: skip
        if tolerated:
            selection = select(series, frozenset(tolerated))
        passing = (*selection.layout.slices, *selection.layout.duplicates)
        others += [piece for piece in passing if piece.order_key not in keys and piece.has_pixels]
    return others


def _series_files(folder: Path) -> Mapping[str, Sequence[Path]]:
    """DICOM files of a folder by Series Instance UID."""
    try:
        return _listed(folder, folder.stat().st_mtime_ns)
    except OSError:
        return {}


@functools.lru_cache(maxsize=8)
def _listed(folder: Path, changed_ns: int) -> Mapping[str, Sequence[Path]]:
    """As long as no file came or went (``changed_ns``) a folder is listed once, though it holds many series."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in _candidates(folder):
        with suppress(Exception):  # no DICOM, or a hostile header: what no label asks for may be anything
            found[_series_uid(path)].append(path)
    return found


def _series_uid(path: Path) -> str:
    with path.open("rb") as file:
        return str(read_partial(file, lambda tag, *_: tag > _SERIES_UID, specific_tags=[_SERIES_UID]).SeriesInstanceUID)


def _candidates(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".") and not is_picture(path) and path.is_file()
    ]


def files_beside(paths: Collection[Path]) -> list[Path]:
    """The DICOM files in the folders of labelled DICOM files that are not labelled: their slices may be neighbours."""
    found = []
    for folder in sorted({path.parent for path in paths if not is_picture(path)}):
        try:
            found += [path for path in _candidates(folder) if path not in paths and _is_dicom(path)]
        except OSError:
            continue  # a missing image is named where it is read
    return found


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _slabs(labelled: Sequence[SliceHeader], others: Sequence[SliceHeader]) -> list[tuple[SliceHeader, ...]]:
    """Slices in slabs of true neighbours, from head to foot. No other slice takes the place of a labelled one."""
    by_key = {piece.order_key: piece for piece in (*labelled, *others)}
    keys = {piece.order_key for piece in labelled}
    # of slices at one place those with pixels are kept: the others yield by seeming to have none
    layout = arrange([*labelled, *(replace(piece, has_pixels=False) for piece in others)])
    if all(piece.order_key in keys for piece in layout.slices):
        layout = arrange(labelled)
    slabs = [run for slab in layout.slabs for run in _contiguous([by_key[piece.order_key] for piece in slab.slices])]
    # A repeat at the same place is labelled, so it is learnt, but it is nobody's neighbour.
    return slabs + [(piece,) for piece in layout.duplicates if piece.order_key in keys]


def _contiguous(slices: Sequence[SliceHeader]) -> Iterator[tuple[SliceHeader, ...]]:
    """A slab cut where slices seem to be missing between two: labels may name every third slice of a stack."""
    steps = [abs(float((center(a) - center(b)) @ head_normal(geometry_of(a)))) for a, b in pairwise(slices)]
    pitch = _pitch_mm(slices[0], steps) if steps else 0.0
    start = 0
    for index, step in enumerate(steps, start=1):
        allowed = GAP_FACTOR if _consecutive(slices[index - 1], slices[index]) else HOLE_FACTOR
        if step > allowed * pitch:
            yield tuple(slices[start:index])
            start = index
    yield tuple(slices[start:])


def _pitch_mm(piece: SliceHeader, steps: Sequence[float]) -> float:
    """From slice to slice, whichever of them are here: by the header, else the smallest step that is plausible."""
    spacing, thickness = piece.spacing_between_mm, geometry_of(piece).thickness_mm
    if spacing is not None and spacing >= (thickness or 0.0):  # less is the gap alone, as some scanners write it
        return spacing
    smallest = min(steps)
    if thickness is None:
        return smallest
    return max(thickness, smallest) if smallest <= _WIDEST_PITCH * thickness else thickness


def _consecutive(one: SliceHeader, other: SliceHeader) -> bool:
    """Whether their numbers say that no slice lies between two."""
    if one.ref.frame_number is not None and other.ref.frame_number is not None:
        same = one.ref.sop_instance_uid == other.ref.sop_instance_uid
        return same and abs(one.ref.frame_number - other.ref.frame_number) == 1
    if one.instance_number is None or other.instance_number is None:
        return False
    return abs(one.instance_number - other.instance_number) == 1


def _beside(slabs: Iterable[Sequence[SliceHeader]], labelled: Collection[tuple[str, int]]) -> Iterator[SliceHeader]:
    """Slices that nobody labelled next to one that somebody did."""
    for slab in slabs:
        for index, piece in enumerate(slab):
            around = slab[max(0, index - 1) : index + 2]
            if piece.order_key not in labelled and any(one.order_key in labelled for one in around):
                yield piece


def _pictures(rows: pd.DataFrame, manifest: Path) -> list[AxialSlice]:
    """Pictures have no place: each is a slab of its own, upright, of the field of view that the manifest gives."""
    slices = []
    for index, row in enumerate(rows.drop_duplicates(subset=list(SLICE)).itertuples()):
        path = image_path(str(row.path), manifest)
        pixels = np.asarray(grey(read_pixels(path)), dtype=np.float32)
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
