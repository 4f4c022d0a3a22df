"""A folder per class: the nearest folder above an image that names a class is its label. There are no boxes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from stenosis_node.domain import Grade
from stenosis_node.series import find_files
from training.importers.intake import Intake, short
from training.importers.mapping import Label, Mapping
from training.labels.errors import LabelError
from training.labels.rows import LabelRow, Region

USUAL: Final = {region.value: Label(region=region) for region in Region} | {
    grade.value: Label(region=Region.ROOTLET, grade=grade) for grade in Grade
}
"""Folders that need no mapping."""


def import_folders(source: Path, mapping: Mapping, intake: Intake) -> Iterator[LabelRow]:
    """Rows of the images below a folder. Raises LabelError when no folder names a class."""
    if not source.is_dir():
        raise LabelError(f"{source} is no folder")
    classes = mapping.classes or USUAL
    paths = find_files(source)
    if not any(part in classes for path in paths for part in path.relative_to(source).parts[:-1]):
        raise LabelError(
            f"no folder below {source} is one of {', '.join(classes)}; say what yours mean in [classes] of a mapping"
        )
    for path in intake.steps(paths, "reading images"):
        name = next((part for part in reversed(path.relative_to(source).parts[:-1]) if part in classes), None)
        if name is None:
            intake.leave_out(short(path, source), "in no folder of a class")
            continue
        for image in intake.read(path, source):
            what = short(path, source) + ("" if image.frame is None else f", frame {image.frame}")
            row = intake.row(image, classes[name], root=source, what=what)
            if row is not None:
                yield row
