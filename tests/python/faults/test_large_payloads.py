"""Extreme payloads are refused cleanly or kept unchanged, and do no harm to other jobs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from support.database import Connection, jobs, one
from support.processes import invoke
from support.workers import drain

from pgq import Handlers, Job, PayloadError, Queue, Worker, WorkerQueue

# JSON text, and the SQLSTATE with which PostgreSQL refuses it; None: it is accepted.
PAYLOADS = {
    "a number of 131,072 digits": ("1e131071", None),
    "a negative one": ("-1e131071", None),
    "a tiny number": ("1e-16383", None),
    "too many digits": ("1e131072", "22003"),
    "no number": ("NaN", "22P02"),
    "a number that Python takes for infinite": ("1e400", None),
    "6,000 levels": ("[" * 6000 + "]" * 6000, None),
    "6,000 levels of objects": ('{"a":' * 6000 + "1" + "}" * 6000, None),
    "100,000 levels": ("[" * 100_000 + "]" * 100_000, "54001"),
    "100,000 levels of objects": ('{"a":' * 100_000 + "1" + "}" * 100_000, "54001"),
    "100,000 levels, broken off": ("[" * 100_000, "54001"),
    "the longest text": (f'"{"x" * 1_048_574}"', None),
    "a little too long": (f'"{"x" * 1_048_575}"', "54000"),
    "20 MB": (f'"{"x" * 20_000_000}"', "54000"),
    "too long only when it is written out": (f"[{'1e131071,' * 8}0]", "54000"),
    "duplicate keys": ('{"a": 1, "a": {"b": 2, "b": 3}}', None),
    "a key without a name": ('{"": {"": ""}}', None),
    "half a surrogate pair": ('"\\ud800"', "22P02"),
    "the other half": ('{"\\udc00": 1}', "22P02"),
    "two halves in the wrong order": ('"\\udc00\\ud800"', "22P02"),
    "two halves": ('"\\ud83d\\ude00"', None),
    "NUL": ('"a\\u0000b"', "22P05"),
    "NUL in a key": ('{"\\u0000": 1}', "22P05"),
    "control characters, written out": ('"\\u0001\\u001f\\u007f\\u2028"', None),
}
REFUSALS = {name: refusal for name, (_, refusal) in PAYLOADS.items()}
carried = [text for text, refusal in PAYLOADS.values() if refusal is None]


def nest(depth: int) -> list[Any]:
    """Return a list nested to this depth."""
    inner: list[Any] = []
    for _ in range(depth):
        inner = [inner]
    return inner


def ring() -> list[Any]:
    """Return a list that contains itself."""
    around: list[Any] = []
    around.append(around)
    return around


# Objects that Python cannot send, and the exceptions.
OBJECTS: dict[str, tuple[Callable[[], Any], type[Exception]]] = {
    "half a surrogate pair": (lambda: "\ud800", psycopg.DataError),
    "NUL": (lambda: {"a\0": 1}, psycopg.DataError),
    "not a number": (lambda: float("nan"), ValueError),
    "a number of 5,000 digits": (lambda: 10**5000, ValueError),
    "100,000 levels": (lambda: nest(100_000), RecursionError),
    "an object in itself": (ring, ValueError),
    "a key that is no text": (lambda: {(1, 2): 3}, TypeError),
    "20 MB": (lambda: "x" * 20_000_000, psycopg.errors.ProgramLimitExceeded),
}


def refused(conn: Connection, query: str, *parameters: Any) -> str | None:
    """Return the SQLSTATE with which a statement fails, or None; check that the session still works."""
    try:
        conn.execute(query.encode(), parameters)
    except psycopg.Error as error:
        assert one(conn, "SELECT 1") == 1
        return error.sqlstate
    return None


def test_enqueue_refuses_or_keeps_extreme_payloads(conn: Connection) -> None:
    """The SQLSTATE fits, or the job is claimed with the same args."""
    results = {}
    for name, (payload, refusal) in PAYLOADS.items():
        results[name] = refused(conn, "SELECT pgq_enqueue('payload', %s::jsonb)", payload)
        meant = payload if refusal is None else "0"
        claimed = conn.execute("SELECT args = %s::jsonb FROM pgq_claim()", [meant]).fetchall()
        assert claimed == ([(True,)] if refusal is None else []), name
    assert results == REFUSALS


def test_enqueue_many_refuses_or_keeps_extreme_payloads(conn: Connection) -> None:
    """It refuses the whole array, or all jobs of it can be claimed."""
    results = {}
    for name, (payload, refusal) in PAYLOADS.items():
        many = f'[{{"kind": "k"}}, {{"kind": "payload", "args": {payload}}}, {{"kind": "k", "args": 1}}]'
        results[name] = refused(conn, "SELECT pgq_enqueue_many(%s::jsonb)", many)
        kinds = [row[0] for row in conn.execute("SELECT kind FROM pgq_claim(max_jobs => 9)").fetchall()]
        assert kinds == (["k", "payload", "k"] if refusal is None else []), name
    assert results == REFUSALS


def test_complete_refuses_or_keeps_extreme_results(conn: Connection) -> None:
    """When the result is refused the job is still held."""
    results = {}
    for name, (payload, refusal) in PAYLOADS.items():
        conn.execute("SELECT pgq_enqueue('k')")
        held = conn.execute("SELECT id, token FROM pgq_claim()").fetchone() or ()
        results[name] = refused(conn, "SELECT pgq_complete(%s, %s, %s::jsonb)", *held, payload)
        if refusal is None:
            assert one(conn, "SELECT result = %s::jsonb FROM pgq_jobs WHERE id = %s", payload, held[0]) is True, name
        else:
            assert refused(conn, "SELECT pgq_complete(%s, %s)", *held) is None, name
    assert results == REFUSALS


@pytest.mark.parametrize("megabytes", [2, pytest.param(200, marks=pytest.mark.slow)])
def test_a_payload_of_megabytes_is_refused(queue: Queue, megabytes: int) -> None:
    """The session works as before."""
    # This takes a while on a busy machine.
    queue.conn.execute("SET statement_timeout = 0")
    with pytest.raises(psycopg.errors.ProgramLimitExceeded):
        queue.enqueue("k", "x" * (megabytes * 1_000_000))
    assert jobs(queue.conn) == []
    assert queue.enqueue("k").created


def test_the_driver_refuses_what_it_cannot_send(queue: Queue) -> None:
    """The call raises, and the connection works as before."""
    for make, refusal in OBJECTS.values():
        with pytest.raises(refusal):
            queue.enqueue("k", make())
        with pytest.raises(refusal):
            queue.enqueue_many([{"kind": "k"}, {"kind": "k", "args": make()}])
        assert jobs(queue.conn) == []
    assert queue.enqueue("k").created


def test_the_driver_refuses_extreme_names(queue: WorkerQueue) -> None:
    """The names are those of kinds, queues, dedup keys and workers."""
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


def test_a_worker_survives_a_batch_of_extreme_payloads(queue: Queue, worker: Worker, handlers: Handlers) -> None:
    """It runs the jobs whose args it can decode, and fails each of the others alone."""
    done: list[Any] = []

    @handlers.handler("k")
    def note(job: Job) -> None:
        done.append(job.args)

    for n, payload in enumerate(carried):
        queue.enqueue("k", n)
        one(queue.conn, "SELECT id FROM pgq_enqueue('k', %s::jsonb, max_retries => 0)", payload)
    drain(worker.loops[0])
    good = list(range(len(carried)))
    assert [args for args in done if type(args) is int and args in good] == good
    assert "\U0001f600" in done
    left = queue.conn.execute("SELECT state, errors -> 0 ->> 'error' FROM pgq_jobs").fetchall()
    assert len(left) == 2 * len(carried) - len(done)
    assert {(state, error.split(":")[0]) for state, error in left} == {("dead", "pgq.PayloadError")}


def test_an_extreme_result_is_left_out(queue: Queue, worker: Worker, handlers: Handlers) -> None:
    """Its job is done, as are the other jobs of the batch."""
    handlers.handler("bad")(lambda job: OBJECTS[job.args][0]())
    handlers.handler("pay", transaction=True)(lambda job, _: OBJECTS[job.args][0]())
    handlers.handler("k")(lambda _: {"fine": True})
    for name in OBJECTS:
        queue.enqueue_many([{"kind": kind, "args": name} for kind in ("bad", "k", "pay")])
    drain(worker.loops[0])
    states = queue.conn.execute("SELECT DISTINCT kind, state, result::text FROM pgq_jobs ORDER BY kind").fetchall()
    assert states == [("bad", "done", None), ("k", "done", '{"fine": true}'), ("pay", "done", None)]
    assert len(jobs(queue.conn)) == 3 * len(OBJECTS)


def test_the_command_line_shows_jobs_with_extreme_payloads(queue: WorkerQueue, dsn: str) -> None:
    """The payloads are both args and results."""
    for payload in carried:
        one(queue.conn, "SELECT id FROM pgq_enqueue('payload', %s::jsonb)", payload)
        (job,) = queue.claim()
        queue.conn.execute("SELECT pgq_complete(%s, %s, %s::jsonb)", [job.id, job.token, payload])
        for words in (["show"], ["show", "--json"]):
            done = invoke("--dsn", dsn, *words, str(job.id))
            assert done.returncode == 0, done.stderr[-500:]
    for words in (["list"], ["list", "--json"], ["stats"]):
        assert invoke("--dsn", dsn, *words).returncode == 0


def test_args_decode_as_by_json_or_raise_payload_error(conn: Connection) -> None:
    """PayloadError is raised for any error of Python's decoder."""
    for payload in carried:
        conn.execute("SELECT pgq_enqueue('payload', %s::jsonb)", [payload])
    undecodable = 0
    for job in WorkerQueue(conn).claim(max_jobs=100):
        try:
            assert job.args == json.loads(job.payload)
        except PayloadError:
            undecodable += 1
    # Python 3.13 decodes what is nested deeper than older ones do.
    assert undecodable >= 2
