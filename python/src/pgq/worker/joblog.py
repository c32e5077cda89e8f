"""What pgq writes about a job: the error that is kept with it, and its lines in the log. Never the payload."""

from __future__ import annotations

import logging
import os
import traceback
from pathlib import Path
from typing import Final

import psycopg

from pgq.job import Job
from pgq.process.logs import logger
from pgq.worker.outcomes import Settlement

# Files of pgq, and those of them that call handlers: their frames are of no use in the traceback of a handler.
PACKAGE: Final = f"{Path(__file__).parents[1]}{os.sep}"
MACHINERY: Final = tuple(PACKAGE + part for part in (f"worker{os.sep}", "handlers.py", "tracing.py"))

# What pgq_fail keeps. The message comes first; the traceback is cut.
MAX_ERROR = 4000
MAX_MESSAGE = 2000

LEVELS = {
    # Beside the lines of worker/donelog.py.
    "done": logging.DEBUG,
    "released": logging.INFO,
    "snoozed": logging.INFO,
    "declined": logging.INFO,
    "requested": logging.INFO,
    "cancelled": logging.WARNING,
    "retry": logging.WARNING,
    "merged": logging.WARNING,
    "lost": logging.WARNING,
    "left": logging.WARNING,
    "dead": logging.ERROR,
}


def describe(error: BaseException) -> str:
    """Return an exception as text that PostgreSQL can store: type, message, SQLSTATE if any, then the traceback."""
    try:
        trace = traceback.TracebackException.from_exception(error)
        _remove_own_frames(trace, set())
        last = list(trace.format_exception_only())
        sqlstate = f" (SQLSTATE {error.sqlstate})" if isinstance(error, psycopg.Error) and error.sqlstate else ""
        message = f"{''.join(last).strip()[:MAX_MESSAGE]}{sqlstate}\n\n"
        # A formatted traceback ends with the message, which is left out here. Keep the last frames, where the error is.
        frames = "".join(list(trace.format())[: -len(last)])
        text = message + frames[-(MAX_ERROR - len(message)) :]
    except Exception:
        # The exception raises another one when it is formatted.
        text = type(error).__name__
    return clean(text)


def _remove_own_frames(trace: traceback.TracebackException, seen: set[int]) -> None:
    """Remove the frames that lead to a handler or interrupt one; calls that the handler makes to pgq stay."""
    if id(trace) in seen:
        return
    seen.add(id(trace))
    frames = list(trace.stack)
    while frames and frames[0].filename.startswith(PACKAGE):
        del frames[0]
    trace.stack[:] = [frame for frame in frames if not frame.filename.startswith(MACHINERY)]
    for other in (trace.__cause__, trace.__context__, *(trace.exceptions or ())):
        if other is not None:
            _remove_own_frames(other, seen)


def clean(text: str) -> str:
    """Return a text as PostgreSQL can store it."""
    return text.replace("\0", "").encode("utf-8", "backslashreplace").decode("utf-8")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or else the name of its class."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def is_logged(action: str) -> bool:
    """Return whether the log takes lines about this action."""
    return logger.isEnabledFor(LEVELS[action])


def log_settlement(settlement: Settlement) -> None:
    """Log what became of a job."""
    if settlement.state == "done" and settlement.cause:
        remark = f", but its result was not stored ({settlement.cause})"
        log_job(settlement.job, "done", "done", settlement.seconds, level=logging.WARNING, remark=remark)
        return
    if not is_logged(settlement.state):
        return
    at = f" at {settlement.ripe_at:%Y-%m-%d %H:%M:%S%z}" if settlement.ripe_at else ""
    after = f" after {settlement.cause}" if settlement.cause else ""
    log_job(settlement.job, settlement.state, f"{settlement.state}{at}{after}", settlement.seconds)


def log_job(
    job: Job,
    action: str,
    text: str,
    seconds: float | None = None,
    *,
    level: int | None = None,
    remark: str = "",
) -> None:
    """
    Log a line about a job, at the level of the action or another one; the remark follows the duration.

    The extras of the record are the job's id, kind, queue and attempt, the action, and in seconds how long the job
    waited once it was ripe (``wait``) and how long its handler took (``duration``).
    """
    waited = job.waited
    logger.log(
        LEVELS[action] if level is None else level,
        "job %d %s attempt %d: %s%s",
        job.id,
        job.kind,
        job.attempt,
        text if seconds is None else f"{text} in {seconds:.3f} s",
        remark,
        extra={
            "action": action,
            "job_id": job.id,
            "kind": job.kind,
            "queue": job.queue,
            "attempt": job.attempt,
            "duration": seconds,
            "wait": waited.total_seconds() if waited is not None else None,
        },
    )
