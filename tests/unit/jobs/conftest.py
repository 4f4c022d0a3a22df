"""Each test of the store runs on SQLite and on a throw-away PostgreSQL."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from stenosis_node.jobs import JobStore
from stenosis_node.jobs.schema import metadata
from tests.conftest import free_port, require_tool


class Databases:
    """Makes empty databases, migrated unless asked otherwise."""

    def __init__(self, kind: str, folder: Path, server: str | None) -> None:
        self.kind = kind
        self._folder = folder
        self._server = server
        self._numbers = itertools.count()
        self._template = self.make(migrated=False)
        store = JobStore(self._template)
        store.migrate()
        store.close()

    def make(self, *, migrated: bool = True) -> str:
        """URL of a new database."""
        name = f"jobs{next(self._numbers)}"
        if self._server is None:
            path = self._folder / f"{name}.db"
            if migrated:
                shutil.copy(self._template.removeprefix("sqlite:///"), path)
            return f"sqlite:///{path}"
        template = f" TEMPLATE {self._template.rsplit('/', 1)[1]}" if migrated else ""
        with psycopg.connect(f"{self._server}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}{template}")  # type: ignore[call-overload]
        return f"{self._server.replace('postgresql', 'postgresql+psycopg')}/{name}"


@pytest.fixture(scope="session")
def fast_folder() -> Iterator[Path]:
    """A folder in memory where there is one: flushing to a disk is not what these tests are about."""
    shm = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="stenosis-test-", dir=shm if os.access(shm, os.W_OK) else None))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgresql_server(fast_folder: Path) -> Iterator[str]:
    """URL of a PostgreSQL server of our own, without a database."""
    initdb = _postgresql_program("initdb")
    folder = fast_folder / "postgresql"
    folder.mkdir(mode=0o700)
    as_user: dict[str, Any] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "postgres", "postgres")
        fast_folder.chmod(0o711)
        as_user = {"user": "postgres", "group": "postgres", "extra_groups": []}
    port = free_port()
    subprocess.run(
        [initdb, "--pgdata", folder, "--auth=trust", "--username=test", "--no-sync", "--encoding=UTF8", "--locale=C"],
        check=True,
        stdout=subprocess.DEVNULL,
        cwd="/",
        **as_user,
    )
    settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off"}
    options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [initdb.with_name("postgres"), "-D", folder, *options], stdout=log, stderr=log, cwd="/", **as_user
        )
    url = f"postgresql://test@127.0.0.1:{port}"
    try:
        _wait_until_ready(server, f"{url}/postgres", folder / "log")
        yield url
    finally:
        server.send_signal(signal.SIGINT)  # does not wait for clients
        server.wait(20)


def _postgresql_program(name: str) -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda p: int(p.parts[4]))
    return found[-1] if found else Path(require_tool(name, "postgresql"))


def _wait_until_ready(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    for _ in range(200):
        assert server.poll() is None, log.read_text()
        try:
            psycopg.connect(url, connect_timeout=1).close()
        except psycopg.OperationalError:
            try:
                server.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
        else:
            return
    raise AssertionError(f"PostgreSQL did not come up: {log.read_text()}")


@pytest.fixture(scope="session")
def made_databases() -> dict[str, Databases]:
    """What :func:`databases` has made: pytest comes back to a parameter whenever the order of the tests asks for it."""
    return {}


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def databases(request: pytest.FixtureRequest, fast_folder: Path, made_databases: dict[str, Databases]) -> Databases:
    kind: str = request.param
    if kind not in made_databases:
        server = request.getfixturevalue("postgresql_server") if kind == "postgresql" else None
        folder = fast_folder / kind
        folder.mkdir(exist_ok=True)  # a server may have its files there
        made_databases[kind] = Databases(kind, folder, server)
    return made_databases[kind]


@pytest.fixture
def url(databases: Databases) -> str:
    """A database of the test's own, for those that open it more than once."""
    return databases.make()


@pytest.fixture(scope="session")
def shared_store(databases: Databases) -> Iterator[JobStore]:
    store = JobStore(databases.make())
    yield store
    store.close()


def empty(store: JobStore) -> None:
    """Remove every row, and count from 1 again."""
    with store._writing("test") as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql(f"TRUNCATE {', '.join(metadata.tables)} RESTART IDENTITY CASCADE")
        else:
            for table in reversed(metadata.sorted_tables):
                connection.execute(table.delete())


@pytest.fixture
def store(shared_store: JobStore) -> JobStore:
    """An empty store. One engine serves all tests, because it compiles each statement only once."""
    empty(shared_store)
    return shared_store
