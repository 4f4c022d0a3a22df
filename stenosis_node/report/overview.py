"""The first picture: every slab from head to foot with its worst slice, so that one glance tells the study."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageDraw

from stenosis_node.domain import (
    CanalNotFound,
    CordSlice,
    GradedSlice,
    NotGradable,
    SliceFinding,
    SliceRef,
    Unreadable,
    finding_box,
)
from stenosis_node.report import render, wording
from stenosis_node.report.locator import RIM, Located, draw_panel, panel_width
from stenosis_node.report.outline import Entry, Outline, Slab, count_images, grade_of, score_words
from stenosis_node.report.render import ACCENT, CARD, INK, MUTED, PAPER, TRACK
from stenosis_node.report.source import SourceImage

MARGIN: Final = 20
CARD_WIDTH: Final = 560
CARD_HEIGHT: Final = 216
THUMB: Final = 184
CELLS: Final = (18, 14, 11, 9)
STRIP_HEIGHT: Final = 50
HEADER: Final = 118
FOOTER: Final = 106
REMARK: Final = 18
MIN_SLICE_HEIGHT: Final = 760
MAX_SLICE_HEIGHT: Final = 960
MIN_HEIGHT: Final = 512
LEGEND: Final = (
    "A none or minor",
    "B moderate",
    "C severe",
    "D extreme",
    "s spinal cord",
    "? not gradable",
    "- no canal located",
    "x not readable",
)
NOTES: Final = (
    "Each slab: its most severe image, the network scores of that image (not probabilities), and all its images.",
    "Slabs are counted from head to foot; no disc level is named.",
)
LINES: Final = (
    "Sagittal image: planes of the slabs, by geometry alone. Solid: the image shown in the card, open at the canal; "
    "dashed: first and last image."
)


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where things stand on the page, px."""

    width: int
    height: int
    columns: int
    cards_left: int
    card_width: int
    top: int
    """Upper edge of the cards."""
    remarks: tuple[str, ...]
    """Lines under the header."""
    slice_height: int
    """Of the sagittal slice; 0 when there is none."""


def draw_overview(outline: Outline, sources: dict[SliceRef, SourceImage], located: Located | str) -> Image.Image:
    """The page. It shows no patient attribute and no name of a disc level: slabs are counted, not named.

    located  the sagittal slice with the planes of the slabs, or why there is none
    """
    layout = _layout(outline, located)
    banner = wording.BANNER_HEIGHT_PX if wording.BANNER[outline.status] else 0
    page = Image.new("RGB", (layout.width, layout.height), PAPER)
    draw = ImageDraw.Draw(page)
    render.draw_banner(draw, layout.width, outline.status)
    order = "from head to foot" + (", row by row" if layout.columns > 1 else "")
    _header(draw, outline, banner, layout.width, order)
    render.draw_lines(draw, layout.remarks, (MARGIN, banner + HEADER - 4), REMARK, ACCENT)
    if isinstance(located, Located):
        draw_panel(page, located, (MARGIN, layout.top - RIM), layout.slice_height, located.source.name)
    for i, slab in enumerate(outline.slabs):
        row, column = divmod(i, layout.columns)
        left = layout.cards_left + column * (CARD_WIDTH + MARGIN)
        place = (left, layout.top + row * (CARD_HEIGHT + MARGIN), layout.card_width)
        _card(page, draw, slab, sources, place)
    _footer(draw, layout.height, located)
    return page


def _layout(outline: Outline, located: Located | str) -> _Layout:
    count = len(outline.slabs)
    shown = isinstance(located, Located)
    columns = 1 if count <= (5 if shown else 2) else 2
    rows = math.ceil(count / columns)
    stack = rows * (CARD_HEIGHT + MARGIN) - MARGIN
    slice_height, cards_left = 0, MARGIN
    if isinstance(located, Located):
        slice_height = min(max(stack - RIM, MIN_SLICE_HEIGHT), MAX_SLICE_HEIGHT)
        cards_left = MARGIN + panel_width(located, slice_height) + MARGIN
    width = cards_left + columns * (CARD_WIDTH + MARGIN)
    width = max(width, 2 * (CARD_WIDTH + MARGIN) + MARGIN)
    card_width = width - cards_left - MARGIN if columns == 1 else CARD_WIDTH
    said = [f"{text}." for text in outline.refusals] + list(outline.warnings)
    remarks = tuple(line for text in said for line in render.wrapped(text, width - 2 * MARGIN, REMARK))
    banner = wording.BANNER_HEIGHT_PX if wording.BANNER[outline.status] else 0
    top = banner + HEADER + (round(len(remarks) * REMARK * 1.35) + 8 if remarks else 0) + (RIM if shown else 0)
    body = max(stack, slice_height + RIM)
    return _Layout(
        width,
        max(top + body + MARGIN + FOOTER, MIN_HEIGHT),
        columns,
        cards_left,
        card_width,
        top,
        remarks,
        slice_height,
    )


def _header(draw: ImageDraw.ImageDraw, outline: Outline, top: int, width: int, order: str) -> None:
    grade = grade_of(outline.worst) if outline.worst else None
    letter = grade.value if grade else "-"
    draw.text((MARGIN, top + 4), letter, fill=ACCENT, font=render.font(96))
    left = MARGIN + 92
    title = "Worst Schizas grade" if grade else "No Schizas grade could be given"
    draw.text((left, top + 16), title, fill=INK, font=render.font(28))
    where = (
        f"{outline.worst.place}, network score {score_words(outline.worst)}" if outline.worst else wording.NO_EXCLUSION
    )
    if outline.worst and outline.worst.isolated:
        where += f", {wording.ISOLATED}"
    draw.text((left, top + 54), where, fill=INK if grade else ACCENT, font=render.font(20))
    draw.text((left, top + 82), _counts(outline), fill=MUTED, font=render.font(18))
    draw.text((width - MARGIN, top + 18), wording.NOT_VERIFIED, fill=INK, font=render.font(22), anchor="ra")
    draw.text((width - MARGIN, top + 82), f"slabs {order}", fill=MUTED, font=render.font(18), anchor="ra")


