"""A ripe job wakes one sleeping session, and an idle worker is in time for jobs of which it is not notified."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from time import monotonic

import pytest
from psycopg import sql
from support.database import Connect, Connection, jobs, one, ration, read
from support.heads import PAST
from support.threads import eventually
from support.workers import MakeWorker, start

from pgq import Handlers, Job, NewJob, Queue, Worker, WorkerQueue
from pgq.job import Claim
from pgq.worker.loop import Loop
from pgq.worker.settings import Timing

# As many as there are slots of which each has one session.
SLOTS = 16
LOCKS = "SELECT count(*) FROM pg_locks WHERE pid = %s AND locktype = 'advisory'"
# A sleeping session has the lock of the bucket of its queue.
ASLEEP = (
    "SELECT l.pid FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database "
    "WHERE d.datname = current_database() AND l.classid = 'pgq_waiting'::regclass AND l.mode = 'ShareLock'"
)


class Sleeper:
    """A session that sleeps, as that of any client does."""

    def __init__(self, conn: Connection, *queues: str) -> None:
        self.queue = WorkerQueue(conn)
        self.queues = queues or ("default",)
        self.channels = self.queue.idle(self.queues)
        for channel in self.channels:
            conn.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))

    def heard(self) -> list[str]:
        """Return the payloads of the notifications that have arrived."""
        self.queue.conn.execute("SELECT 1")
        return [notification.payload for notification in self.queue.conn.notifies(timeout=0)]

    def wake(self, *, pass_on: bool = False) -> None:
        """Declare the session awake."""
        self.queue.idle(self.queues, False, pass_on=pass_on)


def woken(sleepers: list[Sleeper]) -> list[Sleeper]:
    """Return the sessions that were notified."""
    return [sleeper for sleeper in sleepers if sleeper.heard()]


def test_the_end_of_a_pause_wakes_all_sessions_that_sleep_for_the_queue(queue: Queue, connect: Connect) -> None:
    """Any number of jobs may be ripe. A queue that is not paused wakes none."""
    sleepers = [Sleeper(connect()) for _ in range(3)]
    other = Sleeper(connect(), "other")
    queue.resume("default")
    assert woken(sleepers) == []
    queue.pause("default")
    queue.resume("default")
    assert woken(sleepers) == sleepers
    assert woken([other]) == []


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (2, 2), (3, 3), (10, 3)])
def test_as_many_sessions_wake_as_jobs_are_ripe(queue: Queue, connect: Connect, count: int, expected: int) -> None:
    sleepers = [Sleeper(connect()) for _ in range(3)]
    queue.enqueue_many({"kind": "k", "args": n} for n in range(count))
    assert len(woken(sleepers)) == expected


def test_only_jobs_of_the_queue_count(queue: Queue, connect: Connect) -> None:
    """And only ripe ones."""
    sleepers = [Sleeper(connect()) for _ in range(3)]
    jobs: list[NewJob] = [{"kind": "k"}]
    jobs += [{"kind": "k", "args": n, "queue": "other"} for n in range(3)]
    jobs += [{"kind": "l", "args": n, "delay": "1 hour"} for n in range(3)]
    queue.enqueue_many(jobs)
    assert len(woken(sleepers)) == 1


def test_a_session_that_woke_leaves_the_next_job_to_another(queue: Queue, connect: Connect) -> None:
    sleepers = [Sleeper(connect()) for _ in range(3)]
    while sleepers:
        queue.enqueue("k", dedup=False)
        (one_,) = woken(sleepers)
        one_.wake()
        sleepers.remove(one_)
    queue.enqueue("k", dedup=False)


def test_a_session_that_was_woken_and_is_stuck_gets_few_of_the_next_jobs(queue: Queue, connect: Connect) -> None:
    """Slots are searched from a random one."""
    sleepers = [Sleeper(connect()) for _ in range(2)]
    eventually(lambda: queue.enqueue("k", dedup=False) and woken(sleepers[:1]))
    eventually(lambda: queue.enqueue("k", dedup=False) and woken(sleepers[1:]))


def test_sessions_without_a_slot_of_their_own_wake_together(queue: Queue, connect: Connect) -> None:
    """But only if there are more ripe jobs than slots."""
    sleepers = [Sleeper(connect()) for _ in range(SLOTS + 3)]
    queue.enqueue("k")
    assert len(woken(sleepers)) == 1
    queue.enqueue_many({"kind": "k", "args": n} for n in range(SLOTS))
    assert len(woken(sleepers)) == SLOTS
    queue.enqueue_many({"kind": "l", "args": n} for n in range(SLOTS + 1))
    assert len(woken(sleepers)) == SLOTS + 3


def test_a_session_with_many_queues_takes_a_bounded_number_of_locks(queue: Queue, connect: Connect) -> None:
    """It wakes for each of its queues, after those that sleep for this queue alone."""
    names = [f"queue {n}" for n in range(2000)]
    many, few = Sleeper(connect(), *names), Sleeper(connect(), names[7])
    assert len(many.channels) == 1
    assert one(queue.conn, LOCKS, many.queue.conn.info.backend_pid) == 65
    queue.enqueue("k", queue=names[7])
    assert woken([many, few]) == [few]
    queue.enqueue_many({"kind": "k", "args": n, "queue": names[7]} for n in range(2))
    assert woken([many, few]) == [many, few]
    for name in names[:100]:
        queue.enqueue("l", queue=name)
        assert few in woken([many, few]) if name == names[7] else woken([many, few]) == [many]
    many.wake()
    few.wake()
    assert one(queue.conn, LOCKS, many.queue.conn.info.backend_pid) == 0


def test_all_sessions_with_many_queues_wake(queue: Queue, connect: Connect) -> None:
    """No enqueue knows which of them serves its queue. There are more of them than slots."""
    sleepers = [Sleeper(connect(), *(f"{service} {n}" for n in range(17))) for service in range(SLOTS + 2)]
    queue.enqueue("k", queue="7 7")
    assert woken(sleepers) == sleepers
    queue.enqueue("k", queue="8 8", delay="0.5 seconds")
    assert [sleeper.heard() for sleeper in sleepers] == [["later"]] * len(sleepers)


def test_a_job_wakes_the_worker_that_serves_its_queue_among_those_with_many(
    queue: Queue, make_worker: MakeWorker, handlers: Handlers, running: list[Worker]
) -> None:
    """They serve different queues, and look once a minute only."""
    done = threading.Semaphore(0)
    handlers.handler("k")(lambda job: done.release())
    for service in ("a", "b"):
        start(make_worker(queues=[f"{service} {n}" for n in range(17)], timing=Timing(look=60)), running)
    for n in range(10):
        queue.enqueue("k", n, queue=f"{'ab'[n % 2]} {n}")
        assert done.acquire(timeout=20)
        eventually(lambda: all(worker.presence.idle._sleeping for worker in running))


def test_a_session_that_cannot_claim_passes_the_notification_on(queue: Queue, connect: Connect) -> None:
    """Without pass_on it does not."""
    first, second = Sleeper(connect()), Sleeper(connect())
    first.wake(pass_on=True)
    assert second.heard() == [""]
    second.wake()
    third = Sleeper(connect())
    first.wake()
    assert third.heard() == []


@pytest.mark.parametrize("delay", ["0.5 seconds", "2 seconds"])
def test_a_job_that_is_ripe_soon_lets_one_session_look(queue: Queue, connect: Connect, delay: str) -> None:
    """Its next look would come too late."""
    sleepers = [Sleeper(connect()) for _ in range(3)]
    queue.enqueue("k", delay=delay)
    assert sorted(payload for sleeper in sleepers for payload in sleeper.heard()) == ["later"]
    queue.enqueue_many({"kind": "l", "args": n, "delay": delay} for n in range(3))
    assert sorted(payload for sleeper in sleepers for payload in sleeper.heard()) == ["later"]


def test_a_look_reads_no_dead_entries_before_the_head(conn: Connection, queue: WorkerQueue, past: None) -> None:
    """It begins where the claims of its session do."""
    ration(conn, "5 minutes")
    for _ in range(2):
        assert queue.claim() == []
    before = read("pgq_waiting_claim", conn)
    assert queue.ripe_in() is None
    assert read("pgq_waiting_claim", conn) - before < PAST / 10


def test_a_job_among_many_idle_loops_costs_few_claims(
    queue: Queue,
    make_worker: MakeWorker,
    handlers: Handlers,
    running: list[Worker],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One loop claims the job, and claims again when it is done."""
    done = threading.Semaphore(0)
    handlers.handler("k")(lambda job: done.release())
    claims: list[Loop] = []
    claim = Loop.settle_and_claim

    def counted(loop: Loop) -> Claim | None:
        claims.append(loop)
        return claim(loop)

    monkeypatch.setattr(Loop, "settle_and_claim", counted)
    worker = make_worker(concurrency=20)
    start(worker, running)
    claims.clear()
    for n in range(10):
        queue.enqueue("k", n)
        assert done.acquire(timeout=30)
        eventually(lambda: len(worker.presence.idle._sleeping) == 20)
    assert len(claims) <= 2 * 10


