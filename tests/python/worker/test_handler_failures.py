"""A mistake of a handler fails its own job: no other job, and never the worker."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

import psycopg
import pytest
from support.database import Connection, jobs, one
from support.modes import all_of, states, try_all
from support.servers import Place
from support.workers import drain

from pgq import Handlers, Job, LeaseLost, Queue, Worker, WorkerQueue
from pgq.job import ClaimedJob
from pgq.schema.install import install
from pgq.views import Views
from pgq.worker.loop import Loop
from pgq.worker.settle import SHORT


class Mute(Exception):
    """An exception whose text cannot be read."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def error_of(conn: Connection, job_id: int) -> str:
    """Return the newest error of a job."""
    return str(Views(conn).job(job_id)["errors"][0]["error"])


def test_an_unknown_kind_or_unreadable_payload_stops_only_its_job(queue: Queue, loop: Loop, handlers: Handlers) -> None:
    """The neighbours in the batch are done."""
    done: list[str] = []
    handlers.handler("k")(lambda job: done.append(job.args))
    handlers.handler("deep")(lambda job: done.append("must not run"))
    queue.enqueue("k", "first")
    unknown = queue.enqueue("unheard of")
    deep = one(queue.conn, "SELECT id FROM pgq_enqueue('deep', '1e131071')")
    queue.enqueue("k", "last")
    drain(loop)
    assert done == ["first", "last"]
    assert jobs(queue.conn) == [(unknown.id, "waiting", 0), (deep, "waiting", 1)]
    assert "unheard of" in error_of(queue.conn, unknown.id)
    assert "PayloadError" in error_of(queue.conn, deep)


def clear(job: Job) -> None:
    """Leave the job without any attribute."""
    for name in (*ClaimedJob.__slots__[1:], *Job.__slots__):
        with suppress(AttributeError):  # some are set when they are first asked for
            delattr(job, name)


DAMAGES: dict[str, Callable[[Job], Any]] = {
    "clear": clear,
    "another id": lambda job: setattr(job, "id", job.id + 1),
    "no id": lambda job: setattr(job, "id", None),
    "no claim": lambda job: delattr(job, "_claim"),
    "another claim": lambda job: setattr(job, "_claim", "x"),
    "another place in its claim": lambda job: setattr(job, "_index", job._index + 1),
    "no kind": lambda job: delattr(job, "kind"),
    "not completed": lambda job: delattr(job, "_completed"),
}


@pytest.mark.happens("damages its job object")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_handler_that_damages_its_job_object_does_not_change_what_becomes_of_the_job(
    queue: Queue, loop: Loop, handlers: Handlers, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    """It is done or has failed, as the handler ends, and so are the jobs after it."""
    caplog.set_level("DEBUG")
    hurt = DAMAGES[damage]

    def fail(job: Job, *_: Any) -> NoReturn:
        hurt(job)
        raise ValueError

    handlers.handler("plain")(hurt)
    handlers.handler("inside", transaction=True)(lambda job, conn: hurt(job))
    handlers.handler("listed", batch=3)(lambda jobs: [hurt(job) for job in jobs] and jobs.clear())
    handlers.handler("failed")(fail)
    handlers.handler("failed inside", transaction=True)(fail)
    handlers.handler("good")(lambda job: None)
    ids = [
        queue.enqueue(kind, number).id for number, kind in enumerate(("plain", "inside", "listed", "listed", "listed"))
    ]
    failed = [queue.enqueue(kind).id for kind in ("failed", "failed inside")]
    queue.enqueue("good")
    drain(loop)
    assert jobs(queue.conn) == [(job_id, "waiting", 1) for job_id in failed]
    for job_id in (*ids, *failed):
        assert f"job {job_id} " in caplog.text


@pytest.mark.happens("raises anything")
@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (GeneratorExit(), "GeneratorExit"),
        (ValueError("x" * 10_000_000), "ValueError: xxxx"),
        (ValueError("a\0b\ud800c"), "ValueError: ab\\ud800c"),
        (Mute(), "test_handler_failures.Mute: "),
    ],
    ids=["SystemExit", "KeyboardInterrupt", "GeneratorExit", "10 MB", "NUL and surrogate", "no text"],
)
def test_any_exception_of_a_handler_fails_its_job(
    queue: Queue, loop: Loop, handlers: Handlers, error: BaseException, kept: str, transaction: bool
) -> None:
    """The worker stores a text that PostgreSQL accepts, and goes on to the next job."""

    def fail(*_: Any) -> NoReturn:
        raise error

    done: list[Job] = []
    handlers.handler("bad", transaction=transaction)(fail)
    handlers.handler("good")(done.append)
    bad, _ = queue.enqueue_many([{"kind": "bad"}, {"kind": "good"}])
    drain(loop)
    assert len(done) == 1
    assert jobs(queue.conn) == [(bad.id, "waiting", 1)]
    text = error_of(queue.conn, bad.id)
    assert text.startswith(kept)
    assert "Traceback" in text
    assert len(text) <= 4000


def recurse(job: Job, *rest: Any) -> Any:
    """Recurse without end."""
    return recurse(job, *rest)


