"""The rules of producers: each function that they call, on the database and in the model."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from support.database import one
from support.job import Order
from support.machine import Machine, Where, orders, picks, policies, spans, wheres


class Producing(Machine):
    """Enqueue jobs, many of which are twins."""

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
            "group_key => %s, dedup_for => %s)",
            [
                order.kind, json.dumps(order.args), order.queue, order.ripe_in, order.priority, order.max_retries,
                order.backoff, order.dedup, order.dedup_key, order.on_duplicate, order.group_key, order.dedup_for,
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
                "dedup_for": None if order.dedup_for is None else f"{order.dedup_for.total_seconds()} s",
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

    @rule(
        where=wheres,
        order=orders,
        twins=st.lists(st.tuples(policies, st.none() | spans, st.booleans()), min_size=2, max_size=4),
    )
    def enqueue_twins(self, where: Where, order: Order, twins: list[tuple[str, timedelta | None, bool]]) -> None:
        """Twins in one array may differ in their time, in on_duplicate, and in whether they look at a window."""
        many = [replace(order, on_duplicate=policy, ripe_in=span) for policy, span, _ in twins]
        looks = [looks for _, _, looks in twins]
        self.enqueue_many(
            where, [replace(o, dedup_for=o.dedup_for if look else None) for o, look in zip(many, looks, strict=True)]
        )

    @rule(pick=picks, which=st.sampled_from(["ended", "claimed", "claimed", "none"]), where=wheres)
    def look_at_result(self, pick: int, which: str, where: Where) -> None:
        """A job that has ended or is gone, or has merged, shows what is left of it."""
        last = one(self.connections[0], "SELECT last_value FROM pgq_job_id")
        claimed = self.claims[-1 - pick % len(self.claims)][0]
        job_id = {"ended": self.job(pick, "done", "dead", "cancelled"), "claimed": claimed, "none": last + pick}[which]
        self.call(
            where,
            "SELECT state, result, error, ended_at FROM pgq_result(%s)",
            [job_id],
            lambda model, _: [model.result(job_id, last)],
        )
