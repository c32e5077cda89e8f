"""Batches: many jobs and the one that comes after them, in a worker, beside other sessions, and in the CLI."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support.database import Connect, Connection, one
from support.processes import invoke
from support.workers import MakeWorker, drain

from pgq import BatchProgress, Handlers, Job, JobNotFound, NewJob, Queue, WorkerQueue, WrongState

STATES = "SELECT state FROM pgq_jobs WHERE id = %s"


def members(count: int) -> list[NewJob]:
    """Return jobs for a batch, none of which is retried."""
    return [{"kind": "member", "args": n, "max_retries": 0} for n in range(count)]


def claim(conn: Connection, count: int) -> list[Job]:
    """Claim jobs one by one, so that none is packed."""
    return [job for _ in range(count) for job in WorkerQueue(conn).claim(max_jobs=1)]


@pytest.mark.parametrize("transaction", [False, True])
def test_the_last_job_learns_what_has_become_of_the_others(
    conn: Connection, queue: Queue, make_worker: MakeWorker, handlers: Handlers, transaction: bool
) -> None:
    """One of them fails, one adds two more; the numbers reach the handler of the last."""
    told: list[Any] = []

    @handlers.handler("member", max_retries=0, transaction=transaction)
    def member(job: Job, inside: Connection | None = None) -> None:
        if job.args == 3:
            raise ValueError("no")
        if job.args == 5:
            Queue(inside or conn).add_to_batch(job, members(22)[20:])

    @handlers.handler("last")
    def last(job: Job) -> None:
        told.append((job.args, job.batch()))

    batch = queue.enqueue_batch("last", {"n": 20}, members(20), max_retries=0)
    assert queue.batch_progress(batch.id) == BatchProgress(20, 0, 0, [])
    loop = make_worker(batch=10).loops[0]
    drain(loop)
    # The last turn has settled what unblocks the last job.
    drain(loop)
    assert told == [({"n": 20}, BatchProgress(22, 22, 1, [batch.ids[3]]))]
    assert queue.batch_progress(batch.id).failed_ids == [batch.ids[3]]


def test_a_job_outside_of_a_batch_has_none(
    conn: Connection, queue: Queue, make_worker: MakeWorker, handlers: Handlers
) -> None:
    """Neither its handler nor another client finds numbers, and it adds to none."""
    errors: list[Exception] = []

    @handlers.handler("k")
    def alone(job: Job) -> None:
        for call in (job.batch, lambda: Queue(conn).add_to_batch(job, [])):
            try:
                call()
            except (JobNotFound, WrongState) as error:
                errors.append(error)

    queue.enqueue("k")
    drain(make_worker().loops[0])
    assert [type(error) for error in errors] == [JobNotFound, WrongState]


@pytest.mark.happens("two last prerequisites end at once")
def test_no_completion_waits_for_a_transaction_that_adds(conn: Connection, queue: Queue, connect: Connect) -> None:
    """Nor is the batch over before what it adds: its own job has not ended."""
    conn.execute("SET statement_timeout = '60s'")
    conn.execute("ALTER FUNCTION _pgq_settle_needs SET lock_timeout = '2min'")
    batch = queue.enqueue_batch("last", None, members(3))
    adder, *others = claim(conn, 3)
    inside = connect(autocommit=False)
    (added,) = Queue(inside).add_to_batch(adder, [{"kind": "added"}])
    for job in others:
        WorkerQueue(conn).complete(job)
    assert one(conn, STATES, batch.id) == "blocked"
    WorkerQueue(inside).complete(adder)
    inside.commit()
    assert queue.batch_progress(batch.id) == BatchProgress(4, 3, 0, [])
    (job,) = claim(conn, 1)
    assert job.id == added
    WorkerQueue(conn).fail(job, "no", retry=False)
    assert one(conn, STATES, batch.id) == "waiting"
    assert queue.batch_progress(batch.id) == BatchProgress(4, 4, 1, [added])


def test_no_other_session_rescues_a_job_while_it_adds(conn: Connection, queue: Queue, connect: Connect) -> None:
    """Its lease ends meanwhile, and the batch is not over before what it adds."""
    batch = queue.enqueue_batch("last", None, members(1))
    (adder,) = claim(conn, 1)
    conn.execute("UPDATE pgq_running SET lease_until = now() - interval '1 hour'")
    inside = connect(autocommit=False)
    Queue(inside).add_to_batch(adder, [{"kind": "added"}])
    conn.execute("SELECT _pgq_expire_leases(now())")
    WorkerQueue(inside).complete(adder)
    inside.commit()
    assert queue.batch_progress(batch.id) == BatchProgress(2, 1, 0, [])
    assert one(conn, STATES, batch.id) == "blocked"


def test_what_a_rolled_back_transaction_has_added_does_not_count(
    conn: Connection, queue: Queue, connect: Connect
) -> None:
    """Neither do those that have failed in it."""
    batch = queue.enqueue_batch("last", None, members(2))
    adder, other = claim(conn, 2)
    inside = connect(autocommit=False)
    Queue(inside).add_to_batch(adder, [{"kind": "added"}])
    WorkerQueue(inside).fail(other, "no", retry=False)
    inside.rollback()
    assert queue.batch_progress(batch.id) == BatchProgress(2, 0, 0, [])
    WorkerQueue(conn).complete_many([adder, other])
    assert queue.batch_progress(batch.id) == BatchProgress(2, 2, 0, [])
    assert one(conn, STATES, batch.id) == "waiting"


def test_the_command_shows_batches(dsn: str, queue: Queue, conn: Connection) -> None:
    """The newest come first; the JSON has the ids of the jobs that have failed, too."""
    first = queue.enqueue_batch("last", None, members(2))
    second = queue.enqueue_batch("last", None, [], queue="q")
    WorkerQueue(conn).fail(claim(conn, 1)[0], "no", retry=False)
    rows = json.loads(invoke("--dsn", dsn, "batches", "--json").stdout)
    assert [(row["id"], row["jobs"], row["ended"], row["failed_ids"]) for row in rows] == [
        (second.id, 0, 0, []), (first.id, 2, 1, [first.ids[0]]),
    ]  # fmt: skip
    lines = invoke("--dsn", dsn, "batches", "--limit", "1").stdout.splitlines()
    assert [line.split()[:5] for line in lines] == [
        ["id", "queue", "jobs", "ended", "failed"], [str(second.id), "q", "0", "0", "0"],
    ]  # fmt: skip


def test_the_command_enqueues_a_batch(dsn: str, queue: Queue, conn: Connection, tmp_path: Path) -> None:
    """The jobs come from a file or from standard input; the other arguments are those of the job that comes last."""
    file = tmp_path / "jobs.json"
    file.write_text(json.dumps(members(2)))
    done = invoke(
        "--dsn", dsn, "enqueue-batch", "last", '{"x": 1}', str(file), "--queue", "q", "--priority", "3",
        "--max-retries", "2", "--backoff", "5s", "--backoff-cap", "1m", "--group", "g", "--json",
    )  # fmt: skip
    batch = json.loads(done.stdout)
    assert queue.batch_progress(batch["id"]) == BatchProgress(2, 0, 0, [])
    row = conn.execute(
        "SELECT kind, args, queue, priority, max_retries, backoff, backoff_cap, group_key, after FROM pgq_jobs "
        "WHERE id = %s",
        [batch["id"]],
    ).fetchone()
    assert row == (
        "last", {"x": 1}, "q", 3, 2, timedelta(seconds=5), timedelta(minutes=1), "g", batch["ids"],
    )  # fmt: skip
    done = invoke("--dsn", dsn, "enqueue-batch", "last", "null", "-", stdin='[{"kind": "k"}]')
    assert queue.batch_progress(int(done.stdout)) == BatchProgress(1, 0, 0, [])


@pytest.mark.parametrize(
    ("text", "message"), [("[", "not JSON"), ("{}", "not an array of objects"), ("[1]", "not an array of objects")]
)
def test_the_command_refuses_what_is_no_array_of_jobs(dsn: str, conn: Connection, text: str, message: str) -> None:
    """It says so in words, and enqueues nothing."""
    done = invoke("--dsn", dsn, "enqueue-batch", "last", "{}", "-", stdin=text)
    assert (done.returncode, message in done.stderr) == (2, True)
    assert one(conn, "SELECT count(*) FROM pgq_jobs") == 0
