"""``fsck``: do the files of the spool and the rows of the database tell the same story, and if not, what is to be done.

Looking changes nothing and may be done beside a node at work: what is being written at that moment is left out by its
age. Repairs are those that cannot lose anything: what is there is taken in or put aside, what is missing is made again
or written down as missing. Bytes are deleted only when nothing refers to them and they can be made again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Final

from stenosis_node.config import Config
from stenosis_node.domain import JobState
from stenosis_node.errors import ConfigError, PermanentError
from stenosis_node.jobs import FileRow, JobStore, ResultRow
from stenosis_node.spool import Leftovers, Spool, documents_in, holder, instances_in, leftovers
from stenosis_node.wire.part10 import UnreadableFile, read_file_meta
from stenosis_node.work.adopt import adopt, batches, is_at_home

YOUNG: Final = timedelta(hours=1)
"""What is younger may belong to work under way, while a node runs."""


class FindingKind(StrEnum):
    """Stable words for scripts."""

    FILE_WITHOUT_ROW = "file-without-row"
    UNREADABLE_FILE = "unreadable-file"  # without a row
    MISSING_FILE = "missing-file"  # a row without its file
    WRONG_SIZE = "wrong-size"
    WRONG_BYTES = "wrong-bytes"
    MISSING_DOCUMENTS = "missing-documents"
    DAMAGED_DOCUMENTS = "damaged-documents"
    DOCUMENTS_WITHOUT_RESULT = "documents-without-result"
    FINDINGS_WITHOUT_RESULT = "findings-without-result"
    JOB_WITHOUT_RESULT = "job-without-result"
    TEMPORARY_FILE = "temporary-file"
    FOREIGN_FILE = "foreign-file"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it should be, or worth knowing."""

    kind: FindingKind
    about: str
    """A path relative to the spool, or a job."""
    sentence: str
    fix: str
    is_problem: bool = True
    """False: as it should be, and worth knowing."""
    repaired: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciliation:
    """What was looked at, and what was found."""

    running: int | None
    """Process that holds the spool, 0 when unknown: then only repairs are done that do not disturb a ``serve``."""
    deep: bool
    files: int
    rows: int
    results: int
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> tuple[Finding, ...]:
        """What is left."""
        return tuple(one for one in self.findings if one.is_problem and not one.repaired)


def reconcile(
    config: Config, store: JobStore, *, deep: bool = False, repair: bool = False, now: datetime | None = None
) -> Reconciliation:
    """Compare, and with ``repair`` put right what can be put right without loss.

    A repair holds the spool to its end where no ``serve`` does: one that is started meanwhile is refused and names
    this process.

    deep    read every file and compare it with its sha256
    raises  TransientError when the disk or the database does not answer; what was repaired until then stays so
    """
    now = now or datetime.now(UTC)
    if not repair:
        return _Reconciler(config, store, None, running=holder(config.spool), deep=deep, now=now).run()
    spool = Spool(config.spool)
    with _held(spool) as running:
        return _Reconciler(config, store, spool, running=running, deep=deep, now=now).run()


@contextmanager
def _held(spool: Spool) -> Iterator[int | None]:
    """Let no ``serve`` start until the block ends. The process that holds the spool already, None when none does."""
    with ExitStack() as stack:
        running = None
        try:
            stack.enter_context(spool.hold())
        except ConfigError:
            running = holder(spool.root) or 0  # one that has gone since is taken for running: less is repaired
        yield running


