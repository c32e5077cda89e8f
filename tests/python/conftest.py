"""One throw-away PostgreSQL for the session, and for each test a clean database with pgq and its test kit."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from postgres.server import Server
from psycopg import sql
from psycopg.conninfo import make_conninfo
from pytest_postgresql.executors import NoopExecutor
from pytest_postgresql.factories import postgresql_noproc
from support.clones import Clones
from support.database import As, Connect, Connection, one, ration, read
from support.heads import PAST
from support.paths import ROOT
from support.processes import start
from support.proxy import Proxy
from support.servers import Place, client, close_public, memory
from support.workers import MakeWorker

from pgq import Handlers, Worker, WorkerQueue
from pgq.testing import Clock, time_travel
from pgq.worker.loop import Loop
from pgq.worker.settings import Timing

__all__ = ["start"]


def pytest_configure() -> None:
    """Heed SIGINT: a shell makes its jobs in the background ignore it, and the processes of a test inherit that."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_keyboard_interrupt() -> None:
    """Ignore a second Ctrl-C, which would cut short the removal of the server."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.fixture(scope="session", autouse=True)
def environment() -> Iterator[None]:
    """Ignore what the caller has set for libpq and pgq, except for the choice of the server's programs."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("PG") and name not in {"PGQ_BINDIR", "PGQ_PGVERSION"}:
                patch.delenv(name)
        yield


@pytest.fixture(autouse=True)
def signal_mask() -> Iterator[None]:
    """
    Give back the signals that a handler of the test has blocked.

    A forkserver that inherits a blocked SIGCHLD never says that a process of a later test has ended.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.fixture(scope="session")
def place(environment: None) -> Iterator[Place]:
    """The server of the session. A statement that hangs soon fails its test."""
    settings = {"statement_timeout": "20s", "deadlock_timeout": "200ms"}
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            # The files of a database are copied there in 9 ms of CPU time instead of 60.
            patch.setattr(tempfile, "tempdir", memory() or tempfile.tempdir)
            server = stack.enter_context(Server(settings=settings, own_programs=True))
        yield Place(server, server.host, server.port, server.user)


template = postgresql_noproc(
    depends_on="place",
    dbname="pgq_test",
    load=[close_public, ROOT / "build/pgq.sql", ROOT / "python/src/pgq/testkit.sql"],
)


@pytest.fixture(scope="session")
def clones(place: Place, template: NoopExecutor) -> Iterator[Clones]:
    """Copies of the template, on the server of this session."""
    with Clones(place, template.template_dbname) as clones:
        yield clones


@pytest.fixture
def database(clones: Clones) -> Iterator[Connection]:
    """A connection to a new database for this test, not in autocommit mode."""
    with clones.connect() as conn:
        yield conn


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory for this test; pytest's own would stay behind in /tmp."""
    with tempfile.TemporaryDirectory(prefix="pgq-test-") as path:
        yield Path(path)


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
    """A connection string for the database of this test, as its superuser."""
    return make_conninfo(host=place.host, port=place.port, user=place.user, dbname=database.info.dbname)


@pytest.fixture
def other_dsn(dsn: str, template: NoopExecutor) -> Iterator[str]:
    """A connection string for a second database, which is as that of the test."""
    name, source = "pgq_test_other", sql.Identifier(template.template_dbname)
    with psycopg.connect(make_conninfo(dsn, dbname="postgres"), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), source))
        yield make_conninfo(dsn, dbname=name)
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def other(other_dsn: str) -> Iterator[Connection]:
    """A connection to the second database, in autocommit mode."""
    with psycopg.connect(other_dsn, autocommit=True) as conn:
        yield conn


@pytest.fixture
def conn(database: Connection) -> Connection:
    """A connection to the database of this test, in autocommit mode."""
    database.autocommit = True
    return database


@pytest.fixture
def connect(dsn: str) -> Iterator[Connect]:
    """Open further connections, in autocommit mode; they are closed at the end."""
    opened: list[Connection] = []

    def connect(*, autocommit: bool = True) -> Connection:
        opened.append(psycopg.connect(dsn, autocommit=autocommit))
        return opened[-1]

    yield connect
    for other in opened:
        other.close()


@pytest.fixture
def proxy(place: Place) -> Iterator[Proxy]:
    """A proxy before the server that can break connections."""
    with Proxy(Path(place.host) / f".s.PGSQL.{place.port}") as proxy:
        yield proxy


