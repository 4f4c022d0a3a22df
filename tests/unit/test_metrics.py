"""/metrics and /health over HTTP, from a real queue."""

from __future__ import annotations

import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from stenosis_node.config import Config, load
from stenosis_node.domain import BundleIdentity, BundleStatus
from stenosis_node.errors import ConfigError
from stenosis_node.jobs import JobStore
from stenosis_node.node.metrics import metrics_server
from tests.conftest import free_port
from tests.unit.certificates import Authority
from tests.unit.cli.conftest import deliver, grade, receive

BUNDLE = BundleIdentity("phantom", "1", BundleStatus.DEMONSTRATION, "ab" * 32, "Made up for tests.")
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Node:
    """A queue and its pages."""

    def __init__(self, config: Config, store: JobStore) -> None:
        self.config = config
        self.store = store

    def get(self, page: str) -> tuple[int, str]:
        try:
            with _opener.open(f"http://127.0.0.1:{self.config.metrics.port}{page}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metrics(self) -> dict[str, float]:
        """Value by name and labels, as ``name{label}``."""
        code, text = self.get("/metrics")
        assert code == 200
        found = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = ",".join(sample.labels[key] for key in ("peer", "state") if key in sample.labels)
                found[sample.name.removeprefix("stenosis_node_") + (f"{{{labels}}}" if labels else "")] = sample.value
        return found

    def health(self) -> tuple[int, Any]:
        code, text = self.get("/health")
        return code, json.loads(text)


def configuration(folder: Path, **sections: Any) -> Config:
    peer = {"ae_title": "PACS", "host": "127.0.0.1", "port": 104}
    tree = {
        "spool": str(folder / "spool"), "grading": {"bundle": "bundle"}, "peers": {"pacs": peer, "other": peer},
        "metrics": {"port": free_port()},
    }  # fmt: skip
    return load(None, overrides=tree | sections)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    config = configuration(tmp_path)
    config.spool.mkdir()
    store = JobStore(config.database_url)
    store.migrate()
    with metrics_server(config, store, BUNDLE):
        yield Node(config, store)
    store.close()


def ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)


def test_every_figure_of_the_queue_is_there(node: Node) -> None:
    receive(node.store, 1, images=3, now=ago(60))
    grade(node.store, now=ago(30))
    deliver(node.store, now=ago(29))
    receive(node.store, 2, now=ago(60))
    grade(node.store, now=ago(20))
    receive(node.store, 3, now=ago(63))

    found = node.metrics()

    assert found["jobs{delivered}"] == found["jobs{graded}"] == found["jobs{received}"] == 1
    assert found["jobs{failed}"] == 0
    assert found["deliveries_pending{pacs}"] == 1
    assert found["deliveries_pending{other}"] == 0
    assert 15 < found["oldest_pending_seconds{pacs}"] < 60
    assert 59 < found["oldest_waiting_seconds"] < 100
    assert found["instances_received_total"] == 5
    assert found["received_bytes_total"] == 5000
    assert found["results_24h"] == 2
    assert found["spool_free_bytes"] > 1e6
    assert found["spool_min_free_bytes"] == 500e6
    assert found["database_up"] == 1
    assert found["problems"] == 0
    assert abs(found["last_success_timestamp_seconds{pacs}"] - ago(29).timestamp()) < 30
    assert "last_success_timestamp_seconds{other}" not in found
    assert 'bundle_status="demonstration"' in node.get("/metrics")[1]


def test_a_failed_job_a_dead_letter_and_a_pause_are_counted_at_once(node: Node) -> None:
    receive(node.store, 1, now=ago(60))
    grade(node.store, now=ago(30))
    lease = node.store.claim_delivery("pacs", worker="d", lease_s=60, max_attempts=3)
    assert lease is not None
    node.store.fail_delivery(lease, sentence="refused")
    node.store.pause_peer("other", why="moved")

    found = node.metrics()

    assert (found["jobs{failed}"], found["dead_letters{pacs}"], found["peer_paused{other}"]) == (1, 1, 1)
    assert found["problems"] == 2
    assert found["last_error_timestamp_seconds{pacs}"] > ago(60).timestamp()
    code, said = node.health()
    assert (code, said["healthy"]) == (200, False)  # a restart would not help
    assert [problem["about"] for problem in said["problems"]] == ["jobs", "peer pacs"]


