"""Putting the outcomes of a batch on record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import psycopg

from pgq.errors import LeaseLost
from pgq.queue import Queue
from pgq.worker.outcomes import Cancelled, Completed, Failed, Outcome, Settlement, Snoozed, is_plain

# A worker that meets a producer's open transaction leaves the job to its lease. Shorter than deadlock_timeout, so that
# it is never the producer who gives way.
LOCK_TIMEOUT: Final = "300ms"
# What is wrong with a value, and will be wrong with it the next time.
REFUSED: Final = (psycopg.DataError, psycopg.errors.ProgramLimitExceeded, psycopg.errors.StatementTooComplex)


def settle(queue: Queue, outcomes: Sequence[Outcome]) -> list[Settlement]:
    """
    Put the outcomes on record; call it inside a transaction.

    One that cannot be recorded, because its lease is lost or a producer's open transaction is in the way, does not
    keep the others from it: each but the plain completions has a savepoint of its own.
    """
    plain = [outcome for outcome in outcomes if is_plain(outcome)]
    others = [outcome for outcome in outcomes if not is_plain(outcome)]
    done = queue.complete_many([outcome.job for outcome in plain]) if plain else set()
    settled = [
        Settlement(outcome.job, "done" if outcome.job.id in done else "lost", seconds=outcome.seconds)
        for outcome in plain
    ]
    if others:
        queue.conn.execute("SELECT set_config('lock_timeout', %s, true)", [LOCK_TIMEOUT])
    return settled + [_settle_one(queue, outcome) for outcome in others]


def _settle_one(queue: Queue, outcome: Outcome) -> Settlement:
    try:
        with queue.conn.transaction():
            return _record(queue, outcome)
    except LeaseLost:
        return Settlement(outcome.job, "lost", cause=_cause(outcome), seconds=outcome.seconds)
    except psycopg.errors.LockNotAvailable:
        return Settlement(outcome.job, "left", cause=_cause(outcome), seconds=outcome.seconds)
    except (*REFUSED, UnicodeError) as error:
        storable = _storable(outcome, error)
        if storable is None:
            raise
        return _settle_one(queue, storable)


def _cause(outcome: Outcome) -> str | None:
    return outcome.cause if isinstance(outcome, Failed | Cancelled) else None


def _record(queue: Queue, outcome: Outcome) -> Settlement:
    job, seconds = outcome.job, outcome.seconds
    if isinstance(outcome, Completed):
        queue.complete_with(job, outcome.result)
        return Settlement(job, "done", seconds=seconds)
    if isinstance(outcome, Failed):
        failure = queue.fail(job, outcome.error, outcome.retry_in, retry=outcome.retry)
        return Settlement(job, failure.outcome, failure.ripe_at, outcome.cause, seconds)
    if isinstance(outcome, Snoozed):
        return Settlement(job, queue.snooze(job, outcome.until, outcome.delay), outcome.until, seconds=seconds)
    if isinstance(outcome, Cancelled):
        queue.cancel_claimed(job, outcome.reason)
        return Settlement(job, "cancelled", cause=outcome.cause, seconds=seconds)
    return Settlement(job, queue.release(job))


def _storable(outcome: Outcome, error: Exception) -> Outcome | None:
    """What to record instead of an outcome that the database refused; None when there is nothing else."""
    cause = type(error).__name__
    if isinstance(outcome, Completed):
        return Failed(outcome.job, "the database refused the result", cause, outcome.seconds)
    if isinstance(outcome, Snoozed):
        return Failed(outcome.job, "the database refused the time to snooze until", cause, outcome.seconds)
    if isinstance(outcome, Failed) and outcome.retry_in is not None:
        return replace(outcome, error=f"{outcome.error}\n\nthe database refused {outcome.retry_in}", retry_in=None)
    # A database in another encoding than UTF-8 cannot hold every text.
    if isinstance(outcome, Failed) and not outcome.error.isascii():
        return replace(outcome, error=_escaped(outcome.error))
    if isinstance(outcome, Cancelled) and not outcome.reason.isascii():
        return replace(outcome, reason=_escaped(outcome.reason))
    return None


def _escaped(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode("ascii")
