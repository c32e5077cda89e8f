"""The rules of operators: each function that they call, on the database and in the model."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from support.machine import Machine, Where, picks, queues, some, spans, wheres


class Updating(Machine):
    """Change what waits."""

    @some("waiting", "running")
    @rule(
        pick=picks,
        where=wheres,
        args=st.sampled_from([None, {"n": 1}, {"n": 2}]),
        span=st.none() | spans,
        early=st.booleans(),
        priority=st.sampled_from([None, None, 0, 9]),
    )
    def update(
        self, pick: int, where: Where, args: Any, span: timedelta | None, early: bool, priority: int | None
    ) -> None:
        """A waiting job is changed, unless it would become the twin of another one."""
        self.change(where, self.job(pick, "waiting"), args, span, early, priority, None)

    def change(
        self,
        where: Where,
        job_id: int,
        args: Any,
        span: timedelta | None,
        early: bool,
        priority: int | None,
        group_key: str | None,
    ) -> None:
        """Update a job, which is to be ripe a time after the present, or before it."""
        ripe_at = None if span is None else self.model.now + (-span if early else span)
        self.call(
            where,
            "SELECT pgq_update(%s, %s::jsonb, %s, %s, %s)",
            [job_id, None if args is None else json.dumps(args), ripe_at, priority, group_key],
            lambda model, _: [(model.update(job_id, args, ripe_at, priority, group_key),)],
        )


class Operating(Updating):
    """Change what waits and what has ended."""

    @some("waiting", "running")
    @rule(pick=picks, where=wheres)
    def cancel(self, pick: int, where: Where) -> None:
        """A waiting job is cancelled, and the worker of a running one is asked."""
        job_id = self.job(pick, "waiting", "running")
        self.call(where, "SELECT pgq_cancel(%s)", [job_id], lambda model, _: [(model.cancel(job_id),)])

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
