"""Fixtures every suite may use."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest

SHARED_DATA = Path(os.environ.get("STENOSIS_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
"""Real MR files of public data sets, read in place; tests that need them skip when they are absent."""

DEBIAN_PATHS = "/usr/bin:/usr/sbin:/usr/local/bin"
"""Looked up before PATH: pynetdicom installs its own storescu and echoscu into the environment."""


def require_tool(name: str, package: str) -> str:
    """Absolute path of an external program, found outside the virtual environment.

    Missing on a newcomer's machine it is a skip that names the Debian package; in CI it is a failure.
    """
    found = shutil.which(name, path=DEBIAN_PATHS) or shutil.which(name)
    if found is not None:
        return found
    reason = f"{name} is not installed (Debian package {package})"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def require_data(*parts: str) -> Path:
    """A folder or file of the real MR test data, or a skip."""
    path = SHARED_DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"real MR test data not present: {'/'.join(parts)}")
    return path


def free_port() -> int:
    """A TCP port that is free on loopback right now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
