"""What is said about a job: the error that is kept with it, and the line in the log. Never the payload."""

from __future__ import annotations

import logging
import traceback

import psycopg

from pgq.job import Job
from pgq.worker.outcomes import Settlement

logger = logging.getLogger("pgq")

# What pgq_fail keeps. The message comes first, and it is the traceback that is cut.
MAX_ERROR = 4000
MAX_MESSAGE = 2000

LEVELS = {
    "done": logging.INFO,
    "released": logging.INFO,
    "snoozed": logging.INFO,
    "cancelled": logging.WARNING,
    "retry": logging.WARNING,
    "merged": logging.WARNING,
    "lost": logging.WARNING,
    "left": logging.WARNING,
    "dead": logging.ERROR,
}


def describe(error: BaseException) -> str:
    """The exception as text that PostgreSQL can store: type, message and SQLSTATE if it has one, then the traceback."""
    try:
        trace = traceback.TracebackException.from_exception(error)
        last = list(trace.format_exception_only())
        sqlstate = f" (SQLSTATE {error.sqlstate})" if isinstance(error, psycopg.Error) and error.sqlstate else ""
        message = f"{''.join(last).strip()[:MAX_MESSAGE]}{sqlstate}\n\n"
        # Without the message, with which it ends; the last frame is where it happened.
        frames = "".join(list(trace.format())[: -len(last)])
        text = message + frames[-(MAX_ERROR - len(message)) :]
    except Exception:
        # Not even its description can be had without an exception.
        text = type(error).__name__
    return clean(text)


def clean(text: str) -> str:
    """Text as PostgreSQL can store it."""
    return text.replace("\0", "").encode("utf-8", "backslashreplace").decode("utf-8")


def worth_a_line(action: str) -> bool:
    """Whether anybody listens to what is said about it."""
    return logger.isEnabledFor(LEVELS[action])


def log_settlement(settled: Settlement) -> None:
    """One line for what became of a job."""
    if not worth_a_line(settled.state):
        return
    at = f" at {settled.ripe_at:%Y-%m-%d %H:%M:%S%z}" if settled.ripe_at else ""
    after = f" after {settled.cause}" if settled.cause else ""
    log_job(settled.job, settled.state, f"{settled.state}{at}{after}", settled.seconds)


def log_job(job: Job, action: str, text: str, seconds: float | None = None) -> None:
    """
    One line about a job, with its coordinates as extras, and how many seconds it waited once it was ripe and its
    handler took.
    """
    waited = job.waited
    logger.log(
        LEVELS[action],
        "job %d %s attempt %d: %s",
        job.id,
        job.kind,
        job.attempt,
        text if seconds is None else f"{text} in {seconds:.3f} s",
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
