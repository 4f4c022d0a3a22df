"""What associations that say nothing cost: CPU, threads, memory, and the time others take to store.

    python -m benchmarks.bench_idle [--associations N] [--seconds S] [--json FILE]

Our receiver on both paths, in turn: first nobody is connected, then N associations that never send a thing; each time
it is watched for a while, then one more association stores instances of 300 kB.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.bench_ingest import (
    OURS,
    STOCK,
    associate_rq,
    available,
    cpu_s,
    free_port,
    make_instances,
    read_pdu,
    running,
    send_raw,
    tree_bytes,
)

INSTANCES = 60


@dataclass(frozen=True)
class Cost:
    """One receiver with some associations open."""

    receiver: str
    associations: int
    cpu_percent: float
    """Of one core, while nothing happens."""
    threads: int
    resident_mb: float
    p50_ms: float
    """Of an instance of another association."""
    p99_ms: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--associations", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10, help="that nothing happens")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    costs: list[Cost] = []
    with tempfile.TemporaryDirectory(prefix="idle-") as name:
        folders = make_instances(Path(name) / "data", INSTANCES, 1)
        for receiver in [one for one in available() if one.name in (OURS, STOCK)]:
            store = Path(name) / "store"
            for associations in (0, args.associations):
                shutil.rmtree(store, ignore_errors=True)
                store.mkdir()
                port = free_port()
                with (
                    running(receiver.command(store, port), port, dict(os.environ)) as process,
                    contextlib.ExitStack() as peers,
                ):
                    for _ in range(associations):
                        peer = peers.enter_context(socket.create_connection(("127.0.0.1", port)))
                        peer.sendall(associate_rq())
                        if read_pdu(peer)[0] != 2:
                            raise SystemExit(f"{receiver.name} does not take {associations} associations")
                    time.sleep(1)
                    before = cpu_s(process)
                    time.sleep(args.seconds)
                    idle = (cpu_s(process) - before) / args.seconds * 100
                    threads, resident = process.num_threads(), tree_bytes(process) / 1e6
                    _, latencies = send_raw(folders, port)
                times = sorted(latencies)
                p50, p99 = statistics.median(times), times[len(times) * 99 // 100]
                costs.append(Cost(receiver.name, associations, idle, threads, resident, p50, p99))
    print(f"{'receiver':<18}{'associations':>13}{'CPU %':>8}{'threads':>9}{'MB':>7}{'p50 ms':>8}{'p99 ms':>8}")
    for cost in costs:
        print(
            f"{cost.receiver:<18}{cost.associations:>13}{cost.cpu_percent:>8.1f}{cost.threads:>9}"
            f"{cost.resident_mb:>7.0f}{cost.p50_ms:>8.2f}{cost.p99_ms:>8.2f}"
        )
    if args.json:
        args.json.write_text(json.dumps([asdict(cost) for cost in costs], indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
