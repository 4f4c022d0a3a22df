"""Files and folders that are durable once written: no name yet, flush, name, flush of the folder."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from stenosis_node.errors import TransientError
from stenosis_node.failpoint import failpoint

Chunk = bytes | memoryview
"""Bytes; a memoryview is of bytes too."""
PIECES: Final = 16
PIECE_BYTES: Final = 1 << 16
"""So many chunks, or one of this size, are written together."""
TEMPORARY: Final = ".tmp-"


_OPEN_FILES: Final = "/proc/self/fd"
_HAS_OPEN_FILES: Final = Path(_OPEN_FILES).is_dir()
_NEED_NAMES: Final = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL})
"""What a file system says that has no files without a name."""
_CANNOT_NAME: Final = frozenset({errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})
"""What one says that has them and cannot give them one."""


class Temporary:
    """A file without a name (open(2), O_TMPFILE): nothing is left of it after a crash.

    Where the system has none: a temporary name.
    """

    def __init__(self, kind: str, folder: Path) -> None:
        """
        kind    names its failpoints
        folder  on the file system of the name it will have
        """
        self._kind = kind
        self._path, self._descriptor = _open_temporary(folder)
        self._folder = folder
        self._digest = hashlib.sha256()
        self._size = 0
        self._was_named = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, *chunks: Chunk) -> None:
        """Write more chunks, where the system takes them in one call."""
        size = 0
        for chunk in chunks:
            self._digest.update(chunk)
            size += len(chunk)
        self._size += size
        done = os.writev(self._descriptor, chunks)
        if done < size:
            rest = memoryview(b"".join(chunks))[done:]
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]

    def write(self, chunks: Iterable[Chunk]) -> tuple[int, str]:
        """Write the chunks and flush everything to the disk; size and sha256 of the file."""
        waiting: list[Chunk] = []
        for chunk in chunks:
            waiting.append(chunk)
            if len(waiting) == PIECES or len(chunk) >= PIECE_BYTES:
                self.append(*waiting)
                waiting.clear()
        if waiting:
            self.append(*waiting)
        failpoint(f"spool.{self._kind}.written")
        os.fsync(self._descriptor)
        failpoint(f"spool.{self._kind}.flushed")
        return self._size, self._digest.hexdigest()

    def read(self, size: int, offset: int) -> bytes:
        """Bytes that were written."""
        return os.pread(self._descriptor, size, offset)

    def name(self, path: str) -> bool:
        """Give the file its name; it is durable once its folder is flushed.

        False when the name is taken: a rename would replace what has it.
        raises  FileNotFoundError when the folder is not there
        """
        if self._was_named:
            self._copy(named=False)
        try:
            self._link(path)
        except FileExistsError:
            return False
        except OSError as error:
            if self._path is not None or error.errno not in _CANNOT_NAME:
                raise
            self._copy(named=True)
            return self.name(path)
        self._was_named = True
        failpoint(f"spool.{self._kind}.named")
        return True

    def publish(self, path: Path) -> bool:
        """Give the file its name, durably. False when the name is taken."""
        if not self.name(str(path)):
            return False
        flush_folder(path.parent)
        failpoint(f"spool.{self._kind}.durable")
        return True

    def close(self) -> None:
        """Leave nothing but what was published."""
        os.close(self._descriptor)
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _link(self, path: str) -> None:
        source = self._path or f"{_OPEN_FILES}/{self._descriptor}"  # a link there to the file: to be followed
        os.link(source, path, src_dir_fd=self._descriptor, follow_symlinks=True)

    def _copy(self, *, named: bool) -> None:
        """Go on with a copy: a file that has lost its last name never gets another."""
        path, descriptor = _open_temporary(self._folder, named=named)
        copied = 0
        while copied < self._size:
            copied += os.sendfile(descriptor, self._descriptor, copied, self._size - copied)
        os.fsync(descriptor)
        failpoint("spool.temporary.copied")
        self.close()
        self._path, self._descriptor = path, descriptor


def _open_temporary(folder: Path, *, named: bool = False) -> tuple[Path | None, int]:
    """Its temporary name if it has to have one, and its descriptor."""
    if _HAS_OPEN_FILES and not named:
        try:
            return None, os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in _NEED_NAMES:
                raise
    path = folder / f"{TEMPORARY}{secrets.token_hex(8)}"
    return path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def flush_folder(folder: Path | str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename_folder(temporary: Path, folder: Path) -> None:
    """FileExistsError when there is such a folder: renaming onto one that holds files fails."""
    try:
        temporary.rename(folder)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise FileExistsError(error.errno, error.strerror, str(folder)) from error
        raise


def write_new(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        failpoint("spool.document.written")
        os.fsync(descriptor)
        failpoint("spool.document.flushed")


def measure(path: Path) -> tuple[int, str]:
    """Size and sha256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return file.tell(), digest.hexdigest()


def nearest(path: Path) -> Path:
    """What this user can see of a path: itself, or the folder that it would be made in."""
    path = path.absolute()
    while not os.path.exists(path) and path != path.parent:  # noqa: PTH110  Path.exists raises in a folder of others
        path = path.parent
    return path


def least_free_bytes(folders: Iterable[Path]) -> int:
    """Space that is left for this user on the fullest of the disks that hold these folders. OSError without any.

    A folder that is not there yet comes to be on the disk of another.
    """
    left = []
    for folder in folders:
        with suppress(FileNotFoundError, NotADirectoryError):
            state = os.statvfs(folder)
            left.append(state.f_bavail * state.f_frsize)
    if not left:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return min(left)


class disk_errors:  # noqa: N801  used as a function
    """TransientError for what the disk refuses. A class: every instance passes through several."""

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, OSError):
            raise TransientError(f"the spool failed on {self._what}: {error.strerror or error}") from error
