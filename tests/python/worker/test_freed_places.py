"""A job that ends in a queue with a limit wakes a session that sleeps, if a job waits for the place."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
from psycopg import sql
from psycopg.types.json import Jsonb
from support.database import Connect, Connection, expire
from support.threads import Thread, eventually
from support.workers import MakeWorker

from pgq import Handlers, Job, Queue, WorkerQueue
from pgq.worker.settings import Timing

End = Callable[[WorkerQueue, Job], object]


def heard(conn: Connection) -> int:
    """Return how many notifications have arrived."""
    conn.execute("SELECT 1")
    return len(list(conn.notifies(timeout=0)))


def configure(conn: Connection, **settings: object) -> None:
    """Set limits of the queue "default"."""
    conn.execute("SELECT pgq_configure('default', %s)", [Jsonb(settings)])


def settle(queue: WorkerQueue, job: Job, queues: str, max_jobs: int) -> None:
    """Complete a job with the call that also claims."""
    queue.conn.execute(
        "SELECT pgq_claim_batch(%s, %s, done_ids => %s, done_tokens => %s)", [queues, max_jobs, [job.id], [job.token]]
    )


def rescue(queue: WorkerQueue, job: Job) -> None:
    """Let a claim from another queue find that the lease of a job has ended."""
    expire(queue.conn)
    queue.conn.execute("SELECT set_config('pgq.now', (now() + '1 hour')::text, false)")
    queue.conn.execute("SELECT pgq_claim('{other}')")


def cancel_lost(queue: WorkerQueue, job: Job) -> None:
    """Cancel a job whose lease has ended."""
    expire(queue.conn)
    queue.cancel(job.id)


def merge(queue: WorkerQueue, job: Job) -> None:
    """Fail a job whose twin waits."""
    queue.enqueue("k", 1, group_key="a", delay="1 hour")
    queue.fail(job, retry_in=timedelta(hours=1))


# After the second ones a group of an ordered queue waits for the same job.
FOR_GOOD: dict[str, End] = {
    "complete": lambda queue, job: queue.complete(job),
    "complete with a result": lambda queue, job: queue.complete(job, result=1),
    "complete many": lambda queue, job: queue.complete_many([job]),
    "settle": lambda queue, job: settle(queue, job, "{default}", 0),
    "settle and claim from another queue": lambda queue, job: settle(queue, job, "{other}", 10),
    "die": lambda queue, job: queue.fail(job, retry=False),
    "give up": lambda queue, job: queue.conn.execute("SELECT pgq_cancel_claimed(%s, %s)", [job.id, job.token]),
    "cancel after the lease": cancel_lost,
}
FOR_LATER: dict[str, End] = {
    "retry": lambda queue, job: queue.fail(job, retry_in=timedelta(hours=1)),
    "merge": merge,
    "snooze": lambda queue, job: queue.snooze(job, delay=timedelta(hours=1)),
    "decline": lambda queue, job: queue.decline(job),
    "release": lambda queue, job: queue.release(job),
    "rescue": rescue,
}
LIMITS: dict[str, dict[str, object]] = {
    "max_running": {"max_running": 1},
    "max_per_group": {"max_per_group": 1},
    "ordered": {"ordered": True},
}
WAKES = [(limit, end) for limit in LIMITS for end in (FOR_GOOD if limit == "ordered" else FOR_GOOD | FOR_LATER)]


@pytest.fixture
def listener(connect: Connect) -> Connection:
    """A session that listens to all slots of the queue "default", and does not count as asleep."""
    listener = connect()
    for (channel,) in listener.execute("SELECT _pgq_channel('default', s) FROM generate_series(0, 16) AS s").fetchall():
        listener.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
    return listener


@pytest.fixture
def sleeper(connect: Connect) -> WorkerQueue:
    """A session that can sleep."""
    return WorkerQueue(connect())


def two_jobs(queue: WorkerQueue) -> Job:
    """Let two jobs of a group wait, and claim the first."""
    queue.enqueue_many([{"kind": "k", "args": n, "group_key": "a"} for n in (1, 2)])
    (job,) = queue.claim()
    return job


@pytest.mark.parametrize(("limit", "end"), WAKES)
def test_the_end_of_a_job_that_counts_wakes_one_session(
    queue: WorkerQueue, sleeper: WorkerQueue, listener: Connection, connect: Connect, limit: str, end: str
) -> None:
    """Another job of its group waits for the place. Two sessions sleep, and one is woken."""
    configure(queue.conn, **LIMITS[limit])
    job = two_jobs(queue)
    assert queue.claim() == []
    sleeper.idle()
    WorkerQueue(connect()).idle()
    (FOR_GOOD | FOR_LATER)[end](queue, job)
    assert heard(listener) == 1


@pytest.mark.parametrize("end", list(FOR_GOOD))
def test_the_end_of_a_job_that_does_not_count_wakes_no_session(
    queue: WorkerQueue, sleeper: WorkerQueue, listener: Connection, end: str
) -> None:
    """The queue has no limits, so no job waits for a place."""
    job = two_jobs(queue)
    sleeper.idle()
    FOR_GOOD[end](queue, job)
    assert heard(listener) == 0


def test_a_job_of_another_group_waits_for_a_place_in_the_queue(
    queue: WorkerQueue, sleeper: WorkerQueue, listener: Connection
) -> None:
    """It does not wait for one in the group of the job that ends."""
    configure(queue.conn, max_running=1)
    queue.enqueue_many([{"kind": "k", "args": key, "group_key": key} for key in "ab"])
    (job,) = queue.claim()
    sleeper.idle()
    queue.complete(job)
    assert heard(listener) == 1


def test_a_ripe_job_in_the_waiting_room_waits_for_a_place_in_the_queue(
    queue: WorkerQueue, sleeper: WorkerQueue, listener: Connection
) -> None:
    """No claim has moved it to its group since it is ripe."""
    configure(queue.conn, max_running=1)
    queue.enqueue("k", 1, group_key="a")
    (job,) = queue.claim()
    queue.enqueue("k", 2, group_key="b", delay="1 minute")
    queue.conn.execute("SELECT set_config('pgq.now', (now() + '2 minutes')::text, false)")
    sleeper.idle()
    queue.complete(job)
    assert heard(listener) == 1


def enqueue(queue: WorkerQueue) -> None:
    """Let a job of the same group wait."""
    queue.enqueue("k", 2, group_key="a")


def enqueue_for_later(queue: WorkerQueue) -> None:
    """Let a job of the same group wait that is to be ripe later."""
    queue.enqueue("k", 2, group_key="a", delay="1 hour")


def pause(queue: WorkerQueue) -> None:
    """Pause the queue."""
    enqueue(queue)
    queue.conn.execute("SELECT pgq_pause('default')")


def pause_group(queue: WorkerQueue) -> None:
    """Pause the group."""
    enqueue(queue)
    queue.conn.execute("SELECT pgq_pause('default', group_key => 'a')")


def lower(queue: WorkerQueue) -> None:
    """Let a second job run and a third wait, and lower the limit to one."""
    queue.enqueue_many([{"kind": "k", "args": n, "group_key": "b"} for n in (2, 3)])
    queue.claim()
    configure(queue.conn, max_running=1)


def leave_room(queue: WorkerQueue) -> None:
    """Let a job of a group that is full wait."""
    queue.enqueue_many([{"kind": "k", "args": n, "group_key": "b"} for n in (2, 3)])
    queue.claim()


@pytest.mark.parametrize(
    ("limits", "prepare", "end"),
    [
        ({"max_running": 1}, enqueue, "settle and claim"),
        ({"max_per_group": 1}, enqueue, "settle and claim"),
        ({"max_running": 1}, pause, "complete"),
        ({"max_per_group": 1}, pause, "complete"),
        ({"max_per_group": 1}, pause_group, "complete"),
        ({"max_running": 2}, lower, "complete"),
        ({"max_running": 9, "max_per_group": 1}, leave_room, "complete"),
        ({"max_running": 1}, enqueue_for_later, "complete"),
        ({"max_per_group": 1}, enqueue_for_later, "complete"),
        ({"ordered": True}, enqueue_for_later, "complete"),
        ({"rate": 1, "per": "1 hour"}, enqueue, "complete"),
    ],
)
def test_no_session_is_woken_that_could_start_no_job(
    queue: WorkerQueue,
    sleeper: WorkerQueue,
    listener: Connection,
    limits: dict[str, object],
    prepare: Callable[[WorkerQueue], None],
    end: str,
) -> None:
    """This holds for each reason why it could not."""
    configure(queue.conn, **limits)
    queue.enqueue("k", 1, group_key="a")
    (job,) = queue.claim()
    prepare(queue)
    sleeper.idle()
    if end == "complete":
        queue.complete(job)
    else:
        settle(queue, job, "{default}", 1)
    assert heard(listener) == 0


def test_a_session_that_settles_and_claims_leaves_what_it_does_not_take(
    queue: WorkerQueue, sleeper: WorkerQueue, listener: Connection
) -> None:
    """It has ended two jobs and takes one: one session is woken."""
    configure(queue.conn, max_running=2)
    queue.enqueue_many([{"kind": "k", "args": n} for n in range(4)])
    held = queue.claim(max_jobs=2)
    sleeper.idle()
    row = queue.conn.execute(
        "SELECT cardinality(ids), lost FROM pgq_claim_batch(max_jobs => 1, done_ids => %s, done_tokens => %s)",
        [[job.id for job in held] + [0], [job.token for job in held] + [0]],
    ).fetchone()
    assert row == (1, [0])
    assert heard(listener) == 1


def test_an_idle_worker_starts_the_next_job_at_once(
    conn: Connection, queue: Queue, connect: Connect, make_worker: MakeWorker, handlers: Handlers
) -> None:
    """Its poll interval is a minute; the job that ended was one of another session."""
    configure(conn, max_running=1)
    other = WorkerQueue(connect())
    queue.enqueue_many([{"kind": "other"}, {"kind": "k"}])
    (job,) = other.claim()
    done = threading.Event()
    handlers.handler("k")(lambda job: done.set())
    worker = make_worker(timing=Timing(look=60))
    thread = Thread(worker.run)
    eventually(lambda: worker.presence.session.idle)
    other.complete(job)
    assert done.wait(30)
    worker.stop()
    thread.result(30)
