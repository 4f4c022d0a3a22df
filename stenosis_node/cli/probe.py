"""``stenosis-node probe PEER``: would a delivery work, asked before any study arrives."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from stenosis_node.cli.jobs import NoDatabase, open_store
from stenosis_node.cli.options import AsJson, ConfigPath, load_config
from stenosis_node.cli.outcome import NotFound, PeerUnreachable
from stenosis_node.cli.output import plain, print_json, say, show, table
from stenosis_node.config import Config, Peer
from stenosis_node.errors import TransientError

if TYPE_CHECKING:
    from stenosis_node.deliver import ProbeReport


def probe(
    peer: Annotated[str, typer.Argument(help="Name of the peer in the configuration.")],
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """C-ECHO a peer and list what it accepts of us; search a DICOMweb peer. Reports go in the class found best."""
    settings = load_config(config)
    target = find_peer(settings, peer)
    from stenosis_node import deliver

    report = deliver.probe(target, calling_ae_title=target.calling_ae_title or settings.receive.ae_title)
    _remember(peer, report, settings)
    if as_json:
        print_json({"peer": peer, **plain(report)})
    elif report.echo_ok:
        say(f"{peer}: {report.address} answered in {report.seconds * 1000:.0f} ms")
        accepted = [(one.name, ", ".join(one.transfer_syntaxes)) for one in report.accepted]
        rows = accepted + [(name, "-") for name in report.refused]
        if rows:
            show(table(("SOP class", "Accepted transfer syntaxes"), rows))
    if not report.echo_ok:
        raise PeerUnreachable(f"{peer}: {report.error}")


def _remember(name: str, report: ProbeReport, config: Config) -> None:
    """From now on reports are sent in the class that this probe found best. A node that never ran remembers nothing."""
    if report.report_class is None:
        return
    accepted = {one.sop_class_uid: list(one.transfer_syntaxes) for one in report.accepted}
    with suppress(NoDatabase, TransientError), open_store(config) as store:
        store.remember_capability(name, report_class=report.report_class, capability={"accepted": accepted})


def find_peer(config: Config, name: str) -> Peer:
    """A peer by its name in the configuration. Raises NotFound."""
    try:
        return config.peers[name]
    except KeyError:
        known = ", ".join(config.peers) or "none"
        raise NotFound(f"no peer {name!r} in the configuration; known: {known}") from None
