"""Bytes on disk: durable, never replaced, nothing half-written."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stenosis_node.domain import Document, DocumentKind
from stenosis_node.errors import ConfigError, PermanentError, TransientError
from stenosis_node.spool import PutOutcome, Spool, holder, least_free_bytes
from stenosis_node.spool import files as spool_files

SPAWN = multiprocessing.get_context("spawn")
KEY = "0a" * 32
STUDY, SERIES, SOP = "1.2.840.1", "1.2.840.2", "1.2.840.3"


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


def files(spool: Spool) -> list[str]:
    """Every file in the spool, temporary ones included."""
    return sorted(p.relative_to(spool.root).as_posix() for p in spool.root.rglob("*") if p.is_file())


def make_document(number: int, content: bytes, **changes: Any) -> Document:
    values: dict[str, Any] = {
        "kind": DocumentKind.SC,
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.7",
        "sop_instance_uid": f"2.25.{number}",
        "series_instance_uid": "2.25.99",
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "content": content,
    }
    return Document(**values | changes)


# --------------------------------------------------------------------------- instances


def test_an_instance_is_kept_as_it_came(spool: Spool) -> None:
    put = spool.put(STUDY, SERIES, SOP, iter([b"DICM", memoryview(bytearray(b"-pixels-")), b""]))

    assert put.path == Path(f"instances/{STUDY}/{SERIES}/{SOP}.dcm")
    assert spool.instance_path(put.path).read_bytes() == b"DICM-pixels-"
    assert (put.size_bytes, put.outcome) == (12, PutOutcome.NEW)
    assert put.sha256 == hashlib.sha256(b"DICM-pixels-").hexdigest()
    assert files(spool) == [put.path.as_posix()]
    assert list(spool.iter_instances()) == [put.path]


@pytest.mark.parametrize("names", [False, True])
def test_an_instance_on_its_way_to_the_disk_is_kept_like_any_other(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, *, names: bool
) -> None:
    monkeypatch.setattr(spool_files, "_HAS_OPEN_FILES", not names)
    with spool.arriving() as arriving:
        for piece in (b"DICM", memoryview(bytearray(b"-pix")), b"els-"):
            arriving.append(piece)
        assert arriving.head(5, skip=2) == b"CM-pi"
        put = spool.put(STUDY, SERIES, SOP, arriving)
        spool.delete_instances([put.path])  # housekeeping that did not know yet
        again = spool.put(STUDY, SERIES, SOP, arriving)

    assert (put.outcome, put.size_bytes, put.sha256) == (
        PutOutcome.NEW,
        12,
        hashlib.sha256(b"DICM-pixels-").hexdigest(),
    )
    assert again == put
    assert files(spool) == [put.path.as_posix()]
    assert spool.instance_path(put.path).read_bytes() == b"DICM-pixels-"
    with spool.arriving() as arriving:
        arriving.append(b"other")
        assert spool.put(STUDY, SERIES, SOP, arriving).outcome is PutOutcome.CONFLICT
    with spool.arriving() as arriving:
        arriving.append(b"junk")
        assert (spool.root / spool.quarantine("1.2", arriving, "unreadable")).read_bytes() == b"junk"
    assert len(files(spool)) == 5
    assert spool.instance_path(put.path).read_bytes() == b"DICM-pixels-"


def test_a_file_system_that_cannot_name_what_has_no_name(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    real_link = os.link

    def link(source: Any, *args: Any, **options: Any) -> None:
        if str(source).startswith("/proc/"):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        real_link(source, *args, **options)

    monkeypatch.setattr(os, "link", link)
    first = spool.put(STUDY, SERIES, SOP, [b"one ", b"file"])
    assert (first.outcome, spool.instance_path(first.path).read_bytes()) == (PutOutcome.NEW, b"one file")
    assert spool.put(STUDY, SERIES, SOP, [b"one file"]).outcome is PutOutcome.SAME
    assert files(spool) == [first.path.as_posix()]


@pytest.mark.parametrize("names", [False, True])
def test_what_arrived_and_was_not_put_is_gone(spool: Spool, monkeypatch: pytest.MonkeyPatch, *, names: bool) -> None:
    monkeypatch.setattr(spool_files, "_HAS_OPEN_FILES", not names)
    with spool.arriving() as arriving:
        arriving.append(b"half of it")
        assert len(files(spool)) == names, "only where there are no files without a name"
        assert list(spool.iter_instances()) == []
    assert files(spool) == []


def test_the_same_bytes_again_are_the_same_instance(spool: Spool) -> None:
    first = spool.put(STUDY, SERIES, SOP, [b"one"])
    again = spool.put(STUDY, SERIES, SOP, [b"o", b"ne"])

    assert again.outcome is PutOutcome.SAME
    assert (again.path, again.sha256, again.size_bytes) == (first.path, first.sha256, first.size_bytes)
    assert len(files(spool)) == 1


def test_other_bytes_under_a_known_uid_go_to_the_quarantine_and_the_first_are_kept(spool: Spool) -> None:
    first = spool.put(STUDY, SERIES, SOP, [b"one"])
    for _ in range(2):
        other = spool.put(STUDY, SERIES, SOP, [b"other"])
        assert other.outcome is PutOutcome.CONFLICT
        assert (other.path, other.sha256, other.size_bytes) == (first.path, first.sha256, 3)

    assert spool.instance_path(first.path).read_bytes() == b"one"
    (kept,) = (spool.root / "quarantine").glob("*.dcm")
    assert kept.read_bytes() == b"other"
    assert "other bytes" in kept.with_suffix(".txt").read_text()
    assert len(files(spool)) == 3


@pytest.mark.parametrize("bad", ["", "..", ".", "../../etc", "1/2", "1.2\n", "1" * 65, "a.b", "1.2 ", "\u0661.2", ".1"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_is_no_uid_never_becomes_a_path(spool: Spool, bad: str, place: int) -> None:
    uids = [STUDY, SERIES, SOP]
    uids[place] = bad

    with pytest.raises(ValueError, match="not a UID"):
        spool.put(*uids, [b"x"])

    assert files(spool) == []
    assert list((spool.root / "instances").iterdir()) == []


@pytest.mark.parametrize("path", ["/etc/passwd", "instances/../../x", "quarantine/x.dcm", "serve.lock"])
def test_no_other_file_is_reached_through_the_path_of_an_instance(spool: Spool, path: str) -> None:
    with pytest.raises(ValueError, match="not the path of an instance"):
        spool.instance_path(Path(path))


def test_nobody_else_can_read_the_spool(spool: Spool) -> None:
    old = os.umask(0)
    try:
        spool.put(STUDY, SERIES, SOP, [b"x"])
        spool.quarantine("y", [b"y"], "why")
        spool.put_findings(KEY, "{}")
        spool.put_documents(KEY, [make_document(1, b"d")])
    finally:
        os.umask(old)
    for path in [spool.root, *spool.root.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_sender_that_breaks_off_leaves_nothing(spool: Spool) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"half of it"
        raise ConnectionResetError("gone")

    with pytest.raises(TransientError):
        spool.put(STUDY, SERIES, SOP, chunks())

    assert files(spool) == []


def test_an_error_of_the_caller_passes_and_leaves_nothing(spool: Spool) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"half of it"
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        spool.put(STUDY, SERIES, SOP, chunks())

    assert files(spool) == []


def test_deleting_instances_removes_the_folders_they_leave_empty(spool: Spool) -> None:
    one = spool.put(STUDY, SERIES, "1.1", [b"1"]).path
    two = spool.put(STUDY, SERIES, "1.2", [b"2"]).path
    three = spool.put("1.9", "1.9", "1.3", [b"3"]).path

    assert spool.delete_instances([one, three, Path("instances/1.9/1.9/7.dcm")]) == 2
    assert list(spool.iter_instances()) == [two]
    assert not (spool.root / "instances" / "1.9").exists()
    assert spool.delete_instances([two, two]) == 1
    assert list((spool.root / "instances").iterdir()) == []
    assert spool.put(STUDY, SERIES, "1.1", [b"1"]).outcome is PutOutcome.NEW, "folders that are gone are made again"


def test_folders_that_another_process_removed_are_made_again(spool: Spool) -> None:
    one = spool.put(STUDY, SERIES, "1.1", [b"1"]).path
    two = spool.put(STUDY, "1.8", "1.2", [b"2"]).path
    Spool(spool.root).delete_instances([one, two])

    assert spool.put(STUDY, SERIES, "1.1", [b"1"]).outcome is PutOutcome.NEW
    assert spool.put(STUDY, "1.8", "1.2", [b"2"]).outcome is PutOutcome.NEW
    assert sorted(spool.iter_instances()) == sorted([one, two])


# --------------------------------------------------------------------------- quarantine


def test_a_new_series_of_a_study_whose_folder_another_process_removed(spool: Spool) -> None:
    first = spool.put(STUDY, SERIES, f"{SERIES}.1", [b"a"])
    Spool(spool.root).delete_instances([first.path])  # the housekeeping: the empty folder of the study goes too
    second = spool.put(STUDY, f"{SERIES}.2", f"{SERIES}.2.1", [b"b"])
    assert spool.instance_path(second.path).read_bytes() == b"b"


def test_bytes_that_are_no_instance_are_kept_with_the_reason(spool: Spool) -> None:
    path = spool.quarantine("../../1.2.3 evil\x00", [b"junk"], "the data set cannot be read")

    assert (spool.root / path).read_bytes() == b"junk"
    assert path.parent == Path("quarantine")
    assert (spool.root / path).with_suffix(".txt").read_text() == "the data set cannot be read"
    assert spool.quarantine("../../1.2.3 evil\x00", [b"junk"], "again") == path
    assert spool.quarantine("", [b"junk"], "no name").name.startswith("unnamed-")
    assert len(files(spool)) == 4


# --------------------------------------------------------------------------- findings and documents


def test_findings_are_kept_and_the_first_stay(spool: Spool) -> None:
    assert spool.findings(KEY) is None
    spool.put_findings(KEY, '{"a": "한글"}')
    spool.put_findings(KEY, '{"a": 2}')

    assert spool.findings(KEY) == '{"a": "한글"}'
    assert files(spool) == [f"findings/{KEY}.json"]


def test_documents_come_back_as_they_were(spool: Spool) -> None:
    alternative = make_document(3, b"enhanced", sop_class_uid="1.2.840.10008.5.1.4.1.1.88.22", kind=DocumentKind.SR)
    documents = (
        make_document(1, b"first", key=True),
        make_document(2, bytes(range(256)) * 100, kind=DocumentKind.SR, alternatives=(alternative,)),
    )
    assert spool.documents(KEY) is None

    assert spool.put_documents(KEY, documents) == documents
    assert Spool(spool.root).documents(KEY) == documents


def test_the_first_complete_set_of_documents_wins(spool: Spool) -> None:
    first = (make_document(1, b"first"),)
    spool.put_documents(KEY, first)

    assert spool.put_documents(KEY, [make_document(1, b"second"), make_document(2, b"third")]) == first
    assert [p for p in files(spool) if ".tmp" in p] == []


@pytest.mark.parametrize("damage", ["changed", "missing", "list"])
def test_damaged_documents_are_never_given_out(spool: Spool, damage: str) -> None:
    spool.put_documents(KEY, [make_document(1, b"first"), make_document(2, b"second")])
    folder = spool.root / "documents" / KEY
    match damage:
        case "changed":
            (folder / "001.dcm").write_bytes(b"sec0nd")
        case "missing":
            (folder / "001.dcm").unlink()
        case _:
            (folder / "documents.json").write_text("[{]")

    with pytest.raises(PermanentError, match=r"check the disk"):
        spool.documents(KEY)


def test_a_result_is_deleted_with_its_findings(spool: Spool) -> None:
    spool.put_findings(KEY, "{}")
    spool.put_documents(KEY, [make_document(1, b"first")])
    spool.delete_result(KEY)
    spool.delete_result(KEY)

    assert files(spool) == []
    assert (spool.findings(KEY), spool.documents(KEY)) == (None, None)
    assert list((spool.root / "documents").iterdir()) == []


@pytest.mark.parametrize("key", ["", "..", "../x", "ABCDEF0123", "short", "0" * 129])
def test_what_is_no_key_never_becomes_a_path(spool: Spool, key: str) -> None:
    uses: list[Callable[[], object]] = [
        lambda: spool.put_findings(key, "{}"),
        lambda: spool.findings(key),
        lambda: spool.put_documents(key, []),
        lambda: spool.documents(key),
        lambda: spool.delete_result(key),
    ]
    for use in uses:
        with pytest.raises(ValueError, match="not a key"):
            use()


# --------------------------------------------------------------------------- start


def test_a_spool_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match=r"^spool: .*/file/spool lies below a file"):
        Spool(tmp_path / "file" / "spool")
    with pytest.raises(ConfigError, match=r"^spool: .*/file is a file, not a folder"):
        Spool(tmp_path / "file")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no folder that refuses even root")
def test_a_spool_that_even_root_cannot_write_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^spool: /proc/spool cannot be written \("):
        Spool(Path("/proc/spool"))


def test_a_spool_is_held_by_one_process(spool: Spool) -> None:
    trial = f"""if True:
        from pathlib import Path
        from stenosis_node.spool import Spool
        with Spool(Path({str(spool.root)!r})).hold():
            print("held")
    """

    def other() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", trial], capture_output=True, text=True, check=False)

    with spool.hold():
        refused = other()
        who = f"another 'serve' or 'fsck --repair' \\(process {os.getpid()}\\)"
        with pytest.raises(ConfigError, match=who), spool.hold():
            pass
    assert f"spool: another 'serve' or 'fsck --repair' (process {os.getpid()}) uses {spool.root}" in refused.stderr
    assert other().stdout == "held\n"


def test_who_holds_a_spool_can_be_asked_without_making_or_taking_it(spool: Spool, tmp_path: Path) -> None:
    assert holder(tmp_path / "nowhere") is None
    assert not (tmp_path / "nowhere").exists()
    assert holder(spool.root) is None
    with spool.hold():
        assert holder(spool.root) == os.getpid()
        assert holder(spool.root) == os.getpid()
    assert holder(spool.root) is None


def test_asking_for_the_holder_never_keeps_a_serve_from_starting(spool: Spool) -> None:
    with spool.hold():
        pass
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            holder(spool.root)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for _ in range(50):
            with spool.hold():
                pass
    finally:
        stop.set()
        thread.join()


def test_what_a_crash_left_is_swept_and_nothing_else(spool: Spool) -> None:
    kept = spool.put(STUDY, SERIES, SOP, [b"x"]).path
    spool.put_documents(KEY, [make_document(1, b"d")])
    before = files(spool)
    leftovers = [
        f"instances/{STUDY}/{SERIES}/.tmp-1",
        "quarantine/.tmp-2",
        "findings/.tmp-3",
        "documents/.tmp-4/000.dcm",
    ]
    for leftover in leftovers:
        (spool.root / leftover).parent.mkdir(exist_ok=True)
        (spool.root / leftover).write_bytes(b"half")
    assert list(spool.iter_instances()) == [kept]

    spool.sweep()

    assert files(spool) == before


def test_a_sweep_bears_what_goes_by_itself(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that outlived its parent may still close its temporary files."""
    leftover = spool.root / "findings" / ".tmp-1"
    leftover.write_bytes(b"half")
    real_walk = os.walk

    def walk(top: Path) -> Iterator[tuple[str, list[str], list[str]]]:
        for folder, folders, names in real_walk(top):
            if leftover.name in names:
                leftover.unlink()
            yield folder, folders, names

    monkeypatch.setattr(os, "walk", walk)

    spool.sweep()

    assert files(spool) == []


