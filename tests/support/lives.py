"""The rules of the state machine: each function of pgq, on the database and in the model."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from support.machine import (
    Claim,
    Machine,
    Rows,
    Where,
    claims,
    leases,
    names,
    orders,
    picks,
    policies,
    queues,
    results,
    some,
    spans,
    texts,
    wheres,
)
from support.model import Model, Order


class Lives(Machine):
    """Call each function of pgq, with arguments that are likely to meet what earlier calls have left."""

    @initialize(many=st.lists(orders, min_size=3, max_size=6))
    def begin(self, many: list[Order]) -> None:
        """Start with some jobs."""
        self.enqueue_many((0, True), many)

    @rule(where=wheres, order=orders)
    def enqueue(self, where: Where, order: Order) -> None:
        """A job is new, or the duplicate of a waiting one."""
        order = self.placed(order)
        self.call(
            where,
            "SELECT id, created FROM pgq_enqueue(kind => %s, args => %s::jsonb, queue => %s, delay => %s, "
            "priority => %s, max_retries => %s, backoff => %s, dedup => %s, dedup_key => %s, on_duplicate => %s, "
            "group_key => %s)",
            [
                order.kind, json.dumps(order.args), order.queue, order.ripe_in, order.priority, order.max_retries,
                order.backoff, order.dedup, order.dedup_key, order.on_duplicate, order.group_key,
            ],
            lambda model, rows: [model.enqueue(order, self.new_id(model, rows, 0, 0))],
        )  # fmt: skip

    @rule(where=wheres, many=st.lists(orders, max_size=5))
    def enqueue_many(self, where: Where, many: list[Order]) -> None:
        """The result is that of enqueueing each in turn, but all or none."""
        many = [self.placed(order) for order in many]
        jobs = [
            {
                "kind": order.kind, "args": order.args, "queue": order.queue, "priority": order.priority,
                "delay": None if order.ripe_in is None else f"{order.ripe_in.total_seconds()} s",
                "max_retries": order.max_retries, "backoff": f"{order.backoff.total_seconds()} s",
                "dedup": order.dedup, "dedup_key": order.dedup_key, "on_duplicate": order.on_duplicate,
                "group_key": order.group_key,
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

    @rule(where=wheres, order=orders, twins=st.lists(st.tuples(policies, st.none() | spans), min_size=2, max_size=4))
    def enqueue_twins(self, where: Where, order: Order, twins: list[tuple[str, timedelta | None]]) -> None:
        """Twins in one array may differ in their time and in on_duplicate."""
        self.enqueue_many(where, [replace(order, on_duplicate=policy, ripe_in=span) for policy, span in twins])

    @some("waiting", "running")
    @rule(where=wheres, names=names, max_jobs=st.sampled_from([2, 1, 5, 0]), lease=leases, after=spans)
    def claim(self, where: Where, names: list[str], max_jobs: int, lease: timedelta, after: timedelta) -> None:
        """The ripe jobs come in order, under one token that was never seen before."""
        self.travel(after)
        self.take(where, names, max_jobs, self.lease(lease))

    @some("running")
    @rule(claim=claims, on=st.integers(0, 1), span=spans)
    def hold(self, claim: Claim, on: int, span: timedelta) -> None:
        """A held job stays with its holder even after its lease, and can be completed."""
        conn, (job_id, token) = self.connections[on], self.claimed(claim)
        if (job_id, token) not in {(job.id, job.token) for job in self.model.jobs.values()}:
            with pytest.raises(psycopg.Error, match="is not held"):
                conn.execute("SELECT pgq_hold(%s, %s)", [job_id, token])
            return
        locked = self.packed_with(job_id)
        with conn.transaction():
            conn.execute("SELECT pgq_hold(%s, %s)", [job_id, token])
            self.travel(span)
            self.take((1 - on, True), ["default", "a"], 2, self.lease(span), locked)
            self.call(
                (on, True),
                "SELECT pgq_complete(%s, %s)",
                [job_id, token],
                lambda m, _: m.complete(m.held(job_id, token), None),
            )

    @some("running")
    @rule(claim=claims, where=wheres, result=results)
    def complete(self, claim: Claim, where: Where, result: Any) -> None:
        """A job ends under its token, and under no other."""
        given = self.claimed(claim)
        self.call(
            where,
            "SELECT pgq_complete(%s, %s, %s::jsonb)",
            [*given, None if result is None else json.dumps(result)],
            lambda model, _: model.complete(model.held(*given), result),
        )

    @some("running")
    @rule(several=st.lists(claims, max_size=4), where=wheres)
    def complete_many(self, several: list[Claim], where: Where) -> None:
        """The jobs that were held have ended, and their ids are returned."""
        given = [self.claimed(claim) for claim in several]

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

    @some("running")
    @rule(
        claim=claims, where=wheres, error=texts, retry_in=st.none() | spans, retry=st.sampled_from([None, True, False])
    )
    def fail(
        self, claim: Claim, where: Where, error: str | None, retry_in: timedelta | None, retry: bool | None
    ) -> None:
        """The job is retried after its backoff, is dead, or merges with its twin."""
        given = self.claimed(claim)
        self.call(
            where,
            "SELECT outcome, ripe_at FROM pgq_fail(%s, %s, %s, %s, %s)",
            [*given, error, retry_in, retry],
            lambda model, _: [model.fail(model.held(*given), error, retry_in, retry is not False)],
        )

    @some("running")
    @rule(claim=claims, where=wheres, reason=texts)
    def cancel_claimed(self, claim: Claim, where: Where, reason: str | None) -> None:
        """The worker of a job cancels it."""
        given = self.claimed(claim)
        self.call(
            where,
            "SELECT pgq_cancel_claimed(%s, %s, %s)",
            [*given, reason],
            lambda model, _: model.cancel_claimed(model.held(*given), reason),
        )

    @some("running")
    @rule(claim=claims, where=wheres, span=spans)
    def extend(self, claim: Claim, where: Where, span: timedelta) -> None:
        """A lease gets longer, never shorter."""
        given, lease = self.claimed(claim), self.lease(span)
        packed_with = self.packed_with(given[0])
        self.call(
            where,
            "SELECT pgq_extend(%s, %s, %s)",
            [*given, lease],
            lambda model, _: [(model.extend(model.held(*given), lease, packed_with),)],
        )

    @some("running")
    @rule(claim=claims, where=wheres, span=spans, absolute=st.booleans())
    def snooze(self, claim: Claim, where: Where, span: timedelta, absolute: bool) -> None:
        """The job waits until later, and the attempt does not count."""
        given, until = self.claimed(claim), self.model.now + span
        self.call(
            where,
            "SELECT pgq_snooze(%s, %s, until => %s, delay => %s)",
            [*given, until if absolute else None, None if absolute else span],
            lambda model, _: [(model.put_back(model.held(*given), until, "snoozed"),)],
        )

    @some("running")
    @rule(claim=claims, where=wheres)
    def release(self, claim: Claim, where: Where) -> None:
        """The job is back at its old place, and the attempt does not count."""
        given = self.claimed(claim)

        def expect(model: Model, _: Rows) -> list[Any]:
            job = model.held(*given)
            return [(model.put_back(job, job.ripe_at, "released"),)]

        self.call(where, "SELECT pgq_release(%s, %s)", given, expect)

    @some("waiting", "running")
    @rule(pick=picks, where=wheres)
    def cancel(self, pick: int, where: Where) -> None:
        """A waiting job is cancelled, and the worker of a running one is asked."""
        job_id = self.job(pick, "waiting", "running")
        self.call(where, "SELECT pgq_cancel(%s)", [job_id], lambda model, _: [(model.cancel(job_id),)])

    @some("running")
    @rule(claim=claims, where=wheres)
    def cancel_requested(self, claim: Claim, where: Where) -> None:
        """A worker learns under its token that it is asked."""
        given = self.claimed(claim)
        self.call(
            where,
            "SELECT pgq_cancel_requested(ARRAY[%s]::bigint[], ARRAY[%s]::bigint[])",
            given,
            lambda model, _: [(job_id,) for job_id in model.cancel_requested(*given)],
        )

    @some("dead", "cancelled", "done")
    @rule(pick=picks, state=st.sampled_from(["dead", "cancelled", "done"]), where=wheres)
    def retry(self, pick: int, state: str, where: Where) -> None:
        """A dead or cancelled job waits again."""
        job_id = self.job(pick, state)
        self.call(where, "SELECT pgq_retry(%s)", [job_id], lambda model, _: [(model.retry(job_id),)])

    @some("dead", "cancelled", "done")
    @rule(where=wheres, span=spans, outcome=st.sampled_from([None, "dead", "done"]), queue=st.none() | queues)
    def purge(self, where: Where, span: timedelta, outcome: str | None, queue: str | None) -> None:
        """Jobs that ended long ago are deleted."""
        self.call(
            where,
            "SELECT pgq_purge(%s, %s, %s)",
            [span, outcome, queue],
            lambda model, _: [(model.purge(span, outcome, queue),)],
        )
