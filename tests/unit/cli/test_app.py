"""Errors become one line and an exit code; what needs no torch does not load it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stenosis_node import __version__
from stenosis_node.cli.outcome import ExitCode, NotFound, PeerUnreachable, exit_code
from stenosis_node.errors import BundleError, ConfigError, LeaseLost, NodeError, PermanentError, TransientError
from stenosis_node.jobs import JobStore
from tests.unit.cli.conftest import Run

HEAVY = ("torch", "torchvision", "pynetdicom", "pydicom", "highdicom")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 2),
        (BundleError("x"), 2),
        (NotFound("x"), 3),
        (PeerUnreachable("x"), 4),
        (TransientError("x"), 1),
        (PermanentError("x"), 1),
        (LeaseLost("x"), 1),
    ],
)
def test_exit_code_of_each_error(error: NodeError, code: int) -> None:
    assert exit_code(error) == code


@pytest.mark.parametrize(
    "arguments",
    [["jobs"], ["job", "1"], ["retry", "1"], ["cancel", "1"], ["serve"], ["probe", "pacs"]],
    ids=lambda a: a[0],
)
def test_without_a_configuration_each_verb_says_how_to_make_one(run: Run, arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.code == ExitCode.CONFIGURATION
    assert done.out == ""
    assert done.err.startswith("stenosis-node: no configuration")
    assert "stenosis-node init" in done.err
    assert done.err.count("\n") == 1


def test_a_broken_configuration_names_each_key(run: Run, config: Path) -> None:
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("timeout_s", "timout_s") + "\n[report]\nseries_number = 0\n", encoding="utf-8")
    done = run("jobs", "-c", config)
    assert done.code == 2
    assert "peers.pacs.timout_s: unknown key" in done.err
    assert "report.series_number" in done.err


def test_not_toml(run: Run, config: Path) -> None:
    config.write_text("spool = ", encoding="utf-8")
    done = run("jobs", "-c", config)
    assert done.code == 2
    assert "not valid TOML" in done.err


def test_a_named_configuration_that_is_missing(run: Run) -> None:
    done = run("jobs", "--config", "gone.toml")
    assert done.code == 2
    assert "gone.toml: no such file" in done.err


def test_the_configuration_may_come_from_the_variable_or_the_folder(
    spawn: Run, config: Path, store: JobStore, tmp_path: Path
) -> None:
    by_folder = spawn("jobs")
    assert (by_folder.code, by_folder.err) == (0, "no jobs\n")
    other = tmp_path / "other.toml"
    config.rename(other)
    assert spawn("jobs").code == 2
    assert spawn("jobs", STENOSIS_NODE_CONFIG=str(other)).code == 0
    from_environment = {"STENOSIS_NODE__SPOOL": "spool", "STENOSIS_NODE__GRADING__BUNDLE": "bundle"}
    assert spawn("jobs", **from_environment).code == 0


def test_no_database_yet_is_said_and_none_is_made(run: Run, config: Path, tmp_path: Path) -> None:
    done = run("jobs", "-c", config)
    assert done.code == 0
    assert "no job database yet" in done.err
    assert not (tmp_path / "spool" / "jobs.db").exists()


def test_debug_shows_the_traceback(spawn: Run) -> None:
    done = spawn("--debug", "jobs")
    assert "Traceback" in done.err
    assert "ConfigError: no configuration" in done.err


def test_usage_errors_give_2(run: Run) -> None:
    assert run("job").code == 2
    assert run("jobs", "--limit", "0").code == 2
    assert run("grad").code == 2
    assert run("jobs", "--jason").code == 2


def test_version_needs_no_configuration(run: Run) -> None:
    done = run("--version")
    assert (done.code, done.out) == (0, f"stenosis-node {__version__}\n")


def test_help_names_every_verb_and_the_exit_codes(run: Run) -> None:
    out = " ".join(run("--help").out.split())
    for word in ("serve", "grade", "jobs", "retry", "cancel", "probe", "doctor", "init", "version", "130 interrupted"):
        assert word in out


@pytest.mark.parametrize("arguments", [["--help"], ["jobs", "-c", "node.toml"], ["init", "--help"]], ids=str)
def test_quick_verbs_load_no_heavy_library(config: Path, store: JobStore, arguments: list[str]) -> None:
    program = (
        "import sys\nfrom stenosis_node.cli import main\ntry:\n    main()\nexcept SystemExit as end:\n"
        f"    print(sorted(set({HEAVY!r}) & set(sys.modules)), end.code, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr.splitlines()[-1] == "[] 0"


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["text", "json"])
def test_a_reader_that_goes_away_ends_it_quietly(config: Path, filled: JobStore, form: list[str]) -> None:
    command = [sys.executable, "-m", "stenosis_node", "jobs", "--follow", "-c", str(config), *form]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        filled.cancel(5)
        code = process.wait(timeout=20)
        assert (code, process.stderr.read()) == (1, "")


def test_sigterm_ends_a_verb(config: Path, filled: JobStore) -> None:
    command = [sys.executable, "-m", "stenosis_node", "jobs", "--follow", "-c", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) in (-signal.SIGTERM, 143)
