"""
pgq: a job queue that is just PostgreSQL.

Applications use the names that this package exports, ``pgq.doctor``, ``pgq.overview``, ``pgq.testing`` and
``pgq.web``. All other modules are private.
"""

from pgq.process import early  # noqa: F401 - before anything that takes time

# isort: split
from dataclasses import is_dataclass
from typing import get_type_hints

from pgq.async_job import AsyncJob
from pgq.control import Cancel, Retry, Snooze, WaitForSignal
from pgq.errors import (
    AlreadyInstalled,
    ArgumentsMismatch,
    Cancelled,
    DuplicateJob,
    Error,
    JobFailed,
    JobNotFound,
    JobsRemain,
    LeaseLost,
    LockTimeout,
    NotEnded,
    NotInstalled,
    NoUpgradePath,
    Outdated,
    PayloadError,
    TimedOut,
    TransactionEnded,
    TransactionPooler,
    WrongState,
)
from pgq.handlers import Handlers, around, handler, json_default
from pgq.job import BatchProgress, Enqueued, EnqueuedBatch, Failure, Job, Remaining, Result, SignalWait
from pgq.new_job import NewJob
from pgq.queue import Queue
from pgq.queue_async import AsyncQueue
from pgq.schema.install import install, uninstall
from pgq.schema.upgrade import upgrade
from pgq.statement import Statement, statement, statement_many
from pgq.views import Views
from pgq.worker.calls import WorkerQueue
from pgq.worker.drain import Drain
from pgq.worker.worker import Worker

__all__ = [
    "AlreadyInstalled",
    "ArgumentsMismatch",
    "AsyncJob",
    "AsyncQueue",
    "BatchProgress",
    "Cancel",
    "Cancelled",
    "Drain",
    "DuplicateJob",
    "Enqueued",
    "EnqueuedBatch",
    "Error",
    "Failure",
    "Handlers",
    "Job",
    "JobFailed",
    "JobNotFound",
    "JobsRemain",
    "LeaseLost",
    "LockTimeout",
    "NewJob",
    "NoUpgradePath",
    "NotEnded",
    "NotInstalled",
    "Outdated",
    "PayloadError",
    "Queue",
    "Remaining",
    "Result",
    "Retry",
    "SignalWait",
    "Snooze",
    "Statement",
    "TimedOut",
    "TransactionEnded",
    "TransactionPooler",
    "Views",
    "WaitForSignal",
    "Worker",
    "WorkerQueue",
    "WrongState",
    "around",
    "handler",
    "install",
    "json_default",
    "statement",
    "statement_many",
    "uninstall",
    "upgrade",
]

# Users meet these names in tracebacks, in the errors kept with jobs and in pickles, where the module that happens to
# define them must not show.
for _name in __all__:
    _exported = globals()[_name]
    if is_dataclass(_exported) or hasattr(_exported, "_fields"):
        # The annotations are text, which typing.get_type_hints would look up in the new module.
        _exported.__annotations__ = get_type_hints(_exported)
    # A decorator is a bound method: only its function has a __module__ to set.
    getattr(_exported, "__func__", _exported).__module__ = __name__
del _name, _exported
