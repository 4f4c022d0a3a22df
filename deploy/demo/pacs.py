"""The PACS of the demo: Orthanc where it is installed, else the small archive of :mod:`deploy.demo.archive`."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from deploy.demo.processes import free_ports, listens, running, wait_until

AE_TITLE = "DEMOPACS"


class Pacs(Protocol):
    """A running PACS that takes C-STORE on loopback."""

    name: str
    port: int
    log: Path
    process: subprocess.Popen[bytes]

    def instances(self) -> dict[str, bytes]:
        """Everything it holds: SOP Instance UID to the Part 10 file."""
        ...


@contextmanager
def start_pacs(folder: Path, node_ae_title: str, node_port: int, *, program: str | None) -> Iterator[Pacs]:
    """Run a PACS that keeps its files in ``folder`` until the block ends.

    program  path of Orthanc; None for the archive
    """
    folder.mkdir(parents=True)
    if program is None:
        with _Archive.start(folder) as archive:
            yield archive
    else:
        with _Orthanc.start(program, folder, node_ae_title, node_port) as server:
            yield server


class _Orthanc:
    name = "Orthanc"

    def __init__(self, process: subprocess.Popen[bytes], log: Path, port: int, http_port: int) -> None:
        self.process = process
        self.log = log
        self.port = port
        self._url = f"http://127.0.0.1:{http_port}"
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy

    @classmethod
    @contextmanager
    def start(cls, program: str, folder: Path, node_ae_title: str, node_port: int) -> Iterator[_Orthanc]:
        port, http_port = free_ports(2)
        settings = {
            "Name": "stenosis-node demo",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "index"),
            "Plugins": [],
            "DicomAet": AE_TITLE,
            "DicomPort": port,
            "HttpPort": http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            # its DICOM port listens on every interface: take nothing but what the node sends from this machine
            "DicomAlwaysAllowEcho": False,
            "DicomAlwaysAllowStore": False,
            "DicomAlwaysAllowFind": False,
            "DicomAlwaysAllowGet": False,
            "DicomCheckModalityHost": True,
            "DicomModalities": {"node": [node_ae_title, "127.0.0.1", node_port]},
        }
        settings_path = folder / "orthanc.json"
        settings_path.write_text(json.dumps(settings, indent=2), encoding="utf-8")
        log = folder / "orthanc.log"
        with running("Orthanc", [program, str(settings_path)], log) as process:
            server = cls(process, log, port, http_port)
            wait_until("Orthanc answers", server._answers, {log: process}, limit_s=30)
            yield server

    def instances(self) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for entry in json.loads(self._get("/instances?expand&requested-tags=")):
            found[entry["MainDicomTags"]["SOPInstanceUID"]] = self._get(f"/instances/{entry['ID']}/file")
        return found

    def _answers(self) -> bool:
        try:
            self._get("/system")
        except (urllib.error.URLError, ConnectionError):
            return False
        return listens(self.port)

    def _get(self, path: str) -> Any:
        with self._opener.open(self._url + path, timeout=20) as answer:
            return answer.read()


class _Archive:
    name = "the archive of the demo"

    def __init__(self, process: subprocess.Popen[bytes], log: Path, port: int, storage: Path) -> None:
        self.process = process
        self.log = log
        self.port = port
        self._storage = storage

    @classmethod
    @contextmanager
    def start(cls, folder: Path) -> Iterator[_Archive]:
        (port,) = free_ports(1)
        storage = folder / "storage"
        storage.mkdir()
        log = folder / "archive.log"
        command = [sys.executable, "-m", "deploy.demo.archive", AE_TITLE, str(port), str(storage)]
        with running("archive", command, log) as process:
            wait_until("the archive listens", lambda: listens(port), {log: process}, limit_s=30)
            yield cls(process, log, port, storage)

    def instances(self) -> dict[str, bytes]:
        return {path.stem: path.read_bytes() for path in self._storage.glob("*.dcm")}
