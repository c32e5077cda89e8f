"""What a handler does to its session: the next job gets a clean session, or a new one."""

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
from support.workers import MakeWorker, drain

from pgq import Handlers, Job, Queue
from pgq.worker.loop import Loop
from pgq.worker.settings import Timing

# Keeps objects of a handler from being closed when it returns.
kept: list[Any] = []
Misuse = Callable[[Connection], object]


def runs(*statements: str) -> Misuse:
    """Execute the statements in turn."""

    def misuse(conn: Connection) -> None:
        for statement in statements:
            conn.execute(statement.encode())

    return misuse


def sets(name: str, value: Any, *, commit: bool = False) -> Misuse:
    """Set an attribute of the connection, after a COMMIT if psycopg refuses it inside a transaction."""

    def misuse(conn: Connection) -> None:
        if commit:
            conn.execute("COMMIT")
        setattr(conn, name, value)

    return misuse


def enters(context: Callable[[Connection], Any], error: Exception | None = None) -> Misuse:
    """Enter a context and do not leave it."""

    def misuse(conn: Connection) -> None:
        entered = context(conn)
        entered.__enter__()
        kept.append(entered)
        if error is not None:
            raise error

    return misuse


def streams(*, fails: bool) -> Misuse:
    """Read some of the rows of a stream, but not all."""

    def misuse(conn: Connection) -> None:
        rows = conn.cursor().stream("SELECT generate_series(1, 1000000)")
        next(iter(rows))
        if fails:
            raise ValueError("in the middle")
        kept.append(rows)

    return misuse


def goes_on_after_an_error(conn: Connection) -> None:
    """Ignore an error and return."""
    with contextlib.suppress(psycopg.DataError):
        conn.execute("SELECT 1 / 0")


def lets_a_thread_query(conn: Connection) -> None:
    """Leave a thread behind that runs a query."""
    begun = threading.Event()

    def query() -> None:
        with conn.cursor() as cursor:
            begun.set()
            cursor.execute("SELECT pg_sleep(10)")

    kept.append(Thread(query))
    begun.wait(30)
    while conn.info.transaction_status != psycopg.pq.TransactionStatus.ACTIVE:
        pass


