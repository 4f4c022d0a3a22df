"""The manifest as a file: CSV or Parquet by suffix, one row per slice and reader (docs/labels.md).

A manifest in memory is a pandas frame with every column of :data:`training.labels.rows.COLUMNS` in that order: texts
as ``str`` (empty when unknown), ``frame`` as ``Int64``, numbers as ``float64`` (NaN when unknown). Its index is the row
number that errors name.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import pandas as pd

from training.labels.checking import (
    FIRST_ROW,
    column_problems,
    complete,
    pair_problems,
    row_problems,
    typed,
)
from training.labels.errors import LabelError, refuse
from training.labels.rows import BOX, NAMES, OWN_PREFIX, SLICE, LabelRow

SUFFIXES: Final = (".csv", ".parquet")
_READ: Final = (OSError, UnicodeDecodeError, ValueError)
"""What pandas and pyarrow raise for files that are not what they seem: their own errors derive from ValueError."""


def read_manifest(path: Path) -> pd.DataFrame:
    """Read and check a manifest. Raises LabelError with every problem found. Images are not looked at."""
    check_suffix(path)
    try:
        frame = _read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except FileNotFoundError:
        raise LabelError(f"{path} does not exist; 'stenosis-train import' makes a manifest") from None
    except _READ as error:
        reason = str(error).strip().splitlines()
        raise LabelError(
            f"{path} cannot be read as {path.suffix[1:]}: {reason[0] if reason else type(error).__name__}"
        ) from error
    frame.index = pd.RangeIndex(FIRST_ROW, FIRST_ROW + len(frame))
    if path.suffix == ".csv":
        frame = frame[frame.ne("").any(axis=1)]  # empty lines at the end keep the numbers of the others right
    return check(frame, str(path))


def check(frame: pd.DataFrame, source: str) -> pd.DataFrame:
    """A frame as a checked manifest. Raises LabelError.

    source  what errors call it
    """
    refuse(column_problems((str(name) for name in frame.columns), source))
    made, problems = typed(frame, source)
    refuse(problems + row_problems(made, source))
    made = complete(made)
    refuse(pair_problems(made, source))
    return made[[*NAMES, *(name for name in made.columns if str(name).startswith(OWN_PREFIX))]]


def from_rows(rows: Iterable[LabelRow], source: str) -> pd.DataFrame:
    """Rows of an importer as a checked manifest. Raises LabelError."""
    cells = [row.cells() for row in rows]
    frame = pd.DataFrame(cells, columns=list(NAMES), dtype=object)
    frame.index = pd.RangeIndex(FIRST_ROW, FIRST_ROW + len(frame))
    return check(frame, source)


def write_manifest(frame: pd.DataFrame, path: Path) -> None:
    """Write a manifest beside its final name and rename: a full disk leaves what was there. Raises LabelError."""
    check_suffix(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".csv":
            frame.to_csv(temporary, index=False, encoding="utf-8")
        else:
            frame.to_parquet(temporary, index=False)
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise LabelError(f"{path} cannot be written: {error.strerror or error}; free space or name another") from error


def merge(frames: Sequence[pd.DataFrame], source: str = "merged manifest") -> pd.DataFrame:
    """Manifests of several readers as one, in order. Rows that say the same twice become one.

    raises  LabelError when a reader says two things of a slice, or a study has two patients (two secrets)
    """
    whole = pd.concat(frames, ignore_index=True).drop_duplicates(ignore_index=True)
    whole.index = pd.RangeIndex(FIRST_ROW, FIRST_ROW + len(whole))
    return check(whole, source)


def side_by_side(frame: pd.DataFrame, column: str = "grade") -> pd.DataFrame:
    """One row per slice, one column per reader with what they wrote in ``column``; slices somebody left out hold ""."""
    wide = frame.pivot_table(index=list(SLICE), columns="reader", values=column, aggfunc="first", dropna=False)
    return wide[wide.notna().any(axis=1)].fillna("").reset_index().rename_axis(columns=None)


def image_path(frame_path: str, manifest: Path) -> Path:
    """Where the image of a row is: relative paths start at the folder of the manifest."""
    return manifest.absolute().parent / frame_path


def has_box(frame: pd.DataFrame) -> pd.Series:
    """True for rows with a canal box."""
    return frame[list(BOX)].notna().all(axis=1)


def _read_csv(path: Path) -> pd.DataFrame:
    with path.open(encoding="utf-8-sig") as file:
        header = file.readline()
    separator = ";" if ";" in header and "," not in header else ","
    return pd.read_csv(
        path, dtype=str, keep_default_na=False, encoding="utf-8-sig", sep=separator, skip_blank_lines=False
    ).fillna("")


def check_suffix(path: Path) -> None:
    """Raises LabelError for a file that could be no manifest."""
    if path.suffix not in SUFFIXES:
        raise LabelError(f"{path}: a manifest is a .csv or a .parquet file; name it so")
