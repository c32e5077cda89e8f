"""Ordered queues: strict order while producers commit late, and clients are killed."""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import threading
import time
from multiprocessing.process import BaseProcess

import psycopg
import pytest
from support.database import Connect, Connection, one
from support.threads import Thread, eventually

ENQUEUE = "SELECT pgq_enqueue('k', %s::jsonb, 'q', dedup => false, group_key => %s)"
ENQUEUE_MANY = (
    "SELECT pgq_enqueue_many(jsonb_build_array(jsonb_build_object('kind', 'k', 'args', %s::jsonb, 'queue', 'q', "
    "'dedup', false, 'group_key', %s::text)))"
)


@pytest.fixture(autouse=True)
def ordered(conn: Connection) -> None:
    """Make the queue "q" ordered."""
    conn.execute("SELECT pgq_configure('q', '{\"ordered\": true}')")


def claim(conn: Connection) -> list[str]:
    """Claim what may be claimed, and return the arguments."""
    return sorted(row[0] for row in conn.execute("SELECT args::text FROM pgq_claim('{q}', 10)").fetchall())


@pytest.mark.parametrize("enqueue", [ENQUEUE, ENQUEUE_MANY], ids=["one", "many"])
@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_no_job_overtakes_one_whose_enqueue_is_open(
    conn: Connection, connect: Connect, enqueue: str, ending: str
) -> None:
    """Its groups wait for the producer that has drawn the smaller ids, and no other group does."""
    late = connect(autocommit=False)
    late.execute(enqueue.encode(), ["1", "a"])
    late.execute(enqueue.encode(), ["2", "c"])
    conn.execute(enqueue.encode(), ["3", "a"])
    conn.execute(enqueue.encode(), ["4", "b"])
    conn.execute(enqueue.encode(), ["5", "c"])
    assert claim(conn) == ["4"]
    getattr(late, ending)()
    assert claim(conn) == (["1", "2"] if ending == "commit" else ["3", "5"])


def test_a_first_job_that_is_locked_keeps_its_group_waiting(conn: Connection, connect: Connect) -> None:
    """The lock may be that of a claim that is under way."""
    for n in range(2):
        conn.execute(ENQUEUE, [str(n), "a"])
    other = connect(autocommit=False)
    other.execute("SELECT FROM pgq_waiting WHERE args = '0' FOR KEY SHARE")
    assert claim(conn) == []
    other.rollback()
    assert claim(conn) == ["0"]


def test_a_claim_does_not_keep_producers_waiting(conn: Connection, connect: Connect) -> None:
    """Not even if it stays in its transaction."""
    conn.execute(ENQUEUE, ["1", "a"])
    worker = connect(autocommit=False)
    assert claim(worker) == ["1"]
    conn.execute("SET lock_timeout = '10s'")
    conn.execute(ENQUEUE, ["2", "a"])


def test_producers_that_come_one_after_the_other_do_not_starve_claims(conn: Connection, connect: Connect) -> None:
    """There is always one whose transaction is open."""
    stop = threading.Event()

    def produce(producer: Connection) -> None:
        while not stop.is_set():
            producer.execute(ENQUEUE, ["1", "a"])
            time.sleep(0.004)
            producer.commit()

    threads = [Thread(produce, connect(autocommit=False)) for _ in range(8)]
    taken = 0

    def claims() -> bool:
        nonlocal taken
        for job in conn.execute("SELECT id, token FROM pgq_claim('{q}')").fetchall():
            conn.execute("SELECT pgq_complete(%s, %s)", job)
            taken += 1
        return taken > 20

    try:
        eventually(claims, "jobs are claimed all the same")
    finally:
        stop.set()
        for thread in threads:
            thread.result()


def produce_for_ever(dsn: str, number: int) -> None:
    """Enqueue jobs in a few groups, and commit late."""
    with psycopg.connect(dsn) as conn:
        while True:
            for _ in range(random.choice([1, 1, 3])):
                conn.execute(ENQUEUE, [str(number), str(random.randrange(4))])
                time.sleep(random.random() * 0.005)
            conn.rollback() if random.random() < 0.1 else conn.commit()
            time.sleep(random.random() * 0.03)


def work_for_ever(dsn: str) -> None:
    """Claim jobs, and note each in the order of its completion, in its transaction."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        while True:
            jobs = conn.execute("SELECT id, token, group_key FROM pgq_claim('{q}', 3, '300 ms')").fetchall()
            time.sleep(random.random() * 0.004)
            for job, token, group in jobs:
                with contextlib.suppress(psycopg.Error):
                    if random.random() < 0.2:
                        conn.execute("SELECT pgq_fail(%s, %s, 'broken', retry_in => '20 ms')", [job, token])
                        continue
                    with conn.transaction():
                        conn.execute("SELECT pgq_complete(%s, %s)", [job, token])
                        conn.execute("INSERT INTO done (job, of) VALUES (%s, %s)", [job, group])


def test_jobs_are_done_in_order(conn: Connection, dsn: str) -> None:
    """While producers commit late, jobs fail and leases end, and all of them are killed."""
    conn.execute("CREATE TABLE done (n serial, job bigint, of text)")
    fork = multiprocessing.get_context("fork")
    targets = [(produce_for_ever, (dsn, n)) for n in range(4)] + [(work_for_ever, (dsn,)) for _ in range(4)]

    def begin(n: int) -> BaseProcess:
        process = fork.Process(target=targets[n][0], args=targets[n][1], daemon=True)
        process.start()
        return process

    clients = [begin(n) for n in range(len(targets))]
    try:
        end = time.monotonic() + 8
        while time.monotonic() < end:
            time.sleep(0.3)
            n = random.randrange(len(clients))
            clients[n].kill()
            clients[n].join()
            clients[n] = begin(n)
    finally:
        for process in clients:
            process.kill()
            process.join()
    assert one(conn, "SELECT count(*) FROM done") > 50
    query = "SELECT job < lag(job) OVER (PARTITION BY of ORDER BY n) AS late FROM done"
    assert one(conn, f"SELECT count(*) FROM ({query}) AS d WHERE late") == 0
