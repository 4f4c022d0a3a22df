"""Other people's DICOM programs as peers of the tests: DCMTK and Orthanc, each a real process on loopback."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.conftest import free_port, require_tool


def wait_for_port(port: int, process: subprocess.Popen[bytes], limit_s: float = 20) -> None:
    """Return when somebody listens on the port."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the peer ended with {process.returncode}"
        with socket.socket() as sock:
            sock.settimeout(1)
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"nobody listens on port {port} after {limit_s} s")


@contextlib.contextmanager
def running(command: list[str], port: int, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """The process while it listens on the port."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
    try:
        wait_for_port(port, process)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def storescp(folder: Path, *options: str) -> Iterator[int]:
    """Port of DCMTK's storescp, which stores into the folder byte by byte as received."""
    tool, port = require_tool("storescp", "dcmtk"), free_port()
    folder.mkdir(exist_ok=True)
    with running([tool, "--bit-preserving", "-od", str(folder), *options, str(port)], port):
        yield port


@contextlib.contextmanager
def orthanc(folder: Path, **settings: Any) -> Iterator[tuple[int, str]]:
    """DICOM port and REST address of an Orthanc that stores anything sent to ORTHANC."""
    tool, port, http = require_tool("Orthanc", "orthanc"), free_port(), free_port()
    folder.mkdir(exist_ok=True)
    configuration = {
        "Name": "test",
        "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"),
        "DicomAet": "ORTHANC",
        "DicomPort": port,
        "DicomCheckCalledAet": True,
        "HttpPort": http,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        **settings,
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(configuration))
    with running([tool, str(path)], http, cwd=folder, env={**os.environ, "LC_ALL": "C"}):
        yield port, f"http://127.0.0.1:{http}"


def rest(url: str, body: Any = None, *, login: str | None = None) -> Any:
    """Answer of Orthanc's REST API: parsed JSON, or bytes of a file. ``login``: user name, colon, password."""
    data = None if body is None else json.dumps(body).encode()
    headers = {} if login is None else {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}
    with urllib.request.urlopen(urllib.request.Request(url, data=data, headers=headers), timeout=20) as answer:
        content = answer.read()
        return json.loads(content) if "json" in answer.headers.get("Content-Type", "") else content
