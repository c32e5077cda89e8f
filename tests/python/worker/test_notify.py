"""Notifications: one is sent when a worker of the queue sleeps, and only then."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
from psycopg import sql
from support.database import Connect, Connection, jobs, one
from support.threads import Thread, eventually
from support.workers import MakeWorker

from pgq import Handlers, Job, Queue, Worker, WorkerQueue
from pgq.schema.install import install
from pgq.worker.loop import Loop
from pgq.worker.settings import Timing

# The locks of idle sessions, two for each queue; a worker that is present has another one.
IDLE_LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 'pgq_waiting'::regclass"


def listen(conn: Connection, channel: str) -> None:
    """Listen to a channel, without counting as asleep."""
    conn.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))


def heard(conn: Connection) -> list[str]:
    """Return the channels of the notifications that have arrived."""
    conn.execute("SELECT 1")
    return [notify.channel for notify in conn.notifies(timeout=0)]


def channels(conn: Connection, queue: str = "default") -> list[str]:
    """Return the channels of all slots of a queue."""
    rows = conn.execute("SELECT _pgq_channel(%s, slot) FROM generate_series(0, 16) AS slot", [queue])
    return [row[0] for row in rows]


@pytest.fixture
def listener(connect: Connect) -> Connection:
    """A session that listens to the queue "default", to all of its slots, and does not count as asleep."""
    listener = connect()
    for channel in channels(listener):
        listen(listener, channel)
    return listener


@pytest.fixture
def sleeper(connect: Connect) -> WorkerQueue:
    """A session that sleeps."""
    sleeper = WorkerQueue(connect())
    sleeper.idle()
    return sleeper


def retry_one(queue: Queue) -> None:
    """Bring back a cancelled job."""
    queue.conn.execute("SELECT set_config('pgq.now', '2100-01-01Z', false)")
    queue.cancel(queue.enqueue("k", delay="1 hour").id)
    queue.conn.execute("SELECT set_config('pgq.now', '2100-01-02Z', false)")
    queue.retry(int(one(queue.conn, "SELECT id FROM pgq_ended")))


def claim_one(queue: WorkerQueue) -> Job:
    """Claim a job that was not ripe when it was enqueued, so that the enqueue sends no notification."""
    queue.conn.execute("SELECT set_config('pgq.now', '2100-01-01Z', false)")
    queue.enqueue("k", delay="1 hour")
    queue.conn.execute("SELECT set_config('pgq.now', '2100-01-02Z', false)")
    (job,) = queue.claim()
    return job


def release_one(queue: WorkerQueue) -> None:
    """Claim a job and release it."""
    queue.release(claim_one(queue))


def fail_one(queue: WorkerQueue) -> None:
    """Fail a job, to be retried at once."""
    queue.fail(claim_one(queue), retry_in=timedelta(0))


def sooner(queue: Queue) -> None:
    """Make a job that waits for later ripe now."""
    queue.enqueue("k", delay="1 hour")
    queue.enqueue("k", on_duplicate="soonest")


def sooner_many(queue: Queue) -> None:
    """Make a job that waits for later ripe now, through enqueue_many."""
    queue.enqueue("k", delay="1 hour")
    queue.enqueue_many([{"kind": "k", "on_duplicate": "soonest"}])


RIPE: list[Callable[[WorkerQueue], object]] = [
    lambda queue: queue.enqueue("k"),
    lambda queue: queue.enqueue_many([{"kind": "k"}, {"kind": "l", "queue": "other"}]),
    lambda queue: queue.enqueue_many([{"kind": "k"}, {"kind": "l", "queue": "other", "dedup": False}]),
    lambda queue: queue.enqueue_many([{"kind": "l", "queue": "other"}, {"kind": "k", "dedup": False}]),
    sooner,
    sooner_many,
    retry_one,
    release_one,
    fail_one,
]
NOT_RIPE: list[Callable[[WorkerQueue], object]] = [
    lambda queue: queue.enqueue("k", delay="3 seconds"),
    lambda queue: queue.enqueue_many([{"kind": "k", "delay": "3 seconds"}]),
    lambda queue: queue.enqueue("k", queue="other"),
    lambda queue: queue.enqueue_many([{"kind": "k", "queue": "other"}]),
    lambda queue: queue.enqueue_many([]),
]


@pytest.mark.parametrize("ripe", RIPE)
def test_a_ripe_job_wakes_a_sleeping_session(
    queue: WorkerQueue,
    listener: Connection,
    sleeper: Queue,
    ripe: Callable[[WorkerQueue], object],
) -> None:
    """This holds for each way to become ripe. A transaction sends one notification, after its commit."""
    with queue.conn.transaction():
        ripe(queue)
        assert heard(listener) == []
    assert len(heard(listener)) == 1


@pytest.mark.parametrize("ripe", RIPE)
def test_no_notification_is_sent_when_no_session_sleeps(
    queue: WorkerQueue, listener: Connection, ripe: Callable[[WorkerQueue], object]
) -> None:
    """A notification takes a lock that all sessions share."""
    ripe(queue)
    assert heard(listener) == []
    assert one(queue.conn, IDLE_LOCKS) == 0


@pytest.mark.parametrize("other", NOT_RIPE)
def test_a_job_that_is_not_ripe_or_in_another_queue_wakes_no_session(
    queue: WorkerQueue,
    listener: Connection,
    sleeper: Queue,
    other: Callable[[WorkerQueue], object],
) -> None:
    other(queue)
    assert heard(listener) == []


def test_a_transaction_that_rolls_back_wakes_no_session(queue: Queue, listener: Connection, sleeper: Queue) -> None:
    with queue.conn.transaction(force_rollback=True):
        queue.enqueue("k")
    assert heard(listener) == []


def test_idle_is_a_state_not_a_counter(queue: Queue, listener: Connection, sleeper: WorkerQueue) -> None:
    """After two calls with idle=True one with idle=False is enough, and another one raises no warning."""
    notices: list[str | None] = []
    sleeper.conn.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    sleeper.idle()
    sleeper.idle(idle=False)
    sleeper.idle(idle=False)
    queue.enqueue("k")
    assert heard(listener) == []
    assert notices == []


def test_a_session_that_ends_no_longer_sleeps(
    conn: Connection, queue: Queue, listener: Connection, sleeper: Queue
) -> None:
    """No notification is sent for it."""
    sleeper.conn.close()
    eventually(lambda: one(conn, IDLE_LOCKS) == 0)
    queue.enqueue("k")
    assert heard(listener) == []


def test_each_queue_has_its_own_channel(queue: Queue, connect: Connect) -> None:
    """The channels are returned in the order of the queues, whatever their names are."""
    sleeper = WorkerQueue(connect())
    names = ["default", "x" * 200, 'a"b', "ä"]
    listened = sleeper.idle(names)
    assert len(set(listened)) == 4
    assert listened == sleeper.idle(names)
    for channel in listened:
        listen(sleeper.conn, channel)
    for name, channel in zip(names, listened, strict=True):
        queue.enqueue("k", queue=name)
        assert heard(sleeper.conn) == [channel]


def test_another_installation_has_its_own_lock_and_channel(
    conn: Connection, queue: Queue, connect: Connect, listener: Connection
) -> None:
    """The queue has the same name, in another schema."""
    install(conn, schema="other")
    other = WorkerQueue(connect(), schema="other")
    (channel,) = other.idle()
    listen(other.conn, channel)
    queue.enqueue("k")
    assert heard(listener) == []
    assert heard(other.conn) == []
    Queue(conn, schema="other").enqueue("k")
    assert heard(listener) == []
    assert heard(other.conn) == [channel]


@pytest.mark.parametrize("mode", ["pg_advisory_lock", "pg_advisory_lock_shared"])
def test_advisory_locks_of_an_application_do_not_look_like_a_sleeper(
    queue: Queue, listener: Connection, connect: Connect, mode: str
) -> None:
    """Neither a key of one part with the same bits, nor one of two parts in another class, is one of pgq's."""
    application = connect()
    ours = "'pgq_waiting'::regclass::oid::bigint"
    application.execute(f"SELECT {mode}(({ours} << 32) | (hashtext('default') & 63)::bigint)".encode())
    application.execute(f"SELECT {mode}(({ours} + 1)::integer, hashtext('default') & 63)".encode())
    queue.enqueue("k")
    assert heard(listener) == []