def test_a_burst_spreads_over_the_loops_of_a_process(
    queue: Queue, make_worker: MakeWorker, handlers: Handlers, running: list[Worker]
) -> None:
    """One notification arrives; each loop that fills its batch wakes the next one. No handler ends before all run."""
    together = threading.Barrier(4)

    @handlers.handler("k")
    def meet(job: Job) -> None:
        together.wait(30)

    start(make_worker(concurrency=4, batch=1), running)
    queue.enqueue_many({"kind": "k", "args": n} for n in range(4))
    eventually(lambda: jobs(queue.conn) == [])


def test_a_delayed_job_does_not_wait_for_the_poll(
    queue: Queue, make_worker: MakeWorker, handlers: Handlers, running: list[Worker]
) -> None:
    """The poll is a minute, and the worker has looked before the job was enqueued."""
    begun: list[datetime] = []
    handlers.handler("k")(lambda job: begun.append(datetime.now(UTC)))
    start(make_worker(concurrency=2, timing=Timing()), running)
    for delay in ("0.3 seconds", "2.5 seconds"):
        ripe_at = datetime.now(UTC)
        queue.enqueue("k", delay=delay)
        eventually(lambda: len(begun) == 1)
        assert begun.pop() >= ripe_at


def test_a_job_that_is_ripe_soon_does_not_wait_for_the_look(
    queue: Queue, make_worker: MakeWorker, handlers: Handlers, running: list[Worker]
) -> None:
    """Here the worker looks once a minute only, and is notified."""
    done = threading.Event()
    handlers.handler("k")(lambda job: done.set())
    start(make_worker(concurrency=2), running)
    queue.enqueue("k", delay="0.5 seconds")
    assert done.wait(20)


