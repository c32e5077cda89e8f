"""Steps: what ran once is not run again, whatever becomes of the attempt."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from typing import Any, cast

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from support.database import Connect, Connection, one
from support.workers import drain

import pgq
from pgq import Handlers, Job, Worker, WorkerQueue
from pgq.worker.inside import Inside
from pgq.worker.loop import Loop
from pgq.worker.transactions import Ahead

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


def errors(conn: Connection) -> str:
    """Return the newest error of the only job, with its traceback."""
    return str(row(conn)["errors"][0]["error"])


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
        "long name": (lambda job: job.step("ü" * 101, int), "ValueError: the name of a step is text of 1 to 200 bytes"),
        "number": (
            lambda job: job.step(cast("Any", 7), int),
            "ValueError: the name of a step is text of 1 to 200 bytes, not 7",
        ),
        "save": (lambda job: job.step("a", job.save, 1), 'step "a" still runs: return the value, which is kept'),
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


def test_a_step_is_named_whatever_a_hook_raises(
    queue: WorkerQueue, loop: Loop, handlers: Handlers, transaction: bool
) -> None:
    """Such as an exception that is made of more than a message."""

    class Invalid(ValueError):
        def __init__(self, value: Any, why: str) -> None:
            super().__init__(why)

    @handlers.json_default
    def refuse(value: Any) -> Any:
        raise Invalid(value, "no such thing")

    @handlers.handler("k", transaction=transaction)
    def work(job: Job, *conn: Connection) -> None:
        job.step("a", object)

    queue.enqueue("k")
    drain(loop)
    assert errors(queue.conn).startswith('ValueError: the result of step "a" is not JSON: no such thing')


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


def test_a_job_whose_handler_has_returned_has_no_steps(
    queue: WorkerQueue, loop: Loop, handlers: Handlers, transaction: bool, ran: list[Any]
) -> None:
    """The worker runs another job then, or none."""

    @handlers.handler("k", transaction=transaction)
    def work(job: Job, *conn: Connection) -> None:
        if ran:
            ran[0].step("a", int)
        ran.append(job)

    queue.enqueue_many({"kind": "k", "dedup": False} for _ in range(2))
    drain(loop)
    with pytest.raises(RuntimeError, match="only while its handler runs in a worker"):
        ran[0].step("b", int)
    assert "a job has steps only while its handler runs in a worker" in errors(queue.conn)


IN_BLOCKS: dict[str, Callable[[Job], Any]] = {
    "step": lambda job: job.step("a", int),
    "save": lambda job: job.save(1),
    "enqueue": lambda job: job.enqueue("child"),
    "sleep": lambda job: job.sleep(HOUR),
    "wait_for": lambda job: job.wait_for([]),
    "wait_signal": lambda job: job.wait_signal("go"),
}


@pytest.mark.parametrize("call", IN_BLOCKS)
def test_a_step_commits_so_no_block_may_be_open(
    queue: WorkerQueue, loop: Loop, handlers: Handlers, ran: list[Any], call: str
) -> None:
    """The function of a step is not called, either."""

    @handlers.handler("k", transaction=True)
    def work(job: Job, conn: Connection) -> None:
        with conn.transaction():
            job.step("b", ran.append, 1) if call == "step" else IN_BLOCKS[call](job)

    queue.enqueue("k")
    drain(loop)
    assert "a step commits the transaction: call it outside of conn.transaction()" in errors(queue.conn)
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
    assert "TransactionEnded" in errors(queue.conn)
    assert row(queue.conn)["saved"] is None


@pytest.mark.parametrize("result", ["x" * 20_000, [[]] * 100, "\u00fc\u65e5", "it's"])
def test_a_step_keeps_results_that_are_long_or_need_care(
    queue: WorkerQueue, loop: Loop, handlers: Handlers, transaction: bool, ran: list[Any], result: Any
) -> None:
    """Some are sent as a literal together with the COMMIT, others as a parameter before it."""

    @handlers.handler("k", transaction=transaction)
    def work(job: Job, *conn: Connection) -> None:
        kept = job.step("a", lambda: result if job.attempt == 1 else "again")
        if job.attempt == 1:
            raise pgq.Retry(timedelta())
        ran.append(kept)

    queue.enqueue("k")
    drain(loop)
    assert ran == [result]


@pytest.mark.parametrize("result", ["x" * 20_000, "short"])
def test_a_step_is_not_kept_in_a_transaction_that_the_handler_has_begun(
    queue: WorkerQueue, loop: Loop, handlers: Handlers, result: str
) -> None:
    """What was written before is not in it."""

    @handlers.handler("k", transaction=True)
    def work(job: Job, conn: Connection) -> None:
        def end() -> str:
            conn.execute("ROLLBACK; BEGIN")
            return result

        job.step("a", end)

    queue.enqueue("k")
    drain(loop)
    assert "TransactionEnded" in errors(queue.conn)
    assert row(queue.conn)["saved"] is None


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


@pytest.mark.parametrize("saved", [{"page": 7}, {"steps": 7}, {"steps": {}, "page": 7}, "steps"])
def test_what_another_client_has_saved_is_the_state(
    queue: WorkerQueue, loop: Loop, handlers: Handlers, ran: list[Any], saved: Any
) -> None:
    """Whatever it looks like, unless it is what steps save."""

    @handlers.handler("k")
    def work(job: Job) -> None:
        ran.append(job.state)
        job.step("a", int)
        ran.append(job.state)

    queue.enqueue("k")
    (job,) = queue.claim()
    queue.save(job, saved)
    queue.release(job)
    drain(loop)
    assert ran == [saved, saved]


def test_progress_within_a_step_is_written_with_it(queue: WorkerQueue, loop: Loop, handlers: Handlers) -> None:
    """And in a handler with a transaction with the next step, because it commits."""
    conn = queue.conn
    seen: list[Any] = []

    def inside(job: Job) -> None:
        job.progress(0.4)
        seen.append(row(conn)["saved"])

    @handlers.handler("plain")
    def plain(job: Job) -> None:
        job.step("a", inside, job)
        seen.append(row(conn)["saved"]["progress"]["done"])

    @handlers.handler("transaction", transaction=True)
    def transactional(job: Job, _: Connection) -> None:
        inside(job)

    for kind in ("plain", "transaction"):
        queue.enqueue(kind)
        drain(loop)
    assert seen == [None, 0.4, None]


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


WAITS: dict[str, Callable[[Job], Any]] = {
    "sleep": lambda job: job.sleep(HOUR),
    "wait_for": lambda job: job.wait_for([job.id]),
    "wait_signal": lambda job: job.wait_signal("go", HOUR),
}


@pytest.mark.parametrize("wait", WAITS)
def test_what_was_written_before_a_wait_is_committed(
    queue: WorkerQueue, loop: Loop, handlers: Handlers, wait: str
) -> None:
    queue.conn.execute("CREATE TABLE effect (what text)")

    @handlers.handler("k", transaction=True)
    def work(job: Job, conn: Connection) -> None:
        conn.execute("INSERT INTO effect VALUES ('before')")
        WAITS[wait](job)

    queue.enqueue("k")
    assert loop.turn() == 1
    loop.turn()
    assert row(queue.conn)["state"] == "waiting"
    assert one(queue.conn, "SELECT count(*) FROM effect") == 1


@pytest.fixture
def three_hours_ahead(conn: Connection) -> None:
    """Set the clock of the database three hours ahead of that of the worker."""
    conn.execute(
        "CREATE OR REPLACE FUNCTION pgq_now() RETURNS timestamptz LANGUAGE sql VOLATILE "
        "RETURN clock_timestamp() + interval '3 hours'"
    )


@pytest.mark.usefixtures("three_hours_ahead")
def test_a_job_sleeps_by_the_clock_of_the_database(
    queue: WorkerQueue, loop: Loop, handlers: Handlers, transaction: bool
) -> None:
    """Where the worker's clock is behind, it does not go on at once, and where it is ahead, not too late."""

    @handlers.handler("k", transaction=transaction)
    def work(job: Job, *conn: Connection) -> None:
        job.sleep(HOUR)

    queue.enqueue("k")
    drain(loop)
    until = "(saved -> 'steps' ->> 'sleep 1')::timestamptz"
    assert one(queue.conn, f"SELECT {until} FROM pgq_saved") == one(queue.conn, "SELECT ripe_at FROM pgq_waiting")
    late = one(queue.conn, f"SELECT {until} - interval '1 hour' - pgq_now() FROM pgq_saved")
    assert abs(late) < timedelta(minutes=1)


