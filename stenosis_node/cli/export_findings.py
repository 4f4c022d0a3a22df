"""``findings``: what the node found on every slice, as a table that a reader's labels can be laid beside.

Keys and columns are those of the label manifest and of saved predictions (docs/labels.md, docs/evaluation.md).
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, assert_never

import typer

from stenosis_node.cli.audited import of_job
from stenosis_node.cli.jobs import open_job, open_store
from stenosis_node.cli.options import AsJson, ConfigPath, load_config
from stenosis_node.cli.outcome import NotFound
from stenosis_node.cli.output import complain, print_json, say
from stenosis_node.config import Config
from stenosis_node.domain import (
    CanalNotFound,
    Content,
    CordSlice,
    Grade,
    GradedSlice,
    NotGradable,
    PixelBox,
    SliceFinding,
    StudyFindings,
    Unreadable,
    finding_box,
)
from stenosis_node.errors import ConfigError, NodeError, PermanentError

if TYPE_CHECKING:
    from stenosis_node.audit import StudyPart
    from stenosis_node.jobs import JobDetail, JobStore, ResultSummary
    from stenosis_node.series.patient import PatientKeys
    from stenosis_node.spool import Spool

COLUMNS: Final = (
    "study_uid", "series_uid", "sop_uid", "frame", "slab", "x0", "y0", "x1", "y1", "box_score", "region", "p_rootlet",
    "p_cord", "grade", "p_A", "p_B", "p_C", "p_D", "abstained", "outcome", "reason", "model", "bundle_digest",
    "software_version", "job", "revision", "date",
)  # fmt: skip
PATIENT: Final = "patient_key"
"""A column only where a secret is given."""

Cell = str | int | float | None


def findings(
    output: Annotated[Path, typer.Option("--output", "-o", help="CSV file to write.", metavar="PATH")],
    since: Annotated[
        datetime | None,
        typer.Option(help="Only results made on this day or later, by this machine's clock.", formats=["%Y-%m-%d"]),
    ] = None,
    job: Annotated[
        str | None, typer.Option(help="Only this job: its number or Study Instance UID.", metavar="JOB")
    ] = None,
    secret_file: Annotated[
        Path | None,
        typer.Option(help="Secret of the site: adds the column patient_key. Patient IDs are never written."),
    ] = None,
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Write what was found on every slice of the latest results as CSV, to compare with a reader's labels."""
    settings = load_config(config)
    keys = None
    if secret_file is not None:
        from stenosis_node.series.patient import PatientKeys

        keys = PatientKeys.load(secret_file)
    if job is not None:
        with open_job(settings, job) as (store, detail):
            _export(store, [detail], settings, output, since, keys, as_json=as_json)
        return
    with open_store(settings) as store:
        _export(store, _details(store), settings, output, since, keys, as_json=as_json)


def _details(store: JobStore) -> Iterator[JobDetail]:
    """Every job, oldest first."""
    for summary in reversed(store.list_jobs(limit=2**31)):
        detail = store.job(summary.id)
        if detail is not None:
            yield detail


def _export(
    store: JobStore,
    details: Iterator[JobDetail] | list[JobDetail],
    config: Config,
    output: Path,
    since: datetime | None,
    keys: PatientKeys | None,
    *,
    as_json: bool,
) -> None:
    from stenosis_node.audit import AuditTrail
    from stenosis_node.spool import Spool

    spool = Spool(config.spool)
    first = None if since is None else since.astimezone()
    rows: list[dict[str, Cell]] = []
    left_out: list[dict[str, Cell]] = []
    parts: list[StudyPart] = []
    n_studies = 0
    for detail in details:
        result = detail.results[-1] if detail.results else None
        if result is None or (first is not None and result.created_at < first):
            continue
        found = _stored(spool, result)
        if isinstance(found, str):
            complain(f"job {detail.job.id}: left out, {found}")
            left_out.append({"job": detail.job.id, "why": found})
            continue
        patient = {} if keys is None else {PATIENT: _patient_key(store, spool, detail, keys)}
        rows += [{**row, **patient} for row in _rows(found, detail, result)]
        n_studies += 1
        parts.append(of_job(store, config, detail))
    if not rows:
        raise NotFound("no stored findings match; 'stenosis-node jobs' shows what was graded and when")
    trail = AuditTrail(config)
    trail.write(*(trail.events.exported(output, part) for part in parts))
    _write(rows, (*COLUMNS, *([PATIENT] if keys is not None else ())), output)
    if as_json:
        print_json({"output": output, "slices": len(rows), "studies": n_studies, "left_out": left_out})
    else:
        say(f"wrote {output}: {len(rows)} slices of {n_studies} " + ("study" if n_studies == 1 else "studies"))


