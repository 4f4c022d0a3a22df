"""The sagittal slice that shows a reader where the axial slices lie. It is looked at by people only, never graded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from stenosis_node.domain import AxialSeries, SagittalSlice, SeriesReason, SliceRef, Vector
from stenosis_node.errors import PermanentError
from stenosis_node.series.contrast import kind_objections, sequence_objections
from stenosis_node.series.geometry import center, field_of_view, geometry_of, plane_of
from stenosis_node.series.headers import Acquisition, SeriesHeaders, SliceHeader
from stenosis_node.series.reading import decode
from stenosis_node.series.region import named_region
from stenosis_node.series.selection import MAX_SLICES, MIN_MATRIX

NO_LOCATOR: Final = "no readable sagittal T2 series shares the frame of reference of the axial images"
SECOND_BEST: Final = frozenset({SeriesReason.FAT_SUPPRESSED, SeriesReason.STIR, SeriesReason.THREE_DIMENSIONAL})
"""Kinds of T2 that orient a reader too, when there is no plain one."""
MAX_TURN_DEG: Final = 30.0
"""Between the normal of a sagittal slice and the left-right axis; scoliosis and tilted patients are followed."""
SHOWN: Final = 0.5
"""Share of the axial slices that the sagittal series must reach."""
TRIES: Final = 3
"""Slices tried, nearest first, when some cannot be decoded."""

_Array = npt.NDArray[np.float64]


def pick_locator(
    series: Sequence[SeriesHeaders], axial: Sequence[tuple[SeriesHeaders, Sequence[SliceHeader]]], keep: str = ""
) -> SeriesHeaders | None:
    """The best sagittal T2 series of a study for these axial ones; None when there is none.

    series  the candidates
    axial   chosen series with their slices
    keep    Series Instance UID of the one that an earlier result used: it stays
    """
    frames = {headers.frame_of_reference_uid for headers, _ in axial} - {None}
    centers = [center(piece) for headers, slices in axial for piece in slices if headers.frame_of_reference_uid]
    ranked = []
    for one in series:
        if one.frame_of_reference_uid not in frames or not centers:
            continue
        slices, n_second = _sagittal_slices(one)
        if not slices or (share := _reached(slices, centers)) < SHOWN:
            continue
        acquired = max(piece.acquired for piece in slices)
        ranked.append(
            (one.series_instance_uid == keep, n_second == 0, round(share, 1), acquired, one.series_instance_uid, one)
        )
    return max(ranked, key=lambda item: item[:-1])[-1] if ranked else None


def find_sagittal(
    locator: SeriesHeaders, images: Sequence[AxialSeries], canal: Sequence[Vector] = ()
) -> SagittalSlice | str:
    """The slice of the locator series nearest the middle of the canal, or why there is none (part of a sentence).

    canal   where the canal was found, patient coordinates; without it the middles of the axial images stand in, or
            that of the sagittal ones
    raises  PermanentError, TransientError when a received file is gone or cannot be had
    """
    slices, _ = _sagittal_slices(locator)
    points = list(canal) or [point for image in images if (point := _middle(image)) is not None]
    points = points or [geometry_of(piece).to_patient(piece.columns / 2, piece.rows / 2) for piece in slices]
    middle = np.median(np.asarray(points), axis=0)
    for piece in sorted(slices, key=lambda piece: (round(_distance_mm(piece, middle), 3), piece.order_key))[:TRIES]:
        found = _load(piece)
        if isinstance(found, SagittalSlice):
            return found
    return NO_LOCATOR


def read_sagittal(locator: SeriesHeaders | None, ref: SliceRef) -> SagittalSlice:
    """The slice an earlier step settled on.

    locator  its series; None when it is not there any more
    raises   PermanentError when the slice cannot be had; as :func:`find_sagittal` does
    """
    pieces = locator.slices if locator is not None else ()
    piece = next((piece for piece in pieces if piece.ref == ref and piece.geometry is not None), None)
    found = "it is not there any more" if piece is None else _load(piece)
    if isinstance(found, str):
        raise PermanentError(
            f"the sagittal image {ref.sop_instance_uid}, which the result shows, cannot be read: {found}; "
            "send the study again, then retry the job"
        )
    return found


def _load(piece: SliceHeader) -> SagittalSlice | str:
    ((_, (pixels, fault)),) = decode([piece])
    if pixels is None:
        return fault or "no pixels"
    return SagittalSlice(piece.ref, piece.path.absolute(), geometry_of(piece), pixels)


def _sagittal_slices(series: SeriesHeaders) -> tuple[tuple[SliceHeader, ...], int]:
    """The slices fit to orient a reader, and how many of them are of a second-best kind."""
    if named_region(series).veto:
        return (), 0
    name = series.description or series.protocol
    against: dict[Acquisition, set[SeriesReason]] = {}
    fit, n_second = [], 0
    for piece in series.slices:
        if piece.geometry is None or not piece.has_pixels or piece.samples != 1:
            continue
        plane = plane_of(piece.geometry)
        if plane.name != "sagittal" or plane.tilt_deg > MAX_TURN_DEG or min(piece.rows, piece.columns) < MIN_MATRIX:
            continue
        how = piece.acquisition
        if how not in against:
            against[how] = {o.reason for o in (*kind_objections(how, name), *sequence_objections(how, name))}
        if against[how] <= SECOND_BEST:
            fit.append(piece)
            n_second += bool(against[how])
    return (tuple(fit), n_second) if len(fit) <= MAX_SLICES else ((), 0)


def _reached(slices: Sequence[SliceHeader], points: Sequence[_Array]) -> float:
    """Share of the points that lie inside the rectangle of the sagittal slice nearest to them."""
    centers, geometries = np.asarray([center(piece) for piece in slices]), [geometry_of(piece) for piece in slices]
    normals = np.asarray([geometry.normal for geometry in geometries])
    distances = np.abs(np.asarray(points) @ normals.T - np.sum(centers * normals, axis=1))
    hits = 0
    for point, nearest in zip(points, np.argmin(distances, axis=1), strict=True):
        apart, geometry = point - centers[nearest], geometries[nearest]
        height, width = field_of_view(slices[nearest])
        along_row, along_column = (
            apart @ np.asarray(geometry.row_direction),
            apart @ np.asarray(geometry.column_direction),
        )
        hits += bool(abs(along_row) <= width / 2 and abs(along_column) <= height / 2)
    return hits / len(points)


def _distance_mm(piece: SliceHeader, point: _Array) -> float:
    """Of a point from the plane of a slice."""
    return abs(float((point - center(piece)) @ np.asarray(geometry_of(piece).normal)))


def _middle(image: AxialSeries) -> Vector | None:
    """Mean of the middles of the decoded slices of a series."""
    centers = [
        piece.geometry.to_patient(piece.pixels.shape[1] / 2, piece.pixels.shape[0] / 2)
        for piece in image.slices
        if piece.geometry is not None and piece.pixels is not None
    ]
    if not centers:
        return None
    x, y, z = np.mean(np.asarray(centers), axis=0)
    return float(x), float(y), float(z)
