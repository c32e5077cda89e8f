"""The order in which a worker serves its queues."""

from __future__ import annotations

import itertools

import pytest
from support.workers import MakeWorker

from pgq import Handlers, Job, Queue
from pgq.worker.settings import Timing


@pytest.mark.parametrize("concurrency", [1, 2])
def test_queues_take_turns_where_one_never_runs_dry(
    queue: Queue, make_worker: MakeWorker, handlers: Handlers, concurrency: int
) -> None:
    """Each comes first in turn, so the jobs of the second are done; in strict order they wait for ever."""
    done: list[int] = []
    enough = itertools.count()

    @handlers.handler("endless")
    def endless(job: Job) -> None:
        queue.enqueue("endless", next(enough), queue="a")

    handlers.handler("k")(lambda job: done.append(job.args))
    queue.enqueue_many({"kind": "endless", "args": [n], "queue": "a"} for n in range(8))
    queue.enqueue_many({"kind": "k", "args": n, "queue": "b"} for n in range(6))
    still = Timing(clock=lambda: 0.0, tick=60)
    strict = make_worker(queues=["a", "b"], batch=4, timing=still)
    for _ in range(10):
        assert strict.loops[0].turn() == 4
    strict.loops[0].settler.settle()
    assert done == []
    rotate = make_worker(queues=["a", "b"], batch=4, queue_order="rotate", concurrency=concurrency, timing=still)
    for _ in range(8):
        for loop in rotate.loops:
            assert loop.turn() == 4
    assert done == [*range(6)]


def test_an_unknown_order_of_queues_is_refused(make_worker: MakeWorker) -> None:
    """A typing error must not mean the default."""
    with pytest.raises(ValueError, match="rotated"):
        make_worker(queue_order="rotated")
