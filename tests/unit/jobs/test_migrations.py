"""A database of an earlier version keeps its rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config as AlembicConfig
from sqlalchemy import Connection, MetaData, Table, inspect

import stenosis_node.jobs.migrations
from stenosis_node.domain import DeliveryState, JobState
from stenosis_node.errors import ConfigError, PermanentError, TransientError
from stenosis_node.jobs import JobStore
from tests.unit.jobs.conftest import Databases
from tests.unit.jobs.drive import at, claim_delivery, detail

NOON = at(0)
STATES = ("received", "received", "graded", "delivered", "rejected", "failed", "cancelled")


def migrate_to(connection: Connection, revision: str) -> None:
    config = AlembicConfig()
    config.set_main_option("script_location", str(Path(stenosis_node.jobs.migrations.__file__).parent))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def rows_of(connection: Connection) -> dict[str, list[dict[str, Any]]]:
    """Everything, by table."""
    metadata = MetaData()
    metadata.reflect(connection)
    found = {}
    for table in metadata.sorted_tables:
        if table.name != "alembic_version":
            ordered = table.select().order_by(*table.primary_key.columns)
            found[table.name] = [dict(row._mapping) for row in connection.execute(ordered)]
    return found


@pytest.fixture
def first_version(databases: Databases) -> Iterator[JobStore]:
    """A database as version 0001 of its tables left it, with rows of every kind."""
    store = JobStore(databases.make(migrated=False))
    with store._writing("test") as connection:
        migrate_to(connection, "0001")
        metadata = MetaData()
        metadata.reflect(connection)
        _fill(connection, metadata.tables, naive=databases.kind == "sqlite")
    yield store
    store.close()


def _fill(connection: Connection, tables: Any, *, naive: bool) -> None:
    noon = NOON.replace(tzinfo=None) if naive else NOON

    def add(table: Table, **values: Any) -> None:
        times = {c.name: noon for c in table.columns if c.name.endswith("_at") and not c.nullable}
        connection.execute(table.insert().values(**(times | values)))

    for number, state in enumerate(STATES, start=1):
        claimed = {"first_claimed_at": noon, "lease_token": "t", "lease_until": noon, "lease_worker": "w"}
        add(
            tables["job"], id=number, study_instance_uid=f"1.{number}", state=state, state_since=noon, n_instances=2,
            quiet_until=noon, held=False, attempts=0, revision=1, **(claimed if number == 2 else {}),
        )  # fmt: skip
        add(tables["event"], job_id=number, at=noon, kind="opened", sentence="first MR instance received from PACS")
        add(
            tables["series"], job_id=number, series_instance_uid="2.1", description="T2", n_instances=2,
            decision="graded", reason="axial-t2-lumbar", sentence="axial", header_values={"EchoTime": "100"},
        )  # fmt: skip
        for one in (1, 2):
            add(
                tables["instance"], job_id=number, study_instance_uid=f"1.{number}", series_instance_uid="2.1",
                sop_instance_uid=f"3.{number}.{one}", sop_class_uid="1.2", transfer_syntax_uid="1.2", path="x",
                size_bytes=1000 * one, sha256="0" * 64, calling_ae_title="PACS", conflicts=one - 1,
            )  # fmt: skip
        add(
            tables["result"], id=number, job_id=number, revision=1, result_key="aa", chosen_key="bb",
            first_claimed_at=noon,
        )  # fmt: skip
        add(
            tables["document"], result_id=number, sop_instance_uid="8.1", sop_class_uid="1.2", series_instance_uid="9",
            kind="sr",
        )  # fmt: skip
    for number, state in enumerate(("pending", "delivered", "failed", "cancelled"), start=3):
        add(
            tables["delivery"], id=number, job_id=number, result_id=number, peer=f"peer{number % 2}", required=True,
            state=state, state_since=noon, attempts=1, started_at=noon,
        )  # fmt: skip
        add(tables["receipt"], delivery_id=number, sop_instance_uid="8.1", status=0, text="", confirmed=True, at=noon)


def test_rows_of_every_kind_are_kept(first_version: JobStore) -> None:
    with first_version._reading() as connection:
        before = rows_of(connection)
    assert all(before.values()), "a table without rows would prove nothing"

    first_version.migrate()

    with first_version._reading() as connection:
        after = rows_of(connection)
    for table, rows in before.items():
        assert [{name: row[name] for name in rows[0]} for row in after[table]] == rows
    job = detail(first_version, 4)
    assert job.job.state is JobState.DELIVERED
    assert job.deliveries[0].receipts[0].confirmed
    lease = claim_delivery(first_version, 1, "peer1")
    assert lease is not None
    assert (lease.delivery_id, lease.confirmed) == (3, {"8.1"})


def test_studies_that_were_claimed_or_closed_need_no_check_any_more(first_version: JobStore) -> None:
    first_version.migrate()

    because = {job.id: job.complete_because for job in first_version.list_jobs()}
    assert because == {1: None} | dict.fromkeys(range(2, 8), "quiet")
    lease = first_version.claim_check(worker="w", lease_s=60, now=at(1))
    assert lease is not None
    assert (lease.job_id, lease.calling_ae_titles, lease.fetch_rounds) == (1, ("PACS",), 0)


def test_what_is_counted_from_now_on_counts_what_was_there(first_version: JobStore) -> None:
    first_version.migrate()

    status = first_version.status(now=at(1))
    assert (status.instances, status.instance_bytes, status.conflicts) == (14, 7 * 3000, 7)
    successes = {peer.name: peer.last_success_at for peer in first_version.peers()}
    assert successes == {"peer0": NOON, "peer1": None}


def test_the_rebuilt_table_takes_the_new_state_and_no_other_and_its_keys_hold(first_version: JobStore) -> None:
    first_version.migrate()

    with first_version._writing("test") as connection:
        connection.exec_driver_sql("UPDATE delivery SET state = 'sent' WHERE id = 3")
    assert detail(first_version, 3).deliveries[0].state is DeliveryState.SENT
    for statement in (
        "UPDATE delivery SET state = 'gone' WHERE id = 3",
        "UPDATE delivery SET job_id = 99 WHERE id = 3",
        "DELETE FROM delivery WHERE id = 3",  # a receipt refers to it
        "UPDATE delivery SET peer = NULL WHERE id = 3",
        "INSERT INTO receipt (delivery_id, sop_instance_uid, text, confirmed, at) "
        "VALUES (99, '1', '', true, '2025-01-01')",
    ):
        with pytest.raises((PermanentError, TransientError)), first_version._writing("test") as connection:
            connection.exec_driver_sql(statement)


def test_a_migration_that_fails_half_way_leaves_the_earlier_version(
    first_version: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with first_version._reading() as connection:
        before = rows_of(connection)

    def stop_half_way(*args: object, **kwargs: object) -> None:
        raise RuntimeError("half way")

    with monkeypatch.context() as patch:
        patch.setattr("alembic.op.create_table", stop_half_way)  # the deliveries have been rebuilt by then
        with pytest.raises(RuntimeError, match="half way"):
            first_version.migrate()

    with first_version._reading() as connection:
        assert rows_of(connection) == before
    first_version.migrate()
    with first_version._reading() as connection:
        assert inspect(connection).has_table("withdrawal")


def test_a_damaged_database_is_not_migrated(first_version: JobStore) -> None:
    if not first_version._is_sqlite:
        pytest.skip("PostgreSQL does not let rows lose what they refer to")
    with first_version._engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        driver.execute("PRAGMA foreign_keys = OFF")
        driver.execute("DELETE FROM delivery WHERE id = 3")
        driver.execute("PRAGMA foreign_keys = ON")

    with pytest.raises(ConfigError, match="damaged"):
        first_version.migrate()