def test_health_of_a_quiet_node(node: Node) -> None:
    assert node.health() == (200, {"healthy": True, "problems": []})


def test_what_is_about_to_end_is_a_problem_here_too(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    old = authority.issue("old", not_before="20200101000000Z", not_after="20210101000000Z")
    tls = {"certificate": str(old.certificate), "key": str(old.key), "client_ca": str(authority.ca)}
    config = configuration(tmp_path, receive={"tls": tls})
    config.spool.mkdir()
    store = JobStore(config.database_url)
    store.migrate()
    with metrics_server(config, store, BUNDLE):
        node = Node(config, store)
        code, said = node.health()
        counted = node.metrics()["problems"]
    store.close()
    assert (code, [problem["about"] for problem in said["problems"]]) == (200, ["certificate"])
    assert counted == 1


def test_a_node_that_cannot_receive_is_unavailable(tmp_path: Path) -> None:
    config = configuration(tmp_path, receive={"min_free_mb": 1_000_000_000})
    config.spool.mkdir()
    store = JobStore(config.database_url)
    store.migrate()
    with metrics_server(config, store, BUNDLE):
        code, said = Node(config, store).health()
    store.close()
    assert (code, [problem["about"] for problem in said["problems"]]) == (503, ["disk"])


def test_without_the_database_the_pages_say_so(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    config.spool.mkdir()
    store = JobStore(config.database_url)  # without tables
    with metrics_server(config, store, BUNDLE):
        node = Node(config, store)
        assert node.metrics()["database_up"] == 0
        assert node.health()[0] == 503
    store.close()


def test_other_pages_do_not_exist(node: Node) -> None:
    assert node.get("/")[0] == 404


def test_no_page_names_a_study(node: Node) -> None:
    receive(node.store, 1, now=ago(60))
    grade(node.store, now=ago(30))
    assert "1.2.826" not in node.get("/metrics")[1] + node.get("/health")[1]


def test_a_caller_that_says_nothing_holds_up_no_other(node: Node) -> None:
    with socket.create_connection(("127.0.0.1", node.config.metrics.port or 0)):
        answers = [threading.Thread(target=node.health) for _ in range(3)]
        for thread in answers:
            thread.start()
        for thread in answers:
            thread.join(5)
        assert not any(thread.is_alive() for thread in answers)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    """Never asked."""
    opened = JobStore(f"sqlite:///{tmp_path / 'jobs.db'}")
    yield opened
    opened.close()


def test_without_a_port_nothing_listens(tmp_path: Path, store: JobStore) -> None:
    with metrics_server(configuration(tmp_path, metrics={}), store, BUNDLE) as port:
        assert port is None


def test_a_port_in_use_names_its_key(tmp_path: Path, store: JobStore) -> None:
    config = configuration(tmp_path)
    said = r"^metrics.port: cannot listen on 127.0.0.1 port \d+: Address already in use"
    with (
        socket.create_server(("127.0.0.1", config.metrics.port or 0)),
        pytest.raises(ConfigError, match=said),
        metrics_server(config, store, BUNDLE),
    ):
        pass


def test_a_host_that_is_not_ours_names_its_key(tmp_path: Path, store: JobStore) -> None:
    config = configuration(tmp_path, metrics={"port": free_port(), "host": "no.such.host.invalid"})
    with (
        pytest.raises(ConfigError, match=r"^metrics.host: 'no.such.host.invalid' is no address"),
        metrics_server(config, store, BUNDLE),
    ):
        pass
