"""How fast instances arrive: our receiver with full durability beside DCMTK's storescp and Orthanc, in one run.

    python -m benchmarks.bench_ingest [--instances N] [--rounds N]

The sender is always DCMTK's ``dcmsend`` as installed, one process per association. Receivers take turns (each round
every receiver once, on an empty store), so that a busy machine hits all alike; the table shows medians. Ours answers
Success after fsync of file and folder and a SQLite commit with synchronous=FULL; storescp has no durable mode; Orthanc
flushes the file but not its index. CPU and peak memory are those of the receiver with its children; sender and receiver
share the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

ROWS = 384
DEADLINE_S = 175


@dataclass(frozen=True)
class Run:
    """One receiver taking everything once."""

    per_second: float
    cpu_s_per_gb: float
    peak_mb: float


@dataclass(frozen=True)
class Contender:
    name: str
    command: Callable[[Path, int], list[str]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=80, help="per run, over all associations")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--receiver", nargs=2, metavar=("SPOOL", "PORT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.receiver:
        return serve(Path(args.receiver[0]), int(args.receiver[1]))

    contenders = available()
    runs: dict[tuple[str, int], list[Run]] = {}
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ingest-") as name:
        work = Path(name)
        flush_ms = [flush_time(work)]
        groups = {n: make_instances(work / f"data{n}", args.instances, n) for n in (1, 4)}
        for number in range(args.rounds):
            for associations, folders in groups.items():
                for contender in contenders:
                    if time.monotonic() - begin > DEADLINE_S and number:
                        continue
                    run = measure(contender, folders, work / "store")
                    runs.setdefault((contender.name, associations), []).append(run)
        flush_ms.append(flush_time(work))
    figures = report(contenders, runs, args.instances)
    print(
        f"one flush of a 300 kB file and its folder: {flush_ms[0]:.1f} ms before, {flush_ms[1]:.1f} ms after the runs"
    )
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))
    return 0


# ------------------------------------------------------------------------------------------------ receivers


def available() -> list[Contender]:
    """What is installed; ours comes first."""
    found = [Contender("stenosis-node, durable", _ours)]
    path = "/usr/bin:/usr/sbin:/usr/local/bin"  # before PATH: pynetdicom brings a storescp of its own
    if tool := shutil.which("storescp", path=path):
        found.append(Contender("DCMTK storescp", lambda store, port: [tool, "-od", str(store), str(port)]))
        found.append(
            Contender("DCMTK storescp --fork", lambda store, port: [tool, "--fork", "-od", str(store), str(port)])
        )
    if orthanc := shutil.which("Orthanc", path=path):
        found.append(Contender("Orthanc", lambda store, port: [orthanc, str(_orthanc_settings(store, port))]))
    if not shutil.which("dcmsend", path=path):
        sys.exit("dcmsend is not installed (Debian package dcmtk): nothing to send with")
    return found


def _ours(store: Path, port: int) -> list[str]:
    return [sys.executable, "-m", "benchmarks.bench_ingest", "--receiver", str(store), str(port)]


def _orthanc_settings(store: Path, port: int) -> Path:
    path = store / "orthanc.json"
    settings = {
        "StorageDirectory": str(store),
        "IndexDirectory": str(store),
        "DicomAet": "ANY",
        "DicomPort": port,
        "DicomThreadsCount": 8,
        "HttpServerEnabled": False,
    }
    path.write_text(json.dumps(settings))
    return path


def serve(spool_folder: Path, port: int) -> int:
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
            "receive": {"ae_title": "ANY", "port": port, "check_called_ae_title": False, "min_free_mb": 0},
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


def measure(contender: Contender, folders: list[Path], store: Path) -> Run:
    """Start the receiver on an empty store, send each folder over its own association, check that all arrived."""
    shutil.rmtree(store, ignore_errors=True)
    store.mkdir()
    port = _free_port()
    with running(contender.command(store, port), port) as process, watch(process) as peak:
        before = cpu_s(process)
        begin = time.monotonic()
        senders = [
            subprocess.Popen(
                ["/usr/bin/dcmsend", "--scan-directories", "127.0.0.1", str(port), str(folder)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for folder in folders
        ]
        codes = [sender.wait(120) for sender in senders]
        seconds = time.monotonic() - begin
        time.sleep(0.3)  # children of storescp --fork end
        used = cpu_s(process) - before
    files = [path for folder in folders for path in folder.iterdir()]
    size = sum(path.stat().st_size for path in files)
    arrived = sum(1 for path in store.rglob("*") if path.is_file() and path.stat().st_size > size / len(files) / 2)
    if any(codes) or arrived < len(files):
        raise SystemExit(f"{contender.name}: {arrived} of {len(files)} instances arrived, dcmsend ended with {codes}")
    return Run(len(files) / seconds, used / size * 1e9, peak() / 1e6)


@contextlib.contextmanager
def running(command: list[str], port: int) -> Iterator[psutil.Popen]:
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
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
            with contextlib.suppress(psutil.Error):
                tree = [process, *process.children(recursive=True)]
                peak = max(peak, sum(p.memory_info().rss for p in tree))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield lambda: peak
    finally:
        done.set()
        thread.join()


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


def make_instances(folder: Path, count: int, groups: int) -> list[Path]:
    """``count`` synthetic MR instances of about 300 kB, one folder (and study) per association."""
    rng = np.random.default_rng(1)
    folders = []
    for group in range(groups):
        target = folder / str(group)
        target.mkdir(parents=True)
        folders.append(target)
        for number in range(count // groups):
            ds = Dataset()
            ds.file_meta = FileMetaDataset()
            ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            ds.SOPClassUID = MRImageStorage
            ds.SOPInstanceUID = f"1.2.826.0.1.3680043.10.999.{groups}.{group}.2.{number + 1}"
            ds.StudyInstanceUID = f"1.2.826.0.1.3680043.10.999.{groups}.{group}.0"
            ds.SeriesInstanceUID = f"1.2.826.0.1.3680043.10.999.{groups}.{group}.1.{number // 20}"
            ds.PatientName, ds.PatientID, ds.Modality = "Bench^Mark", f"B{groups}{group}", "MR"
            ds.StudyDate = ds.StudyTime = ds.AccessionNumber = ds.StudyID = ""
            ds.SeriesNumber, ds.InstanceNumber = number // 20, number + 1
            ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
            ds.Rows = ds.Columns = ROWS
            ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
            ds.PixelData = rng.integers(0, 4095, ROWS * ROWS, dtype=np.uint16).tobytes()
            ds.save_as(target / f"{number:04d}.dcm", enforce_file_format=True)
    return folders


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


# ------------------------------------------------------------------------------------------------ the table


def report(
    contenders: list[Contender], runs: dict[tuple[str, int], list[Run]], instances: int
) -> list[dict[str, object]]:
    """Print the medians; the ratio is ours over theirs."""
    figures: list[dict[str, object]] = []
    print(
        f"\nC-STORE ingest, {instances} MR instances of 300 kB per run, sender: default dcmsend, {os.cpu_count()} CPUs"
    )
    print(f"{'receiver':<24}{'assoc.':>7}{'inst./s':>9}{'ours is':>9}{'CPU s/GB':>10}{'peak MB':>9}{'runs':>6}")
    for associations in (1, 4):
        ours = statistics.median(r.per_second for r in runs[contenders[0].name, associations])
        for contender in contenders:
            done = runs[contender.name, associations]
            rate = statistics.median(r.per_second for r in done)
            cpu = statistics.median(r.cpu_s_per_gb for r in done)
            peak = max(r.peak_mb for r in done)
            print(
                f"{contender.name:<24}{associations:>7}{rate:>9.1f}{ours / rate:>8.1f}x{cpu:>10.1f}{peak:>9.0f}"
                f"{len(done):>6}"
            )
            figures.append(
                {
                    "receiver": contender.name,
                    "associations": associations,
                    "instances_per_s": round(rate, 1),
                    "ours_over_this": round(ours / rate, 2),
                    "cpu_s_per_gb": round(cpu, 2),
                    "peak_mb": round(peak, 1),
                }
            )
    return figures


if __name__ == "__main__":
    raise SystemExit(main())
