"""A worker whose queue is paused sleeps, and is back in time."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest
from support.database import jobs
from support.threads import Thread, eventually
from support.workers import MakeWorker, start

from pgq import Drain, Handlers, Queue, Worker
from pgq.job import Claim
from pgq.worker.loop import Loop
from pgq.worker.settings import Timing


def test_a_worker_whose_queue_is_paused_sleeps_until_it_is_resumed(
    queue: Queue,
    make_worker: MakeWorker,
    handlers: Handlers,
    running: list[Worker],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is notified: its poll is a minute. Meanwhile it does not claim again and again."""
    done = threading.Event()
    handlers.handler("k")(lambda job: done.set())
    claims: list[Loop] = []
    claim = Loop.settle_and_claim

    def counted(loop: Loop) -> Claim | None:
        claims.append(loop)
        return claim(loop)

    monkeypatch.setattr(Loop, "settle_and_claim", counted)
    queue.pause("default")
    queue.enqueue("k")
    worker = make_worker(timing=Timing())
    start(worker, running)
    eventually(lambda: len(worker.presence.idle._sleeping) == 1)
    looked_at = worker.presence.idle.looked_at
    eventually(lambda: worker.presence.idle.looked_at > looked_at)
    assert len(claims) <= 3
    assert not done.is_set()
    queue.resume("default")
    assert done.wait(20)


def test_a_worker_knows_when_a_pause_ends(
    queue: Queue, make_worker: MakeWorker, handlers: Handlers, running: list[Worker]
) -> None:
    """The poll is a minute, and nothing notifies the worker."""
    begun: list[datetime] = []
    handlers.handler("k")(lambda job: begun.append(datetime.now(UTC)))
    until = datetime.now(UTC) + timedelta(seconds=2)
    queue.pause("default", until)
    queue.enqueue("k")
    start(make_worker(timing=Timing()), running)
    eventually(lambda: len(begun) == 1)
    assert begun[0] >= until - timedelta(milliseconds=10)


@pytest.mark.parametrize("until_empty", [False, True])
def test_a_worker_that_drains_leaves_the_jobs_of_a_paused_queue(
    queue: Queue, dsn: str, handlers: Handlers, until_empty: bool
) -> None:
    """It ends although a job is there that is ripe."""
    handlers.handler("k")(lambda job: None)
    job = queue.enqueue("k")
    queue.pause("default")
    worker = Worker(dsn, handlers, drain=Drain(until_empty=until_empty), poll=0.2)
    Thread(worker.run).result(30)
    assert jobs(queue.conn) == [(job.id, "waiting", 0)]
