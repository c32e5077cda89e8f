"""Every public function, called with any arguments, works or refuses with a fitting SQLSTATE, and breaks nothing."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from hypothesis import given, seed
from hypothesis import strategies as st
from psycopg import sql
from support.database import Connection, one
from support.hunt import SEED, bounds, clean, hunt
from support.values import OF_TYPE, json_values

from pgq import Job, PayloadError, WorkerQueue

# Data exception, integrity constraint, another transaction, access rule and syntax, program limit, wrong state, and
# pgq's own.
FITTING = re.compile("22|23|25000|42|54|55|PGQ")

# Now, and two times later than any that the calls ask for: a hundred years, and the jitter on top.
NOW, LATER, LATEST = "1990-01-01Z", "2101-01-01Z", "2212-01-01Z"

# Usual values of the arguments, by name or else by type.
MEANT = {
    "queues": ["{default}", "{a,default,b}", "{a,a,a}"],
    "queue": ["default", "a"],
    "prefixes": ['{""}', "{a,d}"],
    "kinds": ["{k}", "{k,mail}"],
    "args": ["{}", "1"],
    "payload": ['{"ok": true}', "null"],
    "saved": ['{"step": 1}', "null"],
    "on_duplicate": ["keep", "replace", "soonest", "error"],
    "outcome": ["dead", "cancelled", "done"],
    "group_key": ["a", "b"],
    "after": ["{}", "{1}", "{1,2}"],
    "after_failed": ["cancel", "run", "wait"],
    "settings": [
        '{"max_running": 2}',
        '{"max_retries": 3, "backoff": "1 minute"}',
        '{"keep_done": "1 day"}',
        '{"lease": null}',
        "{}",
    ],
    "cron": ["0 7 * * mon-fri", "*/5 * * * *", "every 90 seconds"],
    "timezone": ["UTC", "Europe/Berlin"],
    "catch_up": ["one", "all", "none"],
    "overlap": ["skip", "allow"],
    "name": ["w"],
    "worker": ["w"],
    "role": ["pgq_fuzz"],
    "privilege": ["producer", "worker", "admin", "reader"],
    "text": ["k", "mail"],
    "bigint": ["1", "9"],
    "boolean": ["true", "false"],
    "timestamp with time zone": ["1989-12-31Z", "1990-01-02Z", "1950-01-01Z", "2089-01-01Z"],
    "interval": ["1 second", "1 hour", "100 years"],
    "jsonb": ["null", '{"to": "ann"}'],
}


@dataclass(frozen=True)
class Function:
    """A public function, as described by the catalogue."""

    name: str
    arguments: tuple[tuple[str, str], ...] = field(repr=False)
    required: int = field(repr=False)


@dataclass(frozen=True)
class Live:
    """A placeholder for ids or tokens of jobs that exist when the call is made."""

    places: tuple[int, ...]


Value = str | Live | None
Call = tuple[Function, dict[str, Value]]


def functions(conn: Connection) -> list[Function]:
    """Return the public functions that take arguments."""
    rows = conn.execute(
        "SELECT p.proname, p.pronargs - p.pronargdefaults, (p.proargnames)[:p.pronargs], "
        "ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proargtypes) AS t) "
        "FROM pg_proc AS p "
        "WHERE p.pronamespace = current_schema()::regnamespace AND p.proname ~ '^pgq_' AND p.pronargs > 0 "
        "ORDER BY p.proname"
    ).fetchall()
    return [Function(name, tuple(zip(names, types, strict=True)), required) for name, required, names, types in rows]


def meant(name: str, kind: str) -> st.SearchStrategy[str]:
    """Draw a usual value of an argument."""
    return st.sampled_from(MEANT.get(name) or MEANT[kind])


def jobs_of(enqueue: Function) -> st.SearchStrategy[str]:
    """Draw arrays for pgq_enqueue_many: objects whose keys are arguments of pgq_enqueue, with a few strange values."""

    def item(name: str, kind: str) -> st.SearchStrategy[str]:
        usual = meant(name, kind)
        given = st.one_of(usual, usual, usual, OF_TYPE[kind])
        as_json = given if kind in {"jsonb", "bigint", "boolean"} else given.map(json.dumps)
        return st.one_of(*[as_json] * 9, json_values).map(lambda text: f'"{name}": {text}')

    kind, *others = enqueue.arguments
    chosen = st.lists(st.sampled_from(others), max_size=4, unique_by=lambda argument: argument[0])
    job = st.tuples(item(*kind), chosen.flatmap(lambda keys: st.tuples(*(item(*key) for key in keys)))).map(
        lambda drawn: f"{{{', '.join([drawn[0], *drawn[1]])}}}"
    )
    return st.lists(st.one_of(*[job] * 9, json_values), max_size=4).map(lambda jobs: f"[{', '.join(jobs)}]")


@st.composite
def calls(draw: st.DrawFn, known: list[Function]) -> Call:
    """Draw a call of any function with some of its arguments, of which up to two are strange."""
    function = draw(st.sampled_from(known))
    optional = function.arguments[function.required :]
    given = function.arguments[: function.required] + tuple(a for a in optional if draw(st.integers(0, 2)) == 0)
    strange = draw(st.sets(st.integers(0, max(0, len(given) - 1)), max_size=2))
    live = draw(st.integers(0, 15))
    values: dict[str, Value] = {}
    for n, (name, kind) in enumerate(given):
        if n in strange:
            values[name] = draw(st.one_of(*[OF_TYPE[kind]] * 3, st.none()))
        elif name in {"id", "token"}:
            values[name] = Live((live,))
        elif name in {"ids", "tokens", "done_ids", "done_tokens"}:
            values[name] = Live((live, live + 1))
        elif name == "jobs":
            values[name] = draw(jobs_of(next(f for f in known if f.name == "pgq_enqueue")))
        else:
            values[name] = draw(meant(name, kind))
    return function, values


class Target:
    """A database with some jobs in each state, and a count of the results of the calls so far."""

    def __init__(self, conn: Connection) -> None:
        self.conn = conn
        self.queue = WorkerQueue(conn)
        self.results: Counter[tuple[str, str]] = Counter()
        conn.execute("DROP ROLE IF EXISTS pgq_fuzz")
        conn.execute("CREATE ROLE pgq_fuzz")

    def attack(self, batch: list[Call]) -> None:
        """Make these calls, then check that every remaining job can be ended."""
        self.prepare()
        for call in batch:
            self.make(call)
        self.finish()

    def travel(self, to: str) -> None:
        """Set pgq's clock."""
        self.conn.execute("SELECT set_config('pgq.now', %s, false)", [to])

    def prepare(self) -> None:
        """
        Start again with four running jobs of a present worker, one of which it is asked to cancel, four waiting jobs,
        one of them with a key, an ended one, the last job of their batch, and a schedule.
        """
        clean(self.conn)
        self.travel(NOW)
        self.queue.enqueue_batch("last", 8, [{"kind": "k", "args": n, "max_retries": n % 3} for n in range(8)])
        self.queue.enqueue("k", dedup_key="k")
        self.conn.execute("SELECT pgq_register('w'), pgq_schedule('w', '@yearly', 'k')")
        claimed = self.queue.claim(max_jobs=6, worker="w")
        self.queue.fail(claimed.pop(), "late", "0")
        self.queue.cancel_claimed(claimed.pop())
        self.queue.cancel(claimed[0].id)
        rows = self.conn.execute("SELECT id FROM pgq_jobs ORDER BY state, id").fetchall()
        held = {job.id: job.token for job in claimed}
        self.live = [(row[0], held.get(row[0], 0)) for row in rows]

    def make(self, call: Call) -> None:
        """Make a call, and check that it succeeds or fails with a fitting SQLSTATE."""
        function, given = call
        parameters = {name: self.resolve(name, value) for name, value in given.items()}
        named = sql.SQL(", ").join(
            sql.SQL("{} => {}::" + kind).format(sql.Identifier(name), sql.Placeholder(name))
            for name, kind in function.arguments
            if name in parameters
        )
        query = sql.SQL("SELECT * FROM {}({})").format(sql.Identifier(function.name), named)
        result = "fine"
        try:
            self.conn.execute(query, parameters)
        except psycopg.Error as error:
            result = error.sqlstate or "no SQLSTATE"
        assert not self.conn.broken, f"{function.name}: the backend is gone"
        assert result == "fine" or FITTING.match(result), f"{function.name}: {result}"
        self.results[function.name, result] += 1

    def resolve(self, name: str, value: Value) -> Any:
        """Return the text of a value, with placeholders replaced by ids or tokens."""
        if not isinstance(value, Live):
            return value
        column = 1 if "token" in name else 0
        numbers = [str(self.live[place % len(self.live)][column]) for place in value.places]
        return f"{{{','.join(numbers)}}}" if name.endswith("s") else numbers[0]

    def finish(self) -> None:
        """Check that all remaining jobs can be claimed in time, and ended, once nothing is paused or scheduled."""
        self.travel(LATER)
        self.conn.execute("SELECT pgq_unschedule(name) FROM pgq_schedules")
        self.conn.execute("SELECT pgq_resume(queue, group_key) FROM pgq_paused")
        while batch := self.claim():
            self.queue.complete_many([job for job in batch if job.id % 3])
            for job in batch:
                if job.id % 3 == 0:
                    self.queue.fail(job, "\\ \U0001f600", "0")
                    self.conn.execute("UPDATE pgq_waiting SET ripe_at = %s WHERE id = %s", [LATEST, job.id])
        self.travel(LATEST)
        while batch := self.claim():
            assert self.queue.complete_many(batch) == {job.id for job in batch}
        assert one(self.conn, "SELECT count(*) FROM pgq_jobs WHERE state IN ('waiting', 'running')") == 0

    def claim(self) -> list[Job]:
        """Claim all ripe jobs, and decode their arguments where Python can."""
        queues = [row[0] for row in self.conn.execute("SELECT queue FROM pgq_jobs GROUP BY queue").fetchall()]
        jobs = self.queue.claim(queues or ["default"], 10_000, "1 minute", "driver")
        for job in jobs:
            try:
                _ = job.args
            except PayloadError:
                assert re.search(r"\d{4000}|\[{900}|(\{\"a\": ){900}", job.payload)
        return jobs


