"""The Sudirman label images (Mendeley Data, CC BY 4.0): canal boxes and dural sac areas of the lowest three discs.

Labels were drawn on composites led by T1, so the shift between the T1 and the T2 picture is measured and the box moved
with it; pairs that match badly or lie too far apart are left out.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image as Picture
from PIL import UnidentifiedImageError
from scipy import ndimage

from stenosis_node.domain import PixelBox
from training.importers.intake import Intake, short
from training.importers.mapping import Label
from training.labels.errors import LabelError
from training.labels.rows import BoxSource, LabelRow, Region

SAC: Final = 150
"""Gray value of the thecal sac."""
MARGIN_MM: Final = 3.0
PIXEL_MM: Final = 0.6875
DISCS: Final = {"3": "L3/L4", "4": "L4/L5", "5": "L5/S1"}
MIN_SAC_MM2: Final = 10.0
MAX_SHIFT_PX: Final = 3
SEARCHED_PX: Final = 6
MIN_MATCH: Final = 0.15
"""Correlation of the edges of T1 and T2 at the best shift."""
AROUND_PX: Final = 40
"""Edges this far round the sac decide the shift."""
ISSUER: Final = "sudirman"
READER: Final = "sudirman"
_NAME: Final = re.compile(r"(L1|T1|T2)_(\d+)_D(\d)\.png\Z", re.IGNORECASE)
_Array = npt.NDArray[np.float64]


def import_sudirman(source: Path, intake: Intake) -> Iterator[LabelRow]:
    """Rows of the unpacked label set. Raises LabelError when it holds no label images."""
    found: dict[tuple[str, str], dict[str, Path]] = defaultdict(dict)
    for path in sorted(source.rglob("*.png")):
        match = _NAME.match(path.name)
        if match is None:
            intake.leave_out(short(path, source), "the name is not <L1|T1|T2>_<patient>_D<disc>.png")
            continue
        kind, patient, disc = match.group(1).upper(), match.group(2), match.group(3)
        first = found[patient, disc].setdefault(kind, path)
        if first != path:
            intake.leave_out(short(path, source), f"a second {kind} of the same disc")
    if not any("L1" in kinds for kinds in found.values()):
        raise LabelError(f"no label image L1_<patient>_D<disc>.png below {source}; unpack Label_Images there")
    pixel_mm = intake.pixel_spacing_mm or PIXEL_MM
    intake.pixel_spacing_mm = pixel_mm
    for (patient, disc), kinds in intake.steps(sorted(found.items()), "reading label images"):
        row = _row(patient, disc, kinds, source, intake, pixel_mm)
        if row is not None:
            yield row


def _row(
    patient: str, disc: str, kinds: dict[str, Path], source: Path, intake: Intake, pixel_mm: float
) -> LabelRow | None:
    what = f"patient {patient}, disc {disc}"
    for kind, why in (("L1", "no label image"), ("T2", "no T2 picture")):
        if kind not in kinds:
            intake.leave_out(what, why)
            return None
    if disc not in DISCS:
        intake.leave_out(what, "the disc is none of 3, 4 and 5")
        return None
    arrays = {kind: _gray(path, source, intake) for kind, path in kinds.items()}
    label, t2 = arrays["L1"], arrays["T2"]
    if label is None or t2 is None:
        return None
    if label.shape != t2.shape:
        intake.leave_out(what, "label image and T2 picture differ in size")
        return None
    sac = _largest(label == SAC)
    n_pixels = int(sac.sum())
    if n_pixels * pixel_mm**2 < MIN_SAC_MM2:
        intake.leave_out(what, f"no thecal sac (value {SAC}) of {MIN_SAC_MM2:g} mm2 or more")
        return None
    shift, flags = _shift(arrays.get("T1"), t2, sac)
    if isinstance(shift, str):
        intake.leave_out(what, shift)
        return None
    ys, xs = np.nonzero(sac)
    margin = MARGIN_MM / pixel_mm
    box = PixelBox(
        float(max(xs.min() + shift[0] - margin, 0)),
        float(max(ys.min() + shift[1] - margin, 0)),
        float(min(xs.max() + 1 + shift[0] + margin, label.shape[1])),
        float(min(ys.max() + 1 + shift[1] + margin, label.shape[0])),
    )
    slices = intake.read(kinds["T2"], source)
    if not slices:
        return None
    return intake.row(
        slices[0], Label(region=Region.ROOTLET, level=DISCS[disc]), root=source, box=box, box_source=BoxSource.MASK,
        patient_id=patient, issuer=ISSUER, reader=intake.reader or READER, what=what, flags=flags,
        dsca_mm2=round(n_pixels * pixel_mm**2, 2),
    )  # fmt: skip


def _gray(path: Path, source: Path, intake: Intake) -> npt.NDArray[np.uint8] | None:
    """Values of an 8-bit gray picture; colour copies of one are taken if their channels agree."""
    try:
        with Picture.open(path) as picture:
            values = np.asarray(picture)
            mode = picture.mode
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError):
        intake.leave_out(short(path, source), "the picture cannot be read")
        return None
    if mode in ("RGB", "RGBA") and (values[..., :1] == values[..., 1:3]).all():
        values, mode = values[..., 0], "L"
    if mode != "L":
        intake.leave_out(short(path, source), "no 8-bit gray picture: its values say nothing")
        return None
    return values.astype(np.uint8)


def _largest(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The largest connected component."""
    parts, n_parts = ndimage.label(mask)
    if n_parts == 0:
        return mask
    sizes = np.bincount(parts.ravel())[1:]
    found: npt.NDArray[np.bool_] = parts == int(np.argmax(sizes)) + 1
    return found


