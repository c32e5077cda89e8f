"""The first limit of a queue, and its order: what runs or is enqueued meanwhile counts."""

from __future__ import annotations

import psycopg
import pytest
from support.database import Connect, Connection, one, replace, sleeps, waits_for_lock
from support.threads import Thread, eventually

CLAIMS = {
    "one": "pgq_claim('{q}')",
    "batch of one": "pgq_claim_batch('{q}', 1)",
    "packed": "pgq_claim_batch('{q}', 20)",
    "several queues": "pgq_claim('{free,q}', 20)",
}


@pytest.mark.parametrize("call", CLAIMS.values(), ids=CLAIMS)
@pytest.mark.parametrize("marked", [False, True], ids=["", "marked"])
def test_the_first_limit_counts_the_jobs_of_a_claim_that_has_missed_it(
    conn: Connection, connect: Connect, call: str, marked: bool
) -> None:
    """The claim has looked for limits, and has not taken its jobs yet."""
    for n in range(20):
        conn.execute("SELECT pgq_enqueue('k', %s::jsonb, 'q')", [str(n)])
    if marked:
        conn.execute("SELECT pgq_enqueue('k', '21', 'q', group_key => 'a')")
    blocker, worker, admin = connect(autocommit=False), connect(), connect()
    blocker.execute("LOCK TABLE pgq_running, pgq_running_batch IN SHARE ROW EXCLUSIVE MODE")
    claim = Thread(lambda: worker.execute(f"SELECT * FROM {call}".encode()).fetchall())
    eventually(lambda: waits_for_lock(conn, worker), "the claim waits to move its jobs")
    limit = Thread(lambda: admin.execute("SELECT pgq_configure('q', '{\"max_running\": 1}')"))
    eventually(lambda: sleeps(conn, admin) or not limit.is_alive(), "the limit waits for the claim")
    blocker.rollback()
    claim.result()
    limit.result()
    running = one(conn, "SELECT count(*) FROM _pgq_running")
    assert running > 0
    assert one(conn, "SELECT count(*) FROM pgq_running WHERE group_id IS NOT NULL") == running
    assert one(conn, "SELECT count(*) FROM pgq_claim('{q}', 20)") == 0


def test_the_first_limit_waits_for_claims_that_are_under_way(conn: Connection, connect: Connect) -> None:
    """Their jobs count, whether they began before the queue was marked or later."""
    for n in range(30):
        conn.execute("SELECT pgq_enqueue('k', %s::jsonb, 'q')", [str(n)])
    first, second, admin = connect(autocommit=False), connect(autocommit=False), connect()
    first.execute("SELECT FROM pgq_claim_batch('{q}', 20)")
    thread = Thread(lambda: admin.execute("SELECT pgq_configure('q', '{\"max_running\": 26}')"))
    eventually(lambda: sleeps(conn, admin) or not thread.is_alive(), "the limit waits for the claim")
    # One that begins when the queue is marked, and sees no limit.
    second.execute("SELECT FROM pgq_claim('{q}', 5)")
    first.commit()
    eventually(lambda: waits_for_lock(conn, admin) or not thread.is_alive(), "it waits for the second one, too")
    second.commit()
    thread.result()
    assert one(conn, "SELECT count(*) FROM pgq_claim('{q}', 20)") == 1


def test_the_first_limit_does_not_wait_for_ever(conn: Connection, connect: Connect) -> None:
    """Each wait ends after about ten seconds; here after a moment. The limit is not set."""
    replace(conn, "_pgq_await_claims", "1..1000", "1..3")
    replace(conn, "_pgq_lock_settings", "1..50", "1..2")
    other = connect(autocommit=False)
    other.execute("SELECT FROM pgq_claim('{q}')")
    with pytest.raises(psycopg.errors.LockNotAvailable, match="transactions that have claimed jobs stay open"):
        conn.execute("SELECT pgq_configure('q', '{\"max_running\": 1}')")
    other.rollback()
    other.execute("SELECT FROM pgq_queue_setting")
    with pytest.raises(
        psycopg.errors.LockNotAvailable, match="transactions that have looked for the settings of queues stay open"
    ):
        conn.execute("SELECT pgq_configure('q', '{\"max_running\": 1}')")
    other.rollback()
    assert one(conn, "SELECT count(*) FROM pgq_queue_setting") == 0


def test_a_first_limit_counts_jobs_that_are_locked(conn: Connection, connect: Connect) -> None:
    """The transaction of a handler may hold one for long."""
    for n in range(4):
        conn.execute("SELECT pgq_enqueue('k', %s::jsonb, 'q')", [str(n)])
    job = conn.execute("SELECT id, token FROM pgq_claim('{q}')").fetchone()
    handler = connect(autocommit=False)
    handler.execute("SELECT pgq_hold(%s, %s)", job)
    conn.execute("SELECT pgq_configure('q', '{\"max_running\": 2}')")
    assert one(conn, "SELECT count(*) FROM pgq_claim('{q}', 10)") == 1
    handler.execute("SELECT pgq_complete(%s, %s)", job)
    handler.commit()
    assert one(conn, "SELECT count(*) FROM pgq_claim('{q}', 10)") == 1


