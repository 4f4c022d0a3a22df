"""Which labels of which file: ``FILE``, ``FILE:COLUMN``, ``FILE@RATER`` or ``FILE:COLUMN@RATER``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd

from training.evaluation.reading import SLICE_KEYS, EvaluationError, need_columns, need_unique, read_table

RATER_COLUMNS: Final = ("model", "reader")
"""Name who gave the labels, in predictions and in label manifests."""


@dataclass(frozen=True, slots=True)
class Source:
    """One rater's labels. ``rater`` picks the rows of one reader or model from a file that holds several."""

    path: Path
    column: str = "grade"
    rater: str | None = None

    @classmethod
    def parse(cls, text: str) -> Source:
        """The parts of ``FILE[:COLUMN][@RATER]``; a file whose name holds ``:`` or ``@`` is found as it is."""
        if Path(text).exists():
            return cls(Path(text))
        head, at, rater = text.rpartition("@")
        rest = head if at else text
        if Path(rest).exists():
            return cls(Path(rest), rater=rater if at else None)
        file, colon, column = rest.rpartition(":")
        if colon and column and "/" not in column:
            return cls(Path(file), column, rater if at else None)
        return cls(Path(rest), rater=rater if at else None)

    @property
    def name(self) -> str:
        """For tables."""
        return self.rater or f"{self.path.stem}:{self.column}"

    def read(self) -> pd.DataFrame:
        """The rater's rows, one per slice. Raises EvaluationError."""
        table = read_table(self.path)
        need_columns(table, self.path, [self.column])
        table = self._of_rater(table)
        keys = [key for key in SLICE_KEYS if key in table.columns]
        if "sop_uid" not in keys:
            raise EvaluationError(f"{self.path} has no column 'sop_uid', which names the slice")
        need_unique(table, self.path, keys)
        return table

    def _of_rater(self, table: pd.DataFrame) -> pd.DataFrame:
        column = next((name for name in RATER_COLUMNS if name in table.columns), None)
        if self.rater is None:
            names = [] if column is None else sorted(table[column].unique())
            if len(names) > 1:
                raise EvaluationError(
                    f"{self.path} holds several raters ({', '.join(names)}); name one: {self.path}@{names[0]}"
                )
            return table
        if column is None:
            raise EvaluationError(f"{self.path} has no column 'reader' or 'model' to pick {self.rater!r} from")
        rows = table[table[column] == self.rater]
        if rows.empty:
            raise EvaluationError(
                f"{self.path}, column {column}: no row of {self.rater!r}; it has {_listed(table[column])}"
            )
        return rows


def join(left: pd.DataFrame, right: pd.DataFrame, keys: Sequence[str], suffix: str) -> tuple[pd.DataFrame, int, int]:
    """Rows in both by ``keys``, with the rows only in the left and only in the right counted.

    The index stays that of the left. Columns of the right whose names are taken get ``suffix``.
    """
    rows = left.reset_index(names="_row").merge(right, on=list(keys), how="inner", suffixes=("", suffix))
    joined = rows.set_index("_row").rename_axis(None)
    return joined, len(left) - len(joined), len(right) - len(joined)


def _listed(cells: pd.Series) -> str:
    return ", ".join(sorted(cells.unique())[:8])
