"""A contact sheet to hold the phantoms against the words of Schizas: ``python -m training.phantom.sheet FILE``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, ImageDraw

from stenosis_node.domain import Grade
from training.phantom.draw import draw_slice
from training.phantom.patient import draw_patient
from training.phantom.seeds import SHIFTED_TEST_SEEDS
from training.phantom.words import Lookalike, OtherReason, PhantomSlice, SliceContent, Subgrade

_TILE: Final = 104
_COLUMNS: Final = 7
_GREYS: Final = 16
"""Few greys keep the file small."""
_CLOSE: Final[dict[str, Any]] = {"kind": "disc", "level": "L4", "fov_mm": 110, "wildness": 0.0, "centred": True}


def contact_sheet() -> Image.Image:
    """Rows: A1 to A4, B, C, D, cord, look-alikes, slices to refuse, slices drawn alone, and three patients."""
    rows = list(_rows())
    sheet = Image.new("L", (_COLUMNS * _TILE, len(rows) * _TILE))
    pen = ImageDraw.Draw(sheet)
    for y, (name, draw, crop_mm) in enumerate(rows):
        for x in range(_COLUMNS):
            sheet.paste(_tile(draw(x), crop_mm), (x * _TILE, y * _TILE))
        pen.text((3, y * _TILE + 2), name, fill=255, stroke_fill=0, stroke_width=1)
    few = np.round(np.asarray(sheet) * ((_GREYS - 1) / 255)).astype(np.uint8)
    made = Image.fromarray(few).convert("P")
    made.putpalette([round(k * 255 / (_GREYS - 1)) for k in range(_GREYS) for _ in "RGB"])
    return made


def _rows() -> Iterator[tuple[str, Callable[[int], PhantomSlice], float | None]]:
    """(name, slice of a column, width shown in mm around the canal)"""

    def drawn(first: int, **wishes: Any) -> Callable[[int], PhantomSlice]:
        return lambda k: draw_slice(np.random.default_rng(first + k), **wishes)

    for subgrade in Subgrade:
        yield subgrade.value, drawn(100, subgrade=subgrade, clean=True, **_CLOSE), 58
    for grade in (Grade.B, Grade.C, Grade.D):
        yield grade.value, drawn(200, grade=grade, clean=True, **_CLOSE), 58
    yield "cord", drawn(300, content=SliceContent.CORD, fov_mm=110, clean=True, wildness=0.0), 58
    yield "look-alikes", _cycle(list(Lookalike), lambda k, v: drawn(400, lookalike=v, severity=0.15, **_CLOSE)(k)), 58
    yield "refused", _cycle(list(OtherReason), lambda k, v: drawn(500, reason=v, fov_mm=180)(k)), None
    yield "drawn alone", drawn(600), None
    for seed in (4, 50, SHIFTED_TEST_SEEDS[3]):
        patient = draw_patient(seed)
        numbers = np.linspace(0, len(patient.planes) - 1, _COLUMNS).astype(int).tolist()
        yield patient.vendor.value, lambda k, p=patient, n=numbers: p.axial_slice(n[k]).image, None  # type: ignore[misc]


def _cycle(values: list[Any], draw: Callable[[int, Any], PhantomSlice]) -> Callable[[int], PhantomSlice]:
    return lambda k: draw(k, values[k % len(values)])


def _tile(drawn: PhantomSlice, crop_mm: float | None) -> Image.Image:
    pixels = drawn.pixels.astype(np.float32)
    if crop_mm is not None and drawn.box is not None:
        x, y = (round(v) for v in drawn.box.center)
        half = round(crop_mm / 2 / drawn.spacing_mm[0])
        pixels = np.pad(pixels, half)[y : y + 2 * half, x : x + 2 * half]
    white = float(np.percentile(pixels, 99.3)) or 1.0
    shown = 255 * np.clip(pixels / white, 0, 1) ** 0.8
    return Image.fromarray(shown.astype(np.uint8)).resize((_TILE, _TILE), Image.Resampling.BOX)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet().save(target, optimize=True)
