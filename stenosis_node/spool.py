"""Bytes on disk: instances received, findings and documents made. What a method returned is durable.

    <root>/instances/<study>/<series>/<sop>.dcm    as received, never altered
    <root>/quarantine/<name>-<digest>.dcm          what could not be kept there, with its reason beside it (.txt)
    <root>/findings/<key>.json
    <root>/documents/<key>/                        a complete set of documents: files and documents.json
    <root>/serve.lock

Every file is written under a temporary name in its own folder, flushed, given its name without ever replacing another,
and its folder flushed. Of several writers the first wins and all get what the first wrote. Folders have mode 0700,
files 0600. Errors of the disk are TransientError; nothing half-written is left behind.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from stenosis_node.domain import Document, DocumentKind
from stenosis_node.errors import ConfigError, PermanentError, TransientError

Chunk = bytes | memoryview

UID: Final = re.compile(r"[0-9][0-9.]{0,63}")
"""Stricter than a path needs and laxer than PS3.5 9.1: broken UIDs of real scanners pass, ``..`` does not."""
KEY: Final = re.compile(r"[0-9a-f]{8,128}")
LOCK: Final = "serve.lock"
TEMPORARY: Final = ".tmp-"
READ_BYTES: Final = 1 << 20


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
        self._durable: set[Path] = set()  # folders whose entry in their parent this object has flushed
        try:
            for folder in (root, self._instances, self._quarantine, self._findings, self._documents):
                self._make_folder(folder)
                with self._temporary(folder):
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
            if not _lock(descriptor, fcntl.LOCK_EX, tries=5):  # whoever asks for the holder has it for an instant
                raise ConfigError(
                    f"spool: another 'serve' (process {_owner(descriptor) or 'unknown'}) uses {self.root}; "
                    "stop it or choose another spool"
                )
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def free_bytes(self) -> int:
        """Space that is left for this user."""
        state = os.statvfs(self.root)
        return state.f_bavail * state.f_frsize

    # ----------------------------------------------------------------- instances

    def put(self, study_uid: str, series_uid: str, sop_uid: str, chunks: Iterable[Chunk]) -> PutResult:
        """Keep one received instance.

        chunks  a Part 10 file in pieces; consumed once, never held in memory together
        raises  ValueError for a UID that cannot be part of a path, TransientError when the disk does not take it
        """
        for uid in (study_uid, series_uid, sop_uid):
            if not UID.fullmatch(uid):
                raise ValueError(f"not a UID: {uid[:80]!r}")
        folder = self._instances / study_uid / series_uid
        path = folder / f"{sop_uid}.dcm"
        with _disk_errors(f"instance {sop_uid}"), self._temporary(folder) as temporary:
            size, digest = temporary.write(chunks)
            kept = None
            while kept is None:
                if temporary.publish(path):
                    return self._put_result(path, size, digest, PutOutcome.NEW)
                with suppress(FileNotFoundError):  # deleted by the housekeeping in between
                    kept = _measure(path)
            kept_size, kept_digest = kept
            _flush_folder(folder)  # whoever wrote the file may not have come to it yet
            if kept_digest == digest:
                return self._put_result(path, size, digest, PutOutcome.SAME)
            self._publish_quarantined(
                temporary, sop_uid, digest, "other bytes than were received before under this UID"
            )
            return self._put_result(path, kept_size, kept_digest, PutOutcome.CONFLICT)

    def quarantine(self, name_hint: str, chunks: Iterable[Chunk], reason: str) -> Path:
        """Keep bytes that are no valid instance, with the reason beside them. Returns the path relative to the root.

        The same bytes under the same hint are kept once.
        """
        name = re.sub(r"[^0-9A-Za-z.]+", "_", name_hint).lstrip(".")[:64] or "unnamed"
        with _disk_errors("bytes for the quarantine"), self._temporary(self._quarantine) as temporary:
            _, digest = temporary.write(chunks)
            return self._publish_quarantined(temporary, name, digest, reason).relative_to(self.root)

    def instance_path(self, relative: Path) -> Path:
        """Absolute path of an instance. ValueError when ``relative`` leads out of the instances."""
        if relative.is_absolute() or ".." in relative.parts or relative.parts[:1] != ("instances",):
            raise ValueError(f"not the path of an instance: {relative}")
        return self.root / relative

    def iter_instances(self) -> Iterator[Path]:
        """Paths, relative to the root, of every instance that is kept."""
        for folder, _, names in os.walk(self._instances):
            for name in names:
                if not name.startswith(TEMPORARY):
                    yield (Path(folder) / name).relative_to(self.root)

    def delete_instances(self, relatives: Iterable[Path]) -> int:
        """Delete instances and the folders they leave empty. Returns how many files there were."""
        deleted = 0
        touched: set[Path] = set()
        with _disk_errors("a deletion"):
            for relative in relatives:
                path = self.instance_path(relative)
                with suppress(FileNotFoundError):
                    path.unlink()
                    deleted += 1
                touched.add(path.parent)
            for series in touched:
                _flush_folder(self._remove_empty(series))
        return deleted

    # ----------------------------------------------------------------- findings and documents

    def put_findings(self, key: str, findings_json: str) -> None:
        """Keep findings. When there are some under this key they stay: read them back with :meth:`findings`."""
        path = self._findings / f"{_checked(key)}.json"
        with _disk_errors(f"findings {key}"), self._temporary(self._findings) as temporary:
            temporary.write([findings_json.encode("utf-8")])
            if not temporary.publish(path):
                _flush_folder(self._findings)

    def findings(self, key: str) -> str | None:
        """JSON of the findings kept under ``key``."""
        with _disk_errors(f"findings {key}"), suppress(FileNotFoundError):
            return (self._findings / f"{_checked(key)}.json").read_text(encoding="utf-8")
        return None

    def put_documents(self, key: str, documents: Sequence[Document]) -> tuple[Document, ...]:
        """Keep a complete set of documents, all or nothing. Returns the set that is kept: the first one for ``key``."""
        folder = self._documents / _checked(key)
        with _disk_errors(f"documents {key}"):
            if not folder.exists():
                temporary = self._documents / f"{TEMPORARY}{secrets.token_hex(8)}"
                temporary.mkdir(mode=0o700)
                try:
                    _write_documents(temporary, documents)
                    with suppress(FileExistsError):
                        _rename_folder(temporary, folder)
                finally:
                    shutil.rmtree(temporary, ignore_errors=True)
            _flush_folder(self._documents)
        kept = self.documents(key)
        if kept is None:
            raise TransientError(f"documents {key} were deleted while they were being written")
        return kept

    def documents(self, key: str) -> tuple[Document, ...] | None:
        """The set of documents kept under ``key``. PermanentError when a file of it is damaged."""
        folder = self._documents / _checked(key)
        with _disk_errors(f"documents {key}"):
            try:
                listed = json.loads((folder / "documents.json").read_bytes())
                return tuple(_read_document(folder, entry) for entry in listed)
            except FileNotFoundError as error:
                if folder.exists():
                    raise PermanentError(f"{error.filename} is missing in the spool; check the disk") from error
                return None
            except (ValueError, KeyError, TypeError) as error:
                raise PermanentError(f"{folder / 'documents.json'} is damaged; check the disk") from error

    def delete_result(self, key: str) -> None:
        """Delete the findings and the documents kept under ``key``, if there are any."""
        with _disk_errors("a deletion"):
            (self._findings / f"{_checked(key)}.json").unlink(missing_ok=True)
            doomed = self._documents / f"{TEMPORARY}{secrets.token_hex(8)}"
            with suppress(FileNotFoundError):
                (self._documents / key).rename(doomed)  # never seen half-deleted
                shutil.rmtree(doomed)
            _flush_folder(self._findings)
            _flush_folder(self._documents)

    # ----------------------------------------------------------------- care

    def sweep(self) -> None:
        """Delete what a crash left under temporary names. Only at start, under :meth:`hold`: nobody else may write."""
        with _disk_errors("a deletion"):
            for top in (self._instances, self._quarantine, self._findings, self._documents):
                for folder, folders, names in os.walk(top):
                    for name in names:
                        if name.startswith(TEMPORARY):
                            (Path(folder) / name).unlink(missing_ok=True)
                    for name in [n for n in folders if n.startswith(TEMPORARY)]:
                        shutil.rmtree(Path(folder) / name)
                        folders.remove(name)

    def _put_result(self, path: Path, size: int, digest: str, outcome: PutOutcome) -> PutResult:
        return PutResult(path=path.relative_to(self.root), size_bytes=size, sha256=digest, outcome=outcome)

    def _publish_quarantined(self, temporary: _Temporary, name: str, digest: str, reason: str) -> Path:
        path = self._quarantine / f"{name}-{digest[:16]}.dcm"
        with self._temporary(self._quarantine) as beside:
            beside.write([reason.encode("utf-8")])
            beside.publish(path.with_suffix(".txt"))
        temporary.publish(path)
        return path

    @contextmanager
    def _temporary(self, folder: Path) -> Iterator[_Temporary]:
        """A new file without a name of its own yet; gone afterwards unless published."""
        for attempt in range(5):
            try:
                self._make_folder(folder)
                path, descriptor = _new_temporary(folder)
                break
            except FileNotFoundError:  # housekeeping, of another process, removed it or a parent as empty
                self._forget_folder(folder)
                if attempt == 4:
                    raise
        temporary = _Temporary(path, descriptor)
        try:
            yield temporary
        finally:
            temporary.close()

    def _make_folder(self, folder: Path) -> None:
        """Make a folder and its parents, each durable, also when another process has only just made it."""
        if folder in self._durable:
            return
        if folder != self.root:
            self._make_folder(folder.parent)
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700)
        else:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _flush_folder(folder.parent)
        if len(self._durable) > 10_000:
            self._durable.clear()
        self._durable.add(folder)

    def _forget_folder(self, folder: Path) -> None:
        """A folder and its parents may be gone; not the top ones, which nobody removes."""
        while folder not in (self._instances, self.root):
            self._durable.discard(folder)
            folder = folder.parent

    def _remove_empty(self, folder: Path) -> Path:
        """Remove a folder and its parents as far as they are empty. Returns the first that stays."""
        while folder != self._instances:
            try:
                folder.rmdir()
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    return folder
                raise
            self._durable.discard(folder)
            folder = folder.parent
        return folder


def holder(root: Path) -> int | None:
    """Process that holds the spool at ``root``, None when no ``serve`` does. Makes nothing, not even the folder."""
    try:
        descriptor = os.open(root / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TransientError(f"{root / LOCK} cannot be read: {error.strerror}") from error
    try:
        return None if _lock(descriptor, fcntl.LOCK_SH) else _owner(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, kind: int, *, tries: int = 1) -> bool:
    for attempt in range(tries):
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return True
        if attempt + 1 < tries:
            time.sleep(0.05)
    return False


def _owner(descriptor: int) -> int:
    """Process that wrote itself into the lock file; 0 when it has not come to it yet."""
    text = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
    return int(text) if text.isdecimal() else 0


class _Temporary:
    """A file under a temporary name."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def write(self, chunks: Iterable[Chunk]) -> tuple[int, str]:
        """Write the chunks and flush them to the disk; their size and sha256."""
        digest = hashlib.sha256()
        size = 0
        for chunk in chunks:
            digest.update(chunk)
            view = memoryview(chunk).cast("B")
            size += len(view)
            while view:
                view = view[os.write(self._descriptor, view) :]
        os.fsync(self._descriptor)
        return size, digest.hexdigest()

    def publish(self, path: Path) -> bool:
        """Give the file its name, durably. False when the name is taken: a rename would replace what has it."""
        try:
            os.link(self._path, path)
        except FileExistsError:
            return False
        _flush_folder(path.parent)
        return True

    def close(self) -> None:
        """Leave nothing under the temporary name."""
        os.close(self._descriptor)
        self._path.unlink(missing_ok=True)


