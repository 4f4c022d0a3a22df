"""What the documentation promises is there, and what is there is documented."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel

import stenosis_node
from stenosis_node.cli.app import app
from stenosis_node.cli.init import render
from stenosis_node.cli.outcome import ExitCode
from stenosis_node.config import Config, Peer, load
from training.cli import app as train_app

ROOT = Path(__file__).parents[2]
NODE_TOML = ROOT / "deploy" / "node.toml"
GROUP: Any = typer.main.get_command(app)
TRAIN: Any = typer.main.get_command(train_app)


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


# --------------------------------------------------------------------------- command line


def sections(text: str) -> dict[str, str]:
    """First word of each ``##`` heading to the text below it."""
    parts = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    return {part.split()[0].strip("`[]:"): part for part in parts}


CLI = sections(read("docs/cli.md"))
TRAIN_CLI = sections(read("docs/train-cli.md"))


@pytest.mark.parametrize(("page", "group"), [(CLI, GROUP), (TRAIN_CLI, TRAIN)], ids=["node", "train"])
def test_every_verb_has_a_section_and_every_section_a_verb(page: dict[str, str], group: Any) -> None:
    assert list(page) == list(group.commands)


def documented(section: str) -> set[str]:
    """Options in the first column of its tables."""
    table = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {option for cell in table for option in re.findall(r"--?[a-z][a-z-]*", cell)}


def options_of(command: Any) -> set[str]:
    """Every spelling of its options."""
    return {
        option
        for parameter in command.params
        if parameter.param_type_name == "option" and parameter.name != "help"
        for option in (*parameter.opts, *parameter.secondary_opts)
    }


@pytest.mark.parametrize("verb", sorted(GROUP.commands))
def test_every_option_of_a_verb_is_documented_and_no_other(verb: str) -> None:
    assert documented(CLI[verb]) == options_of(GROUP.commands[verb])


@pytest.mark.parametrize("verb", sorted(TRAIN.commands))
def test_every_option_of_training_is_documented_and_no_other(verb: str) -> None:
    assert documented(TRAIN_CLI[verb]) == options_of(TRAIN.commands[verb])


@pytest.mark.parametrize("verb", sorted(set(GROUP.commands) - {"serve", "init"}))
def test_each_verb_that_prints_has_json(verb: str) -> None:
    assert "--json" in {option for parameter in GROUP.commands[verb].params for option in parameter.opts}


def test_exit_codes_are_documented() -> None:
    table = re.findall(r"^\| (\d+) \|", read("docs/cli.md"), flags=re.MULTILINE)
    assert [int(code) for code in table] == sorted(ExitCode)


# --------------------------------------------------------------------------- configuration


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and default of every key; peers as ``peers.NAME``."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if name == "peers":
            yield from keys(Peer, "peers.NAME.")
        elif isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from keys(kind, f"{prefix}{name}.")
        else:
            yield prefix + name, ... if field.is_required() else field.default


KEYS = dict(keys(Config))


def documented_keys() -> dict[str, str]:
    """Dotted key to the default as docs/configuration.md gives it."""
    found = {}
    section = ""
    for line in read("docs/configuration.md").splitlines():
        if heading := re.match(r"## (?:`\[(.+)\]`|Top level)", line):
            section = f"{heading[1]}." if heading[1] else ""
        elif row := re.match(r"\| `(\w+)` \| (.+?) \|", line):
            found[section + row[1]] = row[2].strip("`")
    return found


def test_every_key_is_documented_with_its_default() -> None:
    said = documented_keys()
    assert said.keys() == KEYS.keys()
    for key, default in KEYS.items():
        if default is ...:
            assert said[key] == "required", key
        elif default is None:
            assert said[key] == "not set", key
        else:
            (value,) = tomllib.loads(f"x = {said[key]}").values()
            assert value == (list(default) if isinstance(default, tuple) else default), key


