"""A worker with thousands of queues: what a call costs grows with the number of queues, and not with its square."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import psycopg
import pytest
from support.database import Connection, read

from pgq import WorkerQueue

FEW, MANY = 1000, 10_000
# How many times as long the calls would take if their cost grew with the square. On a quiet machine it is 9 to 17.
SQUARE = (MANY / FEW) ** 2
CALLS: dict[str, Callable[[WorkerQueue, list[str]], object]] = {
    "claim": lambda queue, queues: queue.claim(queues),
    "idle": lambda queue, queues: queue.idle(queues),
    "ripe in": lambda queue, queues: queue.ripe_in(queues),
}


def names(count: int) -> list[str]:
    """Return names of queues."""
    return [f"queue {n}" for n in range(count)]


def shortest(call: Callable[[WorkerQueue, list[str]], object], queue: WorkerQueue, queues: list[str]) -> float:
    """Return the least of the times that some calls take."""
    times = []
    for _ in range(4):
        begun_at = perf_counter()
        call(queue, queues)
        times.append(perf_counter() - begun_at)
    return min(times)


@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
def test_ten_times_as_many_queues_take_some_ten_times_as_long(
    queue: WorkerQueue, call: Callable[[WorkerQueue, list[str]], object]
) -> None:
    queue.enqueue_many({"kind": "k", "queue": name} for name in names(20))
    few = shortest(call, queue, names(FEW))
    many = shortest(call, queue, names(MANY))
    assert many < SQUARE / 2 * few


def test_ten_times_as_many_queues_of_a_list_take_some_ten_times_as_long(conn: Connection, queue: WorkerQueue) -> None:
    """Here the role may use these queues only."""
    conn.execute("DROP ROLE IF EXISTS many; CREATE ROLE many")
    times = []
    for count in (FEW, MANY):
        conn.execute("SELECT pgq_grant('many', 'worker', %s::text[])", [names(count)])
        conn.execute("SET ROLE many")
        times.append(shortest(CALLS["claim"], queue, names(count)))
        conn.execute("RESET ROLE")
    few, many = times
    assert many < SQUARE / 2 * few


def test_queues_to_serve_are_found_without_reading_their_jobs(conn: Connection, queue: WorkerQueue) -> None:
    """One entry of each queue is read, and one behind those with the prefix."""
    queue.enqueue_many({"kind": "k", "args": n, "queue": name} for name in names(50) for n in range(100))
    before = read("pgq_waiting_claim", conn)
    assert queue.queues_to_serve() == sorted(names(50))
    assert read("pgq_waiting_claim", conn) - before <= 50
    before = read("pgq_waiting_claim", conn)
    assert queue.queues_to_serve(["queue 1"]) == ["queue 1", *(f"queue 1{n}" for n in range(10))]
    assert read("pgq_waiting_claim", conn) - before <= 12


def test_of_many_queues_one_that_is_not_allowed_is_refused(conn: Connection, queue: WorkerQueue) -> None:
    conn.execute("DROP ROLE IF EXISTS many; CREATE ROLE many")
    conn.execute("SELECT pgq_grant('many', 'worker', %s::text[])", [names(100)])
    conn.execute("SET ROLE many")
    assert queue.claim(names(100)) == []
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match='"queue 100"'):
        queue.claim(names(101))


def test_many_queues_are_claimed_in_the_order_given_and_each_once(queue: WorkerQueue) -> None:
    """A queue that is named twice counts where it is named first."""
    queue.enqueue_many({"kind": "k", "queue": name} for name in names(200))
    order = [*reversed(names(200)), *names(200)]
    assert [job.queue for _ in range(3) for job in queue.claim(order, 1)] == order[:3]
    assert len(queue.claim(order, 1000)) == 197