def test_a_job_whose_woken_session_is_stuck_is_claimed_by_another_worker(
    queue: Queue,
    make_worker: MakeWorker,
    connect: Connect,
    handlers: Handlers,
    running: list[Worker],
) -> None:
    """All slots are those of sessions that do nothing, so these are notified. The poll is a minute."""
    done = threading.Event()
    handlers.handler("k")(lambda job: done.set())
    stuck = [Sleeper(connect()) for _ in range(SLOTS)]
    start(make_worker(timing=Timing()), running)
    queue.enqueue("k")
    assert len(woken(stuck)) == 1
    assert done.wait(20)


def test_a_worker_whose_notified_session_is_lost_claims_all_the_same(
    conn: Connection,
    queue: Queue,
    make_worker: MakeWorker,
    handlers: Handlers,
    running: list[Worker],
) -> None:
    """It declares the next session idle, too."""
    done = threading.Semaphore(0)
    handlers.handler("k")(lambda job: done.release())
    worker = make_worker()
    start(worker, running)
    pid = one(conn, ASLEEP)
    conn.execute("SELECT pg_terminate_backend(%s)", [pid])
    eventually(lambda: conn.execute(ASLEEP).fetchone() not in (None, (pid,)))
    queue.enqueue("k")
    assert done.acquire(timeout=20)