@pytest.fixture
def roles(conn: Connection) -> None:
    """A database of an ordinary role, without pgq, and a second such role."""
    for role in ("owner", "web"):
        conn.execute(f"DROP ROLE IF EXISTS {role}".encode())
        conn.execute(f"CREATE ROLE {role} LOGIN".encode())
    conn.execute("DROP SCHEMA public CASCADE")
    conn.execute(f"ALTER DATABASE {conn.info.dbname} OWNER TO owner".encode())
    conn.execute("CREATE SCHEMA public AUTHORIZATION owner")


@pytest.fixture
def as_(dsn: str, roles: None) -> Iterator[As]:
    """Connect as a role; the connections are closed at the end."""
    opened: list[Connection] = []

    def connect(role: str) -> Connection:
        opened.append(psycopg.connect(make_conninfo(dsn, user=role), autocommit=True))
        return opened[-1]

    yield connect
    for other in opened:
        other.close()


@pytest.fixture
def extension(place: Place, conn: Connection) -> Iterator[Path]:
    """The directory in which the server finds extensions, with the files of pgq in it for this test."""
    share = Path(one(conn, "SELECT setting FROM pg_config WHERE name = 'SHAREDIR'"))
    is_private = share.is_relative_to(place.host)
    if not is_private:
        # A copy of programs with built-in paths still reads the machine's directories.
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
    """A pool of threads; statements that still run after the test are ended."""
    with ThreadPoolExecutor(max_workers=16) as threads:
        yield threads
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'active'"
        )


@pytest.fixture
def snapshot(connect: Connect) -> Iterator[None]:
    """A snapshot that another session holds: no dead row can be removed."""
    holder = connect(autocommit=False)
    holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    holder.execute("SELECT 1")
    yield
    holder.rollback()


@pytest.fixture
def rationed(conn: Connection) -> None:
    """No second long scan is made during a test, unless the test says so."""
    ration(conn, "5 minutes")


@pytest.fixture
def past(conn: Connection, connect: Connect, snapshot: None) -> None:
    """Leave many completed jobs behind, and a snapshot that keeps the index entries of all of them."""
    queue = WorkerQueue(connect())
    queue.enqueue_many({"kind": "past", "args": n} for n in range(PAST))
    while jobs := queue.claim(max_jobs=1000):
        queue.complete_many(jobs)
    conn.execute("DELETE FROM pgq_head WHERE queue <> chr(31)")
    read("pgq_waiting_claim", queue.conn)
    # The end of a lane counts as a tenth of a second ago: the past must be over by then.
    conn.execute("SELECT pg_sleep(0.15)")


@pytest.fixture
def queue(conn: Connection) -> WorkerQueue:
    """The queue, through ``conn``."""
    return WorkerQueue(conn)


@pytest.fixture
def clock(conn: Connection) -> Iterator[Clock]:
    """The clock of this process and of ``conn``, stopped at noon of 1 January 2030."""
    with time_travel(conn, to="2030-01-01 12:00") as clock:
        yield clock


@pytest.fixture
def handlers() -> Handlers:
    """An empty registry of handlers."""
    return Handlers()


@pytest.fixture
def make_worker(dsn: str, handlers: Handlers) -> Iterator[MakeWorker]:
    """Make workers with these handlers. They never wake up on their own in a test."""
    made: list[Worker] = []

    def make(**options: Any) -> Worker:
        defaults: dict[str, Any] = {
            "poll": 60,
            "name": "test",
            "timing": Timing(look=60),
        }
        made.append(Worker(dsn, handlers, **defaults | options))
        return made[-1]

    yield make
    for worker in made:
        worker.close()


@pytest.fixture
def worker(make_worker: MakeWorker) -> Worker:
    """A worker with these handlers."""
    return make_worker()


@pytest.fixture
def loop(worker: Worker) -> Loop:
    """The only loop of the worker, for tests that take its turns themselves."""
    return worker.loops[0]


@pytest.fixture
def grown_up(conn: Connection) -> None:
    """Wait until the server is old enough for workers to count as gone."""
    conn.execute("SELECT pg_sleep_until(pg_postmaster_start_time() + interval '5.1 seconds')")


@pytest.fixture
def running(make_worker: MakeWorker) -> Iterator[list[Worker]]:
    """Workers that the test runs in threads; they are stopped at its end."""
    workers: list[Worker] = []
    yield workers
    for worker in workers:
        worker.stop()
