"""A hospital with a certification authority, and nodes and peers that it gave certificates to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.certificates import Authority, Identity
from tests.unit.deliver.conftest import documents
from tests.unit.receive.conftest import Node, StartNode, fast_folder, migrated, start_node

__all__ = ["documents", "fast_folder", "migrated", "start_node"]


@dataclass(frozen=True)
class Hospital:
    """Certificates that descend from its authority."""

    authority: Authority
    node: Identity
    scanner: Identity
    pacs: Identity


@pytest.fixture
def fast_path() -> bool:
    """TLS is below both paths: tests that do not say otherwise take one."""
    return True


@pytest.fixture(scope="session")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    authority = Authority(tmp_path_factory.mktemp("hospital"))
    node = authority.issue("node", kind="rsa")
    return Hospital(authority, node, authority.issue("scanner"), authority.issue("pacs", host="DNS:pacs.example"))


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, Identity]:
    """Another authority, and a certificate of it."""
    authority = Authority(tmp_path_factory.mktemp("stranger"), "elsewhere")
    return authority, authority.issue("stranger")


def tls_keys(identity: Identity, ca: Path, **more: object) -> dict[str, object]:
    """Of [receive.tls]."""
    return {"certificate": str(identity.certificate), "key": str(identity.key), "client_ca": str(ca), **more}


@pytest.fixture
def secure_node(start_node: StartNode, hospital: Hospital) -> Callable[..., Node]:
    """Start a receiver that speaks TLS; keyword arguments are keys of [receive]."""

    def start(**receive: object) -> Node:
        return start_node(**{"tls": tls_keys(hospital.node, hospital.authority.ca), **receive})

    return start
