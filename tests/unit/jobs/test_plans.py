"""What an instance costs does not grow with the database: no statement of reception looks through a table."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.pool import Pool

from stenosis_node.jobs import JobStore
from tests.unit.jobs.drive import CT, at, instance

SETTINGS = {"quiet_period_s": 10, "ceiling_s": 100}


def test_every_statement_of_reception_uses_an_index(tmp_path: Path) -> None:
    said: set[str] = set()

    def listen(connection: sqlite3.Connection, _record: Any) -> None:
        connection.set_trace_callback(said.add)  # every way to the database, past SQLAlchemy's events too

    event.listen(Pool, "connect", listen)
    try:
        store = JobStore(f"sqlite:///{tmp_path / 'jobs.db'}")
        store.migrate()
        said.clear()
        orphan = instance(9, sop_class=CT)
        store.touch_many([(orphan, False)], now=at(0), **SETTINGS)
        store.touch_many([(instance(n), False) for n in (1, 2)], now=at(1), **SETTINGS)  # opens, adopts
        store.touch_many([(instance(3), False)], now=at(2), **SETTINGS)  # postpones
        store.touch_many([(instance(3), True)], now=at(3), **SETTINGS)  # comes again, with other bytes
        store.is_own_document("1.2.3")
        store.known_paths([instance(1).path])
        store.postpone_open(["1.1"], until=at(30), now=at(4))
        store.close()
    finally:
        event.remove(Pool, "connect", listen)

    plans = {}
    with sqlite3.connect(tmp_path / "jobs.db") as database:
        for statement in said:
            if statement.startswith(("SELECT", "INSERT", "UPDATE")):
                rows = database.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
                plans[statement] = [str(row[3]) for row in rows]
    assert len(plans) >= 8
    for statement, steps in plans.items():
        for step in steps:
            assert not step.startswith("SCAN") or step == "SCAN CONSTANT ROW", (statement, steps)
