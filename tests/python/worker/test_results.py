"""The result of a handler is kept as JSON; one that cannot be stored ends the job all the same, with a note."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from support.database import Connection, jobs, one
from support.modes import IN_A_TRANSACTION, MODES, all_of, states, try_all, write
from support.servers import Place
from support.workers import MakeWorker, drain

from pgq import Handlers, Job, Queue, Worker
from pgq.schema.install import install
from pgq.views import Views
from pgq.worker.loop import Loop
from pgq.worker.outcomes import Completed
from pgq.worker.settle import FLAT, SHORT, _is_surely_stored

PREFIX = "the result was not stored: "


class Faulty:
    """A value on which the hook of a test calls sys.exit."""


class Mute(dict[str, Any]):
    """A mapping that raises an exception without a text when it is read."""

    def items(self) -> Any:
        raise ValueError


def ring() -> Any:
    """Return a list that contains itself."""
    ring: list[Any] = []
    ring.append(ring)
    return ring


def nest(levels: int) -> Any:
    """Return lists in each other."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


# What no database stores, and how the note goes on.
UNSTORABLE: dict[str, tuple[Callable[[], Any], str]] = {
    "object": (object, "TypeError: Object of type object is not JSON"),
    "object inside": (lambda: {"a": [{"b": object()}]}, "TypeError: Object of type object is not JSON"),
    "set": (lambda: {1, 2}, "TypeError: Object of type set"),
    "bytes": (lambda: b"x", "TypeError: Object of type bytes"),
    "key": (lambda: {(1, 2): 3}, "TypeError: keys must be"),
    "NaN": (lambda: float("nan"), "ValueError: Out of range"),
    "Infinity": (lambda: [float("inf")], "ValueError: Out of range"),
    "huge number": (lambda: 10**5000, "ValueError: "),
    "itself": (ring, "ValueError: Circular"),
    "deep": (lambda: nest(100_000), "RecursionError: "),
    "no text": (lambda: Mute(a=1), "ValueError"),
    "ends the process": (Faulty, "SystemExit: 3"),
    "NUL": (lambda: "a\0b", "the database refused it: unsupported Unicode escape sequence (SQLSTATE 22P05)"),
    "NUL in a key": (lambda: {"a\0": 1}, "the database refused it: unsupported Unicode"),
    "surrogate": (lambda: "\ud800", "the database refused it: invalid input syntax"),
    "too long": (lambda: "x" * 1_100_000, "the database refused it: result takes 1100002 bytes"),
    "too long as text": (lambda: [1e308] * 6000, "the database refused it: result takes "),
}


def exit_for_faulty(value: Any) -> Any:
    """End the process, if the value is Faulty; a hook for values that are not in JSON."""
    if isinstance(value, Faulty):
        sys.exit(3)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON")


@pytest.mark.happens("returns what cannot be stored")
def test_a_result_that_cannot_be_stored_ends_the_job(queue: Queue, loop: Loop, handlers: Handlers) -> None:
    """In each mode the handler is called once, its effects stay, and the record says why there is no result."""
    calls: list[str] = []

    def returns(make: Callable[[], Any]) -> Callable[..., Any]:
        def handler(job: Job, *conn: Connection) -> Any:
            calls.append(job.kind)
            write(job, *conn)
            return make()

        return handler

    handlers.json_default(exit_for_faulty)
    cases = {case: returns(make) for case, (make, _) in UNSTORABLE.items()}
    # With retry_on, because the handler has not raised the error.
    found = try_all(queue, loop, handlers, cases, retry_on=OSError)
    assert states(found) == all_of(cases, ("done", 1))
    assert sorted(calls) == sorted(found)
    for kind, job in found.items():
        mode, _, case = kind.partition(": ")
        assert job["result"] is None
        assert job["effects"] == (mode in IN_A_TRANSACTION)
        (note,) = job["errors"]
        assert note["error"].startswith(PREFIX + UNSTORABLE[case][1]), kind
        assert note["attempt"] == 1


