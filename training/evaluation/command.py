"""``stenosis-train agreement``, ``compare`` and ``evaluate``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Figures as JSON.")]
Bootstrap = Annotated[int, typer.Option(min=0, help="Resamples of patients for the intervals; 0 for none.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the resamples.")]


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command()(agreement)
    app.command()(compare)
    app.command()(evaluate)
    app.command()(studies)


def agreement(
    file: Annotated[Path, typer.Argument(help="CSV or Parquet, one row per slice.")],
    *,
    a: Annotated[str, typer.Option("--a", help="Column of the first rater, the reference of recall.")],
    b: Annotated[str, typer.Option("--b", help="Column of the second rater; of --with where it is given.")],
    other: Annotated[Path | None, typer.Option("--with", help="Second file, joined by the keys of the slice.")] = None,
    key: Annotated[
        list[str] | None, typer.Option(help="Key of the join; repeat it. By default the UIDs and frame.")
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(help="Column naming the patient [patient_key, else study_uid].")
    ] = None,
    bootstrap: Bootstrap = 2000,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """How well two columns of labels agree: A to D, rootlet and cord, or codes 0, 1, .., with 95 % intervals."""
    from training.evaluation.columns import agree_on_columns
    from training.evaluation.printing import agreement_text
    from training.evaluation.reading import EvaluationError

    try:
        found = agree_on_columns(
            file, a, b, other=other, keys=key or (), cluster=cluster, bootstrap=bootstrap, seed=seed
        )
    except EvaluationError as error:
        raise _usage(error) from None
    typer.echo(json.dumps(found.as_json(), indent=1, ensure_ascii=False) if as_json else agreement_text(found))


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="FILE[:COLUMN][@RATER]; column grade unless named.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The second rater, in the same way.")],
    *,
    truth: Annotated[str, typer.Option(help="The reference, in the same way.")],
    cluster: Annotated[
        str | None, typer.Option(help="Column naming the patient [patient_key, else study_uid].")
    ] = None,
    bootstrap: Bootstrap = 2000,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Two models or readers against one reference, on the same resamples of patients: scores and B minus A."""
    from training.evaluation.comparison import compare as run
    from training.evaluation.printing import comparison_text
    from training.evaluation.reading import EvaluationError
    from training.evaluation.sources import Source

    try:
        found = run(*map(Source.parse, (a, b, truth)), cluster=cluster, bootstrap=bootstrap, seed=seed)
    except EvaluationError as error:
        raise _usage(error) from None
    typer.echo(json.dumps(found.as_json(), indent=1, ensure_ascii=False) if as_json else comparison_text(found))


def evaluate(
    *,
    labels: Annotated[Path, typer.Option(help="Label manifest of the readers.")],
    predictions: Annotated[list[Path], typer.Option(help="Saved predictions, CSV or Parquet; repeat it.")],
    out: Annotated[Path, typer.Option(help="Folder of the evaluation.")],
    reference: Annotated[str | None, typer.Option(help="Reader of chains that name none [the first by name].")] = None,
    bootstrap: Bootstrap = 2000,
    seed: Seed = 0,
    pictures: Annotated[bool, typer.Option(help="Galleries of cases; needs the images.")] = True,
) -> None:
    """Write the tables of the paper and more, as Markdown and HTML, from saved predictions and labels."""
    from training.evaluation.reading import EvaluationError
    from training.evaluation.report import evaluate_predictions

    try:
        evaluate_predictions(
            labels, predictions, out, reference=reference, bootstrap=bootstrap, seed=seed, pictures=pictures
        )
    except EvaluationError as error:
        raise _usage(error) from None
    except OSError as error:
        typer.echo(f"{out} cannot be written: {error.strerror or error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"wrote {out / 'evaluation.html'}, evaluation.md and evaluation.json")


def _usage(error: Exception | str) -> typer.Exit:
    typer.echo(str(error), err=True)
    return typer.Exit(2)


def studies(
    bundle: Annotated[Path, typer.Argument(help="Weights bundle.")],
    *,
    patients: Annotated[int, typer.Option(min=2, max=10_000, help="Of the held-out phantom patients.")] = 200,
    out: Annotated[Path | None, typer.Option(help="Write the figures here as JSON.")] = None,
    write_version: Annotated[
        str | None, typer.Option(help="Put the figures into manifest and model card of the bundle, as this version.")
    ] = None,
) -> None:
    """How the grade of an examination does on whole phantom studies: sensitivity and specificity for C or D."""
    from stenosis_node.errors import BundleError
    from training.evaluation.studies import measure_studies, write_into_bundle

    def say(done: int, of: int) -> None:
        if sys.stderr.isatty() or done % 20 == 0 or done == of:
            typer.echo(f"{done} of {of} patients", err=True)

    try:
        figures = measure_studies(bundle, patients, progress=say).as_metrics()
    except (BundleError, ValueError) as error:
        raise _usage(error) from None
    text = json.dumps(figures, indent=1)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
    typer.echo(text)
    if write_version is not None:
        manifest = write_into_bundle(bundle, figures, version=write_version)
        typer.echo(f"{bundle} is now {manifest.name} {manifest.version}, digest {manifest.digest()}", err=True)
