"""A DICOMweb server that answers as told, with or without TLS, and says what it got."""

from __future__ import annotations

import contextlib
import json
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import dcmread

from stenosis_node.config import Peer
from tests.conftest import require_tool

JSON = "application/dicom+json"


@dataclass(frozen=True)
class Reply:
    """What is answered to one request."""

    status: int = 200
    body: bytes = b""
    media_type: str = JSON
    headers: dict[str, str] = field(default_factory=dict)


def outcome(status: int, *, stored: dict[str, int | None] | None = None, failed: dict[str, int] | None = None) -> Reply:
    """A store response (PS3.18 table 10.5.1-1)."""

    def items(reasons: dict[str, Any], tag: str) -> list[dict[str, Any]]:
        return [
            {
                "00081150": {"vr": "UI", "Value": ["1.2"]},
                "00081155": {"vr": "UI", "Value": [uid]},
                **({} if reason is None else {tag: {"vr": "US", "Value": [reason]}}),
            }
            for uid, reason in reasons.items()
        ]

    body = {
        "00081199": {"vr": "SQ", "Value": items(stored or {}, "00081196")},
        "00081198": {"vr": "SQ", "Value": items(failed or {}, "00081197")},
    }
    return Reply(status, json.dumps(body).encode())


@dataclass
class Web:
    """What it answers and what it got."""

    url: str = ""
    store: Callable[[str], Reply] = lambda uid: outcome(200, stored={uid: None})
    """Called with the SOP Instance UID of each POST."""
    search: Callable[[str], Reply] = lambda path: Reply(200, b"[]")
    """Called with path and query of each GET."""
    options: Reply = Reply(200)
    stored: dict[str, bytes] = field(default_factory=dict)
    """SOP Instance UID to the file as it was sent, in order, whatever was answered."""
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    def peer(self, **settings: Any) -> Peer:
        return Peer.model_validate({"protocol": "dicomweb", "url": self.url, "timeout_s": 2, **settings})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    web: Web

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        boundary = self.headers.get_param("boundary")
        assert isinstance(boundary, str)
        _, part, end = body.split(f"--{boundary}".encode())
        assert end == b"--"
        content = part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
        uid = str(dcmread(BytesIO(content), stop_before_pixels=True).SOPInstanceUID)
        self.web.stored[uid] = content
        self._answer(self.web.store(uid))

    def do_GET(self) -> None:
        self._answer(self.web.search(self.path))

    def do_OPTIONS(self) -> None:
        self._answer(self.web.options)

    def _answer(self, reply: Reply) -> None:
        self.web.headers.append({key.title(): value for key, value in self.headers.items()})
        self.web.paths.append(f"{self.command} {self.path}")
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.media_type)
        self.send_header("Content-Length", str(len(reply.body)))
        for key, value in reply.headers.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is what is tested."""


@contextlib.contextmanager
def web_server(certificate: Path | None = None, *, client_ca: Path | None = None) -> Iterator[Web]:
    """The server while the block runs; ``certificate`` (with its key) for HTTPS, ``client_ca`` to ask for one."""
    web = Web()
    handler = type("Handler", (_Handler,), {"web": web})
    server = _Server(("127.0.0.1", 0), handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        if client_ca is not None:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        server.socket = context.wrap_socket(server.socket, server_side=True)
    scheme = "http" if certificate is None else "https"
    web.url = f"{scheme}://127.0.0.1:{server.server_address[1]}/dicom-web"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def make_certificate(folder: Path) -> Path:
    """A self-signed certificate for 127.0.0.1 with its key, in one file."""
    key, certificate, both = folder / "key.pem", folder / "cert.pem", folder / "both.pem"
    command = [
        require_tool("openssl", "openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
        "-nodes", "-days", "2", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1",
        "-keyout", str(key), "-out", str(certificate),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    both.write_bytes(key.read_bytes() + certificate.read_bytes())
    return both
