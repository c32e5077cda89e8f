"""Payloads that PostgreSQL or Python chokes on: refused cleanly or carried faithfully, and nobody else is hurt."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from support.database import Connection, jobs, one
from support.workers import drain

from pgq import Handlers, Job, PayloadError, Queue, Worker
from pgq.cli import main

# As text, with what PostgreSQL says to it; None: it is carried.
BOMBS = {
    "a number of 131,072 digits": ("1e131071", None),
    "a negative one": ("-1e131071", None),
    "a tiny number": ("1e-16383", None),
    "too many digits": ("1e131072", "22003"),
    "no number": ("NaN", "22P02"),
    "a number that Python takes for infinite": ("1e400", None),
    "6,000-fold": ("[" * 6000 + "]" * 6000, None),
    "6,000-fold objects": ('{"a":' * 6000 + "1" + "}" * 6000, None),
    "100,000-fold": ("[" * 100_000 + "]" * 100_000, "54001"),
    "100,000-fold objects": ('{"a":' * 100_000 + "1" + "}" * 100_000, "54001"),
    "100,000-fold and broken off": ("[" * 100_000, "54001"),
    "the longest text": (f'"{"x" * 1_048_574}"', None),
    "a little too long": (f'"{"x" * 1_048_575}"', "54000"),
    "20 MB": (f'"{"x" * 20_000_000}"', "54000"),
    "long only when it is written out": (f"[{'1e131071,' * 8}0]", "54000"),
    "duplicate keys": ('{"a": 1, "a": {"b": 2, "b": 3}}', None),
    "a key without a name": ('{"": {"": ""}}', None),
    "half a character": ('"\\ud800"', "22P02"),
    "the other half": ('{"\\udc00": 1}', "22P02"),
    "halves the wrong way round": ('"\\udc00\\ud800"', "22P02"),
    "two halves": ('"\\ud83d\\ude00"', None),
    "NUL": ('"a\\u0000b"', "22P05"),
    "NUL in a key": ('{"\\u0000": 1}', "22P05"),
    "control characters, written out": ('"\\u0001\\u001f\\u007f\\u2028"', None),
}
REFUSALS = {name: refusal for name, (_, refusal) in BOMBS.items()}
carried = [text for text, refusal in BOMBS.values() if refusal is None]


def nest(depth: int) -> list[Any]:
    """A list in a list in a list."""
    inner: list[Any] = []
    for _ in range(depth):
        inner = [inner]
    return inner


def ring() -> list[Any]:
    """A list that is its own element."""
    around: list[Any] = []
    around.append(around)
    return around


# What Python has no way to send.
OBJECTS: dict[str, tuple[Callable[[], Any], type[Exception]]] = {
    "half a character": (lambda: "\ud800", psycopg.DataError),
    "NUL": (lambda: {"a\0": 1}, psycopg.DataError),
    "not a number": (lambda: float("nan"), ValueError),
    "a number of 5,000 digits": (lambda: 10**5000, ValueError),
    "100,000-fold": (lambda: nest(100_000), RecursionError),
    "an object in itself": (ring, ValueError),
    "a key that is no text": (lambda: {(1, 2): 3}, TypeError),
    "20 MB": (lambda: "x" * 20_000_000, psycopg.errors.ProgramLimitExceeded),
}


def refused(conn: Connection, query: str, *parameters: Any) -> str | None:
    """The SQLSTATE with which a statement fails; the session goes on."""
    try:
        conn.execute(query.encode(), parameters)
    except psycopg.Error as error:
        assert one(conn, "SELECT 1") == 1
        return error.sqlstate
    return None


def test_at_enqueue(conn: Connection) -> None:
    """Refused with the SQLSTATE that fits, or claimed as it went in."""
    answers = {}
    for name, (bomb, refusal) in BOMBS.items():
        answers[name] = refused(conn, "SELECT pgq_enqueue('bomb', %s::jsonb)", bomb)
        meant = bomb if refusal is None else "0"
        handed_out = conn.execute("SELECT args = %s::jsonb FROM pgq_claim()", [meant]).fetchall()
        assert handed_out == ([(True,)] if refusal is None else []), name
    assert answers == REFUSALS


def test_at_enqueue_many(conn: Connection) -> None:
    """Refused together with its neighbours, or claimed along with them."""
    answers = {}
    for name, (bomb, refusal) in BOMBS.items():
        many = f'[{{"kind": "k"}}, {{"kind": "bomb", "args": {bomb}}}, {{"kind": "k", "args": 1}}]'
        answers[name] = refused(conn, "SELECT pgq_enqueue_many(%s::jsonb)", many)
        kinds = [row[0] for row in conn.execute("SELECT kind FROM pgq_claim(max_jobs => 9)").fetchall()]
        assert kinds == (["k", "bomb", "k"] if refusal is None else []), name
    assert answers == REFUSALS


def test_as_a_result(conn: Connection) -> None:
    """Refused, and the job is still held; or kept as it is."""
    answers = {}
    for name, (bomb, refusal) in BOMBS.items():
        conn.execute("SELECT pgq_enqueue('k')")
        held = conn.execute("SELECT id, token FROM pgq_claim()").fetchone() or ()
        answers[name] = refused(conn, "SELECT pgq_complete(%s, %s, %s::jsonb)", *held, bomb)
        if refusal is None:
            assert one(conn, "SELECT result = %s::jsonb FROM pgq_jobs WHERE id = %s", bomb, held[0]) is True, name
        else:
            assert refused(conn, "SELECT pgq_complete(%s, %s)", *held) is None, name
    assert answers == REFUSALS


def test_200_megabytes(queue: Queue) -> None:
    """They are refused, and nothing is worse for it."""
    # On a busy machine that takes a while.
    queue.conn.execute("SET statement_timeout = 0")
    with pytest.raises(psycopg.errors.ProgramLimitExceeded):
        queue.enqueue("k", "x" * 200_000_000)
    assert jobs(queue.conn) == []
    assert queue.enqueue("k").created


def test_from_the_driver(queue: Queue) -> None:
    """What cannot be sent raises, and the connection is as good as before."""
    for make, refusal in OBJECTS.values():
        with pytest.raises(refusal):
            queue.enqueue("k", make())
        with pytest.raises(refusal):
            queue.enqueue_many([{"kind": "k"}, {"kind": "k", "args": make()}])
        assert jobs(queue.conn) == []
    assert queue.enqueue("k").created


def test_names_from_the_driver(queue: Queue) -> None:
    """Nor does a name, a key or a worker break anything."""
    for name in ("a\0b", "a\ud800b", "x" * 10_000_000, "\U0001f600" * 251):
        for call in (
            lambda name=name: queue.enqueue(name),
            lambda name=name: queue.enqueue("k", queue=name),
            lambda name=name: queue.enqueue("k", dedup_key=name),
            lambda name=name: queue.enqueue_many([{"kind": name}]),
            lambda name=name: queue.claim(worker=name),
        ):
            with pytest.raises((psycopg.DataError, UnicodeError)):
                call()
    assert jobs(queue.conn) == []


def test_a_batch_full_of_bombs(queue: Queue, worker: Worker, handlers: Handlers) -> None:
    """The worker does all that it can decode, and fails the others, each by itself."""
    done: list[Any] = []

    @handlers.handler("k")
    def note(job: Job) -> None:
        done.append(job.args)

    for n, bomb in enumerate(carried):
        queue.enqueue("k", n)
        one(queue.conn, "SELECT id FROM pgq_enqueue('k', %s::jsonb, max_retries => 0)", bomb)
    drain(worker.loops[0])
    good = list(range(len(carried)))
    assert [args for args in done if type(args) is int and args in good] == good
    assert "\U0001f600" in done
    left = queue.conn.execute("SELECT state, errors -> 0 ->> 'error' FROM pgq_jobs").fetchall()
    assert len(left) == 2 * len(carried) - len(done)
    assert {(state, error.split(":")[0]) for state, error in left} == {("dead", "pgq.errors.PayloadError")}


def test_results_of_handlers(queue: Queue, worker: Worker, handlers: Handlers) -> None:
    """A result that cannot be kept is the failure of its job, and of no other in the batch."""
    handlers.handler("bomb")(lambda job: OBJECTS[job.args][0]())
    handlers.handler("pay", transaction=True)(lambda job, _: OBJECTS[job.args][0]())
    handlers.handler("k")(lambda _: {"fine": True})
    for name in OBJECTS:
        queue.enqueue_many([{"kind": kind, "args": name} for kind in ("bomb", "k", "pay")])
    drain(worker.loops[0])
    states = queue.conn.execute("SELECT DISTINCT kind, state FROM pgq_jobs ORDER BY kind").fetchall()
    assert states == [("bomb", "waiting"), ("k", "done"), ("pay", "waiting")]
    assert len(jobs(queue.conn)) == 3 * len(OBJECTS)


def test_on_the_command_line(queue: Queue, dsn: str) -> None:
    """An operator can look at any job."""
    for bomb in carried:
        one(queue.conn, "SELECT id FROM pgq_enqueue('bomb', %s::jsonb)", bomb)
        (job,) = queue.claim()
        queue.conn.execute("SELECT pgq_complete(%s, %s, %s::jsonb)", [job.id, job.token, bomb])
        for words in (["show"], ["show", "--json"]):
            result = CliRunner().invoke(main, ["--dsn", dsn, *words, str(job.id)])
            assert result.exit_code == 0, result.output[-500:]
    for words in (["list"], ["list", "--json"], ["stats"]):
        assert CliRunner().invoke(main, ["--dsn", dsn, *words]).exit_code == 0


def test_what_python_cannot_decode_is_told_from_what_it_can(conn: Connection) -> None:
    """PayloadError, whatever Python itself raises; everything else comes out as Python's own decoder has it."""
    for bomb in carried:
        conn.execute("SELECT pgq_enqueue('bomb', %s::jsonb)", [bomb])
    undecodable = 0
    for job in Queue(conn).claim(max_jobs=100):
        try:
            assert job.args == json.loads(job.payload)
        except PayloadError:
            undecodable += 1
    assert undecodable >= 3
