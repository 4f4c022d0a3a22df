from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest

from training.labels.manifest import read_manifest
from training.learning.store import SliceStore, open_store
from training.phantom.command import write_set


class Phantoms(NamedTuple):
    """Two patients, their labels, and what the networks see of them."""

    path: Path
    manifest: pd.DataFrame
    store: SliceStore


@pytest.fixture(scope="package")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Phantoms:
    folder = tmp_path_factory.mktemp("learning")
    write_set(folder / "set", seed=21, indices=range(2))
    path = folder / "set" / "manifest.csv"
    manifest = read_manifest(path)
    return Phantoms(path, manifest, open_store(manifest, path, folder / "cache"))
