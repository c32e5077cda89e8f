"""Queue and Views: each method is one call, in the caller's transaction, with errors by SQLSTATE."""

from __future__ import annotations

import json
import math
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any

import psycopg
import pytest
from support.database import Connection, one
from support.database import jobs as all_jobs

import pgq
from pgq import Handlers, NewJob, Queue, WorkerQueue, doctor, overview
from pgq.calls import TYPES, Calls
from pgq.views import Views


@pytest.mark.parametrize(
    "args",
    [
        {},
        [],
        None,
        "",
        "ünïcødé 🦆",
        {"a": [{"b": [1, 2.5, None, True]}]},
        2**70,
        "'; DROP TABLE pgq_waiting; --",
        "%s",
    ],
    ids=repr,
)
def test_arguments_come_out_as_they_went_in(queue: WorkerQueue, args: Any) -> None:
    """This holds for enqueue and enqueue_many."""
    queue.enqueue("one", args)
    queue.enqueue_many([{"kind": "many", "args": args}])
    assert [(job.kind, job.args) for job in queue.claim(max_jobs=2)] == [("one", args), ("many", args)]


def test_every_argument_of_enqueue_reaches_the_job(queue: Queue) -> None:
    """enqueue_many takes the same arguments, with times and intervals."""
    at = datetime(2040, 1, 31, 12, tzinfo=UTC)
    given: Any = {
        "queue": "q", "ripe_at": at, "priority": 3, "max_retries": 7, "backoff": timedelta(seconds=90),
        "backoff_cap": timedelta(days=2), "dedup": True, "dedup_key": "key",
    }  # fmt: skip
    first = queue.enqueue("one", [1], **given)
    (second,) = queue.enqueue_many([{"kind": "many", "args": [1]} | given])
    for enqueued in (first, second):
        job = Views(queue.conn).job(enqueued.id)
        assert {name: job[name] for name in given if not name.startswith("backoff")} == {
            name: value for name, value in given.items() if not name.startswith("backoff")
        }
        assert (job["args"], job["backoff"]) == ("[1]", "00:01:30")
        assert one(queue.conn, "SELECT backoff_cap = '2 days' FROM pgq_waiting WHERE id = %s", enqueued.id)


class Word(str):
    """A str that is more than that."""


class Colour(StrEnum):
    """An enum whose values are texts, and whose JSON is that of the value."""

    RED = "red"


# Values of any argument: plain ones, those that are converted, None, and some that no argument takes.
VALUES = (
    "k", 1, True, None, 1.5, Word("w"), Colour.RED, timedelta(days=1), datetime(2040, 1, 1, tzinfo=UTC), {"a": None},
    [1], Decimal("1.0"),
)  # fmt: skip


