"""OHIF as npm ships it, served beside the DICOMweb of an Orthanc.

    python -m tests.acceptance.viewer.ohif      fetch it with npm, once; about 50 MB

npm's package is kept outside the repository: it is nothing of ours, and only this test needs it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

VERSION = "3.12.10"
INTEGRITY = "0kuF66Mq9c9dMD++bUsTjMrJpXJwaZhz9B4uS244DawAjSkTwIYFU93pxPuRUQixaRi7QAHlF3Fe1qudBlZrmA=="
"""SHA-512 of the package, as the npm registry states it."""

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_source = {
    "friendlyName": "Orthanc",
    "qidoRoot": "/dicom-web",
    "wadoRoot": "/dicom-web",
    "wadoUriRoot": "/wado",
    "imageRendering": "wadors",
    "thumbnailRendering": "wadors",
    "enableStudyLazyLoad": True,
    "supportsWildcard": True,
    "omitQuotationForMultipartRequest": True,
    "bulkDataURI": {"enabled": True, "relativeResolution": "studies"},
}
_config = {
    "routerBasename": "/",
    "extensions": [],
    "modes": [],
    "showStudyList": True,
    "maxNumberOfWebWorkers": 2,
    "investigationalUseDialog": {"option": "never"},
    "strictZSpacingForVolumeViewport": True,
    "defaultDataSourceName": "orthanc",
    "dataSources": [
        {
            "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
            "sourceName": "orthanc",
            "configuration": _source,
        }
    ],
}


def folder() -> Path:
    """Where the viewer lies once it has been fetched."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "stenosis-node" / f"ohif-{VERSION}"


def fetch() -> None:
    """Get the package with npm and unpack it, unless it is there."""
    if folder().is_dir():
        return
    folder().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder().parent) as scratch:
        subprocess.run(["npm", "pack", "--silent", f"@ohif/app@{VERSION}"], cwd=scratch, check=True)
        (package,) = Path(scratch).glob("*.tgz")
        digest = base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode()
        if digest != INTEGRITY:
            sys.exit(f"@ohif/app {VERSION} is not the package it was: SHA-512 {digest}")
        with tarfile.open(package) as archive:
            archive.extractall(scratch, filter="data")
        (Path(scratch) / "package" / "dist").rename(folder())


@contextmanager
def serving(orthanc_port: int) -> Iterator[str]:
    """Serve viewer and archive under one address, as a hospital's reverse proxy does."""
    handler = partial(_Handler, f"http://127.0.0.1:{orthanc_port}", directory=str(folder()))
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A browser drops connections when it leaves a page; what matters to the page, its console says."""


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, archive: str, *arguments: object, directory: str) -> None:
        self._archive = archive
        super().__init__(*arguments, directory=directory)  # type: ignore[arg-type]

    def log_message(self, *_: object) -> None:
        """The run prints enough."""

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path.startswith(("/dicom-web/", "/wado")):
            self._pass_on()
        elif path == "/app-config.js":
            self._answer(HTTPStatus.OK, "text/javascript", f"window.config = {json.dumps(_config)};".encode())
        else:
            if not Path(self.translate_path(path)).is_file():
                self.path = "/index.html"  # a route of the viewer
            super().do_GET()

    def end_headers(self) -> None:
        """Isolation of origins, without which a page has no shared memory."""
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def _pass_on(self) -> None:
        request = urllib.request.Request(
            self._archive + self.path, headers={"Accept": self.headers.get("Accept", "*/*")}
        )
        try:
            with _opener.open(request, timeout=60) as answer:
                status, kind, body = answer.status, answer.headers["Content-Type"], answer.read()
        except urllib.error.HTTPError as error:
            with error:
                status, kind, body = error.code, error.headers["Content-Type"], error.read()
        self._answer(HTTPStatus(status), kind or "application/octet-stream", body)

    def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    fetch()
    print(folder())
