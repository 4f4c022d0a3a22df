"""The verbs, and how an error of the node becomes one line on stderr and an exit code."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from stenosis_node import __version__
from stenosis_node.cli.doctor import doctor
from stenosis_node.cli.explain import explain
from stenosis_node.cli.export_findings import findings
from stenosis_node.cli.fsck import fsck
from stenosis_node.cli.grade import grade
from stenosis_node.cli.init import init
from stenosis_node.cli.jobs import cancel, hold, job, jobs, retry, unhold
from stenosis_node.cli.outcome import ExitCode, exit_code
from stenosis_node.cli.output import complain, say
from stenosis_node.cli.peers import pause, peers, resume
from stenosis_node.cli.probe import probe
from stenosis_node.cli.pull import pull
from stenosis_node.cli.recall import recall
from stenosis_node.cli.report import report
from stenosis_node.cli.serve import serve
from stenosis_node.cli.status import status
from stenosis_node.cli.version import version
from stenosis_node.errors import NodeError

EPILOG = (
    "Exit codes: 0 ok, 1 failed, 2 configuration or usage, 3 not found, 4 peer unreachable, 130 interrupted. "
    "Research software, not for clinical use."
)


class NodeGroup(TyperGroup):
    """Translates what a verb raises, once for all of them."""

    def invoke(self, ctx: Any) -> Any:  # a Context of click or of the copy of it in newer typers
        try:
            return super().invoke(ctx)
        except NodeError as error:
            if ctx.params["debug"]:
                raise
            complain(f"stenosis-node: {error}")
            ctx.exit(exit_code(error))
        except BrokenPipeError:
            sys.stdout = None  # the reader (head, less) has gone: nothing is left to say, not even at exit
            ctx.exit(ExitCode.FAILED)
        except KeyboardInterrupt:
            complain("stenosis-node: interrupted")
            ctx.exit(ExitCode.INTERRUPTED)


app = typer.Typer(
    cls=NodeGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _say_version(asked: bool) -> None:
    if asked:
        say(f"stenosis-node {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    number: Annotated[
        bool,
        typer.Option(
            "--version", callback=_say_version, is_eager=True, help="Print the version alone; see also the verb."
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error and log what the node does.")
    ] = False,
) -> None:
    """DICOM node that grades lumbar spinal stenosis on axial T2 MRI and returns a Structured Report."""
    if debug:
        from stenosis_node.node.logs import set_up_logging

        set_up_logging("cli", "DEBUG")


for verb in (
    serve,
    status,
    grade,
    explain,
    report,
    findings,
    jobs,
    job,
    retry,
    cancel,
    hold,
    unhold,
    pull,
    recall,
    peers,
    pause,
    resume,
    probe,
    doctor,
    fsck,
    init,
    version,
):
    app.command()(verb)


def main() -> None:
    """Entry point of ``stenosis-node``."""
    app(prog_name="stenosis-node")
