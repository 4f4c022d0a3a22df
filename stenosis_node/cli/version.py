"""``stenosis-node version``: what runs here, and with which weights."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version

from stenosis_node import __version__
from stenosis_node.cli.options import AsJson, ConfigPath, find_config, load_config
from stenosis_node.cli.output import plain, print_json, say
from stenosis_node.errors import ConfigError

PACKAGES = ("torch", "torchvision", "pydicom", "pynetdicom", "highdicom")


def version(config: ConfigPath = None, as_json: AsJson = False) -> None:
    """Print the version of the software and, where a configuration is found, of its weights bundle."""
    found = {"version": __version__, "python": platform.python_version(), "packages": _packages()}
    bundle = _bundle(config)
    if as_json:
        print_json({**found, "bundle": bundle})
        return
    say(f"stenosis-node {__version__} (Python {platform.python_version()})")
    say(", ".join(f"{name} {number or 'missing'}" for name, number in _packages().items()))
    if bundle is None:
        say("bundle: no configuration")
    else:
        say(f"bundle {bundle['name']} {bundle['version']} ({bundle['status']}), digest {bundle['digest']}")
    say("Research software, not for clinical use.")


def _packages() -> dict[str, str | None]:
    numbers: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            numbers[name] = package_version(name)
        except PackageNotFoundError:
            numbers[name] = None
    return numbers


def _bundle(config: ConfigPath) -> dict[str, str] | None:
    """Identity of the configured bundle; None where no configuration was named or found."""
    if config is None:
        try:
            find_config(None)
        except ConfigError:
            return None
    from stenosis_node.grading.manifest import read_manifest

    identity: dict[str, str] = plain(read_manifest(load_config(config).grading.bundle).identity())
    return identity
