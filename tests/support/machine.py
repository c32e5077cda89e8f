"""What a machine needs to live lives of jobs on two connections and in a model: time, calls, a comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from psycopg.rows import class_row

from support.database import Connection
from support.hunt import clean
from support.model import Job, Model, Order, Refused

SEE = (
    "SELECT j.id, j.kind, j.args, j.queue, j.priority, j.ripe_at, j.max_retries, j.backoff, j.dedup, j.dedup_key, "
    "j.enqueued_at, j.state, j.attempt, "
    "ARRAY(SELECT e ->> 'error' FROM jsonb_array_elements(j.errors) AS e) AS errors, r.token, "
    "j.lease_until, j.result, j.ended_at FROM pgq_jobs AS j LEFT JOIN pgq_running AS r USING (id)"
)

# Few of each, so that twins meet.
kinds = st.sampled_from(["k", "k", "k", "l"])
queues = st.sampled_from(["default", "default", "a"])
leases = st.sampled_from([timedelta(minutes=1), timedelta(minutes=5), timedelta(0)])
spans = st.sampled_from(
    [timedelta(0), timedelta(seconds=1), timedelta(minutes=1), timedelta(minutes=5), timedelta(days=1)]
)
policies = st.sampled_from(["soonest", "replace", "keep", "replace", "soonest", "error"])
orders = st.builds(
    Order,
    kind=kinds,
    args=st.sampled_from([{"n": 1}, {"n": 1}, None]),
    queue=queues,
    ripe_in=st.none() | spans,
    priority=st.sampled_from([0, 5, 9]),
    max_retries=st.sampled_from([0, 1, 3, 3]),
    backoff=st.sampled_from([timedelta(minutes=1), timedelta(minutes=40), timedelta(0)]),
    dedup=st.sampled_from([True, True, True, False]),
    dedup_key=st.sampled_from([None, None, "x"]),
    on_duplicate=policies,
)
names = st.sampled_from([["default", "a"], ["a", "default", "a"], ["default"], ["a"]])
# On which of the two connections, and whether the transaction commits.
wheres = st.tuples(st.integers(0, 1), st.sampled_from([True, True, True, False]))
# Counted from the newest.
picks = st.integers(0, 7)
claims = st.tuples(picks, st.sampled_from(["own"] * 6 + ["stale", "crossed"]))
texts = st.sampled_from([None, "broken", 'a\\b"é'])
results = st.sampled_from([None, 0, {"a": [1]}])

# Time passes in these, and leases end in between.
TICK = timedelta(milliseconds=1)

Where = tuple[int, bool]
Claim = tuple[int, str]
Rows = list[tuple[Any, ...]] | None


def some(*states: str) -> Callable[[Any], Any]:
    """Only while there is a job in one of these states: most calls would be refused otherwise."""
    return precondition(lambda self: any(job.state in states for job in self.model.jobs.values()))


class Machine(RuleBasedStateMachine):
    """After each rule, which makes a call and lets the model do the same, the tables and the model agree."""

    connections: tuple[Connection, ...]

    def __init__(self) -> None:
        super().__init__()
        clean(*self.connections)
        for conn in self.connections:
            conn.execute("SET TimeZone = 'UTC'; SET pgq.jitter = '0'")
        self.model = Model(datetime(2030, 1, 1, tzinfo=UTC))
        self.claims = [(0, 0)]
        self.leases = 0
        self.travel(timedelta(0))

    def call(self, where: Where, query: str, parameters: Sequence[Any], expect: Callable[[Model, Rows], Any]) -> None:
        """Make a call. ``expect`` is told the answer, for the sake of new ids and tokens, and says what it must be."""
        conn, commits = self.connections[where[0]], where[1]
        rows: Rows = None
        refusal = None
        if not commits:
            conn.execute("BEGIN")
        try:
            rows = conn.execute(query.encode(), parameters).fetchall()
        except psycopg.Error as error:
            refusal = error.sqlstate
        if not commits:
            conn.execute("ROLLBACK")

        trial = self.model.copy()
        try:
            expected = expect(trial, rows)
        except Refused as refused:
            trial, expected = self.model, str(refused)
        # What void looks like.
        assert (refusal or rows) == ([("",)] if expected is None else expected)
        if commits:
            self.model = trial

    def job(self, pick: int, *states: str) -> int:
        """The id of a job, most of the time of one in these states; of none, if there are no jobs."""
        fitting = [job.id for job in self.model.jobs.values() if job.state in states]
        ids = fitting if fitting and pick else [0, *self.model.jobs]
        return ids[-1 - pick % len(ids)]

    def claimed(self, claim: Claim) -> tuple[int, int]:
        """The id and token of a claim that is not over, unless a stale one or the token of another is asked for."""
        pick, which = claim
        live = [(job.id, job.token) for job in self.model.jobs.values() if job.token is not None] or self.claims
        own, old = live[-1 - pick % len(live)], self.claims[-1 - pick % len(self.claims)]
        return {"own": own, "stale": old, "crossed": (own[0], old[1])}[which]

    def lease(self, span: timedelta) -> timedelta:
        """A lease that ends when no other does, so that there is one order in which they run out."""
        self.leases += 1
        return span + timedelta(microseconds=self.leases)

    @rule(
        span=st.sampled_from(
            [timedelta(milliseconds=1), timedelta(seconds=59), timedelta(minutes=4), timedelta(hours=7)]
        )
    )
    def travel(self, span: timedelta) -> None:
        """Time passes."""
        self.model.now += span
        for conn in self.connections:
            conn.execute("SELECT set_config('pgq.now', %s, false)", [self.model.now.isoformat()])

    @some("waiting", "running")
    @rule(pick=picks, ticks=st.integers(-1, 1))
    def travel_to_a_job(self, pick: int, ticks: int) -> None:
        """Time passes, until a job is ripe or its lease over, or just before or after that; then there is a claim."""
        moments = {job.ripe_at for job in self.model.jobs.values()} | {
            job.lease_until for job in self.model.jobs.values()
        }
        later = sorted(moment for moment in moments if moment and moment > self.model.now)
        if later:
            span = (later[pick % len(later)] - self.model.now) // TICK + ticks
            self.travel(max(span, 0) * TICK)
            self.take((0, True), ["default", "a"], 3, self.lease(timedelta(minutes=1)))

    def new_id(self, model: Model, rows: Rows, n: int, column: int) -> int:
        """The id that a call has given to a job; where it has not, one that fits nowhere."""
        new = rows[n][column] if rows else -1 - n
        return new if new not in model.jobs else -1 - n

    def take(self, where: Where, names: list[str], max_jobs: int, lease: timedelta, locked: int | None = None) -> None:
        """Claim, while ``locked`` is held by the other connection."""
        old = {token for _, token in self.claims}

        def expect(model: Model, rows: Rows) -> list[Any]:
            taken = model.claim(names, max_jobs, lease, locked)
            for job, row in zip(taken, rows or [], strict=False):
                assert row[1] not in old
                old.add(row[1])
                model.jobs[job.id] = Job(**(vars(job) | {"token": row[1]}))
                # Also of claims that roll back: nobody holds anything under those.
                self.claims.append((job.id, row[1]))
            return [(job.id, model.jobs[job.id].token, job.attempt, job.args, job.lease_until) for job in taken]

        self.call(
            where,
            "SELECT id, token, attempt, args, lease_until FROM pgq_claim(%s, %s, %s)",
            [names, max_jobs, lease],
            expect,
        )

    @invariant()
    def agree(self) -> None:
        """The tables hold what the model says, and nothing else."""
        with self.connections[0].cursor(row_factory=class_row(Job)) as cursor:
            assert {job.id: job for job in cursor.execute(SEE)} == self.model.jobs