def test_an_application_that_holds_the_lock_blocks_no_session(queue: WorkerQueue, connect: Connect) -> None:
    """It causes only needless notifications, and workers that poll."""
    application = connect()
    application.execute("SELECT pg_advisory_lock('pgq_waiting'::regclass::oid::integer, hashtext('default') & 63)")
    queue.conn.execute("SET lock_timeout = '2s'")
    assert len(queue.idle()) == 1
    queue.enqueue("k")
    queue.idle(idle=False)


def test_an_idle_worker_starts_a_job_at_once(queue: Queue, worker: Worker, loop: Loop, handlers: Handlers) -> None:
    """Its poll interval is a minute."""
    done = threading.Semaphore(0)
    handlers.handler("k")(lambda job: done.release())
    thread = Thread(worker.run)
    for n in range(3):
        eventually(lambda: worker.presence.session.idle)
        queue.enqueue("k", n)
        assert done.acquire(timeout=30)
    worker.stop()
    thread.result(30)


def test_a_busy_worker_is_not_notified(
    conn: Connection, queue: Queue, make_worker: MakeWorker, handlers: Handlers
) -> None:
    """From its second batch on it counts as awake, and when the queue is empty it sleeps again."""
    worker = make_worker(timing=Timing(look=60, stay_idle=60))
    loop = worker.loops[0]
    asleep: list[int] = []

    @handlers.handler("k")
    def look(job: Job) -> None:
        asleep.append(int(one(conn, IDLE_LOCKS)))

    loop.batch_size.limit = 1
    thread = Thread(worker.run)
    eventually(lambda: worker.presence.session.idle)
    queue.enqueue_many({"kind": "k", "args": n} for n in range(4))
    eventually(lambda: jobs(conn) == [])
    eventually(lambda: one(conn, IDLE_LOCKS) == 2)
    worker.stop()
    thread.result(30)
    assert asleep == [2, 0, 0, 0]


