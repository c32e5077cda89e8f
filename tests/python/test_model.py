"""Random lives of jobs on two connections, step by step beside a model of what pgq promises."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from conftest import Connect, Connection
from hunt import bounds, clean, hunt
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from model import Job, Model, Order, Refused
from psycopg.rows import class_row

SEE = (
    "SELECT j.id, j.kind, j.args, j.queue, j.priority, j.ripe_at, j.max_retries, j.backoff, j.dedup, j.dedup_key, "
    "j.enqueued_at, j.state, j.attempt, "
    "ARRAY(SELECT e ->> 'error' FROM jsonb_array_elements(j.errors) AS e) AS errors, r.token, "
    "j.lease_until, j.result, j.ended_at FROM pgq_job AS j LEFT JOIN pgq_running AS r USING (id)"
)

# Few of each, so that twins meet.
kinds = st.sampled_from(["k", "k", "k", "l"])
queues = st.sampled_from(["default", "default", "a"])
spans = st.sampled_from(
    [timedelta(0), timedelta(seconds=1), timedelta(minutes=1), timedelta(minutes=5), timedelta(days=1)]
)
orders = st.builds(
    Order,
    kind=kinds,
    args=st.sampled_from([{"n": 1}, {"n": 1}, None]),
    queue=queues,
    ripe_in=st.none() | spans,
    priority=st.sampled_from([0, 5, 9]),
    max_retries=st.sampled_from([0, 1, 3, 3]),
    backoff=st.sampled_from([timedelta(minutes=1), timedelta(seconds=1), timedelta(0)]),
    dedup=st.sampled_from([True, True, True, False]),
    dedup_key=st.sampled_from([None, None, "x"]),
    on_duplicate=st.sampled_from(["keep", "replace", "soonest", "error"]),
)
# On which of the two connections, and whether the transaction commits.
wheres = st.tuples(st.integers(0, 1), st.sampled_from([True, True, True, False]))
# Which job, counted from the newest. Which claim, and how far from it the one whose token is shown instead of its own.
picks = st.integers(0, 7)
claims = st.tuples(picks, st.sampled_from([0, 0, 0, 0, 1]))
texts = st.sampled_from([None, "broken", 'a\\b"é'])
results = st.sampled_from([None, 0, {"a": [1]}])

# Time passes in these, and leases end in between.
TICK = timedelta(milliseconds=1)

Where = tuple[int, bool]
Rows = list[tuple[Any, ...]] | None


class Lives(RuleBasedStateMachine):
    """Each rule makes one call and lets the model do the same; after each, the tables and the model agree."""

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

    def job(self, pick: int) -> int:
        """The id of a job, or of none."""
        ids = [0, *sorted(self.model.jobs)]
        return ids[-1 - pick % len(ids)]

    def claimed(self, claim: tuple[int, int]) -> tuple[int, int]:
        """The id and token of a claim that is not over, or of one of the last that are, or of two claims."""
        pick, off = claim
        held = {job.token for job in self.model.jobs.values()}
        known = [one for one in self.claims if one[1] not in held][-2:] + [one for one in self.claims if one[1] in held]
        return known[-1 - pick % len(known)][0], known[-1 - (pick + off) % len(known)][1]

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

    @rule(pick=picks, ticks=st.integers(-1, 1))
    def travel_to_a_job(self, pick: int, ticks: int) -> None:
        """Time passes, until a job is ripe or its lease over, or just before or after that."""
        moments = {job.ripe_at for job in self.model.jobs.values()} | {
            job.lease_until for job in self.model.jobs.values()
        }
        later = sorted(moment for moment in moments if moment and moment > self.model.now)
        if later:
            span = (later[pick % len(later)] - self.model.now) // TICK + ticks
            self.travel(max(span, 0) * TICK)

    @rule(where=wheres, order=orders)
    def enqueue(self, where: Where, order: Order) -> None:
        """A job is new, or the duplicate of one that waits."""
        self.call(
            where,
            "SELECT id, created FROM pgq_enqueue(kind => %s, args => %s::jsonb, queue => %s, delay => %s, "
            "priority => %s, max_retries => %s, backoff => %s, dedup => %s, dedup_key => %s, on_duplicate => %s)",
            [
                order.kind, json.dumps(order.args), order.queue, order.ripe_in, order.priority, order.max_retries,
                order.backoff, order.dedup, order.dedup_key, order.on_duplicate,
            ],
            lambda model, rows: [model.enqueue(order, self.new_id(model, rows, 0, 0))],
        )  # fmt: skip

    @rule(where=wheres, many=st.lists(orders, max_size=5))
    def enqueue_many(self, where: Where, many: list[Order]) -> None:
        """As if each had been enqueued in turn, but all or none."""
        jobs = [
            {
                "kind": order.kind, "args": order.args, "queue": order.queue, "priority": order.priority,
                "delay": None if order.ripe_in is None else f"{order.ripe_in.total_seconds()} s",
                "max_retries": order.max_retries, "backoff": f"{order.backoff.total_seconds()} s",
                "dedup": order.dedup, "dedup_key": order.dedup_key, "on_duplicate": order.on_duplicate,
            }
            for order in many
        ]  # fmt: skip
        self.call(
            where,
            "SELECT n, id, created FROM pgq_enqueue_many(%s::jsonb)",
            [json.dumps(jobs)],
            lambda model, rows: [
                (n + 1, *model.enqueue(order, self.new_id(model, rows, n, 1))) for n, order in enumerate(many)
            ],
        )

    def new_id(self, model: Model, rows: Rows, n: int, column: int) -> int:
        """The id that a call has given to a job; where it has not, one that fits nowhere."""
        new = rows[n][column] if rows else -1 - n
        return new if new not in model.jobs else -1 - n

    @rule(where=wheres, names=st.lists(queues, min_size=1, max_size=3), max_jobs=st.integers(0, 4), span=spans)
    def claim(self, where: Where, names: list[str], max_jobs: int, span: timedelta) -> None:
        """The ripe jobs come in their order, each under a token that was never seen."""
        self.take(where, names, max_jobs, self.lease(span))

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

    @rule(claim=claims, on=st.integers(0, 1), span=spans)
    def hold(self, claim: tuple[int, int], on: int, span: timedelta) -> None:
        """What is held is not taken from its holder, whatever its lease, and can be completed."""
        conn, (job_id, token) = self.connections[on], self.claimed(claim)
        if (job_id, token) not in {(job.id, job.token) for job in self.model.jobs.values()}:
            with pytest.raises(psycopg.Error, match="is not held"):
                conn.execute("SELECT pgq_hold(%s, %s)", [job_id, token])
            return
        with conn.transaction():
            conn.execute("SELECT pgq_hold(%s, %s)", [job_id, token])
            self.travel(span)
            self.take((1 - on, True), ["default", "a"], 2, self.lease(span), job_id)
            self.call(
                (on, True),
                "SELECT pgq_complete(%s, %s)",
                [job_id, token],
                lambda m, _: m.complete(m.held(job_id, token), None),
            )

    @rule(claim=claims, where=wheres, result=results)
    def complete(self, claim: tuple[int, int], where: Where, result: Any) -> None:
        """Only under its token, and then it is over."""
        given = self.claimed(claim)
        self.call(
            where,
            "SELECT pgq_complete(%s, %s, %s::jsonb)",
            [*given, None if result is None else json.dumps(result)],
            lambda model, _: model.complete(model.held(*given), result),
        )

    @rule(some=st.lists(claims, max_size=4), where=wheres)
    def complete_many(self, some: list[tuple[int, int]], where: Where) -> None:
        """Those that were held are over, and are answered."""
        given = [self.claimed(claim) for claim in some]

        def expect(model: Model, _: Rows) -> list[Any]:
            held = [
                model.jobs[i] for i, token in sorted(set(given)) if i in model.jobs and model.jobs[i].token == token
            ]
            for job in held:
                model.complete(job, None)
            return [(job.id,) for job in held]

        self.call(
            where,
            "SELECT id FROM pgq_complete_many(%s::bigint[], %s::bigint[]) AS id ORDER BY id",
            [[job_id for job_id, _ in given], [token for _, token in given]],
            expect,
        )

    @rule(
        claim=claims, where=wheres, error=texts, retry_in=st.none() | spans, retry=st.sampled_from([None, True, False])
    )
    def fail(
        self, claim: tuple[int, int], where: Where, error: str | None, retry_in: timedelta | None, retry: bool | None
    ) -> None:
        """Again after the backoff, or dead, or one with its twin."""
        given = self.claimed(claim)
        self.call(
            where,
            "SELECT outcome, ripe_at FROM pgq_fail(%s, %s, %s, %s, %s)",
            [*given, error, retry_in, retry],
            lambda model, _: [model.fail(model.held(*given), error, retry_in, retry is not False)],
        )

    @rule(claim=claims, where=wheres, reason=texts)
    def discard(self, claim: tuple[int, int], where: Where, reason: str | None) -> None:
        """Cancelled by its worker."""
        given = self.claimed(claim)
        self.call(
            where,
            "SELECT pgq_discard(%s, %s, %s)",
            [*given, reason],
            lambda model, _: model.discard(model.held(*given), reason),
        )

    @rule(claim=claims, where=wheres, span=spans)
    def extend(self, claim: tuple[int, int], where: Where, span: timedelta) -> None:
        """Longer, never shorter."""
        given, lease = self.claimed(claim), self.lease(span)
        self.call(
            where,
            "SELECT pgq_extend(%s, %s, %s)",
            [*given, lease],
            lambda model, _: [(model.extend(model.held(*given), lease),)],
        )

    @rule(claim=claims, where=wheres, span=spans, absolute=st.booleans())
    def snooze(self, claim: tuple[int, int], where: Where, span: timedelta, absolute: bool) -> None:
        """Later, and the attempt does not count."""
        given, until = self.claimed(claim), self.model.now + span
        self.call(
            where,
            "SELECT pgq_snooze(%s, %s, until => %s, delay => %s)",
            [*given, until if absolute else None, None if absolute else span],
            lambda model, _: [(model.put_back(model.held(*given), until, "snoozed"),)],
        )

    @rule(claim=claims, where=wheres)
    def release(self, claim: tuple[int, int], where: Where) -> None:
        """Back at its old place, and the attempt does not count."""
        given = self.claimed(claim)

        def expect(model: Model, _: Rows) -> list[Any]:
            job = model.held(*given)
            return [(model.put_back(job, job.ripe_at, "released"),)]

        self.call(where, "SELECT pgq_release(%s, %s)", given, expect)

    @rule(pick=picks, where=wheres)
    def cancel(self, pick: int, where: Where) -> None:
        """Waiting or running, it is cancelled."""
        job_id = self.job(pick)
        self.call(where, "SELECT pgq_cancel(%s)", [job_id], lambda model, _: model.cancel(job_id))

    @rule(pick=picks, where=wheres)
    def retry(self, pick: int, where: Where) -> None:
        """Dead or cancelled, it comes back."""
        job_id = self.job(pick)
        self.call(where, "SELECT pgq_retry(%s)", [job_id], lambda model, _: [(model.retry(job_id),)])

    @rule(where=wheres, span=spans, outcome=st.sampled_from([None, "dead", "done"]), queue=st.none() | queues)
    def purge(self, where: Where, span: timedelta, outcome: str | None, queue: str | None) -> None:
        """What ended long ago is gone."""
        self.call(
            where,
            "SELECT pgq_purge(%s, %s, %s)",
            [span, outcome, queue],
            lambda model, _: [(model.purge(span, outcome, queue),)],
        )

    @invariant()
    def agree(self) -> None:
        """The tables hold what the model says, and nothing else."""
        with self.connections[0].cursor(row_factory=class_row(Job)) as cursor:
            assert {job.id: job for job in cursor.execute(SEE)} == self.model.jobs


@pytest.fixture
def lives(conn: Connection, connect: Connect) -> type[Lives]:
    """The machine, on two connections to this database."""

    class Here(Lives):
        connections = (conn, connect())

    return Here


def test_jobs_live_as_promised(lives: type[Lives]) -> None:
    """Whatever is called in whatever order, each answer and each table is what the model says."""
    hunt(lambda seed: run_state_machine_as_test(seed(lives), settings=bounds(100)))
