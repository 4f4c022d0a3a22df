"""``stenosis-node grade FOLDER``: studies on disk to documents on disk, without network or database."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stenosis_node.cli.audited import record_viewed
from stenosis_node.cli.options import AsJson, ConfigPath, load_config
from stenosis_node.cli.outcome import NotFound
from stenosis_node.cli.output import complain, decisions_table, print_json, say, show, table
from stenosis_node.cli.progress import progress
from stenosis_node.config import Config, load
from stenosis_node.domain import (
    CanalNotFound,
    Content,
    CordSlice,
    Document,
    DocumentKind,
    GradedSlice,
    NotGradable,
    SliceFinding,
    Unreadable,
    finding_box,
)
from stenosis_node.errors import ConfigError, PermanentError

if TYPE_CHECKING:
    from stenosis_node.series import UnreadableFile
    from stenosis_node.work.study import GradedStudy

NAMED_FILES = 10
"""Unreadable files that are named one by one."""


def grade(
    folder: Annotated[Path, typer.Argument(help="Folder with the DICOM files of one or more studies.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the documents (.dcm), their pictures (.png) and report.html.", show_default=False
        ),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(help="Weights bundle; with it no configuration is needed.", show_default=False),
    ] = None,
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Grade the studies in a folder. No network, no database."""
    paths = files_in(folder)
    if out is not None:
        _make_folder(out)
    settings = _settings(config, bundle)
    keep_headers_out_of_warnings()
    from stenosis_node.work.grade import load_pipeline
    from stenosis_node.work.study import grade_files

    pipeline = load_pipeline(settings.grading)
    with progress("reading slices", "read {done} of {total} slices", quiet=as_json) as told:
        studies = grade_files(paths, pipeline, settings, created=datetime.now(UTC), progress=told)
    from stenosis_node.series import scan

    found = scan(paths)
    if bundle is None or config is not None:
        record_viewed({one.study_instance_uid: one.files[0] for one in found.series if one.files}, config)
    warn_of_unreadable(found.unreadable)
    if not studies:
        raise PermanentError(f"{folder} holds {len(paths)} files and no readable DICOM image among them")
    for study in studies:
        target = out if out is None or len(studies) == 1 else out / study.study_instance_uid
        if not as_json:
            _print_study(study, target)
        if target is not None and study.documents:
            _write(study.documents, target)
    if as_json:
        print_json(findings_json(studies))


def findings_json(studies: tuple[GradedStudy, ...]) -> dict[str, Any]:
    """The promised shape of ``grade --json``: one entry per series, rejected ones with no slices."""
    entries = []
    for study in studies:
        found = {s.series_instance_uid: s.slices for s in study.findings.series} if study.findings else {}
        for decision in study.decisions:
            slices = found.get(decision.series_instance_uid, ())
            entries.append(
                {
                    "series_instance_uid": decision.series_instance_uid,
                    "decision": decision.decision,
                    "reason": decision.reason,
                    "slices": [slice_json(finding) for finding in slices],
                }
            )
    return {"series": entries}


def slice_json(finding: SliceFinding) -> dict[str, Any]:
    """One slice of ``grade --json``. Boxes are pixel edges of the stored image, scores 0 to 1."""
    box = finding_box(finding)
    entry: dict[str, Any] = {
        "sop_instance_uid": finding.ref.sop_instance_uid,
        "frame_number": finding.ref.frame_number,
        "outcome": finding.outcome,
        "outcome_reason": None,
        "box": None if box is None else [box.x0, box.y0, box.x1, box.y1],
        "box_score": None,
        "content": None,
        "content_score": None,
        "grade": None,
        "scores": {},
    }
    match finding:
        case GradedSlice():
            entry |= {"box_score": finding.box_score, "content": Content.ROOTLET, "grade": finding.grade}
            entry |= {"content_score": finding.content_score, "scores": finding.scores}
        case CordSlice():
            entry |= {"box_score": finding.box_score, "content": Content.CORD, "content_score": finding.content_score}
        case NotGradable():
            entry |= {"outcome_reason": finding.reason, "box_score": finding.box_score, "content": finding.content}
            entry |= {"content_score": finding.content_score, "scores": finding.scores or {}}
        case CanalNotFound():
            entry |= {"box_score": finding.best_score}
        case Unreadable():
            entry |= {"outcome_reason": finding.reason}
    return entry


