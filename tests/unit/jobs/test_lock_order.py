"""Whoever locks several jobs does so in one order: PostgreSQL ends one of two transactions that wait for each other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Connection, select

from stenosis_node.jobs import JobStore
from stenosis_node.jobs.schema import job
from tests.unit.jobs.conftest import Databases
from tests.unit.jobs.drive import CT, at, claimed_delivery, graded, instance

FIRST, SECOND = "1.10", "1.2"
"""In the order of characters; a server that sorts numbers as numbers has it the other way round."""


@pytest.fixture
def store(databases: Databases) -> Iterator[JobStore]:
    """Two jobs, numbered against the order of their studies, in a database whose language sorts numbers as numbers."""
    if databases.kind == "sqlite":
        pytest.skip("SQLite locks the whole file")
    store = JobStore(databases.make())
    with store._writing("test") as connection:
        connection.exec_driver_sql("CREATE COLLATION numeric_order (provider = icu, locale = 'en-u-kn-true')")
        connection.exec_driver_sql(
            "ALTER TABLE job ALTER COLUMN study_instance_uid TYPE varchar(64) COLLATE numeric_order"
        )
    assert graded(store, number=1, study=SECOND) == 1
    assert graded(store, number=2, study=FIRST) == 2
    yield store
    store.close()


def _deliveries_under_way(store: JobStore) -> None:
    for _ in range(2):
        claimed_delivery(store, 30)


def _deliveries_failed(store: JobStore) -> None:
    for _ in range(2):
        store.fail_delivery(claimed_delivery(store, 30), sentence="no", now=at(31))


def _deliveries_waiting(store: JobStore) -> None:
    for _ in range(2):
        lease = claimed_delivery(store, 30)
        store.retry_delivery_later(lease, retry_at=at(90), sentence="no", max_attempts=3, now=at(31))


def _withdrawals_failed(store: JobStore) -> None:
    _delivered(store)
    _recall(store)
    for _ in range(2):
        lease = store.claim_withdrawal("pacs", worker="w", lease_s=60, max_attempts=3, now=at(40))
        assert lease is not None
        store.fail_withdrawal(lease, sentence="no", now=at(41))


def _delivered(store: JobStore) -> None:
    for _ in range(2):
        lease = claimed_delivery(store, 30)
        store.record_document(lease, "8.aa.2", status=0, text="", now=at(31))
        store.advance_delivery(lease, now=at(32))


def _recall(store: JobStore) -> None:
    targets = [target for job_id in (1, 2) for target in store.recallable(job_id=job_id)]
    notes: dict[tuple[int, str], str | None] = {(one.result_id, one.peer): f"note{one.job_id}" for one in targets}
    store.recall(targets, why="x", notes=notes, now=at(35))


def _touch(store: JobStore) -> None:
    late = [(instance(number, study=study), False) for number, study in ((8, SECOND), (9, FIRST))]
    store.touch_many(late, quiet_period_s=10, ceiling_s=100, now=at(60))


@pytest.mark.parametrize(
    ("prepare", "act"),
    [
        pytest.param(lambda store: None, _touch, id="touch_many"),
        pytest.param(_deliveries_under_way, lambda store: store.free_leases_of("sender"), id="free_leases_of"),
        pytest.param(_deliveries_failed, lambda store: store.retry_peer("pacs", now=at(60)), id="retry_peer"),
        pytest.param(_withdrawals_failed, lambda store: store.retry_peer("pacs", now=at(60)), id="retry_withdrawals"),
        pytest.param(_deliveries_waiting, lambda store: store.resume_peer("pacs", now=at(60)), id="resume_peer"),
        pytest.param(_delivered, _recall, id="recall"),
    ],
)
def test_jobs_are_locked_in_the_order_of_their_studies(
    store: JobStore, prepare: Callable[[JobStore], object], act: Callable[[JobStore], object]
) -> None:
    prepare(store)
    failures: list[Exception] = []

    def work() -> None:
        try:
            act(store)
        except Exception as error:
            failures.append(error)

    acting = threading.Thread(target=work)
    with store._engine.begin() as connection:
        _lock(connection, FIRST)
        acting.start()
        _wait_for_a_waiting_transaction(store)
        _lock(connection, SECOND)  # nobody who waits for the first has it
    acting.join(20)

    assert not acting.is_alive()
    assert failures == []


def test_instances_without_a_job_are_inserted_in_one_order(store: JobStore) -> None:
    arrivals = [(instance(number, study="7.7", sop_class=CT), False) for number in (2, 1)]
    failures: list[Exception] = []

    def work() -> None:
        try:
            store.touch_many(arrivals, quiet_period_s=10, ceiling_s=100, now=at(60))
        except Exception as error:
            failures.append(error)

    acting = threading.Thread(target=work)
    with store._engine.begin() as connection:
        for received, _ in reversed(arrivals):
            assert store._add_instance(connection, received, None, conflict=False)
            if not acting.is_alive():
                acting.start()
                _wait_for_a_waiting_transaction(store)
    acting.join(20)

    assert not acting.is_alive()
    assert failures == []


def _lock(connection: Connection, study: str) -> None:
    connection.execute(select(job.c.id).where(job.c.study_instance_uid == study).with_for_update(nowait=True)).one()


def _wait_for_a_waiting_transaction(store: JobStore) -> None:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    for _ in range(500):
        with store._engine.begin() as connection:
            if connection.exec_driver_sql(waiting).scalar_one():
                return
        time.sleep(0.02)
    pytest.fail("nobody waits")
