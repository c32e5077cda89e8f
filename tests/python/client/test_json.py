"""What Python values become in JSON: the conversions that are built in, and the hook for others."""

from __future__ import annotations

import enum
import json
import uuid
from collections import namedtuple
from dataclasses import field, make_dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from support.database import Connection, one
from support.modes import try_all
from support.workers import drain

import pgq
from pgq import Handlers, Job, Queue, WorkerQueue
from pgq.views import Views
from pgq.worker.loop import Loop

ID = uuid.UUID("12345678-1234-5678-1234-567812345678")


class Color(enum.Enum):
    """An enum of texts, with a value that has to be converted, too."""

    RED = "red"
    NOON = time(12)


class Level(enum.IntEnum):
    """An enum that json itself takes."""

    HIGH = 3


Point = namedtuple("Point", ["x", "y"])
Inner = make_dataclass("Inner", ["at", "price"])
Outer = make_dataclass("Outer", ["inner", ("colors", list[Color], field(repr=False))], frozen=True)

CONVERTED: dict[str, tuple[Any, Any]] = {
    "datetime": (datetime(2030, 1, 2, 3, 4, 5, 678, tzinfo=UTC), "2030-01-02T03:04:05.000678+00:00"),
    "naive datetime": (datetime(2030, 1, 2, 3, 4, 5), "2030-01-02T03:04:05"),
    "date": (date(2030, 1, 2), "2030-01-02"),
    "time": (time(3, 4, 5), "03:04:05"),
    "Decimal": (Decimal("0.10000000000000000000001"), "0.10000000000000000000001"),
    "UUID": (ID, str(ID)),
    "Enum": (Color.RED, "red"),
    "Enum of a time": (Color.NOON, "12:00:00"),
    "IntEnum": (Level.HIGH, 3),
    "tuple": ((1, 2), [1, 2]),
    "NamedTuple": (Point(1, 2), [1, 2]),
    "dataclass": (
        Outer(Inner(date(2030, 1, 2), Decimal("1.50")), [Color.RED]),
        {"inner": {"at": "2030-01-02", "price": "1.50"}, "colors": ["red"]},
    ),
}


@pytest.mark.parametrize("name", CONVERTED)
def test_a_value_that_is_not_in_json_is_converted(queue: WorkerQueue, name: str) -> None:
    """In arguments, contexts and results, at any depth."""
    value, expected = CONVERTED[name]
    queue.enqueue("one", {"a": [value]}, context={"c": value})
    queue.enqueue_many([{"kind": "many", "args": {"a": [value]}, "context": {"c": value}}])
    claimed = queue.claim(max_jobs=2)
    assert [(job.kind, job.args, json.loads(job.context or "")) for job in claimed] == [
        (kind, {"a": [expected]}, {"c": expected}) for kind in ("one", "many")
    ]
    for job in claimed:
        queue.complete(job, [value])
        assert json.loads(Views(queue.conn).job(job.id)["result"]) == [expected]


def test_equal_values_make_duplicates(queue: Queue) -> None:
    """Their text is the same in each process."""
    args = {name: value for name, (value, _) in CONVERTED.items()}
    plain = {name: expected for name, (_, expected) in CONVERTED.items()}
    assert queue.enqueue("k", args).created
    assert not queue.enqueue("k", plain).created
    assert [one.created for one in queue.enqueue_many([{"kind": "k", "args": args}])] == [False]


def test_a_result_of_a_handler_is_converted(queue: Queue, loop: Loop, handlers: Handlers) -> None:
    """This holds in each mode."""
    cases = {name: (lambda *_, value=value: value) for name, (value, _) in CONVERTED.items()}
    for kind, job in try_all(queue, loop, handlers, cases).items():
        assert (job["state"], job["errors"]) == ("done", [])
        assert json.loads(job["result"]) == CONVERTED[kind.split(": ")[1]][1]


class Money:
    """A class of an application."""

    def __init__(self, cents: int) -> None:
        self.cents = cents


def convert(value: Any) -> Any:
    """Convert money to what is converted again, and dates in another way than pgq; a hook."""
    if isinstance(value, Money):
        return {"cents": value.cents, "id": ID}
    if isinstance(value, date):
        return value.toordinal()
    raise TypeError(f"no money: {type(value).__name__}")


