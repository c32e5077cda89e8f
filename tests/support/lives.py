"""State machines with the rules of producers, workers and operators: with all, or with those of windows alone."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from support.job import Order
from support.machine import TICK, Where, orders, picks, queues, wheres
from support.operating import Operating, Updating
from support.producing import Producing
from support.working import Claiming, Working

KEEPS = ["keep_done", "keep_dead", "keep_cancelled"]
keeps = st.sampled_from(["2 days", "100 days", None])


class Lives(Producing, Working, Operating):
    """Call each function of pgq, with arguments that are likely to meet what earlier calls have left."""

    @rule(where=wheres, queue=queues, given=st.fixed_dictionaries({}, optional=dict.fromkeys(KEEPS, keeps)))
    def keep(self, where: Where, queue: str, given: dict[str, str | None]) -> None:
        """A queue keeps what has ended for another time, and what is done without a result, too."""
        self.call(
            where,
            "SELECT pgq_configure(%s, %s::jsonb)",
            [queue, json.dumps(given)],
            lambda model, _: [(model.configure(queue, given),)],
        )


class WindowedLives(Producing, Claiming, Updating):
    """Windows, results and updates, without the rules that seldom meet them."""

    @precondition(lambda self: self.model.windows)
    @rule(pick=picks, ticks=st.integers(-1, 1), where=wheres, order=orders)
    def enqueue_at_the_end_of_a_window(self, pick: int, ticks: int, where: Where, order: Order) -> None:
        """A window is over at its end, not before."""
        (queue, kind, by, value), (_, until) = list(self.model.windows.items())[-1 - pick % len(self.model.windows)]
        self.travel(max(until - self.model.now + ticks * TICK, timedelta(0)))
        args, key = (json.loads(value), None) if by == "args" else (order.args, value)
        twin = replace(order, queue=queue, kind=kind, args=args, dedup=True, dedup_key=key)
        self.enqueue(where, replace(twin, dedup_for=timedelta(minutes=1)))
