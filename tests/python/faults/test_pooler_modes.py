"""Before it does anything else, a worker notices a pooler in transaction mode; other poolers do not keep it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from support.database import Connection, one
from support.pgbouncer import pgbouncer
from support.processes import TASKS, installed, invoke
from support.servers import Place
from support.threads import Thread, eventually

from pgq import Drain, Handlers, Queue, TransactionPooler, Worker
from pgq.worker.pooler import refuse_transaction_pooler
from pgq.worker.server import Server

# A worker that is not refused ends all the same.
NOW = Drain(until_empty=False)
# PgBouncer takes the process that has become free last, or in turn the one that has been free for the longest time.
TRANSACTION_POOLERS: dict[str, dict[str, Any]] = {
    "idle": {},
    "in turn": {"server_round_robin": 1},
    "with one process": {"default_pool_size": 1},
    "with two processes in turn": {"default_pool_size": 2, "server_round_robin": 1},
}


@pytest.fixture
def handlers() -> Handlers:
    """A handler that does nothing."""
    registry = Handlers()
    registry.handler("k")(lambda _: None)
    return registry


@pytest.mark.happens("a pooler in transaction mode is before the server")
@pytest.mark.parametrize("name", TRANSACTION_POOLERS)
def test_a_worker_behind_a_pooler_in_transaction_mode_is_refused(
    conn: Connection, place: Place, dsn: str, handlers: Handlers, name: str
) -> None:
    """It is not registered, has set nothing in the sessions that it was lent, and says which option it needs."""
    settings = TRANSACTION_POOLERS[name]
    with pgbouncer(place.server, dsn, **settings) as pooled:
        # The pooler has all of its processes of the server.
        with ExitStack() as clients:
            for _ in range(settings.get("default_pool_size", 3)):
                clients.enter_context(psycopg.connect(pooled)).execute("SELECT 1")
        with pytest.raises(TransactionPooler, match="transaction mode") as refused:
            Worker(pooled, handlers, drain=NOW).run()
        assert "--transaction-pooler" in str(refused.value.hint)
        assert one(conn, "SELECT count(*) FROM pgq_worker_session") == 0
        with psycopg.connect(pooled, prepare_threshold=None) as other:
            assert one(other, "SHOW tcp_keepalives_idle") == one(conn, "SHOW tcp_keepalives_idle")
            assert one(other, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0
            assert one(other, "SELECT count(*) FROM pg_prepared_statements") == 0


def test_other_clients_of_the_pooler_do_not_hide_it(place: Place, dsn: str, handlers: Handlers) -> None:
    """Some keep a process for a transaction, others change all the time."""
    ended = threading.Event()

    def be_busy(pooled: str, seconds: float) -> None:
        with psycopg.connect(pooled, prepare_threshold=None) as client:
            while not ended.is_set():
                client.execute("SELECT 1")
                time.sleep(seconds * random.random())
                client.commit()

    with pgbouncer(place.server, dsn) as pooled:
        clients = [Thread(be_busy, pooled, seconds) for seconds in (0.001, 0.003, 0.003, 0.01, 0.03, 0.3)]
        try:
            for _ in range(10):
                with pytest.raises(TransactionPooler):
                    Worker(pooled, handlers, drain=NOW).run()
        finally:
            ended.set()
            for client in clients:
                client.result()


def test_two_instances_of_the_pooler_do_not_hide_it(place: Place, dsn: str, handlers: Handlers) -> None:
    """Each instance has processes of its own, and the connections of a worker may lead to either."""
    if psycopg.pq.version() < 160000:
        pytest.skip("this libpq does not choose among hosts")
    with pgbouncer(place.server, dsn) as one_way, pgbouncer(place.server, dsn) as other_way:
        ways = [conninfo_to_dict(way) for way in (one_way, other_way)]
        either = {name: ",".join(str(way[name]) for way in ways) for name in ("host", "port")}
        for _ in range(10):
            with pytest.raises(TransactionPooler):
                Worker(make_conninfo(dsn, **either, load_balance_hosts="random"), handlers, drain=NOW).run()


@pytest.fixture(params=[20, 2])
def kept(request: pytest.FixtureRequest, place: Place, dsn: str) -> Iterator[str]:
    """A way through a pooler in session mode, whose processes are enough for the worker, or just enough."""
    with pgbouncer(place.server, dsn, pool_mode="session", default_pool_size=request.param) as way:
        yield way


def test_a_pooler_in_session_mode_is_as_good_as_the_server(
    conn: Connection, queue: Queue, kept: str, handlers: Handlers
) -> None:
    """The worker is present while it runs, and gone when it has stopped."""
    queue.enqueue("k")
    worker = Worker(kept, handlers, poll=0.02)
    thread = Thread(worker.run)
    eventually(lambda: one(conn, "SELECT count(*) FROM pgq_waiting") == 0)
    assert one(conn, "SELECT present FROM pgq_workers") is True
    worker.stop()
    thread.result(30)
    assert one(conn, "SELECT count(*) FROM pgq_workers") == 0


def test_a_worker_on_the_server_itself_makes_one_connection_to_know(
    dsn: str, conn: Connection, handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections: list[Connection] = []

    connect = Server.connect

    def noted(server: Server, name: str) -> Connection:
        connections.append(connect(server, name))
        return connections[-1]

    monkeypatch.setattr(Server, "connect", noted)
    refuse_transaction_pooler(Server.resolve(dsn), "w")
    assert [conn.closed for conn in connections] == [True]


@pytest.mark.happens("a pooler in transaction mode is before the server")
def test_the_command_is_refused_with_the_name_of_its_option(place: Place, dsn: str, tmp_path: Path) -> None:
    """With exit code 1, and --processes start no successors."""
    (tmp_path / "tasks.py").write_text(TASKS)
    with pgbouncer(place.server, dsn) as pooled:
        for options in ([], ["--processes", "2"]):
            done = installed("worker", "tasks", "--drain", "--dsn", pooled, *options, cwd=tmp_path)
            assert done.returncode == 1
            assert "pgq: the connection leads through a pooler in transaction mode" in done.stderr
            assert "hint: Give pgq worker the option --transaction-pooler" in done.stderr


def test_other_commands_need_no_option(queue: Queue, place: Place, dsn: str) -> None:
    """Calls that a connection repeats leave no prepared statement for the next client."""
    ids = [str(queue.enqueue("k", n).id) for n in range(20)]
    with pgbouncer(place.server, dsn) as pooled:
        for command in (f"cancel {' '.join(ids)}", "retry --state cancelled", "stats", "purge", "enqueue k 7"):
            done = invoke(*command.split(), "--dsn", pooled)
            assert (done.returncode, "prepared statement" in done.stderr) == (0, False), command
        with psycopg.connect(pooled, prepare_threshold=None) as other:
            assert one(other, "SELECT count(*) FROM pg_prepared_statements") == 0


@pytest.mark.parametrize(
    "interfere", ["PREPARE _pg3_0 AS SELECT 1", "DO $$BEGIN EXECUTE 'DEALLOCATE ALL'; END$$"], ids=["42P05", "26000"]
)
def test_a_producer_whose_statements_meet_those_of_others_is_told_why(conn: Connection, interfere: str) -> None:
    """psycopg prepares what it repeats; in sessions that a pooler hands on, that is in the way of other clients."""
    conn.prepare_threshold = 0
    if interfere.startswith("DO"):
        Queue(conn).enqueue("k")
    conn.execute(interfere.encode(), prepare=False)
    with pytest.raises(psycopg.ProgrammingError, match="prepared statement") as refused:
        Queue(conn).enqueue("k")
    assert "set prepare_threshold of the connection to None" in refused.value.__notes__[0]
