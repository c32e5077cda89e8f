"""One throw-away PostgreSQL for the session, and for each test a clean database with pgq and its test kit."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import psycopg
import pytest
from proxy import Proxy
from psycopg import sql
from psycopg.conninfo import make_conninfo
from pytest_postgresql.factories import postgresql, postgresql_noproc

from pgq import Handlers, Queue, Worker
from pgq.worker.loop import Loop
from pgq.testing import Clock, time_travel

ROOT = Path(__file__).parents[2]

sys.path.insert(0, str(ROOT / "tools"))

from devpg import Server  # noqa: E402
from processes import start  # noqa: E402, F401 - a fixture for all tests

Connection = psycopg.Connection[tuple[Any, ...]]
T = TypeVar("T")


class Connect(Protocol):
    """Open a further connection to the database of the test."""

    def __call__(self, *, autocommit: bool = True) -> Connection: ...


class As(Protocol):
    """Connect to the database of the test as a role, in autocommit mode."""

    def __call__(self, role: str) -> Connection: ...


class Thread:
    """A call in a thread of its own, begun at once; ``result`` is what it returned or raised."""

    def __init__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._future: Future[Any] = Future()

        def run() -> None:
            try:
                self._future.set_result(function(*args, **kwargs))
            except BaseException as error:
                self._future.set_exception(error)

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def is_alive(self) -> bool:
        """Whether the call still runs."""
        return self._thread.is_alive()

    def result(self, timeout: float = 60.0) -> Any:
        """Wait for the end of the call."""
        answer = self._future.result(timeout)
        self._thread.join(timeout)
        return answer


def eventually(condition: Callable[[], T], what: str = "it happens", seconds: float = 10.0) -> T:
    """The first true answer of a condition; without one in time the test fails."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.005)
    return answer


def one(conn: Connection, query: str, *parameters: Any) -> Any:
    """The only column of the only row."""
    (row,) = conn.execute(query.encode(), parameters or None).fetchall()
    (value,) = row
    return value


def flush(conn: Connection) -> None:
    """Let the statistics of the session be known to all."""
    if conn.info.server_version >= 150000:
        conn.execute("SELECT pg_stat_force_next_flush()")
        return
    # PostgreSQL 14 has no such function: what is sent half a second after the last time arrives half a second later.
    time.sleep(1)
    conn.execute("SELECT 1")
    time.sleep(1)


def read(index: str, *sessions: Connection) -> int:
    """How many entries of the index were read so far; the sessions are all that have read any lately."""
    for conn in sessions:
        flush(conn)
    return int(one(sessions[0], "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = %s", index))


def ration(conn: Connection, pause: str) -> None:
    """Let a long scan be made again after this time, and not at once, as with the test kit."""
    conn.execute(
        sql.SQL(
            "CREATE OR REPLACE FUNCTION _pgq_rescan_delay(cost interval) RETURNS interval "
            "LANGUAGE sql IMMUTABLE RETURN interval {}"
        ).format(pause)
    )


def record(conn: Connection, table: str, events: str, *values: str) -> None:
    """Keep these expressions, as they are in a statement that changes the table, in a table called seen."""
    columns = ", ".join(f"value{n} text" for n, _ in enumerate(values))
    casts = ", ".join(f"({value})::text" for value in values)
    conn.execute(f"CREATE TABLE seen ({columns})".encode())
    conn.execute(
        "CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$BEGIN INSERT INTO public.seen VALUES ({casts}); RETURN NULL; END$$".encode()
    )
    conn.execute(f"CREATE TRIGGER see AFTER {events} ON {table} FOR EACH STATEMENT EXECUTE FUNCTION see()".encode())


def seen(conn: Connection) -> list[tuple[Any, ...]]:
    """What was kept, in the order of events."""
    return conn.execute("SELECT * FROM seen").fetchall()


def waits_for_lock(conn: Connection, other: Connection) -> bool:
    """Whether the other session waits for somebody."""
    return bool(one(conn, "SELECT cardinality(pg_blocking_pids(%s)) > 0", other.info.backend_pid))


