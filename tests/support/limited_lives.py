"""State machines for queues with groups: with limits, order and pauses beside all others, or with rates alone."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from support.job import Job, Order
from support.limited_model import LimitedModel
from support.machine import TICK, Rows, Where, orders, picks, queues, some, spans, wheres
from support.model import Model
from support.operating import Operating
from support.producing import Producing
from support.rates import PERS
from support.working import Claiming, Working

keys = st.sampled_from([None, "a", "b"])
settings = st.fixed_dictionaries(
    {},
    optional={
        "max_running": st.sampled_from([1, 2, 3, None]),
        "max_per_group": st.sampled_from([1, 2, None]),
        "ordered": st.sampled_from([True, None]),
        "on_dead": st.sampled_from(["stop", None]),
        "keep_done": st.sampled_from(["2 days", None]),
    },
)


def limited(model: Model) -> LimitedModel:
    """Return the model as what it is."""
    assert isinstance(model, LimitedModel)
    return model


rates = st.fixed_dictionaries(
    {"per": st.sampled_from(sorted(PERS))},
    optional={
        "rate": st.sampled_from([1, 7, None]),
        "burst": st.sampled_from([1, 3, None]),
        "rate_per_group": st.sampled_from([1, 2, None]),
    },
)


class GroupedLives(Producing, Claiming):
    """Jobs have groups, and claims take those that the settings of their queues allow."""

    model_of = LimitedModel
    # A claim that finds no group does not take the job with a group that it rescues. So another one rescues it before.
    claim_query = (
        "SELECT c.id, c.token, c.attempt, c.args, c.lease_until "
        "FROM (SELECT count(*) AS jobs FROM pgq_claim('{none}', 0)) AS no "
        "CROSS JOIN LATERAL pgq_claim(%s, no.jobs + %s, %s) AS c"
    )

    def __init__(self) -> None:
        super().__init__()
        # A claim that deletes a dead job may let the group go on that this job has stopped.
        long = {"keep_dead": "9999 days"}
        self.configured((0, True), "", long)

    def placed(self, order: Order) -> Order:
        """Return an order with its group. Twins may have different ones."""
        return replace(order, group_key={0: None, 1: "a", 3: "b"}[order.max_retries])

    def configured(self, where: Where, queue: str, given: dict[str, Any]) -> None:
        """Set some settings of a queue."""
        self.call(
            where,
            "SELECT pgq_configure(%s, %s::jsonb)",
            [queue, json.dumps(given)],
            lambda model, _: [(limited(model).configure(queue, given),)],
        )

    def moments(self) -> set[datetime | None]:
        """Return the times at which something may happen to a job, and when the next one may start under a rate."""
        return super().moments() | limited(self.model).next_starts()

    def taken(
        self, model: Model, rows: Rows, names: list[str], max_jobs: int, lease: timedelta, locked: Collection[int]
    ) -> list[Job]:
        """Return the jobs that a claim has taken, if it may take these."""
        return limited(model).claim_these(
            list(dict.fromkeys(names)), max_jobs, lease, locked, [row[0] for row in rows or []]
        )

    def take(
        self, where: Where, names: list[str], max_jobs: int, lease: timedelta, locked: Collection[int] = ()
    ) -> None:
        """Claim jobs; a session that keeps a list of groups may find the others a little later, so it keeps none."""
        for conn in self.connections:
            for name in set(names):
                conn.execute("SELECT set_config(_pgq_groups_setting(%s), '', false)", [name])
        super().take(where, names, max_jobs, lease, locked)


class LimitedLives(GroupedLives, Working, Operating):
    """Operators configure, pause and resume, and workers call all their functions."""

    @rule(where=wheres, queue=queues, given=settings | rates)
    def configure(self, where: Where, queue: str, given: dict[str, Any]) -> None:
        """Limits count what runs, and begin with the next claim; rates count what starts."""
        self.configured(where, queue, given)

    @some("waiting")
    @rule(pick=picks, where=wheres, span=st.none() | spans, key=st.sampled_from(["", "a", "b"]))
    def regroup(self, pick: int, where: Where, span: timedelta | None, key: str) -> None:
        """A waiting job changes its group."""
        self.change(where, self.job(pick, "waiting"), None, span, False, None, key)

    @rule(where=wheres, queue=queues, key=keys, span=st.none() | spans)
    def pause(self, where: Where, queue: str, key: str | None, span: timedelta | None) -> None:
        """A queue or a group is not claimed from for a while."""
        until = None if span is None else self.model.now + span
        self.call(
            where,
            "SELECT pgq_pause(%s, %s, %s)",
            [queue, until, key],
            lambda model, _: limited(model).pause(queue, key, until),
        )

    @rule(where=wheres, queue=queues, key=keys)
    def resume(self, where: Where, queue: str, key: str | None) -> None:
        """A pause ends."""
        self.call(
            where, "SELECT pgq_resume(%s, %s)", [queue, key], lambda model, _: [(limited(model).resume(queue, key),)]
        )


class RatedLives(GroupedLives):
    """Jobs start under rates that change, and have no twins."""

    def placed(self, order: Order) -> Order:
        """Return an order that makes a job, with its group."""
        return replace(super().placed(order), dedup=False, dedup_for=None)

    @initialize(rate=rates)
    def begin_with_rates(self, rate: dict[str, Any]) -> None:
        """Start with a rate for each queue."""
        for queue in ("default", "a"):
            self.configured((0, True), queue, {"rate": 7, "burst": 3, "rate_per_group": 2} | rate)

    @rule(where=wheres, order=orders, rate=rates)
    def change_rate(self, where: Where, order: Order, rate: dict[str, Any]) -> None:
        """What has started counts under the new rate, up to its burst; of two jobs one starts when it may."""
        self.enqueue_many((0, True), [replace(order, ripe_in=None)] * 2)
        self.configured(where, order.queue, rate)
        later = [at for at in limited(self.model).next_starts() if at > self.model.now]
        self.travel(min(((at - self.model.now) // TICK + 1 for at in later), default=0) * TICK)
        self.take((0, True), [order.queue], 3, self.lease(timedelta(minutes=1)))
