"""One untrained bundle for the session; one PACS and one node per module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.processes import REPOSITORY, Node, Orthanc
from tests.conftest import free_port


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, every threshold 0, coarse images: boxes and grades come out soon, and mean nothing."""
    from training.export import write_untrained_bundle

    folder = tmp_path_factory.mktemp("bundle")
    write_untrained_bundle(folder, locate_spacing_mm=3.0)
    return folder


@pytest.fixture(scope="session")
def shipped() -> Path:
    """The bundle of the repository; a node without networks reads its manifest alone."""
    return REPOSITORY / "deploy" / "bundles" / "phantom-1"


@pytest.fixture(scope="module")
def node_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory, node_port: int) -> Iterator[Orthanc]:
    """Orthanc, running."""
    server = Orthanc(tmp_path_factory.mktemp("pacs") / "orthanc", node_port)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def node(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, pacs: Orthanc, node_port: int
) -> Iterator[Node]:
    """A node that delivers to the PACS, running. A module says ``NETWORKS = False`` where grades do not matter."""
    networks = getattr(request.module, "NETWORKS", True)
    bundle = request.getfixturevalue("bundle" if networks else "shipped")
    server = Node(tmp_path_factory.mktemp("node"), bundle, peers={"pacs": pacs.port}, port=node_port, networks=networks)
    server.restart_soon()
    server.start()
    yield server
    assert server.stop() == 0
