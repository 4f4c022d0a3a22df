"""Transactions, migrations, and what reaches the caller when the database fails."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import event, func, inspect, select

from stenosis_node.domain import DeliveryState, JobState
from stenosis_node.errors import ConfigError, PermanentError, TransientError
from stenosis_node.jobs import JobStore, WithdrawalState
from stenosis_node.jobs.database import MIGRATION_LOCK
from stenosis_node.jobs.schema import job, metadata
from stenosis_node.receive.commit import Arrival, Committer
from tests.unit.jobs import writers
from tests.unit.jobs.conftest import Databases
from tests.unit.jobs.drive import (
    at,
    claim,
    claim_delivery,
    claimed,
    claimed_delivery,
    decision,
    detail,
    graded,
    instance,
    receive,
    summary,
)

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'jobs.db'}"


@pytest.fixture
def empty_url(databases: Databases) -> str:
    return databases.make(migrated=False)


# --------------------------------------------------------------------------- SQLite


def test_every_writing_transaction_begins_immediate_and_no_reading_one_does(sqlite_url: str) -> None:
    seen: list[str] = []
    store = JobStore(sqlite_url)
    event.listen(store._engine, "connect", lambda driver, _record: driver.set_trace_callback(seen.append))
    store.migrate()
    seen.clear()

    graded(store)
    claim_delivery(store, 21)
    writing, seen[:] = list(seen), []
    store.job(1)
    store.counts()
    store.is_own_document("1.2")

    begins = [s for s in writing if s.startswith("BEGIN")]
    assert begins == ["BEGIN IMMEDIATE"] * 7
    assert writing[0].startswith("BEGIN"), "nothing runs before the transaction has begun"
    assert [s for s in writing if s.startswith("COMMIT")] == ["COMMIT"] * 7
    assert [s for s in seen if s.startswith("BEGIN")] == ["BEGIN"] * 3
    store.close()


def test_sqlite_is_set_up_for_durability(sqlite_url: str, tmp_path: Path) -> None:
    store = JobStore(sqlite_url)
    store.migrate()
    with store._writing("test") as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
        assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000}
        for name in ("jobs.db", "jobs.db-wal"):
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    store.close()


def test_a_reader_is_not_held_up_by_a_writer(sqlite_url: str) -> None:
    store = JobStore(sqlite_url)
    store.migrate()
    receive(store, 1, 0)
    with store._writing("test"):
        assert store.counts()[JobState.RECEIVED] == 1
    store.close()


def test_a_database_locked_for_too_long_is_a_transient_error(sqlite_url: str) -> None:
    store = JobStore(sqlite_url)
    store.migrate()
    with store._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 50")
    other = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(TransientError, match="locked"):
        receive(store, 1, 0)
    other.execute("ROLLBACK")
    other.close()

    assert receive(store, 1, 0).new_instance
    store.close()


def test_a_full_disk_is_a_transient_error_and_loses_nothing(sqlite_url: str) -> None:
    store = JobStore(sqlite_url)
    store.migrate()
    receive(store, 0, 0)
    with store._reading() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    store.close()
    store = JobStore(sqlite_url)
    limit = f"PRAGMA max_page_count = {pages + 2}"  # of a connection
    event.listen(store._engine, "connect", lambda driver, _record: driver.execute(limit))

    def fill() -> None:
        for number in range(1, 1000):
            receive(store, number, 0)
            stored.append(number)

    stored: list[int] = []
    with pytest.raises(TransientError, match="full"):
        fill()
    assert len(store.instances(1)) == 1 + len(stored)
    store.close()


# --------------------------------------------------------------------------- values that do not fit


def test_a_row_that_does_not_fit_is_refused_alone(store: JobStore) -> None:
    groups: list[int] = []
    turn, has_turn = threading.Event(), threading.Event()

    def touch(arrivals: Sequence[Arrival]) -> None:
        groups.append(len(arrivals))
        if len(groups) == 1:
            has_turn.set()
            assert turn.wait(10)
        store.touch_many(arrivals, quiet_period_s=10, ceiling_s=100, now=at(0))

    committer = Committer(touch)
    bad = replace(instance(2), size_bytes=2**63)
    received = {0: instance(0), 1: instance(1), 2: bad, 3: instance(3)}
    failed: dict[int, Exception] = {}

    def commit(number: int) -> None:
        try:
            committer.commit(Arrival(received[number], False))
        except Exception as error:
            failed[number] = error

    threads = [threading.Thread(target=commit, args=(number,)) for number in received]
    threads[0].start()
    assert has_turn.wait(10)
    for thread in threads[1:]:
        thread.start()
    while committer.waiting < 3:
        time.sleep(0.01)
    turn.set()
    for thread in threads:
        thread.join(20)

    assert groups == [1, 3, 1, 1, 1]
    assert list(failed) == [2]
    assert isinstance(failed[2], PermanentError)
    assert summary(store).n_instances == 3


def test_a_text_with_a_nul_is_refused_for_good_without_being_quoted(store: JobStore) -> None:
    received = replace(instance(1), sha256="Hong\0Gildong")
    try:
        store.touch_many([(received, False)], quiet_period_s=10, ceiling_s=100, now=at(0))
    except PermanentError as error:
        assert "Hong" not in str(error)  # noqa: PT017  SQLite takes it
    else:
        assert store._is_sqlite
    assert receive(store, 2, 0).new_instance


@pytest.mark.parametrize("change", [{"description": None}, {"n_instances": None}])
def test_a_row_without_what_it_needs_is_refused_for_good(store: JobStore, change: dict[str, Any]) -> None:
    receive(store, 1, 0)
    lease = claimed(store, 20)
    lacks = replace(decision("2.1"), **change)

    with pytest.raises(PermanentError, match="does not take a value") as refused:
        store.record_decisions(lease, [lacks])
    assert "T2 TSE" not in str(refused.value)


@pytest.mark.parametrize("odd", ["it says \0", "it says \udce4"])
def test_a_sentence_may_hold_anything(store: JobStore, odd: str) -> None:
    graded(store)
    store.retry_delivery_later(claimed_delivery(store, 30), retry_at=at(40), sentence=odd, max_attempts=3, now=at(31))
    store.pause_peer("pacs", why=odd, now=at(32))
    receive(store, 2, 33)
    store.fail(claimed(store, 50), sentence=odd, now=at(51))

    assert summary(store).message == "it says ?"
    assert detail(store).events[-1].sentence == "it says ?"
    (peer,) = store.peers()
    assert (peer.last_error, peer.paused_why) == ("it says ?", "it says ?")


# --------------------------------------------------------------------------- PostgreSQL: no wait without an end


@pytest.fixture
def limited(databases: Databases) -> Callable[[str], JobStore]:
    """Makes a store on PostgreSQL with a setting of the site's own, in milliseconds."""
    if databases.kind == "sqlite":
        pytest.skip("SQLite has no server")
    return lambda setting: JobStore(f"{databases.make()}?options=-c%20{setting}")


