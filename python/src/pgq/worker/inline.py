"""For tests: run what is ripe within the transaction of a connection, by the executor of a worker."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from time import monotonic
from typing import Any, Final

import psycopg
from psycopg.pq import TransactionStatus

from pgq.handlers import Handler, Handlers
from pgq.job import Job
from pgq.process.signals import is_main_thread
from pgq.worker.async_handlers import AsyncHandlers
from pgq.worker.calls import WorkerQueue
from pgq.worker.django_connections import STAY_OPEN
from pgq.worker.event_loop import EventLoop
from pgq.worker.executor import Executor
from pgq.worker.joblog import log_settlement
from pgq.worker.nested import NOWHERE, Nested, NestedSessions, lent
from pgq.worker.outcomes import Declined, Failed, Result, Settlement
from pgq.worker.settings import Settings, Timing
from pgq.worker.settle import record
from pgq.worker.ticker import Ticker
from pgq.worker.transactions import MOST_IN_BATCH
from pgq.worker.wakeup import Wakeup

# A job that is ripe again at once, for ever, ends the drain with an error.
MOST: Final = 10_000
SETTINGS: Final = Settings(
    server=NOWHERE,
    name="test",
    schema=None,
    queues=("default",),
    queue_prefixes=(),
    queue_order="strict",
    batch=1,
    batch_bytes=16 * 1024 * 1024,
    lease=timedelta(minutes=5),
    poll=1.0,
    transaction_pooler=False,
    drain=None,
    timing=Timing(clock=monotonic),
)
GUARD: Final = "SAVEPOINT pgq_handler"
RELEASE: Final = "RELEASE pgq_handler"
UNDO: Final = "ROLLBACK TO pgq_handler; RELEASE pgq_handler"


class InlineWorker:
    """
    Claim, run and settle jobs on a connection that is in a transaction.

    Each transaction of a worker is a savepoint. A handler without ``transaction`` runs under one, too, which is undone
    only where a statement has failed: otherwise the transaction could not go on.
    """

    def __init__(self, conn: psycopg.Connection[Any], handlers: Handlers) -> None:
        self.conn = conn
        self.handlers = handlers

    def is_broken(self) -> bool:
        """Return whether the transaction cannot go on."""
        return self.conn.pgconn.transaction_status == TransactionStatus.INERROR

    def mend(self) -> None:
        """Take note that the transaction can go on."""

    def drain(self, queues: Sequence[str] | None = None) -> Counter[str]:
        """
        Run jobs of these queues, or of all, until none is ripe; return how often they came to each end.

        An end is one of done, retry, dead, snoozed, cancelled, merged, released, declined and lost. Raises RuntimeError
        outside a transaction, and after 10,000 jobs.
        """
        if self.conn.pgconn.transaction_status != TransactionStatus.INTRANS:
            raise RuntimeError("jobs run here only in a transaction in which no statement has failed")
        ends: Counter[str] = Counter()
        with lent(self.conn, self.handlers) as queue, _Run(self, queue).entered() as run:
            while jobs := self._claimed(queue, queues):
                for settlement in run.settled(jobs):
                    log_settlement(settlement)
                    ends[settlement.state] += 1
                if ends.total() > MOST:
                    raise RuntimeError(f"{MOST} jobs have run, and one of kind {jobs[-1].kind} was ripe again")
        return ends

    def _claimed(self, queue: WorkerQueue, queues: Sequence[str] | None) -> list[Job]:
        """Claim ripe jobs: one, or as many as a batch handler takes."""
        names = queue.queues_to_serve() if queues is None else queues
        return queue.claim(names, self.handlers.largest_batch, SETTINGS.lease, SETTINGS.name) if names else []


class _Run:
    """The parts of a worker that a drain needs."""

    def __init__(self, worker: InlineWorker, queue: WorkerQueue) -> None:
        self._worker = worker
        self._queue = queue
        self._handlers = worker.handlers
        self._results: list[Result] = []
        self._wakeup = Wakeup()
        self._event_loop = EventLoop(self._died)
        self._async_handlers = AsyncHandlers(
            SETTINGS,
            self._handlers,
            self,
            self._wakeup,
            most=1,
            event_loop=self._event_loop,
            sessions=NestedSessions(queue, SETTINGS, self._event_loop),
            unpack=_unpack,
            wake=self._wakeup.set,
        )
        self.executor = Executor(
            self._handlers,
            Nested(queue, SETTINGS),
            SETTINGS,
            queue.extend,
            _unpack,
            lambda job: queue.batch_progress(job.id),
            lambda: None,
            self._async_handlers,
        )

    @contextmanager
    def entered(self) -> Iterator[_Run]:
        """Close what was opened, and give the alarm of the process back, as a library of the test may use it."""
        ticker = Ticker(self.executor.interruption.check, SETTINGS.timing.tick)
        alarm = signal.getsignal(signal.SIGALRM)
        left, again = signal.getitimer(signal.ITIMER_REAL)
        since = monotonic()
        ticker.resume()
        token = STAY_OPEN.set(True)
        try:
            yield self
        finally:
            STAY_OPEN.reset(token)
            ticker.close()
            self._event_loop.close()
            self._wakeup.close()
            if is_main_thread():
                signal.signal(signal.SIGALRM, alarm)
                if left:
                    signal.setitimer(signal.ITIMER_REAL, max(left - (monotonic() - since), 1e-6), again)

    def settled(self, jobs: list[Job]) -> Iterator[Settlement]:
        """Run claimed jobs, and record what becomes of them, one call of a handler after the other."""
        for job in jobs:
            job._claim.runtime = self.executor
        while jobs:
            handler = self._handlers.get(jobs[0].kind)
            if handler is None:
                yield from self._recorded([Declined(jobs.pop(0))])
                continue
            now = [jobs[0]]
            if handler.batch is not None:
                most = min(handler.batch, MOST_IN_BATCH) if handler.transaction else handler.batch
                now = [job for job in jobs if job.kind == handler.kind][:most]
            jobs = [job for job in jobs if job not in now]
            yield from self._recorded(self._run(handler, now))

    def add(self, results: Sequence[Result]) -> None:
        """Take what became of the jobs of an async handler."""
        self._results.extend(results)

    def _run(self, handler: Handler, jobs: list[Job]) -> list[Result]:
        """Call a handler."""
        conn, now = self._queue.conn, SETTINGS.timing.clock()
        conn.execute(GUARD)
        if handler.is_async:
            self._results = []
            self.executor.begin_async(handler, jobs, now)
            results = self._results
        else:
            results = self.executor.run(handler, jobs, now)
        if conn.pgconn.transaction_status == TransactionStatus.IDLE:
            raise RuntimeError(f"the handler of {handler.kind} has ended the transaction in which it runs")
        if any(isinstance(result, Failed) and result.cause == "KeyboardInterrupt" for result in results):
            # Ctrl-C, which is meant for the tests and not for the job.
            raise KeyboardInterrupt
        is_broken = self._worker.is_broken()
        conn.execute(UNDO if is_broken else RELEASE, prepare=False)
        if is_broken:
            self._worker.mend()
        return results

    def _recorded(self, results: Sequence[Result]) -> list[Settlement]:
        """Record outcomes; return all settlements."""
        outcomes = [result for result in results if not isinstance(result, Settlement)]
        done = [result for result in results if isinstance(result, Settlement)]
        return done + record(self._queue, outcomes, SETTINGS.timing.lock_timeout)

    def _died(self) -> None:
        self._async_handlers.fail_all()


def _unpack(_job: Job) -> None:
    """Do nothing: these claims keep each job in a row of its own."""
