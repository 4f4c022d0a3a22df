"""A small MR study, and archives that have it: Orthanc, DCMTK's dcmqrscp, and one that misbehaves as told."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from socketserver import BaseServer
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage, RLELossless, generate_uid
from pynetdicom import AE, evt
from pynetdicom.transport import ThreadedAssociationServer

from stenosis_node.config import Peer
from tests.conftest import free_port, require_tool
from tests.unit.dicom_peers import running

FIND = "1.2.840.10008.5.1.4.1.2.2.1"
MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
GET = "1.2.840.10008.5.1.4.1.2.2.3"
SR = "1.2.840.10008.5.1.4.1.1.88.22"


@dataclass
class Study:
    """Two MR series, the second RLE compressed, and a structured report of somebody else."""

    folder: Path
    uid: str = field(default_factory=generate_uid)
    datasets: dict[str, Dataset] = field(default_factory=dict)

    def add(
        self, series_uid: str, number: int, *, sop_class: str = MRImageStorage, modality: str = "MR"
    ) -> FileDataset:
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = UID(sop_class)
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        ds.StudyInstanceUID, ds.SeriesInstanceUID = self.uid, series_uid
        ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20260101", "080000", "1", "A1"
        ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Nobody^Query", "Q1", "19500101", "F"
        ds.ReferringPhysicianName = ""
        ds.Modality, ds.SeriesNumber, ds.InstanceNumber = modality, len(series_uid), number
        if modality == "MR":
            ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
            ds.Rows = ds.Columns = 16
            ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
            ds.PixelData = np.full((16, 16), number, "<u2").tobytes()
        self.datasets[ds.SOPInstanceUID] = ds
        return ds

    def of_series(self, series_uid: str) -> set[str]:
        return {uid for uid, ds in self.datasets.items() if ds.SeriesInstanceUID == series_uid}

    def write(self) -> list[Path]:
        self.folder.mkdir(exist_ok=True)
        paths = []
        for uid, ds in self.datasets.items():
            path = self.folder / f"{uid}.dcm"
            ds.save_as(path, enforce_file_format=True)
            paths.append(path)
        return paths

    @property
    def mr(self) -> set[str]:
        return {uid for uid, ds in self.datasets.items() if ds.Modality == "MR"}


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    made = Study(tmp_path_factory.mktemp("study") / "files")
    plain, packed, report = generate_uid(), generate_uid(), generate_uid()
    for number in range(1, 6):
        made.add(plain, number)
    for number in range(1, 4):
        made.add(packed, number).compress(RLELossless, generate_instance_uid=False)
    made.add(report, 1, sop_class=SR, modality="SR")
    made.write()
    return made


def store(files: list[Path], port: int, called: str, *options: str) -> None:
    """``dcmsend`` to a peer."""
    dcmsend = require_tool("dcmsend", "dcmtk")
    command = [dcmsend, "-aec", called, *options, "127.0.0.1", str(port), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@contextmanager
def dcmqrscp(folder: Path, *, known: dict[str, int]) -> Iterator[int]:
    """Port of DCMTK's archive ``QRSCP``, which may move to the AE titles at the ports of this machine."""
    tool, port = require_tool("dcmqrscp", "dcmtk"), free_port()
    folder.mkdir()
    hosts = "".join(f"h{i} = ({title}, 127.0.0.1, {their})\n" for i, (title, their) in enumerate(known.items()))
    (folder / "db").mkdir()
    config = folder / "dcmqrscp.cfg"
    config.write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
        f"HostTable BEGIN\n{hosts}HostTable END\nVendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\nQRSCP {folder / 'db'} RW (200, 1024mb) ANY\nAETable END\n"
    )
    with running([tool, "-c", str(config)], port):
        yield port


@dataclass
class Broken:
    """A pynetdicom archive that answers as the test says."""

    port: int
    on_find: Callable[[evt.Event], Iterator[Any]] = lambda event: iter(())
    on_get: Callable[[evt.Event], Iterator[Any]] = lambda event: iter(())
    on_move: Callable[[evt.Event], Iterator[Any]] = lambda event: iter(())
    requests: list[Dataset] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    """Set when the test is over: what hangs goes on."""
    associations: int = 0

    def peer(self, timeout_s: float = 1.0) -> Peer:
        return Peer(ae_title="BROKEN", host="127.0.0.1", port=self.port, timeout_s=timeout_s, query="get")


@pytest.fixture
def start_broken() -> Iterator[Callable[..., Broken]]:
    servers: list[ThreadedAssociationServer] = []
    released = threading.Event()

    def start(classes: tuple[str, ...] = (FIND, GET, MOVE), *, roles: bool = True) -> Broken:
        ae = AE("BROKEN")
        for sop_class in classes:
            ae.add_supported_context(sop_class)
        role = True if roles else None
        ae.add_supported_context(MRImageStorage, ExplicitVRLittleEndian, scu_role=role, scp_role=role)

        def noting(answer: str) -> Callable[[evt.Event], Iterator[Any]]:
            def handle(event: evt.Event) -> Iterator[Any]:
                broken.requests.append(event.identifier)
                yield from getattr(broken, answer)(event)

            return handle

        def count(event: evt.Event) -> None:
            broken.associations += 1

        server = ae.make_server(
            ("127.0.0.1", 0),
            evt_handlers=[
                (evt.EVT_C_FIND, noting("on_find")),
                (evt.EVT_C_GET, noting("on_get")),
                (evt.EVT_C_MOVE, noting("on_move")),
                (evt.EVT_REQUESTED, count),
            ],
            server_class=ThreadedAssociationServer,
        )
        assert isinstance(server, ThreadedAssociationServer)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        broken = Broken(port=server.server_address[1], released=released)
        return broken

    yield start
    released.set()
    for server in servers:
        BaseServer.shutdown(server)
        for association in server.active_associations:
            association.abort()
        server.server_close()
