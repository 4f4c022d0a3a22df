"""init writes what the node accepts, and never over a file by accident."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stenosis_node.cli.app import app
from stenosis_node.config import load
from stenosis_node.errors import ConfigError
from stenosis_node.grading.manifest import read_manifest
from stenosis_node.node.checks import check_bundle
from tests.unit.cli.conftest import Run

PHANTOM_BUNDLE = Path(__file__).parents[3] / "deploy" / "bundles" / "phantom-1"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}", encoding="utf-8")
    return folder


def test_it_writes_a_configuration_that_loads(run: Run, bundle: Path) -> None:
    done = run("init", "--bundle", bundle, "--spool", "store", "--ae-title", "LUMBAR", "--port", 104, "--host", "::")
    assert done.code == 0
    config = load(Path("node.toml"))
    assert config.grading.bundle == bundle
    assert config.spool.name == "store"
    assert (config.receive.ae_title, config.receive.port, config.receive.host) == ("LUMBAR", 104, "::")
    assert config.peers == {}


def test_it_is_held_to_the_bundle_as_it_is(run: Run, tmp_path: Path) -> None:
    bundle = tmp_path / "mine"
    shutil.copytree(PHANTOM_BUNDLE, bundle)
    assert run("init", "--bundle", bundle).code == 0
    config = load(Path("node.toml"))
    assert config.grading.bundle_digest == read_manifest(bundle).digest()
    assert run("version").code == 0

    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    (bundle / "manifest.json").write_text(json.dumps(manifest | {"version": "9"}), encoding="utf-8")
    with pytest.raises(ConfigError, match="digest"):
        check_bundle(config)


def test_peers(run: Run, bundle: Path) -> None:
    wanted = ("--peer", "pacs=PACS 1@10.0.0.5:104", "--peer", "second=B@[::1]:11112")
    done = run("init", "--bundle", bundle, *wanted, "-o", "a/b.toml")
    assert done.code == 0
    peers = load(Path("a/b.toml")).peers
    assert {name: (p.ae_title, p.host, p.port) for name, p in peers.items()} == {
        "pacs": ("PACS 1", "10.0.0.5", 104),
        "second": ("B", "::1", 11112),
    }


def test_what_a_pacs_needs_beside_its_address_is_said(run: Run, bundle: Path) -> None:
    pacs = ("--peer", "pacs=PACS@10.0.0.5:104", "--force")
    assert "give --host 0.0.0.0 if pacs shall route studies" in run("init", "--bundle", bundle, *pacs).out
    assert "May send: pacs, from its own host" in run("init", "--bundle", bundle, *pacs, "--host", "0.0.0.0").out
    closed = run("init", "--bundle", bundle, "--force", "--host", "0.0.0.0")
    assert closed.code == 0
    assert "serve refuses this configuration: receive.host: others can reach 0.0.0.0" in closed.err
    assert run("init", "--bundle", bundle, "--force").err == ""


def test_every_comment_of_the_defaults_stays(run: Run, bundle: Path) -> None:
    run("init", "--bundle", bundle)
    text = Path("node.toml").read_text(encoding="utf-8")
    assert "# quiet_period_s = 180" in text
    assert "# [peers.pacs]" in text


def test_an_existing_file_is_kept_unless_forced(run: Run, bundle: Path) -> None:
    Path("node.toml").write_text("mine", encoding="utf-8")
    done = run("init", "--bundle", bundle)
    assert done.code == 2
    assert "--force" in done.err
    assert Path("node.toml").read_text(encoding="utf-8") == "mine"
    assert run("init", "--bundle", bundle, "--force").code == 0
    assert load(Path("node.toml")).grading.bundle == bundle


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "99999"], "receive.port"),
        (["--ae-title", "SEVENTEEN-LETTERS"], "receive.ae_title"),
        (["--peer", "pacs"], "NAME=AE_TITLE@HOST:PORT"),
        (["--peer", "pacs=PACS@host:0"], "peers.pacs.port"),
        (["--peer", "a=A@h:1", "--peer", "a=A@h:1"], "a=A@h:1"),
    ],
)
def test_what_the_node_would_refuse_is_never_written(run: Run, bundle: Path, arguments: list[str], said: str) -> None:
    done = run("init", "--bundle", bundle, *arguments)
    assert done.code == 2
    assert said in done.err
    assert not Path("node.toml").exists()


def test_a_folder_without_manifest_is_no_bundle(run: Run, tmp_path: Path) -> None:
    done = run("init", "--bundle", tmp_path)
    assert done.code == 2
    assert "manifest.json" in done.err


def test_without_a_terminal_the_bundle_must_be_named(run: Run) -> None:
    done = run("init")
    assert done.code == 2
    assert "--bundle" in done.err


def test_on_a_terminal_it_asks(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stenosis_node.cli.init.is_terminal", lambda: True)
    done = CliRunner().invoke(app, ["init"], input=f"{bundle}\n")
    assert done.exit_code == 0
    assert load(Path("node.toml")).grading.bundle == bundle


def test_a_demonstration_bundle_with_a_remote_peer_is_written_with_a_warning(run: Run, weights: Path) -> None:
    done = run("init", "--bundle", weights, "--peer", "pacs=PACS@192.0.2.1:104")
    assert done.code == 0
    assert "safety.allow_demonstration_delivery = true" in done.err
    text = Path("node.toml").read_text(encoding="utf-8")
    before, _, _ = text.partition("# allow_demonstration_delivery = false")
    assert "peers.pacs" in before.splitlines()[-1]
    assert load(Path("node.toml")).safety.allow_demonstration_delivery is False


def test_a_demonstration_bundle_with_a_peer_here_needs_no_warning(run: Run, weights: Path) -> None:
    done = run("init", "--bundle", weights, "--peer", "pacs=PACS@127.0.0.1:104")
    assert (done.code, done.err) == (0, "")