def test_a_notification_that_libpq_has_already_read_wakes_the_worker(
    queue: Queue, worker: Worker, handlers: Handlers
) -> None:
    """It arrived with a result, so the socket has nothing more to read."""
    done = threading.Event()
    handlers.handler("k")(lambda job: done.set())
    thread = Thread(worker.run)
    session = worker.presence.session
    eventually(lambda: session.idle)
    with session.lock:
        queue.enqueue("k")
        # Through libpq alone: psycopg would have seen it.
        session.queue().conn.pgconn.exec_(b"SELECT pg_sleep(0.1)")
    assert done.wait(30)
    worker.stop()
    thread.result(30)


def test_a_worker_with_a_slow_handler_does_not_count_as_asleep(
    conn: Connection, queue: Queue, make_worker: MakeWorker, handlers: Handlers
) -> None:
    """It was woken for this one job; enqueues must not notify it, but another worker, while the job runs."""
    worker = make_worker(timing=Timing(look=60))
    go = threading.Event()

    @handlers.handler("k")
    def wait(job: Job) -> None:
        assert go.wait(30)

    thread = Thread(worker.run)
    eventually(lambda: worker.presence.session.idle)
    queue.enqueue("k")
    eventually(lambda: one(conn, IDLE_LOCKS) == 0)
    go.set()
    eventually(lambda: worker.presence.session.idle)
    worker.stop()
    thread.result(30)


def test_the_ticker_of_a_sleeping_worker_rests(queue: Queue, worker: Worker, loop: Loop, handlers: Handlers) -> None:
    """It rests also after a single job, for which the worker counts as asleep all the time."""
    handlers.handler("k")(lambda job: None)
    thread = Thread(worker.run)
    for _ in range(2):
        eventually(lambda: worker.presence.session.idle)
        queue.enqueue("k")
        eventually(lambda: jobs(queue.conn) == [])
        eventually(lambda: not loop.ticker.is_running)
    worker.stop()
    thread.result(30)
