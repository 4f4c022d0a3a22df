"""Our results found again among other files: as we wrote them, or as an archive gives them back.

An archive may give a document in another transfer syntax, with attributes of its own or without private ones. What
makes a report ours is its content tree; captures belong to the report of the same study, time and revision.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import SecondaryCaptureImageStorage

from stenosis_node.errors import PermanentError
from stenosis_node.report import readback, wording
from stenosis_node.report.sr import CLASSES
from stenosis_node.report.view import Report, is_ours, read_report, revision_of

Moment = tuple[str, str, str, int]
"""(Study Instance UID, Content Date, Content Time, revision): one result."""
HEAD: Final = (
    "SOPClassUID",
    "StudyInstanceUID",
    "SOPInstanceUID",
    "ManufacturerModelName",
    "ContentDate",
    "ContentTime",
    "SeriesDescription",
    "InstanceNumber",
)


@dataclass(frozen=True, slots=True)
class Delivered:
    """One result: its report and where its captures lie."""

    report: Report
    path: Path
    captures: tuple[Path, ...]
    """By Instance Number: the overview first."""
    earlier: tuple[str, ...]
    """SOP Instance UIDs of its earlier revisions that were found too."""


@dataclass(slots=True)
class Found:
    """What a search came upon."""

    results: tuple[Delivered, ...] = ()
    """By study, then time."""
    not_dicom: list[Path] = field(default_factory=list)
    unreadable: list[tuple[Path, str]] = field(default_factory=list)
    """Reports that break off or cannot be understood, and why."""
    foreign: list[Path] = field(default_factory=list)
    """Structured Reports of other software."""
    n_others: int = 0
    """DICOM files of other kinds."""


def find_results(paths: Iterable[Path]) -> Found:
    """Look through files. Never raises for what is in a file."""
    found = Found()
    reports: list[tuple[Moment, Report, Path]] = []
    captures: dict[Moment, dict[str, tuple[int, Path]]] = {}
    for path in paths:
        try:
            head = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(HEAD))
            sop_class = str(head.get("SOPClassUID") or "")
        except (InvalidDicomError, EOFError, OSError):
            found.not_dicom.append(path)
            continue
        except Exception as error:  # noqa: BLE001  pydicom raises anything on broken bytes
            found.unreadable.append((path, _why(error)))
            continue
        if sop_class in CLASSES:
            report = _open(path, found)
            if report is not None:
                reports.append((_moment(head), report, path))
        elif sop_class == SecondaryCaptureImageStorage and _is_capture(head):
            place = int(head.get("InstanceNumber") or 0), path
            captures.setdefault(_moment(head), {})[str(head.get("SOPInstanceUID"))] = place
        else:
            found.n_others += 1
    found.results = tuple(_results(reports, captures))
    return found


def _why(error: Exception) -> str:
    return f"it is damaged ({type(error).__name__})"


def _open(path: Path, found: Found) -> Report | None:
    try:
        ds = pydicom.dcmread(path)
        if readback.breaks_off(ds) or "ContentSequence" not in ds:
            found.unreadable.append((path, "it breaks off"))
            return None
        root = readback.tree(ds)
        if not is_ours(ds, root):
            found.foreign.append(path)
            return None
        report = read_report(ds, root)
    except Exception as error:  # noqa: BLE001  pydicom raises anything on broken bytes
        found.unreadable.append((path, _why(error)))
        return None
    if not (report.images and report.summary and report.slab_sentences):
        found.unreadable.append((path, "its content is incomplete"))
        return None
    return report


def _is_capture(head: Dataset) -> bool:
    return str(head.get("ManufacturerModelName") or "") == wording.ALGORITHM


def _moment(head: Dataset) -> Moment:
    texts = (str(head.get(keyword) or "") for keyword in ("StudyInstanceUID", "ContentDate", "ContentTime"))
    study, day, time = texts
    return study, day, time[:6], revision_of(head)


def _results(
    reports: Sequence[tuple[Moment, Report, Path]], captures: dict[Moment, dict[str, tuple[int, Path]]]
) -> Iterable[Delivered]:
    """The same report in several classes counts once; of revisions by one node the last one stands for all."""
    once: dict[tuple[Moment, str], tuple[Report, Path]] = {}
    for moment, report, path in sorted(reports, key=lambda r: (r[0], CLASSES.index(r[1].sop_class_uid), r[2])):
        once.setdefault((moment, report.device_uid), (report, path))
    last: dict[tuple[str, str], int] = {}
    for (moment, device), _ in once.items():
        last[moment[0], device] = max(moment[3], last.get((moment[0], device), 0))
    for (moment, device), (report, path) in once.items():
        if moment[3] < last[moment[0], device]:
            continue
        ours = captures.get(moment, {}).values()
        earlier = [
            r.sop_instance_uid
            for (m, d), (r, _) in once.items()
            if (m[0], d) == (moment[0], device) and m[3] < moment[3]
        ]
        yield Delivered(report, path, tuple(p for _, p in sorted(ours)), tuple(earlier))


def read_capture(path: Path) -> Dataset:
    """A capture with its pixels. Raises PermanentError when it cannot be read."""
    try:
        return pydicom.dcmread(path)
    except Exception as error:
        raise PermanentError(f"{path} cannot be read: {_why(error)}") from error
