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
from pathlib import Path

from stenosis_node.series import find_files
from training.importers.intake import Intake, short
from training.importers.mapping import Label, Mapping
from training.importers.sr_reading import Group, SrReport, read_report
from training.labels.errors import LabelError
from training.labels.images import Image, is_picture
from training.labels.rows import BoxSource, LabelRow, Region


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
    for group in report.groups:
        what = f"{name}, image {group.sop_uid}" + ("" if group.frame is None else f", frame {group.frame}")
        judged = _judge(report, group, originals)
        if isinstance(judged, str):
            intake.leave_out(what, judged)
            continue
        flag, moved = judged
        image = images.get(group.slice)
        if image is None:
            intake.leave_out(what, "the image is not there: name its folder with --images")
            continue
        reader = report.reader or intake.reader
        row = intake.row(
            image, _label(group), root=root, box=group.box, what=what, date=report.date, flags=(flag,),
            box_source=BoxSource.EXPERT if moved or report.verified else BoxSource.WEAK,
            reader=mapping.reader_names.get(reader, reader),
        )  # fmt: skip
        if row is not None:
            yield row


def _label(group: Group) -> Label:
    """A cord or an image that cannot be graded has no grade, even where the AI's code was left standing."""
    gradable = group.region not in (Region.CORD, Region.OTHER)
    return Label(region=group.region, grade=group.grade if gradable else None)


def _originals(report: SrReport, of_study: Sequence[SrReport]) -> list[Group]:
    """Groups of the AI's reports this one can have come from: those it names, else all of the study."""
    ours = [one for one in of_study if not one.reader and not one.resaved]
    named = [one for one in ours if one.sop_uid in report.predecessors]
    return [group for one in named or ours for group in one.groups]


def _judge(report: SrReport, group: Group, originals: Sequence[Group]) -> tuple[str, bool] | str:
    """(flag, whether the reader drew the box), or why the group is no label of the reader."""
    before = [one for one in originals if one.slice == group.slice and _tracks(one, group)]
    if any(group.same_label(one) and group.same_box(one) for one in before):
        if report.verified:
            return "ai-confirmed", False
        return "the value of the AI, unchanged in a report that is not verified"
    if before:
        return "ai-corrected", not any(group.same_box(one) for one in before)
    if not group.by_algorithm:
        return "reader-added", True
    if report.verified:
        return "ai-confirmed", False
    return "a value of the AI, or a change of it: add the AI's report to tell, or verify the report"


def _tracks(one: Group, group: Group) -> bool:
    return not one.tracking_uid or not group.tracking_uid or one.tracking_uid == group.tracking_uid


def _deleted(report: SrReport, originals: Sequence[Group]) -> list[Group]:
    """What the named original had and the report has not. Without a name every report would seem to delete."""
    if not report.predecessors:
        return []
    kept = {group.slice for group in report.groups}
    return [one for one in originals if one.slice not in kept]
