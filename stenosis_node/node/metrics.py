"""``/metrics`` for Prometheus and ``/health`` for load balancers, served by ``serve`` when ``metrics.port`` is set.

Every figure is read from the database when it is asked for; nothing is counted on the side, so nothing is lost when a
process dies. Neither page says anything about a study or a patient.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from stenosis_node import __version__
from stenosis_node.config import Config
from stenosis_node.domain import BundleIdentity
from stenosis_node.errors import ConfigError, NodeError
from stenosis_node.jobs import JobStore, NodeStatus, PeerSummary
from stenosis_node.node.health import PeerState, every_peer, every_problem, free_bytes, peer_state

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger("stenosis_node.node")

PREFIX: Final = "stenosis_node"
TIMEOUT_S: Final = 10.0
"""Longest silence of a caller."""


class StatusCollector(Collector):
    """The state of the node as metrics, read anew for each scrape."""

    def __init__(self, config: Config, store: JobStore, bundle: BundleIdentity) -> None:
        self._config = config
        self._store = store
        self._bundle = bundle

    def describe(self) -> list[Metric]:
        """Empty: the registry must not ask the database when it is made."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every metric. Without a database only that, and what needs none."""
        yield _info(self._bundle)
        free = free_bytes(self._config)
        if free is not None:
            yield GaugeMetricFamily(f"{PREFIX}_spool_free_bytes", "Room on the disk of the spool", free)
        limit = self._config.receive.min_free_mb * 1_000_000
        yield GaugeMetricFamily(f"{PREFIX}_spool_min_free_bytes", "Below this nothing is received", limit)
        try:
            status = self._store.status()
        except NodeError as error:
            log.warning("metrics without the database: %s", error, extra={"event": "metrics_failed"})
            yield GaugeMetricFamily(f"{PREFIX}_database_up", "Whether the job database answers", 0)
            return
        yield GaugeMetricFamily(f"{PREFIX}_database_up", "Whether the job database answers", 1)
        yield GaugeMetricFamily(
            f"{PREFIX}_problems", "What needs a human, as 'stenosis-node status' lists it",
            len(every_problem(status, self._config, free=free)),
        )  # fmt: skip
        yield from _jobs(status)
        yield from _peers(status, self._config)


def _info(bundle: BundleIdentity) -> Metric:
    info = InfoMetricFamily(PREFIX, "Software and weights")
    labels = {"version": __version__, "bundle": bundle.name, "bundle_version": bundle.version}
    info.add_metric([], labels | {"bundle_status": bundle.status.value, "bundle_digest": bundle.digest})
    return info


def _jobs(status: NodeStatus) -> Iterator[Metric]:
    jobs = GaugeMetricFamily(f"{PREFIX}_jobs", "Studies by state", labels=["state"])
    for state, number in status.jobs.items():
        jobs.add_metric([state.value], number)
    yield jobs
    yield GaugeMetricFamily(
        f"{PREFIX}_oldest_waiting_seconds", "How long the longest waiting complete study waits for grading",
        status.oldest_waiting_s,
    )  # fmt: skip
    yield GaugeMetricFamily(f"{PREFIX}_results_24h", "Results made in the last 24 hours", status.results_24h)
    yield GaugeMetricFamily(f"{PREFIX}_rejected_24h", "Studies rejected in the last 24 hours", status.rejected_24h)
    counters = (
        ("instances_received", "Instances received", status.instances),
        ("received_bytes", "Bytes of the instances received", status.instance_bytes),
        ("instances_discarded", "Instances of studies without MR, deleted", status.discarded),
        ("discarded_bytes", "Bytes of these", status.discarded_bytes),
        ("conflicts", "Times other bytes came under a known UID", status.conflicts),
    )
    for name, text, value in counters:
        yield CounterMetricFamily(f"{PREFIX}_{name}", text, value)


