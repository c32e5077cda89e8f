"""Limits of queues: exact while sessions race, are killed, and limits change."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from multiprocessing.process import BaseProcess

import psycopg
import pytest
from psycopg.types.json import Jsonb
from support.database import Connect, Connection, expire, one, replace, waits_for_lock
from support.threads import Thread, eventually

from pgq.testing import Clock

MAX_RUNNING, MAX_PER_GROUP = 6, 2
Build = Callable[[Connection], None]
SECONDS = float(os.environ.get("PGQ_LIMITS_SECONDS", "6"))


def limit(conn: Connection, **settings: int) -> None:
    """Set limits of the queue "limited"."""
    conn.execute("SELECT pgq_configure('limited', %s)", [Jsonb(settings)])


def without_the_lock(conn: Connection) -> None:
    """Break the build: claims of the same queue run side by side."""
    replace(conn, "_pgq_lock_queue", "FOR UPDATE SKIP LOCKED", "")


def with_the_token_before_the_lock(conn: Connection) -> None:
    """Break the build: a claim draws its token before it waits for the queue."""
    replace(conn, "_pgq_lock_in_turns", "    rows := '{}';\n", "    rows := '{}'; token := nextval('pgq_token');\n")
    replace(conn, "_pgq_lock_in_turns", "        token := nextval('pgq_token');\n        IF", "        IF")


def with_the_token_before_the_lock_and_old_places(conn: Connection) -> None:
    """Break the build: besides, where the count begins is what the claim with the youngest token has left."""
    with_the_token_before_the_lock(conn)
    replace(conn, "_pgq_end_turn", "WHERE o.ctid = place FOR UPDATE", "WHERE false FOR UPDATE")


def with_the_count_before_the_lock(conn: Connection) -> None:
    """Break the build: a claim counts what runs before it waits for the queue."""
    count = "    v_caps := _pgq_caps(queue, v_setting, v_turn.oldest, at);\n"
    replace(conn, "_pgq_lock_in_turn", count, "")
    lock = "        v_setting := _pgq_lock_queue(queue, waits);\n"
    replace(conn, "_pgq_lock_in_turn", lock, f"        v_turn := _pgq_turn(queue);\n{count}{lock}")


ENDS = ["pgq_complete", "pgq_complete", "pgq_fail", "pgq_release"] * 10 + [
    "pgq_cancel",
    None,
]


def claim_for_ever(dsn: str) -> None:
    """Claim jobs of the queue "limited", and end them in each of the usual ways."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        while True:
            wanted = random.choice([1, 1, 2, 5])
            call = random.choice(["id, token FROM pgq_claim", "unnest(ids), token FROM pgq_claim_batch"])
            jobs = conn.execute(
                f"SELECT {call}('{{limited}}', %s, lease => '300 ms')".encode(),
                [wanted],
            ).fetchall()
            time.sleep(random.random() * 0.004)
            for job in jobs:
                end = random.choice(ENDS)
                if end == "pgq_cancel":
                    conn.execute("SELECT pgq_cancel(%s)", [job[0]])
                elif end:
                    with contextlib.suppress(psycopg.Error):  # the lease has ended
                        conn.execute(f"SELECT {end}(%s, %s)".encode(), job)


def watch(dsn: str, is_enough: Callable[[float, int, int], bool]) -> tuple[int, int]:
    """
    Let eight clients claim while they are killed; return how many snapshots were taken, and broke a limit.

    ``is_enough`` is given the seconds since the start and these two numbers.
    """
    fork = multiprocessing.get_context("fork")

    def client() -> BaseProcess:
        process = fork.Process(target=claim_for_ever, args=(dsn,), daemon=True)
        process.start()
        return process

    taken = broken = jobs = 0
    clients = [client() for _ in range(8)]
    try:
        with psycopg.connect(dsn, autocommit=True) as conn:
            began = time.monotonic()
            kill = began + 0.4
            while not is_enough(time.monotonic() - began, taken, broken):
                counted = conn.execute(
                    "SELECT coalesce(sum(jobs), 0), coalesce(max(jobs), 0) FROM ("
                    "SELECT count(*) AS jobs FROM pgq_running WHERE queue = 'limited' GROUP BY group_key) AS g"
                ).fetchone()
                assert counted is not None
                taken += 1
                broken += counted[0] > MAX_RUNNING or counted[1] > MAX_PER_GROUP
                if taken % 20 == 1 and one(conn, "SELECT count(*) < 500 FROM pgq_waiting"):
                    conn.execute(
                        "SELECT pgq_enqueue('k', to_jsonb(%s + n), 'limited', backoff => '0', "
                        "group_key => (n %% 8)::text) FROM generate_series(1, 1000) AS n",
                        [jobs],
                    )
                    jobs += 1000
                if time.monotonic() > kill:
                    kill += 0.4
                    n = random.randrange(len(clients))
                    clients[n].kill()
                    clients[n].join()
                    clients[n] = client()
    finally:
        for process in clients:
            process.kill()
            process.join()
    return taken, broken


