"""The ways in which a handler can be called, so that a promise can be put to each of them."""

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
    """Register a function that is written for one job, and takes a connection where there is one."""

    def for_each(jobs: list[Job]) -> dict[int, Any]:
        answers: dict[int, Any] = {}
        for job in jobs:
            try:
                answers[job.id] = function(job)
            except BaseException as error:
                answers[job.id] = error
        return answers

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
    Give a job to each of these functions in each mode, and a last one to a neighbour, which must be done.

    The answer is what there is to know about each job after its attempt, by mode and case; nothing about one that is
    done without a result. ``in`` is how long it waits, ``effects`` what it has written to a table of this name.
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
    """State and attempt of each."""
    return {kind: (job["state"], job["attempt"]) for kind, job in jobs.items()}


def all_of(cases: Mapping[str, Any], value: Any, modes: Mapping[str, Any] | tuple[str, ...] = MODES) -> dict[str, Any]:
    """The same for each case in each mode."""
    return {f"{mode}: {case}": value for mode in modes for case in cases}


def near(interval: timedelta, expected: timedelta) -> bool:
    """Whether they differ by no more than the jitter of the backoff, and a minute."""
    return abs(interval - expected) < expected * 0.1 + timedelta(minutes=1)


def write(job: Job, *conn: Connection) -> None:
    """An effect of the job, where it has a connection."""
    for inside in conn:
        inside.execute("INSERT INTO effect VALUES (%s)", [job.id])
