"""A notification is sent when somebody sleeps, and only then."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
from psycopg import sql
from support.database import Connect, Connection, jobs, one
from support.threads import Thread, eventually

from pgq import Handlers, Job, Queue, Worker
from pgq.schema.install import install
from pgq.worker.loop import Loop


def listen(conn: Connection, channel: str) -> None:
    """Listen without being asleep."""
    conn.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))


def heard(conn: Connection) -> list[str]:
    """The channels on which something has come."""
    conn.execute("SELECT 1")
    return [notify.channel for notify in conn.notifies(timeout=0)]


@pytest.fixture
def ear(connect: Connect) -> Connection:
    """A session that listens to the queue "default"."""
    ear = connect()
    (channel,) = Queue(ear).idle()
    Queue(ear).idle(idle=False)
    listen(ear, channel)
    return ear


@pytest.fixture
def sleeper(connect: Connect) -> Queue:
    """A session that sleeps."""
    sleeper = Queue(connect())
    sleeper.idle()
    return sleeper


def retry_one(queue: Queue) -> None:
    """Bring a cancelled job back."""
    queue.cancel(queue.enqueue("k", delay="1 hour").id)
    queue.retry(int(one(queue.conn, "SELECT id FROM pgq_ended")))


def release_one(queue: Queue) -> None:
    """Claim a job and give it back."""
    queue.conn.execute("SELECT set_config('pgq.now', '2100-01-01Z', false)")
    queue.enqueue("k", delay="1 second")
    queue.conn.execute("SELECT set_config('pgq.now', '2100-01-02Z', false)")
    (job,) = queue.claim()
    queue.release(job)


def fail_one(queue: Queue) -> None:
    """Fail a job that is to be tried again at once."""
    queue.conn.execute("SELECT set_config('pgq.now', '2100-01-01Z', false)")
    queue.enqueue("k", delay="1 second")
    queue.conn.execute("SELECT set_config('pgq.now', '2100-01-02Z', false)")
    (job,) = queue.claim()
    queue.fail(job, retry_in=timedelta(0))


def sooner(queue: Queue) -> None:
    """Let a job that waits for later be ripe now."""
    queue.enqueue("k", delay="1 hour")
    queue.enqueue("k", on_duplicate="soonest")


def sooner_many(queue: Queue) -> None:
    """The same, in an array."""
    queue.enqueue("k", delay="1 hour")
    queue.enqueue_many([{"kind": "k", "on_duplicate": "soonest"}])


RIPE: list[Callable[[Queue], object]] = [
    lambda queue: queue.enqueue("k"),
    lambda queue: queue.enqueue_many([{"kind": "k"}, {"kind": "l", "queue": "other"}]),
    sooner,
    sooner_many,
    retry_one,
    release_one,
    fail_one,
]
NOT_RIPE: list[Callable[[Queue], object]] = [
    lambda queue: queue.enqueue("k", delay="1 second"),
    lambda queue: queue.enqueue_many([{"kind": "k", "delay": "1 second"}]),
    lambda queue: queue.enqueue("k", queue="other"),
    lambda queue: queue.enqueue_many([{"kind": "k", "queue": "other"}]),
    lambda queue: queue.enqueue_many([]),
]


@pytest.mark.parametrize("ripe", RIPE)
def test_a_ripe_job_wakes_a_sleeper(
    queue: Queue, ear: Connection, sleeper: Queue, ripe: Callable[[Queue], object]
) -> None:
    """Whatever made it ripe; once for a transaction, and not before it has committed."""
    with queue.conn.transaction():
        ripe(queue)
        assert heard(ear) == []
    assert len(heard(ear)) == 1


@pytest.mark.parametrize("ripe", RIPE)
def test_nobody_is_notified_when_nobody_sleeps(queue: Queue, ear: Connection, ripe: Callable[[Queue], object]) -> None:
    """A notification takes a lock that all sessions share, so there is none without need."""
    ripe(queue)
    assert heard(ear) == []
    assert one(queue.conn, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0


@pytest.mark.parametrize("other", NOT_RIPE)
def test_what_is_not_ripe_or_elsewhere_wakes_nobody(
    queue: Queue, ear: Connection, sleeper: Queue, other: Callable[[Queue], object]
) -> None:
    """A sleeper has nothing to do with it."""
    other(queue)
    assert heard(ear) == []


def test_a_transaction_that_rolls_back_wakes_nobody(queue: Queue, ear: Connection, sleeper: Queue) -> None:
    """There is no job."""
    with queue.conn.transaction(force_rollback=True):
        queue.enqueue("k")
    assert heard(ear) == []


def test_who_says_twice_that_he_sleeps_is_awake_when_he_says_so_once(
    queue: Queue, ear: Connection, sleeper: Queue
) -> None:
    """Sleeping and waking are states and not counted; nor is there a warning for who was awake."""
    notices: list[str | None] = []
    sleeper.conn.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    sleeper.idle()
    sleeper.idle(idle=False)
    sleeper.idle(idle=False)
    queue.enqueue("k")
    assert heard(ear) == []
    assert notices == []


def test_a_session_that_ends_sleeps_no_more(conn: Connection, queue: Queue, ear: Connection, sleeper: Queue) -> None:
    """However it ends."""
    sleeper.conn.close()
    eventually(lambda: one(conn, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0)
    queue.enqueue("k")
    assert heard(ear) == []


def test_several_queues_have_a_channel_each(queue: Queue, connect: Connect) -> None:
    """In the order of the question, whatever they are called."""
    sleeper = Queue(connect())
    names = ["default", "x" * 200, 'a"b', "ä"]
    channels = sleeper.idle(names)
    assert len(set(channels)) == 4
    assert channels == sleeper.idle(names)
    for channel in channels:
        listen(sleeper.conn, channel)
    for name, channel in zip(names, channels, strict=True):
        queue.enqueue("k", queue=name)
        assert heard(sleeper.conn) == [channel]


def test_another_installation_sleeps_by_itself(
    conn: Connection, queue: Queue, connect: Connect, ear: Connection
) -> None:
    """The same queue in another schema has another lock and another channel."""
    install(conn, schema="other")
    other = Queue(connect(), schema="other")
    (channel,) = other.idle()
    listen(other.conn, channel)
    queue.enqueue("k")
    assert heard(ear) == []
    assert heard(other.conn) == []
    Queue(conn, schema="other").enqueue("k")
    assert heard(ear) == []
    assert heard(other.conn) == [channel]


@pytest.mark.parametrize("mode", ["pg_advisory_lock", "pg_advisory_lock_shared"])
def test_the_locks_of_an_application_mean_nothing(queue: Queue, ear: Connection, connect: Connect, mode: str) -> None:
    """A key of one part is never ours, not even with the same bits, nor one of two parts in another class."""
    application = connect()
    ours = "'pgq_waiting'::regclass::oid::bigint"
    application.execute(f"SELECT {mode}(({ours} << 32) | (hashtext('default')::bigint & 4294967295))".encode())
    application.execute(f"SELECT {mode}(({ours} + 1)::integer, hashtext('default'))".encode())
    queue.enqueue("k")
    assert heard(ear) == []


def test_a_stranger_that_holds_the_lock_keeps_nobody_waiting(queue: Queue, connect: Connect) -> None:
    """Then there are needless notifications, and sleepers that only poll."""
    stranger = connect()
    stranger.execute("SELECT pg_advisory_lock('pgq_waiting'::regclass::oid::integer, hashtext('default'))")
    queue.conn.execute("SET lock_timeout = '2s'")
    assert len(queue.idle()) == 1
    queue.enqueue("k")
    assert queue.idle(idle=False)


def test_an_idle_worker_begins_at_once(queue: Queue, worker: Worker, loop: Loop, handlers: Handlers) -> None:
    """Its poll is a minute."""
    done = threading.Semaphore(0)
    handlers.handler("k")(lambda job: done.release())
    thread = Thread(worker.run)
    for n in range(3):
        eventually(lambda: loop.session.asleep)
        queue.enqueue("k", n)
        assert done.acquire(timeout=5)
    worker.stop()
    thread.result(10)


def test_a_busy_worker_is_not_notified(
    conn: Connection, queue: Queue, worker: Worker, loop: Loop, handlers: Handlers
) -> None:
    """From its second batch on it counts as awake, and when there is nothing left it sleeps again."""
    asleep: list[int] = []

    @handlers.handler("k")
    def look(job: Job) -> None:
        asleep.append(int(one(conn, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")))

    loop.pace.limit = 1
    thread = Thread(worker.run)
    eventually(lambda: loop.session.asleep)
    queue.enqueue_many({"kind": "k", "args": n} for n in range(4))
    eventually(lambda: jobs(conn) == [])
    eventually(lambda: one(conn, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 1)
    worker.stop()
    thread.result(10)
    assert asleep == [1, 0, 0, 0]


def test_a_notification_that_libpq_has_read_is_not_slept_over(queue: Queue, loop: Loop) -> None:
    """It came along with an answer, and the socket has nothing more to tell."""
    loop.turn()
    loop.rest()
    loop.turn()
    queue.enqueue("k")
    # By way of libpq alone: psycopg would have seen it.
    loop.session.queue().conn.pgconn.exec_(b"SELECT pg_sleep(0.1)")
    Thread(loop.rest).result(5)


def test_a_worker_with_a_slow_handler_does_not_count_as_asleep(
    conn: Connection, queue: Queue, worker: Worker, loop: Loop, handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although it was woken for this one job, enqueues need not notify it for as long as the job takes."""
    monkeypatch.setattr("pgq.worker.loop.KEEP_UNSTARTED", 0.1)
    go = threading.Event()

    @handlers.handler("k")
    def wait(job: Job) -> None:
        assert go.wait(10)

    thread = Thread(worker.run)
    eventually(lambda: loop.session.asleep)
    queue.enqueue("k")
    eventually(lambda: one(conn, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0)
    go.set()
    eventually(lambda: loop.session.asleep)
    worker.stop()
    thread.result(10)


def test_a_worker_that_sleeps_leaves_its_thread_alone(
    queue: Queue, worker: Worker, loop: Loop, handlers: Handlers
) -> None:
    """Also when it was woken for one job and counts as asleep all the time."""
    handlers.handler("k")(lambda job: None)
    thread = Thread(worker.run)
    for _ in range(2):
        eventually(lambda: loop.session.asleep)
        queue.enqueue("k")
        eventually(lambda: jobs(queue.conn) == [])
        eventually(lambda: not loop.ticker._going.is_set())
    worker.stop()
    thread.result(10)
