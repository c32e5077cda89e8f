"""Workers of queues with limits, rates and order, beside queues without."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest
from support.threads import Thread, eventually
from support.workers import MakeWorker, start

from pgq import Drain, Handlers, Job, Queue, Retry, Snooze, Worker
from pgq.worker.settings import QueueOrder, Timing


@pytest.mark.parametrize("order", ["strict", "rotate"])
@pytest.mark.parametrize("queues", [["limited", "free"], ["free", "limited"]], ids="-".join)
def test_a_worker_serves_a_queue_with_a_limit_beside_one_without(
    queue: Queue, dsn: str, handlers: Handlers, queues: list[str], order: QueueOrder
) -> None:
    """Four threads run two jobs of the one at a time, and all of the other."""
    running: dict[str, int] = {"limited": 0, "free": 0}
    most = dict(running)
    lock = threading.Lock()

    @handlers.handler("k")
    def k(job: Job) -> None:
        with lock:
            running[job.queue] += 1
            most[job.queue] = max(most[job.queue], running[job.queue])
        time.sleep(0.005)
        with lock:
            running[job.queue] -= 1

    queue.configure("limited", {"max_running": 2})
    for n in range(40):
        queue.enqueue("k", n, queue="limited", group_key=str(n % 3))
        queue.enqueue("k", n, queue="free")
    worker = Worker(
        dsn, handlers, queues=queues, queue_order=order, concurrency=4, batch=1, poll=0.2, drain=Drain(until_empty=True)
    )
    Thread(worker.run).result(60)
    assert most["limited"] == 2
    assert most["free"] >= 2
    assert [row["waiting"] + row["running"] for row in queue_rows(queue)] == [0]


def queue_rows(queue: Queue) -> list[dict[str, int]]:
    """Return the counts of the queues that are left in the view: those with settings."""
    rows = queue.conn.execute("SELECT waiting, running FROM pgq_queues").fetchall()
    return [{"waiting": row[0], "running": row[1]} for row in rows]


def test_a_worker_at_its_rate_sleeps_until_the_next_job_may_start(
    queue: Queue, make_worker: MakeWorker, handlers: Handlers, running: list[Worker]
) -> None:
    """Its poll is a minute, and nothing notifies it."""
    begun: list[float] = []
    handlers.handler("k")(lambda job: begun.append(time.monotonic()))
    queue.configure("default", {"rate": 2, "per": "3 seconds"})
    for n in range(2):
        queue.enqueue("k", n)
    start(make_worker(timing=Timing()), running)
    eventually(lambda: len(begun) == 2)
    assert begun[1] - begun[0] > 1.4


def test_a_handler_keeps_its_whole_group_waiting(
    queue: Queue, make_worker: MakeWorker, handlers: Handlers, running: list[Worker]
) -> None:
    """Other groups go on."""
    begun: list[str] = []

    @handlers.handler("k")
    def k(job: Job) -> None:
        begun.append(str(job.group_key))
        if job.group_key == "a":
            raise Snooze(delay=timedelta(hours=1), whole_group=True)

    for n in range(3):
        queue.enqueue("k", n, group_key="a")
    start(make_worker(batch=1), running)
    eventually(lambda: "a" in begun)
    queue.enqueue("k", 3, group_key="b")
    eventually(lambda: "b" in begun)
    assert begun.count("a") == 1


def test_jobs_of_an_ordered_queue_run_in_order(queue: Queue, dsn: str, handlers: Handlers) -> None:
    """Four threads, and failures whose retries come first."""
    done: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    failed: set[int] = set()

    @handlers.handler("k")
    def k(job: Job) -> None:
        if job.args % 5 == 0 and job.args not in failed:
            failed.add(job.args)
            raise Retry(timedelta())
        done[str(job.group_key)].append(job.args)

    queue.configure("default", {"ordered": True})
    for n in range(60):
        queue.enqueue("k", n, group_key="abc"[n % 3])
    worker = Worker(dsn, handlers, concurrency=4, poll=0.2, drain=Drain(until_empty=True))
    Thread(worker.run).result(60)
    for n, key in enumerate("abc"):
        assert done[key] == list(range(n, 60, 3))
