"""Handlers: registration, calls, and the hook around each execution."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import psycopg
import pytest
from support.database import Connection, jobs, one
from support.modes import MODES, register
from support.workers import drain

import pgq
from pgq import Handlers, Job, Queue
from pgq.views import Views
from pgq.worker.loop import Loop


def test_arguments_are_bound_by_keyword(queue: Queue, loop: Loop, handlers: Handlers) -> None:
    """A handler with a keyword-only job gets args as keywords, and the connection if it asks for one."""
    seen: list[Any] = []

    @handlers.handler("plain")
    def plain(to: str, subject: str = "none", *, job: Job) -> None:
        seen.append((to, subject, job.attempt))

    @handlers.handler("inside", transaction=True)
    def inside(to: str, *, subject: str, job: Job, conn: Connection) -> None:
        seen.append((to, subject, one(conn, "SELECT pg_current_xact_id_if_assigned() IS NOT NULL")))

    @handlers.handler("batch", transaction=True, batch=5)
    def batch(to: str, *, job: Job, conn: Connection) -> None:
        seen.append((to, conn.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS))

    @handlers.handler("no connection", transaction=True)
    def without(*, job: Job) -> None:
        seen.append(job.args)

    @handlers.handler("any")
    def anything(*, job: Job, **rest: Any) -> None:
        seen.append(rest)

    queue.enqueue("plain", {"to": "ann"})
    queue.enqueue("plain", {"to": "bob", "subject": "tea"})
    queue.enqueue("inside", {"to": "cleo", "subject": "tea"})
    queue.enqueue("batch", {"to": "dan"})
    queue.enqueue("no connection")
    queue.enqueue("any", {"a b": 1, "class": 2})
    drain(loop)
    assert seen == [
        ("ann", "none", 1),
        ("bob", "tea", 1),
        ("cleo", "tea", True),
        ("dan", True),
        {},
        {"a b": 1, "class": 2},
    ]
    assert jobs(queue.conn) == []


def test_a_mismatch_of_arguments_is_a_failure_that_names_them(
    queue: Queue, loop: Loop, handlers: Handlers, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the log nor the job's error shows a value."""
    begun: list[str] = []

    def send(to: str, subject: str, *, job: Job) -> None:
        begun.append(to)

    handlers.handler("k", retry_on=OSError)(send)
    handlers.handler("inside", transaction=True)(send)

    @handlers.handler("any")
    def anything(*, job: Job, **rest: Any) -> None:
        begun.append(job.kind)

    given = {
        "(missing: to)": {"subject": "s3cret"},
        "(unknown: cc)": {"to": "s3cret", "subject": "s3cret", "cc": "s3cret"},
        "(unknown: a, b; missing: subject, to)": {"b": "s3cret", "a": "s3cret"},
        "(unknown: job)": {"to": "s3cret", "subject": "s3cret", "job": "s3cret"},
        "are not an object": ["s3cret", "s3cret"],
    }
    expected = {
        queue.enqueue(kind, args, backoff="1 hour").id: text for kind in ("k", "inside") for text, args in given.items()
    }
    expected[queue.enqueue("any", {"conn": "s3cret"}).id] = "(unknown: conn)"
    with caplog.at_level(logging.DEBUG, "pgq"):
        drain(loop)
    assert begun == []
    for job_id, text in expected.items():
        job = Views(queue.conn).job(job_id)
        assert job["errors"][0]["error"].startswith("pgq.ArgumentsMismatch: the arguments of job ")
        assert text in job["errors"][0]["error"]
        assert "s3cret" not in job["errors"][0]["error"]
        # As after any exception, retry_on decides whether the job is retried.
        assert (job["state"], job["attempt"]) == ("dead" if job["kind"] == "k" else "waiting", 1)
    assert "after ArgumentsMismatch" in caplog.text
    assert "s3cret" not in caplog.text


def keyword(to: str, *, job: Job) -> None: ...
def wants_connection(to: str, *, job: Job, conn: Connection) -> None: ...
def positional(to: str, /, *, job: Job) -> None: ...
def nothing() -> None: ...
def two(job: Job, other: str) -> None: ...
async def later(job: Job) -> None: ...
def yields(job: Job) -> Any:
    yield