def test_a_hook_is_asked_before_the_conversions_that_are_built_in(
    conn: Connection, queue: Queue, handlers: Handlers
) -> None:
    """It leaves to them what it raises TypeError for; its own error is raised where they know no more."""
    assert handlers.json_default(convert) is convert
    hooked = WorkerQueue(conn, handlers=handlers)
    value = [Money(7), date(1, 1, 2), Decimal("0.1")]
    expected = [{"cents": 7, "id": str(ID)}, 2, "0.1"]
    hooked.enqueue("one", value)
    hooked.enqueue_many([{"kind": "many", "args": value}])
    claimed = hooked.claim(max_jobs=2)
    assert [job.args for job in claimed] == [expected, expected]
    hooked.complete(claimed[0], value)
    assert json.loads(Views(conn).job(claimed[0].id)["result"]) == expected
    with pytest.raises(TypeError, match="no money: set"):
        hooked.enqueue("k", {1})
    with pytest.raises(TypeError, match="Money is not JSON"):
        queue.enqueue("k", Money(7))


def test_the_hook_converts_the_results_of_handlers(queue: Queue, loop: Loop, handlers: Handlers, dsn: str) -> None:
    """In each mode, and where a handler completes its job itself."""
    handlers.json_default(convert)

    @handlers.handler("own")
    def own(job: Job) -> None:
        with psycopg.connect(dsn) as conn:
            job.complete(conn, Money(7))

    enqueued = queue.enqueue("own")
    found = try_all(queue, loop, handlers, {"k": lambda *_: Money(7)})
    results = [job["result"] for job in found.values()] + [Views(queue.conn).job(enqueued.id)["result"]]
    assert [json.loads(result) for result in results] == [{"cents": 7, "id": str(ID)}] * 5


def test_there_is_one_hook(handlers: Handlers) -> None:
    """A second one is refused; the decorator of the package registers the hook of the default handlers."""
    handlers.json_default(convert)
    with pytest.raises(ValueError, match="a hook already"):
        handlers.json_default(str)
    assert pgq.json_default.__self__ is pgq.handlers.default  # type: ignore[attr-defined]


@pytest.mark.parametrize("many", [False, True])
def test_an_enum_is_taken_by_its_value_everywhere(queue: Queue, many: bool) -> None:
    """For psycopg it would be its name."""
    job: Any = {"kind": Color.RED, "queue": Color.RED, "dedup_key": Color.RED, "priority": Level.HIGH}
    enqueued = queue.enqueue_many([job])[0] if many else queue.enqueue(**job)
    query = "SELECT kind || queue || dedup_key || priority FROM pgq_waiting WHERE id = %s"
    assert one(queue.conn, query, enqueued.id) == "redredred3"


@pytest.mark.parametrize("span", [timedelta(1), b"x", {1}, object()], ids=lambda value: type(value).__name__)
def test_what_has_no_one_form_in_json_is_refused(queue: Queue, span: Any) -> None:
    """The hook decides about it."""
    with pytest.raises(TypeError, match=f"Object of type {type(span).__name__} is not JSON serializable"):
        queue.enqueue("k", {"a": span})


@pytest.mark.parametrize(
    ("value", "returned"),
    [
        (1.0, 1.0), (0.1, 0.1), (1e15, 1e15), (123456789012345.6, 123456789012345.6), (1e-7, 1e-7), (-0.0, 0.0),
        (1e16, 10**16), (1e300, 10**300), (-2.5e20, -25 * 10**19),
    ],
    ids=repr,
)  # fmt: skip
def test_a_large_float_comes_back_as_an_integer(
    queue: WorkerQueue, loop: Loop, handlers: Handlers, value: float, returned: float
) -> None:
    """jsonb has one type of numbers, and keeps no exponent: from 1e16 on, nothing tells that it was a float."""
    queue.enqueue("k", value)
    (job,) = queue.claim()
    assert (job.args, type(job.args), str(job.args)) == (returned, type(returned), str(returned))
    handlers.handler("result")(lambda _: value)
    enqueued = queue.enqueue("result")
    drain(loop)
    kept = json.loads(Views(queue.conn).job(enqueued.id)["result"])
    assert (kept, type(kept)) == (returned, type(returned))
