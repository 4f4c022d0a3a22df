"""Why each series of a study was decided as it was: for files of a folder, or for a job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stenosis_node import series
from stenosis_node.config import SeriesRule
from stenosis_node.domain import Decision, SeriesDecision
from stenosis_node.jobs import JobDetail, StoredInstance
from stenosis_node.work.study import select


@dataclass(frozen=True, slots=True)
class Explanation:
    """The decisions about the series of one study."""

    study_instance_uid: str
    decisions: tuple[SeriesDecision, ...]
    stored: tuple[SeriesDecision, ...] = ()
    """Of a job: what was decided when it was last graded; empty when it was not yet."""
    decided_now: bool = True
    """False: ``decisions`` are the stored ones."""

    @property
    def changed(self) -> tuple[SeriesDecision, ...]:
        """The stored decisions that would be others now."""
        now = {one.series_instance_uid: (one.decision, one.reason) for one in self.decisions}
        return tuple(one for one in self.stored if now[one.series_instance_uid] != (one.decision, one.reason))


def explain_files(
    paths: Sequence[Path], rules: Sequence[SeriesRule]
) -> tuple[tuple[Explanation, ...], tuple[series.UnreadableFile, ...]]:
    """One explanation per study found in the files, and the files that belong to none."""
    scan = series.scan(paths)
    found = (Explanation(selection.study_instance_uid, selection.decisions) for selection in select(scan, rules))
    return tuple(found), scan.unreadable


def explain_job(
    detail: JobDetail, instances: Sequence[StoredInstance], spool: Path, rules: Sequence[SeriesRule], *, again: bool
) -> Explanation:
    """What was decided about the series of a job, or what would be decided now.

    spool  root of the paths of ``instances``
    again  decide now, by the rules given; a job that was never graded is decided now in any case. Series whose files
           are deleted keep the stored decision
    """
    study, stored = detail.job.study_instance_uid, detail.series
    if stored and not again:
        return Explanation(study, stored, stored, decided_now=False)
    files = {spool / one.path: one.calling_ae_title for one in instances}
    locator = next((one.series_instance_uid for one in stored if one.decision is Decision.LOCATOR), "")
    found = select(series.scan(files, files), rules, locator=locator)
    now = tuple(one for selection in found if selection.study_instance_uid == study for one in selection.decisions)
    seen = {one.series_instance_uid for one in now}
    return Explanation(study, (*now, *(one for one in stored if one.series_instance_uid not in seen)), stored)
