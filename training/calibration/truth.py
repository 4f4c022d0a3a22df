"""What readers say of the slices of a predictions file, one row for each row of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from training.evaluation.reading import SLICE_KEYS
from training.evaluation.vocabulary import GRADES, REGIONS

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Truth:
    """By row of the predictions. Where readers are divided, the more careful label holds: other, then cord; the more
    severe grade."""

    regions: Floats
    """[slices, 2]: shares of readers for rootlet and cord; NaN where nobody says either."""
    grades: Floats
    """[slices, 4]; NaN where nobody graded."""
    other: Flags
    heights_mm: Floats
    """Patient z; NaN where it is not known."""
    patients: npt.NDArray[np.object_]
    """Split group, or patient key; empty where there is no label."""

    @property
    def region(self) -> npt.NDArray[np.object_]:
        """``rootlet``, ``cord``, ``other`` or empty."""
        known = ~np.isnan(self.regions[:, 0])
        cord = np.nan_to_num(self.regions[:, 1]) >= 0.5
        words = np.where(cord, REGIONS[1], REGIONS[0]).astype(object)
        words[~known] = ""
        words[self.other] = "other"
        return words

    @property
    def grade(self) -> npt.NDArray[np.object_]:
        """A to D, or empty."""
        shares = np.nan_to_num(self.grades)
        severest = shares.shape[1] - 1 - shares[:, ::-1].argmax(axis=1)
        words = np.asarray(GRADES, dtype=object)[severest]
        words[np.isnan(self.grades[:, 0]) | (self.region != REGIONS[0])] = ""
        return np.asarray(words)


def truth_of(predictions: pd.DataFrame, labels: pd.DataFrame, reader: str = "") -> Truth:
    """The labels of one reader, or of all together.

    labels  rows of a label manifest
    reader  empty: all
    """
    rows = labels[labels["reader"] == reader] if reader else labels
    keys = slice_names(rows)
    wanted = slice_names(predictions)
    regions = _shares(rows["region"], keys, REGIONS).reindex(wanted).to_numpy(dtype=float)
    grades = _shares(rows["grade"], keys, GRADES).reindex(wanted).to_numpy(dtype=float)
    other = (rows["region"] == "other").groupby(keys.to_numpy()).mean().reindex(wanted).fillna(0.0)
    heights = pd.to_numeric(labels["z_mm"], errors="coerce").groupby(slice_names(labels).to_numpy()).first()
    patients = labels["split_group"].where(labels["split_group"] != "", labels["patient_key"]).astype(str)
    groups = patients.groupby(slice_names(labels).to_numpy()).first()
    return Truth(
        regions,
        grades,
        other.to_numpy() >= 0.5,
        heights.reindex(wanted).to_numpy(dtype=float),
        groups.reindex(wanted).fillna("").to_numpy(dtype=object),
    )


def slice_names(table: pd.DataFrame) -> pd.Index:
    """One name per row; a frame is 5, 5.0, ``5`` or empty."""
    frames = pd.to_numeric(table["frame"], errors="coerce").fillna(0).astype(int).astype(str)
    parts = [table[key].astype(str) for key in SLICE_KEYS if key != "frame"]
    return pd.Index(parts[0].str.cat([*parts[1:], frames], sep=" "), name="slice")


def _shares(column: pd.Series, keys: pd.Index, labels: tuple[str, ...]) -> pd.DataFrame:
    given = pd.DataFrame({label: (column == label).to_numpy(dtype=float) for label in labels}, index=keys)
    given = given[given.sum(axis=1) > 0]
    return given.groupby(level=0).mean()
