"""``stenosis-node serve``: the node itself."""

from __future__ import annotations

import typer

from stenosis_node.cli.options import ConfigPath, find_config
from stenosis_node.config import load


def serve(config: ConfigPath = None) -> None:
    """Run the node: receive studies, grade them, send the reports. Ends cleanly on Ctrl-C and SIGTERM."""
    from stenosis_node.node.serve import serve as run

    path = find_config(config)
    raise typer.Exit(run(path, load(path)))