@pytest.mark.happens("a worker of a queue with limits is killed")
def test_no_snapshot_shows_more_running_jobs_than_the_limits_allow(conn: Connection, dsn: str) -> None:
    """Clients race, are killed, lose leases; afterwards every slot can be had again."""
    limit(conn, max_running=MAX_RUNNING, max_per_group=MAX_PER_GROUP)
    _, broken = watch(dsn, lambda seconds, taken, _: seconds > SECONDS and taken > 500)
    assert broken == 0

    def slots() -> bool:
        conn.execute("SELECT count(*) FROM pgq_claim('{limited}', 10, lease => '1 hour')")
        return bool(
            one(
                conn,
                "SELECT count(*) = %s FROM pgq_running WHERE lease_until > now() + '1 min'",
                MAX_RUNNING,
            )
        )

    for n in range(20):
        conn.execute(
            "SELECT pgq_enqueue('k', %s::jsonb, 'limited', group_key => %s)",
            [f'"{n}"', str(n)],
        )
    eventually(slots, "all slots are taken again")


@pytest.mark.parametrize("build", [without_the_lock, with_the_count_before_the_lock], ids=lambda build: build.__name__)
def test_the_watcher_catches_a_broken_build(conn: Connection, dsn: str, build: Build) -> None:
    """The check of the test above can fail."""
    limit(conn, max_running=MAX_RUNNING, max_per_group=MAX_PER_GROUP)
    build(conn)
    assert watch(dsn, lambda seconds, _, broken: broken > 0 or seconds > 60)[1] > 0


@pytest.mark.parametrize(
    ("build", "most", "running"),
    [
        (None, 2, 2),
        (with_the_token_before_the_lock, 2, 2),
        (with_the_token_before_the_lock_and_old_places, 2, 3),
        (with_the_count_before_the_lock, 1, 2),
    ],
    ids=["", "token before the lock", "and old places", "count before the lock"],
)
def test_a_claim_that_waits_for_the_queue_is_counted(
    conn: Connection, connect: Connect, clock: Clock, build: Build | None, most: int, running: int
) -> None:
    """
    It counts what the claim has taken that it waits for, and is counted by the next one; other builds break the limit.

    The clock stands still: a token that is older than a second would be moved to it.

    A claim with an older token than a claim before it breaks no limit, as long as each claim lets the next count begin
    no later than at its own token.
    """
    limit(conn, max_running=most)
    for n in range(6):
        conn.execute("SELECT pgq_enqueue('k', %s::jsonb, 'limited')", [str(n)])
    # The first claim moves the tokens to the clock.
    conn.execute("SELECT pgq_complete(id, token) FROM pgq_claim('{limited}')")
    # A claim waits for as long as the test takes.
    conn.execute("ALTER FUNCTION _pgq_await_queue SET lock_timeout = '30s'")
    if build:
        build(conn)
    first, second, third = connect(autocommit=False), connect(), connect()
    first.execute("SELECT FROM pgq_queue_setting FOR UPDATE")
    waiting = Thread(lambda: second.execute("SELECT token FROM pgq_claim('{limited}')").fetchall())
    eventually(lambda: waits_for_lock(conn, second), "the second claim waits for the first")
    assert len(first.execute("SELECT token FROM pgq_claim('{limited}')").fetchall()) == 1
    first.commit()
    assert len(waiting.result()) == 1
    third.execute("SELECT id FROM pgq_claim('{limited}')")
    assert one(conn, "SELECT count(*) FROM pgq_running") == running


def test_a_claim_that_waits_for_the_queue_reads_the_clock_when_it_has_it(
    conn: Connection, connect: Connect, clock: Clock
) -> None:
    """Otherwise the claim would be noted as earlier than the one that it has waited for."""
    limit(conn, max_running=5)
    conn.execute("SELECT pgq_enqueue('k', '1', 'limited'), pgq_enqueue('k', '2', 'limited', delay => '1 minute')")
    conn.execute("ALTER FUNCTION _pgq_await_queue SET lock_timeout = '30s'")
    first, second = connect(autocommit=False), connect()
    first.execute("SELECT FROM pgq_queue_setting FOR UPDATE")
    claim = "SELECT lease_until - interval '5 minutes' FROM pgq_claim('{limited}', 10)"
    waiting = Thread(lambda: second.execute(claim).fetchall())
    eventually(lambda: waits_for_lock(conn, second), "the claim waits")
    clock.tick(timedelta(minutes=1))
    first.commit()
    assert waiting.result() == 2 * [(datetime(2030, 1, 1, 12, 1, tzinfo=UTC),)]


