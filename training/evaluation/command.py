"""``stenosis-train agreement``, ``compare`` and ``evaluate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Figures as JSON.")]
Bootstrap = Annotated[int, typer.Option(min=0, help="Resamples of patients for the intervals; 0 for none.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the resamples.")]


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command()(agreement)


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


def _usage(error: Exception) -> typer.Exit:
    typer.echo(str(error), err=True)
    return typer.Exit(2)
