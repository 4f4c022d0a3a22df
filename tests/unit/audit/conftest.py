"""A configuration with an audit file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import pytest

from stenosis_node.config import Config, load


class MakeConfig(Protocol):
    def __call__(self, **audit: Any) -> Config: ...


@pytest.fixture
def make_config(tmp_path: Path) -> MakeConfig:
    def make(**audit: Any) -> Config:
        tree = {"spool": str(tmp_path / "spool"), "grading": {"bundle": str(tmp_path / "bundle")}, "audit": audit}
        return load(None, overrides=tree, environment=False)

    return make
