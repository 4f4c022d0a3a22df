from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from stenosis_node.failpoint import VARIABLE


def run(folder: Path | None, name: str = "there") -> subprocess.CompletedProcess[str]:
    code = f"from stenosis_node.failpoint import failpoint; failpoint({name!r}); print('went on')"
    environment = {} if folder is None else {VARIABLE: str(folder)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)


def test_it_is_inert_without_the_variable_and_where_nothing_is_armed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("self")

    assert run(None).stdout == "went on\n"
    assert run(tmp_path).stdout == "went on\n"
    assert (tmp_path / "elsewhere").exists()


def test_an_armed_one_kills_as_often_as_it_says(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("self 2")

    assert run(tmp_path).returncode == -signal.SIGKILL
    assert run(tmp_path).returncode == -signal.SIGKILL
    assert run(tmp_path).stdout == "went on\n"
    assert list(tmp_path.iterdir()) == []