def test_a_locked_job_counts_once_when_the_limit_is_set_again(conn: Connection, connect: Connect) -> None:
    """It was noted with the first limit, and is with the second."""
    for n in range(4):
        conn.execute("SELECT pgq_enqueue('k', %s::jsonb, 'q', group_key => 'a')", [str(n)])
    job = conn.execute("SELECT id, token FROM pgq_claim('{q}')").fetchone()
    handler = connect(autocommit=False)
    handler.execute("SELECT pgq_hold(%s, %s)", job)
    for most in (1, None, 2):
        conn.execute("SELECT pgq_configure('q', jsonb_build_object('max_per_group', %s::integer))", [most])
    assert one(conn, "SELECT count(*) FROM pgq_claim('{q}', 10)") == 1
    handler.rollback()
    conn.execute("SELECT pgq_release(%s, %s)", job)
    assert one(conn, "SELECT count(*) FROM pgq_claim('{q}', 10)") == 1
    assert one(conn, "SELECT count(*) FROM pgq_claim('{q}', 10)") == 0


@pytest.mark.parametrize("limits", ["{}", '{"max_running": 9}'], ids=["", "a queue with a limit"])
def test_a_queue_becomes_ordered_after_the_enqueues_that_are_open(
    conn: Connection, connect: Connect, limits: str
) -> None:
    """They have not locked their groups: a later job could overtake them."""
    conn.execute("SELECT pgq_configure('q', %s)", [limits])
    producer, admin = connect(autocommit=False), connect()
    producer.execute("SELECT pgq_enqueue('k', '1', 'q', group_key => 'a')")
    order = Thread(lambda: admin.execute("SELECT pgq_configure('q', '{\"ordered\": true}')"))
    waits = "the order waits for the enqueue"
    eventually(lambda: sleeps(conn, admin) or waits_for_lock(conn, admin) or not order.is_alive(), waits)
    assert order.is_alive()
    producer.commit()
    order.result()
    conn.execute("SELECT pgq_enqueue('k', '2', 'q', group_key => 'a')")
    assert one(conn, "SELECT args::text FROM pgq_claim('{q}', 10)") == "1"


def test_a_delayed_job_that_is_locked_keeps_its_place_in_a_queue_that_becomes_ordered(
    conn: Connection, connect: Connect
) -> None:
    """It leaves the waiting room later."""
    conn.execute("SELECT pgq_enqueue('k', '1', 'q', delay => '1 hour', group_key => 'a')")
    conn.execute("SELECT pgq_enqueue('k', '2', 'q', group_key => 'a')")
    other = connect(autocommit=False)
    other.execute("SELECT FROM pgq_waiting WHERE args = '1' FOR KEY SHARE")
    conn.execute("SELECT pgq_configure('q', '{\"ordered\": true}')")
    other.rollback()
    assert one(conn, "SELECT count(*) FROM pgq_claim('{q}', 10)") == 0


def test_two_transactions_that_claim_and_configure_do_not_wait_for_each_other_for_ever(
    conn: Connection, connect: Connect
) -> None:
    """The server ends one of them."""
    conn.execute("SELECT pgq_configure('q', '{\"max_running\": 1}')")
    conn.execute("SELECT pgq_enqueue('k', queue => 'q')")
    worker, admin = connect(autocommit=False), connect()
    worker.execute("SELECT FROM pgq_claim('{q}')")
    change = Thread(lambda: admin.execute("SELECT pgq_configure('q', '{\"max_running\": 2}')"))
    eventually(lambda: waits_for_lock(conn, admin), "the change waits for the claim")
    ended = 0
    try:
        worker.execute("SELECT pgq_configure('other', '{\"max_running\": 2}')")
    except psycopg.errors.DeadlockDetected:
        ended += 1
    worker.rollback()
    try:
        change.result()
    except psycopg.errors.DeadlockDetected:
        ended += 1
    assert ended == 1


def test_two_queues_get_their_first_limits_at_the_same_time(conn: Connection, connect: Connect) -> None:
    """Each waits for a claim, and neither for the other."""
    worker, admins = connect(autocommit=False), [connect() for _ in "ab"]
    worker.execute("SELECT FROM pgq_claim('{a,b}')")
    call = "SELECT pgq_configure(%s, '{\"max_running\": 1}')"
    limits = [Thread(admin.execute, call, [name]) for admin, name in zip(admins, "ab", strict=True)]
    eventually(lambda: all(sleeps(conn, admin) or waits_for_lock(conn, admin) for admin in admins), "both limits wait")
    worker.commit()
    for limit in limits:
        limit.result()
    assert one(conn, "SELECT count(*) FROM pgq_queue_setting") == 2
