"""Loaded by the workers of a broken build: what a step of a flow has written is committed before its record."""

from __future__ import annotations

import time
from collections.abc import Callable

from pgq.worker.calls import WorkerQueue
from pgq.worker.steps import HandlerSteps
from pgq.worker.transactions import _holding
from torture import steps


def _save(self: HandlerSteps, text: Callable[[WorkerQueue], str], *, writes: bool) -> str:
    handler, transactions = self._handler, self._transactions
    if handler.transaction:
        holding = _holding(transactions._queue, handler, self._job)
        transactions._transaction = transactions._session.send("COMMIT", transactions._session.begin, holding)[0]
        time.sleep(steps.PAUSE)
    return save(self, text, writes=writes)


save = HandlerSteps.save
HandlerSteps.save = _save  # type: ignore[method-assign]