PEER_GAUGES: Final[tuple[tuple[str, str, Callable[[PeerSummary], float | None]], ...]] = (
    ("deliveries_pending", "Deliveries that wait", lambda peer: peer.pending),
    ("deliveries_uncommitted", "Deliveries sent, commitment awaited", lambda peer: peer.waiting_commitment),
    ("dead_letters", "Deliveries given up, until retried or cancelled", lambda peer: peer.failed),
    ("withdrawals_pending", "Withdrawals that wait", lambda peer: peer.pending_withdrawals),
    ("withdrawals_failed", "Withdrawals given up, until retried", lambda peer: peer.failed_withdrawals),
    ("withdrawals_by_hand", "Withdrawals that the peer's administrator makes", lambda peer: peer.by_hand),
    ("peer_paused", "Whether nothing is sent to it", lambda peer: int(peer.paused)),
    ("last_success_timestamp_seconds", "Last delivery that went well", lambda peer: _timestamp(peer.last_success_at)),
    ("last_error_timestamp_seconds", "Last delivery that failed", lambda peer: _timestamp(peer.last_error_at)),
)


def _peers(status: NodeStatus, config: Config) -> Iterator[Metric]:
    every = every_peer(status, config)
    for name, text, value in PEER_GAUGES:
        gauge = GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=["peer"])
        for peer in every:
            if (found := value(peer)) is not None:
                gauge.add_metric([peer.name], found)
        yield gauge
    oldest = GaugeMetricFamily(
        f"{PREFIX}_oldest_pending_seconds", "Age of the oldest waiting delivery", labels=["peer"]
    )
    failing = GaugeMetricFamily(
        f"{PREFIX}_peer_failing", "Whether what waits for it was tried and failed", labels=["peer"]
    )
    for peer in every:
        waits_s = 0.0 if peer.oldest_pending_at is None else (status.at - peer.oldest_pending_at).total_seconds()
        oldest.add_metric([peer.name], waits_s)
        failing.add_metric([peer.name], int(peer_state(peer, config) is PeerState.FAILING))
    yield oldest
    yield failing


def _timestamp(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


# --------------------------------------------------------------------------- HTTP


@contextmanager
def metrics_server(config: Config, store: JobStore, bundle: BundleIdentity) -> Iterator[int | None]:
    """Serve the pages until the block ends; yields the port, None when ``metrics.port`` is not set.

    raises  ConfigError when the port cannot be listened on
    """
    if config.metrics.port is None:
        yield None
        return
    host, port = config.metrics.host, config.metrics.port
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        kind: type[WSGIServer] = type("_Server", (ThreadingWSGIServer,), {"address_family": family})
        server = make_server(host, port, _pages(config, store, bundle), kind, _Handler)
    except socket.gaierror as error:
        raise ConfigError(f"metrics.host: {host!r} is no address of this machine ({error.strerror})") from error
    except OSError as error:
        raise ConfigError(f"metrics.port: cannot listen on {host} port {port}: {error.strerror}") from error
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    log.info("metrics on %s port %d", host, port, extra={"event": "metrics_listening"})
    try:
        yield port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _pages(config: Config, store: JobStore, bundle: BundleIdentity) -> WSGIApplication:
    registry = CollectorRegistry()
    registry.register(StatusCollector(config, store, bundle))
    metrics: WSGIApplication = make_wsgi_app(registry)

    def pages(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        match environ.get("PATH_INFO"):
            case "/metrics":
                return metrics(environ, start_response)
            case "/health":
                ready, said = _health(config, store)
                return _answer(start_response, "200 OK" if ready else "503 Service Unavailable", said)
            case _:
                return _answer(start_response, "404 Not Found", {"pages": ["/metrics", "/health"]})

    return pages


def _health(config: Config, store: JobStore) -> tuple[bool, dict[str, Any]]:
    """Whether the node can receive, and every problem.

    Whoever restarts what answers 503 must not restart a node because a job failed or a peer is down.
    """
    free = free_bytes(config)
    try:
        found = every_problem(store.status(), config, free=free)
    except NodeError as error:
        return False, {"healthy": False, "problems": [{"about": "database", "sentence": str(error)}]}
    full = free is not None and free < config.receive.min_free_mb * 1_000_000
    return not full, {"healthy": not found, "problems": [asdict(problem) for problem in found]}


def _answer(start_response: StartResponse, status: str, said: dict[str, Any]) -> list[bytes]:
    start_response(status, [("Content-Type", "application/json"), ("Cache-Control", "no-store")])
    return [json.dumps(said).encode() + b"\n"]


class _Handler(WSGIRequestHandler):
    timeout = TIMEOUT_S

    def log_message(self, format: str, *args: Any) -> None:
        """A scrape is no event."""
