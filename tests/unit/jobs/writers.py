"""What the processes of test_processes and test_database do. Light to import: each of them starts a new interpreter."""

from __future__ import annotations

import random
import time
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

from stenosis_node.domain import JobState
from stenosis_node.errors import LeaseLost
from stenosis_node.jobs import JobStore, PeerSpec
from tests.unit.completeness import conclude_checks
from tests.unit.jobs.drive import at, document, instance

WRITERS = 4
STUDIES = 3
PER_WRITER = 40


def migrate(url: str, barrier: Any, failures: Queue[str]) -> None:
    store = JobStore(url)
    barrier.wait(60)
    try:
        store.migrate()
        store.counts()
    except Exception as error:
        failures.put(repr(error))
    store.close()


def receive_into_few_studies(writer: int, barrier: Any, said: Queue[Any], url: str) -> None:
    store = JobStore(url)
    barrier.wait(60)
    for number in range(PER_WRITER):
        received = instance(f"{writer}.{number}", study=f"1.{number % STUDIES}")
        store.touch(received, quiet_period_s=10, ceiling_s=100, now=at(number))
        store.touch(
            instance(f"all.{number}", study=f"1.{number % STUDIES}"), quiet_period_s=10, ceiling_s=100, now=at(0)
        )
    store.close()
    said.put(None)


def work(writer: int, barrier: Any, said: Queue[Any], url: str) -> None:
    """Grade and deliver whatever can be claimed, sometimes losing the lease to a late instance on purpose."""
    store = JobStore(url)
    random_ = random.Random(writer)
    claims: list[tuple[int, int, str]] = []
    sent: list[int] = []
    lost = 0
    barrier.wait(60)
    idle = 0
    while idle < 20:
        idle += 1
        conclude_checks(store, now=at(1000))
        lease = store.claim(JobState.RECEIVED, worker=f"w{writer}", lease_s=600, max_attempts=3, now=at(1000))
        if lease is not None:
            idle = 0
            claims.append((lease.job_id, lease.attempt, lease.token))
            if random_.random() < 0.3 and lease.revision == 0:
                late = instance(f"late.{lease.job_id}", study=lease.study_instance_uid)
                store.touch(late, quiet_period_s=0, ceiling_s=100, now=at(1000))
            n = len(store.instances(lease.job_id))
            try:
                store.advance_graded(
                    lease,
                    result_key=f"{lease.job_id:08x}{n:08x}",
                    chosen_key="c",
                    documents=[document(f"8.{lease.job_id}.{n}")],
                    peers=[PeerSpec("pacs")],
                    now=at(1001),
                )
            except LeaseLost:
                lost += 1
        delivery = store.claim_delivery("pacs", worker=f"w{writer}", lease_s=600, max_attempts=3, now=at(1002))
        if delivery is not None:
            idle = 0
            store.record_document(delivery, f"8.{delivery.job_id}", status=0, text="", now=at(1003))
            store.advance_delivery(delivery, now=at(1004))
            sent.append(delivery.delivery_id)
        else:
            time.sleep(0.005)
    store.close()
    said.put((claims, sent, lost))


def receive_until_killed(url: str, acknowledged: Path) -> None:
    store = JobStore(url)
    with acknowledged.open("ab", buffering=0) as log:
        for number in range(100_000):
            store.touch(instance(number), quiet_period_s=10, ceiling_s=100, now=at(0))
            log.write(f"3.{number}\n".encode())