def test_the_short_way_of_a_job_into_json_is_that_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most dicts are only copied; whatever the values, the JSON is the same, and so is the error."""
    known = Handlers()
    known.handler("with defaults", max_retries=2)(lambda job: None)
    calls = Calls(None, known)

    def result(way: Callable[[Mapping[str, Any]], dict[str, Any]], job: Mapping[str, Any]) -> str:
        try:
            return json.dumps(way(job), default=repr)
        except ValueError as error:
            return repr(error)

    kinds: list[Any] = ["k", "with defaults", None, 7, Word("with defaults")]
    jobs: list[Mapping[str, Any]] = [
        {"kind": kind, name: value} for kind in kinds for name in TYPES for value in VALUES
    ]
    jobs += [{}, {"args": None}, {"kind": "k", "ripe_at": datetime(2040, 1, 1)}, UserDict({"kind": "k"})]
    for job in jobs:
        assert result(calls._copied, job) == result(calls._plain, job), job
    monkeypatch.setattr(calls, "_plain", None)
    plain = {"kind": "k", "args": {"at": None}, "priority": 3, "dedup": False}
    assert calls._copied(plain) == plain


def test_a_dict_may_be_used_again_for_the_next_job(queue: WorkerQueue) -> None:
    """An iterator may change and yield the same dict each time."""

    def same() -> Iterator[NewJob]:
        job: NewJob = {"kind": "k"}
        for n in range(3):
            job["args"] = n
            yield job

    assert all(enqueued.created for enqueued in queue.enqueue_many(same()))
    assert [job.args for job in queue.claim(max_jobs=3)] == [0, 1, 2]


def test_a_delay_counts_from_now(queue: WorkerQueue) -> None:
    """It may be a timedelta or text, for enqueue and for enqueue_many."""
    a = queue.enqueue("a", delay=timedelta(days=1))
    b, c = queue.enqueue_many([{"kind": "b", "delay": timedelta(days=1)}, {"kind": "c", "delay": "1 day"}])
    day = "SELECT ripe_at - enqueued_at = interval '1 day' FROM pgq_waiting WHERE id = %s"
    assert all(one(queue.conn, day, enqueued.id) for enqueued in (a, b, c))
    assert queue.claim() == []


@pytest.mark.parametrize("args", [math.nan, {"a": math.inf}, {1, 2}, b"x", {(1, 2): 3}], ids=repr)
def test_arguments_that_are_no_json_are_refused_by_the_client(queue: Queue, args: Any) -> None:
    """A ValueError or TypeError is raised, and nothing that only resembles JSON is sent."""
    with pytest.raises((ValueError, TypeError)):
        queue.enqueue("k", args)
    with pytest.raises((ValueError, TypeError)):
        queue.enqueue_many([{"kind": "k", "args": args}])
    assert all_jobs(queue.conn) == []


def test_a_time_without_a_zone_is_refused(queue: WorkerQueue) -> None:
    """It would mean a different moment on each server."""
    naive = datetime(2030, 1, 1)
    with pytest.raises(ValueError, match="time zone"):
        queue.enqueue("k", ripe_at=naive)
    with pytest.raises(ValueError, match="time zone"):
        queue.enqueue_many([{"kind": "k", "ripe_at": naive}])
    queue.enqueue("k")
    (job,) = queue.claim()
    with pytest.raises(ValueError, match="time zone"):
        queue.snooze(job, naive)


@pytest.mark.parametrize("style", ["SQL, DMY", "Postgres", "German"])
def test_the_date_style_of_the_server_does_not_matter(queue: WorkerQueue, style: str) -> None:
    """A claim and the views return the same under any DateStyle and IntervalStyle."""
    queue.enqueue_many([{"kind": "k", "args": n} for n in range(2)])
    queue.conn.execute(
        "SELECT set_config('DateStyle', %s, false), set_config('IntervalStyle', 'iso_8601', false)", [style]
    )
    (job,) = queue.claim()
    assert queue.extend(job, timedelta(hours=1)) > job.lease_until > job.ripe_at
    assert Views(queue.conn).stats()[0]["oldest_ripe_age"] > timedelta(0)
    assert Views(queue.conn).job(job.id)["ripe_at"] == job.ripe_at


def can_decode(payload: str) -> bool:
    """Return whether this Python can decode the payload."""
    try:
        json.loads(payload)
    except (ValueError, RecursionError):
        return False
    return True


# PostgreSQL takes some 15,000 levels; the limit of Python grows from version to version, to 10,000 in 3.13.
DEEP = "[" * 12_000 + "]" * 12_000


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param("1e131071", id="huge number"),
        pytest.param(
            DEEP, id="deep", marks=pytest.mark.skipif(can_decode(DEEP), reason="this Python decodes 12,000 levels")
        ),
    ],
)
def test_a_payload_that_python_cannot_decode_affects_no_other_job(queue: WorkerQueue, payload: str) -> None:
    """It is claimed with its neighbours, and only reading its own args raises."""
    queue.enqueue("before")
    queue.conn.execute("SELECT pgq_enqueue('bad', %s::jsonb)", [payload])
    queue.enqueue("after")
    before, bad, after = queue.claim(max_jobs=3)
    assert (before.args, after.args) == ({}, {})
    with pytest.raises(pgq.PayloadError) as caught:
        _ = bad.args
    assert str(bad.id) in str(caught.value)
    assert queue.fail(bad, "cannot be decoded").outcome == "retry"


def test_the_repr_of_a_job_hides_its_payload(queue: WorkerQueue) -> None:
    """The repr ends up in logs and tracebacks."""
    queue.enqueue("k", "secret")
    (job,) = queue.claim()
    assert job.args == "secret"
    assert "secret" not in repr(job)


def test_each_duplicate_policy_does_what_it_says(queue: Queue) -> None:
    """The policies keep, replace, soonest and error each meet a waiting twin."""
    conn, soon, late = queue.conn, datetime(2040, 1, 1, tzinfo=UTC), datetime(2041, 1, 1, tzinfo=UTC)
    first = queue.enqueue("k", 1, dedup_key="x", ripe_at=late, priority=7)

    def state() -> Any:
        return conn.execute("SELECT args::text::int, ripe_at, priority FROM pgq_waiting").fetchall()

    assert queue.enqueue("k", 2, dedup_key="x") == pgq.Enqueued(first.id, created=False)
    assert state() == [(1, late, 7)]
    assert not queue.enqueue("k", 2, dedup_key="x", ripe_at=soon, on_duplicate="soonest").created
    assert state() == [(1, soon, 7)]
    assert not queue.enqueue("k", 3, dedup_key="x", ripe_at=late, priority=2, on_duplicate="replace").created
    assert state() == [(3, late, 2)]
    with pytest.raises(pgq.DuplicateJob) as caught:
        queue.enqueue("k", 4, dedup_key="x", on_duplicate="error")
    assert (caught.value.sqlstate, bool(caught.value.hint)) == ("PGQ04", True)
    assert queue.enqueue("k", 5, dedup=False).created


def test_the_result_of_an_enqueue_is_a_tuple(queue: Queue) -> None:
    """Callers may take it apart, from a single call and from an array."""
    job_id, created = queue.enqueue("k", 1)
    assert created is True
    assert queue.enqueue_many([{"kind": "k", "args": 1}]) == [(job_id, False)]


def test_no_call_commits(conn: Connection, queue: WorkerQueue) -> None:
    """A rollback by the caller undoes every call."""
    queue.enqueue("waits", queue="w", max_retries=0)
    for kind in "abcdefg":
        queue.enqueue(kind)
    before = all_jobs(conn)
    with conn.transaction(force_rollback=True):
        a, b, c, d, e, f, g = queue.claim(max_jobs=7)
        queue.complete(a)
        queue.complete(b, {"kept": True})
        assert queue.complete_many([c]) == {c.id}
        assert queue.fail(d).outcome == "retry"
        assert queue.snooze(e, datetime(2040, 1, 1, tzinfo=UTC)) == "snoozed"
        assert queue.release(f) == "released"
        assert queue.extend(g, timedelta(hours=1)) > g.lease_until
        assert queue.cancel(g.id) == "requested"
        assert queue.release(g) == "cancelled"
        assert queue.retry(g.id) == "retry"
        assert queue.purge(timedelta(0)) == 1
        assert len(queue.enqueue_many([{"kind": "new"}])) == 1
        assert all_jobs(conn) != before
    assert all_jobs(conn) == before


def test_results_are_kept_and_purged(queue: WorkerQueue) -> None:
    """The result of a completed job can be read until pgq_purge."""
    enqueued = queue.enqueue("k")
    (job,) = queue.claim()
    queue.complete(job, {"answer": 42})
    shown = Views(queue.conn).job(enqueued.id)
    assert (shown["state"], shown["result"]) == ("done", '{"answer": 42}')
    assert queue.purge(timedelta(days=1)) == 0
    assert queue.purge(timedelta(0), outcome="dead") == 0
    assert queue.purge(timedelta(0), outcome="done") == 1
    with pytest.raises(pgq.JobNotFound):
        Views(queue.conn).job(enqueued.id)


def test_a_note_is_kept_with_a_job_that_is_done(queue: WorkerQueue) -> None:
    """With a result or without one."""
    for result in (None, 7):
        queue.enqueue("k")
        (job,) = queue.claim()
        queue.complete(job, result, note="a remark")
        shown = Views(queue.conn).job(job.id)
        assert (shown["state"], shown["result"]) == ("done", None if result is None else "7")
        assert [error["error"] for error in shown["errors"]] == ["a remark"]


def test_a_result_of_false_or_zero_is_a_result(queue: WorkerQueue) -> None:
    """Only None is no result."""
    values: list[Any] = [False, 0, "", []]
    for value in values:
        queue.enqueue("k")
        (job,) = queue.claim()
        queue.complete(job, value)
    assert [job["state"] for job in Views(queue.conn).jobs()] == ["done"] * 4


def test_each_refusal_has_its_own_exception(queue: WorkerQueue) -> None:
    """They differ by SQLSTATE; an invalid argument raises psycopg's error."""
    for verb in (queue.cancel, queue.retry, Views(queue.conn).job):
        with pytest.raises(pgq.JobNotFound):
            verb(404)
    enqueued = queue.enqueue("k")
    with pytest.raises(pgq.WrongState) as state:
        queue.retry(enqueued.id)
    assert (state.value.sqlstate, bool(state.value.hint)) == ("PGQ03", True)
    (job,) = queue.claim()
    queue.complete(job)
    with pytest.raises(pgq.LeaseLost) as lost:
        queue.complete(job)
    assert lost.value.sqlstate == "PGQ02"
    with pytest.raises(psycopg.DataError) as refused:
        queue.enqueue("k", priority=10)
    assert refused.value.sqlstate == "22023"
    with pytest.raises(psycopg.errors.ProgramLimitExceeded):
        queue.enqueue("k", "x" * 2_000_000)


