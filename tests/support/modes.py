"""The modes in which a handler can be called, to check a promise in each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final

from pgq import Handlers, Job, Queue
from pgq.views import Views
from pgq.worker.loop import Loop
from support.database import Connection, one
from support.workers import drain

MODES: Final[dict[str, dict[str, Any]]] = {
    "plain": {},
    "transactional": {"transaction": True},
    "batch": {"batch": 10},
    "transactional batch": {"batch": 10, "transaction": True},
}
IN_A_TRANSACTION: Final = ("transactional", "transactional batch")


def register(handlers: Handlers, mode: str, kind: str, function: Callable[..., Any], **options: Any) -> None:
    """Register a function of a job, and of a connection if the mode has one, as a handler in this mode."""

    def for_each(jobs: list[Job]) -> dict[int, Any]:
        results: dict[int, Any] = {}
        for job in jobs:
            try:
                results[job.id] = function(job)
            except BaseException as error:
                results[job.id] = error
        return results

    handlers.handler(kind, **MODES[mode], **options)(for_each if mode == "batch" else function)


def try_all(
    queue: Queue,
    loop: Loop,
    handlers: Handlers,
    cases: Mapping[str, Callable[..., Any]],
    modes: Mapping[str, Any] | tuple[str, ...] = MODES,
    *,
    max_retries: int = 25,
    **options: Any,
) -> dict[str, dict[str, Any]]:
    """
    Run a job with each of these functions in each mode, then a neighbour's job, which must be done.

    Return each job after its attempt, by mode and case; jobs that are done without a result are missing. ``in`` is the
    time that the job still waits, ``effects`` the number of its rows in the table effect.
    """
    conn = queue.conn
    conn.execute("CREATE TABLE IF NOT EXISTS effect (job bigint)")
    ids: dict[str, int] = {}
    for mode in modes:
        for case, function in cases.items():
            kind = f"{mode}: {case}"
            register(handlers, mode, kind, function, **options)
            ids[kind] = queue.enqueue(kind, backoff="1 hour", max_retries=max_retries).id
    done: list[Job] = []
    if "neighbour" not in handlers.kinds:
        handlers.handler("neighbour", transaction=True)(lambda job, conn: done.append(job))
    queue.enqueue("neighbour", priority=9)
    drain(loop)
    assert len(done) == 1
    now = one(conn, "SELECT pgq_now()")
    found = {row["id"] for row in Views(conn).jobs(limit=1000)}
    jobs = {kind: Views(conn).job(job_id) for kind, job_id in ids.items() if job_id in found}
    for job in jobs.values():
        job["in"] = job["ripe_at"] - now
        job["effects"] = one(conn, "SELECT count(*) FROM effect WHERE job = %s", job["id"])
    return jobs


def states(jobs: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[str, int]]:
    """Return state and attempt of each job."""
    return {kind: (job["state"], job["attempt"]) for kind, job in jobs.items()}


def all_of(cases: Mapping[str, Any], value: Any, modes: Mapping[str, Any] | tuple[str, ...] = MODES) -> dict[str, Any]:
    """Return the same value for each case in each mode."""
    return {f"{mode}: {case}": value for mode in modes for case in cases}


def near(interval: timedelta, expected: timedelta) -> bool:
    """Return whether the two differ by at most the jitter of the backoff and a minute."""
    return abs(interval - expected) < expected * 0.1 + timedelta(minutes=1)


def write(job: Job, *conn: Connection) -> None:
    """Write an effect of the job, if it has a connection."""
    for inside in conn:
        inside.execute("INSERT INTO effect VALUES (%s)", [job.id])
