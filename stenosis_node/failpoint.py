"""Named places where a test may end or hang a process. Inert unless ``STENOSIS_NODE_FAILPOINT`` names a folder.

A test arms a place by writing a file of its name into that folder; the file says what happens, and how often:

    self [times]    this process gets SIGKILL
    serve [times]   the process that started it gets SIGKILL
    hang [times]    the calling thread never goes on

Each hit takes one off the count, durably and before it takes effect; the last one removes the file.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from pathlib import Path
from typing import Final

VARIABLE: Final = "STENOSIS_NODE_FAILPOINT"

log = logging.getLogger("stenosis_node.failpoint")


def failpoint(name: str) -> None:
    """Do what a test armed here; nothing in a node that is not under test."""
    folder = os.environ.get(VARIABLE)
    if folder:
        _hit(Path(folder) / name)


def _hit(armed: Path) -> None:
    try:
        action, *times = armed.read_text(encoding="ascii").split()
    except FileNotFoundError:
        return
    left = int(times[0]) - 1 if times else 0
    if left:
        part = armed.with_suffix(".part")
        part.write_text(f"{action} {left}", encoding="ascii")
        part.replace(armed)
    else:
        armed.unlink()
    log.warning("failpoint %s: %s", armed.name, action, extra={"event": "failpoint"})
    match action:
        case "self":
            os.kill(os.getpid(), signal.SIGKILL)
        case "serve":
            os.kill(os.getppid(), signal.SIGKILL)
        case "hang":
            threading.Event().wait()
        case _:
            raise ValueError(f"failpoint {armed.name}: no action {action!r}")
