"""What lies in the quarantine goes by itself: after its time, and when it is too much for the disk."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from stenosis_node.failpoint import failpoint
from stenosis_node.spool.files import TEMPORARY, disk_errors, flush_folder

MOST_BYTES: Final = 10 << 30
"""The quarantine may take so much, and less on a small disk."""
MOST_OF_DISK: Final = 0.1
"""The quarantine may take this part of its disk."""
BLOCK: Final = 512
"""Unit of ``st_blocks``."""


@dataclass(slots=True)
class _Kept:
    """Bytes and the reason beside them; after a crash there may be one of the two."""

    paths: list[Path] = field(default_factory=list)
    taken: int = 0
    """Bytes of the disk."""
    since: float = 0.0
    """When the later of the two was written, in seconds since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleared:
    """What was deleted; reasons are not counted."""

    expired: int
    crowded_out: int
    """The oldest of what was too much."""
    limit_bytes: int


def quarantine_limit(root: Path) -> int:
    """Bytes of the disk that the quarantine of the spool at ``root`` may take."""
    with disk_errors("the quarantine"):
        disk = os.statvfs(root / "quarantine")
    return min(MOST_BYTES, int(MOST_OF_DISK * disk.f_blocks * disk.f_frsize))


def clear_quarantine(root: Path, *, before: datetime, limit_bytes: int | None = None) -> Cleared:
    """Delete what was put aside before a time, then the oldest until the rest takes no more than the limit.

    What is being written meanwhile is left alone.

    limit_bytes  :func:`quarantine_limit` when None
    raises       TransientError when the disk does not do it; what was deleted until then stays deleted
    """
    limit = quarantine_limit(root) if limit_bytes is None else limit_bytes
    folder = root / "quarantine"
    with disk_errors("the quarantine"):
        kept = sorted(_kept_in(folder), key=lambda one: one.since)
        taken = sum(one.taken for one in kept)
        expired: list[_Kept] = []
        crowded_out: list[_Kept] = []
        for one in kept:
            is_old = datetime.fromtimestamp(one.since, UTC) <= before
            if not is_old and taken <= limit:
                break
            (expired if is_old else crowded_out).append(one)
            taken -= one.taken
        _delete([*expired, *crowded_out])
        if expired or crowded_out:
            flush_folder(folder)
            failpoint("spool.quarantine.durable")
    return Cleared(expired=_count(expired), crowded_out=_count(crowded_out), limit_bytes=limit)


def _kept_in(folder: Path) -> Iterable[_Kept]:
    found: defaultdict[str, _Kept] = defaultdict(_Kept)
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(TEMPORARY) or not entry.name.endswith((".dcm", ".txt")):
                continue
            with suppress(FileNotFoundError):  # an administrator deleted it
                state = entry.stat(follow_symlinks=False)
                one = found[entry.name[:-4]]
                one.paths.append(Path(entry.path))
                one.taken += max(state.st_size, state.st_blocks * BLOCK)
                one.since = max(one.since, state.st_mtime)
    return found.values()


def _delete(doomed: Iterable[_Kept]) -> None:
    for one in doomed:
        for path in sorted(one.paths):  # the bytes first: no reason is lost while they are there
            path.unlink(missing_ok=True)
            failpoint("spool.quarantine.deleted")


def _count(some: Iterable[_Kept]) -> int:
    return sum(path.suffix == ".dcm" for one in some for path in one.paths)