def _shift(
    t1: npt.NDArray[np.uint8] | None, t2: npt.NDArray[np.uint8], sac: npt.NDArray[np.bool_]
) -> tuple[tuple[int, int] | str, tuple[str, ...]]:
    """(columns, rows) from T1 to T2 and flags, or why the pair cannot be used."""
    if t1 is None or t1.shape != t2.shape:
        return (0, 0), ("shift-unknown",)
    ys, xs = np.nonzero(sac)
    reach = AROUND_PX + SEARCHED_PX
    window = (
        slice(max(int(ys.min()) - reach, 0), int(ys.max()) + reach + 1),
        slice(max(int(xs.min()) - reach, 0), int(xs.max()) + reach + 1),
    )
    one, two = _edges(t1[window]), _edges(t2[window])
    scores = {
        (dx, dy): _correlation(one, two, dx, dy)
        for dy in range(-SEARCHED_PX, SEARCHED_PX + 1)
        for dx in range(-SEARCHED_PX, SEARCHED_PX + 1)
    }
    best = max(scores, key=lambda shift: (scores[shift], -abs(shift[0]) - abs(shift[1])))
    if scores[best] < MIN_MATCH:
        return "the edges of T1 and T2 do not match", ()
    if max(map(abs, best)) > MAX_SHIFT_PX:
        return f"T1 and T2 are more than {MAX_SHIFT_PX} pixels apart", ()
    return best, () if best == (0, 0) else ("shifted",)


def _edges(values: npt.NDArray[np.uint8]) -> _Array:
    edges: _Array = ndimage.gaussian_gradient_magnitude(values.astype(np.float64), 1.0)
    return edges


def _correlation(one: _Array, two: _Array, dx: int, dy: int) -> float:
    """Of ``one``, moved by (dx, dy), with ``two`` where both exist."""
    rows, columns = one.shape
    a = one[max(-dy, 0) : rows - max(dy, 0), max(-dx, 0) : columns - max(dx, 0)]
    b = two[max(dy, 0) : rows - max(-dy, 0), max(dx, 0) : columns - max(-dx, 0)]
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale > 0 else 0.0
