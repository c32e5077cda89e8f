"""The state machine with the rules of producers, workers and operators."""

from __future__ import annotations

import json

from hypothesis import strategies as st
from hypothesis.stateful import rule

from support.machine import Where, queues, wheres
from support.operating import Operating
from support.producing import Producing
from support.working import Working

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
