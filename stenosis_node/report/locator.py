"""Where the slabs lie: their planes cut the sagittal slice, and a reader counts the levels himself.

Geometry alone: no level is named, nothing is searched for in the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from stenosis_node.domain import (
    AxialSeries,
    CordSlice,
    PixelBox,
    SagittalSlice,
    SliceGeometry,
    SliceRef,
    finding_box,
)
from stenosis_node.report import render
from stenosis_node.report.outline import Entry, Outline, Slab
from stenosis_node.report.render import ACCENT, BLACK, INK, MUTED, PAPER
from stenosis_node.report.source import SourceImage, read_sagittal

Point = tuple[float, float]
"""(x, y) in pixel edges of the sagittal slice, or in pixels of the picture."""
Line = tuple[Point, Point]

MAX_WIDTH: Final = 560
LABELS: Final = 116
RIM: Final = 26
"""Room above and below the slice, for orientation letters and the caption."""
LABEL_STEP: Final = 46
FINE: Final = 3
"""Lines are drawn this much larger and reduced: oblique ones come out smooth."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One slab on the sagittal slice."""

    slab: Slab
    key: Line
    """Plane of the worst image, or of the middle one."""
    gap: Line | None
    """Where the canal box of that image crosses: the line leaves it free."""
    borders: tuple[Line, ...]
    """Planes of the first and last image."""


@dataclass(frozen=True, slots=True)
class Located:
    """A sagittal slice with the slabs that cross it."""

    slice: SagittalSlice
    source: SourceImage
    marks: tuple[Mark, ...]
    center_x: float
    """Column, in pixel edges, that stays in view when the sides are cut off."""


def locate(
    outline: Outline,
    series: Sequence[AxialSeries],
    sagittal: SagittalSlice,
    sizes: Mapping[SliceRef, SourceImage],
) -> Located | str:
    """Find the slabs on the sagittal slice, or the reason why none can be shown (part of a sentence).

    Raises PermanentError or TransientError when the received file of the slice is gone or cannot be had.
    """
    if all(slab.refusal for slab in outline.slabs):
        return "no axial series was graded"
    source = read_sagittal(sagittal)
    frames = {s.series_instance_uid: s.frame_of_reference_uid for s in series}
    if source.frame_of_reference_uid not in frames.values() or not source.frame_of_reference_uid:
        return "the sagittal series does not share the Frame of Reference"
    marks = []
    centers = []
    for slab in outline.slabs:
        if slab.refusal or frames.get(slab.entries[0].image.ref.series_instance_uid) != source.frame_of_reference_uid:
            continue
        mark = _mark(slab, sagittal, source, sizes)
        if mark is not None:
            marks.append(mark)
            centers += [(mark.gap[0][0] + mark.gap[1][0]) / 2] if mark.gap else []
    if not marks:
        return "no axial image crosses the sagittal slice"
    return Located(sagittal, source, tuple(marks), float(np.mean(centers)) if centers else source.columns / 2)


