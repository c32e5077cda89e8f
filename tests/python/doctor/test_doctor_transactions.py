"""The doctor finds transactions that keep jobs, queues or old rows."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from postgres.server import Server
from postgres.standby import Standby
from support.database import Connect, Connection, one, waits_for_lock
from support.doctor import NOW, finding, findings, look
from support.threads import Thread, eventually

from pgq import Queue, WorkerQueue, install


def test_a_producer_that_stays_in_its_transaction(conn: Connection, connect: Connect) -> None:
    """Nobody sees its job."""
    producer = connect(autocommit=False)
    producer.execute("SET application_name = 'web'")
    producer.commit()
    assert findings(conn, "open-transaction", transaction=NOW) == []
    Queue(producer).enqueue("k")
    assert findings(conn, "open-transaction") == []
    found = finding(conn, "open-transaction", transaction=NOW)
    pid = producer.info.backend_pid
    assert found.severity == "warning"
    assert found.title.startswith(f'process {pid} ("web") has enqueued or claimed jobs in a transaction')
    assert "pgq_enqueue" in found.details["query"]
    assert "Its last statement: SELECT" in found.meaning
    producer.rollback()
    producer.execute("SELECT count(*) FROM pgq_waiting")
    assert findings(conn, "open-transaction", transaction=NOW) == []


def test_a_producer_for_whose_job_others_wait(conn: Connection, connect: Connect) -> None:
    """The twin is known only when its transaction ends. Ending the session helps."""
    producer, other = connect(autocommit=False), connect()
    Queue(producer).enqueue("k")
    thread = Thread(Queue(other).enqueue, "k")
    eventually(lambda: waits_for_lock(conn, other))
    found, _ = sorted(
        findings(conn, "open-transaction", transaction=NOW), key=lambda one: one.details["blocks"], reverse=True
    )
    assert found.severity == "error"
    assert (found.details["pid"], found.details["blocks"]) == (producer.info.backend_pid, [other.info.backend_pid])
    conn.execute("SELECT pg_terminate_backend(%s)", [producer.info.backend_pid])
    assert thread.result().created


def test_a_claim_in_a_long_transaction_keeps_a_limited_queue(
    conn: Connection, connect: Connect, queue: WorkerQueue
) -> None:
    """Other claims get nothing."""
    queue.configure("narrow", {"max_running": 5})
    queue.enqueue_many({"kind": "k", "args": n, "queue": "narrow"} for n in range(2))
    claimer = connect(autocommit=False)
    assert len(WorkerQueue(claimer).claim(["narrow"])) == 1
    assert queue.claim(["narrow"]) == []
    assert findings(conn, "limited-queue-held") == []
    Queue(connect(autocommit=False)).enqueue("k", queue="narrow")
    found = finding(conn, "limited-queue-held", claim=NOW)
    assert found.severity == "error"
    assert f'process {claimer.info.backend_pid} keeps queue "narrow" for itself' in found.title
    claimer.rollback()
    assert findings(conn, "limited-queue-held", claim=NOW) == []
    assert len(queue.claim(["narrow"])) == 1


def test_a_session_that_holds_a_snapshot(conn: Connection, connect: Connect) -> None:
    """Vacuum removes nothing meanwhile."""
    holder = connect(autocommit=False)
    holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    holder.execute("SELECT 1")
    assert findings(conn, "snapshot-held") == []
    found = finding(conn, "snapshot-held", snapshot=NOW)
    assert "idle in transaction" in found.title
    assert found.details["query"] == "SELECT 1"
    assert found.details["dead_rows"] >= 0
    conn.execute("SELECT pg_terminate_backend(%s)", [found.details["pid"]])
    eventually(lambda: not findings(conn, "snapshot-held", snapshot=NOW))


def test_a_snapshot_of_another_database_holds_nothing(conn: Connection, other: Connection) -> None:
    """Its rows are not of this database."""
    other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    other.execute("SELECT 1")
    assert findings(conn, "snapshot-held", snapshot=NOW) == []


def test_a_replication_slot_that_nobody_reads(conn: Connection) -> None:
    """It keeps the WAL since it was made."""
    conn.execute("SELECT pg_create_physical_replication_slot('forgotten', true)")
    try:
        conn.execute("CREATE TABLE filler AS SELECT n FROM generate_series(1, 1000) AS n")
        assert findings(conn, "replication-slot") == []
        found = finding(conn, "replication-slot", wal_bytes=0)
        assert 'replication slot "forgotten", which is not in use,' in found.title
        assert found.details["wal_bytes"] > 0
        assert "SELECT pg_drop_replication_slot('forgotten');" in found.remedy
    finally:
        conn.execute("SELECT pg_drop_replication_slot('forgotten')")
    assert findings(conn, "replication-slot", wal_bytes=0) == []


@pytest.fixture
def server(environment: None) -> Iterator[Server]:
    """A server for this test alone, which can prepare transactions."""
    with Server(settings={"max_prepared_transactions": "2"}) as server:
        yield server


@pytest.fixture
def own(server: Server) -> Iterator[Connection]:
    """A connection to that server, on which pgq is installed."""
    with psycopg.connect(host=server.host, port=server.port, user=server.user, dbname="postgres") as conn:
        conn.autocommit = True
        install(conn)
        yield conn


@pytest.mark.slow
def test_a_prepared_transaction_that_nobody_ends(own: Connection) -> None:
    """It keeps rows and locks. The remedy ends it, whatever its name is."""
    own.execute("BEGIN")
    own.execute("CREATE TABLE made (n integer)")
    own.execute("PREPARE TRANSACTION 'it''s lost'")
    assert findings(own, "prepared-transaction") == []
    found = finding(own, "prepared-transaction", snapshot=NOW)
    assert found.title.startswith('transaction "it\'s lost" was prepared')
    own.execute(found.remedy.split("or: ")[1].encode())
    assert findings(own, "prepared-transaction", snapshot=NOW) == []


@pytest.mark.slow
def test_a_query_on_a_standby_that_keeps_rows(server: Server, own: Connection) -> None:
    """By feedback, of the standby itself, or through its slot, also when the standby is gone."""
    own.execute("SELECT pg_create_physical_replication_slot('standby')")
    with (
        Standby(server) as standby,
        psycopg.connect(host=standby.host, port=standby.port, user="postgres", autocommit=True) as admin,
    ):
        admin.execute("ALTER SYSTEM SET hot_standby_feedback = on")
        admin.execute("ALTER SYSTEM SET wal_receiver_status_interval = '1s'")
        admin.execute("SELECT pg_reload_conf()")
        with psycopg.connect(host=standby.host, port=standby.port, user="postgres") as query:
            query.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            query.execute("SELECT 1")

            def use_up() -> None:
                own.execute("SELECT pg_current_xact_id()")

            def held(code: str) -> bool:
                use_up()
                return bool(findings(own, code, xids=0))

            eventually(lambda: held("standby-feedback"), "the standby has sent its horizon")
            found = finding(own, "standby-feedback", xids=0)
            assert "by hot_standby_feedback" in found.title
            assert findings(own, "standby-feedback") == []
            admin.execute("ALTER SYSTEM SET primary_slot_name = 'standby'")
            admin.execute("SELECT pg_reload_conf()")
            eventually(lambda: held("replication-slot"), "the slot has the horizon")
            assert finding(own, "replication-slot", xids=0).details["active"]
    eventually(lambda: not one(own, "SELECT active FROM pg_replication_slots"), "the standby is gone")
    found = finding(own, "replication-slot", xids=0)
    assert 'replication slot "standby", which is not in use,' in found.title
    assert "Vacuum removes no row" in found.meaning
    own.execute("SELECT pg_drop_replication_slot('standby')")
    assert findings(own, "replication-slot", xids=0) == []


@pytest.mark.slow
def test_a_standby_itself(server: Server, own: Connection) -> None:
    """What only the primary knows could not be checked there."""
    with (
        Standby(server) as standby,
        psycopg.connect(host=standby.host, port=standby.port, user="postgres", autocommit=True) as conn,
    ):
        found = finding(conn, "standby")
        assert (found.severity, found.title) == ("note", "this server is a standby")
        nothing, (unseen,) = look(conn, "worker-gone")
        assert nothing == []
        assert unseen.reason == "this server is a standby"
