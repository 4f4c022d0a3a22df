"""A bundle of random weights, written once per session."""

from __future__ import annotations

from pathlib import Path

import pytest

from stenosis_node.grading.manifest import Manifest
from training.export import write_untrained_bundle


@pytest.fixture(scope="session")
def untrained_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "untrained"
    write_untrained_bundle(folder)
    return folder


@pytest.fixture(scope="session")
def manifest(untrained_bundle: Path) -> Manifest:
    return Manifest.model_validate_json((untrained_bundle / "manifest.json").read_bytes())