COPY = sql.SQL("COPY (SELECT generate_series(1, 100000)) TO STDOUT")
SERIALIZABLE = psycopg.IsolationLevel.SERIALIZABLE
# Each leaves its job done, and keeps the connection.
HARMLESS: dict[str, Misuse] = {
    "search_path": runs("SET search_path = pg_temp"),
    "statement_timeout": runs("SET statement_timeout = '19s'"),
    "other settings": runs("SET pgq.jitter = 0", "SET TimeZone = 'Asia/Tokyo'", "SET client_encoding = 'latin1'"),
    "settings of the worker": runs("SET client_connection_check_interval = 0", "SET tcp_user_timeout = 1"),
    "isolation level": runs("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE"),
    "LISTEN": runs("LISTEN something"),
    "temporary table": runs("CREATE TEMP TABLE pgq_running (id bigint)"),
    "sequence": runs("CREATE TEMP SEQUENCE s", "SELECT nextval('s')"),
    "open cursor": runs("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "FETCH c"),
    "advisory lock": runs("SELECT pg_advisory_lock(1), pg_advisory_lock_shared(2, 2)"),
    "row_factory": sets("row_factory", dict_row),
    "cursor_factory": sets("cursor_factory", psycopg.ClientCursor),
    "server_cursor_factory": sets("server_cursor_factory", None),
    "prepare_threshold": sets("prepare_threshold", 0),
    "prepared_max": sets("prepared_max", 0),
}
# Each fails its job, and keeps the connection.
FAILS: dict[str, Misuse] = {
    "role": runs("SET ROLE pg_monitor"),
    "session authorization": runs("CREATE ROLE pgq_misuse", "SET SESSION AUTHORIZATION pgq_misuse"),
    "failed transaction": goes_on_after_an_error,
    "COMMIT": runs("COMMIT"),
    "idle transaction": runs("COMMIT", "BEGIN"),
    "COMMIT, and another session": runs("COMMIT", "SET SESSION AUTHORIZATION pg_monitor", "SET search_path = pg_temp"),
    "COMMIT, and another role": runs("COMMIT", "SET ROLE pg_monitor"),
    "COMMIT, and prepared statements": runs("COMMIT", "DEALLOCATE ALL"),
    "COMMIT, and everything": runs("COMMIT", "DISCARD ALL"),
    "conn.commit()": lambda conn: conn.commit(),
    "conn.rollback()": lambda conn: conn.rollback(),
    "autocommit": sets("autocommit", False, commit=True),
    "isolation_level": sets("isolation_level", SERIALIZABLE, commit=True),
    "read_only": sets("read_only", True, commit=True),
    "deferrable": sets("deferrable", True, commit=True),
}
# Each fails its job, and costs the connection.
CLOSES: dict[str, Misuse] = {
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
# This leaves its job done, and costs the connection.
SPOILS: dict[str, Misuse] = {"attribute that hides a method": sets("execute", None)}
MISUSES = HARMLESS | FAILS | CLOSES | SPOILS


@pytest.fixture(autouse=True)
def release() -> Iterator[None]:
    """Let go of the objects that were kept."""
    yield
    kept.clear()


def state(conn: Connection) -> dict[str, Any]:
    """Return all that a job may notice of the jobs before it."""
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
def test_a_job_does_not_notice_what_the_job_before_did_to_its_session(
    queue: Queue, make_worker: MakeWorker, handlers: Handlers, mode: str
) -> None:
    """Each misuse leaves its job done or failed, as listed above, and the job after it runs in a clean session."""
    # A server that is slow to end a session keeps the job locked for longer than a worker waits.
    loop = make_worker(timing=Timing(lock_timeout="10s")).loops[0]
    conn = queue.conn
    seen: list[tuple[str, int, dict[str, Any]]] = []

    def look(job: Job, inside: Connection) -> None:
        seen.append((job.args, inside.info.backend_pid, state(inside)))

    def misuse(job: Job, inside: Connection) -> None:
        MISUSES[job.kind](inside)

    handlers.handler("next", transaction=True)(look)
    queue.enqueue("next", "none")
    for name in MISUSES:
        handlers.handler(name, **MODES[mode])(misuse)
        queue.enqueue(name)
        queue.enqueue("next", name)
    thread = Thread(drain, loop)
    try:
        thread.result(60)
    finally:
        conn.execute("DROP ROLE IF EXISTS pgq_misuse")
    assert [name for name, _, _ in seen] == ["none", *MISUSES]
    fresh = seen[0][2]
    for name, _, now in seen[1:]:
        assert {key: now[key] for key in now if now[key] != fresh[key]} == {}, name
    pids = [pid for _, pid, _ in seen]
    assert [name for name, before, after in zip(MISUSES, pids, pids[1:], strict=False) if before != after] == [
        *CLOSES,
        *SPOILS,
    ]
    rows = conn.execute("SELECT kind, state, attempt, errors -> 0 ->> 'error' FROM pgq_jobs ORDER BY id").fetchall()
    assert [row[:3] for row in rows] == [(name, "waiting", 1) for name in (*FAILS, *CLOSES)]
    for name, _, _, error in rows:
        if name.startswith("COMMIT"):
            assert "ended its transaction" in error, name
        if name.startswith(("open", "query")):
            assert ("in the middle" if name.endswith("an error") else "in the middle of something") in error, name


@pytest.mark.happens("leaves a thread behind")
def test_a_connection_that_a_thread_may_still_use_is_not_lent_again(
    queue: Queue, loop: Loop, handlers: Handlers
) -> None:
    """The thread that a handler leaves behind cannot write, neither in the transaction of the next job nor at all."""
    conn = queue.conn
    conn.execute("CREATE TABLE effect (what text)")
    lent: list[Connection] = []
    go = threading.Event()
    left: list[Thread] = []

    def later(inside: Connection) -> None:
        go.wait(30)
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
            left[0].result(30)

    queue.enqueue_many([{"kind": "leave"}, {"kind": "next"}])
    drain(loop)
    assert jobs(conn) == []
    assert lent[0] is not lent[1]
    assert one(conn, "SELECT count(*) FROM effect") == 0


def test_a_session_that_cannot_be_rolled_back_is_closed(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next job would run in the transaction of another one."""
    loop.inside.queue()
    loop.inside.send("BEGIN")

    def refuse(*_: str) -> None:
        raise psycopg.OperationalError

    monkeypatch.setattr(loop.inside, "undo", refuse)
    loop.inside.roll_back()
    assert loop.inside.closed


def test_a_session_in_the_middle_of_something_is_closed_at_once(loop: Loop) -> None:
    """Another thread may hold the lock of its connection, to use it."""
    conn = loop.inside.queue().conn
    loop.inside.send("BEGIN")
    with conn.lock:
        Thread(loop.inside.reset).result(30)
    assert conn.closed


def test_a_transaction_is_read_committed_also_behind_a_pooler(
    conn: Connection, queue: Queue, make_worker: MakeWorker, handlers: Handlers
) -> None:
    """Whatever the default of the database is. The second job is held ahead."""
    levels: list[str] = []
    conn.execute(f"ALTER DATABASE {conn.info.dbname} SET default_transaction_isolation = 'serializable'".encode())
    handlers.handler("k", transaction=True)(
        lambda job, inside: levels.append(one(inside, "SHOW transaction_isolation"))
    )
    for pooler in (False, True):
        queue.enqueue_many({"kind": "k", "args": n} for n in range(2))
        drain(make_worker(transaction_pooler=pooler).loops[0])
    assert levels == ["read committed"] * 4


@pytest.mark.happens("changes its session")
def test_a_role_set_for_the_database_is_restored_after_each_job(queue: Queue, loop: Loop, handlers: Handlers) -> None:
    """A clean session is like a new one, also after a handler that has given up the role."""
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
