"""The bounded readings in Python: a snapshot under a timeout, and the rates between snapshots."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from support.database import As, Connection

import pgq
from pgq import WorkerQueue
from pgq.overview import PARTS, Counters, History, KindNumbers, Snapshot, read
from pgq.overview.history import SPACING
from pgq.overview.reading import SOURCES

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def at(second: float, *, waiting: int = 0, done: int = 0, ids: int | None = None, **more: Any) -> Snapshot:
    """Return a snapshot of a queue with jobs of one kind, ``second`` seconds after noon."""
    numbers = KindNumbers("q", "k", waiting, waiting, 0, 0, 0, 0, 0, None, None, more.pop("estimated", False))
    counters = Counters("q", "k", done, done, 0, 0, 0, 0, 0, 2.0 * done, done, 0.5 * done)
    counters = replace(counters, **{name: more.pop(name) for name in list(more) if hasattr(counters, name)})
    return Snapshot(NOON + timedelta(seconds=second), 0.01, (numbers,), (counters,), ids, **more)


def history(*snapshots: Snapshot) -> History:
    """Return a history of these snapshots."""
    found = History()
    for snapshot in snapshots:
        found.add(snapshot)
    return found


@pytest.mark.parametrize("part", [part for part, source in SOURCES.items() if source.row])
def test_rows_have_the_columns_that_the_database_returns(conn: Connection, part: str) -> None:
    source = SOURCES[part]
    assert source.row is not None
    description = conn.execute(f"SELECT * FROM {source.source}".encode()).description
    assert [column.name for column in description or ()] == [field.name for field in fields(source.row)]


def test_a_snapshot_has_all_parts(conn: Connection, queue: WorkerQueue) -> None:
    queue.enqueue("k", queue="q", max_retries=0)
    queue.enqueue("stopped", queue="stopped")
    queue.pause("stopped")
    queue.register("w", ["q"])
    (job,) = queue.claim(["q"], worker="w")
    queue.fail(job, "why\nTraceback")
    snapshot = read(conn)
    assert not snapshot.unknown
    assert [(row.queue, row.kind, row.waiting, row.dead) for row in snapshot.kinds] == [
        ("q", "k", 0, 1), ("stopped", "stopped", 1, 0),
    ]  # fmt: skip
    assert [(row.queue, row.failed, row.dead) for row in snapshot.counters] == [("q", 1, 1)]
    assert snapshot.ids == 2
    assert [row.queue for row in snapshot.waits] == ["stopped"]
    assert [(row.error, row.jobs) for row in snapshot.deaths] == [("why", 1)]
    assert [(row.queue, row.why) for row in snapshot.places] == [("stopped", "paused")]
    assert [(row.name, row.present, row.running) for row in snapshot.workers] == [("w", True, 0)]
    values = json.loads(json.dumps(snapshot.as_json()))
    assert datetime.fromisoformat(values["at"]) == snapshot.at
    assert values["places"][0]["why"] == "paused"
    assert values["waits"][0]["age"] == snapshot.waits[0].age.total_seconds()


def test_only_the_parts_that_are_asked_for_are_read(conn: Connection) -> None:
    conn.execute("DROP FUNCTION pgq_overview_counters")
    assert read(conn, parts=["ids", "waits"]).ids == 0


def test_what_takes_too_long_is_unknown_and_the_rest_is_known(conn: Connection, queue: WorkerQueue) -> None:
    queue.enqueue("k")
    conn.execute(
        "CREATE OR REPLACE FUNCTION _pgq_tally_running(seen text[]) RETURNS SETOF _pgq_tally LANGUAGE sql "
        "AS 'SELECT NULL::_pgq_tally FROM pg_sleep(600)'"
    )
    snapshot = read(conn, timeout=0.2)
    assert snapshot.unknown == {"kinds": "it takes longer than 0.2 s to read"}
    assert snapshot.kinds == ()
    assert [row.kind for row in snapshot.waits] == ["k"]
    # The next statement of the connection has no timeout.
    assert conn.execute("SHOW statement_timeout").fetchall() == [("20s",)]


def test_a_connection_in_a_transaction_is_refused(conn: Connection) -> None:
    with conn.transaction(), pytest.raises(ValueError, match="is in a transaction"):
        read(conn)
    with pytest.raises(TypeError):
        read("dbname=x")  # type: ignore[arg-type]


def test_each_role_reads_its_queues(as_: As) -> None:
    owner = as_("owner")
    pgq.install(owner)
    queue = WorkerQueue(owner)
    for name in ("mine", "theirs"):
        queue.enqueue("k", queue=name, max_retries=0)
        (job,) = queue.claim([name])
        queue.fail(job, "secret")
        queue.enqueue("k", queue=name)
    web = as_("web")
    owner.execute("GRANT USAGE ON SCHEMA public TO web")
    with pytest.raises(psycopg.errors.InsufficientPrivilege) as caught:
        read(web)
    assert caught.value.__notes__ == [
        "hint: Ask the owner of pgq to run SELECT pgq_grant('web', 'reader')."
    ]  # fmt: skip
    queue.grant("web", "reader", ["mine"])
    snapshot = read(web)
    assert not snapshot.unknown
    assert {row.queue for row in snapshot.kinds} == {row.queue for row in snapshot.counters} == {"mine"}
    assert [row.queue for row in snapshot.waits] == ["mine"]
    assert [(row.queue, row.error) for row in snapshot.deaths] == [("mine", None)]
    assert snapshot.ids is None
    queue.grant("web", "admin", ["mine"])
    assert [(row.queue, row.error) for row in read(web).deaths] == [("mine", "secret")]
    owner.execute("REVOKE EXECUTE ON FUNCTION pgq_overview_waits FROM web")
    snapshot = read(web)
    assert list(snapshot.unknown) == ["waits"]
    assert [row.queue for row in snapshot.kinds] == ["mine"]


def test_rates_are_differences_of_counters() -> None:
    found = history(at(0, waiting=10, done=100), at(10, waiting=30, done=140, failed=5))
    rates = found.rates()
    assert rates is not None
    assert (rates.enqueued, rates.ended, rates.done, rates.failed) == (6, 4, 4, 0.5)
    assert (rates.waited, rates.ran) == (2.0, 0.5)
    assert found.rates(queue="q", kind="k") == rates
    other = found.rates(queue="other")
    assert other is not None
    assert (other.ended, other.waited) == (0, None)
    assert history(at(0)).rates() is None


def test_rates_are_those_of_the_time_that_is_asked_for() -> None:
    found = history(at(0), at(60, done=60), at(120, done=660))
    assert [each and each.ended for each in (found.rates(timedelta(minutes=1)), found.rates(timedelta(hours=1)))] == [
        10, 5.5,
    ]  # fmt: skip
    assert [each and each.ended for each in found.series(3, timedelta(minutes=1))] == [None, 1, 10]


def test_a_chart_has_no_gap_where_snapshots_are_further_apart_than_its_steps() -> None:
    found = history(at(0), at(30, done=30), at(60, done=90))
    assert [each and each.ended for each in found.series(5, timedelta(seconds=15))] == [None, 1, 1, 2, 2]


def test_of_many_waiting_jobs_the_numbers_of_new_ones_tell_what_goes_in() -> None:
    found = history(at(0, waiting=5_000_000, estimated=True, ids=7), at(10, waiting=4_000_000, estimated=True, ids=107))
    total, one = found.rates(), found.rates(queue="q")
    assert total is not None
    assert one is not None
    assert (total.enqueued, one.enqueued) == (10, None)


@pytest.mark.parametrize("later", [at(10, done=4, ids=50), at(10, done=9, ids=3), at(-10, done=9, ids=50)])
def test_after_a_restore_the_history_begins_anew(later: Snapshot) -> None:
    found = history(at(-20, done=1, ids=1), at(0, done=5, ids=5), later)
    assert found.newest is later
    assert found.rates() is None
    found.add(at(20, done=19, ids=60))
    rates = found.rates()
    assert rates is not None
    assert rates.ended is not None
    assert rates.ended > 0


def test_a_snapshot_without_counters_leaves_the_rates_as_they_were() -> None:
    found = history(at(0), at(10, done=10))
    before = found.rates()
    found.add(replace(at(20), counters=(), unknown={"counters": "it takes longer"}))
    assert found.rates() == before
    found.add(replace(at(30, done=30), kinds=(), unknown={"kinds": "it takes longer"}))
    rates = found.rates()
    assert rates is not None
    assert (rates.ended, rates.enqueued) == (1, None)


def test_an_hour_is_kept_and_what_is_older_than_two_minutes_is_thinned() -> None:
    found = History()
    for second in range(0, 7200, 2):
        found.add(at(second, done=second))
    ages = [(found._moments[-1].at - moment.at).total_seconds() for moment in found._moments]
    assert 3600 - SPACING.total_seconds() <= max(ages) <= 3600
    assert len(ages) < 320
    assert all(each and each.ended == 1 for each in found.series(60, timedelta(minutes=1))[1:])
    # What has not changed is stored once.
    found.add(at(7300, done=7198))
    assert found._moments[-1].totals["q", "k"] is found._moments[-2].totals["q", "k"]


def test_all_parts_have_a_source() -> None:
    assert set(PARTS) == {field.name for field in fields(Snapshot)} - {"at", "seconds", "unknown"}