LIMITS = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")


def test_every_wait_for_the_server_has_an_end(limited: Callable[[str], JobStore]) -> None:
    store = limited("application_name=x")
    with store._reading() as connection:
        assert [connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in LIMITS] == ["15s", "2min", "1min"]
        with socket.socket(fileno=os.dup(connection.connection.driver_connection.fileno())) as sock:  # type: ignore[union-attr]
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            tcp = [socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT]
            assert [sock.getsockopt(socket.IPPROTO_TCP, option) for option in tcp] == [5, 5, 2, 15_000]
    with store._writing("purgeable") as connection:
        assert [connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in LIMITS] == ["15s", "1h", "1min"]
    with store._writing("test") as connection:  # on the same connection
        assert [connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in LIMITS] == ["15s", "2min", "1min"]
    store.close()


def test_a_locked_table_is_a_transient_error(limited: Callable[[str], JobStore]) -> None:
    store = limited("lock_timeout=300")
    began = time.monotonic()
    with store._engine.begin() as connection:
        connection.exec_driver_sql("LOCK TABLE job IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(TransientError, match="lock timeout"):
            receive(store, 1, 0)
        with pytest.raises(TransientError, match="lock timeout"):
            store.list_jobs()
    assert time.monotonic() - began < 10
    assert receive(store, 1, 0).new_instance
    store.close()


def test_a_statement_that_takes_too_long_is_a_transient_error(limited: Callable[[str], JobStore]) -> None:
    store = limited("statement_timeout=300")
    with pytest.raises(TransientError, match="statement timeout"), store._writing("test") as connection:
        connection.exec_driver_sql("SELECT pg_sleep(30)")
    with store._writing("mark_purged") as connection:
        connection.exec_driver_sql("SELECT pg_sleep(0.5)")
    store.close()


def test_a_process_that_hangs_in_a_transaction_loses_its_locks(limited: Callable[[str], JobStore]) -> None:
    store = limited("idle_in_transaction_session_timeout=3000")
    receive(store, 1, 0)

    def hang() -> None:
        with store._writing("test") as connection:
            connection.execute(select(job).with_for_update())
            receive(store, 2, 1)  # waits until the other transaction is ended
            connection.execute(select(job))

    with pytest.raises(TransientError, match="does not answer"):
        hang()
    assert summary(store).n_instances == 2
    store.close()


def test_a_migration_waits_longer_than_others(databases: Databases) -> None:
    if databases.kind == "sqlite":
        pytest.skip("SQLite has no server")
    url = f"{databases.make(migrated=False)}?options=-c%20lock_timeout%3D100"
    store, other = JobStore(url), JobStore(url)
    with other._engine.begin() as connection:
        connection.execute(select(func.pg_advisory_xact_lock(MIGRATION_LOCK)))
        migrating = threading.Thread(target=store.migrate)
        migrating.start()
        time.sleep(0.5)
    migrating.join(30)
    assert receive(store, 1, 0).new_instance
    store.close()
    other.close()


# --------------------------------------------------------------------------- migrations


def test_migrating_an_empty_database_gives_the_tables_of_the_schema(empty_url: str) -> None:
    store = JobStore(empty_url)
    store.migrate()
    with store._reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        for table in ("job", "delivery", "withdrawal"):
            (check,) = inspect(connection).get_check_constraints(table)
            assert check["name"] == f"ck_{table}_state"
            for word in {"job": JobState, "delivery": DeliveryState, "withdrawal": WithdrawalState}[table]:
                assert f"'{word}'" in check["sqltext"]
    store.close()


def test_migrating_again_changes_nothing(empty_url: str) -> None:
    store = JobStore(empty_url)
    store.migrate()
    receive(store, 1, 0)
    store.migrate()
    store.close()
    again = JobStore(empty_url)
    again.migrate()

    assert again.counts()[JobState.RECEIVED] == 1
    again.close()


def test_two_processes_may_migrate_at_once(empty_url: str) -> None:
    barrier = SPAWN.Barrier(2)
    failures = SPAWN.Queue()
    processes = [SPAWN.Process(target=writers.migrate, args=(empty_url, barrier, failures)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)

    assert [p.exitcode for p in processes] == [0, 0]
    assert failures.empty(), failures.get()


def test_a_migration_that_fails_leaves_the_database_as_it_was(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = JobStore(empty_url)

    def stop_half_way(*args: object, **kwargs: object) -> None:
        raise RuntimeError("half way")

    with monkeypatch.context() as patch:
        patch.setattr("alembic.op.create_index", stop_half_way)
        with pytest.raises(RuntimeError, match="half way"):
            store.migrate()
    with store._reading() as connection:
        assert inspect(connection).get_table_names() == []
    store.migrate()
    assert receive(store, 1, 0).new_instance
    store.close()


def test_a_database_of_a_newer_version_is_refused(url: str) -> None:
    store = JobStore(url)
    with store._writing("test") as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")

    with pytest.raises(ConfigError, match=r"jobs\.database_url: .* newer version"):
        store.migrate()
    store.close()


def test_a_database_without_tables_says_what_to_do(empty_url: str) -> None:
    store = JobStore(empty_url)
    with pytest.raises(ConfigError, match="start 'stenosis-node serve' once"):
        store.list_jobs()
    store.close()


# --------------------------------------------------------------------------- configuration


@pytest.mark.parametrize("url", ["", "jobs.db", "nosuch://x", "postgresql+nosuch://localhost/x"])
def test_a_url_that_names_no_database_is_a_config_error(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^jobs\.database_url: "):
        JobStore(url)


def test_a_database_that_cannot_be_opened_is_a_config_error(tmp_path: Path) -> None:
    store = JobStore(f"sqlite:///{tmp_path / 'missing' / 'jobs.db'}")
    with pytest.raises(ConfigError, match=r"^jobs\.database_url: the job database cannot be opened"):
        store.migrate()


def test_a_file_that_is_no_database_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "jobs.db").write_bytes(b"not a database at all, but long enough to be looked at" * 20)
    store = JobStore(f"sqlite:///{tmp_path / 'jobs.db'}")
    with pytest.raises(ConfigError, match=r"^jobs\.database_url: the job database cannot be opened"):
        store.migrate()


def test_the_restart_of_the_server_is_noticed(url: str) -> None:
    store = JobStore(url)
    if store._is_sqlite:
        pytest.skip("SQLite has no server")
    receive(store, 1, 0)
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"

    def use_a_connection_that_is_cut() -> None:
        with store._writing("test") as connection:
            connection.exec_driver_sql(cut)

    with pytest.raises(TransientError, match="does not answer"):
        use_a_connection_that_is_cut()
    assert claim(store, 20) is not None
    store.close()