def test_node_toml_loads_with_nothing_but_defaults() -> None:
    config = load(NODE_TOML)
    for key, default in KEYS.items():
        if default is not ... and not key.startswith("peers."):
            assert value_of(config.model_dump(), key) == default, key


def test_node_toml_shows_every_key_with_its_default(tmp_path: Path) -> None:
    uncommented = tmp_path / "node.toml"
    uncommented.write_text(
        re.sub(r"^# (?=\[?[a-z_.]+\]?( = |$))", "", NODE_TOML.read_text(encoding="utf-8"), flags=re.MULTILINE),
        encoding="utf-8",
    )
    load(uncommented)
    tree = tomllib.loads(uncommented.read_text(encoding="utf-8"))
    peers = tree["peers"]
    # no peer can have every key
    tree["peers"] = {"NAME": {**peers["cloud"], **peers["web"], **peers["secure"], **peers["pacs"]}}
    shown = dict(leaves(tree))
    assert shown.keys() == KEYS.keys()
    for key, default in KEYS.items():
        if default is not ... and default is not None:
            assert shown[key] == (list(default) if isinstance(default, tuple) else default), key


def test_each_key_in_node_toml_has_a_comment_above_it() -> None:
    lines = NODE_TOML.read_text(encoding="utf-8").splitlines()
    for above, line in pairwise(lines):
        if re.match(r"(# )?[a-z_]+ = ", line):
            assert above.startswith("#") or re.match(r"[a-z_]+ = ", above), line


def test_node_toml_is_what_init_writes() -> None:
    made = render(
        bundle=Path("/opt/stenosis-node/bundles/phantom-1"), spool=Path("/var/lib/stenosis-node"),
        ae_title="STENOSIS", host="127.0.0.1", port=11112, peers=[],
    )  # fmt: skip
    assert NODE_TOML.read_text(encoding="utf-8") == made


def value_of(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree[part]
    return tree


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


# --------------------------------------------------------------------------- README, links, public API


def commands(text: str) -> list[str]:
    blocks = re.findall(r"^```(?:\w*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [line.split("#")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "docs/decisions/*.md")
    for path in ROOT.glob(pattern)
)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_make_target_that_is_named_exists(document: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), flags=re.MULTILINE))
    named = {name for line in commands(read(document)) for name in re.findall(r"\bmake ([a-z]+)", line)}
    named |= set(re.findall(r"`make ([a-z]+)`", read(document)))
    assert named <= targets


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_verb_and_option_that_is_named_exists(document: str) -> None:
    text = read(document)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for line in (*commands(text), *re.findall(r"`([^`\n]+)`", prose)):
        for verb, rest in re.findall(r"(?<![\"\w])stenosis-node (?!stenosis-)([a-z]+)([^|&;]*)", line):
            assert verb in GROUP.commands, line
            options = {option for parameter in GROUP.commands[verb].params for option in parameter.opts} | {"--help"}
            assert set(re.findall(r"(?<!\S)--[a-z-]+", rest)) <= options, line


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_inside_the_repository_lead_somewhere(document: str) -> None:
    folder = (ROOT / document).parent
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", read(document))
    missing = [
        link for link in links if "://" not in link and not link.startswith("mailto:") and not (folder / link).exists()
    ]
    assert missing == []


def test_the_readme_names_size_and_download_before_the_first_command() -> None:
    before = read("README.md").split("```")[0]
    assert "GB" in before
    assert "download" in before


def test_public_api_is_what_is_visible() -> None:
    program = (
        "import stenosis_node, types\n"
        "print(sorted(n for n, v in vars(stenosis_node).items() if not n.startswith('_') and n != 'annotations'"
        " and not isinstance(v, types.ModuleType)))"
    )
    seen = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    public = sorted(name for name in stenosis_node.__all__ if not name.startswith("_"))
    assert seen.strip() == str(public)
    for name in stenosis_node.__all__:
        assert hasattr(stenosis_node, name)
