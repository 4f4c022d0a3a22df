"""How fast instances arrive: our receiver with full durability beside DCMTK's storescp and Orthanc, in one run.

    python -m benchmarks.bench_ingest [--instances N] [--rounds N] [--big N] [--json FILE]

Receivers take turns: each round has every case once on every receiver, each on an empty store, so that a busy machine
hits all alike. The table shows medians; ratios are what counts. Three senders:

* ``raw``: encoded beforehand, TCP_NODELAY, one process per association, measures each instance (p50, p99);
* ``dcmsend``: DCMTK's, with TCP_NODELAY at both ends (its environment variable), start-up included;
* ``default``: DCMTK's as installed, Nagle's algorithm on at both ends where the software leaves it on.

Ours answers Success after fsync of file and folder and a SQLite commit with synchronous=FULL; storescp has no durable
mode; Orthanc flushes the file but not its index. CPU and memory are those of the receiver with its children; sender and
receiver share the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, ImplementationClassUIDNotification, MaximumLengthNotification
from pynetdicom.presentation import build_context

ROWS = 384
BIG_ROWS, BIG_FRAMES = 512, 40
MAX_PDU = 131_072
OURS, STOCK, STORESCP, ORTHANC = "ours, fast path", "ours, stock path", "storescp --fork", "Orthanc"
SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Run:
    """One receiver taking everything once."""

    per_second: float
    cpu_s_per_gb: float
    idle_mb: float
    peak_mb: float
    latencies_ms: tuple[float, ...]


@dataclass(frozen=True)
class Contender:
    name: str
    command: Callable[[Path, int], list[str]]


class Case(NamedTuple):
    sender: str
    associations: int
    what: str
    """300 kB or 20 MB."""

    def __str__(self) -> str:
        return f"{self.sender} x{self.associations} {self.what}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=160, help="per run, over all associations")
    parser.add_argument("--big", type=int, default=8, help="20 MB multi-frame instances per run")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--limit", type=float, default=170, help="seconds after which no round begins")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--receiver", nargs=3, metavar=("SPOOL", "PORT", "PATH"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.receiver:
        return serve(Path(args.receiver[0]), int(args.receiver[1]), fast_path=args.receiver[2] == "fast")

    contenders = available()
    cases = [Case(sender, n, "300 kB") for sender in ("raw", "dcmsend") for n in (1, 4, 8)]
    cases += [Case("raw", 2, "20 MB"), Case("default", 1, "300 kB")]
    runs: dict[tuple[str, Case], list[Run]] = {}
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ingest-") as name:
        work = Path(name)
        flush_ms = [flush_time(work)]
        data = {n: make_instances(work / f"data{n}", args.instances, n) for n in (1, 4, 8)}
        big = make_instances(work / "big", args.big, 2, frames=BIG_FRAMES)
        few = [work / "few"]
        few[0].mkdir()
        for path in sorted(data[1][0].iterdir())[:40]:
            shutil.copy(path, few[0])  # at 45 ms each
        for number in range(args.rounds):
            if number and time.monotonic() - begin > args.limit:
                break
            for case in cases:
                folders = big if case.what == "20 MB" else few if case.sender == "default" else data[case.associations]
                for contender in contenders:
                    run = measure(contender, case, folders, work / "store")
                    runs.setdefault((contender.name, case), []).append(run)
        flush_ms.append(flush_time(work))
    figures = report([c.name for c in contenders], cases, runs)
    print(
        f"one flush of a 300 kB file and its folder: {flush_ms[0]:.1f} ms before, {flush_ms[1]:.1f} ms after the runs"
    )
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))
    return 0


# ------------------------------------------------------------------------------------------------ receivers


def available() -> list[Contender]:
    """What is installed; ours come first."""
    found = [Contender(OURS, _ours("fast")), Contender(STOCK, _ours("stock"))]
    path = "/usr/bin:/usr/sbin:/usr/local/bin"  # before PATH: pynetdicom brings a storescp of its own
    if tool := shutil.which("storescp", path=path):
        found.append(Contender(STORESCP, lambda store, port: [tool, "--fork", "-od", str(store), str(port)]))
    if orthanc := shutil.which("Orthanc", path=path):
        found.append(Contender(ORTHANC, lambda store, port: [orthanc, str(_orthanc_settings(store, port))]))
    if not shutil.which("dcmsend", path=path):
        sys.exit("dcmsend is not installed (Debian package dcmtk): nothing to send with")
    return found


def _ours(path: str) -> Callable[[Path, int], list[str]]:
    return lambda store, port: [
        sys.executable, "-m", "benchmarks.bench_ingest", "--receiver", str(store), str(port), path
    ]  # fmt: skip


def _orthanc_settings(store: Path, port: int) -> Path:
    path = store / "orthanc.json"
    settings = {
        "StorageDirectory": str(store),
        "IndexDirectory": str(store),
        "DicomAet": "ANY",
        "DicomPort": port,
        "DicomThreadsCount": 8,
        "SyncStorageArea": True,
        "HttpServerEnabled": False,
    }
    path.write_text(json.dumps(settings))
    return path


def serve(spool_folder: Path, port: int, *, fast_path: bool) -> int:
    """Our receiver with everything a site has: spool, SQLite in the spool, group commit."""
    from stenosis_node.config import load
    from stenosis_node.jobs import JobStore
    from stenosis_node.receive import Receiver
    from stenosis_node.spool import Spool

    config = load(
        None,
        overrides={
            "spool": str(spool_folder),
            "grading": {"bundle": str(spool_folder)},
            "receive": {
                "ae_title": "ANY",
                "port": port,
                "check_called_ae_title": False,
                "min_free_mb": 0,
                "max_associations": 500,
                "fast_path": fast_path,
            },
        },
    )
    store = JobStore(config.database_url)
    store.migrate()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    Receiver(config, Spool(config.spool), store).serve_forever(stop)
    store.close()
    return 0


# ------------------------------------------------------------------------------------------------ one run


def measure(contender: Contender, case: Case, folders: list[Path], store: Path) -> Run:
    """Start the receiver on an empty store, send each folder over its own association, check that all arrived."""
    shutil.rmtree(store, ignore_errors=True)
    store.mkdir()
    port = free_port()
    environment = os.environ | ({} if case.sender == "default" else {"TCP_NODELAY": "1"})
    files = [path for folder in folders for path in folder.iterdir()]
    size = sum(path.stat().st_size for path in files)
    with running(contender.command(store, port), port, environment) as process, watch(process) as peak:
        idle = tree_bytes(process)
        before = cpu_s(process)
        if case.sender == "raw":
            seconds, latencies = send_raw(folders, port)
        else:
            seconds, latencies = send_dcmtk(folders, port, environment), []
        time.sleep(0.3)  # children of storescp --fork end
        used = cpu_s(process) - before
    arrived = sum(1 for path in store.rglob("*") if path.is_file() and path.stat().st_size > size / len(files) / 2)
    if arrived < len(files):
        raise SystemExit(f"{contender.name}, {case}: {arrived} of {len(files)} instances arrived")
    return Run(len(files) / seconds, used / size * 1e9, idle / 1e6, peak() / 1e6, tuple(latencies))


def send_dcmtk(folders: list[Path], port: int, environment: dict[str, str]) -> float:
    """Seconds that DCMTK's dcmsend takes."""
    begin = time.monotonic()
    senders = [
        subprocess.Popen(
            ["/usr/bin/dcmsend", "--scan-directories", "127.0.0.1", str(port), str(folder)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        for folder in folders
    ]
    codes = [sender.wait(170) for sender in senders]
    if any(codes):
        raise SystemExit("dcmsend failed")
    return time.monotonic() - begin


# ------------------------------------------------------------------------------------------------ the raw sender


def send_raw(folders: list[Path], port: int) -> tuple[float, list[float]]:
    """Seconds from the first byte of the first to the last response, and the time of each instance in ms."""
    barrier, answers = SPAWN.Barrier(len(folders)), SPAWN.SimpleQueue()
    senders = [SPAWN.Process(target=_send_folder, args=(folder, port, barrier, answers)) for folder in folders]
    for sender in senders:
        sender.start()
    times: list[tuple[float, float]] = []
    for _ in senders:
        times += answers.get()
    for sender in senders:
        sender.join()
    if not times:
        raise SystemExit("an instance was not answered with Success")
    seconds = max(end for _, end in times) - min(begin for begin, _ in times)
    return seconds, [(end - begin) * 1e3 for begin, end in times]


def _send_folder(folder: Path, port: int, barrier: Any, answers: Any) -> None:
    """One association. Puts (begin, end) of each instance, nothing at all if one was refused."""
    times = []
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.sendall(associate_rq())
        answer = read_pdu(peer)
        at = answer.rindex(b"\x51\0\0\4") + 4  # maximum length
        max_pdu = min(int.from_bytes(answer[at : at + 4], "big") or MAX_PDU, MAX_PDU)
        instances = [_encoded(path, number, max_pdu) for number, path in enumerate(sorted(folder.iterdir()), start=1)]
        barrier.wait(60)
        for pdus in instances:
            begin = time.monotonic()
            peer.sendall(pdus)
            answer = read_pdu(peer)
            times.append((begin, time.monotonic()))
            if b"\x00\x00\x00\x09\x02\x00\x00\x00\x00\x00" not in answer:  # (0000,0900) Status: Success
                print(f"answered with {answer.hex()}", file=sys.stderr)
                times = []
                break
        answers.put(times)
        peer.sendall(b"\x05\0\0\0\0\x04\0\0\0\0")
        read_pdu(peer)


def associate_rq() -> bytes:
    request = A_ASSOCIATE()
    request.application_context_name = "1.2.840.10008.3.1.1.1"
    request.calling_ae_title, request.called_ae_title = "RAW", "ANY"
    contexts = [build_context(uid, ExplicitVRLittleEndian) for uid in (MRImageStorage, EnhancedMRImageStorage)]
    for number, context in enumerate(contexts):
        context.context_id = 2 * number + 1
    request.presentation_context_definition_list = contexts
    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    length.maximum_length_received, implementation.implementation_class_uid = 16384, "1.2.3.4"
    request.user_information = [length, implementation]
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(request)
    return pdu.encode()


def _encoded(path: Path, message_id: int, max_pdu: int) -> bytes:
    """Every PDU of one C-STORE request."""
    content = path.read_bytes()
    meta = dcmread(path, specific_tags=[], stop_before_pixels=True).file_meta
    sop_class, sop_instance = str(meta.MediaStorageSOPClassUID), str(meta.MediaStorageSOPInstanceUID)
    dataset = content[144 + struct.unpack_from("<L", content, 140)[0] :]
    context = 1 if sop_class == MRImageStorage else 3
    body = (
        _element(0x0002, sop_class.encode())
        + _element(0x0100, b"\1\0")
        + _element(0x0110, struct.pack("<H", message_id))
        + _element(0x0700, b"\0\0")
        + _element(0x0800, b"\1\0")
        + _element(0x1000, sop_instance.encode())
    )
    pdus = [_p_data(context, 3, _element(0x0000, struct.pack("<L", len(body))) + body)]
    step = max_pdu - 6
    for at in range(0, len(dataset), step):
        pdus.append(_p_data(context, 2 if at + step >= len(dataset) else 0, dataset[at : at + step]))
    return b"".join(pdus)


def _p_data(context: int, control: int, fragment: bytes) -> bytes:
    return struct.pack(">BBLLBB", 4, 0, len(fragment) + 6, len(fragment) + 2, context, control) + fragment


def _element(number: int, value: bytes) -> bytes:
    value += bytes(len(value) % 2)
    return struct.pack("<HHL", 0, number, len(value)) + value


def read_pdu(peer: socket.socket) -> bytes:
    head = peer.recv(6, socket.MSG_WAITALL)
    return head + peer.recv(int.from_bytes(head[2:], "big"), socket.MSG_WAITALL)


# ------------------------------------------------------------------------------------------------ the process


@contextlib.contextmanager
def running(command: list[str], port: int, environment: dict[str, str]) -> Iterator[psutil.Popen]:
    """A listening process, ended afterwards."""
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        deadline = time.monotonic() + 120
        while True:
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{command[0]} does not listen")
            time.sleep(0.05)
        time.sleep(0.2)
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(psutil.TimeoutExpired):
            process.wait(10)
        if process.poll() is None:
            process.kill()
            process.wait()


def cpu_s(process: psutil.Popen) -> float:
    """CPU seconds of the process and of its children, ended ones included."""
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


@contextlib.contextmanager
def watch(process: psutil.Popen) -> Iterator[Callable[[], int]]:
    """Sample the resident memory of the process tree; the yielded function gives the peak in bytes."""
    peak, done = 0, threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(0.05):
            peak = max(peak, tree_bytes(process))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield lambda: peak
    finally:
        done.set()
        thread.join()


def tree_bytes(process: psutil.Popen) -> int:
    """Resident memory of the process with its children, pages that they share counted in each."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            total += one.memory_info().rss
    return total


def flush_time(folder: Path) -> float:
    """Median ms to write and flush 300 kB and the folder: what durability costs on this disk right now."""
    times = []
    for _ in range(25):
        begin = time.perf_counter()
        path = folder / "flush"
        with path.open("wb") as file:
            file.write(bytes(300_000))
            os.fsync(file.fileno())
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        times.append((time.perf_counter() - begin) * 1e3)
        path.unlink()
    return statistics.median(times)


def make_instances(folder: Path, count: int, groups: int, frames: int = 1) -> list[Path]:
    """Synthetic MR instances, one folder (and study) per association: 300 kB each, or 20 MB with 40 frames."""
    rng = np.random.default_rng(1)
    folders = []
    rows = ROWS if frames == 1 else BIG_ROWS
    for group in range(groups):
        target = folder / str(group)
        target.mkdir(parents=True)
        folders.append(target)
        for number in range(max(1, count // groups)):
            ds = Dataset()
            ds.file_meta = FileMetaDataset()
            ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            ds.SOPClassUID = MRImageStorage if frames == 1 else EnhancedMRImageStorage
            ds.SOPInstanceUID = f"1.2.826.0.1.3680043.10.999.{groups}.{group}.2.{frames}{number:04d}"
            ds.StudyInstanceUID = f"1.2.826.0.1.3680043.10.999.{groups}.{group}.0.{frames}"
            ds.SeriesInstanceUID = f"1.2.826.0.1.3680043.10.999.{groups}.{group}.1.{frames}.{number // 20}"
            ds.PatientName, ds.PatientID, ds.Modality = "Bench^Mark", f"B{groups}{group}", "MR"
            ds.StudyDate = ds.StudyTime = ds.AccessionNumber = ds.StudyID = ""
            ds.SeriesNumber, ds.InstanceNumber = number // 20, number + 1
            ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
            if frames > 1:
                ds.NumberOfFrames = frames
            ds.Rows = ds.Columns = rows
            ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
            ds.PixelData = rng.integers(0, 4095, rows * rows * frames, dtype=np.uint16).tobytes()
            ds.save_as(target / f"{number:04d}.dcm", enforce_file_format=True)
    return folders


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


# ------------------------------------------------------------------------------------------------ the table


def report(names: list[str], cases: list[Case], runs: dict[tuple[str, Case], list[Run]]) -> list[dict[str, object]]:
    """Print medians, and whether each target holds."""
    figures: list[dict[str, object]] = []
    print(f"\nC-STORE ingest, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}; ratio: ours, fast, over this")
    print(
        f"{'case':<20}{'receiver':<18}{'inst./s':>9}{'ratio':>7}{'CPU s/GB':>10}{'p50 ms':>9}{'p99 ms':>9}"
        f"{'idle MB':>9}{'peak MB':>9}{'runs':>6}"
    )
    for case in cases:
        for name in names:
            done = runs[name, case]
            times = sorted(t for run in done for t in run.latencies_ms)
            row: dict[str, object] = {
                "case": str(case),
                "receiver": name,
                "instances_per_s": round(statistics.median(r.per_second for r in done), 1),
                "ratio": round(ratio(runs, case, name), 2),
                "cpu_s_per_gb": round(statistics.median(r.cpu_s_per_gb for r in done), 2),
                "p50_ms": round(times[len(times) // 2], 2) if times else None,
                "p99_ms": round(times[len(times) * 99 // 100], 2) if times else None,
                "idle_mb": round(statistics.median(r.idle_mb for r in done), 1),
                "peak_mb": round(max(r.peak_mb for r in done), 1),
                "runs": len(done),
            }
            figures.append(row)
            case_, *cells = (str("" if value is None else value) for value in row.values())
            widths = (18, 9, 7, 10, 9, 9, 9, 9, 6)
            print(
                f"{case_:<20}{cells[0]:<18}" + "".join(f"{c:>{w}}" for c, w in zip(cells[1:], widths[1:], strict=True))
            )
    for sentence in judge(names, cases, runs):
        print(sentence)
    return figures


def ratio(runs: dict[tuple[str, Case], list[Run]], case: Case, other: str, ours: str = OURS) -> float:
    """Rate of ours over that of the other; the median over the rounds, in each of which they took turns."""
    pairs = zip(runs[ours, case], runs[other, case], strict=True)
    return statistics.median(one.per_second / another.per_second for one, another in pairs)


def judge(names: list[str], cases: list[Case], runs: dict[tuple[str, Case], list[Run]]) -> Iterator[str]:
    """One line per target."""

    def line(what: str, value: float, must: float, reach: float, *, below: bool = False) -> str:
        holds, reached = (value <= must, value <= reach) if below else (value >= must, value >= reach)
        verdict = "reached" if reached else "holds" if holds else "MISSED"
        return f"{what:<58}{value:>8.2f}  (must {must}, reach {reach}): {verdict}"

    for case in cases:
        if case.what == "300 kB" and case.sender == "dcmsend":
            if ORTHANC in names:
                yield line(f"{case}: over Orthanc", ratio(runs, case, ORTHANC), 1.5, 2.5)
            if STORESCP in names:
                yield line(f"{case}: over storescp --fork, not durable", ratio(runs, case, STORESCP), 0.6, 0.8)
        elif case.sender == "raw":
            if ORTHANC in names:
                yield line(f"{case}: over Orthanc", ratio(runs, case, ORTHANC), 1.5, 2.5)
            cpu = statistics.median(run.cpu_s_per_gb for run in runs[OURS, case])
            yield line(f"{case}: CPU s per GB", cpu, 2.8, 1.5, below=True)
        elif case.sender == "default":
            for name in (STORESCP, ORTHANC):
                if name in names:
                    yield line(f"default dcmsend, 1 association: over {name}", ratio(runs, case, name), 15, 25)


if __name__ == "__main__":
    raise SystemExit(main())