def test_any_call_works_or_is_refused_for_a_reason(conn: Connection) -> None:
    """After each batch of calls all live jobs can be claimed, decoded and ended."""
    known = functions(conn)
    target = Target(conn)

    @bounds(300)
    @given(st.lists(calls(known), min_size=5, max_size=12))
    def attack(batch: list[Call]) -> None:
        target.attack(batch)

    hunt(lambda seeded: seeded(attack)())
    # A run in which every call of a function is refused finds nothing. Which calls are drawn depends on the number of
    # functions and arguments, so one round may have no good call of a function.
    for n in range(1, 6):
        if all(target.results[function.name, "fine"] for function in known):
            break
        seed(SEED + n)(attack)()
    for function in known:
        assert target.results[function.name, "fine"], f"no call of {function.name} was fine: {target.results}"


def test_every_argument_type_has_strange_values(conn: Connection) -> None:
    """A function with an argument of a new type must not be left out."""
    assert {kind for function in functions(conn) for _, kind in function.arguments} <= set(OF_TYPE)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("PERFORM pg_terminate_backend(pg_backend_pid())", "the backend is gone"),
        ("RAISE EXCEPTION USING ERRCODE = 'XX000'", "XX000"),
        ("UPDATE pgq_waiting SET ripe_at = '4000-01-01'", "assert 4 == 0"),
        ("UPDATE pgq_waiting SET priority = 10", "assert 4 == 0"),
        ("UPDATE pgq_running SET lease_until = 'infinity'", "assert 4 == 0"),
    ],
    ids=["lost backend", "internal error", "unreachable job", "no lane", "endless lease"],
)
def test_the_fuzz_test_catches_a_broken_function(conn: Connection, body: str, found: str) -> None:
    """The function that is added here does what no function may do."""
    conn.execute(f"CREATE FUNCTION pgq_bad() RETURNS void LANGUAGE plpgsql AS $$BEGIN {body}; END$$".encode())
    target = Target(conn)
    with pytest.raises(AssertionError, match=found):
        target.attack([(Function("pgq_bad", (), 0), {})])
