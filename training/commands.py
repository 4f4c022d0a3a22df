"""``stenosis-train export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stenosis_node.domain import BundleStatus

Figures = Annotated[Path | None, typer.Option(help="Evaluation of this very bundle: its folder or evaluation.json.")]


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command()(export)


def export(
    *,
    out: Annotated[Path, typer.Option(help="Folder of the bundle.")],
    of_run: Annotated[Path | None, typer.Option("--run", help="A run that trained on everybody (--final).")] = None,
    bundle: Annotated[Path | None, typer.Option(help="A bundle that gets figures; it keeps name and version.")] = None,
    chain: Annotated[str, typer.Option(help="Chain of the run, when it has several.")] = "",
    evaluation: Figures = None,
    shifted: Figures = None,
    name: Annotated[str, typer.Option(help="Name of the bundle.")] = "unnamed",
    version: Annotated[str, typer.Option(help="Version of the bundle.")] = "0",
    status: Annotated[BundleStatus, typer.Option(help="How far it has been proven.")] = BundleStatus.DEMONSTRATION,
    untrained: Annotated[bool, typer.Option(help="Random weights, for tests of everything around them.")] = False,
) -> None:
    """Write a weights bundle and its model card. Figures come from evaluations of the bundle itself.

    Export once without, predict and evaluate with the bundle, export again with --evaluation and --shifted.
    """
    from stenosis_node.errors import BundleError
    from training.export import Naming, export_measured, export_run, write_untrained_bundle
    from training.labels.errors import LabelError
    from training.learning.errors import TrainingError

    if [untrained, of_run is not None, bundle is not None].count(True) != 1:
        typer.echo("export needs one of --run (trained with --final), --bundle and --untrained", err=True)
        raise typer.Exit(2)
    if bundle is not None and evaluation is None and shifted is None:
        typer.echo("export --bundle puts figures into a bundle: give --evaluation, --shifted or both", err=True)
        raise typer.Exit(2)
    try:
        if bundle is not None:
            manifest = export_measured(bundle, out, held_out=evaluation, shifted=shifted)
        elif of_run is None:
            manifest = write_untrained_bundle(out)
        else:
            naming = Naming(name=name, version=version, status=status)
            manifest = export_run(of_run, out, naming, chain=chain, held_out=evaluation, shifted=shifted)
    except (TrainingError, LabelError, BundleError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    except OSError as error:
        typer.echo(f"{out} cannot be written: {error.strerror or error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"wrote {out}: {manifest.name} {manifest.version}, digest {manifest.digest()}")
