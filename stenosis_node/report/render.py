"""Drawing: windowing, type, bars, marks. One accent colour and letters: nothing depends on telling colours apart.

Nothing is drawn on the anatomy but the thin outline of the canal box; words, letters and bars stand in margins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from stenosis_node.domain import BundleStatus, Grade, PixelBox, Pixels, SliceGeometry, Vector
from stenosis_node.report import wording
from stenosis_node.report.source import SourceImage, Voi

Gray = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont

PAPER: Final[Colour] = (12, 15, 20)
CARD: Final[Colour] = (23, 28, 36)
TRACK: Final[Colour] = (52, 60, 73)
MUTED: Final[Colour] = (152, 162, 176)
INK: Final[Colour] = (238, 241, 245)
ACCENT: Final[Colour] = (255, 176, 0)
BLACK: Final[Colour] = (0, 0, 0)
CLOSE_UP_MM: Final = 64.0
"""Side of a close-up: the canal with facets and posterior fat."""
WINDOW_PERCENTILES: Final = (1, 99.5)
"""Black and white of an image whose own window says nothing."""


class _Face(Font):
    """A face that draws each word once: the pictures of a study say the same few things, in the same places."""

    def __init__(self, face: Font) -> None:
        self.__dict__ = face.__dict__
        self._drawn = lru_cache(maxsize=1024)(super().getmask2)

    def getmask2(self, text: str | bytes, *how: Any, **more: Any) -> Any:
        """As Pillow calls it to draw text; what comes back is only read."""
        return self._drawn(text, *how, **more)


@cache
def font(size: int) -> Font:
    """Pillow's own scalable face: the same glyphs on every machine."""
    found = ImageFont.load_default(size)
    if not isinstance(found, ImageFont.FreeTypeFont):
        raise TypeError("Pillow was built without FreeType; install the ordinary Pillow wheel")
    return _Face(found)


# --------------------------------------------------------------------------- grey values


def windowed(pixels: Pixels, source: SourceImage) -> Gray:
    """Grey values for display ``[rows, columns]``: the source's window or table, else percentiles.

    A window that leaves nearly nothing between black and white is a header error and is ignored.
    """
    values = np.nan_to_num(pixels)
    shown = _as_source_wants(values, source)
    if shown is not None:
        return shown
    low, high = np.percentile(values, WINDOW_PERCENTILES)
    return _gray((values - low) / max(float(high - low), 1e-6))


def display_window(pixels: Pixels, source: SourceImage) -> Voi:
    """What :func:`windowed` applies, for the values as the source has them: not inverted, even if its sense is."""
    values = np.nan_to_num(pixels)
    if _as_source_wants(values, source) is not None:
        return source.voi
    low, high = (float(v) for v in np.percentile(values, WINDOW_PERCENTILES))
    if source.monochrome1:
        low, high = (_span(values) - v for v in (high, low))
    return Voi((low + high) / 2 + 0.5, high - low + 1)


def _as_source_wants(values: Pixels, source: SourceImage) -> Gray | None:
    """Through the window or table of the source; None when it has none, or none that shows anything.

    Those of an inverted source are meant for the values before they were inverted, and give what is then inverted.
    """
    shown = _voi(_span(values) - values if source.monochrome1 else values, source.voi)
    if shown is None or not _is_sensible(shown):
        return None
    return 255 - shown if source.monochrome1 else shown


def _span(values: Pixels) -> float:
    """Smallest and largest value together: reading an inverted source took its values from this."""
    return float(values.max()) + float(values.min())


def _is_sensible(shown: Gray) -> bool:
    return bool(np.mean((shown > 3) & (shown < 252)) > 0.05 and np.ptp(shown) > 80)


def _voi(values: Pixels, voi: Voi) -> Gray | None:
    if voi.lut is not None:
        first, table, bits = voi.lut
        index = np.clip(np.rint(values).astype(np.int64) - first, 0, len(table) - 1)
        return _gray(np.asarray(table, np.float32)[index] / (2**bits - 1))
    if voi.center is None or voi.width is None:
        return None
    match voi.function:
        case "SIGMOID":
            return _gray(1 / (1 + np.exp(np.clip(-4 * (values - voi.center) / voi.width, -60, 60))))
        case "LINEAR_EXACT":
            return _gray((values - voi.center) / voi.width + 0.5)
        case _:
            return _gray((values - (voi.center - 0.5)) / max(voi.width - 1, 1e-6) + 0.5)


def _gray(unit: npt.NDArray[np.floating]) -> Gray:
    gray: Gray = (np.clip(unit, 0, 1) * 255 + 0.5).astype(np.uint8)
    return gray


def display_scale(geometry: SliceGeometry, rows: int, columns: int) -> tuple[float, float]:
    """Display pixels per source pixel (along x, along y): true proportions, the shorter side at least 512 px."""
    width, height = columns * geometry.column_spacing_mm, rows * geometry.row_spacing_mm
    native = max(1 / geometry.column_spacing_mm, 1 / geometry.row_spacing_mm)
    per_mm = max(512 / min(width, height), min(native, 768 / max(width, height)))
    per_mm = min(per_mm, 1024 / max(width, height))
    return per_mm * geometry.column_spacing_mm, per_mm * geometry.row_spacing_mm


def enlarged(gray: Gray, scale: tuple[float, float]) -> Image.Image:
    """The slice at display size, RGB."""
    rows, columns = gray.shape
    size = max(round(columns * scale[0]), 1), max(round(rows * scale[1]), 1)
    return Image.fromarray(gray).resize(size, Image.Resampling.BICUBIC).convert("RGB")


