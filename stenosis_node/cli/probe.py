"""``stenosis-node probe PEER``: would a delivery work, asked before any study arrives."""

from __future__ import annotations

from typing import Annotated

import typer

from stenosis_node.cli.options import AsJson, ConfigPath, load_config
from stenosis_node.cli.outcome import NotFound, PeerUnreachable
from stenosis_node.cli.output import plain, print_json, say, show, table
from stenosis_node.config import Config, Peer


def probe(
    peer: Annotated[str, typer.Argument(help="Name of the peer in the configuration.")],
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """C-ECHO a peer and list what it accepts of us."""
    settings = load_config(config)
    target = find_peer(settings, peer)
    from stenosis_node import deliver

    report = deliver.probe(target, calling_ae_title=target.calling_ae_title or settings.receive.ae_title)
    if as_json:
        print_json({"peer": peer, **plain(report)})
    elif report.echo_ok:
        say(f"{peer}: {target.ae_title} at {target.host}:{target.port} answered in {report.seconds * 1000:.0f} ms")
        accepted = [(one.name, ", ".join(one.transfer_syntaxes)) for one in report.accepted]
        show(table(("SOP class", "Accepted transfer syntaxes"), accepted + [(name, "-") for name in report.refused]))
    if not report.echo_ok:
        raise PeerUnreachable(f"{peer}: {report.error}")


def find_peer(config: Config, name: str) -> Peer:
    """A peer by its name in the configuration. Raises NotFound."""
    try:
        return config.peers[name]
    except KeyError:
        known = ", ".join(config.peers) or "none"
        raise NotFound(f"no peer {name!r} in the configuration; known: {known}") from None
