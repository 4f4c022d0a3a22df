"""Readers and chains on the same slices, and the groups of slices that the tables count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from training.evaluation.predictions import called_grade, read_predictions
from training.evaluation.reading import SLICE_KEYS, EvaluationError
from training.evaluation.resampling import Resamples, number_clusters
from training.evaluation.vocabulary import GRADES, REGIONS, Codes
from training.labels.errors import LabelError
from training.labels.manifest import image_path, read_manifest

_OF_THE_SLICE = (
    "study_uid",
    "series_uid",
    "sop_uid",
    "frame",
    "patient_key",
    "z_mm",
    "level",
    "vendor",
    "fov_mm",
    "path",
)


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """How labels and predictions meet: figures are of the slices that have both."""

    slices: int
    """With a label and a prediction."""
    patients: int
    """Of these slices."""
    labelled_without_prediction: int
    predicted_without_label: int


@dataclass(frozen=True)
class Cohort:
    """Frames share one index: the name of a slice. A slice a rater did not see is missing from the rater's frame."""

    slices: pd.DataFrame
    """What is known of every slice with a label; ``path`` is absolute."""
    readers: dict[str, pd.DataFrame]
    """By reader: region, grade and box."""
    chains: dict[str, pd.DataFrame]
    """By model: the predictions of labelled slices, with the reported grade as ``called``."""
    teachers: dict[str, str]
    """By model: the reader it is compared with (whose labels it learnt)."""
    patients: pd.Series
    """Patient of each slice as a code."""
    resamples: Resamples
    unlabelled: dict[str, pd.Index]
    """By model: the slices it predicted that nobody labelled."""

    def coverage(self) -> Coverage:
        """Of the labels of all readers and the predictions of all chains together."""
        predicted, unlabelled = self.slices.index[:0], self.slices.index[:0]
        for chain, rows in self.chains.items():
            predicted, unlabelled = predicted.union(rows.index), unlabelled.union(self.unlabelled[chain])
        return self._coverage(self.slices.index, predicted.union(unlabelled))

    def coverage_of(self, chain: str) -> Coverage:
        """Of the labels of the chain's reader and its own predictions."""
        predicted = self.chains[chain].index.union(self.unlabelled[chain])
        return self._coverage(self.readers[self.teachers[chain]].index, predicted)

    def _coverage(self, labelled: pd.Index, predicted: pd.Index) -> Coverage:
        both = labelled.intersection(predicted)
        return Coverage(
            slices=len(both),
            patients=int(self.patients.loc[both].nunique()),
            labelled_without_prediction=len(labelled) - len(both),
            predicted_without_label=len(predicted) - len(both),
        )

    def rootlet_or_cord(self, reader: str) -> pd.Index:
        """Slices the reader labelled rootlet or cord."""
        rows = self.readers[reader]
        return rows.index[rows.region.isin(REGIONS)]

    def common(self) -> pd.Index:
        """Slices rootlet or cord for every reader, with a box and a region from every chain."""
        index = self.labelled_by_all()
        for rows in self.chains.values():
            index = index.intersection(rows.index[rows.x0.notna() & rows.region.isin(REGIONS)], sort=False)
        return index

    def labelled_by_all(self) -> pd.Index:
        """Slices rootlet or cord for every reader that every chain saw."""
        index = self.slices.index
        for reader in self.readers:
            index = index.intersection(self.rootlet_or_cord(reader), sort=False)
        for rows in self.chains.values():
            index = index.intersection(rows.index, sort=False)
        return index

    def rootlet_by_all(self, *, chains: bool = True) -> pd.Index:
        """Of the common slices those that every reader (and every chain) calls rootlet."""
        index = self.common()
        for rows in [*self.readers.values(), *(self.chains.values() if chains else ())]:
            index = index[(rows.region.loc[index] == "rootlet").to_numpy()]
        return index

    def graded_by_all(self) -> pd.Index:
        """Of those called rootlet by all, the slices that all graded."""
        index = self.rootlet_by_all()
        for rows in [*self.readers.values(), *self.chains.values()]:
            index = index[rows.grade.loc[index].isin(GRADES).to_numpy()]
        return index

    def patient_codes(self, index: pd.Index) -> Codes:
        """Patients of some slices, for resampling."""
        codes: Codes = self.patients.loc[index].to_numpy()
        return codes


def load_cohort(
    labels: Path, predictions: Sequence[Path], *, reference: str | None = None, bootstrap: int = 2000, seed: int = 0
) -> Cohort:
    """Labels and predictions as a cohort.

    reference  reader that chains without a reader of their own are compared with; by default the first by name

    Raises EvaluationError.
    """
    try:
        manifest = read_manifest(labels)
    except LabelError as error:
        raise EvaluationError(str(error)) from error
    manifest = _indexed(manifest)
    readers = {str(name): rows for name, rows in manifest.groupby("reader", sort=True)}
    reference = reference or next(iter(readers))
    if reference not in readers:
        raise EvaluationError(f"{labels}: no rows of reader {reference!r}; it has {', '.join(readers)}")
    slices = manifest[~manifest.index.duplicated()][list(_OF_THE_SLICE)].copy()
    slices["path"] = [image_path(path, labels) for path in slices.path]
    chains: dict[str, pd.DataFrame] = {}
    unlabelled: dict[str, pd.Index] = {}
    for path in predictions:
        for name, rows in _chains(path, chains).items():
            labelled = rows.index.isin(slices.index)
            if not labelled.any():
                raise EvaluationError(
                    f"{path}: no slice of model {name!r} has a label; do both files name the same slices?"
                )
            chains[name], unlabelled[name] = rows[labelled], rows.index[~labelled]
    codes, count = number_clusters(list(slices.patient_key))
    return Cohort(
        slices,
        readers,
        chains,
        {name: _teacher(rows, readers, reference) for name, rows in chains.items()},
        pd.Series(codes, index=slices.index),
        Resamples.draw(count, bootstrap if count > 1 else 0, seed),
        unlabelled,
    )


def _indexed(table: pd.DataFrame) -> pd.DataFrame:
    cells = [["" if pd.isna(cell) else str(cell) for cell in table[key]] for key in SLICE_KEYS]
    return table.set_index(pd.Index([" ".join(parts) for parts in zip(*cells, strict=True)], name="slice"))


def _chains(path: Path, before: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    table = _indexed(read_predictions(path))
    table["called"] = called_grade(table)
    chains = {str(name): rows for name, rows in table.groupby("model", sort=True)}
    for name in chains.keys() & before.keys():
        raise EvaluationError(f"{path}: model {name!r} is in another file too; give every chain its own name")
    return chains


def _teacher(rows: pd.DataFrame, readers: dict[str, pd.DataFrame], reference: str) -> str:
    named = [name for name in rows.reader.unique() if name in readers]
    return named[0] if len(named) == 1 else reference
