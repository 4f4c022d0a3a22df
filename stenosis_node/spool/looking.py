"""Looking at a spool without making or changing anything in it."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stenosis_node.errors import TransientError
from stenosis_node.spool.documents import KEY
from stenosis_node.spool.files import TEMPORARY, disk_errors

LOCK: Final = "serve.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftovers:
    """What lies in a spool beside instances, for ``fsck``."""

    findings: tuple[str, ...]
    """Keys."""
    documents: tuple[str, ...]
    """Keys."""
    quarantined: tuple[Path, ...]
    """Relative to the root."""
    temporary: tuple[Path, ...]
    """Relative to the root: what a crash left, or what is being written now."""
    foreign: tuple[Path, ...]
    """Relative to the root: nothing that a spool writes."""


def leftovers(root: Path) -> Leftovers:
    """Look through a spool; makes nothing, not even missing folders. TransientError for what the disk refuses."""
    with disk_errors("a listing"):
        found = {name: sorted(_names(root / name)) for name in ("findings", "documents", "quarantine")}
        temporary = [root / top / name for top, names in found.items() for name in names if name.startswith(TEMPORARY)]
        for folder, folders, names in os.walk(root / "instances"):
            temporary += [Path(folder) / name for name in (*folders, *names) if name.startswith(TEMPORARY)]
    findings = {name: name.removesuffix(".json") for name in found["findings"]}
    foreign = [root / "findings" / name for name, key in findings.items() if not _is_ours(name, key)]
    foreign += [root / "documents" / name for name in found["documents"] if not _is_ours(name, name)]
    return Leftovers(
        findings=tuple(key for key in findings.values() if KEY.fullmatch(key)),
        documents=tuple(name for name in found["documents"] if KEY.fullmatch(name)),
        quarantined=tuple(Path("quarantine") / name for name in found["quarantine"] if name.endswith(".dcm")),
        temporary=tuple(path.relative_to(root) for path in sorted(temporary)),
        foreign=tuple(path.relative_to(root) for path in foreign),
    )


def instances_in(root: Path) -> Iterator[Path]:
    """Paths, relative to the root, of every instance that is kept. Makes nothing."""
    for folder, _, names in os.walk(root / "instances"):
        for name in names:
            if not name.startswith(TEMPORARY):
                yield (Path(folder) / name).relative_to(root)


def holder(root: Path) -> int | None:
    """Process that holds the spool at ``root``, None when no ``serve`` does. Makes nothing, not even the folder."""
    try:
        descriptor = os.open(root / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TransientError(
            f"{root / LOCK} cannot be read ({error.strerror}): run the command as the user of the node"
        ) from error
    try:
        return None if lock(descriptor, fcntl.LOCK_SH) else owner(descriptor)
    finally:
        os.close(descriptor)


def lock(descriptor: int, kind: int, *, tries: int = 1) -> bool:
    for attempt in range(tries):
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return True
        if attempt + 1 < tries:
            time.sleep(0.05)
    return False


def owner(descriptor: int) -> int:
    """Process that wrote itself into the lock file; 0 when it has not come to it yet."""
    text = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
    return int(text) if text.isdecimal() else 0


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def _is_ours(name: str, key: str) -> bool:
    return name.startswith(TEMPORARY) or KEY.fullmatch(key) is not None
