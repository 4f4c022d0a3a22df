"""Tables of text from CSV or Parquet, joined by the keys of a slice. Errors name the row and the column.

Rows are counted as a spreadsheet shows them: the header is row 1, the first slice row 2.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

SLICE_KEYS: Final = ("study_uid", "series_uid", "sop_uid", "frame")
"""Name one slice. ``frame`` is empty for single-frame instances."""
FIRST_ROW: Final = 2


class EvaluationError(Exception):
    """A table cannot be used; the text names file, row and column and says what to do."""


def read_table(path: Path) -> pd.DataFrame:
    """Every cell as stripped text, empty for none; the index is the row in a spreadsheet. Raises EvaluationError."""
    try:
        table = _parquet(path) if path.suffix.lower() in (".parquet", ".pq") else _csv(path)
    except FileNotFoundError:
        raise EvaluationError(f"{path} does not exist") from None
    except UnicodeDecodeError as error:
        raise EvaluationError(f"{path} is not UTF-8 text ({error}); save it as CSV UTF-8") from None
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path} cannot be read: {str(error).strip()}") from None
    table.columns = [str(name).strip() for name in table.columns]
    if table.empty:
        raise EvaluationError(f"{path} has no rows below its header")
    table.index = pd.RangeIndex(FIRST_ROW, FIRST_ROW + len(table))
    return table


def need_columns(table: pd.DataFrame, path: Path, names: Sequence[str]) -> None:
    """Raises EvaluationError for the first column that is not there, with those that are."""
    for name in names:
        if name not in table.columns:
            raise EvaluationError(f"{path} has no column {name!r}; it has {', '.join(table.columns)}")


def numbers(table: pd.DataFrame, path: Path, column: str) -> pd.Series:
    """A column as float64, NaN where empty. Raises EvaluationError at the first cell that is no finite number."""
    if column not in table.columns:
        return pd.Series(float("nan"), index=table.index, dtype=float)
    values = pd.to_numeric(table[column].where(table[column] != ""), errors="coerce")
    bad = table.index[((values.isna() | values.abs().eq(float("inf"))) & (table[column] != "")).to_numpy()]
    if len(bad):
        cell = table.loc[bad[0], column]
        raise EvaluationError(f"{path}, row {bad[0]}, column {column}: {cell!r} is no number")
    return values.astype(float)


def shared_keys(left: pd.DataFrame, right: pd.DataFrame) -> tuple[str, ...]:
    """The keys of a slice both tables have."""
    return tuple(key for key in SLICE_KEYS if key in left.columns and key in right.columns)


def need_unique(table: pd.DataFrame, path: Path, keys: Sequence[str]) -> None:
    """Raises EvaluationError when two rows have the same keys."""
    again = table.index[table.duplicated(list(keys)).to_numpy()]
    if len(again):
        values = table.loc[again[0], list(keys)]
        first = table.index[(table[list(keys)] == values).all(axis=1).to_numpy()][0]
        raise EvaluationError(
            f"{path}, row {again[0]}, column {keys[-1]}: the same {', '.join(keys)} as row {first}; keep one"
        )


def _csv(path: Path) -> pd.DataFrame:
    with path.open(encoding="utf-8-sig") as file:
        header = file.readline()
    if not header.strip():
        raise ValueError("its first line, the names of the columns, is empty")
    separator = max(",;\t", key=header.count)
    names = [name.strip() for name in next(csv.reader([header], delimiter=separator))]
    if doubled := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"two columns are called {doubled[0]!r}; rename one")
    table = pd.read_csv(
        path,
        sep=separator,
        dtype=str,
        keep_default_na=False,
        encoding="utf-8-sig",
        index_col=False,
        on_bad_lines="error",
    )
    return _stripped(table.fillna(""))


def _parquet(path: Path) -> pd.DataFrame:
    table = pd.read_parquet(path)
    return _stripped(pd.DataFrame({name: [_text(cell) for cell in table[name]] for name in table.columns}))


def _text(cell: Any) -> str:
    if cell is None or cell is pd.NA or cell is pd.NaT or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell)


def _stripped(table: pd.DataFrame) -> pd.DataFrame:
    return table.apply(lambda column: column.str.strip())