def test_a_note_leaves_the_errors_of_earlier_attempts(queue: Queue, loop: Loop, handlers: Handlers) -> None:
    """The note is the newest of them."""

    @handlers.handler("k", transaction=True)
    def work(job: Job, _: Connection) -> Any:
        if job.attempt == 1:
            raise ValueError("first")
        return object()

    enqueued = queue.enqueue("k", backoff="0")
    drain(loop)
    job = Views(queue.conn).job(enqueued.id)
    assert (job["state"], job["attempt"]) == ("done", 2)
    assert [error["error"].split(":")[0] for error in job["errors"]] == ["the result was not stored", "ValueError"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING])
@pytest.mark.parametrize("value", [{"secret"}, "secret\0"], ids=["Python", "database"])
def test_a_result_that_is_not_stored_is_logged_as_a_warning(
    queue: Queue, loop: Loop, handlers: Handlers, caplog: pytest.LogCaptureFixture, mode: str, level: int, value: Any
) -> None:
    """The line has the action done and the name of the error, and nothing of the payload."""
    with caplog.at_level(level, "pgq"):
        found = try_all(queue, loop, handlers, {"k": lambda *_: value}, (mode,))
    (job,) = found.values()
    (record,) = [record for record in caplog.records if getattr(record, "job_id", None) == job["id"]]
    assert (record.levelname, record.__dict__["action"], record.__dict__["attempt"]) == ("WARNING", "done", 1)
    cause = "TypeError" if isinstance(value, set) else "UntranslatableCharacter"
    assert record.getMessage().endswith(f" s, but its result was not stored ({cause})")
    assert record.__dict__["duration"] is not None
    assert "secret" not in caplog.text


@pytest.mark.happens("returns what cannot be stored")
@pytest.mark.parametrize(("encoding", "kept"), [("LATIN1", "\\u2603"), ("SQL_ASCII", "\u2603")])
def test_a_result_that_the_encoding_of_the_database_lacks_ends_the_job(
    place: Place, conn: Connection, handlers: Handlers, encoding: str, kept: str
) -> None:
    """In each mode; a note with such a character is escaped, and the neighbours are settled."""

    def hook(value: Any) -> Any:
        raise ValueError("\u2603")

    handlers.json_default(hook)
    conn.execute("DROP DATABASE IF EXISTS pgq_encoded")
    conn.execute(f"CREATE DATABASE pgq_encoded ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0".encode())
    dsn = f"host={place.host} port={place.port} user={place.user} dbname=pgq_encoded"
    worker = Worker(dsn, handlers)
    try:
        with psycopg.connect(dsn, autocommit=True, client_encoding="utf8") as encoded:
            install(encoded)
            cases = {"result": lambda *_: "\u2603", "note": lambda *_: object(), "ASCII": lambda *_: "a"}
            found = try_all(Queue(encoded), worker.loops[0], handlers, cases)
            assert states(found) == all_of(cases, ("done", 1))
            for kind, job in found.items():
                case = kind.split(": ")[1]
                assert job["result"] == ('"a"' if case == "ASCII" else None)
                notes = {
                    "result": f"{PREFIX}the database refused it: ",
                    "note": f"{PREFIX}ValueError: {kept}",
                    "ASCII": "",
                }
                assert "".join(error["error"] for error in job["errors"]).startswith(notes[case])
    finally:
        worker.close()
        conn.execute("DROP DATABASE pgq_encoded WITH (FORCE)")