@pytest.mark.happens("raises anything")
def test_an_exception_of_python_itself_fails_the_job(queue: WorkerQueue, loop: Loop, handlers: Handlers) -> None:
    """This holds in each mode; the error begins with the name of the exception."""
    cases = {
        "RecursionError": recurse,
        "MemoryError": lambda *_: bytearray(1 << 62),
        "SystemExit": lambda *_: sys.exit("enough"),
    }
    found = try_all(queue, loop, handlers, cases)
    assert states(found) == all_of(cases, ("waiting", 1))
    for kind, job in found.items():
        assert job["errors"][0]["error"].startswith(kind.split(": ")[1])


class Caller:
    """An object that is called as an async function is."""

    async def __call__(self, *_: Any) -> None:
        raise AssertionError("nothing of it runs")


def decorated(*arguments: Any) -> Any:
    """Return what the function under an ordinary decorator returns."""
    return Caller()(*arguments)


def test_a_plain_handler_that_returns_a_coroutine_has_failed(queue: Queue, loop: Loop, handlers: Handlers) -> None:
    """It is the work of an async function, of which nothing has run."""
    cases: dict[str, Callable[..., Any]] = {"decorated": decorated, "object": Caller()}
    found = try_all(queue, loop, handlers, cases, retry_on=OSError)
    assert states(found) == all_of(cases, ("waiting", 1))
    for job in found.values():
        assert job["errors"][0]["error"].startswith("TypeError: the handler has returned a coroutine")


@pytest.mark.happens("ends its transaction")
@pytest.mark.parametrize("result", [None, "x" * SHORT], ids=["none", "long"])
@pytest.mark.parametrize("statement", ["COMMIT", "ROLLBACK", "COMMIT; BEGIN", "ROLLBACK; BEGIN"])
def test_a_handler_that_ends_its_transaction_fails(
    queue: Queue, loop: Loop, handlers: Handlers, statement: str, result: str | None
) -> None:
    """Its writes and the completion would not be atomic. A long result is recorded before the COMMIT is sent."""
    handlers.handler("k", transaction=True)(lambda _, conn: conn.execute(statement) and result)
    enqueued = queue.enqueue("k")
    drain(loop)
    assert jobs(queue.conn) == [(enqueued.id, "waiting", 1)]
    assert "TransactionEnded" in error_of(queue.conn, enqueued.id)


@pytest.mark.happens("ends its transaction")
@pytest.mark.parametrize("method", ["commit", "rollback"])
def test_a_handler_cannot_commit_through_its_connection(
    queue: Queue, loop: Loop, handlers: Handlers, method: str
) -> None:
    """psycopg refuses it, and the job fails."""
    handlers.handler("k", transaction=True)(lambda _, conn: getattr(conn, method)())
    enqueued = queue.enqueue("k")
    drain(loop)
    assert jobs(queue.conn) == [(enqueued.id, "waiting", 1)]


def test_a_transactional_handler_that_raises_leaves_no_write(queue: Queue, loop: Loop, handlers: Handlers) -> None:
    """The job is retried, with the error kept."""
    queue.conn.execute("CREATE TABLE effect (job bigint)")

    @handlers.handler("k", transaction=True)
    def write(job: Job, inside: Connection) -> NoReturn:
        inside.execute("INSERT INTO effect VALUES (%s)", [job.id])
        raise ValueError("no such address")

    enqueued = queue.enqueue("k")
    drain(loop)
    assert one(queue.conn, "SELECT count(*) FROM effect") == 0
    assert jobs(queue.conn) == [(enqueued.id, "waiting", 1)]
    assert error_of(queue.conn, enqueued.id).startswith("ValueError: no such address")


@pytest.mark.parametrize("of_a_block", [False, True])
def test_a_handler_that_raises_rollback_fails(queue: Queue, loop: Loop, handlers: Handlers, of_a_block: bool) -> None:
    """psycopg.Rollback ends its transaction without an error, but the job is not done; one of a block is an error."""

    @handlers.handler("k", transaction=True)
    def work(job: Job, conn: Connection) -> NoReturn:
        with conn.transaction() as block:
            pass
        raise psycopg.Rollback(block if of_a_block else None)

    enqueued = queue.enqueue("k")
    drain(loop)
    assert jobs(queue.conn) == [(enqueued.id, "waiting", 1)]
    assert ("TransactionEnded" in error_of(queue.conn, enqueued.id)) is not of_a_block


@pytest.mark.parametrize("transaction", [False, True])
def test_lease_lost_for_another_job_fails_this_one(
    queue: Queue, loop: Loop, handlers: Handlers, transaction: bool
) -> None:
    """Only the worker's own calls decide whether its job is lost."""

    @handlers.handler("k", transaction=transaction)
    def work(job: Job, *_: object) -> NoReturn:
        raise LeaseLost("of some other job")

    enqueued = queue.enqueue("k")
    drain(loop)
    assert jobs(queue.conn) == [(enqueued.id, "waiting", 1)]
    assert "some other job" in error_of(queue.conn, enqueued.id)