def _mark(
    slab: Slab, sagittal: SagittalSlice, source: SourceImage, sizes: Mapping[SliceRef, SourceImage]
) -> Mark | None:
    def line(entry: Entry, box: PixelBox | None = None) -> Line | None:
        size, geometry = sizes.get(entry.image.ref), entry.image.geometry
        if size is None or geometry is None or not (size.rows and size.columns):
            return None
        part = box or PixelBox(0, 0, size.columns, size.rows)
        return crossing(geometry, part, sagittal.geometry, (source.rows, source.columns))

    lines = [(entry, found) for entry in slab.entries if (found := line(entry)) is not None]
    if not lines:
        return None
    middle = lines[len(lines) // 2]
    key, found = next(((e, f) for e, f in lines if e is slab.worst), middle)
    box = finding_box(key.finding)
    borders = tuple(f for e, f in (lines[0], lines[-1]) if e is not key)
    return Mark(slab, found, line(key, box) if box is not None else None, borders[: len(lines) - 1])


# --------------------------------------------------------------------------- geometry


def crossing(axial: SliceGeometry, part: PixelBox, sagittal: SliceGeometry, size: tuple[int, int]) -> Line | None:
    """Where a rectangle of one slice cuts another slice, as a line on that one; None when it does not.

    part  of the axial slice: its field of view, or a box on it
    size  rows and columns of the sagittal slice, at whose border the line ends
    """
    corners = np.array([axial.to_patient(x, y) for x, y in _corners(part)])
    origin = np.asarray(sagittal.position)
    heights = (corners - origin) @ np.asarray(sagittal.normal)
    cuts = []
    for i in range(4):
        here, there = heights[i], heights[(i + 1) % 4]
        if (here < 0) != (there < 0):
            share = here / (here - there)
            cuts.append(corners[i] + share * (corners[(i + 1) % 4] - corners[i]))
    if len(cuts) != 2:
        return None
    ends = [
        (
            float((cut - origin) @ np.asarray(sagittal.row_direction)) / sagittal.column_spacing_mm + 0.5,
            float((cut - origin) @ np.asarray(sagittal.column_direction)) / sagittal.row_spacing_mm + 0.5,
        )
        for cut in cuts
    ]
    start, end = sorted(ends)
    return _clipped((start, end), PixelBox(0, 0, size[1], size[0]))


def _corners(part: PixelBox) -> Iterator[Point]:
    yield from ((part.x0, part.y0), (part.x1, part.y0), (part.x1, part.y1), (part.x0, part.y1))


def _clipped(line: Line, frame: PixelBox) -> Line | None:
    """The part of a line inside a frame (Liang and Barsky); None when there is none."""
    (x, y), (x_end, y_end) = line
    step_x, step_y = x_end - x, y_end - y
    first, last = 0.0, 1.0
    for step, room in (
        (-step_x, x - frame.x0),
        (step_x, frame.x1 - x),
        (-step_y, y - frame.y0),
        (step_y, frame.y1 - y),
    ):
        if step == 0:
            if room < 0:
                return None
        elif step < 0:
            first = max(first, room / step)
        else:
            last = min(last, room / step)
    if first >= last:
        return None
    return (x + first * step_x, y + first * step_y), (x + last * step_x, y + last * step_y)


# --------------------------------------------------------------------------- drawing


def panel_width(located: Located, height: int) -> int:
    """Width of the panel, labels included, whose slice is ``height`` px high."""
    view = _view(located, height)
    return round((view.x1 - view.x0) * _scale(located, height)[0]) + LABELS


def draw_panel(page: Image.Image, located: Located, place: tuple[int, int], height: int, caption: str) -> None:
    """The whole height of the slice, its sides cut off where there is no room, with the slabs beside it."""
    left, top = place[0], place[1] + RIM
    scale, view = _scale(located, height), _view(located, height)
    width = round((view.x1 - view.x0) * scale[0])
    gray = Image.fromarray(render.windowed(located.slice.pixels, located.source))
    edges = (view.x0, view.y0, view.x1, view.y1)
    picture = gray.transform((width, height), Image.Transform.EXTENT, edges, Image.Resampling.BICUBIC).convert("RGB")

    def on_picture(line: Line) -> Line:
        (x, y), (x_end, y_end) = line
        return ((x - view.x0) * scale[0], (y - view.y0) * scale[1]), (
            (x_end - view.x0) * scale[0],
            (y_end - view.y0) * scale[1],
        )

    layer = Image.new("RGBA", (width * FINE, height * FINE), (0, 0, 0, 0))
    pen = ImageDraw.Draw(layer)
    for mark in located.marks:
        for border in mark.borders:
            _dashes(pen, on_picture(border))
        _solid(pen, on_picture(mark.key), on_picture(mark.gap) if mark.gap else None)
    lines = layer.reduce(FINE)
    picture.paste(lines.convert("RGB"), (0, 0), lines.getchannel("A"))
    page.paste(picture, (left, top))
    draw = ImageDraw.Draw(page)
    _labels(draw, located, [on_picture(mark.key) for mark in located.marks], (left, top, width, height))
    _letters(draw, located.slice.geometry, (left, top, width, height), caption)


def _scale(located: Located, height: int) -> tuple[float, float]:
    """Picture pixels per pixel of the slice (x, y): true proportions."""
    geometry = located.slice.geometry
    down = height / located.source.rows
    return down * geometry.column_spacing_mm / geometry.row_spacing_mm, down


def _view(located: Located, height: int) -> PixelBox:
    """What of the slice is shown: all rows; columns around the canal when not all have room."""
    columns = located.source.columns
    shown = min(float(columns), MAX_WIDTH / _scale(located, height)[0])
    left = min(max(located.center_x - shown / 2, 0.0), columns - shown)
    return PixelBox(left, 0, left + shown, located.source.rows)


def _solid(pen: ImageDraw.ImageDraw, line: Line, gap: Line | None) -> None:
    parts = [line] if gap is None else [(line[0], gap[0]), (gap[1], line[1])]
    for part in parts:
        if part[0][0] < part[1][0]:
            ends = [(x * FINE, y * FINE) for x, y in part]
            pen.line(ends, fill=(*BLACK, 200), width=4 * FINE)
            pen.line(ends, fill=(*ACCENT, 255), width=2 * FINE)


def _dashes(pen: ImageDraw.ImageDraw, line: Line, dash: float = 5, space: float = 6) -> None:
    start, end = np.asarray(line[0]), np.asarray(line[1])
    length = float(np.linalg.norm(end - start))
    along = (end - start) / max(length, 1e-6)
    for at in np.arange(0, length, dash + space):
        ends = [tuple((start + along * d) * FINE) for d in (at, min(at + dash, length))]
        pen.line(ends, fill=(*BLACK, 120), width=3 * FINE)
        pen.line(ends, fill=(*INK, 230), width=FINE)


def _labels(
    draw: ImageDraw.ImageDraw, located: Located, lines: Sequence[Line], frame: tuple[int, int, int, int]
) -> None:
    """Letter and number of each slab to the right, in the order of the lines' ends, joined to them."""
    left, top, width, height = frame
    order = sorted(range(len(lines)), key=lambda i: lines[i][1][1])
    step = min(LABEL_STEP, height // max(len(lines), 1))
    places = spread([lines[i][1][1] for i in order], step, height)
    right = left + width
    for i, y in zip(order, places, strict=True):
        slab, (end_x, end_y) = located.marks[i].slab, lines[i][1]
        here = (left + min(end_x, width) + 1, top + end_y)
        points = [here, (right + 2, top + end_y), (right + 18, top + y), (right + 24, top + y)]
        draw.line(points if here[0] > right - 6 else points[1:], fill=MUTED, width=1)
        letter = mark_letter(slab)
        draw.text((right + 30, top + y), letter, fill=ACCENT, font=render.font(min(34, step)), anchor="lm")
        text = render.font(min(16, step))
        name, _, series = _short_name(slab).partition(", ")
        draw.text((right + 58, top + y), name, fill=INK, font=text, anchor="ls" if series else "lm")
        draw.text((right + 58, top + y + 2), series, fill=MUTED, font=render.font(min(13, step)), anchor="lt")


def mark_letter(slab: Slab) -> str:
    """Worst grade, ``s`` for spinal cord alone, ``?`` when nothing was graded."""
    if slab.grade is not None:
        return slab.grade.value
    return "s" if all(isinstance(e.finding, CordSlice) for e in slab.entries) else "?"


def _short_name(slab: Slab) -> str:
    """``slab 2`` or ``slab 2, series 4``."""
    series = slab.name.partition("slab ")[0].rstrip(", ")
    return f"slab {slab.number}, {series}" if series else f"slab {slab.number}"


def spread(wanted: Sequence[float], step: float, height: float) -> list[float]:
    """Ascending places at least ``step`` apart, near the wanted ones, between half a step and the height less that."""
    places: list[float] = []
    for y in wanted:
        places.append(max(y, places[-1] + step if places else step / 2))
    limit = height - step / 2
    for i in reversed(range(len(places))):
        places[i] = min(places[i], limit)
        limit = places[i] - step
    return places


def _letters(
    draw: ImageDraw.ImageDraw, geometry: SliceGeometry, frame: tuple[int, int, int, int], caption: str
) -> None:
    left, top, width, height = frame
    down, across = render.letters(geometry.column_direction)[0], render.letters(geometry.row_direction)[0]
    text = render.font(18)
    draw.rectangle((left, top + height, left + width + LABELS, top + height + RIM), fill=PAPER)
    draw.text((left + width / 2, top - RIM / 2), render.opposite(down), fill=INK, font=text, anchor="mm")
    low = top + height + RIM / 2
    draw.text((left + 2, low), render.opposite(across), fill=INK, font=text, anchor="lm")
    draw.text((left + width - 2, low), across, fill=INK, font=text, anchor="rm")
    draw.text((left + width / 2, low), caption, fill=MUTED, font=render.font(16), anchor="mm")
