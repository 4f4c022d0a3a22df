"""``serve``: check, take the spool, start the children, and stay until asked to stop."""

from __future__ import annotations

import hashlib
import logging
import socket
from pathlib import Path

from stenosis_node import __version__
from stenosis_node.config import Config
from stenosis_node.domain import BundleStatus
from stenosis_node.jobs import JobStore
from stenosis_node.node.access import check_access, check_tls, describe_access, describe_tls, exposed_keys
from stenosis_node.node.auditing import audited_bundle, audited_run
from stenosis_node.node.checks import check_delivery, check_port
from stenosis_node.node.child import ROLES
from stenosis_node.node.chores import chores
from stenosis_node.node.health import UNSERVED, unknown_peers, unserved_fix
from stenosis_node.node.logs import set_up_logging
from stenosis_node.node.metrics import metrics_server
from stenosis_node.node.signals import stop_on_signals
from stenosis_node.node.supervisor import Supervisor
from stenosis_node.spool import Spool

log = logging.getLogger("stenosis_node.node")


def serve(config_path: Path | None, config: Config) -> int:
    """Run the node until SIGTERM or SIGINT. The exit code: 0, or 2 when a child finds the configuration wrong.

    config_path  where the configuration came from, for the log
    raises       ConfigError for everything that can be found wrong before the node listens
    """
    stop = stop_on_signals()
    set_up_logging("serve", config.log_level)
    bundle = audited_bundle(config)
    check_delivery(config, bundle)
    check_access(config)
    check_tls(config)
    spool = Spool(config.spool)
    with spool.hold():
        check_port(config)
        spool.sweep()
        store = JobStore(config.database_url)
        store.migrate()
        log.info(
            "stenosis-node %s with configuration %s and bundle %s %s",
            __version__, config_path or "from the environment", bundle.name, bundle.version,
            extra={"event": "starting", "spool": config.spool, "peers": ",".join(config.peers)},
        )  # fmt: skip
        if bundle.status is not BundleStatus.VALIDATED:
            log.warning(
                "bundle %s is %s: not for clinical use", bundle.name, bundle.status, extra={"event": "not_clinical"}
            )
        log.info("who may send: %s; %s", describe_access(config), describe_tls(config), extra={"event": "access"})
        for key, path, readers in exposed_keys(config):
            log.warning("%s: %s can read %s", key, readers, path, extra={"event": "key_exposed"})
        if not config.peers:
            log.warning("no peers: results stay in the spool", extra={"event": "no_peers"})
        for name, count in unknown_peers(store.status(), config).items():
            log.warning(
                "%d deliveries and withdrawals wait for peer %s, but %s: %s",
                count, name, UNSERVED, unserved_fix(name), extra={"event": "unknown_peer"},
            )  # fmt: skip
        try:
            with (
                audited_run(config, bundle) as trail,
                metrics_server(config, store, bundle),
                chores(config, spool, store, trail),
            ):
                code = Supervisor(config, store, ROLES, name=_node_name(config)).run(stop)
        finally:
            store.close()
    log.info("stopped", extra={"event": "stopped"})
    return code


def _node_name(config: Config) -> str:
    """The same for every serve on this spool, another one elsewhere."""
    spool = hashlib.sha256(str(config.spool.resolve()).encode()).hexdigest()[:8]
    return f"{socket.gethostname()[:32]}-{spool}"
