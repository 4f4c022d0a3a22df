"""What all importers share: patients, progress, and the list of what was left out and why."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from stenosis_node.domain import Grade, PixelBox
from stenosis_node.series import find_files
from stenosis_node.series.patient import PatientKeys, normalise
from training.importers.mapping import Label
from training.labels.errors import LabelError
from training.labels.images import Image, derived_uid, is_picture, read_image
from training.labels.rows import BoxSource, LabelRow, Region

log = logging.getLogger("stenosis_node.training.import")

PROGRESS_S: Final = 2.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something that gave no row."""

    what: str
    """File, row or slice."""
    why: str
    """The same words for the same reason: they are counted."""


@dataclass(slots=True, kw_only=True)
class Intake:
    """One import: how patients are named, who read, and what was left out."""

    keys: PatientKeys
    reader: str = ""
    date: str = ""
    images: Path | None = None
    """Folder of the images when it is not the usual one."""
    pixel_spacing_mm: float | None = None
    """Of pictures, which do not know theirs."""
    patient_pattern: re.Pattern[str] | None = None
    """Finds the patient in the path of an image that does not name one; the first group is the ID."""
    left_out: list[LeftOut] = field(default_factory=list)

    def leave_out(self, what: object, why: str) -> None:
        """Note that something gives no row."""
        self.left_out.append(LeftOut(str(what), why))

    def steps(self, items: Sequence[T], doing: str) -> Iterator[T]:
        """The items, with a line of progress every few seconds."""
        begun = said = time.monotonic()
        for done, item in enumerate(items, start=1):
            yield item
            now = time.monotonic()
            if now - said >= PROGRESS_S:
                said = now
                left = (now - begun) / done * (len(items) - done)
                log.info("%s: %d of %d, about %.0f s left", doing, done, len(items), left)

    def read(self, path: Path, root: Path) -> tuple[Image, ...]:
        """The slices of a file; none, and a note, when it cannot be used."""
        try:
            return read_image(path)
        except LabelError as error:
            self.leave_out(short(path, root), str(error).replace(f"image {path} ", "the image "))
            return ()

    def read_all(self, folder: Path) -> dict[tuple[str, int | None], Image]:
        """Every slice of the DICOM files below a folder, by SOP Instance UID and frame."""
        if not folder.is_dir():
            raise LabelError(f"the folder of images {folder} does not exist; name it with --images")
        found: dict[tuple[str, int | None], Image] = {}
        for path in self.steps([p for p in find_files(folder) if not is_picture(p)], "reading headers"):
            try:
                slices = read_image(path)
            except LabelError:
                continue  # what no label asks for may be anything
            for image in slices:
                found.setdefault((image.sop_uid, image.frame), image)
        return found

    def patient(
        self, image: Image, root: Path, patient_id: str = "", issuer: str = ""
    ) -> tuple[str, tuple[str, ...]] | None:
        """(key, flags) of the patient of an image; None, and a note, when nothing says who it is.

        patient_id  what the label says of a patient the image does not name
        issuer      of a public set, which numbers patients itself: then ``patient_id`` counts, whatever the image says
        """
        if issuer:
            return self.keys.key(patient_id, issuer), ()
        if normalise(image.patient_id):
            return self.keys.key(image.patient_id, image.issuer), ()
        if not patient_id and self.patient_pattern is not None:
            match = self.patient_pattern.search(image.path.as_posix())
            patient_id = (match.group(1) or "") if match else ""
        if normalise(patient_id):
            return self.keys.key(patient_id, image.issuer), ()
        if image.study_uid:
            return self.keys.study_key(image.study_uid), ("patient-unknown",)
        self.leave_out(
            short(image.path, root), "no patient: a picture needs patient_pattern, or a column patient, in the mapping"
        )
        return None

    def row(
        self,
        image: Image,
        label: Label,
        *,
        root: Path,
        box: PixelBox | None = None,
        box_source: BoxSource = BoxSource.EXPERT,
        patient_id: str = "",
        issuer: str = "",
        reader: str = "",
        date: str = "",
        level: str = "",
        what: str = "",
        dsca_mm2: float | None = None,
        flags: Iterable[str] = (),
    ) -> LabelRow | None:
        """One row; None, and a note, when label and image do not fit."""
        what = what or short(image.path, root)
        if box is not None and (clipped := image.clipped(box)) is None:
            sides = ", ".join(f"{side:g}" for side in (box.x0, box.y0, box.x1, box.y1))
            self.leave_out(f"{what}: ({sides}) in {image.columns} x {image.rows}", "the box lies outside the image")
            return None
        if label.grades and label.region in (Region.CORD, Region.OTHER):
            self.leave_out(what, f"a grade on a slice of region {label.region}")
            return None
        if box is None and label.region is None and not label.grades:
            self.leave_out(what, "neither a box nor a region nor a grade")
            return None
        patient = self.patient(image, root, patient_id, issuer)
        if patient is None:
            return None
        key, more = patient
        if not (reader or self.reader):
            raise LabelError("the labels do not say who made them; name the reader with --reader")
        return LabelRow(
            study_uid=image.study_uid or derived_uid("study of pictures", key),
            series_uid=image.series_uid or derived_uid("series of pictures", key),
            sop_uid=image.sop_uid,
            frame=image.frame,
            path=str(image.path.absolute()),
            patient_key=key,
            z_mm=None if image.middle is None else round(image.middle[2], 3),
            level=level or label.level,
            box=None if box is None else clipped,
            box_source=None if box is None else box_source,
            region=label.region,
            grade=label.grade,
            grade_set=label.grades,
            reader=reader or self.reader,
            date=date or self.date,
            vendor=image.vendor,
            fov_mm=image.fov_mm or (self.pixel_spacing_mm * image.columns if self.pixel_spacing_mm else None),
            dsca_mm2=dsca_mm2,
            flags=(*flags, *more),
        )


def one_per_slice(rows: Iterable[LabelRow], intake: Intake, root: Path) -> list[LabelRow]:
    """Rows without repetitions; of two that contradict each other neither is kept."""
    kept: dict[tuple[str, int | None, str], LabelRow] = {}
    refused: set[tuple[str, int | None, str]] = set()
    for row in rows:
        key = row.sop_uid, row.frame, row.reader
        first = kept.get(key)
        if first is None:
            if key not in refused:
                kept[key] = row
            else:
                intake.leave_out(short(Path(row.path), root), "one reader labels one slice in several ways")
        elif _says(first) == _says(row):
            intake.leave_out(short(Path(row.path), root), "the same label of the same slice again")
        else:
            del kept[key]
            refused.add(key)
            for both in (first, row):
                intake.leave_out(short(Path(both.path), root), "one reader labels one slice in several ways")
    return list(kept.values())


def _says(row: LabelRow) -> tuple[PixelBox | None, Region | None, tuple[Grade, ...], str]:
    return row.box, row.region, row.grade_set, row.level


def short(path: Path, root: Path) -> str:
    """A path below a folder, without that folder."""
    try:
        return path.relative_to(root).as_posix()
    except ValueError:
        return str(path)
