"""Settings and pauses of queues, as a program makes them, and what sessions see of those of others."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from support.database import Connect, Connection, one
from support.threads import Thread, eventually

from pgq import Queue, WorkerQueue
from pgq.views import Views


def test_settings_are_a_mapping_in_and_out(queue: WorkerQueue) -> None:
    """An interval may be a timedelta, and comes back as text; None resets a key."""
    assert queue.configure("q", {"max_retries": 3, "lease": timedelta(hours=1), "backoff": "90 s"}) == {
        "max_retries": 3,
        "lease": "01:00:00",
        "backoff": "00:01:30",
    }
    assert queue.configure("q", {"lease": None, "backoff": None}) == {"max_retries": 3} == queue.configure("q")
    (row,) = Views(queue.conn).queues()
    assert (row["queue"], row["max_retries"], row["paused"]) == ("q", 3, False)
    queue.enqueue("k", queue="q")
    (job,) = queue.claim(["q"])
    assert job.max_retries == 3


def test_the_lease_of_a_claim_that_names_none_is_that_of_the_queue(queue: WorkerQueue) -> None:
    queue.configure("q", {"lease": "1 hour"})
    for name, given, expected in [("q", None, 60), ("q", timedelta(minutes=7), 7), ("other", None, 5)]:
        queue.enqueue("k", queue=name, dedup=False)
        queue.claim([name], lease=given)
        assert one(queue.conn, "SELECT max(lease_until - claimed_at) FROM pgq_running") == timedelta(minutes=expected)
        queue.conn.execute("DELETE FROM pgq_running")


def test_two_sessions_that_configure_a_queue_set_both_keys(conn: Connection, connect: Connect) -> None:
    """The second waits for the first, also where the queue has no settings yet."""
    other = Queue(connect())
    with conn.transaction():
        Queue(conn).configure("q", {"max_retries": 3})
        second = Thread(other.configure, "q", {"backoff": "1 s"})
        eventually(lambda: one(conn, "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"))
    assert second.result() == {"max_retries": 3, "backoff": "00:00:01"}


def test_settings_are_kept_if_another_session_resets_the_last_one_meanwhile(conn: Connection, connect: Connect) -> None:
    """The session waits for the other one, and finds no row."""
    queue, other = Queue(conn), Queue(connect())
    queue.configure("q", {"max_retries": 3})
    with conn.transaction():
        queue.configure("q", {"max_retries": None})
        second = Thread(other.configure, "q", {"backoff": "1 s"})
        eventually(lambda: one(conn, "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"))
    assert second.result() == {"backoff": "00:00:01"} == queue.configure("q")


def test_a_claim_looks_for_settings_only_where_a_queue_is_marked(conn: Connection, queue: Queue) -> None:
    """Each table that it reads stays locked until the end of the transaction."""
    locks = (
        "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() "
        "AND relation IN ('pgq_paused'::regclass, 'pgq_queue_setting'::regclass)"
    )
    queue.configure("q", {"max_retries": 3})
    other = one(
        conn,
        "SELECT min('o' || n) FROM generate_series(1, 9) AS n WHERE _pgq_mark_of('o' || n) <> _pgq_mark_of('q')",
    )
    for queues, looks in [([other], False), (["q"], True), ([other, "q"], True)]:
        for call in ("pgq_claim", "pgq_claim_batch", "pgq_ripe_in"):
            with conn.transaction():
                conn.execute(f"SELECT {call}(%s)".encode(), [queues])
                assert (one(conn, locks) > 0) == looks, (call, queues)


def test_a_pause_counts_when_it_is_committed_and_keeps_no_claim_waiting(
    conn: Connection, connect: Connect, queue: WorkerQueue
) -> None:
    """Running jobs go on, and jobs are enqueued as before."""
    other = WorkerQueue(connect())
    other.conn.execute("SET lock_timeout = '10s'")
    for n in range(3):
        queue.enqueue("k", n, queue="q")
    with conn.transaction():
        queue.pause("q")
        (running,) = other.claim(["q"])
    assert other.claim(["q"]) == []
    assert queue.enqueue("k", "new", queue="q").created
    other.complete(running)
    assert queue.resume("q")
    assert not queue.resume("q")
    assert len(other.claim(["q"], 10)) == 3


@pytest.mark.usefixtures("rationed")
def test_a_bare_claim_learns_of_a_pause(conn: Connection, connect: Connect, queue: WorkerQueue) -> None:
    """A session that has found a moment ago that nothing is to be done looks for it all the same."""
    is_bare = "SELECT _pgq_is_bare(_pgq_digest('{q}'), _pgq_microseconds(pgq_now()))"
    assert queue.claim(["q"]) == []
    assert one(conn, is_bare)
    other = Queue(connect())
    other.enqueue("k", queue="q")
    other.pause("q")
    assert queue.claim(["q"]) == []
    other.resume("q")
    assert len(queue.claim(["q"])) == 1


@pytest.mark.parametrize("call", [WorkerQueue.claim, WorkerQueue.ripe_in])
def test_the_jobs_of_a_paused_queue_are_rescued(
    queue: WorkerQueue, connect: Connect, call: Callable[[WorkerQueue, list[str]], object]
) -> None:
    """Calls that find nothing to take do the maintenance all the same."""
    queue.enqueue("k", queue="q")
    queue.claim(["q"])
    queue.conn.execute("UPDATE pgq_running SET lease_until = claimed_at - interval '1 second'")
    queue.pause("q")
    assert not call(WorkerQueue(connect()), ["q"])
    assert one(queue.conn, "SELECT count(*) FROM pgq_waiting") == 1


def test_a_group_is_paused_by_itself(queue: WorkerQueue) -> None:
    for key in ("a", "b"):
        queue.enqueue("k", key, queue="q", group_key=key)
    queue.pause("q", datetime.now(UTC) + timedelta(hours=1), group_key="a")
    assert [job.group_key for job in queue.claim(["q"], 10)] == ["b"]
    assert queue.resume("q", group_key="a")
    assert [job.group_key for job in queue.claim(["q"], 10)] == ["a"]


def test_what_is_wrong_raises_a_value_error_or_the_error_of_the_server(queue: WorkerQueue) -> None:
    with pytest.raises(ValueError, match="has no time zone"):
        queue.pause("q", datetime(2040, 1, 1))
    with pytest.raises(psycopg.errors.InvalidParameterValue, match='setting "max_runing" is unknown'):
        queue.configure("q", {"max_runing": 1})
    assert queue.configure("q") == {}