@pytest.mark.happens("forks, and the child returns")
@pytest.mark.parametrize("ending", ["return", "sys.exit"])
def test_a_child_that_a_handler_forks_does_not_become_a_worker(
    queue: Queue, loop: Loop, handlers: Handlers, ending: str
) -> None:
    """It exits when the handler returns in it; the parent goes on."""
    children: list[int] = []

    @handlers.handler("k")
    def work(job: Job) -> None:
        child = os.fork()
        if child == 0 and ending == "sys.exit":
            sys.exit(0)
        children.append(child)

    queue.enqueue("k")
    drain(loop)
    (child,) = children
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert jobs(queue.conn) == []


def refused(conn: Connection) -> None:
    """Make a call to pgq that fails."""
    Queue(conn).retry(404)


def grouped(conn: Connection) -> None:
    """Raise a group with an error that has a cause."""
    try:
        try:
            raise KeyError("inner")
        except KeyError as cause:
            raise ValueError("outer") from cause
    except ValueError as error:
        raise ExceptionGroup("several", [error]) from None


@pytest.mark.parametrize("form", ["plain", "transaction", "batch", "around"])
@pytest.mark.parametrize(
    ("work", "block", "shown"),
    [(lambda _: 1 / 0, -1, ["handle", "<lambda>"]), (refused, -1, ["handle", "refused", "retry"]),
     (grouped, 1, ["handle", "grouped"])],
    ids=["error", "refusal", "group"],
)  # fmt: skip
def test_a_stored_traceback_begins_with_the_handler(
    queue: Queue,
    loop: Loop,
    handlers: Handlers,
    form: str,
    work: Callable[[Connection], object],
    block: int,
    shown: list[str],
) -> None:
    """The frames of the worker are left out, of causes and groups, too; a call of the handler to pgq stays."""

    def handle(*_: object) -> None:
        work(queue.conn)

    if form == "around":

        @handlers.around
        def pass_on(_: object, proceed: Callable[[], object]) -> object:
            return proceed()

    handlers.handler("k", transaction=form == "transaction", batch=10 if form == "batch" else None)(handle)
    enqueued = queue.enqueue("k", max_retries=0)
    drain(loop)
    text = error_of(queue.conn, enqueued.id)
    frames = re.findall(r'File ".*", line \d+, in (\S+)', text.split("raceback (most recent call last):")[block])
    if form == "around":
        assert frames.pop(0) == "pass_on"
    assert frames[: len(shown)] == shown
    for file in re.findall(r'File "(.*)", line', text):
        assert f"pgq{os.sep}worker" not in file
        assert not file.endswith(("handlers.py", "tracing.py"))


def test_an_error_of_the_worker_itself_has_no_traceback(queue: Queue, loop: Loop, handlers: Handlers) -> None:
    """No frame in it is of use."""

    @handlers.handler("k", batch=10)
    def handle(jobs: list[Job]) -> dict[int, object]:
        return {}

    enqueued = queue.enqueue("k", max_retries=0)
    drain(loop)
    assert error_of(queue.conn, enqueued.id).strip() == "pgq.Error: its batch handler has left it out"


def test_an_exception_that_cannot_be_formatted_is_named(queue: Queue, loop: Loop, handlers: Handlers) -> None:
    """Its own attributes raise errors."""

    class Opaque(Exception):
        @property
        def __notes__(self) -> list[str]:  # type: ignore[override]
            raise RuntimeError("no notes")

    def fail(job: Job) -> NoReturn:
        raise Opaque

    handlers.handler("k")(fail)
    enqueued = queue.enqueue("k")
    drain(loop)
    # From Python 3.13 on the traceback shows the qualified name of the class.
    assert "Opaque" in error_of(queue.conn, enqueued.id).splitlines()[0]


@pytest.mark.parametrize(("encoding", "kept"), [("LATIN1", "\\u2603"), ("SQL_ASCII", "\u2603")])
def test_an_error_is_stored_in_the_encoding_of_the_database(
    place: Place, conn: Connection, handlers: Handlers, encoding: str, kept: str
) -> None:
    """Characters that it lacks are escaped; the neighbours are settled, and handlers are found by their kinds."""
    conn.execute("DROP DATABASE IF EXISTS pgq_encoded")
    conn.execute(f"CREATE DATABASE pgq_encoded ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0".encode())
    dsn = f"host={place.host} port={place.port} user={place.user} dbname=pgq_encoded"
    worker = Worker(dsn, handlers)
    try:
        with psycopg.connect(dsn, autocommit=True, client_encoding="utf8") as encoded:
            install(encoded)

            def fail(job: Job) -> NoReturn:
                raise ValueError("\u2603")

            handlers.handler("bad")(fail)
            handlers.handler("good")(lambda job: None)
            bad, _ = Queue(encoded).enqueue_many([{"kind": "bad"}, {"kind": "good"}])
            drain(worker.loops[0])
            assert jobs(encoded) == [(bad.id, "waiting", 1)]
            assert kept in error_of(encoded, bad.id)
    finally:
        worker.close()
        conn.execute("DROP DATABASE pgq_encoded WITH (FORCE)")
