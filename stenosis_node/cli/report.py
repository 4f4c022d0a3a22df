"""``stenosis-node report``: results on disk as text, JSON or a page, from the documents alone."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stenosis_node.cli.audited import record_viewed
from stenosis_node.cli.grade import keep_headers_out_of_warnings
from stenosis_node.cli.options import AsJson
from stenosis_node.cli.outcome import NotFound
from stenosis_node.cli.output import complain
from stenosis_node.errors import ConfigError, PermanentError

if TYPE_CHECKING:
    from stenosis_node.report import Delivered, Found

NAMED_FILES = 10
"""Damaged files that are named one by one."""


class Format(StrEnum):
    """How a report is printed."""

    TEXT = "text"
    JSON = "json"
    HTML = "html"


def report(
    paths: Annotated[
        list[Path],
        typer.Argument(help="Reports, or folders that hold them among other files.", metavar="FOLDER|FILE..."),
    ],
    form: Annotated[Format, typer.Option("--format", help="text, json, or one self-contained page.")] = Format.TEXT,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write instead of stdout.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the reports in a folder, as sent or as an archive gives them back. Names the patient, as they do."""
    if as_json and form is Format.HTML:
        raise ConfigError("--json and --format html exclude each other")
    if output is not None and output.is_dir():
        raise ConfigError(f"--output {output} is a folder; name the file to write")
    files = _files(paths)
    if output is not None and output.resolve() in {file.resolve() for file in files} and _is_dicom(output):
        raise ConfigError(f"--output {output} is a DICOM file among those to read; it is not replaced")
    keep_headers_out_of_warnings()
    from stenosis_node.report import find_results

    found = find_results(files)
    results = _results(found, paths, n_files=len(files))
    record_viewed({one.report.study_instance_uid: one.path for one in results})
    text = _rendered(results, Format.JSON if as_json else form)
    if output is None:
        _print(text)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--output {output} cannot be written: {error.strerror}") from error


# --------------------------------------------------------------------------- what goes in


def _files(paths: list[Path]) -> list[Path]:
    from stenosis_node.series import find_files

    files: dict[Path, None] = {}
    for path in paths:
        if not path.exists():
            raise NotFound(f"{path} does not exist; give a report or the folder that holds it")
        files |= dict.fromkeys(find_files(path) if path.is_dir() else [path])
    return list(files)


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _results(found: Found, paths: list[Path], *, n_files: int) -> tuple[Delivered, ...]:
    """The results, with a word on stderr for each damaged report beside them; an error when there are none.

    raises  PermanentError when a report is damaged and there is no other
            ConfigError when a file that was named is no report of this software
            NotFound when a folder holds none
    """
    named = {path for path in paths if path.is_file()}
    for path in found.foreign:
        if path in named:
            raise ConfigError(f"{path} is a Structured Report, but not one of stenosis-node")
    for path in found.not_dicom:
        if path in named:
            raise ConfigError(f"{path} is not a DICOM file")
    if found.results:
        for path, why in found.unreadable[:NAMED_FILES]:
            complain(f"skipped {path}: {why}")
        if len(found.unreadable) > NAMED_FILES:
            complain(f"skipped {len(found.unreadable) - NAMED_FILES} more damaged files")
        return found.results
    if found.unreadable:
        path, why = found.unreadable[0]
        raise PermanentError(f"{path} cannot be read: {why}; get the report from the archive again")
    if len(named) == len(paths) == 1:
        raise ConfigError(f"{paths[0]} is a DICOM file, but no report of stenosis-node")
    others = f" ({len(found.foreign)} of other software)" if found.foreign else ""
    raise NotFound(f"no report of stenosis-node is among the {n_files} files given{others}")


# --------------------------------------------------------------------------- what comes out


def _rendered(results: tuple[Delivered, ...], form: Format) -> str:
    from stenosis_node.report import render_delivered, render_text

    match form:
        case Format.TEXT:
            return "\n\n".join(render_text(result.report) for result in results)
        case Format.HTML:
            return render_delivered(results)
        case Format.JSON:
            return _json(results)


def _json(results: tuple[Delivered, ...]) -> str:
    import json

    from stenosis_node.report import SCHEMA, SCHEMA_VERSION, as_json

    reports = [
        as_json(result.report) | {"file": str(result.path), "captures": [str(path) for path in result.captures]}
        for result in results
    ]
    document = {"schema": SCHEMA, "version": SCHEMA_VERSION, "reports": reports}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _print(text: str) -> None:
    """As it is: no folding, no colours. A terminal that has no letter for a character shows its code instead."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
    sys.stdout.flush()
