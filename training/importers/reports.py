"""Structured Reports as labels: what a reader confirmed, changed or added; never what only a network said.

    report                                   group as in the AI's report   changed or added
    verified by a named person               label, flag ai-confirmed      label, flag ai-corrected or reader-added
    a person observed it, not verified       left out                      label
    another program saved it, nobody named   left out                      label, if --reader says whose
    ours, nobody named                       left out                      (cannot be: left out)

A group of the AI's report that is gone gives no label: it may mean a wrong box, a wrong grade or no canal.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stenosis_node.series import find_files
from training.importers.intake import Intake, short
from training.importers.mapping import Label, Mapping
from training.importers.sr_reading import Group, SrReport, read_report
from training.labels.errors import LabelError
from training.labels.images import Image, is_picture
from training.labels.rows import BoxSource, LabelRow, Region

CONFIRMED: Final = "ai-confirmed"
CORRECTED: Final = "ai-corrected"
ADDED: Final = "reader-added"


@dataclass(frozen=True, slots=True)
class _Judged:
    """A group that is a label of the reader."""

    group: Group
    flag: str
    drawn: bool
    """Whether the reader drew the box."""


def import_reports(source: Path, mapping: Mapping, intake: Intake) -> Iterator[LabelRow]:
    """Rows of the reports below a folder; their images lie there too, or below ``--images``. Raises LabelError."""
    paths = [source] if source.is_file() else [path for path in find_files(source) if not is_picture(path)]
    read = (read_report(path) for path in intake.steps(paths, "reading reports"))
    reports = sorted(filter(None, read), key=lambda report: (report.moment, report.sop_uid))
    if not reports:
        raise LabelError(f"no TID 1500 report in {source}; SOURCE is a report or a folder of reports and images")
    images = intake.read_all(intake.images or (source if source.is_dir() else source.parent))
    by_study: dict[str, list[SrReport]] = defaultdict(list)
    for report in reports:
        by_study[report.study_uid].append(report)
    for of_study in by_study.values():
        latest: dict[tuple[str, int | None, str], LabelRow] = {}
        for report in of_study:
            for row in _rows(report, of_study, images, source, mapping, intake):
                key = row.sop_uid, row.frame, row.reader
                if key in latest:
                    intake.leave_out(f"{short(report.path, source)}, image {row.sop_uid}", "replaced by a later report")
                latest[key] = row
        yield from latest.values()


def _rows(
    report: SrReport,
    of_study: Sequence[SrReport],
    images: dict[tuple[str, int | None], Image],
    root: Path,
    mapping: Mapping,
    intake: Intake,
) -> Iterator[LabelRow]:
    name = short(report.path, root)
    if not report.reader and not report.resaved:
        intake.leave_out(name, "a report of the AI that nobody verified: its values are no reader's")
        return
    if not report.reader and not intake.reader:
        intake.leave_out(name, "it names no reader: give --reader")
        return
    if report.odd_groups:
        intake.leave_out(f"{name}: {report.odd_groups} groups", "no region drawn on one image")
    originals = _originals(report, of_study)
    for gone in _deleted(report, originals):
        intake.leave_out(f"{name}, image {gone.sop_uid}", "the reader deleted what the AI had found: no label")
    judged: list[_Judged] = []
    for group in report.groups:
        found = _judge(report, group, originals)
        if isinstance(found, str):
            intake.leave_out(_name(name, group), found)
        else:
            judged.append(found)
    for one in judged:
        rivals = [other for other in judged if other is not one and other.group.slice == one.group.slice]
        what = _name(name, one.group)
        image = images.get(one.group.slice)
        if one.flag == CONFIRMED and rivals:
            intake.leave_out(what, "the AI's group, beside one of the reader on the same image")
        elif any(other.flag != CONFIRMED for other in rivals):
            intake.leave_out(what, "several groups of the reader on one image")
        elif image is None:
            intake.leave_out(what, "the image is not there: name its folder with --images")
        else:
            reader = report.reader or intake.reader
            row = intake.row(
                image, _label(one.group), root=root, box=one.group.box, what=what, date=report.date,
                box_source=BoxSource.EXPERT if one.drawn or report.verified else BoxSource.WEAK,
                reader=mapping.reader_names.get(reader, reader), flags=(one.flag,),
            )  # fmt: skip
            if row is not None:
                yield row


def _name(report: str, group: Group) -> str:
    return f"{report}, image {group.sop_uid}" + ("" if group.frame is None else f", frame {group.frame}")


def _label(group: Group) -> Label:
    """A cord or an image that cannot be graded has no grade, even where the AI's code was left standing."""
    gradable = group.region not in (Region.CORD, Region.OTHER)
    return Label(region=group.region, grade=group.grade if gradable else None)


def _originals(report: SrReport, of_study: Sequence[SrReport]) -> list[Group]:
    """Groups of the AI's reports this one can have come from: those it names, else all of the study."""
    ours = [one for one in of_study if not one.reader and not one.resaved]
    named = [one for one in ours if one.sop_uid in report.predecessors]
    return [group for one in named or ours for group in one.groups]


def _judge(report: SrReport, group: Group, originals: Sequence[Group]) -> _Judged | str:
    """What a group is to the reader, or why it is no label of theirs."""
    before = [one for one in originals if one.slice == group.slice]
    if any(group.repeats(one) for one in before):
        if report.verified:
            return _Judged(group, CONFIRMED, drawn=False)
        return "the value of the AI, unchanged in a report that is not verified"
    if any(group.same_box(one) or (group.tracking_uid and group.tracking_uid == one.tracking_uid) for one in before):
        return _Judged(group, CORRECTED, drawn=not any(group.same_box(one) for one in before))
    if not group.by_algorithm:
        return _Judged(group, ADDED, drawn=True)
    if report.verified:
        return _Judged(group, CONFIRMED, drawn=False)
    return "a value of the AI, or a change of it: add the AI's report to tell, or verify the report"


def _deleted(report: SrReport, originals: Sequence[Group]) -> list[Group]:
    """What the named original had and the report has not. Without a name every report would seem to delete."""
    if not report.predecessors:
        return []
    kept = {group.slice for group in report.groups}
    return [one for one in originals if one.slice not in kept]