class _Reconciler:
    def __init__(
        self, config: Config, store: JobStore, spool: Spool | None, *, running: int | None, deep: bool, now: datetime
    ) -> None:
        """
        spool    None: nothing is repaired
        running  process that holds the spool, None for this one or none
        """
        self._config = config
        self._root = config.spool
        self._store = store
        self._deep = deep
        self._now = now
        self._running = running
        self._spool = spool
        self._files = self._rows = self._results = 0

    def run(self) -> Reconciliation:
        """In the order in which a repair may help what comes next."""
        lying = leftovers(self._root)
        findings = [
            *self._files_without_rows(),
            *self._rows_without_files(),
            *self._results_without_documents(),
            *self._documents_without_results(lying),
            *self._others(lying),
        ]
        return Reconciliation(
            running=self._running,
            deep=self._deep,
            files=self._files,
            rows=self._rows,
            results=self._results,
            findings=tuple(findings),
        )

    @property
    def _may_touch_all(self) -> bool:
        """No worker can be in the middle of anything: the spool is held."""
        return self._spool is not None and self._running is None

    def _is_settled(self, relative: Path) -> bool:
        """Nobody can be writing it now."""
        try:
            changed = (self._root / relative).stat().st_mtime
        except FileNotFoundError:
            return False
        return self._running is None or datetime.fromtimestamp(changed, UTC) < self._now - YOUNG

    # ----------------------------------------------------------------- instances

    def _files_without_rows(self) -> list[Finding]:
        found: list[Finding] = []
        for batch in batches(instances_in(self._root)):
            self._files += len(batch)
            known = self._store.known_paths(batch)
            found += [
                self._file_without_row(path)
                for path in batch
                if path.as_posix() not in known and self._is_settled(path)
            ]
        lost = [one.about for one in found if one.kind is FindingKind.FILE_WITHOUT_ROW]
        if self._spool is None or not lost:
            return found
        adopt(
            self._config, self._spool, self._store, before=self._now - (timedelta() if self._running is None else YOUNG)
        )
        taken: set[str] = set()
        for batch in batches(map(Path, lost)):
            taken |= self._store.known_paths(batch)
        return [replace(one, repaired=one.repaired or one.about in taken) for one in found]

    def _file_without_row(self, path: Path) -> Finding:
        about = path.as_posix()
        if not _is_instance(self._root, path):
            return Finding(
                kind=FindingKind.UNREADABLE_FILE,
                about=about,
                sentence="it has no row and is no instance; nobody was told that it is kept",
                fix="--repair moves it to the quarantine while no node runs",
                repaired=self._put_aside(path, "found in the spool without a row, and no readable instance"),
            )
        return Finding(
            kind=FindingKind.FILE_WITHOUT_ROW,
            about=about,
            sentence="it has no row: a crash came between the two, and its sender was not told that it is kept",
            fix="the node takes it in as received within 75 minutes; --repair does at once",
        )

    def _rows_without_files(self) -> Iterator[Finding]:
        for row in self._store.expected_files():
            self._rows += 1
            finding = self._check_file(row)
            if finding is not None:
                yield finding

    def _check_file(self, row: FileRow) -> Finding | None:
        try:
            size = (self._root / row.path).stat().st_size
        except FileNotFoundError:
            return Finding(
                kind=FindingKind.MISSING_FILE,
                about=row.path.as_posix(),
                sentence="it was acknowledged and is gone from the disk",
                fix=f"send study {row.study_instance_uid} again: the node takes what is missing, and nothing else "
                "changes; or put the file back from a backup",
            )
        if size != row.size_bytes:
            kind, sentence = FindingKind.WRONG_SIZE, f"it has {size} bytes and was received with {row.size_bytes}"
        elif self._deep and _digest(self._root / row.path) != row.sha256:
            kind, sentence = FindingKind.WRONG_BYTES, "its bytes are not those that were received: check the disk"
        else:
            return None
        aside = self._put_aside(row.path, f"found in the spool by fsck: {sentence}")
        then = f"send study {row.study_instance_uid} again or put the file back from a backup"
        return Finding(
            kind=kind,
            about=row.path.as_posix(),
            sentence=sentence + ("; it is in the quarantine now" if aside else ""),
            fix=then if aside else f"--repair moves it to the quarantine while no node runs; then {then}",
        )

    def _put_aside(self, path: Path, reason: str) -> bool:
        """Move a file of the instances to the quarantine; whether it was done."""
        if self._spool is None or not self._may_touch_all:
            return False
        with (self._root / path).open("rb") as file:
            self._spool.quarantine(path.stem, iter(lambda: file.read(1 << 20), b""), reason)
        self._spool.delete_instances([path])
        return True

    # ----------------------------------------------------------------- results

    def _results_without_documents(self) -> Iterator[Finding]:
        for row in self._store.expected_results():
            self._results += 1
            if not (self._root / "documents" / row.result_key / "documents.json").exists():
                yield self._without_documents(row)
            elif self._deep and (fault := self._damage(row.result_key)) is not None:
                yield Finding(
                    kind=FindingKind.DAMAGED_DOCUMENTS,
                    about=f"documents/{row.result_key}",
                    sentence=f"of job {row.job_id}, revision {row.revision}: {fault}",
                    fix="put the folder back from a backup, or delete it and run fsck --repair",
                )
        for job_id in self._store.jobs_without_result():
            yield Finding(
                kind=FindingKind.JOB_WITHOUT_RESULT,
                about=f"job {job_id}",
                sentence="it was graded, and no result is on record",
                fix="restore the database from a backup, or send the study again under another node",
            )

    def _damage(self, key: str) -> str | None:
        """What is wrong with a set of documents. Reading writes nothing."""
        try:
            documents_in(self._root, key)
        except PermanentError as error:
            return str(error)
        return None

    def _without_documents(self, row: ResultRow) -> Finding:
        about, what = f"documents/{row.result_key}", f"of job {row.job_id}, revision {row.revision}: the folder is gone"
        repaired = False
        if row.is_due and row.is_latest:
            if row.images_kept:
                fix = "the node makes them again, byte for byte, before they are sent; --repair asks for it"
                if self._spool is not None and row.job_state is JobState.GRADED:
                    repaired = self._store.grade_again(row.job_id)
            else:
                fix = "put it back from a backup of the spool, then 'stenosis-node retry', or send the study again"
        else:
            fix = "nobody waits for them; --repair writes down that they are deleted"
            if self._spool is not None:
                self._store.forget_documents(row.id)
                repaired = True
        return Finding(kind=FindingKind.MISSING_DOCUMENTS, about=about, sentence=what, fix=fix, repaired=repaired)

    def _documents_without_results(self, lying: Leftovers) -> Iterator[Finding]:
        """Of a step that died before its row: what is made again is the same, so nothing is lost with them."""
        known = self._store.known_keys({*lying.documents, *lying.findings})
        kinds = (
            (FindingKind.DOCUMENTS_WITHOUT_RESULT, "documents/{}", lying.documents),
            (FindingKind.FINDINGS_WITHOUT_RESULT, "findings/{}.json", lying.findings),
        )
        for kind, pattern, keys in kinds:
            for key in keys:
                about = pattern.format(key)
                if key in known or not self._is_settled(Path(about)):
                    continue
                if self._spool is not None and self._may_touch_all:
                    self._spool.delete_result(key)
                yield Finding(
                    kind=kind,
                    about=about,
                    sentence="no result refers to it: the step that wrote it ended before its row, or was repeated",
                    fix="nothing needs it; --repair deletes it while no node runs",
                    is_problem=False,
                    repaired=self._may_touch_all,
                )

    # ----------------------------------------------------------------- the rest

    def _others(self, lying: Leftovers) -> Iterator[Finding]:
        swept = False
        if self._spool is not None and self._may_touch_all and lying.temporary:
            self._spool.sweep()
            swept = True
        for path in lying.temporary:
            if swept or self._is_settled(path):
                yield Finding(
                    kind=FindingKind.TEMPORARY_FILE,
                    about=path.as_posix(),
                    sentence="left by a process that died while it wrote",
                    fix="the next start of the node deletes it; --repair does while no node runs",
                    is_problem=False,
                    repaired=swept,
                )
        for path in lying.foreign:
            yield Finding(
                kind=FindingKind.FOREIGN_FILE,
                about=path.as_posix(),
                sentence="the node wrote nothing of this name",
                fix="move it away if it is yours",
            )
        for path in lying.quarantined:
            yield Finding(
                kind=FindingKind.QUARANTINED,
                about=path.as_posix(),
                sentence=_reason(self._root / path),
                fix="look at it; delete it and the .txt beside it when it is of no use, or let the node do so after "
                "retention.quarantine_days",
                is_problem=False,
            )


def _is_instance(root: Path, path: Path) -> bool:
    """A Part 10 file where one is kept."""
    if not is_at_home(path):
        return False
    try:
        read_file_meta(root / path)
    except (OSError, UnreadableFile):
        return False
    return True


def _reason(path: Path) -> str:
    try:
        return path.with_suffix(".txt").read_text(encoding="utf-8")[:200]
    except (OSError, UnicodeDecodeError):
        return "no reason beside it"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
