"""Steps: what ran once is not run again, whatever becomes of the attempt."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from support.database import Connection, one
from support.workers import drain

import pgq
from pgq import Handlers, Job, WorkerQueue
from pgq.worker.loop import Loop

HOUR = timedelta(hours=1)


@pytest.fixture(params=[False, True], ids=["plain", "transaction"])
def transaction(request: pytest.FixtureRequest) -> bool:
    """Whether the handlers of the test have a transaction."""
    return bool(request.param)


@pytest.fixture
def ran() -> list[Any]:
    """What has run."""
    return []


def row(conn: Connection) -> dict[str, Any]:
    """Return the only job."""
    names = ("state", "attempt", "saved", "waits_for_signal", "errors")
    values = conn.execute(f"SELECT {', '.join(names)} FROM pgq_jobs".encode()).fetchone()
    assert values is not None
    return dict(zip(names, values, strict=True))


def ripen(conn: Connection) -> None:
    """Make all waiting jobs ripe."""
    conn.execute("UPDATE pgq_waiting SET ripe_at = now()")


def test_a_step_that_ran_is_not_run_again(
    queue: WorkerQueue, loop: Loop, handlers: Handlers, transaction: bool, ran: list[Any]
) -> None:
    """A later attempt gets the result as JSON gave it back the first time."""

    @handlers.handler("k", transaction=transaction, backoff=timedelta())
    def work(job: Job, *conn: Connection) -> None:
        def first(n: int, *, more: int) -> tuple[int, ...]:
            ran.append("first")
            return (n, more)

        assert job.step("first", first, 1, more=2) == [1, 2]
        ran.append("between")
        assert job.step("second", lambda: ran.append("second")) is None
        if job.attempt < 3:
            raise ValueError(f"attempt {job.attempt}")

    queue.enqueue("k", backoff=timedelta(), dedup=False)
    for _ in range(3):
        ripen(queue.conn)
        drain(loop)
    assert ran == ["first", "between", "second", "between", "between"]
    assert one(queue.conn, "SELECT count(*) FROM pgq_jobs") == 0
    assert one(queue.conn, "SELECT count(*) FROM pgq_saved") == 0


def test_the_writes_of_a_step_commit_with_its_record(queue: WorkerQueue, loop: Loop, handlers: Handlers) -> None:
    """What comes after the last step is undone with the attempt."""
    queue.conn.execute("CREATE TABLE effect (what text)")

    @handlers.handler("k", transaction=True)
    def work(job: Job, conn: Connection) -> None:
        def write(what: str) -> None:
            conn.execute("INSERT INTO effect VALUES (%s)", [what])

        job.step("charge", write, "charge")
        write("lost")
        job.step("reserve", write, "reserve") if job.attempt > 1 else None
        write("end")
        if job.attempt < 3:
            raise ValueError("no")

    queue.enqueue("k")
    for _ in range(3):
        ripen(queue.conn)
        drain(loop)
    rows = [what for (what,) in queue.conn.execute("SELECT what FROM effect ORDER BY ctid")]
    assert rows.count("charge") == rows.count("reserve") == rows.count("end") == 1
    assert rows == ["charge", "lost", "reserve", "lost", "end"]


def test_a_step_that_fails_leaves_nothing(queue: WorkerQueue, loop: Loop, handlers: Handlers) -> None:
    """Neither its writes nor a record, but the steps before it stay."""
    queue.conn.execute("CREATE TABLE effect (what text)")

    @handlers.handler("k", transaction=True)
    def work(job: Job, conn: Connection) -> None:
        def write(what: str) -> None:
            conn.execute("INSERT INTO effect VALUES (%s)", [what])
            if what == "second":
                raise ValueError("no")

        job.step("first", write, "first")
        job.step("second", write, "second")

    queue.enqueue("k")
    drain(loop)
    assert [what for (what,) in queue.conn.execute("SELECT what FROM effect")] == ["first"]
    assert row(queue.conn)["saved"] == {"steps": {"first": None}}


def mistakes() -> dict[str, tuple[Callable[[Job], Any], str]]:
    """Return what a handler may do wrong, and what the error of its job says."""

    def twice(job: Job) -> None:
        job.step("a", int)
        job.step("a", int)

    def nested(job: Job) -> None:
        job.step("a", lambda: job.step("b", int))

    return {
        "twice": (twice, 'ValueError: step "a" has been used before in this run: give each step a name of its own'),
        "nested": (nested, 'RuntimeError: step "a" still runs: a step has no steps of its own'),
        "not JSON": (
            lambda job: job.step("a", object),
            'TypeError: the result of step "a" is not JSON: Object of type object is not JSON serializable',
        ),
        "NaN": (lambda job: job.step("a", float, "nan"), 'ValueError: the result of step "a" is not JSON: Out of'),
        "no name": (lambda job: job.step("", int), "ValueError: the name of a step is text of 1 to 200 bytes, not ''"),
        "too large": (lambda job: job.save("x" * 1048577), "saved takes 1048592 bytes as text, more than 1048576"),
        "key": (lambda job: job.step_key, "RuntimeError: a key belongs to a step: ask for it in the function of the"),
        "progress": (lambda job: job.progress(2), "ValueError: progress is from 0 to 1, not 2"),
    }


@pytest.mark.parametrize("mistake", mistakes())
def test_a_mistake_is_said_in_words(
    queue: WorkerQueue, loop: Loop, handlers: Handlers, transaction: bool, mistake: str
) -> None:
    function, words = mistakes()[mistake]

    @handlers.handler("k", transaction=transaction)
    def work(job: Job, *conn: Connection) -> None:
        function(job)

    queue.enqueue("k")
    drain(loop)
    assert words in row(queue.conn)["errors"][0]["error"]


def test_a_batch_has_no_steps(queue: WorkerQueue, loop: Loop, handlers: Handlers, transaction: bool) -> None:
    """Its jobs share a transaction, or one call."""

    @handlers.handler("k", transaction=transaction, batch=5)
    def work(jobs: Any, *conn: Connection) -> None:
        (jobs if transaction else jobs[0]).step("a", int)

    queue.enqueue("k")
    drain(loop)
    error = row(queue.conn)["errors"][0]["error"]
    assert 'the handler of kind "k" runs batches: a job in a batch has no steps' in error


def test_a_job_outside_a_worker_has_no_steps(queue: WorkerQueue) -> None:
    queue.enqueue("k")
    (job,) = queue.claim()
    with pytest.raises(RuntimeError, match="only while its handler runs in a worker"):
        job.step("a", int)
    assert job.state is None


def test_a_step_commits_so_no_block_may_be_open(queue: WorkerQueue, loop: Loop, handlers: Handlers) -> None:
    """Its function is not called, either."""
    ran: list[int] = []

    @handlers.handler("k", transaction=True)
    def work(job: Job, conn: Connection) -> None:
        with conn.transaction():
            job.step("a", ran.append, 1)

    queue.enqueue("k")
    drain(loop)
    error = row(queue.conn)["errors"][0]["error"]
    assert "a step commits the transaction: call it outside of conn.transaction()" in error
    assert ran == []


@pytest.mark.parametrize("ending", ["COMMIT", "ROLLBACK", "COMMIT; BEGIN"])
def test_a_handler_that_ends_its_transaction_has_failed(
    queue: WorkerQueue, loop: Loop, handlers: Handlers, ending: str
) -> None:
    """The record of the step would not belong to what it has written."""

    @handlers.handler("k", transaction=True)
    def work(job: Job, conn: Connection) -> None:
        job.step("a", lambda: conn.execute(ending.encode()) and None)

    queue.enqueue("k")
    drain(loop)
    assert "TransactionEnded" in row(queue.conn)["errors"][0]["error"]


def test_state_goes_through_attempts(
    queue: WorkerQueue, loop: Loop, handlers: Handlers, transaction: bool, ran: list[Any]
) -> None:
    """So does what another client has saved."""

    @handlers.handler("k", transaction=transaction)
    def work(job: Job, *conn: Connection) -> None:
        ran.append(job.state)
        job.save({"page": job.attempt})
        ran.append(job.state)
        raise ValueError("no")

    queue.enqueue("k")
    (job,) = queue.claim()
    queue.save(job, ["other", "client"])
    queue.release(job)
    for _ in range(2):
        ripen(queue.conn)
        drain(loop)
    assert ran == [["other", "client"], {"page": 1}, {"page": 1}, {"page": 2}]
    assert row(queue.conn)["saved"] == {"state": {"page": 2}, "steps": {}}


def test_progress_is_seen_while_a_job_runs(queue: WorkerQueue, loop: Loop, handlers: Handlers) -> None:
    """Once a second at most, so the second call is written with the step."""
    conn = queue.conn
    seen: list[Any] = []

    @handlers.handler("k")
    def work(job: Job) -> None:
        job.progress(0.4, "page 4 of 10")
        seen.append(row(conn)["saved"]["progress"])
        job.progress(0.5)
        seen.append(row(conn)["saved"]["progress"]["done"])
        job.step("a", int)
        seen.append(row(conn)["saved"]["progress"]["done"])

    queue.enqueue("k")
    drain(loop)
    assert seen == [{"done": 0.4, "note": "page 4 of 10"}, 0.4, 0.5]


def test_a_job_sleeps_without_an_attempt(
    queue: WorkerQueue, loop: Loop, handlers: Handlers, transaction: bool, ran: list[Any]
) -> None:
    """It goes on after the last step, when it is time; woken too early, it sleeps again."""

    @handlers.handler("k", transaction=transaction)
    def work(job: Job, *conn: Connection) -> None:
        job.step("before", lambda: ran.append("before"))
        ran.append(job.attempt)
        job.sleep(HOUR)
        ran.append("after")

    queue.enqueue("k")
    drain(loop)
    ripen(queue.conn)
    drain(loop)
    assert one(queue.conn, "SELECT ripe_at > now() + interval '59 minutes' FROM pgq_waiting")
    assert (row(queue.conn)["state"], row(queue.conn)["attempt"]) == ("waiting", 0)
    queue.conn.execute(
        "UPDATE pgq_saved SET saved = jsonb_set(saved, '{steps,sleep 1}', to_jsonb(now() - interval '1 second'))"
    )
    ripen(queue.conn)
    drain(loop)
    assert ran == ["before", 1, 1, 1, "after"]
    assert one(queue.conn, "SELECT count(*) FROM pgq_jobs") == 0


def test_a_job_waits_for_a_signal(
    queue: WorkerQueue, loop: Loop, handlers: Handlers, transaction: bool, ran: list[Any]
) -> None:
    """And goes on with its payload, which later attempts get, too."""

    @handlers.handler("k", transaction=transaction)
    def work(job: Job, *conn: Connection) -> None:
        job.step("ask", lambda: ran.append("ask"))
        ran.append(job.wait_signal("approved", HOUR))
        if job.attempt == 1:
            raise ValueError("no")

    job = queue.enqueue("k")
    drain(loop)
    assert (row(queue.conn)["state"], row(queue.conn)["waits_for_signal"]) == ("waiting", "approved")
    assert row(queue.conn)["attempt"] == 0
    queue.signal(job.id, "approved", {"by": "x"})
    drain(loop)
    queue.conn.execute("DELETE FROM pgq_job_signal")
    ripen(queue.conn)
    drain(loop)
    assert ran == ["ask", {"by": "x"}, {"by": "x"}]
    assert one(queue.conn, "SELECT count(*) FROM pgq_jobs") == 0


def test_a_signal_that_comes_while_the_handler_ends_is_found(
    queue: WorkerQueue, loop: Loop, handlers: Handlers, transaction: bool, ran: list[Any]
) -> None:
    """The handler has not seen it, and the job is not put off."""

    @handlers.handler("k", transaction=transaction)
    def work(job: Job, *conn: Connection) -> None:
        try:
            ran.append(job.wait_signal("go", HOUR))
        except pgq.WaitForSignal:
            queue.signal(job.id, "go", 7)
            raise

    queue.enqueue("k")
    drain(loop)
    assert ran == [7]


def test_a_signal_that_does_not_come_is_a_timeout(
    queue: WorkerQueue, loop: Loop, handlers: Handlers, transaction: bool, ran: list[Any]
) -> None:
    """It stays one, even if the signal comes later."""

    @handlers.handler("k", transaction=transaction)
    def work(job: Job, *conn: Connection) -> None:
        try:
            ran.append(job.wait_signal("approved", HOUR))
        except TimeoutError as error:
            ran.append(str(error))
            if job.attempt == 1:
                raise

    job = queue.enqueue("k")
    drain(loop)
    queue.conn.execute("UPDATE pgq_signal_wait SET until = now() - interval '1 second'")
    ripen(queue.conn)
    drain(loop)
    queue.signal(job.id, "approved")
    ripen(queue.conn)
    drain(loop)
    assert ran == ['there was no signal "approved" in time'] * 2
    assert one(queue.conn, "SELECT count(*) FROM pgq_jobs") == 0


def test_children_are_enqueued_once_and_waited_for(
    queue: WorkerQueue, loop: Loop, handlers: Handlers, transaction: bool, ran: list[Any]
) -> None:
    """A retry makes no second child."""

    @handlers.handler("child")
    def child(job: Job) -> int:
        return int(job.args) * 10

    @handlers.handler("k", transaction=transaction)
    def work(job: Job, *conn: Connection) -> None:
        children = [job.enqueue("child", n) for n in range(3)]
        if job.attempt == 1 and not ran:
            ran.append([child.created for child in children])
            raise ValueError("no")
        ran.append([result.value for result in job.wait_for(child.id for child in children)])

    queue.enqueue("k", priority=0)
    for _ in range(4):
        ripen(queue.conn)
        drain(loop)
    assert ran == [[True] * 3, [0, 10, 20]]
    assert one(queue.conn, "SELECT count(*) FROM pgq_jobs WHERE kind = 'k'") == 0
    assert one(queue.conn, "SELECT count(*) FROM pgq_jobs WHERE kind = 'child'") == 3


def test_a_step_has_a_key_for_calls_to_the_outside(
    queue: WorkerQueue, loop: Loop, handlers: Handlers, transaction: bool, ran: list[Any]
) -> None:
    """It is the same in each attempt."""

    @handlers.handler("k", transaction=transaction)
    def work(job: Job, *conn: Connection) -> None:
        def charge() -> None:
            ran.append(job.step_key)
            raise ValueError("no")

        job.step("charge", charge)

    job = queue.enqueue("k")
    for _ in range(2):
        ripen(queue.conn)
        drain(loop)
    assert ran == [f"{job.id}/charge"] * 2


def test_a_lease_that_is_lost_ends_the_steps(
    queue: WorkerQueue, loop: Loop, handlers: Handlers, ran: list[Any], conn: Connection
) -> None:
    """A worker that comes too late records nothing."""

    @handlers.handler("k")
    def work(job: Job) -> None:
        conn.execute("UPDATE pgq_running SET token = token + 1")
        try:
            job.step("a", int)
        except pgq.LeaseLost:
            ran.append("lost")
            raise

    queue.enqueue("k")
    drain(loop)
    assert ran == ["lost"]
    assert one(conn, "SELECT count(*) FROM pgq_saved") == 0


def test_the_saved_json_is_that_of_the_page(queue: WorkerQueue, loop: Loop, handlers: Handlers) -> None:
    """Clients in other languages read it."""

    @handlers.handler("k")
    def work(job: Job) -> None:
        job.progress(1)
        job.step("a", int)
        job.save(7)
        raise pgq.Cancel

    queue.enqueue("k")
    drain(loop)
    assert json.dumps(row(queue.conn)["saved"], sort_keys=True) == (
        '{"progress": {"done": 1, "note": ""}, "state": 7, "steps": {"a": 0}}'
    )


def test_a_connection_that_is_lost_in_a_step_loses_the_attempt_only(
    queue: WorkerQueue, loop: Loop, handlers: Handlers, transaction: bool, ran: list[Any]
) -> None:
    """The next attempt goes on after the last step that was kept."""

    @handlers.handler("k", transaction=transaction)
    def work(job: Job, *conn: Connection) -> None:
        def end() -> None:
            ran.append("second")
            if job.attempt == 1:
                queue.conn.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
                    "AND datname = current_database() AND application_name ~ 'inside|handler'"
                )

        job.step("first", lambda: ran.append("first"))
        job.step("second", end)

    queue.enqueue("k")
    with psycopg.connect(queue.conn.info.dsn, autocommit=True):
        for _ in range(3):
            ripen(queue.conn)
            drain(loop)
    assert ran[0] == "first"
    assert ran.count("first") == 1
    assert one(queue.conn, "SELECT count(*) FROM pgq_jobs") == 0