def test_a_claim_that_has_a_queue_waits_for_no_other(conn: Connection, connect: Connect) -> None:
    """Two that take queues in another order would wait for each other."""
    for name in ("a", "b", "limited"):
        conn.execute("SELECT pgq_configure(%s, %s)", [name, Jsonb({"max_running": 5})])
        conn.execute("SELECT pgq_enqueue('k', queue => %s)", [name])
    conn.execute("ALTER FUNCTION _pgq_await_queue SET lock_timeout = '30s'")
    other = connect(autocommit=False)
    other.execute("SELECT FROM pgq_queue_setting WHERE queue = 'b' FOR UPDATE")
    conn.execute("SET statement_timeout = '20s'")
    taken = conn.execute("SELECT queue FROM pgq_claim('{a,b,limited}', 10)").fetchall()
    assert taken == [("a",), ("limited",)]


def test_a_claim_from_an_empty_queue_with_limits_writes_nothing(conn: Connection) -> None:
    """To lock the queue would be to write."""
    limit(conn, max_running=1)
    assert one(conn, "SELECT count(*) FROM pgq_claim('{limited}')") == 0
    with conn.transaction():
        assert one(conn, "SELECT count(*) FROM pgq_claim('{limited}')") == 0
        assert one(conn, "SELECT pg_current_xact_id_if_assigned()") is None


@pytest.mark.parametrize(
    "level",
    [psycopg.IsolationLevel.REPEATABLE_READ, psycopg.IsolationLevel.SERIALIZABLE],
)
@pytest.mark.parametrize("call", ["pgq_claim('{free,limited}')", "pgq_claim_batch('{limited}')"])
def test_a_claim_with_an_old_snapshot_is_refused(
    conn: Connection, connect: Connect, level: psycopg.IsolationLevel, call: str
) -> None:
    """It could not count the jobs that others have claimed since."""
    limit(conn, max_running=1)
    conn.execute("SELECT pgq_enqueue('k', queue => 'limited')")
    strict = connect(autocommit=False)
    strict.isolation_level = level
    said = f"limited has limits and cannot be claimed from in isolation level {level.name.replace('_', ' ')}"
    with pytest.raises(psycopg.errors.ActiveSqlTransaction, match=said):
        strict.execute(f"SELECT * FROM {call}".encode())


@pytest.mark.parametrize(
    "level",
    [psycopg.IsolationLevel.REPEATABLE_READ, psycopg.IsolationLevel.SERIALIZABLE],
)
@pytest.mark.parametrize("known", [False, True], ids=["no settings before", "settings before"])
def test_a_claim_whose_snapshot_is_older_than_the_limit_is_refused(
    conn: Connection, connect: Connect, level: psycopg.IsolationLevel, known: bool
) -> None:
    """It does not see the limit."""
    if known:
        conn.execute("SELECT pgq_configure('limited', '{\"max_retries\": 1}')")
    conn.execute("SELECT pgq_enqueue('k', queue => 'limited')")
    strict = connect(autocommit=False)
    strict.isolation_level = level
    strict.execute("SELECT 1")
    limit(conn, max_running=1)
    with pytest.raises(psycopg.errors.SerializationFailure):
        strict.execute("SELECT * FROM pgq_claim('{limited}')")


@pytest.mark.happens("a worker has lost a lease and does not know it")
def test_a_lost_lease_frees_its_place(conn: Connection, connect: Connect) -> None:
    """The worker that had it cannot record anything."""
    limit(conn, max_running=1)
    for n in range(2):
        conn.execute("SELECT pgq_enqueue('k', %s::jsonb, 'limited')", [str(n)])
    lost = conn.execute("SELECT id, token FROM pgq_claim('{limited}')").fetchone()
    assert lost is not None
    expire(conn, lost[0])
    other = connect()
    assert one(other, "SELECT count(*) FROM pgq_claim('{limited}', 10)") == 1
    with pytest.raises(psycopg.Error, match="is not held"):
        conn.execute("SELECT pgq_complete(%s, %s)", lost)
    assert one(other, "SELECT count(*) FROM pgq_claim('{limited}', 10)") == 0
