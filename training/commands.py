"""``stenosis-train train`` and ``export``."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from training.recipes import RECIPES, Recipe, Stage

Out = Annotated[Path, typer.Option(help="Folder of the run.")]
RunOf = Annotated[Path | None, typer.Option(help="Folder of this stage's run.")]


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command()(train)
    app.command()(export)


def train(
    stage: Stage,
    out: Out,
    resume: Annotated[bool, typer.Option(help="Go on from the checkpoint in --out.")] = False,
    steps: Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's.")] = None,
    devices: Annotated[int, typer.Option(min=1, help="Processors (GPUs) to train on.")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Processes that draw slices.")] = 1,
) -> None:
    """Train one stage on phantom slices drawn on the fly. Ctrl-C leaves a checkpoint; --resume goes on."""
    from training.tasks import task_of
    from training.train import Interrupted, TrainingError
    from training.train import train as run

    _show_progress()
    recipe = _changed(RECIPES[stage], steps=steps, batch_size=batch_size)
    try:
        checkpoint = run(task_of(stage), recipe, out, devices=devices, workers=workers, resume=resume)
    except Interrupted as stopped:
        typer.echo(str(stopped), err=True)
        raise typer.Exit(130) from None
    except TrainingError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    typer.echo(f"trained {stage}: {checkpoint}")


def export(
    out: Annotated[Path, typer.Option(help="Folder of the bundle.")],
    locate: RunOf = None,
    classify: RunOf = None,
    grade: RunOf = None,
    metrics: Annotated[Path | None, typer.Option(help="File written by evaluate for these runs.")] = None,
    name: str = "phantom-1",
    version: str = "1.0.0",
    untrained: Annotated[bool, typer.Option(help="Random weights, for tests of everything around them.")] = False,
) -> None:
    """Write a weights bundle and its model card from three runs."""
    from training.export import write_trained_bundle, write_untrained_bundle
    from training.train import TrainingError

    _show_progress()
    if untrained:
        manifest = write_untrained_bundle(out)
    elif locate is None or classify is None or grade is None or metrics is None:
        typer.echo("export needs --locate, --classify, --grade and --metrics, or --untrained", err=True)
        raise typer.Exit(2)
    else:
        try:
            manifest = write_trained_bundle(out, _runs(locate, classify, grade), metrics, name=name, version=version)
        except TrainingError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(1) from None
    typer.echo(f"wrote {out}: {manifest.name} {manifest.version}, digest {manifest.digest()}")


def _runs(locate: Path, classify: Path, grade: Path) -> dict[Stage, Path]:
    return {Stage.LOCATE: locate, Stage.CLASSIFY: classify, Stage.GRADE: grade}


def _changed(recipe: Recipe, **values: Any) -> Recipe:
    return replace(recipe, **{name: value for name, value in values.items() if value is not None})


def _show_progress() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
