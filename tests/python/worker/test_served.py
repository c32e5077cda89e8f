"""Workers that serve all queues, or those with a prefix, find new queues by themselves."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest
from support.database import Connect, Connection, jobs, one
from support.threads import eventually
from support.workers import MakeWorker, drain, start

from pgq import Drain, Handlers, Queue, Worker, WorkerQueue
from pgq.worker.settings import Timing

LOOK = Timing(look=60)


@pytest.fixture
def done(handlers: Handlers) -> dict[str, list[Any]]:
    """What was done of the jobs of kind k, by queue."""
    done: dict[str, list[Any]] = {}
    handlers.handler("k")(lambda job: done.setdefault(job.queue, []).append(job.args))
    return done


def test_a_worker_of_all_queues_serves_each(queue: Queue, make_worker: MakeWorker, done: dict[str, list[Any]]) -> None:
    queue.enqueue_many({"kind": "k", "queue": name} for name in ("default", "a", "b/c"))
    drain(make_worker(all_queues=True).loops[0])
    assert jobs(queue.conn) == []
    assert sorted(done) == ["a", "b/c", "default"]


def test_a_prefix_is_taken_literally(queue: Queue, make_worker: MakeWorker, done: dict[str, list[Any]]) -> None:
    queue.enqueue_many({"kind": "k", "queue": name} for name in ("a_", "a_1", "ab", "a", "b%", "bc", "default"))
    drain(make_worker(queue_prefixes=["a_", "b%"]).loops[0])
    assert sorted(done) == ["a_", "a_1", "b%"]


def test_new_queues_are_found_without_waiting_for_the_look(
    queue: Queue, make_worker: MakeWorker, handlers: Handlers, running: list[Worker]
) -> None:
    """Two services, which look once a minute only; each job is in a queue that appears for the first time."""
    arrived = threading.Semaphore(0)
    handlers.handler("k")(lambda job: arrived.release())
    for prefix in ("a", "b"):
        start(make_worker(queue_prefixes=[prefix], concurrency=2, timing=LOOK), running)
    for n in range(10):
        queue.enqueue("k", queue=f"{'ab'[n % 2]} {n}", delay=f"{n % 3 * 0.1} seconds")
        assert arrived.acquire(timeout=20)
        eventually(lambda: all(worker.presence.idle._sleeping for worker in running))


def test_a_busy_worker_asks_for_queues_once_a_second(
    queue: Queue,
    make_worker: MakeWorker,
    done: dict[str, list[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Until then it claims from those that it knows."""
    now = [0.0]
    searches: list[float] = []
    search = WorkerQueue.queues_to_serve

    def counted(queue: WorkerQueue, prefixes: Sequence[str]) -> list[str]:
        searches.append(now[0])
        return search(queue, prefixes)

    monkeypatch.setattr(WorkerQueue, "queues_to_serve", counted)
    loop = make_worker(all_queues=True, batch=1, timing=Timing(clock=lambda: now[0], tick=60)).loops[0]
    queue.enqueue_many({"kind": "k", "args": n, "queue": "a"} for n in range(50))
    for _ in range(25):
        assert loop.turn() == 1
        now[0] += 0.1
    queue.enqueue("k", queue="b")
    assert "b" not in done
    for _ in range(15):
        assert loop.turn() == 1
        now[0] += 0.1
    assert "b" in done
    assert 3 <= len(searches) <= 5


def test_queues_take_turns_unless_the_order_is_strict(
    queue: Queue, make_worker: MakeWorker, done: dict[str, list[Any]]
) -> None:
    """Strict is the order of bytes."""
    queue.enqueue_many({"kind": "k", "args": n, "queue": name} for n in range(20) for name in ("a", "b", "c"))
    loop = make_worker(all_queues=True, batch=1, queue_order="strict").loops[0]
    for _ in range(6):
        loop.turn()
    assert list(done) == ["a"]
    loop.finish()
    loop = make_worker(all_queues=True, batch=1).loops[0]
    for _ in range(6):
        loop.turn()
    assert sorted(map(len, done.values())) == [2, 2, 8]


def test_a_role_serves_the_queues_that_it_may_use(
    conn: Connection, queue: Queue, make_worker: MakeWorker, done: dict[str, list[Any]]
) -> None:
    """Also after one was taken from it."""
    conn.execute("DROP ROLE IF EXISTS tap_some; CREATE ROLE tap_some")
    conn.execute("SELECT pgq_grant('tap_some', 'worker', '{a,b}')")
    queue.enqueue_many({"kind": "k", "args": n, "queue": name} for n in range(3) for name in ("a", "b", "c"))
    loop = make_worker(all_queues=True, batch=1).loops[0]
    loop.session.queue().conn.execute("SET ROLE tap_some")
    assert loop.turn() == 1
    conn.execute("SELECT pgq_revoke('tap_some', 'worker', '{b}')")
    loop.turn()
    drain(loop)
    assert len(done["a"]) == 3
    assert len(done.get("b", [])) <= 1
    assert "c" not in done


def test_operators_see_the_queues_that_were_found(
    conn: Connection,
    queue: Queue,
    make_worker: MakeWorker,
    handlers: Handlers,
    running: list[Worker],
) -> None:
    """First none, then those in which jobs waited, also when none waits any more."""
    handlers.handler("k")(lambda job: None)
    start(make_worker(all_queues=True, timing=LOOK), running)
    assert one(conn, "SELECT queues FROM pgq_workers WHERE present") == []
    queue.enqueue("unknown", queue="b", delay="1 hour")
    queue.enqueue("k", queue="a")
    eventually(lambda: one(conn, "SELECT queues FROM pgq_workers WHERE present") == ["a", "b"])
    eventually(lambda: one(conn, "SELECT count(*) FROM pgq_waiting") == 1)
    assert one(conn, "SELECT handled FROM pgq_stats WHERE kind = 'unknown'") is False
    assert (
        one(
            conn,
            "SELECT count(*) FROM pg_locks WHERE classid = 'pgq_worker_session'::regclass",
        )
        == 1
    )


def test_the_jobs_of_a_dead_worker_are_rescued_where_no_queue_is_known(
    queue: Queue,
    make_worker: MakeWorker,
    connect: Connect,
    handlers: Handlers,
    running: list[Worker],
) -> None:
    """No job waits, so only the search for queues can rescue it."""
    rescued = threading.Event()
    handlers.handler("k")(lambda job: rescued.set())
    dead = WorkerQueue(connect())
    dead.register("dead", ["a"])
    queue.enqueue("k", queue="a")
    assert len(dead.claim(["a"], worker="dead")) == 1
    start(make_worker(all_queues=True, poll=1, timing=Timing()), running)
    dead.conn.close()
    assert rescued.wait(20)


def test_a_worker_of_all_queues_drains(queue: Queue, make_worker: MakeWorker, done: dict[str, list[Any]]) -> None:
    """Without any queue, too."""
    for count in (0, 3):
        queue.enqueue_many({"kind": "k", "args": n, "queue": f"queue {n}"} for n in range(count))
        worker = make_worker(all_queues=True, drain=Drain(until_empty=False))
        worker.run()
        assert worker.drained
        assert len(done) == count


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queues": ["a"], "all_queues": True}, "exclude"),
        ({"queues": ["a"], "queue_prefixes": ["b"]}, "exclude"),
        ({"queue_prefixes": ["b"], "all_queues": True}, "exclude"),
        ({"all_queues": True, "drain": Drain(until_empty=True)}, "until_empty"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    make_worker: MakeWorker, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_worker(**options)