def test_the_jobs_of_a_dead_worker_are_rescued_whatever_the_poll_is(
    queue: Queue,
    make_worker: MakeWorker,
    connect: Connect,
    handlers: Handlers,
    running: list[Worker],
) -> None:
    """An idle worker rescues them with its looks."""
    done = threading.Event()
    handlers.handler("k")(lambda job: done.set())
    dead = WorkerQueue(connect())
    dead.register("dead")
    queue.enqueue("k")
    assert len(dead.claim(worker="dead")) == 1
    start(make_worker(timing=Timing()), running)
    dead.conn.close()
    assert done.wait(20)


def test_a_busy_worker_passes_a_notification_on(
    queue: Queue,
    make_worker: MakeWorker,
    connect: Connect,
    handlers: Handlers,
    running: list[Worker],
) -> None:
    """It had not been declared awake yet when the job was enqueued."""
    begun, go = threading.Event(), threading.Event()

    @handlers.handler("k")
    def wait(job: Job) -> None:
        begun.set()
        assert go.wait(30)

    worker = make_worker(timing=Timing(look=60, stay_idle=60))
    start(worker, running)
    queue.enqueue("k", 1)
    assert begun.wait(20)
    other = Sleeper(connect())
    worker.presence.idle._busy_since = monotonic() - 60
    worker.presence.idle.notified("")
    eventually(other.heard)
    go.set()


def test_a_worker_that_stops_passes_a_notification_on(
    make_worker: MakeWorker, connect: Connect, running: list[Worker]
) -> None:
    """The loop that was woken may have ended before it could claim."""
    worker = make_worker()
    start(worker, running)
    other = Sleeper(connect())
    worker.stop()
    eventually(other.heard)


def test_a_locked_job_is_looked_for_less_and_less_often(
    queue: Queue,
    make_worker: MakeWorker,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is ripe, and no claim can take it."""
    queue.enqueue("k")
    other = connect()
    other.execute("BEGIN")
    other.execute("SELECT FROM pgq_waiting FOR UPDATE")
    loop = make_worker(timing=Timing()).loops[0]
    pauses = [loop.sleep.look() for _ in range(10)]
    assert all(is_ripe for _, is_ripe in pauses)
    seconds = [pause for pause, _ in pauses]
    assert seconds[0] == 0
    assert all(later == min(1, max(0.02, 2 * earlier)) for earlier, later in pairwise(seconds))


def test_a_worker_all_of_whose_loops_are_busy_rescues_jobs(
    conn: Connection,
    queue: Queue,
    make_worker: MakeWorker,
    connect: Connect,
    handlers: Handlers,
    running: list[Worker],
) -> None:
    """The jobs wait, for clients that claim."""
    begun, go = threading.Event(), threading.Event()

    @handlers.handler("k")
    def wait(job: Job) -> None:
        begun.set()
        assert go.wait(60)

    dead = WorkerQueue(connect())
    dead.register("dead", ["other"])
    queue.enqueue("k", queue="other")
    assert len(dead.claim(["other"], worker="dead")) == 1
    start(make_worker(timing=Timing()), running)
    queue.enqueue("k")
    assert begun.wait(20)
    dead.conn.close()
    eventually(lambda: one(conn, "SELECT count(*) FROM pgq_waiting") == 1)
    go.set()


def test_an_idle_worker_writes_nothing(
    conn: Connection, make_worker: MakeWorker, running: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks all the time. Autovacuum may write, so one quiet interval is enough."""
    looks: list[None] = []
    look = WorkerQueue.ripe_in

    def counted(queue: WorkerQueue, queues: Sequence[str]) -> timedelta | None:
        looks.append(None)
        return look(queue, queues)

    monkeypatch.setattr(WorkerQueue, "ripe_in", counted)
    start(make_worker(concurrency=2, poll=0.02), running)

    def is_quiet() -> bool:
        before, count = one(conn, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text"), len(looks)
        eventually(lambda: len(looks) > count + 20)
        return bool(before == one(conn, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text"))

    eventually(is_quiet)