def _counts(outline: Outline) -> str:
    images = outline.looked_at
    graded = sum(isinstance(e.finding, GradedSlice) for e in images)
    left_out = sum(isinstance(e.finding, NotGradable | CanalNotFound | Unreadable) for e in images)
    cord = sum(isinstance(e.finding, CordSlice) for e in images)
    parts = [f"{graded} of {count_images(len(images))} graded"] if images else []
    parts += [f"{cord} with spinal cord"] if cord else []
    parts += [f"{left_out} could not be graded"] if left_out else []
    parts += [f"{len(outline.refusals)} series not graded"] if outline.refusals else []
    return ", ".join(parts)


def _card(
    page: Image.Image,
    draw: ImageDraw.ImageDraw,
    slab: Slab,
    sources: dict[SliceRef, SourceImage],
    place: tuple[int, int, int],
) -> None:
    left, top, width = place
    draw.rounded_rectangle((left, top, left + width - 1, top + CARD_HEIGHT - 1), 8, fill=CARD)
    shown = slab.worst or _representative(slab)
    thumb = _thumbnail(shown, "not graded" if slab.refusal else "not readable")
    page.paste(thumb, (left + 16, top + 16))
    x = left + 16 + THUMB + 20
    draw.text((x, top + 12), slab.name, fill=MUTED, font=render.font(18))
    if not slab.refusal:
        _strip(draw, slab, (x, top + 172), left + width - 16 - x)
    worst = slab.worst
    if worst is None or not isinstance(worst.finding, GradedSlice):
        _ungraded(draw, slab, (x, top + 46), left + width - 16 - x)
        return
    draw.text((x - 3, top + 30), worst.finding.grade.value, fill=ACCENT, font=render.font(96))
    draw.text((x, top + 140), f"image {worst.number}", fill=INK, font=render.font(17))
    if worst.isolated:
        draw.text((x + 112, top + 146), "isolated slice: neighbours are A", fill=ACCENT, font=render.font(15))
    render.draw_bars(draw, worst.finding.scores, worst.finding.grade, (x + 112, top + 44), 208, step=25, size=17)


def _ungraded(draw: ImageDraw.ImageDraw, slab: Slab, place: tuple[int, int], width: int) -> None:
    cord = all(isinstance(e.finding, CordSlice) for e in slab.entries)
    words = "spinal cord" if cord else "not graded"
    draw.text(place, words, fill=ACCENT, font=render.font(40))
    reason = "Schizas grades do not apply" if cord else wording.NO_EXCLUSION
    if slab.refusal:
        _, _, why = slab.refusal.partition(": ")
        reason = f"{why or 'not fit for grading'}; {reason}"
    render.draw_lines(draw, render.wrapped(reason, width, 18)[:5], (place[0], place[1] + 52), 18, INK)


def _representative(slab: Slab) -> Entry:
    """The middle slice that can be shown, preferring one with a canal box."""
    drawable = [e for e in slab.entries if e.image.pixels is not None] or list(slab.entries)
    boxed = [e for e in drawable if finding_box(e.finding) is not None] or drawable
    return boxed[len(boxed) // 2]


def _thumbnail(entry: Entry, without: str) -> Image.Image:
    pixels = entry.image.pixels
    if pixels is None:
        blank = Image.new("RGB", (THUMB, THUMB), TRACK)
        ImageDraw.Draw(blank).text((THUMB // 2, THUMB // 2), without, fill=INK, font=render.font(18), anchor="mm")
        return blank
    return render.canal_view(pixels, entry.image.plane, finding_box(entry.finding), THUMB)


def _strip(draw: ImageDraw.ImageDraw, slab: Slab, place: tuple[int, int], width: int) -> None:
    """One cell per slice from head to foot, with the letters of the legend; as large as there is room."""
    count = len(slab.entries)
    size = next((s for s in CELLS if math.ceil(count / (width // s)) * (s + 2) <= STRIP_HEIGHT), CELLS[-1])
    per_row = width // size
    left, top = place[0], min(place[1], place[1] + STRIP_HEIGHT - 12 - math.ceil(count / per_row) * (size + 2))
    for i, entry in enumerate(slab.entries):
        row, column = divmod(i, per_row)
        x, y = left + column * size, top + row * (size + 2)
        key = entry is slab.worst
        draw.rectangle((x, y, x + size - 3, y + size + 1), fill=ACCENT if key else TRACK)
        draw.text(
            (x + (size - 2) / 2, y + (size + 2) / 2),
            _cell(entry.finding),
            fill=(0, 0, 0) if key else INK,
            font=render.font(size - 4),
            anchor="mm",
        )


def _cell(finding: SliceFinding) -> str:
    match finding:
        case GradedSlice():
            return finding.grade.value
        case CordSlice():
            return "s"
        case NotGradable():
            return "?"
        case CanalNotFound():
            return "-"
        case Unreadable():
            return "x"


def _footer(draw: ImageDraw.ImageDraw, height: int, located: Located | str) -> None:
    legend = "   ".join(LEGEND)
    draw.text((MARGIN, height - FOOTER + 6), legend, fill=INK, font=render.font(18))
    where = LINES if isinstance(located, Located) else wording.slab_positions(None, located)
    render.draw_lines(draw, (*NOTES, where), (MARGIN, height - FOOTER + 32), 16, MUTED)
