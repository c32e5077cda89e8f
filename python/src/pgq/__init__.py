"""pgq: a job queue that is just PostgreSQL."""

from pgq.drain import Drain
from pgq.errors import (
    ArgumentsMismatch,
    DuplicateJob,
    Error,
    JobNotFound,
    LeaseLost,
    NotInstalled,
    Outdated,
    PayloadError,
    TimedOut,
    TransactionEnded,
    WrongState,
)
from pgq.handlers import Handlers, around, handler
from pgq.job import Enqueued, Failure, Job, Pending
from pgq.queue import Queue
from pgq.verdicts import Discard, Retry, Snooze
from pgq.worker import Worker

__all__ = [
    "ArgumentsMismatch",
    "Discard",
    "Drain",
    "DuplicateJob",
    "Enqueued",
    "Error",
    "Failure",
    "Handlers",
    "Job",
    "JobNotFound",
    "LeaseLost",
    "NotInstalled",
    "Outdated",
    "PayloadError",
    "Pending",
    "Queue",
    "Retry",
    "Snooze",
    "TimedOut",
    "TransactionEnded",
    "Worker",
    "WrongState",
    "around",
    "handler",
]
