"""What ``serve`` refuses to start with, and what it starts."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.processes import Node, Orthanc, wait_until

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(120)]


@pytest.fixture
def fresh(tmp_path: Path, bundle: Path) -> Node:
    """A node that was never started."""
    return Node(tmp_path / "node", bundle)


def refused(node: Node) -> str:
    """Start it, expect exit code 2, return what it said."""
    node.write_config()
    done = node.cli("serve")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_without_a_bundle_it_names_the_key(fresh: Node, tmp_path: Path) -> None:
    fresh.settings["grading"]["bundle"] = str(tmp_path / "nowhere")
    assert "grading.bundle" in refused(fresh)


def test_a_bundle_with_a_wrong_digest(fresh: Node, bundle: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    changed.mkdir()
    for path in bundle.iterdir():
        (changed / path.name).write_bytes(path.read_bytes())
    with (changed / "grade.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    fresh.settings["grading"]["bundle"] = str(changed)

    said = refused(fresh)

    assert "grade.safetensors was changed" in said


def test_demonstration_weights_and_a_peer_elsewhere(fresh: Node) -> None:
    fresh.settings["peers.hospital"] = {"ae_title": "PACS", "host": "192.0.2.1", "port": 104}
    said = refused(fresh)
    assert "peers.hospital" in said
    assert "safety.allow_demonstration_delivery" in said


def test_a_port_in_use(fresh: Node) -> None:
    with socket.create_server(("127.0.0.1", fresh.port)):
        assert "receive.port" in refused(fresh)


def test_a_spool_that_cannot_be_written(fresh: Node, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    fresh.spool = tmp_path / "file" / "spool"
    said = refused(fresh)
    assert "spool" in said
    assert str(fresh.spool) in said


def test_a_second_serve_on_the_same_spool(node: Node, fresh: Node) -> None:
    fresh.spool = node.spool
    said = refused(fresh)
    assert str(node.spool) in said


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("spool = ", "not valid TOML"),
        ('spool = "x"\n', "grading"),
        ('spool = "x"\n[grading]\nbundle = "b"\n[receive]\nprot = 1\n', "receive.prot"),
        ('spool = "x"\n[grading]\nbundle = "b"\n[receive]\nport = "many"\n', "receive.port"),
    ],
)
def test_a_broken_configuration(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "node.toml"
    path.write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "stenosis_node", "serve", "--config", str(path)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert named in done.stderr
    assert "Traceback" not in done.stderr


def test_only_the_grading_process_loads_torch(node: Node, pacs: Orthanc) -> None:
    def maps(role: str) -> str:
        return Path(f"/proc/{node.child_pid(role)}/maps").read_text()

    wait_until(lambda: "libtorch" in maps("grade"), log=node.log)
    assert "libtorch" not in maps("receive")
    assert "libtorch" not in maps("deliver")
    assert "libtorch" not in Path(f"/proc/{node.pid}/maps").read_text()
