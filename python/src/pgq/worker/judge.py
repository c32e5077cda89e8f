"""Which outcome an exception of a handler leads to."""

from __future__ import annotations

from pgq.control import Cancel, Retry, Snooze, WaitForSignal
from pgq.errors import TimedOut
from pgq.handlers import Handler
from pgq.job import Job
from pgq.worker.joblog import MAX_ERROR, clean, describe
from pgq.worker.outcomes import Cancelled, Failed, Outcome, Snoozed, WaitsForSignal


def judge(handler: Handler, job: Job, error: BaseException, *, raised_by_handler: bool, seconds: float) -> Outcome:
    """Return the outcome of a job after an exception."""
    try:
        return _judge(handler, job, error, raised_by_handler, seconds)
    except Exception:
        # The exception looks like a control exception but is none, or raises another one when it is examined.
        return Failed(job, describe(error), type(error).__name__, seconds)


def _judge(handler: Handler, job: Job, error: BaseException, raised_by_handler: bool, seconds: float) -> Outcome:
    cause = type(error).__name__
    if isinstance(error, Snooze):
        return Snoozed(job, error.until, error.delay, seconds, error.whole_group)
    if isinstance(error, WaitForSignal):
        return WaitsForSignal(job, error.name, error.timeout, seconds)
    if isinstance(error, Cancel):
        return Cancelled(job, clean(error.reason[:MAX_ERROR]), cause, seconds)
    if isinstance(error, Retry):
        return Failed(job, describe(error), cause, seconds, retry_in=error.in_)
    if isinstance(error, handler.cancel_on):
        return Cancelled(job, describe(error), cause, seconds)
    # Only an exception of the handler itself, within its time, tells that another attempt is of no use.
    retry = handler.retry_on is None or not raised_by_handler or isinstance(error, (*handler.retry_on, TimedOut))
    return Failed(job, describe(error), cause, seconds, retry=retry)
