"""Two raters against one reference on the same resampled patients: ``stenosis-train compare``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from training.evaluation.agreement import bounds
from training.evaluation.matrices import count_by_cluster
from training.evaluation.predictions import REQUIRED, called_grade, read_predictions
from training.evaluation.reading import SLICE_KEYS, EvaluationError
from training.evaluation.resampling import Resamples, number_clusters, percentile_interval
from training.evaluation.scoring import Bounds, score, stacked_scores
from training.evaluation.sources import Source
from training.evaluation.vocabulary import UNLABELLED, Codes, code_columns

SCORES: Final = (
    "accuracy",
    "macro_f1",
    "kappa",
    "kappa_linear",
    "kappa_quadratic",
    "severe_sensitivity",
    "severe_specificity",
)
_PATIENT: Final = ("patient_key", "study_uid")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One score of both raters and B minus A, with 95 % bounds."""

    a: float | None
    a_bounds: Bounds
    b: float | None
    b_bounds: Bounds
    difference: float | None
    difference_bounds: Bounds


@dataclass(frozen=True, kw_only=True)
class RaterComparison:
    """Scores are against ``truth`` on the slices it labels and both raters saw; no answer counts as an error."""

    a: str
    b: str
    truth: str
    labels: tuple[str, ...]
    n: int
    missed: tuple[int, int]
    """Slices without an answer of A and of B."""
    unmatched: int
    """Slices with a label of the reference that a rater's file does not hold."""
    cluster: str
    clusters: int
    scores: dict[str, Difference]

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return asdict(self)


def compare(
    a: Source, b: Source, truth: Source, *, cluster: str | None = None, bootstrap: int = 2000, seed: int = 0
) -> RaterComparison:
    """Compare two raters. Kappas are of slices that both answered. Raises EvaluationError."""
    table, name = _joined({"a": a, "b": b, "truth": truth}, cluster)
    coded = {part: code_columns(table, truth.path, "truth", part) for part in ("a", "b")}
    labels = max((one.labels for one in coded.values()), key=len)
    reference = coded["a"].a
    kept = reference != UNLABELLED
    if not kept.any():
        raise EvaluationError(f"{truth.path}: no slice with a {truth.column} is in both {a.path} and {b.path}")
    patients, count = number_clusters(list(table.patient[kept]))
    resamples = Resamples.draw(count, bootstrap if count > 1 else 0, seed)
    answers = {part: one.b[kept] for part, one in coded.items()}
    return RaterComparison(
        a=a.name,
        b=b.name,
        truth=truth.name,
        labels=labels,
        n=int(kept.sum()),
        missed=(int((answers["a"] == UNLABELLED).sum()), int((answers["b"] == UNLABELLED).sum())),
        unmatched=int(table.attrs["unmatched"]),
        cluster=name,
        clusters=count,
        scores=_differences(reference[kept], answers["a"], answers["b"], labels, patients, resamples),
    )


def _differences(
    truth: Codes, a: Codes, b: Codes, labels: Sequence[str], patients: Codes, resamples: Resamples
) -> dict[str, Difference]:
    both = (a != UNLABELLED) & (b != UNLABELLED)
    made = {}
    for names, rows in (
        ([name for name in SCORES if "kappa" not in name], np.ones(len(truth), dtype=bool)),
        ([name for name in SCORES if "kappa" in name], both),
    ):
        points, stacks = [], []
        for answer in (a[rows], b[rows]):
            filled = np.where(answer == UNLABELLED, len(labels), answer)
            cells = count_by_cluster(truth[rows], filled, len(labels) + 1, patients[rows], resamples.weights.shape[1])
            points.append(score(truth[rows], answer, labels, patients[rows], resamples).values)
            stacks.append(stacked_scores(resamples.sums(cells), labels))
        for name in names:
            if name not in stacks[0]:
                continue
            first, second = (point.get(name) for point in points)
            made[name] = Difference(
                a=first,
                a_bounds=bounds(percentile_interval(stacks[0][name])),
                b=second,
                b_bounds=bounds(percentile_interval(stacks[1][name])),
                difference=None if first is None or second is None else second - first,
                difference_bounds=bounds(percentile_interval(stacks[1][name] - stacks[0][name])),
            )
    return {name: made[name] for name in SCORES if name in made}


def _joined(sources: dict[str, Source], cluster: str | None) -> tuple[pd.DataFrame, str]:
    """Cells of all three on the slices that all files hold, with the patient; ``attrs`` counts the others."""
    tables = {part: _labels(source) for part, source in sources.items()}
    keys = [key for key in SLICE_KEYS if all(key in table.columns for table in tables.values())]
    columns = {part: _keyed(table, keys, sources[part], part) for part, table in tables.items()}
    whole = columns["truth"][columns["truth"] != ""]
    joined = pd.concat(columns, axis=1, join="inner")
    if joined.empty:
        raise EvaluationError(f"no slice is in all of {', '.join(str(source.path) for source in sources.values())}")
    names = [cluster] if cluster else list(_PATIENT)
    for name in names:
        for part in ("truth", "a", "b"):
            if name in tables[part].columns:
                joined["patient"] = tables[part].set_index(keys, drop=False)[name].loc[joined.index].to_numpy()
                joined.attrs["unmatched"] = len(whole.index.difference(joined.index))
                return joined.reset_index(), name
    raise EvaluationError(f"no file has a column {' or '.join(names)}, which names the patient; name one by --cluster")


def _labels(source: Source) -> pd.DataFrame:
    """The rater's rows. Of a predictions file the grade is what the chain reports in the end."""
    table = source.read()
    if source.column == "grade" and set(REQUIRED) <= set(table.columns):
        predictions = read_predictions(source.path).loc[table.index]
        table = table.assign(grade=called_grade(predictions))
    return table


def _keyed(table: pd.DataFrame, keys: list[str], source: Source, part: str) -> pd.Series:
    keyed = table.set_index(keys)[source.column].rename(part)
    if keyed.index.has_duplicates:
        raise EvaluationError(
            f"{source.path}: {', '.join(keys)} name more than one row; the files need more keys in common"
        )
    return keyed
