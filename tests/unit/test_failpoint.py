from __future__ import annotations

import ast
import signal
import subprocess
import sys
from pathlib import Path

import stenosis_node
from stenosis_node.failpoint import POINTS, VARIABLE


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


def test_the_registry_names_every_place_and_nothing_else() -> None:
    called: set[str] = set()
    for path in Path(stenosis_node.__file__).parent.rglob("*.py"):
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            match called_as(call), call.args:
                case "failpoint", [ast.Constant(value=str(name))]:
                    called.add(name)
                case "_writing" | "_writing_often", [ast.Constant(value=str(step))]:
                    called |= {f"jobs.{step}.written", f"jobs.{step}.committed"}
                case "_temporary" | "Temporary", [ast.Constant(value=str(kind)), *_]:
                    called |= {f"spool.{kind}.{step}" for step in ("written", "flushed", "named", "durable")}

    of_a_trial = {name for name in called if name.startswith("spool.trial.")}  # it is never written to
    assert called - of_a_trial == POINTS


def called_as(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
