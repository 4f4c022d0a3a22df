"""The file of saved predictions, CSV or Parquet: one row per slice and model, keyed like the label manifest.

A slice the model saw has a row even when nothing was found on it: a slice without a row was not evaluated, which is
no miss. docs/evaluation.md lists the columns. Stage 3 grades every slice with a box, whatever stage 2 said, so that
grading can be scored apart; what the chain reports in the end is :func:`called_grade`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from training.evaluation.reading import SLICE_KEYS, EvaluationError, need_columns, need_unique, numbers, read_table
from training.evaluation.vocabulary import GRADES, REGIONS

BOX: Final = ("x0", "y0", "x1", "y1")
P_REGION: Final = tuple(f"p_{region}" for region in REGIONS)
P_GRADE: Final = tuple(f"p_{grade}" for grade in GRADES)
TRUE_BOX: Final = "true_box_"
"""Prefix of what the classifiers say about the patch at the reader's box instead of the model's own."""
_SPACING: Final = ("row_spacing_mm", "column_spacing_mm")
_SCORES: Final = ("box_score", *P_REGION, *P_GRADE, *(TRUE_BOX + name for name in (*P_REGION, *P_GRADE)))
_WORDS: Final = {
    "region": ("", *REGIONS, "other"),
    "grade": ("", *GRADES),
    f"{TRUE_BOX}region": ("", *REGIONS, "other"),
    f"{TRUE_BOX}grade": ("", *GRADES),
    "abstained": ("", "0", "1"),
}
_TEXTS: Final = ("model", "reader", "fold", "other_boxes")
COLUMNS: Final = (
    *SLICE_KEYS, "model", "reader", "fold", *BOX, "box_score", "other_boxes", "region", *P_REGION, "grade", *P_GRADE,
    "abstained", *_SPACING, *(TRUE_BOX + name for name in ("region", *P_REGION, "grade", *P_GRADE)),
)  # fmt: skip
REQUIRED: Final = ("study_uid", "series_uid", "sop_uid", "model", *BOX, "region", "grade")


def read_predictions(path: Path) -> pd.DataFrame:
    """Typed predictions with every column of COLUMNS. Raises EvaluationError naming row and column."""
    table = read_table(path)
    need_columns(table, path, REQUIRED)
    for name in (*SLICE_KEYS, *_WORDS, *_TEXTS):
        if name not in table.columns:
            table[name] = ""
    need_unique(table, path, [*SLICE_KEYS, "model"])
    for column, words in _WORDS.items():
        _check(table, path, column, ~table[column].isin(words), f"is none of {', '.join(filter(None, words))} or empty")
    for name in ("sop_uid", "model"):
        _check(table, path, name, table[name] == "", "is needed in every row")
    made = table[[*SLICE_KEYS, *_TEXTS, *_WORDS]].copy()
    for name in (*BOX, *_SPACING, *_SCORES):
        made[name] = numbers(table, path, name)
    _check_boxes(made, path)
    for name in _SCORES:
        _check(made, path, name, (made[name] < 0) | (made[name] > 1), "lies outside 0 to 1")
    for names in (P_REGION, P_GRADE):
        off = (made[list(names)].sum(axis=1) - 1).abs() > 0.02
        _check(
            made,
            path,
            names[0],
            off & made[list(names)].notna().any(axis=1),
            f"and {', '.join(names[1:])} do not add up to 1",
        )
    for row, text in made.other_boxes.items():
        if text:
            parse_boxes(text, f"{path}, row {row}, column other_boxes")
    return made[list(COLUMNS)]


def write_predictions(table: pd.DataFrame, path: Path) -> None:
    """Write predictions as CSV or Parquet by suffix; columns that are not there stay empty."""
    table = table.reindex(columns=list(COLUMNS))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, index=False)


def called_grade(table: pd.DataFrame) -> pd.Series:
    """The grade the chain reports: of a slice with a box, called rootlet, not abstained; else empty."""
    reported = table.x0.notna() & (table.region == "rootlet") & (table.abstained != "1")
    return table.grade.where(reported, "")


def parse_boxes(text: str, where: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """``[[x0, y0, x1, y1, score], ...]`` in JSON as ``[n, 5]``. Raises EvaluationError that begins with ``where``."""
    try:
        boxes = np.asarray(json.loads(text), dtype=float).reshape(-1, 5)
    except ValueError:
        raise EvaluationError(f"{where}: {text[:40]!r} is no list of [x0, y0, x1, y1, score]") from None
    return boxes


def _check_boxes(table: pd.DataFrame, path: Path) -> None:
    given = table[list(BOX)].notna()
    _check(table, path, "x0", given.any(axis=1) & ~given.all(axis=1), "has no complete box beside it: x0, y0, x1, y1")
    _check(table, path, "x1", table.x1 <= table.x0, "is not right of x0")
    _check(table, path, "y1", table.y1 <= table.y0, "is not below y0")


def _check(table: pd.DataFrame, path: Path, column: str, bad: pd.Series, what: str) -> None:
    rows = table.index[bad.to_numpy(dtype=bool)]
    if len(rows):
        raise EvaluationError(f"{path}, row {rows[0]}, column {column}: {str(table.loc[rows[0], column])!r} {what}")
