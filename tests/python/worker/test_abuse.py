"""What a handler does to its connection: the next job on it sees a clean session, or another one."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row
from support.database import Connection, jobs, one
from support.modes import IN_A_TRANSACTION, MODES
from support.threads import Thread
from support.workers import drain

from pgq import Handlers, Job, Queue
from pgq.worker.loop import Loop

# What a handler keeps from being closed when it returns.
kept: list[Any] = []
Abuse = Callable[[Connection], object]


def says(*statements: str) -> Abuse:
    """One after the other."""

    def abuse(conn: Connection) -> None:
        for statement in statements:
            conn.execute(statement.encode())

    return abuse


def sets(name: str, value: Any, *, commit: bool = False) -> Abuse:
    """An attribute of the connection, some of which psycopg lets nobody set inside a transaction."""

    def abuse(conn: Connection) -> None:
        if commit:
            conn.execute("COMMIT")
        setattr(conn, name, value)

    return abuse


def enters(context: Callable[[Connection], Any], error: Exception | None = None) -> Abuse:
    """A context that it does not leave."""

    def abuse(conn: Connection) -> None:
        entered = context(conn)
        entered.__enter__()
        kept.append(entered)
        if error is not None:
            raise error

    return abuse


def streams(*, fails: bool) -> Abuse:
    """Rows that it does not read to their end."""

    def abuse(conn: Connection) -> None:
        rows = conn.cursor().stream("SELECT generate_series(1, 1000000)")
        next(iter(rows))
        if fails:
            raise ValueError("in the middle")
        kept.append(rows)

    return abuse


def goes_on_after_an_error(conn: Connection) -> None:
    """As if nothing had happened."""
    with contextlib.suppress(psycopg.DataError):
        conn.execute("SELECT 1 / 0")


def lets_a_thread_query(conn: Connection) -> None:
    """And does not wait for it."""
    begun = threading.Event()

    def query() -> None:
        with conn.cursor() as cursor:
            begun.set()
            cursor.execute("SELECT pg_sleep(10)")

    kept.append(Thread(query))
    begun.wait(10)
    while conn.info.transaction_status != psycopg.pq.TransactionStatus.ACTIVE:
        pass


COPY = sql.SQL("COPY (SELECT generate_series(1, 100000)) TO STDOUT")
SERIALIZABLE = psycopg.IsolationLevel.SERIALIZABLE
# Each leaves its job done, with the connection of before.
HARMLESS: dict[str, Abuse] = {
    "search_path": says("SET search_path = pg_temp"),
    "statement_timeout": says("SET statement_timeout = '19s'"),
    "other settings": says("SET pgq.jitter = 0", "SET TimeZone = 'Asia/Tokyo'", "SET client_encoding = 'latin1'"),
    "settings of the worker": says("SET client_connection_check_interval = 0", "SET tcp_user_timeout = 1"),
    "isolation level": says("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE"),
    "LISTEN": says("LISTEN something"),
    "temporary table": says("CREATE TEMP TABLE pgq_running (id bigint)"),
    "sequence": says("CREATE TEMP SEQUENCE s", "SELECT nextval('s')"),
    "open cursor": says("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "FETCH c"),
    "advisory lock": says("SELECT pg_advisory_lock(1), pg_advisory_lock_shared(2, 2)"),
    "row_factory": sets("row_factory", dict_row),
    "cursor_factory": sets("cursor_factory", psycopg.ClientCursor),
    "server_cursor_factory": sets("server_cursor_factory", None),
    "prepare_threshold": sets("prepare_threshold", 0),
    "prepared_max": sets("prepared_max", 0),
}
# Each is the failure of its job, and leaves the connection of before.
FAILS: dict[str, Abuse] = {
    "role": says("SET ROLE pg_monitor"),
    "session authorization": says("CREATE ROLE pgq_abuse", "SET SESSION AUTHORIZATION pgq_abuse"),
    "failed transaction": goes_on_after_an_error,
    "COMMIT": says("COMMIT"),
    "idle transaction": says("COMMIT", "BEGIN"),
    "COMMIT, and another session": says("COMMIT", "SET SESSION AUTHORIZATION pg_monitor", "SET search_path = pg_temp"),
    "COMMIT, and another role": says("COMMIT", "SET ROLE pg_monitor"),
    "COMMIT, and prepared statements": says("COMMIT", "DEALLOCATE ALL"),
    "COMMIT, and everything": says("COMMIT", "DISCARD ALL"),
    "conn.commit()": lambda conn: conn.commit(),
    "conn.rollback()": lambda conn: conn.rollback(),
    "autocommit": sets("autocommit", False, commit=True),
    "isolation_level": sets("isolation_level", SERIALIZABLE, commit=True),
    "read_only": sets("read_only", True, commit=True),
    "deferrable": sets("deferrable", True, commit=True),
}
# Each is the failure of its job, and costs the connection.
CLOSES: dict[str, Abuse] = {
    "conn.close()": lambda conn: conn.close(),
    "open block": enters(lambda conn: conn.transaction()),
    "open COPY": enters(lambda conn: conn.cursor().copy(COPY)),
    "open COPY, and an error": enters(lambda conn: conn.cursor().copy(COPY), ValueError("in the middle")),
    "open stream": streams(fails=False),
    "open stream, and an error": streams(fails=True),
    "open pipeline": enters(lambda conn: conn.pipeline()),
    "open pipeline, and an error": enters(lambda conn: conn.pipeline(), ValueError("in the middle")),
    "query in a thread": lets_a_thread_query,
}
# Leaves its job done, and costs the connection.
SPOILS: dict[str, Abuse] = {"attribute that is in the way": sets("execute", None)}
ABUSES = HARMLESS | FAILS | CLOSES | SPOILS


@pytest.fixture(autouse=True)
def release() -> Iterator[None]:
    """What was kept is given back, and so is the role."""
    yield
    kept.clear()


def state(conn: Connection) -> dict[str, Any]:
    """All that a job may notice of who was there before."""
    queries = {
        "settings": "SELECT name, setting FROM pg_settings ORDER BY name",
        "own": "SELECT current_user, session_user, current_schemas(false)::text",
        "cursors": "SELECT name FROM pg_cursors WHERE is_holdable",
        "channels": "SELECT pg_listening_channels()",
        "locks": "SELECT objid FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
        "tables": "SELECT relname FROM pg_class WHERE relnamespace = pg_my_temp_schema()",
    }
    found: dict[str, Any] = {name: conn.execute(query.encode()).fetchall() for name, query in queries.items()}
    for name in (
        *("autocommit", "isolation_level", "read_only", "deferrable", "row_factory", "cursor_factory"),
        *("server_cursor_factory", "prepare_threshold", "prepared_max"),
    ):
        found[name] = getattr(conn, name)
    return found


@pytest.mark.happens("changes its session")
@pytest.mark.happens("leaves something open")
@pytest.mark.happens("ends its transaction")
@pytest.mark.parametrize("mode", IN_A_TRANSACTION)
def test_whatever_a_handler_does_to_its_connection_the_next_job_does_not_notice(
    queue: Queue, loop: Loop, handlers: Handlers, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each job is done or has failed, as listed above; each next one is done, in a session like a new one."""
    # A server that is slow to end a session keeps its job locked for longer than a worker would wait.
    monkeypatch.setattr("pgq.worker.settle.LOCK_TIMEOUT", "10s")
    conn = queue.conn
    seen: list[tuple[str, int, dict[str, Any]]] = []

    def look(job: Job, inside: Connection) -> None:
        seen.append((job.args, inside.info.backend_pid, state(inside)))

    def abuse(job: Job, inside: Connection) -> None:
        ABUSES[job.kind](inside)

    handlers.handler("next", transaction=True)(look)
    queue.enqueue("next", "nobody")
    for name in ABUSES:
        handlers.handler(name, **MODES[mode])(abuse)
        queue.enqueue(name)
        queue.enqueue("next", name)
    thread = Thread(drain, loop)
    try:
        thread.result(60)
    finally:
        conn.execute("DROP ROLE IF EXISTS pgq_abuse")
    assert [name for name, _, _ in seen] == ["nobody", *ABUSES]
    fresh = seen[0][2]
    for name, _, now in seen[1:]:
        assert {key: now[key] for key in now if now[key] != fresh[key]} == {}, name
    pids = [pid for _, pid, _ in seen]
    assert [name for name, before, after in zip(ABUSES, pids, pids[1:], strict=False) if before != after] == [
        *CLOSES,
        *SPOILS,
    ]
    rows = conn.execute("SELECT kind, state, attempt FROM pgq_jobs ORDER BY id").fetchall()
    assert rows == [(name, "waiting", 1) for name in (*FAILS, *CLOSES)]


