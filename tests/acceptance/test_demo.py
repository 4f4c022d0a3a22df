"""``make demo`` as a newcomer runs it, and on a machine without Orthanc and DCMTK; and what Ctrl-C leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]


def command(output: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "deploy.demo", "--output", str(output), *options]


def processes_of(output: Path) -> list[psutil.Process]:
    """Everything whose command line names the folder, or that such a process started."""
    named = [p for p in psutil.process_iter() if str(output) in " ".join(_command_line(p))]
    return named + [child for p in named for child in p.children(recursive=True)]


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for the demos that come to their end: the second finds what the first has left."""
    return tmp_path_factory.mktemp("demo") / "output"


def run_whole(output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """A demo that comes to its end, whatever it says of the grades."""
    done = subprocess.run(command(output, *options), cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert (output / "report.html").stat().st_size > 100_000, done.stdout[-4000:] + done.stderr[-2000:]
    assert processes_of(output) == []
    pictures, files = list((output / "images").glob("*.png")), list((output / "dicom").glob("*.dcm"))
    assert len(files) == len(pictures) + 1 > 2
    assert "Traceback" not in (output / "serve.log").read_text(encoding="utf-8")
    return done


def test_the_demo_is_within_the_margins_also_without_orthanc_and_dcmtk(output: Path) -> None:
    done = run_whole(output, "--plain")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "within the margins" in done.stdout


def test_with_what_is_installed_it_fails_when_the_grades_are_wrong(output: Path, bundle: Path) -> None:
    """Into the same folder again."""
    done = run_whole(output, "--bundle", str(bundle))
    assert done.returncode == 1, done.stdout[-4000:] + done.stderr[-2000:]
    assert "outside the margins" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_interrupted_it_ends_everything_it_started(tmp_path: Path, bundle: Path, number: signal.Signals) -> None:
    output = tmp_path / "demo"
    with subprocess.Popen(
        command(output, "--bundle", str(bundle)), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stdout is not None
        while "sent sample_series" not in demo.stdout.readline():
            assert demo.poll() is None
        assert len(processes_of(output)) > 3
        os.kill(demo.pid, number)
        out, err = demo.communicate(timeout=60)
    assert demo.returncode == 130, out + err
    assert "Traceback" not in err
    deadline = time.monotonic() + 10
    while processes_of(output) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes_of(output) == []


def test_a_folder_that_is_not_a_demos_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine", encoding="utf-8")
    done = subprocess.run(command(tmp_path), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "not a demo's" in done.stdout
    assert (tmp_path / "precious.txt").read_text(encoding="utf-8") == "mine"
