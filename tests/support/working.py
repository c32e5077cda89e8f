"""The rules of workers: each function that they call, on the database and in the model."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule

from support.machine import Claim, Machine, Rows, Where, claims, leases, names, results, some, spans, texts, wheres
from support.model import Model


class Claiming(Machine):
    """Claim jobs, and complete or fail them, mostly under the right token."""

    @some("waiting", "running")
    @rule(where=wheres, names=names, max_jobs=st.sampled_from([2, 1, 5, 0]), lease=leases, after=spans)
    def claim(self, where: Where, names: list[str], max_jobs: int, lease: timedelta, after: timedelta) -> None:
        """The ripe jobs come in order, under one token that was never seen before."""
        self.travel(after)
        self.take(where, names, max_jobs, self.lease(lease))

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


class Working(Claiming):
    """Claim jobs, and end or put back what was claimed, mostly under the right token."""

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
