"""One TOML file, the environment over it, and errors that name the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from stenosis_node.config import Config, load
from stenosis_node.errors import ConfigError

GOOD = """
spool = "spool"

[grading]
bundle = "bundles/phantom-1"

[peers.pacs]
ae_title = "ORTHANC"
host = "127.0.0.1"
port = 4242
"""


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in os.environ:
        if name.startswith("STENOSIS_NODE__"):
            monkeypatch.delenv(name)


def _write(folder: Path, text: str) -> Path:
    path = folder / "node.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    config = load(_write(tmp_path, GOOD))
    assert config.spool == tmp_path / "spool"
    assert config.grading.bundle == tmp_path / "bundles" / "phantom-1"
    assert config.database_url == f"sqlite:///{tmp_path / 'spool' / 'jobs.db'}"
    assert config.peers["pacs"].is_loopback


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (('spool = "spool"', ""), "spool"),
        (('bundle = "bundles/phantom-1"', ""), "grading.bundle"),
        (("port = 4242", "port = 70000"), "peers.pacs.port"),
        (("port = 4242", 'port = 4242\ncolour = "red"'), "peers.pacs.colour"),
        (('ae_title = "ORTHANC"', 'ae_title = "A_TITLE_FAR_TOO_LONG"'), "peers.pacs.ae_title"),
        (("[peers.pacs]", "[recieve]\nport = 1\n\n[peers.pacs]"), "recieve"),
        (("[peers.pacs]", '[peers."two words"]'), "peers.two words"),
    ],
)
def test_every_fault_names_its_key(tmp_path: Path, change: tuple[str, str], key: str) -> None:
    path = _write(tmp_path, GOOD.replace(*change))
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert key in str(caught.value)
    assert str(path) in str(caught.value)


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    broken = GOOD.replace("port = 4242", "port = 0").replace('spool = "spool"', "")
    with pytest.raises(ConfigError) as caught:
        load(_write(tmp_path, broken))
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("text", ["spool = ", "\x00", "[[["])
def test_broken_toml_is_a_sentence(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"not valid TOML"):
        load(_write(tmp_path, text))


def test_missing_file_names_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="stenosis-node init"):
        load(tmp_path / "absent.toml")


def test_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STENOSIS_NODE__RECEIVE__PORT", "11999")
    monkeypatch.setenv("STENOSIS_NODE__PEERS__PACS__PORT", "4243")
    config = load(_write(tmp_path, GOOD))
    assert config.receive.port == 11999
    assert config.receive.ae_title == "STENOSIS"
    assert config.peers["pacs"].port == 4243
    assert config.peers["pacs"].ae_title == "ORTHANC"


def test_an_unknown_variable_is_an_error_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STENOSIS_NODE__RECEIVE__PROT", "11999")
    with pytest.raises(ConfigError, match="STENOSIS_NODE__RECEIVE__PROT"):
        load(_write(tmp_path, GOOD))


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("STENOSIS_NODE__RECEIVE__PORT", "abc"),
        ("STENOSIS_NODE__PEERS__PACS__PORT", "0"),
        ("STENOSIS_NODE__LOG_LEVEL", "LOUD"),
        ("STENOSIS_NODE__RECEIVE", '{"port": 0}'),
        ("STENOSIS_NODE__RECEIVE", "abc"),
        ("STENOSIS_NODE__RECEIVE__CALLING_AE_TITLES", "abc"),
        ("STENOSIS_NODE__RECEIVE__CALLING_AE_TITLES", '["A\\\\B"]'),
    ],
)
def test_a_bad_value_of_the_environment_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    path = _write(tmp_path, GOOD)
    with pytest.raises(ConfigError) as raised:
        load(path)
    assert str(raised.value).startswith(f"{variable}: ")
    assert str(path) not in str(raised.value)


def test_the_configuration_is_frozen(tmp_path: Path) -> None:
    config = load(_write(tmp_path, GOOD))
    with pytest.raises(ValueError, match="frozen"):
        config.receive.port = 1  # type: ignore[misc]
    assert isinstance(config, Config)