def test_a_result_that_is_far_too_long_is_not_sent(
    queue: Queue, loop: Loop, handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gigabyte would cost the connection each time the job is settled."""
    monkeypatch.setattr("pgq.convert.LONGEST_RESULT", 1000)
    found = try_all(queue, loop, handlers, {"k": lambda *_: "x" * 1000})
    assert [job["errors"][0]["error"].splitlines()[0] for job in found.values()] == [
        f"{PREFIX}ValueError: the result takes 1002 characters as JSON"
    ] * len(MODES)


@pytest.mark.happens("returns what cannot be stored")
def test_a_result_that_is_too_deep_for_the_server_ends_the_job(
    conn: Connection, queue: Queue, loop: Loop, handlers: Handlers
) -> None:
    """The error is not taken for a shortage of resources that the worker waits out."""
    conn.execute(f"ALTER DATABASE {conn.info.dbname} SET max_stack_depth = '100kB'".encode())
    found = try_all(queue, loop, handlers, {"k": lambda *_: nest(900)})
    assert states(found) == all_of({"k": 0}, ("done", 1))
    for job in found.values():
        assert job["errors"][0]["error"].startswith(f"{PREFIX}the database refused it: stack depth limit exceeded")


LIMITS = {
    "largest numbers": lambda: [1e308] * (SHORT // 7 - 1),
    "smallest numbers": lambda: [5e-324] * (SHORT // 7 - 1),
    "negative numbers": lambda: [-1.7976931348623157e308] * (SHORT // 25 - 1),
    "long": lambda: "x" * (SHORT - 2),
    "deep": lambda: nest(FLAT - 1),
    "deep objects": lambda: json.loads('{"":' * FLAT + "1" + "}" * FLAT),
    "control characters": lambda: "\1" * (SHORT // 6 - 1),
    "two bytes": lambda: "\u00e9" * (SHORT // 6 - 1),
    "four bytes": lambda: "\U0001f600" * (SHORT // 12 - 1),
    "integer": lambda: 10**4000,
}


def test_a_result_without_a_savepoint_is_stored(
    conn: Connection, queue: Queue, make_worker: MakeWorker, handlers: Handlers
) -> None:
    """What goes without one is what every server stores, up to the limits; a refusal would undo the transaction."""
    conn.execute(f"ALTER DATABASE {conn.info.dbname} SET max_stack_depth = '100kB'".encode())
    loop = make_worker().loops[0]
    cases: dict[str, Callable[..., Any]] = {case: lambda *_, make=make: make() for case, make in LIMITS.items()}
    modes = ("transactional", "transactional batch")
    sure: dict[str, bool] = {}

    for case, function in cases.items():
        outcome = Completed(None, json.dumps(function(), separators=(",", ":")))  # type: ignore[arg-type]
        sure[case] = _is_surely_stored(loop.inside.queue(), outcome)
    # Half a pair of surrogates cannot be told from a pair.
    assert [case for case, is_sure in sure.items() if not is_sure] == ["four bytes"]
    found = try_all(queue, loop, handlers, cases, modes)
    assert states(found) == all_of(cases, ("done", 1), modes)
    assert all(job["errors"] == [] for job in found.values())


@pytest.mark.parametrize(
    ("value", "plain"),
    [("short", True), ("\u00e9", True), ("x" * SHORT, False), (nest(FLAT), False), ("\U0001f600", False)],
    ids=["short", "two bytes", "long", "deep", "four bytes"],
)
def test_only_a_result_that_may_be_refused_has_a_savepoint(
    queue: Queue, loop: Loop, handlers: Handlers, value: Any, plain: bool
) -> None:
    """It would cost two round trips and a transaction id for each job."""
    ids: list[str] = []

    @handlers.handler("k", transaction=True)
    def work(job: Job, conn: Connection) -> Any:
        ids.append(one(conn, "SELECT pg_current_xact_id()::text"))
        return value

    enqueued = queue.enqueue("k")
    drain(loop)
    by = one(queue.conn, "SELECT outcome || xmin::text FROM pgq_ended WHERE id = %s", enqueued.id)
    assert (by == f"done{ids[0]}") == plain


@pytest.mark.parametrize("value", [object(), "a\0b", "x" * 1_100_000], ids=["object", "NUL", "too long"])
def test_job_complete_raises_for_a_result_that_cannot_be_stored(
    queue: Queue, loop: Loop, handlers: Handlers, dsn: str, value: Any
) -> None:
    """The handler can still react: here it completes its job with another result."""
    raised: list[type[BaseException]] = []

    @handlers.handler("k")
    def work(job: Job) -> None:
        with psycopg.connect(dsn) as own:
            try:
                with own.transaction():
                    job.complete(own, value)
            except (TypeError, psycopg.Error) as error:
                raised.append(type(error))
                job.complete(own, "another")

    enqueued = queue.enqueue("k")
    drain(loop)
    assert len(raised) == 1
    assert jobs(queue.conn) == [(enqueued.id, "done", 1)]
    assert Views(queue.conn).job(enqueued.id)["result"] == '"another"'
