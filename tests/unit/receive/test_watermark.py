"""0xA700 before a disk is full, whichever of the node's disks it is: small file systems, really mounted."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from stenosis_node.spool import least_free_bytes
from tests.unit.receive.conftest import StartNode, make_instance

Send = Callable[..., Dataset]
MB = 1_000_000


@contextmanager
def small_disk(folder: Path, size_kib: int) -> Iterator[None]:
    """A file system of its own in this folder."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_kib}k", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_reception_stops_above_the_floor_and_goes_on_when_there_is_room(
    start_node: StartNode, send: Send, tmp_path: Path
) -> None:
    node = start_node(min_free_mb=1)
    files = [make_instance(tmp_path, number, EncapsulatedDocument=os.urandom(300_000)) for number in range(1, 9)]
    with small_disk(node.spool.root / "instances", 2400):
        statuses = [send(node, file).Status for file in files]
        stored = statuses.count(0)
        assert 2 <= stored < 8
        assert statuses == [0] * stored + [0xA700] * (8 - stored)
        assert least_free_bytes([node.spool.root / "instances"]) >= MB
        assert node.leftovers() == []
        for path in node.files():
            path.unlink()
        assert send(node, files[-1]).Status == 0


def test_a_document_folder_without_room_stops_reception(start_node: StartNode, send: Send, tmp_path: Path) -> None:
    """What was received could be graded, and its result not be kept."""
    node = start_node(min_free_mb=2)
    with small_disk(node.spool.root / "documents", 1024):
        assert send(node, make_instance(tmp_path, 1)).Status == 0xA700
    assert send(node, make_instance(tmp_path, 1)).Status == 0


def test_a_database_without_room_stops_reception(
    start_node: StartNode, send: Send, tmp_path: Path, migrated: Path
) -> None:
    folder = tmp_path / "database"
    folder.mkdir()
    with small_disk(folder, 2048):
        shutil.copy(migrated, folder / "jobs.db")
        node = start_node(min_free_mb=3, jobs={"database_url": f"sqlite:///{folder / 'jobs.db'}"})
        answer = send(node, make_instance(tmp_path, 1))
        assert (answer.Status, answer.ErrorComment) == (0xA700, "disk of the node is almost full")
        assert node.files() == []
        node.receiver.stop()
        node.store.close()
