"""The driver's lists of names agree with each other and with the database."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import get_type_hints

from support.database import Connection, one

import pgq
from pgq import AsyncQueue, Job, NewJob, Queue
from pgq.calls import TYPES, Calls
from pgq.job import FIELDS

SIGNATURE = """
    SELECT p.proargnames[1:p.pronargs],
           ARRAY(SELECT format_type(t.oid, NULL) FROM unnest(p.proargtypes) WITH ORDINALITY AS t (oid, n) ORDER BY t.n)
    FROM pg_proc AS p
    WHERE p.oid = to_regproc(%s)
"""


def test_enqueue_takes_the_arguments_of_pgq_enqueue(conn: Connection) -> None:
    """It takes the same names in the same order, each cast to its type."""
    row = conn.execute(SIGNATURE, ["pgq_enqueue"]).fetchone()
    assert row is not None
    names, types = row
    full = {"timestamptz": "timestamp with time zone"}
    assert [(name, full.get(kind, kind)) for name, kind in TYPES.items()] == list(zip(names, types, strict=True))
    assert list(inspect.signature(Queue.enqueue).parameters) == ["self", *TYPES]


def test_a_new_job_has_the_arguments_of_enqueue() -> None:
    """A key for each, with its type; only ``after`` takes more, positions. All but the kind may be left out."""
    arguments = get_type_hints(Queue.enqueue)
    del arguments["return"]
    keys = get_type_hints(NewJob)
    assert list(keys) == list(arguments)
    assert keys == arguments | {"after": Iterable[int | str] | None}
    assert NewJob.__required_keys__ == {"kind"}


def test_the_calls_of_both_queues_are_the_same() -> None:
    """Each is a method of both, with the same signature and documentation; those of AsyncQueue are awaited."""
    calls = {name for name in vars(Calls) if not name.startswith("_")} | {"result", "wait", "wait_many"}
    for queue, is_async in ((Queue, False), (AsyncQueue, True)):
        methods = {name: method for name, method in vars(queue).items() if not name.startswith("_")}
        assert set(methods) == calls
        assert {inspect.iscoroutinefunction(method) for method in methods.values()} == {is_async}
    for name in calls:
        one, other = getattr(Queue, name), getattr(AsyncQueue, name)
        assert (inspect.signature(one), one.__doc__) == (inspect.signature(other), other.__doc__)


def test_a_statement_takes_what_enqueue_takes() -> None:
    """It takes the same arguments with the same types and defaults, and three of its own."""
    enqueue = [*inspect.signature(Queue.enqueue).parameters.values()]
    taken = [*inspect.signature(pgq.statement).parameters.values()]
    assert taken[: len(TYPES)] == enqueue[1:]
    many = [*inspect.signature(pgq.statement_many).parameters.values()]
    assert many[1:] == taken[len(TYPES) :]


def test_a_job_has_what_a_claim_returns(conn: Connection) -> None:
    """It has a field for each column; the arguments come as ``payload``, JSON text."""
    columns = one(conn, "SELECT proargnames[pronargs + 1:] FROM pg_proc WHERE oid = to_regproc('pgq_claim')")
    names = {"payload": "args"}
    assert sorted(names.get(name, name) for name in FIELDS) == sorted(columns)
    assert list(inspect.signature(Job).parameters) == list(FIELDS)