@pytest.mark.happens("leaves a thread behind")
def test_a_connection_that_a_thread_may_still_use_is_not_lent_again(
    queue: Queue, loop: Loop, handlers: Handlers
) -> None:
    """What a handler has left behind writes neither in the transaction of the next job nor at all."""
    conn = queue.conn
    conn.execute("CREATE TABLE effect (what text)")
    lent: list[Connection] = []
    go = threading.Event()
    left: list[Thread] = []

    def later(inside: Connection) -> None:
        go.wait(10)
        inside.execute("INSERT INTO effect VALUES ('stray')")

    @handlers.handler("leave", transaction=True)
    def leave(job: Job, inside: Connection) -> None:
        lent.append(inside)
        left.append(Thread(later, inside))

    @handlers.handler("next", transaction=True)
    def work(job: Job, inside: Connection) -> None:
        lent.append(inside)
        go.set()
        with pytest.raises(psycopg.OperationalError, match="closed"):
            left[0].result(10)

    queue.enqueue_many([{"kind": "leave"}, {"kind": "next"}])
    drain(loop)
    assert jobs(conn) == []
    assert lent[0] is not lent[1]
    assert one(conn, "SELECT count(*) FROM effect") == 0


@pytest.mark.happens("changes its session")
def test_a_role_that_every_session_begins_with_is_that_of_every_job(
    queue: Queue, loop: Loop, handlers: Handlers
) -> None:
    """A session is clean when it is as it was in the beginning, also after a handler that has given up the role."""
    conn = queue.conn
    users: list[str] = []
    name = conn.info.dbname

    @handlers.handler("k", transaction=True)
    def work(job: Job, inside: Connection) -> None:
        users.append(one(inside, "SELECT current_user"))
        if job.args == 1:
            inside.execute("COMMIT")
            inside.execute("SET ROLE NONE")

    try:
        conn.execute("CREATE ROLE pgq_owner")
        conn.execute("SELECT pgq_grant('pgq_owner', 'worker')")
        conn.execute(f"ALTER DATABASE {name} SET role = pgq_owner".encode())
        queue.enqueue_many({"kind": "k", "args": n} for n in range(3))
        drain(loop)
    finally:
        loop.close()
        conn.execute(f"ALTER DATABASE {name} RESET role".encode())
        conn.execute("DROP OWNED BY pgq_owner")
        conn.execute("DROP ROLE pgq_owner")
    assert users == ["pgq_owner"] * 3
