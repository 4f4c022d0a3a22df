"""``stenosis-node init``: a commented configuration to start from."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from stenosis_node.cli.options import CONFIG_PATHS
from stenosis_node.cli.output import complain, say
from stenosis_node.config import Config, load
from stenosis_node.errors import ConfigError

DEFAULT_SPOOL = Path("spool")
EXAMPLE_PEER = "pacs=PACS@pacs.example:104"
PEER_FORM = re.compile(r"(?P<name>[\w-]+)=(?P<ae_title>[^@]+)@(?P<host>[^@]+):(?P<port>\d+)", re.ASCII)


def init(
    bundle: Annotated[
        Path | None, typer.Option(help="Folder of the weights bundle. Asked for when left out.", show_default=False)
    ] = None,
    spool: Annotated[Path, typer.Option(help="Folder for received instances and documents.")] = DEFAULT_SPOOL,
    ae_title: Annotated[str, typer.Option(help="Our AE title.")] = "STENOSIS",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 11112,
    peer: Annotated[
        list[str] | None,
        typer.Option(
            help="Where results go, e.g. pacs=PACS@10.0.0.5:104. May be given more than once.", metavar="PEER"
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = CONFIG_PATHS[0],
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Write a commented configuration that holds every key; it is held to the bundle as it is now."""
    if output.exists() and not force:
        raise ConfigError(f"{output} exists already; give --force to replace it or --output to write elsewhere")
    if bundle is None:
        if not is_terminal():
            raise ConfigError("--bundle is needed: the folder that holds the weights' manifest.json")
        bundle = Path(typer.prompt("Folder of the weights bundle"))
    if not (bundle / "manifest.json").is_file():
        raise ConfigError(f"--bundle {bundle}: no manifest.json in it; name the folder of a weights bundle")
    write = partial(
        render,
        bundle=bundle.resolve(),
        digest=_digest(bundle),
        spool=spool,
        ae_title=ae_title,
        host=host,
        port=port,
        peers=peer or [],
    )
    text = write()
    if refusal := _refusal(_prove(text)):
        text = write(refusal=refusal)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{output} cannot be written: {error.strerror}") from error
    for warning in filter(None, (refusal, _closed(_prove(text)))):
        complain(f"warning: serve refuses this configuration: {warning}")
    for hint in _hints(_prove(text)):
        say(hint)
    say(f"Wrote {output}. Next: stenosis-node doctor --config {output}")


def is_terminal() -> bool:
    """Whether somebody is there to answer a question."""
    return sys.stdin.isatty()


def _digest(bundle: Path) -> str | None:
    """What the bundle is pinned by; None for a broken one, which doctor explains."""
    from stenosis_node.errors import BundleError
    from stenosis_node.grading.manifest import read_manifest

    try:
        return read_manifest(bundle).digest()
    except BundleError:
        return None


def render(
    *,
    bundle: Path,
    spool: Path,
    ae_title: str,
    host: str,
    port: int,
    peers: list[str],
    digest: str | None = None,
    refusal: str | None = None,
) -> str:
    """The configuration as TOML text; without peers it shows one as a comment.

    digest   of the bundle, to hold it to; None leaves the key as a comment
    refusal  why the safety gate holds the peers back; stands as a comment at the key that would let them pass
    raises   ConfigError for a wrong peer
    """
    names = [text.partition("=")[0] for text in peers]
    if twice := [text for text, name in zip(peers, names, strict=True) if names.count(name) > 1]:
        raise ConfigError(f"--peer {twice[0]}: each peer needs a name of its own")
    tables = [_peer(text) for text in peers] or [_commented(_peer(EXAMPLE_PEER))]
    return Template(_resource("node.toml")).substitute(
        bundle=_toml(str(bundle)),
        pin=f"bundle_digest = {_toml(digest)}" if digest else f"# bundle_digest = {_toml('0' * 64)}",
        spool=_toml(str(spool)),
        ae_title=_toml(ae_title),
        host=_toml(host),
        port=port,
        peers="\n".join(tables),
        refusal=f"# serve refuses as it stands: {refusal}\n" if refusal else "",
    )


def _peer(text: str) -> str:
    match = PEER_FORM.fullmatch(text)
    if match is None:
        raise ConfigError(f"--peer {text}: write it as NAME=AE_TITLE@HOST:PORT, for example {EXAMPLE_PEER}")
    return Template(_resource("peer.toml")).substitute(
        name=match["name"], ae_title=_toml(match["ae_title"]), host=_toml(match["host"].strip("[]")), port=match["port"]
    )


def _commented(text: str) -> str:
    return "".join(line if line.startswith("#") else f"# {line}" for line in text.splitlines(keepends=True))


def _prove(text: str) -> Config:
    """Never write a file the node cannot read. Raises ConfigError that names the key."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "node.toml"
        path.write_text(text, encoding="utf-8")
        try:
            return load(path)
        except ConfigError as error:
            raise ConfigError(str(error).replace(f"{path}: ", "")) from None


def _refusal(config: Config) -> str | None:
    """Why the safety gate would not let ``serve`` start; None when it would. A broken bundle is doctor's business."""
    from stenosis_node.node.checks import check_bundle, check_delivery

    try:
        bundle = check_bundle(config)
    except ConfigError:
        return None
    try:
        check_delivery(config, bundle)
    except ConfigError as error:
        return str(error)
    return None


def _closed(config: Config) -> str | None:
    """Why the access rules would not let ``serve`` start; None when they would."""
    from stenosis_node.node.access import check_access

    try:
        check_access(config)
    except ConfigError as error:
        return str(error)
    return None


def _hints(config: Config) -> Iterator[str]:
    """What a node that is to receive from a PACS needs beside its address."""
    remote = [name for name, peer in config.peers.items() if not peer.is_loopback]
    if config.receive.is_loopback and remote:
        yield f"It listens on this machine alone: give --host 0.0.0.0 if {', '.join(remote)} shall route studies to it."
    elif not config.receive.is_loopback and config.peers:
        yield (
            f"May send: {', '.join(config.peers)}, from its own host with its own AE title. List other senders in "
            "receive.allowed_addresses or receive.calling_ae_titles; [receive.tls] adds encryption."
        )


def _toml(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # a JSON string is a TOML basic string


def _resource(name: str) -> str:
    return (files("stenosis_node.cli") / name).read_text(encoding="utf-8")
