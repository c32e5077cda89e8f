"""Batch handlers get many jobs at a time, and each job has an outcome of its own."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from support.database import Connection, jobs, one
from support.modes import MODES, write
from support.workers import drain

from pgq import Handlers, Job, PayloadError, Queue
from pgq.views import Views
from pgq.worker.loop import Loop
from pgq.worker.settle import SHORT


def states(queue: Queue) -> dict[Any, tuple[str, int]]:
    """Return state and attempt of each job that is not done without a result, by its args."""
    return {
        row[0]: (row[1], row[2])
        for row in queue.conn.execute("SELECT args, state, attempt FROM pgq_jobs WHERE jsonb_typeof(args) = 'number'")
    }


def errors(queue: Queue) -> dict[Any, str]:
    """Return the first line of the newest error of each job that has one."""
    rows = queue.conn.execute("SELECT args, errors -> 0 ->> 'error' FROM pgq_jobs WHERE errors <> '[]'")
    return {args: error.splitlines()[0] for args, error in rows}


def enqueue(queue: Queue, count: int, kind: str = "k") -> list[int]:
    """Enqueue jobs whose args are their numbers, and return their ids."""
    return [
        one.id
        for one in queue.enqueue_many({"kind": kind, "args": n, "backoff": timedelta(hours=1)} for n in range(count))
    ]


def test_a_batch_handler_gets_at_most_batch_jobs_at_a_time(queue: Queue, loop: Loop, handlers: Handlers) -> None:
    """They come in order, whatever jobs are between them; a handler that returns None has done all of them."""
    seen: list[list[int]] = []
    alone: list[int] = []
    handlers.handler("k", batch=4)(lambda jobs: seen.append([job.args for job in jobs]))
    handlers.handler("other")(lambda job: alone.append(job.args))
    for n in range(10):
        queue.enqueue_many([{"kind": "k", "args": n}, {"kind": "other", "args": n}])
    loop.batch_size.limit = 100
    loop.batch_size.note(100, 0.001)
    drain(loop)
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert alone == list(range(10))
    assert jobs(queue.conn) == []


@pytest.mark.happens("fails in a batch")
def test_a_batch_handler_returns_an_outcome_for_each_job(queue: Queue, loop: Loop, handlers: Handlers) -> None:
    """A result is kept, an exception is a failure, None is done without a result, and a missing job has failed.

    A result that cannot be stored is left out.
    """

    @handlers.handler("k", batch=10, cancel_on=LookupError)
    def work(jobs: list[Job]) -> dict[int, Any]:
        given = [None, {"n": 1}, 0, ValueError("bad"), KeyError("lost"), object(), float("nan")]
        returned = {job.id: value for job, value in zip(jobs, given, strict=False)}
        return returned | {12345678: ValueError("of no job")}

    ids = enqueue(queue, 8)
    drain(loop)
    assert states(queue) == {
        1: ("done", 1),
        2: ("done", 1),
        3: ("waiting", 1),
        4: ("cancelled", 1),
        5: ("done", 1),
        6: ("done", 1),
        7: ("waiting", 1),
    }
    assert [Views(queue.conn).job(job_id)["result"] for job_id in ids[1:3]] == ['{"n": 1}', "0"]
    said = errors(queue)
    assert said[3] == "ValueError: bad"
    assert said[4] == "KeyError: 'lost'"
    assert said[5].startswith("the result was not stored: TypeError: Object of type object is not JSON")
    assert said[7] == "pgq.Error: its batch handler has left it out"


@pytest.mark.happens("fails in a batch")
@pytest.mark.parametrize("returned", [ValueError("down"), SystemExit(3), [1, 2], "done", {"id"}], ids=repr)
def test_a_batch_handler_that_raises_or_returns_no_mapping_fails_its_jobs(
    queue: Queue, loop: Loop, handlers: Handlers, returned: Any
) -> None:
    """The other jobs of the claim are done."""

    @handlers.handler("k", batch=10)
    def work(jobs: list[Job]) -> Any:
        if isinstance(returned, BaseException):
            raise returned
        return returned

    handlers.handler("other")(lambda job: None)
    enqueue(queue, 3)
    enqueue(queue, 3, "other")
    drain(loop)
    assert states(queue) == dict.fromkeys(range(3), ("waiting", 1))
    expected = (
        f"{type(returned).__name__}: {returned}"
        if isinstance(returned, BaseException)
        else "TypeError: a batch handler"
    )
    assert all(text.startswith(expected) for text in errors(queue).values())


@pytest.mark.parametrize("mode", MODES)
def test_a_payload_that_cannot_be_decoded_does_not_fail_its_batch(
    queue: Queue, loop: Loop, handlers: Handlers, mode: str
) -> None:
    """Only that job fails, and the handler, which has not raised the error, does not get the job."""
    seen: list[int] = []

    @handlers.handler("k", **MODES[mode], retry_on=OSError)
    def work(given: Any, *_: Connection) -> None:
        seen.extend(job.id for job in (given if isinstance(given, list) else [given]))

    first = enqueue(queue, 2)
    bad = one(queue.conn, "SELECT id FROM pgq_enqueue('k', '1e131071')")
    last = enqueue(queue, 4)[2:]
    drain(loop)
    assert seen == [*first, *last]
    assert jobs(queue.conn) == [(bad, "waiting", 1)]
    assert PayloadError.__name__ in Views(queue.conn).job(bad)["errors"][0]["error"]


def test_a_payload_that_cannot_be_decoded_is_no_error_of_the_handler_before(
    queue: Queue, loop: Loop, handlers: Handlers
) -> None:
    """In a transactional batch, in which retry_on concerns what the handler of each job has raised."""

    @handlers.handler("k", batch=10, transaction=True, retry_on=OSError)
    def work(job: Job, _: Connection) -> None:
        raise ValueError

    (failed,) = enqueue(queue, 1)
    bad = one(queue.conn, "SELECT id FROM pgq_enqueue('k', '1e131071')")
    drain(loop)
    assert jobs(queue.conn) == [(failed, "dead", 1), (bad, "waiting", 1)]


@pytest.mark.happens("fails in a batch")
def test_a_transactional_batch_has_a_savepoint_for_each_job(queue: Queue, loop: Loop, handlers: Handlers) -> None:
    """One transaction commits the jobs that are done with their writes, and puts the failed ones back."""
    conn = queue.conn
    conn.execute("CREATE TABLE effect (job bigint)")
    conn.execute("CREATE TABLE moved (job bigint, xid text)")
    conn.execute(
        "CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN "
        "INSERT INTO public.moved VALUES (old.id, pg_current_xact_id()::text); RETURN NULL; END$$"
    )
    conn.execute("CREATE TRIGGER see AFTER DELETE ON pgq_running FOR EACH ROW EXECUTE FUNCTION see()")

    @handlers.handler("k", batch=10, transaction=True)
    def work(job: Job, inside: Connection) -> None:
        write(job, inside)
        assert one(conn, "SELECT count(*) FROM effect") == 0
        if job.args == 1:
            inside.execute("SELECT 1 / 0")
        if job.args == 3:
            raise psycopg.Rollback

    ids = enqueue(queue, 5)
    assert loop.turn() == 5
    assert states(queue) == {1: ("waiting", 1), 3: ("waiting", 1)}
    assert errors(queue)[3].endswith("the handler of k rolled its savepoint back")
    assert [row[0] for row in conn.execute("SELECT job FROM effect ORDER BY job")] == ids[::2]
    assert conn.execute("SELECT count(*), count(DISTINCT xid) FROM moved").fetchone() == (5, 1)


ENDINGS = {
    "COMMIT": lambda conn: conn.execute("COMMIT"),
    "ROLLBACK": lambda conn: conn.execute("ROLLBACK"),
    "COMMIT; BEGIN": lambda conn: conn.execute("COMMIT; BEGIN"),
    "COMMIT; BEGIN; SAVEPOINT": lambda conn: conn.execute("COMMIT; BEGIN; SAVEPOINT pgq_job"),
    "close": lambda conn: conn.close(),
}


# A long result is recorded before the savepoint is released.
@pytest.mark.happens("ends its transaction")
@pytest.mark.parametrize("result", [None, "x" * SHORT], ids=["none", "long"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_job_that_ends_the_transaction_of_its_batch_fails_alone(
    queue: Queue, loop: Loop, handlers: Handlers, ending: str, result: str | None
) -> None:
    """
    After a COMMIT the jobs before it are done; otherwise they run again, like the jobs after it, and no attempt counts
    twice. Each effect is there once.
    """
    conn = queue.conn
    conn.execute("CREATE TABLE effect (job bigint)")
    attempts: list[tuple[int, int]] = []

    @handlers.handler("k", batch=10, transaction=True)
    def work(job: Job, inside: Connection) -> str | None:
        attempts.append((job.args, job.attempt))
        if job.args == 2:
            ENDINGS[ending](inside)
            return result
        write(job, inside)
        return None

    ids = enqueue(queue, 5)
    assert loop.turn() == 5
    assert attempts == [(0, 1), (1, 1), (2, 1)]
    loop.turn()
    drain(loop)
    assert states(queue) == {2: ("waiting", 1)}
    assert "TransactionEnded" in errors(queue)[2] or "closed" in errors(queue)[2]
    again = [] if "COMMIT" in ending else [(0, 1), (1, 1)]
    assert attempts[3:] == [*again, (3, 1), (4, 1)]
    assert [row[0] for row in conn.execute("SELECT job FROM effect ORDER BY job")] == [n for n in ids if n != ids[2]]


def test_a_failed_commit_fails_the_whole_batch(queue: Queue, loop: Loop, handlers: Handlers) -> None:
    """It is unknown which job is to blame; a job that failed before keeps its own error."""
    conn = queue.conn
    conn.execute("CREATE TABLE parent (id bigint PRIMARY KEY)")
    conn.execute("CREATE TABLE child (id bigint REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")

    @handlers.handler("k", batch=10, transaction=True, retry_on=OSError)
    def work(job: Job, inside: Connection) -> None:
        if job.args == 0:
            raise ValueError("by itself")
        inside.execute("INSERT INTO child VALUES (%s)", [job.id])

    enqueue(queue, 3)
    loop.turn()
    drain(loop)
    assert states(queue) == {0: ("dead", 1), 1: ("waiting", 1), 2: ("waiting", 1)}
    said = errors(queue)
    assert said[0] == "ValueError: by itself"
    assert all("ForeignKeyViolation" in said[n] for n in (1, 2))


def test_a_batch_handler_may_leave_out_a_job_that_it_has_completed_itself(
    queue: Queue, dsn: str, loop: Loop, handlers: Handlers, caplog: pytest.LogCaptureFixture
) -> None:
    """The job is done, and is logged once."""

    @handlers.handler("k", batch=10)
    def work(jobs: list[Job]) -> dict[int, Any]:
        with psycopg.connect(dsn) as own:
            jobs[0].complete(own)
        return {jobs[1].id: None}

    enqueue(queue, 2)
    with caplog.at_level(logging.DEBUG, "pgq"):
        drain(loop)
    assert jobs(queue.conn) == []
    assert [record.__dict__["action"] for record in caplog.records if "job_id" in record.__dict__] == ["done", "done"]
    assert [record.__dict__["count"] for record in caplog.records if "count" in record.__dict__] == [2]


@pytest.mark.parametrize("size", [64, 100])
def test_a_transactional_batch_stays_in_shared_memory(
    conn: Connection, queue: Queue, loop: Loop, handlers: Handlers, size: int
) -> None:
    """
    Each job is a subtransaction; of a transaction with more than 64, other sessions look up the ids on disk. So a
    longer batch has several transactions.
    """
    if conn.info.server_version < 160000:
        pytest.skip("this PostgreSQL does not show subtransactions")
    conn.execute("CREATE TABLE effect (job bigint)")
    counts: list[tuple[Any, ...]] = []

    @handlers.handler("k", batch=size, transaction=True)
    def work(job: Job, inside: Connection) -> None:
        write(job, inside)
        counts.extend(
            conn.execute(
                "SELECT s.subxact_count, s.subxact_overflowed FROM pg_stat_get_backend_idset() AS b (id) "
                "CROSS JOIN LATERAL pg_stat_get_backend_subxact(b.id) AS s WHERE pg_stat_get_backend_pid(b.id) = %s",
                [inside.info.backend_pid],
            )
        )

    enqueue(queue, size)
    loop.batch_size.limit = 100
    loop.batch_size.note(100, 0.001)
    drain(loop)
    assert counts == [(n % 64 + 1, False) for n in range(size)]
    assert jobs(conn) == []
