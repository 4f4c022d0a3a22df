"""What the queue costs per instance, empty and with a million instances in 100,000 jobs: SQLite, every commit flushed.

    python -m benchmarks.bench_queue [--jobs N] [--per-job N] [--folder DIR]

A flush of the disk costs the same whoever asks for it, and changes from minute to minute. So each row is measured in
turns on both databases, next to a bare commit of one row by sqlite3 itself; ratios are what counts.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from stenosis_node.domain import DeliveryState, JobState, ReceivedInstance
from stenosis_node.jobs import JobStore, PeerSpec
from stenosis_node.jobs.schema import delivery, event, instance, job, result

T0 = datetime(2025, 1, 1, tzinfo=UTC)
NOW = T0 + timedelta(days=2)
PORTION = 2000
GROUP = 16


def uid(*parts: int) -> str:
    """As long as those of real scanners."""
    return "1.2.826.0.1.3680043.8.498." + ".".join(f"{part:07d}" for part in parts)


def received(study: int, series: int, number: int) -> ReceivedInstance:
    names = uid(study), uid(study, series), uid(study, series, number)
    return ReceivedInstance(
        study_instance_uid=names[0],
        series_instance_uid=names[1],
        sop_instance_uid=names[2],
        sop_class_uid="1.2.840.10008.5.1.4.1.1.4",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        path=Path("instances", names[0], names[1], f"{names[2]}.dcm"),
        size_bytes=300_000,
        sha256=f"{number:064x}",
        calling_ae_title="PACS",
        received_at=T0,
    )


def fill(store: JobStore, jobs: int, per_job: int) -> None:
    """Delivered jobs with one result to one peer; one in a thousand waits for a dead peer."""
    for first in range(1, jobs + 1, PORTION):
        ids = range(first, min(first + PORTION, jobs + 1))
        with store._writing("filled") as connection:
            connection.execute(insert(job), [_job(i, per_job) for i in ids])
            connection.execute(insert(instance), [_instance(i, n) for i in ids for n in range(per_job)])
            connection.execute(insert(result), [_result(i) for i in ids])
            connection.execute(insert(delivery), [_delivery(i) for i in ids])
            told = [{"job_id": i, "at": T0, "kind": "opened", "sentence": "x" * 40} for i in ids for _ in range(6)]
            connection.execute(insert(event), told)


def _job(i: int, per_job: int) -> dict[str, Any]:
    return {
        "id": i,
        "study_instance_uid": uid(i),
        "state": JobState.GRADED if i % 1000 == 0 else JobState.DELIVERED,
        "n_instances": per_job,
        "n_bytes": per_job * 300_000,
        "complete_because": "quiet",
        "revision": 1,
        **dict.fromkeys(
            ("state_since", "created_at", "opened_at", "last_instance_at", "quiet_until", "ceiling_at", "tidied_at"), T0
        ),
    }


def _instance(i: int, n: int) -> dict[str, Any]:
    one = received(i, n // 20, n)
    names = one.__dataclass_fields__
    return {name: getattr(one, name) for name in names} | {"path": one.path.as_posix(), "job_id": i}


def _result(i: int) -> dict[str, Any]:
    return {
        "id": i,
        "job_id": i,
        "revision": 1,
        "result_key": f"{i:064x}",
        "chosen_key": f"{i:064x}",
        "first_claimed_at": T0,
        "created_at": T0,
    }


def _delivery(i: int) -> dict[str, Any]:
    waits = i % 1000 == 0
    return {
        "job_id": i,
        "result_id": i,
        "peer": "pacs",
        "required": True,
        "state": DeliveryState.PENDING if waits else DeliveryState.DELIVERED,
        "state_since": T0,
        "retry_at": T0 + timedelta(days=90) if waits else T0,
    }


class Trial:
    """One database and what is done to it. Each call works on instances that have not been there before."""

    def __init__(self, path: Path, jobs: int, per_job: int) -> None:
        self.store = JobStore(f"sqlite:///{path}")
        self.store.migrate()
        fill(self.store, jobs, per_job)
        self.known = jobs
        self.study = 5_000_000
        self.number = 0

    def touch(self) -> None:
        self.number += 1
        self.store.touch(received(self.study, 1, self.number), quiet_period_s=180, ceiling_s=3600, now=NOW)

    def touch_many(self) -> None:
        arrivals = [(received(self.study, 1, self.number + i), False) for i in range(1, GROUP + 1)]
        self.number += GROUP
        self.store.touch_many(arrivals, quiet_period_s=180, ceiling_s=3600, now=NOW)

    def resend(self) -> None:
        self.store.touch(received(self.study, 1, 1), quiet_period_s=180, ceiling_s=3600, now=NOW)

    def journey(self) -> None:
        """A new study: received, checked, claimed, graded, delivered."""
        self.study += 1
        self.touch()
        later = NOW + timedelta(days=1)
        self.check_all(later)
        lease = self.store.claim(JobState.RECEIVED, worker="w", lease_s=60, max_attempts=3, now=later)
        while lease is not None and lease.study_instance_uid != uid(self.study):
            self.store.reject(lease, reason="no-candidate", sentence="not this one", now=later)
            lease = self.store.claim(JobState.RECEIVED, worker="w", lease_s=60, max_attempts=3, now=later)
        assert lease is not None
        key = f"{self.study:064x}"
        self.store.advance_graded(
            lease, result_key=key, chosen_key=key, documents=[], peers=[PeerSpec("pacs")], now=later
        )
        sending = self.store.claim_delivery("pacs", worker="w", lease_s=60, max_attempts=3, now=later)
        assert sending is not None
        self.store.advance_delivery(sending, now=later)

    def check_all(self, now: datetime) -> None:
        while (lease := self.store.claim_check(worker="w", lease_s=60, now=now)) is not None:
            self.store.conclude_check(lease, because="quiet", now=now)

    def check_nothing(self) -> None:
        self.store.claim_check(worker="w", lease_s=60, now=NOW)

    def claim_no_commitment(self) -> None:
        self.store.claim_commitment("pacs", worker="w", lease_s=60, now=NOW)

    def status(self) -> None:
        self.store.status(now=NOW)

    def claim_nothing(self) -> None:
        self.store.claim(JobState.RECEIVED, worker="w", lease_s=60, max_attempts=3, now=NOW)

    def claim_no_delivery(self) -> None:
        self.store.claim_delivery("pacs", worker="w", lease_s=60, max_attempts=3, now=NOW)

    def list_newest(self) -> None:
        self.store.list_jobs(limit=50)

    def list_received(self) -> None:
        self.store.list_jobs(states=[JobState.RECEIVED, JobState.FAILED], limit=50)

    def counts(self) -> None:
        self.store.counts()

    def purge_nothing(self) -> None:
        self.store.purgeable(instances_days=7, documents_days=90, keep_ungradable=False, now=NOW)


def per_second(work: Callable[[], None], seconds: float) -> float:
    """Calls per second, from the median of the single times."""
    times = []
    end = time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        work()
        times.append(time.perf_counter() - start)
    return 1 / statistics.median(times)


def bare_commit(path: Path) -> Callable[[], None]:
    """The floor: one row, one flushed commit, nothing else."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE t (x)")
    return lambda: connection.execute("INSERT INTO t VALUES ('x')") and None


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--per-job", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=0.7, help="of each measurement")
    parser.add_argument("--folder", type=Path, help="on the disk to be measured")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder)
        commit = bare_commit(path / "bare.db")
        empty = Trial(path / "empty.db", 0, 0)
        start = time.perf_counter()
        full = Trial(path / "full.db", options.jobs, options.per_job)
        size_mb = (path / "full.db").stat().st_size / 1e6
        n = options.jobs * options.per_job
        print(f"{options.jobs} jobs, {n} instances: {size_mb:.0f} MB, made in {time.perf_counter() - start:.0f} s")
        print(f"{'per second (median of 3)':28} {'bare commit':>12} {'empty':>9} {'full':>9} {'full/empty':>11}")
        for name in (
            "touch", "touch_many", "resend", "journey", "check_nothing", "claim_nothing", "claim_no_delivery",
            "claim_no_commitment", "list_newest", "list_received", "counts", "status", "purge_nothing",
        ):  # fmt: skip
            rows = [
                (
                    per_second(commit, options.seconds / 3),
                    per_second(getattr(empty, name), options.seconds),
                    per_second(getattr(full, name), options.seconds),
                )
                for _ in range(3)
            ]
            bare, on_empty, on_full = (statistics.median(column) for column in zip(*rows, strict=True))
            group = GROUP if name == "touch_many" else 1
            label = f"{name} (x{GROUP})" if group > 1 else name
            print(
                f"{label:28} {bare:12.0f} {on_empty * group:9.0f} {on_full * group:9.0f} {on_full / on_empty:11.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