def expire(conn: Connection, *ids: int) -> None:
    """Let the leases on these jobs, or all of them, have run out a second ago, and be taken a minute earlier."""
    # A lease that is over before it began is that of a worker whose session is gone.
    conn.execute(
        "UPDATE pgq_running SET claimed_at = claimed_at - interval '1 minute', "
        "lease_until = clock_timestamp() - interval '1 second' "
        "WHERE id = ANY (%(ids)s) OR %(ids)s::bigint[] = '{}'",
        {"ids": list(ids)},
    )


def jobs(conn: Connection) -> list[tuple[Any, ...]]:
    """The id, state and attempt of all jobs."""
    return conn.execute("SELECT id, state, attempt FROM pgq_jobs ORDER BY id").fetchall()


def drain(loop: Loop) -> None:
    """Take turns until nothing is ripe; the last one settles."""
    while loop.turn():
        pass


@dataclass(frozen=True)
class Place:
    """A server as pytest-postgresql wants to know it."""

    server: Server
    host: str
    port: int
    user: str
    password: str = ""
    options: str = ""
    maintenance_dbname: str = "postgres"
    template_dbname: str = "template0"


@pytest.fixture(scope="session", autouse=True)
def environment() -> Iterator[None]:
    """What the caller has set for libpq and pgq leads to another server; only the choice of the programs is ours."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("PG") and name not in {"PGQ_BINDIR", "PGQ_PGVERSION"}:
                patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def place(environment: None) -> Iterator[Place]:
    """The server. A statement that hangs fails its test, soon and by itself."""
    with Server(settings={"statement_timeout": "20s", "deadlock_timeout": "200ms"}, own_programs=True) as server:
        yield Place(server, server.host, server.port, server.user)


def close_public(**where: Any) -> None:
    """As from PostgreSQL 15 on: pgq grants nothing where everybody may create objects."""
    with psycopg.connect(**where) as conn:
        conn.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")


template = postgresql_noproc(
    depends_on="place",
    dbname="pgq_test",
    load=[close_public, ROOT / "build/pgq.sql", ROOT / "python/src/pgq/testkit.sql"],
)
database = postgresql("template")


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory for the test alone; pytest's own would stay behind in /tmp."""
    with tempfile.TemporaryDirectory(prefix="pgq-test-") as path:
        yield Path(path)


def client(place: Place, program: str) -> Path:
    """A client program of the server, or any other: some distributions of the server come without."""
    found = shutil.which(program, path=place.server.env["PATH"])
    assert found is not None, f"there is no {program} beside the server's programs, nor on PATH"
    return Path(found)


@pytest.fixture(scope="session")
def psql(place: Place) -> Path:
    """The server's psql."""
    return client(place, "psql")


@pytest.fixture(scope="session")
def pg_dump(place: Place) -> Path:
    """The server's pg_dump."""
    return client(place, "pg_dump")


@pytest.fixture
def dsn(place: Place, database: Connection) -> str:
    """The way to the database of this test, as its superuser."""
    return make_conninfo(host=place.host, port=place.port, user=place.user, dbname=database.info.dbname)


@pytest.fixture
def conn(database: Connection) -> Connection:
    """A connection to the database of this test, in autocommit mode."""
    database.autocommit = True
    return database


@pytest.fixture
def connect(dsn: str) -> Iterator[Connect]:
    """Open further connections, in autocommit mode; they are closed in the end."""
    opened: list[Connection] = []

    def connect(*, autocommit: bool = True) -> Connection:
        opened.append(psycopg.connect(dsn, autocommit=autocommit))
        return opened[-1]

    yield connect
    for one in opened:
        one.close()


@pytest.fixture
def proxy(place: Place) -> Iterator[Proxy]:
    """A way to the server that can be broken."""
    with Proxy(Path(place.host) / f".s.PGSQL.{place.port}") as proxy:
        yield proxy


