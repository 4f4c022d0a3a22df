"""How a process of the node is asked to end, and how a child notices that it was left alone."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from types import FrameType
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM or SIGINT sets. Call it in the main thread, once per process.

    The interpreter writes the number of a signal to a pipe at once, whatever the main thread is busy with, and a thread
    reads it there. A handler could not set the event: it runs in the main thread, maybe just while that holds the lock
    of the event. Blocking the signals does not do either: libraries have started threads before that do not block them.
    """
    stop = threading.Event()
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _ignore)

    def wait() -> None:
        os.read(read_end, 1)
        stop.set()

    threading.Thread(target=wait, name="signals", daemon=True).start()
    return stop


def _ignore(number: int, frame: FrameType | None) -> None:
    """Not SIG_IGN: only a signal with a handler reaches the pipe."""


def stop_with_parent(stop: threading.Event) -> None:
    """Set ``stop`` when stdin ends, which it does when the parent closes its end of the pipe, or dies.

    On Linux the kernel kills this process as well when the parent dies: a thread cannot help a process that hangs.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def wait() -> None:
        while sys.stdin.buffer.read(4096):
            pass
        stop.set()

    threading.Thread(target=wait, name="parent", daemon=True).start()
