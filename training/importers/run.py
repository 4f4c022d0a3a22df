"""One import from source to manifest."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd

from training.importers.drawings import import_coco, import_yolo
from training.importers.folders import import_folders
from training.importers.intake import Intake, LeftOut, one_per_slice
from training.importers.kinds import Kind
from training.importers.mapping import Mapping
from training.importers.reports import import_reports
from training.importers.rsna import import_rsna
from training.importers.sudirman import import_sudirman
from training.importers.tables import import_table
from training.labels.errors import LabelError
from training.labels.manifest import from_rows, has_box, merge, read_manifest, write_manifest
from training.labels.rows import LabelRow

EXAMPLES: Final = 3


_IMPORTERS: Final[dict[Kind, Callable[[Path, Mapping, Intake], Iterator[LabelRow]]]] = {
    Kind.CSV: import_table,
    Kind.COCO: import_coco,
    Kind.YOLO: import_yolo,
    Kind.RSNA_2024: lambda source, _, intake: import_rsna(source, intake),
    Kind.SUDIRMAN: lambda source, _, intake: import_sudirman(source, intake),
    Kind.FOLDERS: import_folders,
    Kind.SR: import_reports,
}


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import gave."""

    frame: pd.DataFrame
    left_out: tuple[LeftOut, ...]

    def summary(self) -> list[str]:
        """Lines for people: what is there, what was left out and why."""
        frame = self.frame
        lines = [
            f"{len(frame)} rows, {frame['patient_key'].nunique()} patients, {frame['study_uid'].nunique()} studies; "
            f"{int(has_box(frame).sum())} with a box"
        ]
        for name in ("region", "grade_set", "box_source", "reader"):
            counts = Counter(frame[name].replace("", "none"))
            if counts:
                lines.append(f"{name}: " + ", ".join(f"{value} {count}" for value, count in sorted(counts.items())))
        flags = Counter(flag for cell in frame["flags"] for flag in cell.split("|") if flag)
        lines += [f"flagged {flag}: {count}" for flag, count in sorted(flags.items())]
        by_reason: dict[str, list[str]] = {}
        for one in self.left_out:
            by_reason.setdefault(one.why, []).append(one.what)
        for why, what in sorted(by_reason.items(), key=lambda item: -len(item[1])):
            more = f", and {len(what) - EXAMPLES} more" if len(what) > EXAMPLES else ""
            lines.append(f"left out, {why}: {len(what)} ({'; '.join(what[:EXAMPLES])}{more})")
        return lines


def run_import(kind: Kind, source: Path, mapping: Mapping, intake: Intake) -> Imported:
    """Read a source. Raises LabelError when it is not of that kind; what does not fit is left out, with the reason."""
    if not source.exists():
        raise LabelError(f"{source} does not exist")
    root = source if source.is_dir() else source.parent
    rows = one_per_slice(_IMPORTERS[kind](source, mapping, intake), intake, root)
    return Imported(from_rows(rows, f"import of {source}"), tuple(intake.left_out))


def read_rooted(path: Path) -> pd.DataFrame:
    """A manifest with absolute paths, to be merged into another folder's. Raises LabelError."""
    frame = read_manifest(path)
    folder = path.absolute().parent
    return frame.assign(path=[str(folder / image) for image in frame["path"]])


def save(imported: Imported, output: Path, others: Sequence[pd.DataFrame] = ()) -> Path | None:
    """Write the manifest, after ``others``, and beside it a CSV of all that was left out, whose path is returned.

    Images are named relative to the manifest where they lie below its folder. Raises LabelError.
    """
    folder = output.absolute().parent
    frame = merge([*others, imported.frame], str(output)) if others else imported.frame
    write_manifest(_relative(frame, folder), output)
    listing = output.with_name(f"{output.stem}.left-out.csv")
    if not imported.left_out:
        listing.unlink(missing_ok=True)
        return None
    try:
        with listing.open("w", encoding="utf-8", newline="") as file:
            lines = csv.writer(file)
            lines.writerow(("what", "why"))
            lines.writerows((one.what, one.why) for one in imported.left_out)
    except OSError as error:
        raise LabelError(f"{listing} cannot be written: {error.strerror or error}") from error
    return listing


def _relative(frame: pd.DataFrame, folder: Path) -> pd.DataFrame:
    def below(path: str) -> str:
        full = Path(path)
        return full.relative_to(folder).as_posix() if full.is_relative_to(folder) else os.fspath(full)

    return frame.assign(path=[below(path) for path in frame["path"]])