def canal_view(pixels: Pixels, geometry: SliceGeometry, box: PixelBox | None, side_px: int) -> Image.Image:
    """A square close-up of the canal in true proportions, with its own window; the whole slice when there is no box."""
    rows, columns = pixels.shape
    spacing = (geometry.column_spacing_mm, geometry.row_spacing_mm)
    center = box.center if box is not None else (columns / 2, rows / 2)
    if box is None:
        side_mm = max(columns * spacing[0], rows * spacing[1])
    else:
        side_mm = max(CLOSE_UP_MM, 1.2 * (box.x1 - box.x0) * spacing[0], 1.2 * (box.y1 - box.y0) * spacing[1])
    half = side_mm / spacing[0] / 2, side_mm / spacing[1] / 2
    edges = (center[0] - half[0], center[1] - half[1], center[0] + half[0], center[1] + half[1])
    x0, y0, x1, y1 = (max(round(v), 0) for v in edges)
    values = np.nan_to_num(pixels)
    part = values[y0:y1, x0:x1]
    low, high = np.percentile(part if part.size else values, (0.5, 99.5))
    gray = Image.fromarray(_gray((values - low) / max(float(high - low), 1e-6)))
    view = gray.transform((side_px, side_px), Image.Transform.EXTENT, edges, Image.Resampling.BICUBIC, fillcolor=0)
    picture = view.convert("RGB")
    if box is not None:
        scale = side_px / 2 / half[0], side_px / 2 / half[1]
        shifted = scaled_box(box, scale, -edges[0] * scale[0], -edges[1] * scale[1])
        draw_box(ImageDraw.Draw(picture), shifted, width=1)
    return picture


# --------------------------------------------------------------------------- orientation


def letters(direction: Vector, limit: float = 0.25) -> str:
    """Patient Orientation of a direction (PS3.3 C.7.6.1.1.1): ``L``, ``PF``; the main letter first."""
    axes = (("L", "R"), ("P", "A"), ("H", "F"))
    order = sorted(range(3), key=lambda i: -abs(direction[i]))
    return "".join(axes[i][0 if direction[i] > 0 else 1] for i in order if abs(direction[i]) > limit) or "L"


def opposite(marks: str) -> str:
    """The letters of the opposite direction."""
    return marks.translate(str.maketrans("LRPAHF", "RLAPFH"))


# --------------------------------------------------------------------------- pieces


def draw_box(draw: ImageDraw.ImageDraw, edges: tuple[float, float, float, float], *, width: int = 2) -> None:
    """Outline of a box, lying outside its edges, with a dark seam so that it shows on bright fat too."""
    x0, y0, x1, y1 = (round(v) for v in edges)
    draw.rectangle((x0 - width - 1, y0 - width - 1, x1 + width, y1 + width), outline=BLACK)
    draw.rectangle((x0 - width, y0 - width, x1 + width - 1, y1 + width - 1), outline=ACCENT, width=width)


def scaled_box(box: PixelBox, scale: tuple[float, float], left: float, top: float) -> tuple[float, float, float, float]:
    """Box in display pixels of a picture whose slice begins at (left, top)."""
    return (
        left + box.x0 * scale[0],
        top + box.y0 * scale[1],
        left + box.x1 * scale[0],
        top + box.y1 * scale[1],
    )


def draw_banner(draw: ImageDraw.ImageDraw, width: int, status: BundleStatus) -> int:
    """The strip that says what the weights are, at the very top. Returns its height, 0 when there is none."""
    words = wording.BANNER[status]
    if words is None:
        return 0
    draw.rectangle((0, 0, width, wording.BANNER_HEIGHT_PX - 1), fill=wording.BANNER_PAPER)
    place = (wording.BANNER_LEFT_PX, wording.BANNER_TOP_PX)
    draw.text(place, words, fill=wording.BANNER_INK, font=font(wording.BANNER_TEXT_PX))
    return wording.BANNER_HEIGHT_PX


def draw_bars(
    draw: ImageDraw.ImageDraw,
    scores: Mapping[Grade, float],
    chosen: Grade | None,
    place: tuple[int, int],
    width: int,
    *,
    step: int = 26,
    size: int = 17,
) -> int:
    """Bars of the four grades under each other. Returns the y below them."""
    left, top = place
    text = font(size)
    bar_left, bar_right = left + size + 8, left + width - round(3.2 * size)
    words = wording.shares({grade: scores.get(grade, 0.0) for grade in Grade})
    for i, grade in enumerate(Grade):
        y = top + i * step
        colour = INK if grade is chosen else MUTED
        score = scores.get(grade, 0.0)
        draw.text((left, y), grade.value, fill=colour, font=text)
        bar = (bar_left, y + round(size * 0.35), bar_right, y + round(size * 0.95))
        draw.rectangle(bar, fill=TRACK)
        filled = bar_left + round((bar_right - bar_left) * min(max(score, 0.0), 1.0))
        if filled > bar_left:
            draw.rectangle((bar[0], bar[1], filled, bar[3]), fill=ACCENT if grade is chosen else MUTED)
        draw.text((left + width, y), words[grade], fill=colour, font=text, anchor="ra")
    return top + 4 * step


def wrapped(text: str, width: int, size: int) -> list[str]:
    """Lines of at most ``width`` px."""
    lines: list[str] = []
    for word in text.split():
        if lines and font(size).getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def draw_lines(
    draw: ImageDraw.ImageDraw, lines: Sequence[str], place: tuple[int, int], size: int, colour: Colour
) -> int:
    """Lines of text under each other. Returns the y below them."""
    x, y = place
    for line in lines:
        draw.text((x, y), line, fill=colour, font=font(size))
        y += round(size * 1.35)
    return y
