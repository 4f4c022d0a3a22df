"""The gates guard what they say: same commands everywhere, hooks that match files, locked packages, import layers."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
LOCK = ROOT / "requirements" / "lock.txt"


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def hooks() -> list[dict[str, Any]]:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (repo,) = config["repos"]
    found: list[dict[str, Any]] = repo["hooks"]
    return found


def recipe(target: str) -> list[str]:
    """Commands of a Makefile target, with ``$(BIN)`` as a user sees it."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    match = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", text, flags=re.MULTILINE)
    assert match is not None, target
    return [line.strip().lstrip("@").replace("$(BIN)", ".venv/bin") for line in match[1].splitlines()]


def test_pre_commit_runs_what_make_check_runs() -> None:
    assert [hook["entry"] for hook in hooks()] == recipe("check")


def test_ci_runs_make_check_and_make_test() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert {"make check", "make test"} <= set(script)


@pytest.mark.parametrize("hook", hooks(), ids=lambda hook: hook["id"])
def test_each_hook_matches_the_files_it_is_for(hook: dict[str, Any]) -> None:
    matched = [name for name in tracked() if re.search(hook["files"], name)]
    checked = ("stenosis_node/", "training/") if hook["id"] in ("mypy", "lint-imports") else ("",)
    python = [name for name in tracked() if name.endswith(".py") and name.startswith(checked)]
    assert set(python) <= set(matched)
    assert "pyproject.toml" in matched
    assert len(python) > 30


def test_imports_point_inward() -> None:
    done = subprocess.run([BIN / "lint-imports", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("name", ["lock.txt", "bootstrap.txt"])
def test_the_lock_pins_every_package_with_hashes_and_no_url(name: str) -> None:
    text = (LOCK.parent / name).read_text(encoding="utf-8")
    assert "://" not in text
    assert "/tmp" not in text
    requirements = [r for r in re.split(r"\n(?=[a-z0-9])", text.strip(), flags=re.IGNORECASE) if not r.startswith("#")]
    assert requirements
    for requirement in requirements:
        assert re.match(r"[A-Za-z0-9._-]+==\S+", requirement), requirement
        assert "--hash=sha256:" in requirement, requirement


def test_the_lock_holds_what_pyproject_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    pins: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", LOCK.read_text(encoding="utf-8"), re.MULTILINE):
        pins.setdefault(normal(name), set()).add(version)
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    wanted += [r for extra in project["project"]["optional-dependencies"].values() for r in extra]
    wanted += project["build-system"]["requires"]
    for text in wanted:
        requirement = Requirement(text)
        assert normal(requirement.name) in pins, text
        assert all(version in requirement.specifier for version in pins[normal(requirement.name)]), text


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


SECRET_PLACES = re.compile(r"(?<![\w.])/(home|Users|root|work)/[\w-]+|C:\\Users", re.ASCII)


def test_no_file_names_a_place_on_the_machine_of_its_author() -> None:
    here = Path(__file__).relative_to(ROOT).as_posix()
    found = []
    for name in tracked():
        if name == here:
            continue
        content = (ROOT / name).read_bytes()
        if b"\0" not in content[:4096] and SECRET_PLACES.search(content.decode("utf-8", "replace")):
            found.append(name)
    assert found == []


def test_the_tree_stays_small() -> None:
    size = sum((ROOT / name).stat().st_size for name in tracked())
    assert size < 55_000_000
