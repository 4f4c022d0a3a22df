"""Several processes on one database lose no update and never share a job."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

from stenosis_node.domain import JobState
from stenosis_node.jobs import JobStore
from tests.unit.jobs import writers
from tests.unit.jobs.drive import at, instance
from tests.unit.jobs.writers import PER_WRITER, STUDIES, WRITERS

SPAWN = multiprocessing.get_context("spawn")


def _run(target: Any, *args: Any) -> list[Any]:
    """Start the writers together; everything they said."""
    said = SPAWN.Queue()
    barrier = SPAWN.Barrier(WRITERS)
    processes = [SPAWN.Process(target=target, args=(i, barrier, said, *args)) for i in range(WRITERS)]
    for process in processes:
        process.start()
    answers = [said.get(timeout=90) for _ in processes]
    for process in processes:
        process.join(30)
    assert [p.exitcode for p in processes] == [0] * WRITERS
    return answers


def test_four_receiving_processes_lose_no_instance(url: str) -> None:
    _run(writers.receive_into_few_studies, url)

    store = JobStore(url)
    jobs = store.list_jobs()
    assert len(jobs) == STUDIES
    for job in jobs:
        assert job.n_instances == len(store.instances(job.id)), "a lost update of the count"
    assert sum(job.n_instances for job in jobs) == WRITERS * PER_WRITER + PER_WRITER
    store.close()


def test_four_workers_never_share_a_job_and_finish_them_all(url: str) -> None:
    store = JobStore(url)
    studies = 40
    for study in range(studies):
        store.touch(instance(study, study=f"1.{study}"), quiet_period_s=0, ceiling_s=100, now=at(0))

    answers = _run(writers.work, url)

    claims = [claim for found, _, _ in answers for claim in found]
    sent = [delivery for _, found, _ in answers for delivery in found]
    lost = sum(n for _, _, n in answers)
    assert len({token for _, _, token in claims}) == len(claims)
    assert max(Counter(sent).values()) == 1, "a delivery was made twice"
    assert lost > 0, "the trial never took a lease away"
    assert len(claims) == studies + lost
    assert store.counts() == dict.fromkeys(JobState, 0) | {JobState.DELIVERED: studies}
    for job in store.list_jobs(limit=studies):
        detail = store.job(job.id)
        assert detail is not None
        assert job.revision == len(detail.results) == 1
        assert job.n_instances == len(store.instances(job.id))
        assert [str(d.state) for d in detail.deliveries] == ["delivered"]
    store.close()


def test_what_was_acknowledged_survives_a_killed_process(url: str, tmp_path: Path) -> None:
    acknowledged = tmp_path / "acknowledged"
    process = SPAWN.Process(target=writers.receive_until_killed, args=(url, acknowledged))
    process.start()
    deadline = time.monotonic() + 60
    while not acknowledged.exists() or acknowledged.stat().st_size < 300:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(10)

    store = JobStore(url)
    stored = {i.sop_instance_uid for i in store.instances(1)}
    told = set(acknowledged.read_text().split())
    assert told <= stored
    assert len(stored - told) <= 1
    store.close()