# --------------------------------------------------------------------------- order of what reaches the disk


def test_every_byte_and_name_is_flushed_before_put_returns(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is flushed after the name is there, each new folder's parent too, and the file before the name."""
    log: list[str] = []
    real_fsync, real_link = os.fsync, os.link

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        log.append("file" if stat.S_ISREG(os.fstat(descriptor).st_mode) else f"folder {path.relative_to(spool.root)}")
        real_fsync(descriptor)

    def link(*args: Any, **options: Any) -> None:
        log.append("name")
        real_link(*args, **options)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", link)
    spool.put(STUDY, SERIES, SOP, [b"x"])
    first, log[:] = list(log), []
    spool.put(STUDY, SERIES, "1.1", [b"y"])
    second, log[:] = list(log), []
    spool.put(STUDY, SERIES, "1.1", [b"y"])

    series = f"folder instances/{STUDY}/{SERIES}"
    assert first == ["file", "folder instances", f"folder instances/{STUDY}", "name", series]
    assert second == ["file", "name", series]
    assert log == ["file", "name", series], "of a resend too: who wrote the file may not have come to it yet"

    log.clear()
    put = [spool.put(STUDY, SERIES, uid, [b"z"], is_flushed=False) for uid in ("1.2", "1.3")]
    assert log == ["file", "name"] * 2
    spool.flush(result.path for result in put)
    assert log == [*["file", "name"] * 2, series], "once for all of a group"


def test_a_folder_made_by_another_process_is_flushed_too(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    Spool(spool.root).put(STUDY, SERIES, "1.1", [b"x"])
    flushed: list[str] = []
    real_fsync = os.fsync

    def fsync(descriptor: int) -> None:
        flushed.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    spool.put(STUDY, SERIES, SOP, [b"x"])

    assert str(spool.root / "instances") in flushed
    assert str(spool.root / "instances" / STUDY) in flushed


# --------------------------------------------------------------------------- disk full


FULL = textwrap.dedent(
    """
    import resource, signal, sys
    from pathlib import Path
    from stenosis_node.errors import TransientError
    from stenosis_node.spool import Spool
    from tests.unit.test_spool import KEY, make_document
    spool = Spool(Path(sys.argv[1]))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    big = b"x" * 60_000
    uses = [
        lambda: spool.put("1.1", "1.2", "1.3", [big, big]),
        lambda: spool.quarantine("1.3", [big, big], "reason"),
        lambda: spool.put_findings(KEY, "x" * 120_000),
        lambda: spool.put_documents(KEY, [make_document(1, big), make_document(2, big + big)]),
    ]
    for use in uses:
        try:
            use()
        except TransientError as error:
            print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(spool.put("1.1", "1.2", "1.3", [big, big]).outcome)
    """
)


def test_a_disk_that_takes_no_more_is_a_transient_error_and_leaves_nothing(spool: Spool) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, spool.root], capture_output=True, text=True, check=True)

    lines = done.stdout.splitlines()
    assert [line.endswith(": File too large") for line in lines[:4]] == [True] * 4, done.stdout
    assert lines[4:] == ["new"]
    assert files(spool) == ["instances/1.1/1.2/1.3.dcm"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_loses_nothing_and_recovers(small_disk: Path) -> None:
    spool = Spool(small_disk / "spool")
    kept: list[Path] = []

    def fill() -> None:
        for number in range(100):
            kept.append(spool.put("1.1", "1.2", f"1.{number}", [b"x" * 100_000]).path)

    with pytest.raises(TransientError, match="No space left on device"):
        fill()
    assert 10 < len(kept) < 25
    assert sorted(spool.iter_instances()) == sorted(kept)
    assert [p for p in files(spool) if ".tmp" in p] == []
    assert least_free_bytes([spool.root]) < 100_000

    spool.delete_instances(kept[:3])

    assert spool.put("1.1", "1.2", "1.99", [b"x" * 100_000]).outcome is PutOutcome.NEW


# --------------------------------------------------------------------------- several processes


def _endless(announce: Path) -> Iterator[bytes]:
    yield b"x" * 100_000
    announce.touch()
    while True:
        time.sleep(0.01)
        yield b"x"


def _put_for_ever(root: Path, announce: Path, names: bool) -> None:
    spool_files._HAS_OPEN_FILES = not names
    Spool(root).put(STUDY, SERIES, SOP, _endless(announce))


@pytest.mark.parametrize("names", [False, True])
def test_a_process_killed_while_it_writes_leaves_no_visible_file(tmp_path: Path, *, names: bool) -> None:
    root, announce = tmp_path / "spool", tmp_path / "writing"
    process = SPAWN.Process(target=_put_for_ever, args=(root, announce, names))
    process.start()
    deadline = time.monotonic() + 60
    while not announce.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(10)

    spool = Spool(root)
    assert list(spool.iter_instances()) == []
    assert len(files(spool)) == names, "only the temporary file"
    spool.sweep()
    assert files(spool) == []
    assert spool.put(STUDY, SERIES, SOP, [b"whole"]).outcome is PutOutcome.NEW


def _race(root: Path, writer: int, barrier: Any, said: Any) -> None:
    spool = Spool(root)
    answers = []
    for round_ in range(20):
        documents = [make_document(i, f"{writer} {i}".encode() * 500) for i in range(5)]
        barrier.wait(60)
        kept = spool.put_documents(f"{round_:08x}", documents)
        put = spool.put(STUDY, SERIES, f"1.{round_}", [f"writer {writer}".encode()])
        answers.append((hashlib.sha256(b"".join(d.content for d in kept)).hexdigest(), put.sha256, str(put.outcome)))
    said.put(answers)


def test_writers_that_race_all_get_what_the_first_wrote(tmp_path: Path) -> None:
    root = tmp_path / "spool"
    said = SPAWN.Queue()
    barrier = SPAWN.Barrier(2)
    processes = [SPAWN.Process(target=_race, args=(root, writer, barrier, said)) for writer in range(2)]
    for process in processes:
        process.start()
    one, two = (said.get(timeout=90) for _ in processes)
    for process in processes:
        process.join(30)

    for (documents, kept, outcome), (other_documents, other_kept, other_outcome) in zip(one, two, strict=True):
        assert documents == other_documents
        assert kept == other_kept
        assert {outcome, other_outcome} == {"new", "conflict"}
    assert [p for p in files(Spool(root)) if ".tmp" in p] == []
