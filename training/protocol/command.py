"""``stenosis-train run`` and ``predict``."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from training.recipes import RecipeError, changed, recipe_named

Data = Annotated[Path, typer.Option(help="Label manifest (docs/labels.md).")]
Cache = Annotated[Path | None, typer.Option(help="Folder of prepared images [beside the manifest].")]
CACHE_NAME = ".stenosis-cache"


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command()(run)
    app.command()(predict)
    app.command()(calibrate)


def run(
    *,
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder of the run; the same command goes on in it.")],
    recipe: Annotated[str, typer.Option(help="default, won2025 or won2025-transfer.")] = "default",
    readers: Annotated[str, typer.Option(help="Readers whose labels count, separated by commas [all].")] = "",
    plan: Annotated[bool, typer.Option("--plan", help="Print hours and disk, train nothing.")] = False,
    scale: Annotated[float, typer.Option(help="Share of patients, folds, epochs; recorded.")] = 1.0,
    folds: Annotated[int | None, typer.Option(help="How many, all of them run [the recipe's].")] = None,
    final: Annotated[bool, typer.Option("--final", help="One chain on all patients, a fifth to validate.")] = False,
    assign: Annotated[
        list[str] | None, typer.Option("--set", help="Change a value of the recipe, as grade.loss=ordinal; repeat it.")
    ] = None,
    weights_backbone: Annotated[Path | None, typer.Option(help="ResNet-50 weights the detector starts from.")] = None,
    start_from: Annotated[
        Path | None, typer.Option(help="A bundle whose networks training starts from [random weights].")
    ] = None,
    devices: Annotated[int, typer.Option(min=1, help="Processors (GPUs) to train on.")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Processes that prepare slices.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of folds, weights and augmentation.")] = 0,
    cache: Cache = None,
) -> None:
    """Train and test chains by a recipe. Killed at any time, the same command goes on where it stopped."""
    from training.learning.fit import Machine
    from training.protocol.plan import make_plan
    from training.protocol.reduction import folds_to_run, reduced
    from training.protocol.runner import run as work
    from training.protocol.runs import Request

    _show_progress()
    with _explained():
        chosen = changed(reduced(recipe_named(recipe), scale), _assignments(assign or ()))
        count = folds_to_run(chosen, scale)
        if folds is not None:
            chosen, count = replace(chosen, folds=folds), folds
        if weights_backbone is not None and start_from is not None:
            raise RecipeError("give --weights-backbone or --start-from: a bundle has a backbone of its own")
        request = Request(chosen, data, out, _names(readers), seed, 0 if final else count, weights_backbone, start_from)
        machine, where = Machine(devices, workers), cache or data.parent / CACHE_NAME
        if plan:
            typer.echo(make_plan(request, machine, where).as_text())
            return
        typer.echo(f"done: {work(request, machine, where)}")


def predict(
    *,
    data: Data,
    out: Annotated[Path, typer.Option(help="File to write, .csv or .parquet.")],
    of_run: Annotated[Path | None, typer.Option("--run", help="A run that trained on everybody (--final).")] = None,
    bundle: Annotated[Path | None, typer.Option(help="A weights bundle.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """What chains say of labelled slices they never saw, for evaluate: all chains of a run, or a bundle."""
    from training.protocol.apart import predict_apart

    _show_progress()
    if (of_run is None) == (bundle is None):
        typer.echo("give either --run (trained with --final) or --bundle", err=True)
        raise typer.Exit(2)
    with _explained():
        typer.echo(f"wrote {predict_apart(data, out, run=of_run, bundle=bundle, device=device)}")


def calibrate(
    *,
    bundle: Annotated[Path, typer.Option(help="The weights bundle.")],
    data: Annotated[Path, typer.Option(help="Label manifest of patients the bundle did not learn from.")],
    out: Annotated[Path, typer.Option(help="Folder of the new bundle.")],
    version: Annotated[str, typer.Option(help="Its version.")],
    readers: Annotated[str, typer.Option(help="Readers whose labels count, separated by commas [all].")] = "",
    offsets: Annotated[
        bool, typer.Option(help="Move the borders between the grades, where patients apart gain.")
    ] = True,
    operating_point: Annotated[
        bool | None,
        typer.Option(
            "--operating-point/--no-operating-point", help="Choose the threshold of C or D by study-level sensitivity."
        ),
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="File that keeps the networks' scores; taken from it when it is there.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Fit the calls of a bundle to your readers: temperatures, borders between grades, abstention. No training.

    The new bundle has no figures: predict and evaluate with it on other patients, then export --bundle.
    """
    from training.labels.manifest import check_suffix
    from training.protocol.recalibrate import Recalibration, recalibrate

    _show_progress()
    with _explained():
        if predictions is not None:
            check_suffix(predictions)
        asked = Recalibration(
            bundle=bundle,
            data=data,
            out=out,
            version=version,
            readers=_names(readers),
            offsets=offsets,
            operating_point=operating_point,
            predictions=predictions,
        )
        manifest = recalibrate(asked, device=device)
        typer.echo(f"wrote {out}: {manifest.name} {manifest.version}, digest {manifest.digest()}")


@contextmanager
def _explained() -> Iterator[None]:
    """What can go wrong, as sentences and exit codes."""
    from stenosis_node.errors import BundleError, ConfigError
    from training.evaluation.reading import EvaluationError
    from training.labels.errors import LabelError
    from training.learning.errors import Interrupted, TrainingError

    try:
        yield
    except RecipeError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    except (TrainingError, LabelError, EvaluationError, BundleError, ConfigError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    except Interrupted as stopped:
        typer.echo(str(stopped), err=True)
        raise typer.Exit(130) from None
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command goes on where it stopped", err=True)
        raise typer.Exit(130) from None


def _assignments(texts: Sequence[str]) -> dict[str, str]:
    made = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise RecipeError(f"--set {text}: write NAME=VALUE, as grade.loss=ordinal")
        made[name.strip()] = value.strip()
    return made


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _show_progress() -> None:
    from training.protocol.ranks import leads

    logging.basicConfig(
        level=logging.INFO if leads() else logging.WARNING,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
    )