def test_a_database_without_pgq_raises_not_installed(conn: Connection) -> None:
    """Functions and views raise it with a hint."""
    with pytest.raises(pgq.NotInstalled) as caught:
        Queue(conn, schema="pg_catalog").enqueue("k")
    assert caught.value.hint
    conn.execute("SET search_path = pg_catalog")
    for call in (WorkerQueue(conn).claim, Queue(conn).version, Views(conn).stats):
        with pytest.raises(pgq.NotInstalled, match="does not exist"):
            call()


def test_the_views_filter_and_count(queue: WorkerQueue) -> None:
    """The newest jobs come first, and each filter leaves out the jobs that do not match."""
    ids = [queue.enqueue(kind, queue=name).id for kind, name in (("a", "q"), ("b", "q"), ("a", "r"))]
    (running,) = queue.claim(["r"], worker="me")
    views = Views(queue.conn)
    assert [row["id"] for row in views.jobs()] == ids[::-1]
    assert [row["id"] for row in views.jobs(state="running")] == [running.id]
    assert [row["id"] for row in views.jobs(queue="q", kind="b")] == [ids[1]]
    assert [row["id"] for row in views.jobs(limit=1)] == ids[2:]
    counts = [(row["queue"], row["kind"], row["waiting"], row["ripe"], row["running"]) for row in views.stats()]
    assert counts == [("q", "a", 1, 1, 0), ("q", "b", 1, 1, 0), ("r", "a", 0, 0, 1)]


