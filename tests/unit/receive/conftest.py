"""A running receiver on the real spool and the real job store, and senders."""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian
from pynetdicom import AE, _config
from pynetdicom.presentation import build_context

from stenosis_node.config import Config, load
from stenosis_node.jobs import JobStore
from stenosis_node.receive import Receiver
from stenosis_node.spool import Spool
from tests.conftest import free_port

KOREAN_NAME = b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf"
STUDY, SERIES = "1.2.826.0.1.3680043.10.999.1", "1.2.826.0.1.3680043.10.999.1.1"


@dataclass
class Node:
    """A receiver, and what it wrote."""

    config: Config
    spool: Spool
    store: JobStore
    receiver: Receiver

    @property
    def port(self) -> int:
        return self.config.receive.port

    def files(self) -> list[Path]:
        """Stored instances."""
        return sorted(self.spool.root.glob("instances/*/*/*.dcm"))

    def leftovers(self) -> list[Path]:
        """Everything below instances/ that is no stored instance."""
        return [p for p in self.spool.root.glob("instances/**/*") if p.is_file() and p.suffix != ".dcm"]

    def quarantined(self) -> list[Path]:
        return [p for p in self.spool.root.glob("quarantine/**/*") if p.is_file()]

    def dataset(self, sop_instance_uid: str) -> bytes:
        """The encoded data set as stored."""
        (path,) = self.spool.root.glob(f"instances/*/*/{sop_instance_uid}.dcm")
        return dataset_of(path)


StartNode = Callable[..., Node]


@pytest.fixture(scope="session")
def fast_folder() -> Iterator[Path]:
    """A folder in memory where there is one: that the disk is flushed is tested with the spool and the store."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


@pytest.fixture(scope="session")
def migrated(fast_folder: Path) -> Path:
    """An empty job database."""
    path = fast_folder / "template.db"
    store = JobStore(f"sqlite:///{path}")
    store.migrate()
    store.close()
    return path


both_paths = pytest.mark.parametrize("fast_path", [True, False], ids=["fast", "stock"])
"""For what each path of reception does by itself; the rest is shared. tests/hostile runs on both too."""


@pytest.fixture
def fast_path() -> bool:
    """Whether associations that only store or verify take the lean path, as they do unless a node is told otherwise."""
    return True


@pytest.fixture
def start_node(tmp_path: Path, fast_folder: Path, migrated: Path, fast_path: bool) -> Iterator[StartNode]:
    """Start a receiver; keyword arguments are keys of [receive], ``jobs`` those of [jobs]."""
    spools = Path(tempfile.mkdtemp(dir=fast_folder))
    started: list[Node] = []

    def start(*, jobs: dict[str, Any] | None = None, **receive: Any) -> Node:
        settings = {"ae_title": "STENOSIS", "port": free_port(), "min_free_mb": 0, "network_timeout_s": 30}
        settings |= {"fast_path": fast_path, **receive}
        folder = spools / str(len(started))
        config = load(
            None,
            overrides={
                "spool": str(folder),
                "grading": {"bundle": str(tmp_path)},
                "receive": settings,
                "jobs": jobs or {},
            },
        )
        spool = Spool(config.spool)
        shutil.copy(migrated, folder / "jobs.db")
        store = JobStore(config.database_url)
        node = Node(config, spool, store, Receiver(config, spool, store))
        node.receiver.start()
        started.append(node)
        return node

    yield start
    for node in started:
        node.receiver.stop()
        node.store.close()
    assert not [t for t in threading.enumerate() if t.name in {"accept", "open-studies"}]


@pytest.fixture
def node(start_node: StartNode) -> Node:
    return start_node()


def dataset_of(path: Path) -> bytes:
    """What stands in a Part 10 file after the file meta information."""
    content = path.read_bytes()
    assert content[128:132] == b"DICM"
    return content[132 + 12 + struct.unpack_from("<L", content, 140)[0] :]


def make_instance(
    folder: Path,
    number: int,
    *,
    sop_class: str = "1.2.840.10008.5.1.4.1.1.4",
    syntax: str = ExplicitVRLittleEndian,
    study: str = STUDY,
    **attributes: Any,
) -> Path:
    """A file with a Korean name in ISO 2022 IR 149 and 64 x 64 pixels (as bytes; no codec is involved)."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    ds.file_meta.MediaStorageSOPClassUID = UID(sop_class)
    ds.file_meta.MediaStorageSOPInstanceUID = UID(f"{study}.9.{number}")
    ds.SpecificCharacterSet = ["", "ISO 2022 IR 149"]
    ds.SOPClassUID = sop_class
    ds.SOPInstanceUID = f"{study}.9.{number}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study, f"{study}.1"
    ds.Modality, ds.InstanceNumber = "MR", number
    ds.PatientName = KOREAN_NAME
    ds.PatientID = "SECRETID"
    ds.Rows = ds.Columns = 64
    ds.BitsAllocated, ds.SamplesPerPixel = 16, 1
    for keyword, value in attributes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    path = folder / f"{number}.dcm"
    if UID(syntax).is_private or UID(syntax).is_encapsulated:
        ds.PixelData = b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\x00\xe0\4\0\0\0\xff\xd8\xff\xd9\xfe\xff\xdd\xe0\0\0\0\0"
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
        ds.save_as(path, implicit_vr=False, little_endian=True, enforce_file_format=True)
    else:
        ds.PixelData = bytes(range(256)) * 32
        ds["PixelData"].VR = "OW"
        ds.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def send(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Dataset]:
    """Send files byte by byte as they are (pynetdicom's chunked sending); the last status."""
    monkeypatch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", True)

    def send_files(node: Node, *paths: Path, calling: str = "SENDER") -> Dataset:
        from pydicom import dcmread

        metas = [dcmread(path, specific_tags=[], stop_before_pixels=True).file_meta for path in paths]
        pairs = dict.fromkeys((str(m.MediaStorageSOPClassUID), str(m.TransferSyntaxUID)) for m in metas)
        ae = AE(calling)
        association = ae.associate(
            "127.0.0.1", node.port, ae_title=node.config.receive.ae_title, contexts=[build_context(*p) for p in pairs]
        )
        assert association.is_established
        try:
            for path in paths:
                status = association.send_c_store(path)
        finally:
            association.release()
        return status

    return send_files
