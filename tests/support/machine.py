"""A state machine for jobs on two connections and in a model: time, calls, comparison."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from psycopg.rows import class_row

from support.database import Connection, one
from support.errors import astray
from support.hunt import clean
from support.job import Job, Order, Refused
from support.model import Model
from support.signatures import missigned

SEE = (
    "SELECT j.id, j.kind, j.args, j.queue, j.priority, j.ripe_at, j.max_retries, j.backoff, j.dedup, j.dedup_key, "
    "j.enqueued_at, j.state, j.attempt, "
    "ARRAY(SELECT e ->> 'error' FROM jsonb_array_elements(j.errors) AS e) AS errors, "
    "ARRAY(SELECT (e ->> 'at')::timestamptz FROM jsonb_array_elements(j.errors) AS e) AS failed_at, r.token, "
    "j.lease_until, j.cancel_requested_at IS NOT NULL AS requested, j.result, j.ended_at, "
    "coalesce(r.losses, j.losses) AS losses, j.group_key "
    "FROM pgq_jobs AS j LEFT JOIN _pgq_running AS r USING (id)"
)

# Few values of each, so that jobs are often twins.
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
    dedup_for=st.sampled_from([None, None, None, timedelta(minutes=1), timedelta(days=1)]),
).map(lambda order: order if order.dedup else replace(order, dedup_for=None))
names = st.sampled_from([["default", "a"], ["a", "default", "a"], ["default"], ["a"]])
# One of the two connections, and whether the transaction commits.
wheres = st.tuples(st.integers(0, 1), st.sampled_from([True, True, True, False]))
# Positions of jobs or claims, counted from the newest.
picks = st.integers(0, 7)
claims = st.tuples(picks, st.sampled_from(["own"] * 6 + ["stale", "crossed"]))
texts = st.sampled_from([None, "broken", 'a\\b"é'])
results = st.sampled_from([None, 0, {"a": [1]}])

# The clock moves by whole ticks; leases end between two of them.
TICK = timedelta(milliseconds=1)

Where = tuple[int, bool]
Claim = tuple[int, str]
Rows = list[tuple[Any, ...]] | None


def some(*states: str) -> Callable[[Any], Any]:
    """Run a rule only while a job is in one of these states; most calls would be refused otherwise."""
    return precondition(lambda self: any(job.state in states for job in self.model.jobs.values()))


class Machine(RuleBasedStateMachine):
    """Each rule makes a call on the database and on the model; afterwards the tables and the model agree."""

    connections: tuple[Connection, ...]
    model_of: Callable[[datetime], Model] = Model
    claim_query = "SELECT id, token, attempt, args, lease_until FROM pgq_claim(%s, %s, %s)"

    def __init__(self) -> None:
        super().__init__()
        clean(*self.connections)
        for conn in self.connections:
            conn.execute("SET TimeZone = 'UTC'; SET pgq.jitter = '0'")
        self.model = type(self).model_of(datetime(2030, 1, 1, tzinfo=UTC))
        self.claims = [(0, 0)]
        self.leases = 0
        self.claimed_at = self.model.now
        self.travel(timedelta(0))

    def call(self, where: Where, query: str, parameters: Sequence[Any], expect: Callable[[Model, Rows], Any]) -> None:
        """Make a call. ``expect`` gets its rows, for their new ids and tokens, and returns the expected result."""
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
        # A function that returns void returns an empty text.
        assert (refusal or rows) == ([("",)] if expected is None else expected)
        if commits:
            self.model = trial

    def job(self, pick: int, *states: str) -> int:
        """Return the id of a job, mostly of one in these states; 0 if there is none."""
        fitting = [job.id for job in self.model.jobs.values() if job.state in states]
        ids = fitting if fitting and pick else [0, *self.model.jobs]
        return ids[-1 - pick % len(ids)]

    def claimed(self, claim: Claim) -> tuple[int, int]:
        """Return id and token of a live claim; for "stale" those of an old claim, for "crossed" another job's token."""
        pick, which = claim
        live = [(job.id, job.token) for job in self.model.jobs.values() if job.token is not None] or self.claims
        own, old = live[-1 - pick % len(live)], self.claims[-1 - pick % len(self.claims)]
        return {"own": own, "stale": old, "crossed": (own[0], old[1])}[which]

    def lease(self, span: timedelta) -> timedelta:
        """Return a lease that ends at a time of its own, so that leases end in a defined order."""
        self.leases += 1
        return span + timedelta(microseconds=self.leases)

    @rule(
        span=st.sampled_from(
            [timedelta(milliseconds=1), timedelta(seconds=59), timedelta(minutes=4), timedelta(hours=7)]
        )
    )
    def travel(self, span: timedelta) -> None:
        """Move the clock."""
        self.model.now += span
        for conn in self.connections:
            conn.execute("SELECT set_config('pgq.now', %s, false)", [self.model.now.isoformat()])

    @some("waiting", "running")
    @rule(pick=picks, ticks=st.integers(-1, 1))
    def travel_to_a_job(self, pick: int, ticks: int) -> None:
        """Move the clock to a job's ripe_at or lease_until, or just before or after it, and claim."""
        later = sorted(moment for moment in self.moments() if moment and moment > self.model.now)
        if later:
            span = (later[pick % len(later)] - self.model.now) // TICK + ticks
            self.travel(max(span, 0) * TICK)
            self.take((0, True), ["default", "a"], 3, self.lease(timedelta(minutes=1)))

    def moments(self) -> set[datetime | None]:
        """Return the times at which something may happen to a job."""
        jobs = self.model.jobs.values()
        return {job.ripe_at for job in jobs} | {job.lease_until for job in jobs}

    def new_id(self, model: Model, rows: Rows, n: int, column: int) -> int:
        """Return the id that a call has given to a new job, or else a number that no job has."""
        new = rows[n][column] if rows else -1 - n
        return new if new not in model.jobs else -1 - n

    def packed_with(self, job_id: int) -> set[int]:
        """Return the ids of the jobs that are packed into one row with a job; that of the job if it is in its own."""
        query = "SELECT p.id FROM _pgq_packed AS p JOIN _pgq_packed AS o USING (token) WHERE o.id = %s"
        return {row[0] for row in self.connections[0].execute(query, [job_id])} | {job_id}

    def take(
        self, where: Where, names: list[str], max_jobs: int, lease: timedelta, locked: Collection[int] = ()
    ) -> None:
        """Claim jobs while the other connection has these jobs ``locked``."""
        old = {token for _, token in self.claims}

        def expect(model: Model, rows: Rows) -> list[Any]:
            taken = self.taken(model, rows, names, max_jobs, lease, locked)
            tokens = {row[1] for row in rows or []}
            assert len(tokens) == bool(rows)
            assert not tokens & old
            # The claims whose times are counted let all their jobs be kept that may be.
            timed = any(one(self.connections[0], "SELECT _pgq_is_timed(%s)", token) for token in tokens)
            for job, row in zip(taken, rows or [], strict=False):
                model.jobs[job.id] = replace(job, token=row[1], kept=job.kept or timed)
                # Tokens of claims that roll back, too: no job is held under them.
                self.claims.append((job.id, row[1]))
            return [(job.id, model.jobs[job.id].token, job.attempt, job.args, job.lease_until) for job in taken]

        self.call(where, self.claim_query, [names, max_jobs, lease], expect)
        if where[1] and self.model.now - self.claimed_at > timedelta(minutes=1):
            # A pass over the jobs that have ended begins once a minute.
            assert self.old() & {row[0] for row in self.connections[0].execute("SELECT id FROM pgq_ended")} == set()
        self.claimed_at = self.model.now

    def taken(
        self, model: Model, rows: Rows, names: list[str], max_jobs: int, lease: timedelta, locked: Collection[int]
    ) -> list[Job]:
        """Return the jobs that a claim takes in the model, without their tokens."""
        return model.claim(names, max_jobs, lease, locked)

    def old(self) -> set[int]:
        """Return the ids of the jobs that a claim deletes, now or a little later."""
        return {job.id for job in self.model.jobs.values() if self.model.is_old(job)}

    def placed(self, order: Order) -> Order:
        """Return an order with its group."""
        return order

    @invariant()
    def agree(self) -> None:
        """The tables hold what the model says, and nothing else."""
        with self.connections[0].cursor(row_factory=class_row(Job)) as cursor:
            found = {job.id: job for job in cursor.execute(SEE)}
        for job_id in self.old() - found.keys():
            del self.model.jobs[job_id]
        assert found == self.model.jobs
        windows = self.connections[0].execute("SELECT id, until FROM pgq_seen WHERE until > %s", [self.model.now])
        assert sorted(windows) == sorted(at for at in self.model.windows.values() if at[1] > self.model.now)
        assert astray(self.connections[0]) == []
        assert missigned(self.connections[0]) == []
