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


DURABLE = frozenset(
    (
        *("write", "writev", "pwrite", "sendfile", "write_text", "write_bytes", "mkdir", "commit"),
        *("fsync", "fdatasync"),
        *("rename", "replace", "link", "unlink", "rmdir", "rmtree", "sendall", "send_c_store", "send_c_find"),
        *("send_c_get", "send_c_move", "send_n_action", "send_n_event_report", "store_instances"),
    )
)
"""Names of what writes, makes durable, renames, deletes, commits or sends."""
NOT_OF_THE_NODE = ("cli", "grading", "series", "wire", "failpoint.py")
"""What an administrator asked to be written, a bundle that is being made, and what stays in memory or a pipe."""
WITHOUT = {
    "audit/journal.py _write": "append has one after it",
    "deliver/storing.py store": "deliver.stored, for every protocol",
    "deliver/web.py store": "deliver.stored, for every protocol",
    "jobs/database.py _configure_postgresql": "settings of a connection: nothing is written",
    "node/auditing.py _sweep": "what a crash left of a file that nobody was told of",
    "node/supervisor.py _start": "the pipe to a child",
    "query/finding.py _answers": "check.asked, when everything is found",
    "receive/fast_path.py _negotiate": "an association is not remembered",
    "receive/fast_path.py _abort": "an association is not remembered",
    "receive/fast_path.py _serve_control": "an association is not remembered",
    "receive/fast_path.py _add_command": "the answer to C-ECHO",
    "spool/files.py append": "Temporary.write and Arriving.append have one after it",
    "spool/files.py close": "a file that nobody was told of",
    "spool/files.py flush_folder": "whoever calls it has one after it",
    "spool/files.py rename_folder": "Spool.put_documents has one after it",
    "spool/files.py _link": "Temporary.name has one after it",
    "spool/store.py put": "of Temporary.write, which has its own",
    "spool/store.py quarantine": "of Temporary.write, which has its own",
    "spool/store.py _publish_quarantined": "of Temporary.write, which has its own",
}
"""Functions that do and have no failpoint, and why."""


def test_whatever_writes_or_sends_has_a_failpoint() -> None:
    without: set[str] = set()
    root = Path(stenosis_node.__file__).parent
    for path in root.rglob("*.py"):
        where = path.relative_to(root)
        if where.parts[0] in NOT_OF_THE_NODE:
            continue
        for function in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)):
            calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
            names = {called_as(call) for call in calls if called_as(call) != "replace" or renames(call)}
            if names & DURABLE and "failpoint" not in names:
                without.add(f"{where.as_posix()} {function.name}")

    assert without == WITHOUT.keys()


def renames(call: ast.Call) -> bool:
    """Whether ``replace`` is that of a path: texts have two arguments, times and dataclasses have names."""
    return isinstance(call.func, ast.Attribute) and len(call.args) == 1 and not call.keywords


def called_as(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
