"""How a process of the node is asked to end, and how a child notices that it was left alone."""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM or SIGINT sets. Call it before the process has threads.

    The signals are blocked and taken by a thread: a handler would run in the main thread, maybe just while that one
    holds the lock of the event. Processes started later inherit the blocked signals and are expected to call this too.
    """
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    stop = threading.Event()

    def wait() -> None:
        signal.sigwait(signals)
        stop.set()

    threading.Thread(target=wait, name="signals", daemon=True).start()
    return stop


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
