"""pgq: a job queue that is just PostgreSQL."""

from pgq.errors import (
    DuplicateJob,
    Error,
    JobNotFound,
    LeaseLost,
    NotInstalled,
    PayloadError,
    TransactionEnded,
    WrongState,
)
from pgq.handlers import Handlers, handler
from pgq.job import Enqueued, Failure, Job
from pgq.queue import Queue
from pgq.worker import Worker

__all__ = [
    "DuplicateJob",
    "Enqueued",
    "Error",
    "Failure",
    "Handlers",
    "Job",
    "JobNotFound",
    "LeaseLost",
    "NotInstalled",
    "PayloadError",
    "Queue",
    "TransactionEnded",
    "Worker",
    "WrongState",
    "handler",
]
