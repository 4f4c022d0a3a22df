"""The command line of training: each module that has verbs registers them here.

Exit codes: 0 ok; 1 the work failed; 2 usage; 130 interrupted (training left a checkpoint to resume from).
"""

from __future__ import annotations

from typing import Annotated

import typer

from stenosis_node import __version__
from training import commands
from training.evaluation import command as evaluation_command
from training.importers import command as import_command
from training.phantom import command as phantom_command
from training.protocol import command as protocol_command

app = typer.Typer(
    name="stenosis-train",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"stenosis-train {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    number: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Draw phantoms, train the three networks, measure them, export weights bundles."""


phantom_command.register(app)
import_command.register(app)
protocol_command.register(app)
commands.register(app)
evaluation_command.register(app)


def main() -> None:
    """Entry point of ``stenosis-train``."""
    app()


if __name__ == "__main__":
    main()
