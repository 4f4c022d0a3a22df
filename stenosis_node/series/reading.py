"""From the headers of a chosen series to its slices: decoded, ordered from head to foot, in slabs."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeAlias

from stenosis_node.domain import AxialSeries, AxialSlice, Decision, Pixels, SeriesDecision, SliceRef
from stenosis_node.errors import PermanentError
from stenosis_node.series.decoding import PIXEL_TAGS_NEEDED, FrameReader
from stenosis_node.series.files import DiskFault, NotReadable, open_instance
from stenosis_node.series.headers import ENHANCED_MR, MR_IMAGE, SeriesHeaders, SliceHeader, UnreadableFile
from stenosis_node.series.isolation import DecoderProcess, Undecodable
from stenosis_node.series.selection import select, selection_for
from stenosis_node.series.wording import HINDRANCE

log = logging.getLogger("stenosis_node.series")

MAX_SERIES_PIXELS: Final = 1 << 28
"""Pixels kept of one series (1 GB as float32); a lumbar stack of 60 slices of 512 x 512 has 2 % of that."""

_Outcome: TypeAlias = "tuple[Pixels | None, str | None]"


def read(
    series: SeriesHeaders,
    lost: Mapping[SliceRef, UnreadableFile] = MappingProxyType({}),
    *,
    decision: SeriesDecision | None = None,
) -> AxialSeries:
    """Decode the slices of a chosen series.

    A slice that cannot be decoded has no pixels and says why; the others are unaffected. Slices that cannot be placed,
    because the header breaks off or makes no sense, come last, in a slab of their own.

    lost    files that no header could be read of, under what is known of them from elsewhere; those that are MR images
            of this series are slices that cannot be placed either
    decision  what :func:`rules.choose` decided; without it the series was chosen by the rules of the node. Of a series
            that is not gradable nothing is decoded: each slice says why
    raises  PermanentError when the series has no axial T2 slice at all (it was not chosen), or a file is gone
            TransientError when the disk does not give a file
    """
    refused = decision is not None and decision.decision is Decision.NOT_GRADABLE
    selection = selection_for(series, decision.decision, decision.reason) if decision is not None else select(series)
    layout = selection.layout
    if not layout.slices and not (refused and selection.broken):
        raise PermanentError(
            f"series {series.series_instance_uid} has no axial T2 slice to read; only chosen series can be read"
        )
    if decision is not None and refused:
        outcomes: dict[SliceRef, _Outcome] = {piece.ref: (None, decision.values[HINDRANCE]) for piece in layout.slices}
    else:
        outcomes = dict(decode(layout.slices))
    slices = [
        AxialSlice(
            ref=piece.ref,
            path=piece.path.absolute(),
            instance_number=piece.instance_number,
            geometry=piece.geometry,
            slab=index,
            pixels=outcomes[piece.ref][0],
            unreadable=outcomes[piece.ref][1],
        )
        for index, slab in enumerate(layout.slabs)
        for piece in slab.slices
    ]
    unplaced = {piece.ref: (piece.path, piece.geometry_fault or "no image size") for piece in selection.broken}
    unplaced |= {ref: (file.path, f"the file {file.reason}") for ref, file in lost.items() if _belongs(ref, series)}
    if decision is not None and refused and not layout.slices:
        unplaced = {ref: (path, decision.values[HINDRANCE]) for ref, (path, _) in unplaced.items()}
    slices += [
        AxialSlice(ref, path.absolute(), None, None, len(layout.slabs), pixels=None, unreadable=reason)
        for ref, (path, reason) in sorted(unplaced.items(), key=_order)
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


def _order(unplaced: tuple[SliceRef, object]) -> tuple[str, int]:
    ref, _ = unplaced
    return ref.sop_instance_uid, ref.frame_number or 0


def _belongs(ref: SliceRef, series: SeriesHeaders) -> bool:
    is_mr = ref.sop_class_uid == MR_IMAGE or ref.sop_class_uid in ENHANCED_MR
    return is_mr and ref.series_instance_uid == series.series_instance_uid


def decode(slices: Sequence[SliceHeader]) -> Iterator[tuple[SliceRef, _Outcome]]:
    """Each slice with its pixels or why there are none; each file is opened once, frames are decoded one by one."""
    by_path: dict[Path, list[SliceHeader]] = defaultdict(list)
    for piece in slices:
        by_path[piece.path].append(piece)
    left = MAX_SERIES_PIXELS
    with DecoderProcess() as decoders:
        for path, pieces in by_path.items():
            affordable = [piece for piece in pieces if (left := left - piece.rows * piece.columns) >= 0]
            for piece in pieces[len(affordable) :]:
                yield piece.ref, (None, "the series is too large to keep in memory")
            if affordable:
                yield from _decode_file(path, affordable, decoders)


def _decode_file(
    path: Path, pieces: Sequence[SliceHeader], decoders: DecoderProcess
) -> Iterator[tuple[SliceRef, _Outcome]]:
    try:
        with open_instance(path, PIXEL_TAGS_NEEDED) as opened:
            reader = FrameReader(opened, decoders)
            for piece in pieces:
                yield piece.ref, _frame(reader, piece.ref.frame_number or 1)
    except DiskFault as fault:
        raise fault.for_instance(pieces[0].ref.sop_instance_uid) from fault
    except (NotReadable, Undecodable) as error:
        reason = str(error) if isinstance(error, Undecodable) else f"the file {error}"
        for piece in pieces:
            yield piece.ref, (None, reason)


def _frame(reader: FrameReader, frame_number: int) -> _Outcome:
    try:
        return reader.read(frame_number), None
    except Undecodable as error:
        return None, str(error)
