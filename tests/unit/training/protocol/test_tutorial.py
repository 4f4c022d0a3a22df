"""Every command of docs/tutorial.md, in its order, on three phantom patients: only scale is added."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stenosis_node.cli.app import app as node_app
from tests.unit.training.protocol.test_run import SMALL
from training.cli import app as training_app
from training.labels.manifest import read_manifest

PAGE = Path(__file__).parents[4] / "docs" / "tutorial.md"
APPS = {"stenosis-train": training_app, "stenosis-node": node_app}
ADDED = {
    "run": ["--workers", "0", *(part for one in (*SMALL, "classify.epochs=1") for part in ("--set", one))],
    "evaluate": ["--bootstrap", "20", "--no-pictures"],
}
THEIRS = {
    "path": "file", "level": "level", "region": "content", "grade": "schizas", "reader": "who", "x0": "left",
    "y0": "top", "x1": "right", "y1": "bottom",
}  # fmt: skip


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture
def researcher(few_phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images and a table as the page describes them."""
    rows = read_manifest(few_phantoms).reset_index(drop=True)
    (tmp_path / "images").symlink_to(few_phantoms.parent)
    rows[list(THEIRS)].rename(columns=THEIRS).to_csv(tmp_path / "labels.csv", index=False)
    (tmp_path / "site.secret").write_text("0123456789abcdefghijklmnopqrstuvwxyz")
    (tmp_path / "words.toml").write_text(blocks("toml")[0])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_commands_of_the_page_lead_to_the_end(researcher: Path) -> None:
    commands = [shlex.split(line) for block in blocks("sh") for line in block.splitlines()]
    assert len(commands) == 10
    for program, verb, *arguments in commands:
        done = CliRunner().invoke(APPS[program], [verb, *arguments, *ADDED.get(verb, [])])
        assert done.exit_code == 0, (program, verb, arguments, done.output[-2000:], done.exception)
    assert (researcher / "evaluation" / "evaluation.html").is_file()
    manifest = json.loads((researcher / "bundle" / "manifest.json").read_text())
    assert set(manifest["metrics"]) == {"learnt_from"}  # the page measures on the labels it trained on, and says so
    assert list((researcher / "graded").rglob("report.html"))