@pytest.mark.parametrize(
    ("function", "options", "error", "message"),
    [
        (nothing, {}, TypeError, r"called as f\(job\)"),
        (two, {}, TypeError, r"called as f\(job\)"),
        (nothing, {"transaction": True}, TypeError, r"called as f\(job, conn\)"),
        (nothing, {"batch": 2}, TypeError, r"called as f\(jobs\)"),
        (keyword, {"batch": 2}, TypeError, r"called as f\(jobs\)"),
        (wants_connection, {}, TypeError, "transaction=True"),
        (positional, {}, TypeError, "positional-only"),
        (later, {"transaction": True, "batch": 2}, ValueError, "takes no batch"),
        (yields, {}, TypeError, "generator"),
        (two, {"transaction": True, "batch": 2, "timeout": 1}, ValueError, "no timeout"),
        (print, {"batch": 0}, ValueError, "batch of 0"),
        (print, {"timeout": 0}, ValueError, "timeout of 0"),
        (print, {"timeout": timedelta(seconds=-1)}, ValueError, "timeout of -1"),
        (print, {"retry_on": "OSError"}, TypeError, "retry_on"),
        (print, {"retry_on": [OSError]}, TypeError, "retry_on"),
        (print, {"cancel_on": (OSError, OSError())}, TypeError, "cancel_on"),
    ],
)  # fmt: skip
def test_an_unusable_handler_or_option_is_refused_at_registration(
    function: Callable[..., Any], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """The mistake is found at once, not when the first job comes."""
    handlers = Handlers()
    with pytest.raises(error, match=message):
        handlers.handler("k", **options)(function)
    assert handlers.kinds == []


def test_the_decorator_needs_a_kind() -> None:
    """Without parentheses it would silently register nothing."""
    with pytest.raises(TypeError, match="kind"):
        Handlers().handler(keyword)  # type: ignore[arg-type]


def test_any_callable_can_be_a_handler(queue: Queue, loop: Loop, handlers: Handlers) -> None:
    """It may be a method, an object, a partial function, or a function without a signature."""
    seen: list[Any] = []

    class Service:
        def __call__(self, job: Job) -> None:
            seen.append(job.kind)

        def method(self, to: str, *, job: Job) -> None:
            seen.append((job.kind, to))

    handlers.handler("object")(Service())
    handlers.handler("method")(Service().method)
    handlers.handler("partial")(partial(lambda prefix, job: seen.append((job.kind, prefix)), "pre"))
    handlers.handler("built in")(seen.append)
    for kind in ("object", "method", "partial", "built in"):
        queue.enqueue(kind, {"to": "ann"})
    drain(loop)
    assert seen[:3] == ["object", ("method", "ann"), ("partial", "pre")]
    assert seen[3].kind == "built in"


def test_the_hook_runs_around_each_execution(queue: Queue, loop: Loop, handlers: Handlers) -> None:
    """It runs once for a job or for the list of a batch handler, inside the transaction, and sees errors."""
    seen: list[Any] = []

    @handlers.around
    def hook(job: Job | list[Job], proceed: Callable[[], Any]) -> Any:
        many = isinstance(job, list)
        seen.append(("begin", [one.kind for one in job] if isinstance(job, list) else job.kind))
        try:
            returned = proceed()
        except ZeroDivisionError:
            seen.append("error")
            raise
        seen.append("end")
        return returned if many or returned is None else returned + 1

    handlers.handler("plain")(lambda job: 1)
    handlers.handler("inside", transaction=True)(lambda job, conn: 2)
    handlers.handler("list", batch=2)(lambda jobs: None)
    handlers.handler("each", batch=2, transaction=True)(lambda job, conn: None)
    handlers.handler("bad")(lambda job: 1 // 0)
    for kind in ("plain", "inside", "list", "each", "bad"):
        queue.enqueue_many(
            {"kind": kind, "args": n, "max_retries": 0} for n in range(2 if kind in {"list", "each"} else 1)
        )
    drain(loop)
    assert seen == [
        ("begin", "plain"), "end",
        ("begin", "inside"), "end",
        ("begin", ["list", "list"]), "end",
        ("begin", "each"), "end",
        ("begin", "each"), "end",
        ("begin", "bad"), "error",
    ]  # fmt: skip
    results = queue.conn.execute("SELECT kind, result::text FROM pgq_ended ORDER BY id").fetchall()
    assert results == [("plain", "2"), ("inside", "3"), ("bad", None)]


def test_an_exception_of_the_hook_fails_the_job(queue: Queue, loop: Loop, handlers: Handlers) -> None:
    """This holds in each mode; a second hook is refused."""

    @handlers.around
    def hook(job: Job | list[Job], proceed: Callable[[], Any]) -> Any:
        raise LookupError("no locale")

    for mode in MODES:
        register(handlers, mode, mode, lambda *_: None)
        queue.enqueue(mode)
    drain(loop)
    assert [(state, attempt) for _, state, attempt in jobs(queue.conn)] == [("waiting", 1)] * len(MODES)
    with pytest.raises(ValueError, match="hook already"):
        handlers.around(hook)


def test_options_of_a_handler_are_defaults_for_enqueue(conn: Connection, handlers: Handlers) -> None:
    """Explicit arguments of enqueue and enqueue_many override them."""
    handlers.handler("k", queue="mine", max_retries=3, backoff=timedelta(seconds=7))(lambda job: None)
    queue = Queue(conn, handlers=handlers)
    queue.enqueue("k", 1)
    queue.enqueue("k", 2, queue="yours", max_retries=0, backoff="8 seconds")
    queue.enqueue_many([{"kind": "k", "args": 3}, {"kind": "k", "args": 4, "queue": "yours", "max_retries": None}])
    queue.enqueue("another", 5)
    Queue(conn).enqueue("k", 6)
    rows = conn.execute("SELECT args, queue, max_retries, backoff FROM pgq_jobs ORDER BY id").fetchall()
    common = one(conn, "SELECT max_retries FROM pgq_jobs WHERE kind = 'another'")
    minute = one(conn, "SELECT backoff FROM pgq_jobs WHERE kind = 'another'")
    seven, eight = timedelta(seconds=7), timedelta(seconds=8)
    assert common != 3
    assert rows == [
        (1, "mine", 3, seven),
        (2, "yours", 0, eight),
        (3, "mine", 3, seven),
        (4, "yours", 3, seven),
        (5, "default", common, minute),
        (6, "default", common, minute),
    ]
    assert pgq.handlers.default.kinds == []


def test_a_handler_can_extend_and_complete_its_job_itself(
    dsn: str, queue: Queue, loop: Loop, handlers: Handlers
) -> None:
    """
    A job that the handler completes in a transaction of its own is done at the commit, with its result. After a
    rollback or an exception it is not.
    """
    conn = queue.conn
    conn.execute("CREATE TABLE effect (what text)")
    until: list[Any] = []

    @handlers.handler("k")
    def work(job: Job) -> str:
        until.append((job.lease_until, job.extend(timedelta(hours=1)), job.extend()))
        with psycopg.connect(dsn) as own:
            own.execute("INSERT INTO effect VALUES (%s)", [job.args])
            job.complete(own, {"by": "hand"})
            assert one(conn, "SELECT count(*) FROM pgq_jobs WHERE id = %s AND state = 'running'", job.id) == 1
            if job.args == "rolled back":
                own.rollback()
            if job.args == "failed":
                raise ValueError("after all")
        return "is not kept"

    handlers.handler("inside", transaction=True)(lambda job, conn: job.complete(conn))
    for what in ("done", "rolled back", "failed"):
        queue.enqueue("k", what)
    queue.enqueue("inside", "refused")
    drain(loop)
    assert conn.execute("SELECT what FROM effect").fetchall() == [("done",)]
    rows = conn.execute("SELECT args, state, attempt, errors -> 0 ->> 'error' FROM pgq_jobs ORDER BY id").fetchall()
    assert [row[:3] for row in rows] == [
        ("done", "done", 1),
        ("rolled back", "running", 1),
        ("failed", "waiting", 1),
        ("refused", "waiting", 1),
    ]
    assert "ValueError: after all" in rows[2][3]
    assert "RuntimeError: a handler with transaction=True" in rows[3][3]
    assert one(conn, "SELECT result FROM pgq_ended") == {"by": "hand"}
    for claimed, longer, same in until:
        assert timedelta(minutes=50) < longer - claimed < timedelta(hours=1)
        assert same == longer
