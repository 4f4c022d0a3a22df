"""The file of the audit stream: one message a line, appended by several processes, readable by the node's user alone.

Whoever appends holds a lock on the file, writes whole lines, and flushes them to the disk. A file that was renamed
(logrotate) is noticed under the lock and the next one made; nothing is ever written to the old one after that.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from stenosis_node.failpoint import failpoint

MODE: Final = 0o600


class Journal:
    """Appends lines to a file. Threads and processes may share the path."""

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        self._lock = threading.Lock()

    def append(self, lines: Sequence[str]) -> None:
        """Write these lines, all or none; they are on the disk when this returns. Raises OSError."""
        text = "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")
        with self._lock, self._held() as file:
            size = os.fstat(file).st_size
            if size and os.pread(file, 1, size - 1) != b"\n":  # somebody was killed inside a line
                text = b"\n" + text
            try:
                _write(file, text)
                failpoint("audit.written")
                os.fsync(file)
                failpoint("audit.flushed")
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(file, size)
                raise

    def check(self) -> None:
        """OSError when nothing could be appended now, as far as can be told without doing it."""
        with self._lock, self._held():
            pass

    @contextmanager
    def _held(self) -> Iterator[int]:
        """The file that has the name now, locked."""
        while True:
            file = self._open()
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                if _is_still(file, self.path):
                    yield file
                    return
            finally:
                os.close(file)  # ends the lock too

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        with contextlib.suppress(FileNotFoundError):
            return _private(os.open(self.path, flags))
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(self.path, flags | os.O_CREAT, MODE)
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if os.geteuid() == 0:  # an administrator's command: the node itself must be able to append too
                owner = os.fstat(folder)
                os.fchown(file, owner.st_uid, owner.st_gid)
            os.fsync(folder)
            failpoint("audit.file.made")
        finally:
            os.close(folder)
        return _private(file)


def _private(file: int) -> int:
    if os.fstat(file).st_mode & 0o077:
        os.fchmod(file, MODE)
    return file


def _is_still(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _write(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]