@pytest.mark.usefixtures("three_hours_ahead")
def test_a_job_waits_for_others_by_the_clock_of_the_database(
    queue: WorkerQueue, loop: Loop, handlers: Handlers, transaction: bool
) -> None:
    """It is put off for a tenth of the time for which it has waited."""

    @handlers.handler("k", transaction=transaction)
    def work(job: Job, *conn: Connection) -> None:
        job.wait_for([job.id])

    queue.enqueue("k")
    assert loop.turn() == 1
    loop.turn()
    assert one(queue.conn, "SELECT ripe_at - pgq_now() FROM pgq_waiting") <= timedelta(seconds=1)
    queue.conn.execute(
        "UPDATE pgq_saved SET saved = jsonb_set(saved, '{steps,wait for 1}', to_jsonb(pgq_now() - interval '300 s'))"
    )
    ripen(queue.conn)
    loop.turn()
    loop.turn()
    put_off = one(queue.conn, "SELECT ripe_at - pgq_now() FROM pgq_waiting")
    assert timedelta(seconds=5) < put_off < timedelta(seconds=45)


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


def test_a_step_of_a_plain_handler_is_one_statement(
    queue: WorkerQueue, loop: Loop, handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what is enqueued and its record need a transaction around them."""
    sent: list[str] = []
    send = Inside.send

    def note(session: Inside, *statements: str) -> tuple[str, ...]:
        sent.extend(statement.partition("(")[0] for statement in statements)
        return send(session, *statements)

    @handlers.handler("k")
    def work(job: Job) -> None:
        job.step("a", int)
        job.save(1)
        job.progress(0.5)
        job.wait_for([])
        assert sent == 3 * ["SELECT pgq_save"]
        sent.clear()
        job.enqueue("child", queue="other")
        assert sent == ["BEGIN", "SELECT pgq_save", "COMMIT"]
        sent.clear()
        job.wait_signal("go", HOUR)

    monkeypatch.setattr(Inside, "send", note)
    queue.enqueue("k")
    drain(loop)
    assert sent == ["SELECT pgq_save"]
    assert one(queue.conn, "SELECT waits_for_signal FROM pgq_jobs WHERE kind = 'k'") == "go"


def test_a_step_that_fails_leaves_the_session_to_the_next(
    queue: WorkerQueue, loop: Loop, handlers: Handlers, ran: list[Any]
) -> None:
    """A child that cannot be enqueued leaves no transaction open."""

    @handlers.handler("k")
    def work(job: Job) -> None:
        with pytest.raises(psycopg.DataError, match="priority"):
            job.enqueue("child", priority=-1)
        ran.append(job.step("a", lambda: 1))

    @handlers.handler("next", transaction=True)
    def following(job: Job, conn: Connection) -> None:
        ran.append(job.step("a", lambda: 2))

    queue.enqueue("k", priority=0)
    queue.enqueue("next")
    drain(loop)
    assert ran == [1, 2]
    assert one(queue.conn, "SELECT count(*) FROM pgq_jobs") == 0


def test_a_step_that_is_interrupted_costs_its_connection_only(
    queue: WorkerQueue, loop: Loop, handlers: Handlers, connect: Connect, ran: list[Any]
) -> None:
    """Its statement waits for a lock when the time of the handler is over."""

    @handlers.handler("k", timeout=0.3)
    def work(job: Job) -> None:
        locking.execute("SELECT FROM pgq_running FOR UPDATE")
        job.step("a", int)

    @handlers.handler("next")
    def following(job: Job) -> None:
        ran.append(job.step("a", lambda: 2))

    locking = connect(autocommit=False)
    queue.enqueue("k")
    loop.turn()
    locking.rollback()
    queue.enqueue("next", priority=0)
    drain(loop)
    assert ran == [2]


def test_a_step_that_leaves_its_connection_busy_costs_it(
    queue: WorkerQueue, loop: Loop, handlers: Handlers, monkeypatch: pytest.MonkeyPatch, ran: list[Any]
) -> None:
    """An exception that another thread raises in the handler may strike before psycopg waits for the result."""

    def strike(queue: WorkerQueue, *_: Any) -> None:
        queue.conn.pgconn.send_query(b"SELECT pg_sleep(60)")
        raise KeyboardInterrupt

    @handlers.handler("k")
    def work(job: Job) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(WorkerQueue, "saving", strike)
            with pytest.raises(KeyboardInterrupt):
                job.step("a", int)
        ran.append(job.step("b", lambda: 2))

    queue.enqueue("k")
    drain(loop)
    assert ran == [2]


def test_a_plain_step_lets_go_of_a_job_that_is_held_ahead(
    queue: WorkerQueue, loop: Loop, handlers: Handlers, ran: list[Any]
) -> None:
    """Otherwise its record would be in the transaction that holds the other job, and end with that."""

    @handlers.handler("k")
    def work(job: Job) -> None:
        # The ticker has just released the job that the session holds.
        (held,) = queue.claim(["others"])
        session = loop.executor.session
        transaction = session.send("BEGIN", session.queue().holding(held))[0]
        loop.executor.transactions._ahead = Ahead(held.id, held.token, transaction)
        job.step("a", int)
        ran.append(one(queue.conn, "SELECT saved FROM pgq_saved"))

    queue.enqueue("t", queue="others")
    queue.enqueue("k")
    drain(loop)
    assert ran == [{"steps": {"a": 0}}]


def test_only_a_producer_enqueues_children(queue: WorkerQueue, handlers: Handlers, dsn: str, transaction: bool) -> None:
    """A worker that is no producer in the queue of the child records no step."""
    conn = queue.conn
    conn.execute("DROP ROLE IF EXISTS limited")
    conn.execute("CREATE ROLE limited LOGIN")
    conn.execute("SELECT pgq_grant('limited', 'worker', '{default}')")

    @handlers.handler("k", transaction=transaction)
    def work(job: Job, *own: Connection) -> None:
        job.step("before", int)
        job.enqueue("child", queue="mine")

    queue.enqueue("k")
    with closing(Worker(make_conninfo(dsn, user="limited"), handlers)) as worker:
        drain(worker.loops[0])
        assert "InsufficientPrivilege" in errors(conn)
        assert row(conn)["saved"] == {"steps": {"before": 0}}
        conn.execute("SELECT pgq_grant('limited', 'producer', '{mine}')")
        ripen(conn)
        drain(worker.loops[0])
    assert conn.execute("SELECT kind, queue FROM pgq_jobs").fetchall() == [("child", "mine")]
