"""``stenosis-node doctor``: configuration and environment checked, each finding with its fix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from stenosis_node.cli.checks import (
    Finding,
    Level,
    check_access,
    check_audit,
    check_database,
    check_device,
    check_peers,
    check_port,
    check_software,
    check_spool,
    check_tls,
    check_weights,
)
from stenosis_node.cli.options import AsJson, ConfigPath, find_config
from stenosis_node.cli.outcome import ExitCode
from stenosis_node.cli.output import print_json, say, show, table
from stenosis_node.config import load
from stenosis_node.errors import ConfigError


def doctor(
    config: ConfigPath = None,
    offline: Annotated[bool, typer.Option("--offline", help="Do not contact the peers.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check the configuration and this machine. Exit code 1 when something must be fixed, 2 for the configuration."""
    findings = list(_findings(config, offline=offline))
    if as_json:
        print_json({"findings": findings})
    else:
        rows = [
            (f.level.value, f.about, f.sentence if f.fix is None else f"{f.sentence}\n-> {f.fix}") for f in findings
        ]
        show(table(("=Level", "=About", "Finding"), rows))
        counts = {level: sum(f.level is level for f in findings) for level in Level}
        say(", ".join(f"{count} {level}" for level, count in counts.items()))
    failed = {f.about for f in findings if f.level is Level.FAIL}
    if failed:
        raise typer.Exit(ExitCode.CONFIGURATION if "configuration" in failed else ExitCode.FAILED)


def _findings(config: ConfigPath, *, offline: bool) -> Iterator[Finding]:
    try:
        path = find_config(config)
        settings = load(path)
    except ConfigError as error:
        sentence, fix = str(error), ""
        if "\n" not in sentence:  # one fault may carry its fix
            sentence, _, fix = sentence.partition("; ")
        fix = fix or "see docs/configuration.md, or start from 'stenosis-node init'"
        yield Finding(Level.FAIL, "configuration", sentence, fix)
        yield from check_software()
        return
    yield Finding(Level.OK, "configuration", f"{path or 'the environment'} is valid")
    yield from check_software()
    yield from check_weights(settings)
    yield from check_device(settings)
    yield from check_spool(settings)
    yield from check_database(settings)
    yield from check_port(settings)
    yield from check_access(settings)
    yield from check_tls(settings)
    yield from check_audit(settings)
    if not offline:
        yield from check_peers(settings)