@pytest.fixture
def roles(conn: Connection) -> None:
    """A database that belongs to an ordinary role, without pgq, and a second such role."""
    for role in ("owner", "web"):
        conn.execute(f"DROP ROLE IF EXISTS {role}".encode())
        conn.execute(f"CREATE ROLE {role} LOGIN".encode())
    conn.execute("DROP SCHEMA public CASCADE")
    conn.execute(f"ALTER DATABASE {conn.info.dbname} OWNER TO owner".encode())
    conn.execute("CREATE SCHEMA public AUTHORIZATION owner")


@pytest.fixture
def as_(dsn: str, roles: None) -> Iterator[As]:
    """Connect as a role; the connections are closed in the end."""
    opened: list[Connection] = []

    def connect(role: str) -> Connection:
        opened.append(psycopg.connect(make_conninfo(dsn, user=role), autocommit=True))
        return opened[-1]

    yield connect
    for one in opened:
        one.close()


@pytest.fixture
def extension(place: Place, conn: Connection) -> Iterator[Path]:
    """The directory where the server finds extensions, with the files of this one in it, for the test alone."""
    share = Path(one(conn, "SELECT setting FROM pg_config WHERE name = 'SHAREDIR'"))
    is_private = share.is_relative_to(place.host)
    if not is_private:
        # A copy of programs that know their directories by heart still reads those of the machine.
        if conn.info.server_version < 180000:
            pytest.skip(f"this PostgreSQL looks for extensions in {share} only")
        share = Path(place.host) / "share"
        for scope in ("ALTER ROLE ALL SET", "SET"):
            conn.execute(sql.SQL(f"{scope} extension_control_path = {{}}").format(f"$system:{share}"))
    directory = share / "extension"
    directory.mkdir(parents=True, exist_ok=True)
    files = []
    for file in (ROOT / "pgq.control", *ROOT.glob("build/pgq--*.sql")):
        files.append(directory / file.name)
        files[-1].write_bytes(file.read_bytes())
    for path in (share, directory, *files):
        path.chmod(0o755)
    yield directory
    for file in files:
        file.unlink()
    if not is_private:
        conn.execute("ALTER ROLE ALL RESET extension_control_path")


@pytest.fixture
def pool(conn: Connection, connect: Connect) -> Iterator[ThreadPoolExecutor]:
    """Threads. What still runs at the end of a test, because it failed, is interrupted."""
    with ThreadPoolExecutor(max_workers=16) as threads:
        yield threads
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'active'"
        )


@pytest.fixture
def snapshot(connect: Connect) -> Iterator[None]:
    """A snapshot that is held elsewhere all the time: no row that dies can be removed."""
    holder = connect(autocommit=False)
    holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    holder.execute("SELECT 1")
    yield
    holder.rollback()


@pytest.fixture
def queue(conn: Connection) -> Queue:
    """The queue, seen through ``conn``."""
    return Queue(conn)


@pytest.fixture
def clock(conn: Connection) -> Iterator[Clock]:
    """The clock of this process and of ``conn``, stopped at noon of the first of January 2030."""
    with time_travel(conn, to="2030-01-01 12:00") as clock:
        yield clock


@pytest.fixture
def handlers() -> Handlers:
    """A registry of the test's own."""
    return Handlers()


@pytest.fixture
def worker(dsn: str, handlers: Handlers) -> Iterator[Worker]:
    """A worker with these handlers, that never sleeps by itself in a test."""
    worker = Worker(dsn, handlers, poll=60, name="test", presence=False)
    yield worker
    worker.close()


@pytest.fixture
def loop(worker: Worker) -> Loop:
    """Its only loop, for tests that take its turns themselves."""
    return worker.loops[0]


@pytest.fixture
def grown_up(conn: Connection) -> None:
    """The server is old enough for workers to count as gone."""
    conn.execute("SELECT pg_sleep_until(pg_postmaster_start_time() + interval '5.1 seconds')")
