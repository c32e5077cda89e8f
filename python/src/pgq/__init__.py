"""pgq: a job queue that is just PostgreSQL."""

from pgq.control import Cancel, Retry, Snooze
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
from pgq.job import Enqueued, Failure, Job, Remaining
from pgq.queue import Queue
from pgq.worker.calls import WorkerQueue
from pgq.worker.drain import Drain
from pgq.worker.worker import Worker

__all__ = [
    "ArgumentsMismatch",
    "Cancel",
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
    "Queue",
    "Remaining",
    "Retry",
    "Snooze",
    "TimedOut",
    "TransactionEnded",
    "Worker",
    "WorkerQueue",
    "WrongState",
    "around",
    "handler",
]
