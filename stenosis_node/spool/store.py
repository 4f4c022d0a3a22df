"""The folder of the node: instances received, findings and documents made."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeVar

from stenosis_node.domain import Document
from stenosis_node.errors import ConfigError, TransientError
from stenosis_node.failpoint import failpoint
from stenosis_node.spool.documents import checked, documents_in, write_documents
from stenosis_node.spool.files import (
    TEMPORARY,
    Chunk,
    Temporary,
    disk_errors,
    flush_folder,
    measure,
    rename_folder,
)
from stenosis_node.spool.looking import LOCK, instances_in, lock, owner

Made = TypeVar("Made")
UID: Final = re.compile(r"[0-9][0-9.]{0,63}")
"""Stricter than a path needs and laxer than PS3.5 9.1: broken UIDs of real scanners pass, ``..`` does not."""


class PutOutcome(StrEnum):
    """What became of received bytes."""

    NEW = "new"
    SAME = "same"  # the file was there already, with the same bytes
    CONFLICT = (
        "conflict"  # the file was there already, with other bytes: it is kept, the new ones are in the quarantine
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PutResult:
    """The file that is kept for an instance; after a conflict that is the first one."""

    path: Path
    """Relative to the root."""
    size_bytes: int
    sha256: str
    outcome: PutOutcome


class Arriving:
    """A Part 10 file that goes to the disk while it still arrives, under a temporary name."""

    def __init__(self, temporary: Temporary) -> None:
        self._temporary = temporary

    def append(self, chunk: Chunk) -> None:
        """Write one more piece. TransientError when the disk does not take it."""
        with disk_errors("an instance that is arriving"):
            self._temporary.append(chunk)
            failpoint("spool.arriving.written")

    def head(self, size: int, *, skip: int = 0) -> bytes:
        """The first bytes of what was written, without the first ``skip`` of them."""
        with disk_errors("an instance that is arriving"):
            return self._temporary.read(size, skip)


class Spool:
    """A folder on a local disk. Any number of threads and processes may use it at once."""

    def __init__(self, root: Path) -> None:
        """
        root    made if missing
        raises  ConfigError when it cannot be made or written
        """
        self.root: Final = root
        self._instances = root / "instances"
        self._quarantine = root / "quarantine"
        self._findings = root / "findings"
        self._documents = root / "documents"
        self._root_text: Final = str(root)
        self._top: Final = str(self._instances)
        self._durable: set[str] = set()  # folders whose entry in their parent this object has flushed
        try:
            for folder in (root, self._instances, self._quarantine, self._findings, self._documents):
                self._make_folder(str(folder))
                with Temporary("trial", folder):
                    pass
        except OSError as error:
            raise ConfigError(
                f"spool: {error.filename or root} {_obstacle(error)}; "
                "choose a folder on a local disk that belongs to the user of the node"
            ) from error

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Be the only ``serve`` on this spool, at most until the process ends. ConfigError when there is another."""
        descriptor = os.open(self.root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not lock(descriptor, fcntl.LOCK_EX, tries=5):  # whoever asks for the holder has it for an instant
                who = owner(descriptor) or "unknown"
                raise ConfigError(
                    f"spool: another 'serve' or 'fsck --repair' (process {who}) uses {self.root}; "
                    "stop it or choose another spool"
                )
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            failpoint("spool.held")
            yield
        finally:
            os.close(descriptor)

    # ----------------------------------------------------------------- instances

    @contextmanager
    def arriving(self) -> Iterator[Arriving]:
        """A file for an instance that is too large to be collected in memory; to be given to :meth:`put`.

        Nothing is left of it at the end but what was put or quarantined.
        raises  TransientError when the disk does not take it
        """
        with disk_errors("an instance that is arriving"):
            temporary = Temporary("instance", self._instances)
        with temporary:
            yield Arriving(temporary)

    def put(
        self,
        study_uid: str,
        series_uid: str,
        sop_uid: str,
        chunks: Iterable[Chunk] | Arriving,
        *,
        is_flushed: bool = True,
    ) -> PutResult:
        """Keep one received instance.

        chunks      a Part 10 file in pieces, consumed once and never held in memory together; or one that lies on the
                    disk
        is_flushed  False: its bytes are durable, its name is not before :meth:`flush`
        raises      ValueError for a UID that cannot be part of a path, TransientError when the disk does not take it
        """
        for uid in (study_uid, series_uid, sop_uid):
            if not UID.fullmatch(uid):
                raise ValueError(f"not a UID: {uid[:80]!r}")
        relative = f"instances/{study_uid}/{series_uid}/{sop_uid}.dcm"
        folder = f"{self._top}/{study_uid}/{series_uid}"
        path = f"{folder}/{sop_uid}.dcm"
        with disk_errors(f"instance {sop_uid}"), _temporary("instance", self._instances, chunks) as temporary:
            size, digest = temporary.write(() if isinstance(chunks, Arriving) else chunks)
            kept = None
            while kept is None:
                if self._in_folder(folder, lambda: temporary.name(path)):
                    if is_flushed:
                        self._flush(folder)
                    return _put_result(relative, size, digest, PutOutcome.NEW)
                with suppress(FileNotFoundError):  # deleted by the housekeeping in between
                    kept = measure(Path(path))
            kept_size, kept_digest = kept
            self._flush(folder)  # whoever wrote the file may not have come to it yet
            if kept_digest == digest:
                return _put_result(relative, size, digest, PutOutcome.SAME)
            self._publish_quarantined(
                temporary, sop_uid, digest, "other bytes than were received before under this UID"
            )
            return _put_result(relative, kept_size, kept_digest, PutOutcome.CONFLICT)

    def flush(self, relatives: Iterable[Path]) -> None:
        """Make the names of instances durable that were put without: one flush for each of their folders.

        What is gone by now was deleted by the housekeeping.
        raises  TransientError when the disk does not do it
        """
        with disk_errors("a folder"):
            for folder in {os.path.dirname(relative) for relative in relatives}:  # noqa: PTH120  three times as fast
                with suppress(FileNotFoundError):
                    self._flush(f"{self._root_text}/{folder}")

    def quarantine(self, name_hint: str, chunks: Iterable[Chunk] | Arriving, reason: str) -> Path:
        """Keep bytes that are no valid instance, with the reason beside them. Returns the path relative to the root.

        The same bytes under the same hint are kept once.
        """
        name = re.sub(r"[^0-9A-Za-z.]+", "_", name_hint).lstrip(".")[:64] or "unnamed"
        with disk_errors("bytes for the quarantine"), _temporary("quarantined", self._quarantine, chunks) as temporary:
            _, digest = temporary.write(() if isinstance(chunks, Arriving) else chunks)
            return self._publish_quarantined(temporary, name, digest, reason).relative_to(self.root)

    def instance_path(self, relative: Path) -> Path:
        """Absolute path of an instance. ValueError when ``relative`` leads out of the instances."""
        if relative.is_absolute() or ".." in relative.parts or relative.parts[:1] != ("instances",):
            raise ValueError(f"not the path of an instance: {relative}")
        return self.root / relative

    def iter_instances(self) -> Iterator[Path]:
        """Paths, relative to the root, of every instance that is kept."""
        return instances_in(self.root)

    def delete_instances(self, relatives: Iterable[Path]) -> int:
        """Delete instances and the folders they leave empty. Returns how many files there were."""
        deleted = 0
        touched: set[Path] = set()
        with disk_errors("a deletion"):
            for relative in relatives:
                path = self.instance_path(relative)
                with suppress(FileNotFoundError):
                    path.unlink()
                    deleted += 1
                    failpoint("spool.instance.deleted")
                touched.add(path.parent)
            for series in touched:
                flush_folder(self._remove_empty(series))
                failpoint("spool.deletion.durable")
        return deleted

    # ----------------------------------------------------------------- findings and documents

    def put_findings(self, key: str, findings_json: str) -> None:
        """Keep findings. When there are some under this key they stay: read them back with :meth:`findings`."""
        path = self._findings / f"{checked(key)}.json"
        with disk_errors(f"findings {key}"), Temporary("findings", self._findings) as temporary:
            temporary.write([findings_json.encode("utf-8")])
            if not temporary.publish(path):
                flush_folder(self._findings)
                failpoint("spool.findings.durable")

    def findings(self, key: str) -> str | None:
        """JSON of the findings kept under ``key``."""
        with disk_errors(f"findings {key}"), suppress(FileNotFoundError):
            return (self._findings / f"{checked(key)}.json").read_text(encoding="utf-8")
        return None

    def put_documents(self, key: str, documents: Sequence[Document]) -> tuple[Document, ...]:
        """Keep a complete set of documents, all or nothing. Returns the set that is kept: the first one for ``key``."""
        folder = self._documents / checked(key)
        with disk_errors(f"documents {key}"):
            if not folder.exists():
                temporary = self._documents / f"{TEMPORARY}{secrets.token_hex(8)}"
                temporary.mkdir(mode=0o700)
                failpoint("spool.documents.made")
                try:
                    write_documents(temporary, documents)
                    failpoint("spool.documents.flushed")
                    with suppress(FileExistsError):
                        rename_folder(temporary, folder)
                    failpoint("spool.documents.renamed")
                finally:
                    shutil.rmtree(temporary, ignore_errors=True)
            flush_folder(self._documents)
            failpoint("spool.documents.durable")
        kept = self.documents(key)
        if kept is None:
            raise TransientError(f"documents {key} were deleted while they were being written")
        return kept

    def documents(self, key: str) -> tuple[Document, ...] | None:
        """The set of documents kept under ``key``. PermanentError when a file of it is damaged."""
        return documents_in(self.root, key)

    def delete_result(self, key: str) -> None:
        """Delete the findings and the documents kept under ``key``, if there are any."""
        with disk_errors("a deletion"):
            (self._findings / f"{checked(key)}.json").unlink(missing_ok=True)
            failpoint("spool.findings.deleted")
            doomed = self._documents / f"{TEMPORARY}{secrets.token_hex(8)}"
            with suppress(FileNotFoundError):
                (self._documents / key).rename(doomed)  # never seen half-deleted
                failpoint("spool.documents.doomed")
                shutil.rmtree(doomed)
                failpoint("spool.documents.removed")
            flush_folder(self._findings)
            failpoint("spool.findings.gone")
            flush_folder(self._documents)
            failpoint("spool.documents.deleted")

    # ----------------------------------------------------------------- care

    def sweep(self) -> None:
        """Delete what a crash left under temporary names. Only at start, under :meth:`hold`: nobody else may write."""
        with disk_errors("a deletion"):
            for top in (self._instances, self._quarantine, self._findings, self._documents):
                for folder, folders, names in os.walk(top):
                    for name in names:
                        if name.startswith(TEMPORARY):
                            (Path(folder) / name).unlink(missing_ok=True)
                            failpoint("spool.swept")
                    for name in [n for n in folders if n.startswith(TEMPORARY)]:
                        shutil.rmtree(Path(folder) / name)
                        failpoint("spool.swept")
                        folders.remove(name)

    def _flush(self, folder: str) -> None:
        flush_folder(folder)
        failpoint("spool.instance.durable")

    def _publish_quarantined(self, temporary: Temporary, name: str, digest: str, reason: str) -> Path:
        path = self._quarantine / f"{name}-{digest[:16]}.dcm"
        with Temporary("reason", self._quarantine) as beside:
            beside.write([reason.encode("utf-8")])
            beside.publish(path.with_suffix(".txt"))
        temporary.publish(path)
        return path

    def _in_folder(self, folder: str, make: Callable[[], Made]) -> Made:
        """Make something in a folder, and the folder where it is missing."""
        for _ in range(4):
            with suppress(FileNotFoundError):  # housekeeping, of another process, removed it or a parent as empty
                self._make_folder(folder)
                return make()
            self._forget_folder(folder)
        self._make_folder(folder)
        return make()

    def _make_folder(self, folder: str) -> None:
        """Make a folder and its parents, each durable, also when another process has only just made it."""
        if folder in self._durable:
            return
        parent = os.path.dirname(folder)  # noqa: PTH120  strings are three times as fast, and every instance comes here
        if folder != self._root_text:
            self._make_folder(parent)
            with suppress(FileExistsError):
                Path(folder).mkdir(mode=0o700)
                failpoint("spool.folder.made")
        else:
            Path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        flush_folder(parent or ".")
        failpoint("spool.folder.durable")
        if len(self._durable) > 10_000:
            self._durable.clear()
        self._durable.add(folder)

    def _forget_folder(self, folder: str) -> None:
        """A folder and its parents may be gone; not the top ones, which nobody removes."""
        while folder not in (self._top, self._root_text):
            self._durable.discard(folder)
            folder = os.path.dirname(folder)  # noqa: PTH120

    def _remove_empty(self, folder: Path) -> Path:
        """Remove a folder and its parents as far as they are empty. Returns the first that stays."""
        while folder != self._instances:
            try:
                folder.rmdir()
                failpoint("spool.folder.removed")
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    return folder
                raise
            self._durable.discard(str(folder))
            folder = folder.parent
        return folder


def _temporary(kind: str, folder: Path, content: Iterable[Chunk] | Arriving) -> AbstractContextManager[Temporary]:
    """The file that content is written to, gone afterwards unless published; what is arriving has one already."""
    if isinstance(content, Arriving):
        return nullcontext(content._temporary)
    return Temporary(kind, folder)


def _put_result(relative: str, size: int, digest: str, outcome: PutOutcome) -> PutResult:
    return PutResult(path=Path(relative), size_bytes=size, sha256=digest, outcome=outcome)


def _obstacle(error: OSError) -> str:
    """What is wrong with the path of an error."""
    match error:
        case FileExistsError():
            return "is a file, not a folder"
        case NotADirectoryError():
            return "lies below a file, not a folder"
        case _:
            return f"cannot be written ({error.strerror})"
