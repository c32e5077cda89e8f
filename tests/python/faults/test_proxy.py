"""The tool for broken connections: a proxy that cuts, stalls and refuses at the right moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from support.database import Connection, one
from support.proxy import Proxy
from support.threads import Thread, eventually

Open = Callable[[], Connection]


@pytest.fixture
def through(dsn: str, proxy: Proxy) -> Iterator[Open]:
    """Open connections through the proxy, in autocommit mode; they are closed in the end."""
    opened: list[Connection] = []

    def through() -> Connection:
        opened.append(psycopg.connect(proxy.lead(dsn), autocommit=True, connect_timeout=10))
        return opened[-1]

    yield through
    for conn in opened:
        conn.close()


@pytest.fixture
def t(conn: Connection) -> None:
    """A table."""
    conn.execute("CREATE TABLE t (n int, padding text)")


def count(conn: Connection) -> int:
    """How many rows the table has."""
    return int(one(conn, "SELECT count(*) FROM t"))


def sessions(conn: Connection) -> int:
    """How many others there are in the database."""
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    return int(one(conn, others))


def in_transaction(conn: Connection, n: int) -> None:
    """Insert a row by BEGIN and COMMIT."""
    with conn.transaction():
        conn.execute("INSERT INTO t VALUES (%s)", [n])


def in_pipeline(conn: Connection, n: int) -> None:
    """The same, in messages that are sent together."""
    with conn.pipeline(), conn.transaction():
        conn.execute("INSERT INTO t VALUES (%s)", [n])


def test_what_passes_through_is_not_changed(through: Open) -> None:
    """Neither what is larger than any buffer, nor queries of each protocol, nor a cancellation."""
    conn = through()
    large = "x" * 5_000_000
    assert one(conn, "SELECT %s::text", large) == large
    assert [len(row[0]) for row in conn.execute("SELECT repeat('x', 3000) FROM generate_series(1, 3000)")] == [
        3000
    ] * 3000
    with conn.cursor().copy("COPY pg_database TO STDOUT") as copy:
        assert b"template1" in b"".join(copy)
    thread = Thread(conn.execute, "SELECT pg_sleep(60)")
    eventually(lambda: conn.info.transaction_status == psycopg.pq.TransactionStatus.ACTIVE)
    conn.cancel_safe()
    with pytest.raises(psycopg.errors.QueryCanceled):
        thread.result(10)


@pytest.mark.parametrize("write", [in_transaction, in_pipeline])
def test_the_answer_to_a_commit_is_lost(
    conn: Connection, t: None, through: Open, proxy: Proxy, write: Callable[[Connection, int], None]
) -> None:
    """The client does not know, but the commit has taken effect. Others are left alone."""
    client, other = through(), through()
    write(client, 1)
    sprung = proxy.cut_after(b"COMMIT")
    with pytest.raises(psycopg.OperationalError):
        write(client, 2)
    assert sprung.wait(10)
    assert count(conn) == 2
    assert count(other) == 2
    write(other, 3)


def test_a_statement_whose_answer_is_lost_is_done_to_its_end(
    conn: Connection, t: None, through: Open, proxy: Proxy
) -> None:
    """It is not disturbed after the first of its rows."""
    client = through()
    proxy.cut_after(b"INSERT")
    with pytest.raises(psycopg.OperationalError):
        client.execute("INSERT INTO t SELECT n, repeat('x', 100) FROM generate_series(1, 50000) AS n RETURNING *")
    assert count(conn) == 50000


@pytest.mark.parametrize("write", [in_transaction, in_pipeline])
def test_a_commit_is_lost(
    conn: Connection, t: None, through: Open, proxy: Proxy, write: Callable[[Connection, int], None]
) -> None:
    """It never arrives: the server rolls back."""
    client = through()
    write(client, 1)
    sprung = proxy.cut_before(b"COMMIT")
    with pytest.raises(psycopg.OperationalError):
        write(client, 2)
    assert sprung.wait(10)
    eventually(lambda: sessions(conn) == 0)
    assert count(conn) == 1


def test_a_statement_that_was_prepared_earlier_is_recognized(
    conn: Connection, t: None, through: Open, proxy: Proxy
) -> None:
    """When it is executed, not when it is prepared; by its text or by a parameter."""
    client = through()
    client.prepare_threshold = 0
    for n, pattern in enumerate([b"INSERT INTO t", b"needle"]):
        client.execute("INSERT INTO t VALUES (0, %s)", ["hay"])
        sprung = proxy.cut_after(pattern)
        with pytest.raises(psycopg.OperationalError):
            client.execute("INSERT INTO t VALUES (0, %s)", ["needle"])
        assert sprung.wait(10)
        assert count(conn) == 2 * n + 2
        client = through()
        client.prepare_threshold = 0


def test_all_connections_are_cut(conn: Connection, through: Open, proxy: Proxy) -> None:
    """By a reset; new ones can be had at once, unless they are refused. The server's sessions end."""
    clients = [through() for _ in range(3)]
    proxy.refuse()
    with pytest.raises(psycopg.OperationalError, match="refused"):
        through()
    for client in clients:
        client.execute("SELECT 1")
    proxy.cut()
    for client in clients:
        with pytest.raises(psycopg.OperationalError):
            client.execute("SELECT 1")
    eventually(lambda: sessions(conn) == 0)
    proxy.accept()
    through().execute("SELECT 1")


@pytest.mark.parametrize("stalled", [("to server",), ("to client",), ()])
def test_a_stalled_connection_goes_on_where_it_was(
    conn: Connection, t: None, through: Open, proxy: Proxy, stalled: tuple[Any, ...]
) -> None:
    """What was sent meanwhile arrives later. In the direction that is not stalled it arrives at once."""
    client = through()
    proxy.stall(*stalled)
    thread = Thread(client.execute, "INSERT INTO t VALUES (1)")
    if stalled == ("to client",):
        eventually(lambda: count(conn) == 1)
    with pytest.raises(TimeoutError):
        thread.result(0.3)
    assert count(conn) == (stalled == ("to client",))
    proxy.resume()
    thread.result(10)
    assert count(conn) == 1


def test_a_stalled_connection_can_be_cut(conn: Connection, through: Open, proxy: Proxy) -> None:
    """It is not stalled for ever."""
    client = through()
    proxy.stall()
    thread = Thread(client.execute, "SELECT 1")
    proxy.cut()
    with pytest.raises(psycopg.OperationalError):
        thread.result(10)
    eventually(lambda: sessions(conn) == 0)
