"""What a cell of labels says: a Schizas grade, rootlet or cord, or a numeric code."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from training.evaluation.reading import EvaluationError

GRADES: Final = ("A", "B", "C", "D")
REGIONS: Final = ("rootlet", "cord")
Codes = npt.NDArray[np.int64]
UNLABELLED: Final = -1

_SUBGRADE: Final = re.compile(r"A[1-4]")
_CODE: Final = re.compile(r"(\d{1,3})(?:\.0*)?")
_MOST_CODES: Final = 20
_NO_LABEL: Final = frozenset(
    {"", "?", "-", "na", "n/a", "nan", "none", "null", "other", "others", "unknown", "unclear", "missing", "excluded"}
)
"""Cells that say there is no label. A slice of another kind (cord in a column of grades) says so too."""
_NOT_GRADED: Final = frozenset({"not_gradable", "not-gradable", "not gradable", "unreadable", "no_canal", "no-canal"})


@dataclass(frozen=True, slots=True)
class Coded:
    """Two columns as codes 0.. into ``labels``; UNLABELLED where a cell holds no label."""

    labels: tuple[str, ...]
    a: Codes
    b: Codes
    left_out: Mapping[str, int]
    """Why rows are left out, and how many; a row is counted once, by column a first."""

    @property
    def both(self) -> npt.NDArray[np.bool_]:
        """Rows with a label in both columns."""
        return np.asarray((self.a != UNLABELLED) & (self.b != UNLABELLED))


def code_columns(table: pd.DataFrame, path: Path, a: str, b: str) -> Coded:
    """Codes of two columns in their common vocabulary.

    Raises EvaluationError naming row and column for a cell that is no label, or when the columns speak differently.
    """
    kinds = {column: _kind(table[column]) for column in (a, b)}
    if None in kinds.values():
        empty = next(column for column, kind in kinds.items() if kind is None)
        raise EvaluationError(
            f"{path}, column {empty}: no row has a label (A to D, rootlet or cord, or codes 0, 1, ..)"
        )
    if len(set(kinds.values())) > 1:
        raise EvaluationError(
            f"{path}: column {a} holds {kinds[a]}, column {b} {kinds[b]}; name two columns of one kind"
        )
    kind = kinds[a]
    first, second = (_codes(table[column], str(kind), path, column) for column in (a, b))
    labels = GRADES if kind == "grades" else REGIONS if kind == "regions" else _numerals(first, second)
    return Coded(labels, first, second, _left_out(table, a, b, first, second))


def code_labels(cells: Sequence[str] | pd.Series, labels: Sequence[str]) -> Codes:
    """Codes of cells that were checked before; UNLABELLED for all that is not in ``labels``."""
    place = {label: code for code, label in enumerate(labels)}
    return np.array([place.get(cell, UNLABELLED) for cell in cells], dtype=np.int64)


def _kind(cells: pd.Series) -> str | None:
    seen = Counter(cells)
    found = {
        "grades": sum(n for cell, n in seen.items() if _grade(cell) is not None),
        "regions": sum(n for cell, n in seen.items() if cell.lower() in REGIONS),
        "codes": sum(n for cell, n in seen.items() if _CODE.fullmatch(cell)),
    }
    best = max(found, key=found.__getitem__)
    return best if found[best] else None


def _grade(cell: str) -> int | None:
    upper = cell.upper()
    if _SUBGRADE.fullmatch(upper):
        return 0
    return GRADES.index(upper) if upper in GRADES else None


def _codes(cells: pd.Series, kind: str, path: Path, column: str) -> Codes:
    known = {cell: _code(cell, kind) for cell in cells.unique()}
    for cell, code in known.items():
        if code is None:
            row = cells.index[(cells == cell).to_numpy()][0]
            wanted = {
                "grades": "A, B, C, D",
                "regions": "rootlet, cord",
                "codes": f"a code from 0 to {_MOST_CODES - 1}",
            }
            raise EvaluationError(
                f"{path}, row {row}, column {column}: {cell!r} is none of {wanted[kind]}, other or empty"
            )
    return np.array([known[cell] for cell in cells], dtype=np.int64)


def _code(cell: str, kind: str) -> int | None:
    lower = cell.lower()
    if lower in _NO_LABEL or lower in _NOT_GRADED:
        return UNLABELLED
    if kind == "grades":
        return UNLABELLED if lower in REGIONS else _grade(cell)
    if kind == "regions":
        return REGIONS.index(lower) if lower in REGIONS else None
    match = _CODE.fullmatch(cell)
    return int(match[1]) if match and int(match[1]) < _MOST_CODES else None


def _numerals(first: Codes, second: Codes) -> tuple[str, ...]:
    return tuple(str(code) for code in range(max(2, 1 + int(max(first.max(), second.max())))))


def _left_out(table: pd.DataFrame, a: str, b: str, first: Codes, second: Codes) -> Mapping[str, int]:
    reasons: Counter[str] = Counter()
    for cell_a, cell_b, code_a, code_b in zip(table[a], table[b], first, second, strict=True):
        if UNLABELLED in (code_a, code_b):
            column, cell = (a, cell_a) if code_a == UNLABELLED else (b, cell_b)
            reasons[f"{column} is {cell.lower() or 'empty'}"] += 1
    return dict(reasons)
