"""Agreement of two columns of labels in CSV or Parquet files: ``stenosis-train agreement``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from training.evaluation.agreement import Agreement, agree
from training.evaluation.reading import EvaluationError, need_columns, need_unique, read_table, shared_keys
from training.evaluation.resampling import Resamples, number_clusters
from training.evaluation.sources import join
from training.evaluation.vocabulary import code_columns

_PATIENT_COLUMNS: Final = ("patient_key", "study_uid")
_SUFFIX: Final = " (other file)"


@dataclass(frozen=True, kw_only=True)
class ColumnAgreement:
    """What was compared, and the result."""

    a: str
    b: str
    agreement: Agreement
    left_out: dict[str, int]
    """Reasons with the number of rows."""
    unmatched: tuple[int, int]
    """Rows of the first and of the second file without a partner; (0, 0) for one file."""
    cluster: str | None
    """Column whose values were resampled; None: each row for itself."""

    def as_json(self) -> dict[str, Any]:
        """Scores at the top level, with what they rest on."""
        return {
            **asdict(self.agreement),
            "a": self.a,
            "b": self.b,
            "left_out": self.left_out,
            "rows_left_out": sum(self.left_out.values()),
            "unmatched": list(self.unmatched),
            "cluster": self.cluster,
        }


def agree_on_columns(
    path: Path,
    a: str,
    b: str,
    *,
    other: Path | None = None,
    keys: Sequence[str] = (),
    cluster: str | None = None,
    bootstrap: int = 2000,
    seed: int = 0,
) -> ColumnAgreement:
    """Compare column ``a`` of ``path`` with column ``b`` of the same file, or of ``other`` joined by ``keys``.

    cluster     column that names the patient; by default patient_key, else study_uid, else every row for itself
    bootstrap   resamples of patients for the intervals; 0 for none

    Raises EvaluationError.
    """
    table, column_b, unmatched = _joined(path, a, b, other, keys)
    coded = code_columns(table, path, a, column_b)
    if not coded.both.any():
        raise EvaluationError(f"{path}: no row has a label in both {a} and {b}")
    cluster = _cluster_column(table, path, cluster)
    names = table.index.astype(str) if cluster is None else table[cluster]
    rows = table.index[coded.both]
    if cluster is not None and (names[rows] == "").any():
        empty = rows[(names[rows] == "").to_numpy()][0]
        raise EvaluationError(f"{path}, row {empty}, column {cluster}: empty; every row needs its patient")
    codes, count = number_clusters(list(names[coded.both]))
    return ColumnAgreement(
        a=a,
        b=b,
        agreement=agree(
            coded.a[coded.both],
            coded.b[coded.both],
            coded.labels,
            cluster=codes,
            resamples=Resamples.draw(count, bootstrap, seed) if bootstrap and count > 1 else None,
        ),
        left_out={why.replace(_SUFFIX, ""): n for why, n in coded.left_out.items()},
        unmatched=unmatched,
        cluster=cluster,
    )


def _joined(
    path: Path, a: str, b: str, other: Path | None, keys: Sequence[str]
) -> tuple[pd.DataFrame, str, tuple[int, int]]:
    left = read_table(path)
    need_columns(left, path, [a])
    if other is None:
        need_columns(left, path, [b])
        return left, b, (0, 0)
    right = read_table(other)
    need_columns(right, other, [b])
    keys = tuple(keys) or shared_keys(left, right)
    if not keys:
        raise EvaluationError(f"{path} and {other} share none of study_uid, series_uid, sop_uid, frame; name --key")
    for table, file in ((left, path), (right, other)):
        need_columns(table, file, keys)
        need_unique(table, file, keys)
    joined, only_left, only_right = join(left, right, keys, _SUFFIX)
    if joined.empty:
        raise EvaluationError(
            f"no row of {path} has the {', '.join(keys)} of a row of {other}; do both name the same slices?"
        )
    return joined, b + _SUFFIX if b in left.columns and b not in keys else b, (only_left, only_right)


def _cluster_column(table: pd.DataFrame, path: Path, asked: str | None) -> str | None:
    if asked is not None:
        need_columns(table, path, [asked])
        return asked
    return next((name for name in _PATIENT_COLUMNS if name in table.columns and (table[name] != "").all()), None)
