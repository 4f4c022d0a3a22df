"""Connections and transactions: SQLite (WAL, FULL, every write BEGIN IMMEDIATE) or PostgreSQL, one set of statements.

No file or network work happens inside a transaction. Errors of the database leave as TransientError; a value that it
does not take, and never will, as PermanentError.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from sqlalchemy import Connection, Engine, Table, create_engine, event, func, make_url, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, TimeoutError

from stenosis_node.errors import ConfigError, PermanentError, TransientError
from stenosis_node.failpoint import failpoint
from stenosis_node.jobs.schema import peer

BUSY_TIMEOUT_S: Final = 30
MIGRATION_LOCK: Final = 0x57E0_515D
"""Key of the PostgreSQL advisory lock under which migrations run."""

LIMITS: Final[Mapping[str, str]] = MappingProxyType(
    {"lock_timeout": "15s", "statement_timeout": "2min", "idle_in_transaction_session_timeout": "1min"}
)
"""How long PostgreSQL lets a transaction wait for others, work on one statement, and wait for us.

What reception waits for must end in time for an answer to the sender. Settings of the server, of the role or in the URL
have precedence.
"""
LONG_LIMIT: Final = "1h"
"""For migrations, which others wait for, and for the statements of :data:`LONG_STEPS`."""
LONG_STEPS: Final = frozenset({"purgeable", "mark_purged"})
"""Of the housekeeping: they may change a million rows."""
CONNECTION: Final[Mapping[str, int]] = MappingProxyType(
    {
        "connect_timeout": 10,
        "keepalives": 1,
        "keepalives_idle": 5,
        "keepalives_interval": 5,
        "keepalives_count": 2,
        "tcp_user_timeout": 15_000,  # ms
    }
)
"""A server that has gone without a word is noticed within 15 s, and that it does not come back 10 s later."""

_READS: Final = "stenosis_reads"

_BAD_ROW: Final = frozenset({"23502", "23514", "SQLITE_CONSTRAINT_NOTNULL", "SQLITE_CONSTRAINT_CHECK"})
"""Constraints that a row breaks by itself, whatever other rows there are: not null, check."""


def storable(text: str) -> str:
    """``text`` as both databases keep it: PostgreSQL has no NUL in a text, and neither has half a surrogate pair."""
    return text.replace("\0", "?").encode("utf-8", "replace").decode("utf-8")


def storable_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Columns of a row, with :func:`storable` texts. Sentences about errors may quote anything."""
    return {name: storable(value) if isinstance(value, str) else value for name, value in values.items()}


