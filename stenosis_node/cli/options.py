"""Options several verbs share, and where the configuration is looked for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from stenosis_node.config import ENV_PREFIX, Config, load
from stenosis_node.errors import ConfigError

CONFIG_ENV = "STENOSIS_NODE_CONFIG"
CONFIG_PATHS = (Path("node.toml"), Path("/etc/stenosis-node/node.toml"))

ConfigPath = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar=CONFIG_ENV,
        help="Configuration file. Default: ./node.toml, then /etc/stenosis-node/node.toml.",
        show_default=False,
        metavar="PATH",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts instead of text.")]


def find_config(given: Path | None) -> Path | None:
    """The configuration file to read; None when everything comes from the environment.

    raises  ConfigError when there is no file and no variable of ours either
    """
    if given is not None:
        return given
    for path in CONFIG_PATHS:
        if path.exists():
            return path
    if any(name.startswith(ENV_PREFIX) for name in os.environ):
        return None
    looked = " and ".join(str(path) for path in CONFIG_PATHS)
    raise ConfigError(
        f"no configuration: {looked} do not exist; make one with 'stenosis-node init' or give --config PATH"
    )


def load_config(given: Path | None) -> Config:
    """The configuration a verb works with. Raises ConfigError."""
    return load(find_config(given))
