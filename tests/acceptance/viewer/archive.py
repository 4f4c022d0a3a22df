"""An Orthanc with DICOMweb, filled over its REST interface."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.processes import Orthanc
from tests.conftest import free_port

PLUGINS = Path("/usr/share/orthanc/plugins")


class WebArchive(Orthanc):
    """It sends to nobody: a viewer reads from it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, free_port())
        plugin = PLUGINS / "libOrthancDicomWeb.so"
        if not plugin.exists():
            reason = f"{plugin} is not there (Debian package orthanc-dicomweb)"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)
        settings = json.loads(self._settings.read_text())
        self._settings.write_text(json.dumps(settings | {"Plugins": [str(plugin)]}))

    def store(self, content: bytes) -> str:
        """Its identifier of the instance."""
        return str(json.loads(self._call("/instances", content))["ID"])

    @contextmanager
    def holding(self, content: bytes) -> Iterator[None]:
        """One more instance, for a while."""
        identifier = self.store(content)
        try:
            yield
        finally:
            self._call(f"/instances/{identifier}", method="DELETE")
