"""Slots of schedules are fired once, by whatever session looks, and wake a worker of their queue."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest
from psycopg import sql
from support.database import Connect, Connection, one, ration, read
from support.workers import MakeWorker, start

from pgq import Handlers, Job, Worker, WorkerQueue
from pgq.worker.settings import Timing

DUE = (
    "UPDATE pgq_schedule_entry SET next_at = pgq_now() - interval '1 second', due_at = pgq_now() - interval '1 second'"
)
FIRED = "SELECT count(*) FROM pgq_jobs WHERE context ? 'schedule'"


def schedule(conn: Connection, count: int = 1, cron: str = "@yearly", queue: str = "q") -> None:
    """Make schedules, whose jobs have a number each as their arguments."""
    conn.execute(
        "SELECT pgq_schedule('s' || n, %s, 'k', to_jsonb(n), %s, overlap => 'allow') FROM generate_series(1, %s) AS n",
        [cron, queue, count],
    )


def travel(conn: Connection, second: float) -> None:
    """Set the clock of a session to some seconds after noon of 1 January 2030."""
    conn.execute(
        "SELECT set_config('pgq.now', ('2030-01-01 12:00Z'::timestamptz + %s * interval '1 s')::text, false)", [second]
    )


@pytest.mark.happens("several sessions come to a slot")
def test_eight_sessions_fire_five_hundred_slots_once(
    conn: Connection, connect: Connect, pool: ThreadPoolExecutor
) -> None:
    """They claim as fast as they can, and each job is claimed once."""
    schedule(conn, 500)
    conn.execute(DUE)
    sessions = [WorkerQueue(connect()) for _ in range(8)]

    def claims(session: WorkerQueue) -> list[int]:
        """Claim until nothing is due, nor ripe."""
        found: list[int] = []
        for _ in range(1000):
            found += [job.args for job in session.claim(["q"], max_jobs=3)]
            if one(session.conn, "SELECT NOT EXISTS (SELECT FROM pgq_schedule_entry WHERE due_at < now())"):
                return found + [job.args for job in session.claim(["q"], max_jobs=1000)]
        raise AssertionError("some schedules stay due")

    found = [n for numbers in pool.map(claims, sessions) for n in numbers]
    assert sorted(found + [job.args for job in sessions[0].claim(["q"], max_jobs=1000)]) == list(range(1, 501))
    assert one(conn, FIRED) == 500


@pytest.mark.happens("the session that fires a slot is lost")
def test_a_claim_that_is_open_keeps_its_slots_and_no_session_waiting(conn: Connection, connect: Connect) -> None:
    """When it rolls back, the slot is still there, and another session fires it."""
    schedule(conn)
    conn.execute(DUE)
    open_, other = WorkerQueue(connect(autocommit=False)), WorkerQueue(connect())
    assert len(open_.claim(["q"])) == 1
    other.conn.execute("SET lock_timeout = '1ms'")
    assert other.claim(["q"]) == []
    open_.conn.rollback()
    assert one(conn, FIRED) == 0
    assert len(WorkerQueue(connect()).claim(["q"])) == 1
    assert one(conn, FIRED) == 1


def test_a_claim_in_repeatable_read_fires_nothing(conn: Connection, connect: Connect) -> None:
    """It would fail on a schedule that another session has fired since."""
    schedule(conn)
    conn.execute(DUE)
    strict = WorkerQueue(connect(autocommit=False))
    strict.conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    assert one(strict.conn, FIRED) == 0
    assert WorkerQueue(connect()).ripe_in(["other"]) is None
    assert strict.claim(["other"]) == []
    assert one(conn, FIRED) == 1


def test_a_slot_wakes_a_sleeping_session_of_its_queue(conn: Connection, connect: Connect) -> None:
    """The session that fires it serves another queue."""
    schedule(conn)
    sleeper = WorkerQueue(connect())
    for channel in sleeper.idle(["q"]):
        sleeper.conn.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
    conn.execute(DUE)
    WorkerQueue(connect()).ripe_in(["other"])
    (heard,) = sleeper.conn.notifies(timeout=20, stop_after=1)
    assert heard.payload == ""
    assert len(sleeper.claim(["q"])) == 1


@pytest.mark.parametrize("resumed", [False, True])
def test_a_schedule_that_is_made_or_resumed_wakes_a_session_that_would_sleep_past_its_slot(
    conn: Connection, connect: Connect, resumed: bool
) -> None:
    """The session is told to look again."""
    if resumed:
        schedule(conn, cron="every 1 second")
        conn.execute("SELECT pgq_pause_schedule('s1')")
    sleeper = WorkerQueue(connect())
    for channel in sleeper.idle(["q"]):
        sleeper.conn.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
    if resumed:
        conn.execute("SELECT pgq_resume_schedule('s1')")
    else:
        schedule(conn, cron="every 1 second")
    (heard,) = sleeper.conn.notifies(timeout=20, stop_after=1)
    assert heard.payload == "later"


@pytest.mark.happens("a slot cannot be fired")
def test_a_look_waits_for_no_lock_for_long(conn: Connection, connect: Connect) -> None:
    """A role that keeps the lock of a group of an ordered queue delays its schedule, and no session that looks."""
    WorkerQueue(conn).configure("q", {"ordered": True})
    conn.execute(
        "SELECT pgq_schedule(g, '@yearly', 'k', queue => 'q', group_key => g) FROM unnest('{a,b}'::text[]) AS g"
    )
    conn.execute(DUE)
    conn.execute("SELECT pg_advisory_lock('pgq_queue_setting'::regclass::int, _pgq_order_key('q', _pgq_group_id('a')))")
    assert one(conn, "SELECT count(DISTINCT _pgq_order_key('q', _pgq_group_id(name))) FROM pgq_schedules") == 2
    looking = WorkerQueue(connect())
    looking.conn.execute("SET statement_timeout = '20s'")
    looking.ripe_in(["other"])
    found = conn.execute("SELECT last_error, last_job IS NULL FROM pgq_schedules ORDER BY name").fetchall()
    assert found == [("canceling statement due to lock timeout", True), (None, False)]


@pytest.mark.happens("no worker claims for hours")
@pytest.mark.parametrize(
    ("catch_up", "fired", "missed"), [("one", [5], 4), ("all", [1, 2, 3, 4, 5], 0), ("none", [], 5)]
)
def test_slots_that_no_claim_came_to(
    conn: Connection, queue: WorkerQueue, catch_up: str, fired: list[int], missed: int
) -> None:
    """The next claim decides what becomes of them."""
    travel(conn, 0)
    conn.execute("SELECT pgq_schedule('s', '0 * * * *', 'k', queue => 'q', catch_up => %s)", [catch_up])
    travel(conn, 5 * 3600 + 120)
    jobs = queue.claim(["q"], max_jobs=9)
    assert [datetime.fromisoformat(json.loads(job.context or "")["slot"]).hour - 12 for job in jobs] == fired
    assert one(conn, "SELECT missed FROM pgq_schedules") == missed


@pytest.mark.happens("the clock is set back")
def test_a_clock_that_is_set_back_fires_no_slot_again(conn: Connection, queue: WorkerQueue) -> None:
    """Unless it is set back by more than a day."""
    travel(conn, 0)
    schedule(conn, cron="* * * * *")
    fired = 0
    for second, more in [
        (60, 1),
        (0, 0),
        (60, 0),
        (120, 1),
        (-80000, 0),
        (-80000 + 60, 0),
        (-90000, 0),
        (-90000 + 60, 1),
    ]:
        travel(conn, second)
        fired += more
        queue.ripe_in(["q"])
        assert one(conn, FIRED) == fired, second


def test_a_sleeping_worker_wakes_for_a_slot_by_itself(
    conn: Connection, make_worker: MakeWorker, handlers: Handlers, running: list[Worker]
) -> None:
    """No other session looks. The context of a job tells its schedule and its slot."""
    done = threading.Event()
    slots: list[tuple[str, datetime]] = []

    @handlers.handler("k")
    def tick(job: Job) -> None:
        context = json.loads(job.context or "{}")
        slots.append((context["schedule"], datetime.fromisoformat(context["slot"])))
        if len(slots) == 3:
            done.set()

    start(make_worker(queues=["q"], timing=Timing()), running)
    schedule(conn, cron="every 1 second")
    assert done.wait(20)
    assert len(set(slots)) == len(slots)
    assert {name for name, _ in slots} == {"s1"}


@pytest.mark.parametrize("begins", [0.0, 0.1])
def test_no_claim_is_bare_past_a_slot(conn: Connection, queue: WorkerQueue, begins: float) -> None:
    """Neither after the claim that did the maintenance of this second, nor after one before the next maintenance."""
    ration(conn, "1 second")
    travel(conn, 0)
    schedule(conn, 2)
    for name, second in [("s1", 0.3), ("s2", 0.5)]:
        conn.execute(
            "UPDATE pgq_schedule_entry SET next_at = pgq_now() + %s * interval '1 s', "
            "due_at = pgq_now() + %s * interval '1 s' WHERE name = %s",
            [second, second, name],
        )
    for second, expected in [(begins, []), (0.29, []), (0.3, [1]), (0.49, []), (0.5, [2]), (0.6, [])]:
        travel(conn, second)
        assert [job.args for job in queue.claim(["q"])] == expected, second


def test_looks_do_not_slow_down_while_a_snapshot_is_held(conn: Connection, queue: WorkerQueue, snapshot: None) -> None:
    """Each slot leaves a dead entry in the index. Most looks begin after them."""
    travel(conn, 0)
    schedule(conn, cron="every 1 second")
    for second in range(1, 301):
        travel(conn, second)
        queue.ripe_in(["other"])
    assert one(conn, FIRED) == 300
    # One look from the start is due within these.
    before = read("pgq_schedule_entry_due", conn)
    for second in range(301, 361):
        travel(conn, second)
        queue.ripe_in(["other"])
    assert one(conn, FIRED) == 360
    assert read("pgq_schedule_entry_due", conn) - before < 60 * 20 + 400


def test_a_look_before_the_next_slot_writes_nothing(conn: Connection, queue: WorkerQueue) -> None:
    schedule(conn, 20)
    with conn.transaction():
        queue.ripe_in(["q"])
        queue.claim(["q"])
        assert one(conn, "SELECT pg_current_xact_id_if_assigned()") is None