# --------------------------------------------------------------------------- what goes in


def files_in(folder: Path) -> tuple[Path, ...]:
    """Every file below a folder. Raises NotFound, ConfigError or PermanentError."""
    from stenosis_node.series import find_files

    if not folder.exists():
        raise NotFound(f"{folder} does not exist; give the folder that holds the DICOM files")
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder; give the folder that holds the DICOM files")
    paths = find_files(folder)
    if not paths:
        raise PermanentError(f"{folder} holds no files")
    return paths


def _settings(config: Path | None, bundle: Path | None) -> Config:
    """The configuration; with ``--bundle`` alone the defaults, whatever the environment says of peers and the like."""
    if bundle is None:
        return load_config(config)
    grading = {"grading": {"bundle": str(bundle.absolute())}}
    if config is None:
        return load(None, overrides={"spool": ".", **grading}, environment=False)
    return load(config, overrides=grading)


def keep_headers_out_of_warnings() -> None:
    """The DICOM libraries quote header values in their warnings; the logging of the node silences those."""
    from stenosis_node.node.logs import set_up_logging

    if not logging.getLogger().handlers:  # --debug has set it up already
        set_up_logging("grade", "WARNING")


def warn_of_unreadable(unreadable: Sequence[UnreadableFile]) -> None:
    """Name the first files that were skipped, on stderr."""
    for file in unreadable[:NAMED_FILES]:
        complain(f"skipped {file.path}: {file.reason}")
    if len(unreadable) > NAMED_FILES:
        complain(f"skipped {len(unreadable) - NAMED_FILES} more files that cannot be read")


# --------------------------------------------------------------------------- what comes out


def _print_study(study: GradedStudy, target: Path | None) -> None:
    say(f"Study {study.study_instance_uid}")
    show(decisions_table(study.decisions))
    say()
    if study.findings is None:
        say("Nothing to grade: no axial T2 series of the lumbar spine.")
        return
    for series in study.findings.series:
        reasons = {finding.reason if isinstance(finding, Unreadable) else None for finding in series.slices}
        if len(reasons) == 1 and (reason := reasons.pop()) is not None:
            say(f"None of the {len(series.slices)} slices was graded: {reason}")
            continue
        rows = (_slice_row(number, finding) for number, finding in enumerate(series.slices, start=1))
        show(table((">Slice", ">Slab", "Outcome", "Grade", ">Score", "Canal box (px)", "Note"), rows))
    if target is not None:
        say(f"{len(study.documents)} documents, pictures and report.html are in {target}")
    say("Network scores, not verified by a physician. Research software, not for clinical use.")


def _slice_row(number: int, finding: SliceFinding) -> tuple[str, ...]:
    from stenosis_node.report.wording import percent

    entry = slice_json(finding)
    score = finding.scores[finding.grade] if isinstance(finding, GradedSlice) else entry["content_score"]
    return (
        str(number),
        str(finding.slab + 1),
        finding.outcome.replace("_", " "),
        entry["grade"] or "-",
        "-" if score is None else percent(score),
        "-" if entry["box"] is None else " ".join(f"{edge:.0f}" for edge in entry["box"]),
        entry["outcome_reason"] or "",
    )


def _make_folder(folder: Path) -> None:
    """Create it and prove that it can be written, before any work is done for it."""
    probe = folder / ".stenosis-node-probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"--out {folder} cannot be written: {error.strerror}") from error


def _write(documents: tuple[Document, ...], folder: Path) -> None:
    """Numbered in the order of sending: the captures, then the report."""
    from stenosis_node.report import capture_png, render_html

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number, document in enumerate(documents, start=1):
            stem = folder / f"{number:02d}-{document.kind}"
            stem.with_suffix(".dcm").write_bytes(document.content)
            if document.kind in (DocumentKind.SC, DocumentKind.SC_OVERVIEW):
                stem.with_suffix(".png").write_bytes(capture_png(document))
        (folder / "report.html").write_text(render_html(documents), encoding="utf-8")
    except OSError as error:
        raise PermanentError(f"--out {folder} cannot be written: {error.strerror}") from error
