"""What one chain learns from: one row per slice, from one reader's labels or from all readers' together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from stenosis_node.domain import Grade, PixelBox
from training.labels.errors import LabelError
from training.labels.manifest import has_box
from training.labels.rows import BOX, SLICE, TRUTH, Region, parse_grade_set
from training.learning.series import Key, slice_key
from training.learning.store import SliceEntry, SliceStore

CONSENSUS: Final = "consensus"
"""Name of the chain that learns from all readers."""
REGIONS: Final = (Region.ROOTLET, Region.CORD)
GRADES: Final = tuple(Grade)

Shares = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LabelledSlice:
    """A slice as a chain is taught it."""

    entry: SliceEntry
    patient: str
    group: str
    """Never on two sides of a split."""
    level: str
    box: PixelBox | None
    """In the stored image; None when no reader of the chain drew one."""
    regions: Shares | None
    """Shares of the readers who said rootlet and cord, ``[2]``; None when most refuse the slice or none labelled it."""
    grades: Shares | None
    """Probability of A to D, ``[4]``; None when nobody graded it. A set of possible grades shares one reader's vote."""
    refused: bool = False
    """Most readers who say what it shows say that it cannot be judged: it teaches neither region nor grade."""

    @property
    def key(self) -> Key:
        """Names the slice."""
        return self.entry.key

    @property
    def region(self) -> int | None:
        """Index of the label most readers gave, the first of equals: rootlet."""
        return None if self.regions is None else int(np.argmax(self.regions))

    @property
    def grade(self) -> int | None:
        """Index of the likeliest grade; of equals the more severe, as the wish is to miss none."""
        return None if self.grades is None else len(GRADES) - 1 - int(np.argmax(self.grades[::-1]))


def readers_of(manifest: pd.DataFrame) -> tuple[str, ...]:
    """Readers by name, without the truth of phantoms unless it is alone."""
    names = sorted(manifest["reader"].unique())
    return tuple(name for name in names if name != TRUTH) or tuple(names)


def labelled(manifest: pd.DataFrame, store: SliceStore, chain: str, readers: Sequence[str] = ()) -> list[LabelledSlice]:
    """The slices that a chain may learn something from, in the order of the manifest.

    chain    name of a reader, or :data:`CONSENSUS` of ``readers``
    raises   LabelError when the manifest has no row of a reader
    """
    named = tuple(readers) or readers_of(manifest) if chain == CONSENSUS else (chain,)
    absent = set(named) - set(manifest["reader"])
    if absent:
        there = ", ".join(sorted(set(manifest["reader"])))
        raise LabelError(f"the manifest has no labels of {', '.join(sorted(absent))}; its readers are {there}")
    rows = manifest[manifest["reader"].isin(named)]
    boxed = has_box(rows)
    slices = []
    for _, group in rows.groupby(list(SLICE), sort=False, dropna=False):
        first = next(group.itertuples())
        box = group.loc[boxed[group.index], list(BOX)]
        slices.append(
            LabelledSlice(
                store.entries[slice_key(first)],
                patient=str(first.patient_key),
                group=str(first.split_group) or str(first.patient_key),
                level=str(first.level),
                box=PixelBox(*(float(v) for v in box.mean())) if len(box) else None,
                regions=_regions(group["region"]),
                grades=_grades(group),
                refused=_refused(group),
            )
        )
    return slices


def _regions(said: pd.Series) -> Shares | None:
    counts = np.array([(said == region.value).sum() for region in REGIONS], dtype=np.float64)
    refused = int((said == Region.OTHER.value).sum())
    return counts / counts.sum() if counts.sum() > 0 and counts.sum() >= refused else None


def _refused(group: pd.DataFrame) -> bool:
    """A grade without a region counts as an answer: only what can be judged is graded."""
    said, graded = group["region"], (group["grade"] != "") | (group["grade_set"] != "")
    refusing = said == Region.OTHER.value
    answering = ~refusing & ((said != "") | graded)
    return int(refusing.sum()) > int(answering.sum())


def _grades(group: pd.DataFrame) -> Shares | None:
    votes = np.zeros(len(GRADES))
    voters = 0
    for grade, possible in zip(group["grade"], group["grade_set"], strict=True):
        grades = (Grade(grade),) if grade else parse_grade_set(possible)
        if grades:
            voters += 1
            for one in grades:
                votes[GRADES.index(one)] += 1 / len(grades)
    return votes / voters if voters else None
