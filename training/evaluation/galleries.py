"""Pictures of cases: agreement and disagreement as in Figures 2 and 3 of the paper, and the worst errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd

mpl.use("Agg")

import matplotlib.pyplot as plt
import pydicom
from matplotlib.patches import Rectangle
from PIL import Image
from pydicom.errors import InvalidDicomError

from training.evaluation.document import Figure, Section
from training.evaluation.figures import save
from training.evaluation.predictions import BOX, P_GRADE
from training.evaluation.stages import ChainScores
from training.evaluation.vocabulary import GRADES, REGIONS, UNLABELLED, code_labels
from training.labels.images import PICTURES

_UNREADABLE: Final = (
    OSError,
    ValueError,
    AttributeError,
    RuntimeError,
    NotImplementedError,
    IndexError,
    InvalidDicomError,
)
"""What pydicom, its decoders and Pillow raise for files that are not what they seem."""
_ACROSS: Final = 6
_READER, _CHAIN = "#35c26b", "#ff9d3c"


@dataclass(frozen=True)
class Case:
    """One slice to show under the words that say why."""

    slice: str
    words: str


def cases_section(one: ChainScores, paths: pd.Series) -> Section:
    """Regions, grades and worst cases of a chain. The text counts cases and pictures, also where none can be shown.

    paths  image by slice
    """
    wanted = (
        ("regions", "Rootlet and cord, agreed and not", region_cases(one)),
        ("grades", "Grades, agreed and not", grade_cases(one)),
        ("worst", "Worst cases: most grades off, then the surest; canals not found", worst_cases(one)),
    )
    figures, counts = [], []
    for name, caption, cases in wanted:
        png, read = _draw(one, cases, paths)
        counts.append(f"{caption}: cases {len(cases)}, pictures that could be read {read}.")
        if png is not None:
            text = f"{caption}: {one.reader} (green) and {one.chain} (orange), {read} of {len(cases)} cases."
            figures.append(Figure(name=f"gallery-{name}-{_file_name(one.chain)}", caption=text, png=png))
    return Section(title=f"Cases: {one.chain}", text=" ".join(counts), figures=figures)


def region_cases(one: ChainScores) -> list[Case]:
    """Three of each pair of regions."""
    truth, called = one.truth.region, one.found.region.where(one.found.x0.notna(), "")
    return [
        Case(name, f"reader {a}, chain {b}")
        for a in REGIONS
        for b in REGIONS
        for name in _apart(truth.index[((truth == a) & (called == b)).to_numpy()], 3)
    ]


def grade_cases(one: ChainScores) -> list[Case]:
    """Per grade of the reader three agreed and three not, end to end."""
    truth, called = one.truth.grade.loc[one.graded], one.found.called.loc[one.graded]
    cases = []
    for grade in GRADES:
        for same in (True, False):
            chosen = (truth == grade) & (called != "") & ((called == grade) == same)
            cases += [
                Case(name, f"reader {grade}, chain {called[name]}")
                for name in _apart(truth.index[chosen.to_numpy()], 3)
            ]
    return cases


def worst_cases(one: ChainScores, count: int = 12) -> list[Case]:
    """Grades furthest off, the surest first; then canals that were not found on graded slices."""
    truth, called = (code_labels(part.loc[one.graded], GRADES) for part in (one.truth.grade, one.found.called))
    gap = np.where(called == UNLABELLED, 0, np.abs(truth - called))
    sure = one.found.loc[one.graded, list(P_GRADE)].max(axis=1).fillna(0).to_numpy()
    order = np.lexsort((-sure, -gap))
    cases = [
        Case(
            one.graded[k],
            f"reader {GRADES[truth[k]]}, chain {GRADES[called[k]]}" + (f" ({sure[k]:.2f})" if sure[k] else ""),
        )
        for k in order[:count]
        if gap[k] > 0
    ]
    lost = one.graded[one.found.x0.loc[one.graded].isna().to_numpy()]
    return cases + [Case(name, f"reader {one.truth.grade[name]}, no canal found") for name in lost[:_ACROSS]]


def read_picture(path: Path, frame: Any) -> npt.NDArray[np.float32] | None:
    """Pixels ``[rows, columns]`` of a DICOM file or a picture; None when they cannot be read."""
    try:
        if path.suffix.lower() in PICTURES:
            return np.asarray(Image.open(path).convert("L"), dtype=np.float32)
        pixels = np.asarray(pydicom.dcmread(path).pixel_array, dtype=np.float32)
        if pixels.ndim == 3:
            pixels = pixels[0 if pd.isna(frame) else int(frame) - 1]
    except _UNREADABLE:
        return None
    return pixels if pixels.ndim == 2 else None


def _draw(one: ChainScores, cases: Sequence[Case], paths: pd.Series) -> tuple[bytes | None, int]:
    """The picture, None without a readable one, and how many cases it shows."""
    read = [(case, read_picture(Path(paths[case.slice]), one.truth.frame[case.slice])) for case in cases]
    shown = [(case, pixels) for case, pixels in read if pixels is not None]
    if not shown:
        return None, 0
    down = -(-len(shown) // _ACROSS)
    figure, axes = plt.subplots(down, _ACROSS, figsize=(2 * _ACROSS, 2.25 * down), squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (case, pixels) in zip(axes.flat, shown, strict=False):
        low, high = np.percentile(pixels, (1, 99.5))
        axis.imshow(pixels, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest")
        _box(axis, one.truth.loc[case.slice], _READER, "-")
        _box(axis, one.found.loc[case.slice], _CHAIN, "--")
        axis.set_title(case.words, fontsize=7.5)
    return save(figure), len(shown)


def _box(axis: Any, row: pd.Series, color: str, style: str) -> None:
    x0, y0, x1, y1 = (float(row[name]) for name in BOX)
    if not np.isnan(x0):  # boxes are pixel edges, matplotlib draws pixel centres
        axis.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, ec=color, ls=style, lw=1.2))


def _apart(names: pd.Index, count: int) -> list[str]:
    """Cases spread over the whole list, so that they come from several patients."""
    if len(names) <= count:
        return list(names)
    return [str(names[k]) for k in np.linspace(0, len(names) - 1, count).round().astype(int)]


def _file_name(chain: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in chain)