class Database:
    """One database, shared by the threads of a process. Each process makes its own."""

    def __init__(self, url: str) -> None:
        """
        url     SQLAlchemy URL
        raises  ConfigError when the URL is malformed or its driver is not installed
        """
        try:
            self._url = make_url(url)
            self._engine = _make_engine(url)
        except (ArgumentError, NoSuchModuleError, ValueError) as error:
            raise ConfigError(
                "jobs.database_url: not a URL of a database this node knows (sqlite:///PATH or postgresql+psycopg://...)"
            ) from error
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"jobs.database_url: the driver {error.name} is not installed; install stenosis-node[postgresql]"
            ) from error
        self._reader = self._engine.execution_options(**{_READS: True})
        self._is_sqlite = self._engine.dialect.name == "sqlite"
        self._driver_error: type[Exception] = self._engine.dialect.loaded_dbapi.Error
        self._data_error: type[Exception] = self._engine.dialect.loaded_dbapi.DataError
        self._kept: Connection | None = None
        self._kept_turn = threading.Lock()

    def migrate(self) -> None:
        """Bring the tables to this version. Safe when several processes start at once: one works, the others wait.

        raises  ConfigError when the database cannot be opened or was made by a newer version
        """
        from alembic import command  # only who migrates waits for the import
        from alembic.config import Config as AlembicConfig
        from alembic.util.exc import CommandError

        try:
            if self._is_sqlite:
                _create_sqlite_file(self._url.database)
                failpoint("jobs.file.made")
                _enable_wal(self._engine)
                failpoint("jobs.file.set_up")
            with self._engine.connect() as connection, _rebuilding_tables(connection), connection.begin():
                if not self._is_sqlite:
                    _allow_time(connection, "lock_timeout", "statement_timeout")
                    connection.execute(select(func.pg_advisory_xact_lock(MIGRATION_LOCK)))
                config = AlembicConfig()
                config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
                config.set_main_option("path_separator", "os")
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
                if self._is_sqlite and (broken := connection.exec_driver_sql("PRAGMA foreign_key_check").first()):
                    raise ConfigError(
                        f"jobs.database_url: the job database is damaged: a row of {broken[0]} lost the row it "
                        "belongs to; restore a copy, or start with an empty one"
                    )
                failpoint("jobs.migrate.written")
            failpoint("jobs.migrate.committed")
        except CommandError as error:
            raise ConfigError(
                f"jobs.database_url: the database was made by a newer version of this node ({error})"
            ) from error
        except (DBAPIError, self._driver_error, OSError) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            raise ConfigError(f"jobs.database_url: the job database cannot be opened: {cause}") from error

    def close(self) -> None:
        """Close every connection."""
        with self._kept_turn:
            self._give_up_kept()
        self._engine.dispose()

    # ----------------------------------------------------------------- for the parts of the store

    @contextmanager
    def _writing(self, step: str) -> Iterator[Connection]:
        """One transaction that may write. It is rolled back when the block raises.

        step  names its two failpoints: before and after it is durable
        """
        with self._translated(), self._engine.begin() as connection:
            if step in LONG_STEPS and not self._is_sqlite:
                _allow_time(connection, "statement_timeout")
            yield connection
            failpoint(f"jobs.{step}.written")
        failpoint(f"jobs.{step}.committed")

    @contextmanager
    def _writing_often(self, step: str) -> Iterator[Connection]:
        """As :meth:`_writing`; with SQLite on a connection that is kept: to borrow one costs as much as to write.

        With a server nothing is kept: it may have gone and come back in between.
        """
        if not self._is_sqlite:
            with self._writing(step) as borrowed:
                yield borrowed
            return
        with self._translated(), self._kept_turn:
            self._kept = self._kept or self._engine.connect()
            try:
                with self._kept.begin():
                    yield self._kept
                    failpoint(f"jobs.{step}.written")
            except BaseException:
                self._give_up_kept()
                raise
        failpoint(f"jobs.{step}.committed")

    def _give_up_kept(self) -> None:
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """One transaction that sees one state and takes no lock."""
        with self._translated(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """TransientError for what goes wrong with the database, whether SQLAlchemy or the driver itself says it.

        PermanentError for a value that it does not take: what is written together with it may be taken without it.
        """
        try:
            yield
        except (DBAPIError, self._driver_error) as error:
            cause: Any = error.orig if isinstance(error, DBAPIError) else error
            if isinstance(cause, self._data_error) or _code(cause) in _BAD_ROW:
                raise _does_not_fit(cause) from error
            if "no such table" in str(cause) or getattr(cause, "sqlstate", None) == "42P01":
                raise ConfigError("the job database has no tables yet; start 'stenosis-node serve' once") from error
            raise TransientError(f"the job database does not answer as it should: {cause}") from error
        except (UnicodeEncodeError, OverflowError) as error:  # the driver found no way to hand the value over
            raise _does_not_fit(error) from error
        except TimeoutError as error:
            raise TransientError(f"the job database is busy: {error}") from error

    def _now(self, connection: Connection, now: datetime | None) -> datetime:
        """``now``, or the clock that all nodes on this database share."""
        if now is not None:
            return now
        if self._is_sqlite:
            return datetime.now(UTC)
        clock: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
        return clock.astimezone(UTC)

    def _insert(self, table: Table) -> Any:
        """INSERT of the dialect, for ON CONFLICT."""
        return sqlite.insert(table) if self._is_sqlite else postgresql.insert(table)

    def _upsert_peer(self, connection: Connection, name: str, **values: Any) -> None:
        """Change columns of a peer; the row is made when there is none. Locked after jobs and deliveries."""
        values = storable_values(values)
        writing = self._insert(peer).values(name=name, **values)
        if values:
            connection.execute(writing.on_conflict_do_update(index_elements=[peer.c.name], set_=values))
        else:
            connection.execute(writing.on_conflict_do_nothing())


def _code(cause: Any) -> str | None:
    """SQLSTATE, or SQLite's name of the error."""
    code: str | None = getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorname", None)
    return code


def _does_not_fit(cause: Any) -> PermanentError:
    """Without the text of the cause, which may quote the value."""
    column = getattr(getattr(cause, "diag", None), "column_name", None)
    of = f" of {column}" if column else ""
    return PermanentError(f"the job database does not take a value{of} ({type(cause).__name__})")


@contextmanager
def _rebuilding_tables(connection: Connection) -> Iterator[None]:
    """Outside of a transaction: SQLite cannot change a table to which others refer while it checks foreign keys."""
    driver = connection.connection.driver_connection
    if not isinstance(driver, sqlite3.Connection):
        yield
        return
    driver.execute("PRAGMA foreign_keys = OFF")
    try:
        yield
    finally:
        driver.execute("PRAGMA foreign_keys = ON")


def _make_engine(url: str) -> Engine:
    if make_url(url).get_backend_name() == "sqlite":
        engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S}, max_overflow=-1, pool_use_lifo=True)
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    ours = {name: value for name, value in CONNECTION.items() if name not in make_url(url).query}
    engine = create_engine(url, pool_pre_ping=True, max_overflow=-1, connect_args=ours)
    event.listen(engine, "connect", _configure_postgresql)
    return engine


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver's own BEGIN would be deferred: two writers would lose updates
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _configure_postgresql(connection: Any, _record: object) -> None:
    """Not as options of the connection: poolers in between do not pass these on."""
    ours = ", ".join(f"('{name}', '{limit}')" for name, limit in LIMITS.items())
    cursor = connection.cursor()
    cursor.execute(
        f"SELECT set_config(name, setting, false) FROM (VALUES {ours}) AS ours (name, setting) "
        "WHERE current_setting(name) = '0'"
    )
    cursor.close()
    connection.commit()