def test_a_delay_of_a_day_is_24_hours(conn: Connection, queue: Queue) -> None:
    """This holds for enqueue and enqueue_many, in the night in which the session's time zone changes its clock."""
    conn.execute("SET timezone = 'Europe/Berlin'")
    conn.execute("SET pgq.now = '2030-03-30 12:00+01'")
    queue.enqueue("one", delay=timedelta(days=1))
    queue.enqueue_many([{"kind": "many", "delay": timedelta(days=1)}])
    delays = conn.execute("SELECT extract(epoch FROM ripe_at - pgq_now())::integer FROM pgq_jobs").fetchall()
    assert delays == [(86400,), (86400,)]


def test_a_missing_schema_raises_not_installed(conn: Connection) -> None:
    with pytest.raises(pgq.NotInstalled):
        Queue(conn, schema="nowhere").enqueue("k")


@pytest.mark.parametrize("factory", [psycopg.ClientCursor, psycopg.RawCursor])
def test_a_queue_works_with_any_cursor_and_row_factory(conn: Connection, factory: Any) -> None:
    """The queue, the views and the readings use cursors of their own, whatever the connection's factories are."""
    conn.cursor_factory, conn.row_factory = factory, psycopg.rows.dict_row  # type: ignore[assignment]
    queue = WorkerQueue(conn)
    enqueued = queue.enqueue("k", {"to": "ann"}, delay="0")
    assert [row["id"] for row in Views(conn).jobs("waiting")] == [enqueued.id]
    assert overview.read(conn).ids == enqueued.id
    assert doctor.examine(conn, checks=()).findings == ()
    (job,) = queue.claim()
    queue.complete(job)
    assert (job.id, job.args, enqueued.created) == (enqueued.id, {"to": "ann"}, True)