def _new_temporary(folder: Path) -> tuple[Path, int]:
    path = folder / f"{TEMPORARY}{secrets.token_hex(8)}"
    return path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rename_folder(temporary: Path, folder: Path) -> None:
    """FileExistsError when there is such a folder: renaming onto one that holds files fails."""
    try:
        temporary.rename(folder)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise FileExistsError(error.errno, error.strerror, str(folder)) from error
        raise


def _measure(path: Path) -> tuple[int, str]:
    """Size and sha256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return file.tell(), digest.hexdigest()


def _checked(key: str) -> str:
    if not KEY.fullmatch(key):
        raise ValueError(f"not a key: {key[:80]!r}")
    return key


@contextmanager
def _disk_errors(what: str) -> Iterator[None]:
    """TransientError for what the disk refuses."""
    try:
        yield
    except OSError as error:
        raise TransientError(f"the spool failed on {what}: {error.strerror or error}") from error


# --------------------------------------------------------------------------- sets of documents


def _write_documents(folder: Path, documents: Sequence[Document]) -> None:
    entries = [_write_document(folder, f"{i:03d}", document) for i, document in enumerate(documents)]
    _write_new(folder / "documents.json", json.dumps(entries, indent=1).encode("utf-8"))
    _flush_folder(folder)


def _write_document(folder: Path, name: str, document: Document) -> dict[str, Any]:
    _write_new(folder / f"{name}.dcm", document.content)
    return {
        "file": f"{name}.dcm",
        "sha256": hashlib.sha256(document.content).hexdigest(),
        "kind": document.kind,
        "sop_class_uid": document.sop_class_uid,
        "sop_instance_uid": document.sop_instance_uid,
        "series_instance_uid": document.series_instance_uid,
        "transfer_syntax_uid": document.transfer_syntax_uid,
        "key": document.key,
        "alternatives": [
            _write_document(folder, f"{name}-{i}", alternative) for i, alternative in enumerate(document.alternatives)
        ],
    }


def _write_new(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _read_document(folder: Path, entry: dict[str, Any]) -> Document:
    content = (folder / entry["file"]).read_bytes()
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise PermanentError(f"document {entry['sop_instance_uid']} is damaged in the spool; check the disk")
    return Document(
        kind=DocumentKind(entry["kind"]),
        sop_class_uid=entry["sop_class_uid"],
        sop_instance_uid=entry["sop_instance_uid"],
        series_instance_uid=entry["series_instance_uid"],
        transfer_syntax_uid=entry["transfer_syntax_uid"],
        content=content,
        key=entry["key"],
        alternatives=tuple(_read_document(folder, alternative) for alternative in entry["alternatives"]),
    )


def _obstacle(error: OSError) -> str:
    """What is wrong with the path of an error."""
    match error:
        case FileExistsError():
            return "is a file, not a folder"
        case NotADirectoryError():
            return "lies below a file, not a folder"
        case _:
            return f"cannot be written ({error.strerror})"
