"""``peers``, ``pause``, ``resume``: the queue of each peer, and a stop to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from stenosis_node.cli.audited import audited
from stenosis_node.cli.jobs import open_store
from stenosis_node.cli.options import AsJson, ConfigPath, load_config
from stenosis_node.cli.outcome import NotFound
from stenosis_node.cli.output import complain, local_time, plain, print_json, say, show, table
from stenosis_node.config import Config

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.table import Table

    from stenosis_node.jobs import JobStore, PeerSummary

PeerName = Annotated[str, typer.Argument(metavar="PEER", help="Name of the peer in the configuration.")]


def peers(config: ConfigPath = None, as_json: AsJson = False) -> None:
    """List the peers: how many results wait for each, dead letters, the last success and the last error."""
    settings = load_config(config)
    with open_store(settings) as store:
        state = store.status()
    from stenosis_node.node.health import every_peer

    found = every_peer(state, settings)
    if as_json:
        print_json({"peers": peers_json(found, settings)})
    elif found:
        show(peers_table(found, settings))
    else:
        complain("no peers: results stay in the spool")


def peers_json(found: Iterable[PeerSummary], config: Config) -> list[dict[str, Any]]:
    """Every fact about each peer, and the judgement."""
    from stenosis_node.node.health import peer_state

    return [{**plain(peer), "state": peer_state(peer, config)} for peer in found]


def pause(
    peer: PeerName,
    why: Annotated[str, typer.Option(help="Shown until it is resumed.", metavar="TEXT")] = "",
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Send nothing to a peer until `resume`. Takes effect at once, and outlives a restart; results wait."""
    settings = load_config(config)
    with open_store(settings) as store:
        _must_exist(peer, settings, store)
        known = next((one for one in store.peers() if one.name == peer), None)
        if known is None or not known.paused or why:  # asked for again without a reason, the first one stays
            with audited(settings, f"pause peer {peer}" + (f": {why}" if why else "")):
                store.pause_peer(peer, why=why)
    _confirm(peer, "paused", as_json)


def resume(peer: PeerName, config: ConfigPath = None, as_json: AsJson = False) -> None:
    """Send to a paused peer again, at once."""
    settings = load_config(config)
    with open_store(settings) as store:
        _must_exist(peer, settings, store)
        with audited(settings, f"resume peer {peer}"):
            store.resume_peer(peer)
    _confirm(peer, "resumed", as_json)


def peers_table(found: Iterable[PeerSummary], config: Config) -> Table:
    """One row per peer."""
    from stenosis_node.node.health import peer_state

    rows = (
        (
            peer.name,
            peer_state(peer, config).value,
            str(peer.pending + peer.waiting_commitment),
            str(peer.failed),
            _withdrawals(peer),
            local_time(peer.last_success_at),
            _what(peer),
        )
        for peer in found
    )
    return table(("=Peer", "=State", ">Waiting", ">Dead", "=Withdrawals", "=Last success", "What"), rows)


def _withdrawals(peer: PeerSummary) -> str:
    counts = ((peer.pending_withdrawals, "waiting"), (peer.failed_withdrawals, "dead"), (peer.by_hand, "by hand"))
    return ", ".join(f"{number} {word}" for number, word in counts if number) or "-"


def _what(peer: PeerSummary) -> str:
    """Since when something is the matter, and what."""
    parts = []
    if peer.paused_at is not None:
        parts.append(f"paused since {local_time(peer.paused_at)}" + (f": {peer.paused_why}" if peer.paused_why else ""))
    if peer.waiting_commitment:
        parts.append(f"{peer.waiting_commitment} not committed yet")
    if peer.oldest_pending_at is not None:
        parts.append(f"oldest waits since {local_time(peer.oldest_pending_at)}")
    success, error = peer.last_success_at, peer.last_error_at
    if error is not None and (success is None or success < error):
        parts.append(f"failed at {local_time(error)}: {peer.last_error}")
    return "; ".join(parts)


def _must_exist(name: str, config: Config, store: JobStore) -> None:
    if name in config.peers or name in {peer.name for peer in store.peers()}:
        return
    raise NotFound(f"no peer {name!r} in the configuration; known: {', '.join(config.peers) or 'none'}")


def _confirm(name: str, done: str, as_json: bool) -> None:
    if as_json:
        print_json({"peer": name, "paused": done == "paused"})
    else:
        say(f"{name}: {done}")
