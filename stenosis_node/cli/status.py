"""``stenosis-node status``: is the node healthy, on one screen and in one exit code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from stenosis_node.cli.jobs import NoDatabase, open_store
from stenosis_node.cli.options import AsJson, ConfigPath, load_config
from stenosis_node.cli.outcome import ExitCode
from stenosis_node.cli.output import local_time, plain, print_json, say, show, table
from stenosis_node.cli.peers import peers_json, peers_table
from stenosis_node.config import Config
from stenosis_node.errors import BundleError, NodeError

if TYPE_CHECKING:
    from stenosis_node.domain import BundleIdentity
    from stenosis_node.jobs import NodeStatus
    from stenosis_node.node.health import Problem


@dataclass(frozen=True, slots=True)
class Seen:
    """What there is to see of a node from outside."""

    process: int | None
    """Of ``serve``; None when it does not run."""
    status: NodeStatus | None
    """None before the first ``serve``, and when the database does not answer."""
    bundle: BundleIdentity | None
    free: int | None
    """Bytes on the disk of the spool."""
    problems: tuple[Problem, ...]


def status(config: ConfigPath = None, as_json: AsJson = False) -> None:
    """Say how the node does. Exit code 0 when it runs and nothing needs a human, 1 otherwise."""
    settings = load_config(config)
    seen = _look(settings)
    if as_json:
        print_json(_json(seen, settings))
    else:
        _print(seen, settings)
    if seen.problems:
        raise typer.Exit(ExitCode.FAILED)


def _look(config: Config) -> Seen:
    from stenosis_node.grading.manifest import read_manifest
    from stenosis_node.node.health import (
        Problem,
        audit_problems,
        certificate_problems,
        free_bytes,
        is_listening,
        problems,
    )
    from stenosis_node.spool import holder

    process, free = holder(config.spool), free_bytes(config)
    found: list[Problem] = []
    if process is None:
        found.append(Problem("node", "it does not run: nothing is received", "start 'stenosis-node serve'"))
    elif not is_listening(config):
        where = f"{config.receive.host} port {config.receive.port}"
        fix = "it takes some seconds to start; after that look into the log for the receiving process"
        found.append(Problem("receiving", f"nothing listens on {where}: senders are refused", fix))
    bundle = None
    try:
        bundle = read_manifest(config.grading.bundle, expected_digest=config.grading.bundle_digest).identity()
    except BundleError as error:
        found.append(Problem("bundle", str(error), "copy the bundle again, or correct grading.bundle"))
    state = None
    try:
        with open_store(config) as store:
            state = store.status()
    except NoDatabase:
        pass  # it has never run, which is said above
    except NodeError as error:
        fix = "check the database server; after an update start 'stenosis-node serve' once"
        found.append(Problem("database", str(error), fix))
    else:
        found += problems(state, config, free=free)
    found += certificate_problems(config)
    found += audit_problems(config)
    return Seen(process, state, bundle, free, tuple(found))


def _print(seen: Seen, config: Config) -> None:
    from stenosis_node.node import access
    from stenosis_node.node.health import every_peer

    runs = "does not run" if seen.process is None else f"runs, process {seen.process}"
    say(f"Node      {runs}; {config.receive.ae_title} on {config.receive.host} port {config.receive.port}")
    say(f"Access    {access.describe_access(config)}; {access.describe_tls(config)}")
    for one in access.own_certificates(config):
        say(f"          {one.key} ends on {one.end:%Y-%m-%d}" if one.end else f"          {one.key} cannot be read")
    if seen.bundle is not None:
        bundle = seen.bundle
        say(f"Bundle    {bundle.name} {bundle.version}, {bundle.status}, digest {bundle.digest[:12]}")
    if seen.free is not None:
        say(f"Disk      {seen.free / 1e9:.1f} GB free")
    if seen.status is not None:
        say(f"Jobs      {', '.join(f'{number} {state}' for state, number in seen.status.jobs.items())}")
        say(f"Waiting   {_waiting(seen.status)}")
        say(f"Results   {_results(seen.status)}")
        say(f"Received  {_received(seen.status)}")
        if peers := every_peer(seen.status, config):
            say()
            show(peers_table(peers, config))
    say()
    if seen.problems:
        show(table(("=About", "Problem"), ((p.about, f"{p.sentence}\n-> {p.fix}") for p in seen.problems)))
    else:
        say("Healthy")


def _waiting(status: NodeStatus) -> str:
    if status.oldest_waiting_at is None:
        return "no study waits for grading"
    return f"the oldest study waits for grading since {local_time(status.oldest_waiting_at)}"


def _results(status: NodeStatus) -> str:
    last = "none yet" if status.last_result_at is None else f"last at {local_time(status.last_result_at)}"
    return f"{last}; in 24 hours {status.results_24h} made, {status.rejected_24h} studies rejected"


def _received(status: NodeStatus) -> str:
    text = f"{status.instances} images, {status.instance_bytes / 1e6:.1f} MB"
    if status.discarded:
        text += f"; {status.discarded} of studies without MR, {status.discarded_bytes / 1e6:.1f} MB, deleted"
    return text + (f"; {status.conflicts} times other bytes came under a known UID" if status.conflicts else "")


def _json(seen: Seen, config: Config) -> dict[str, Any]:
    from stenosis_node.node import access
    from stenosis_node.node.health import every_peer

    found: dict[str, Any] = {} if seen.status is None else plain(seen.status)
    return {
        "healthy": not seen.problems,
        "running": seen.process is not None,
        "process": seen.process,
        "bundle": seen.bundle,
        "access": {"may_send": access.describe_access(config), "tls": config.receive.tls.is_on},
        "certificates": access.own_certificates(config),
        "free_bytes": seen.free,
        **found,
        "peers": [] if seen.status is None else peers_json(every_peer(seen.status, config), config),
        "problems": seen.problems,
    }
