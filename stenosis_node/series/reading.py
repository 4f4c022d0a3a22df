"""From the headers of a chosen series to its slices: decoded, ordered from head to foot, in slabs."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from stenosis_node.domain import AxialSeries, AxialSlice, Pixels, SliceRef
from stenosis_node.errors import PermanentError
from stenosis_node.series.decoding import PIXEL_TAGS_NEEDED, FrameReader, Undecodable
from stenosis_node.series.files import NotReadable, open_instance
from stenosis_node.series.geometry import geometry_of
from stenosis_node.series.headers import SeriesHeaders, SliceHeader
from stenosis_node.series.rules import layout_of

log = logging.getLogger("stenosis_node.series")

MAX_SERIES_PIXELS: Final = 1 << 28
"""Pixels kept of one series (1 GB as float32); a lumbar stack of 60 slices of 512 x 512 has 2 % of that."""

_Outcome = tuple[Pixels | None, str | None]


def read(series: SeriesHeaders) -> AxialSeries:
    """Decode the slices of a chosen series.

    A slice that cannot be decoded has no pixels and says why; the others are unaffected. Raises PermanentError when the
    series has no axial T2 slice at all (it was not chosen).
    """
    layout = layout_of(series)
    if not layout.slices:
        raise PermanentError(
            f"series {series.series_instance_uid} has no axial T2 slice to read; only chosen series can be read"
        )
    outcomes = dict(_decode(layout.slices))
    slices = [
        AxialSlice(
            ref=piece.ref,
            path=piece.path.absolute(),
            instance_number=piece.instance_number,
            geometry=geometry_of(piece),
            slab=index,
            pixels=outcomes[piece.ref][0],
            unreadable=outcomes[piece.ref][1],
        )
        for index, slab in enumerate(layout.slabs)
        for piece in slab.slices
    ]
    n_bad = sum(piece.pixels is None for piece in slices)
    log.info(
        "read series %s: %d slices in %d slabs, %d unreadable",
        series.series_instance_uid,
        len(slices),
        len(layout.slabs),
        n_bad,
        extra={"event": "series-read"},
    )
    return AxialSeries(
        study_instance_uid=series.study_instance_uid,
        series_instance_uid=series.series_instance_uid,
        series_number=series.series_number,
        frame_of_reference_uid=series.frame_of_reference_uid,
        slices=tuple(slices),
    )


def _decode(slices: Sequence[SliceHeader]) -> Iterator[tuple[SliceRef, _Outcome]]:
    """Each slice with its pixels or why there are none; each file is opened once, frames are decoded one by one."""
    by_path: dict[Path, list[SliceHeader]] = defaultdict(list)
    for piece in slices:
        by_path[piece.path].append(piece)
    left = MAX_SERIES_PIXELS
    for path, pieces in by_path.items():
        affordable = [piece for piece in pieces if (left := left - piece.rows * piece.columns) >= 0]
        for piece in pieces[len(affordable) :]:
            yield piece.ref, (None, "the series is too large to keep in memory")
        yield from _decode_file(path, affordable)


def _decode_file(path: Path, pieces: Sequence[SliceHeader]) -> Iterator[tuple[SliceRef, _Outcome]]:
    try:
        with open_instance(path, PIXEL_TAGS_NEEDED) as opened:
            reader = FrameReader(opened)
            for piece in pieces:
                yield piece.ref, _frame(reader, piece.ref.frame_number or 1)
    except (NotReadable, Undecodable) as error:
        reason = str(error) if isinstance(error, Undecodable) else f"the file {error}"
        for piece in pieces:
            yield piece.ref, (None, reason)


def _frame(reader: FrameReader, frame_number: int) -> _Outcome:
    try:
        return reader.read(frame_number), None
    except Undecodable as error:
        return None, str(error)
