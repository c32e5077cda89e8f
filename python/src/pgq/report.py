"""What is said about a job: the error that is kept with it, and the line in the log. Never the payload."""

from __future__ import annotations

import logging
import traceback

from pgq.job import Job, Settled

logger = logging.getLogger("pgq")

# What pgq_fail keeps. The message comes first, and it is the traceback that is cut.
MAX_ERROR = 4000
MAX_MESSAGE = 2000

LEVELS = {
    "done": logging.INFO,
    "released": logging.INFO,
    "retry": logging.WARNING,
    "merged": logging.WARNING,
    "lost": logging.WARNING,
    "left": logging.WARNING,
    "dead": logging.ERROR,
}


def describe(error: BaseException) -> str:
    """The exception as text that PostgreSQL can store: type and message, then the traceback."""
    try:
        trace = traceback.TracebackException.from_exception(error)
        last = list(trace.format_exception_only())
        message = f"{''.join(last).strip()[:MAX_MESSAGE]}\n\n"
        # Without the message, with which it ends; the last frame is where it happened.
        frames = "".join(list(trace.format())[: -len(last)])
        text = message + frames[-(MAX_ERROR - len(message)) :]
    except Exception:
        # Not even its description can be had without an exception.
        text = type(error).__name__
    return text.replace("\0", "").encode("utf-8", "backslashreplace").decode("utf-8")


def worth_a_line(action: str) -> bool:
    """Whether anybody listens to what is said about it."""
    return logger.isEnabledFor(LEVELS[action])


def log_settled(settled: Settled) -> None:
    """One line for what became of a job."""
    if not worth_a_line(settled.state):
        return
    at = f" at {settled.ripe_at:%Y-%m-%d %H:%M:%S%z}" if settled.ripe_at else ""
    after = f" after {settled.cause}" if settled.cause else ""
    log_job(settled.job, settled.state, f"{settled.state}{at}{after}")


def log_job(job: Job, action: str, text: str) -> None:
    """One line about a job, with its coordinates as extras."""
    logger.log(
        LEVELS[action],
        "job %d %s attempt %d: %s",
        job.id,
        job.kind,
        job.attempt,
        text,
        extra={"action": action, "job_id": job.id, "kind": job.kind, "queue": job.queue, "attempt": job.attempt},
    )