def _stored(spool: Spool, result: ResultSummary) -> StudyFindings | str:
    """The findings of a result, or why there are none to be had."""
    if result.withdrawn_at is not None:
        return "its result was recalled"
    try:
        text = spool.findings(result.chosen_key)
        return "its findings were deleted" if text is None else StudyFindings.from_json(text)
    except ValueError:
        return "its findings were stored by another version"


def _rows(findings: StudyFindings, detail: JobDetail, result: ResultSummary) -> Iterator[dict[str, Cell]]:
    bundle = findings.bundle
    shared: dict[str, Cell] = {
        "study_uid": findings.study_instance_uid,
        "model": f"{bundle.name} {bundle.version}",
        "bundle_digest": bundle.digest,
        "software_version": findings.software_version,
        "job": detail.job.id,
        "revision": result.revision,
        "date": result.created_at.astimezone().date().isoformat(),
    }
    for series in findings.series:
        for finding in series.slices:
            yield {**shared, "series_uid": series.series_instance_uid, **_cells(finding)}


def _cells(finding: SliceFinding) -> dict[str, Cell]:
    """What is known of one slice. What the node did not report as a grade is none here either."""
    cells: dict[str, Cell] = {
        "sop_uid": finding.ref.sop_instance_uid,
        "frame": finding.ref.frame_number,
        "slab": finding.slab,
        "abstained": 0,
        "outcome": finding.outcome,
        **_box(finding_box(finding)),
    }
    match finding:
        case GradedSlice():
            content = _content(Content.ROOTLET, finding.content_score)
            return cells | content | _scores(finding.scores) | {"grade": finding.grade, "box_score": finding.box_score}
        case CordSlice():
            return cells | _content(Content.CORD, finding.content_score) | {"box_score": finding.box_score}
        case NotGradable():
            content = _content(finding.content, finding.content_score)
            cells |= {"abstained": 1, "reason": finding.reason, "box_score": finding.box_score}
            return cells | content | _scores(finding.scores or {})
        case CanalNotFound():
            return cells  # the best score belongs to no box that is reported
        case Unreadable():
            return cells | {"reason": finding.reason}
    assert_never(finding)


def _box(box: PixelBox | None) -> dict[str, Cell]:
    return {} if box is None else {"x0": box.x0, "y0": box.y0, "x1": box.x1, "y1": box.y1}


def _content(content: Content | None, score: float | None) -> dict[str, Cell]:
    """Region and the scores of both, which add up to 1."""
    if content is None or score is None:
        return {"region": content}
    rootlet = score if content is Content.ROOTLET else 1 - score
    return {"region": content, "p_rootlet": rootlet, "p_cord": 1 - rootlet}


def _scores(scores: Mapping[Grade, float]) -> dict[str, Cell]:
    return {f"p_{grade}": score for grade, score in scores.items()}


def _patient_key(store: JobStore, spool: Spool, detail: JobDetail, keys: PatientKeys) -> str:
    """As the importers make it; empty when the images were deleted."""
    from stenosis_node.series.patient import read_patient_key

    for instance in store.instances(detail.job.id):
        with suppress(OSError, ValueError, NodeError):
            path = spool.instance_path(instance.path)
            return read_patient_key(path, keys) or keys.study_key(detail.job.study_instance_uid)
    complain(f"job {detail.job.id}: no image is left that names the patient; patient_key stays empty")
    return ""


def _write(rows: list[dict[str, Cell]], columns: tuple[str, ...], output: Path) -> None:
    """All of it or nothing: a file that is there is replaced only by a complete one."""
    if output.is_dir():
        raise ConfigError(f"--output {output} is a folder; name a file")
    temporary = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            lines = csv.DictWriter(file, columns)
            lines.writeheader()
            lines.writerows(rows)
        temporary.replace(output)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise PermanentError(f"{output} cannot be written: {error.strerror or error}; name another file") from error
