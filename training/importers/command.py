"""``stenosis-train import``."""

from __future__ import annotations

import logging
import re
import sys
from datetime import date
from pathlib import Path
from typing import Annotated

import typer

from training.importers.kinds import Kind


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("import")(import_labels)


def import_labels(
    kind: Annotated[Kind, typer.Argument(help="What SOURCE is.")],
    source: Annotated[Path, typer.Argument(help="File or folder of the labels.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Manifest to write: .csv or .parquet.")],
    secret_file: Annotated[
        Path | None,
        typer.Option(help="Secret of the site for patient keys. Default: the variable STENOSIS_PATIENT_SECRET."),
    ] = None,
    mapping: Annotated[Path | None, typer.Option(help="TOML file: their words in ours (docs/labels.md).")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the images, when they lie elsewhere.")] = None,
    reader: Annotated[str, typer.Option(help="Who read, where the source does not say.")] = "",
    day: Annotated[str, typer.Option("--date", help="Of the reading, where the source does not say: 2026-01-31.")] = "",
    merge: Annotated[
        list[Path] | None, typer.Option(help="Manifest to put before the new rows. May be given more than once.")
    ] = None,
) -> None:
    """Turn labels of another form into rows of the manifest. Exit code 1 when nothing was imported."""
    from stenosis_node.errors import ConfigError
    from stenosis_node.series.patient import PatientKeys
    from training.importers.intake import Intake
    from training.importers.mapping import read_mapping
    from training.importers.run import read_rooted, run_import, save
    from training.labels.errors import LabelError
    from training.labels.manifest import check_suffix

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    try:
        if day:
            date.fromisoformat(day)
        check_suffix(output)
        words = read_mapping(mapping)
        others = [read_rooted(path) for path in merge or ()]
        pattern = words.patient_pattern
        intake = Intake(
            keys=PatientKeys.load(secret_file),
            reader=reader,
            date=day,
            images=images,
            pixel_spacing_mm=words.pixel_spacing_mm,
            patient_pattern=re.compile(pattern) if pattern is not None else None,
        )
    except (ConfigError, LabelError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    except ValueError:
        typer.echo(f"--date {day} is no date; write it as 2026-01-31", err=True)
        raise typer.Exit(2) from None
    try:
        imported = run_import(kind, source, words, intake)
        listing = None
        if len(imported.frame):
            listing = save(imported, output, others)
    except LabelError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    for line in imported.summary():
        typer.echo(line)
    if not len(imported.frame):
        typer.echo(f"nothing was imported from {source}: {output} was not written", err=True)
        raise typer.Exit(1)
    typer.echo(f"wrote {output}" + (f"; all that was left out is listed in {listing}" if listing is not None else ""))
