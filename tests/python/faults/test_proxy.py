"""The proxy of these tests cuts, stalls and refuses connections at the right moment."""

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
    """Open connections through the proxy, in autocommit mode; they are closed at the end."""
    opened: list[Connection] = []

    def through() -> Connection:
        opened.append(psycopg.connect(proxy.lead(dsn), autocommit=True, connect_timeout=10))
        return opened[-1]

    yield through
    for conn in opened:
        conn.close()


@pytest.fixture
def t(conn: Connection) -> None:
    """Create the table of these tests."""
    conn.execute("CREATE TABLE t (n int, padding text)")


def count(conn: Connection) -> int:
    """Return how many rows the table has."""
    return int(one(conn, "SELECT count(*) FROM t"))


def sessions(conn: Connection) -> int:
    """Return the number of other sessions in the database."""
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    return int(one(conn, others))


def in_transaction(conn: Connection, n: int) -> None:
    """Insert a row between BEGIN and COMMIT."""
    with conn.transaction():
        conn.execute("INSERT INTO t VALUES (%s)", [n])


def in_pipeline(conn: Connection, n: int) -> None:
    """Insert a row, with all messages sent in one pipeline."""
    with conn.pipeline(), conn.transaction():
        conn.execute("INSERT INTO t VALUES (%s)", [n])


def test_the_proxy_changes_nothing(through: Open) -> None:
    """It passes on large messages, queries of both protocols, COPY and cancel requests."""
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
        thread.result(30)


@pytest.mark.parametrize("write", [in_transaction, in_pipeline])
def test_cut_after_lets_a_commit_pass_and_loses_its_result(
    conn: Connection, t: None, through: Open, proxy: Proxy, write: Callable[[Connection, int], None]
) -> None:
    """The commit has taken effect, but the client gets an error. Other connections stay."""
    client, other = through(), through()
    write(client, 1)
    sprung = proxy.cut_after(b"COMMIT")
    with pytest.raises(psycopg.OperationalError):
        write(client, 2)
    assert sprung.wait(30)
    assert count(conn) == 2
    assert count(other) == 2
    write(other, 3)


def test_cut_after_waits_for_the_end_of_the_statement(conn: Connection, t: None, through: Open, proxy: Proxy) -> None:
    """The statement is not interrupted after its first rows."""
    client = through()
    proxy.cut_after(b"INSERT")
    with pytest.raises(psycopg.OperationalError):
        client.execute("INSERT INTO t SELECT n, repeat('x', 100) FROM generate_series(1, 50000) AS n RETURNING *")
    assert count(conn) == 50000


@pytest.mark.parametrize("write", [in_transaction, in_pipeline])
def test_cut_before_a_commit_makes_the_server_roll_back(
    conn: Connection, t: None, through: Open, proxy: Proxy, write: Callable[[Connection, int], None]
) -> None:
    """The commit never arrives."""
    client = through()
    write(client, 1)
    sprung = proxy.cut_before(b"COMMIT")
    with pytest.raises(psycopg.OperationalError):
        write(client, 2)
    assert sprung.wait(30)
    eventually(lambda: sessions(conn) == 0)
    assert count(conn) == 1


def test_a_prepared_statement_is_recognized_when_it_is_executed(
    conn: Connection, t: None, through: Open, proxy: Proxy
) -> None:
    """The pattern may be in its text or in a parameter; to prepare it is not enough."""
    client = through()
    client.prepare_threshold = 0
    for n, pattern in enumerate([b"INSERT INTO t", b"needle"]):
        client.execute("INSERT INTO t VALUES (0, %s)", ["hay"])
        sprung = proxy.cut_after(pattern)
        with pytest.raises(psycopg.OperationalError):
            client.execute("INSERT INTO t VALUES (0, %s)", ["needle"])
        assert sprung.wait(30)
        assert count(conn) == 2 * n + 2
        client = through()
        client.prepare_threshold = 0


@pytest.mark.parametrize(("moment", "inserted"), [(1, 0), (2, 0), (3, 1)], ids=["begun", "before", "after"])
def test_something_is_done_at_a_moment(
    conn: Connection, t: None, through: Open, proxy: Proxy, moment: int, inserted: int
) -> None:
    """The connection is broken: when its session has begun, and before and after a statement is executed."""
    acts: list[int] = []
    sprung = proxy.act_at(moment, lambda: acts.append(moment))
    with pytest.raises(psycopg.OperationalError):
        through().execute("INSERT INTO t VALUES (1)")
    assert sprung.wait(30)
    assert acts == [moment]
    assert count(conn) == inserted
    in_transaction(through(), 2)
    in_pipeline(through(), 3)
    assert count(conn) == inserted + 2


def test_cut_ends_all_connections(conn: Connection, through: Open, proxy: Proxy) -> None:
    """New ones can be opened at once, unless the proxy refuses them. The sessions of the server end."""
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
def test_a_stalled_connection_resumes_where_it_was(
    conn: Connection, t: None, through: Open, proxy: Proxy, stalled: tuple[Any, ...]
) -> None:
    """Data sent meanwhile arrives later; in the other direction it arrives at once."""
    client = through()
    proxy.stall(*stalled)
    thread = Thread(client.execute, "INSERT INTO t VALUES (1)")
    if stalled == ("to client",):
        eventually(lambda: count(conn) == 1)
    with pytest.raises(TimeoutError):
        thread.result(0.3)
    assert count(conn) == (stalled == ("to client",))
    proxy.resume()
    thread.result(30)
    assert count(conn) == 1


def test_a_stalled_connection_can_be_cut(conn: Connection, through: Open, proxy: Proxy) -> None:
    client = through()
    proxy.stall()
    thread = Thread(client.execute, "SELECT 1")
    proxy.cut()
    with pytest.raises(psycopg.OperationalError):
        thread.result(30)
    eventually(lambda: sessions(conn) == 0)