def _allow_time(connection: Connection, *limits: str) -> None:
    """Raise limits of PostgreSQL until the transaction ends."""
    for name in limits:
        connection.exec_driver_sql(f"SET LOCAL {name} = '{LONG_LIMIT}'")


def _begin_sqlite(connection: Connection) -> None:
    reads = connection.get_execution_options().get(_READS, False)
    connection.connection.cursor().execute("BEGIN" if reads else "BEGIN IMMEDIATE")


def _create_sqlite_file(database: str | None) -> None:
    """Readable by nobody else; SQLite gives its -wal and -shm files the same mode."""
    if database and database != ":memory:":
        os.close(os.open(database, os.O_RDWR | os.O_CREAT, 0o600))


def _enable_wal(engine: Engine) -> None:
    """WAL is a property of the file. Switching needs the file alone and does not wait for others by itself."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            mode = _ask_for_wal(engine)
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
        else:
            if mode == "wal":
                return
            if time.monotonic() > deadline:
                raise ConfigError("jobs.database_url: SQLite cannot use its write-ahead log here; use a local disk")
        time.sleep(0.05)


def _ask_for_wal(engine: Engine) -> str:
    connection = engine.raw_connection()  # outside of a transaction, where the mode can change
    try:
        return str(connection.cursor().execute("PRAGMA journal_mode = WAL").fetchone()[0])
    finally:
        connection.close()
