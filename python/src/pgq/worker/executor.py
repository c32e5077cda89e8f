"""One attempt at a job: the executor calls the handler, and turns what it returns or raises into an outcome."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import psycopg
from psycopg.pq import TransactionStatus

from pgq import tracing
from pgq.convert import as_result
from pgq.errors import Error, LeaseLost, PayloadError, TransactionEnded
from pgq.handlers import Handler, Handlers
from pgq.job import Job
from pgq.process.signals import StopSignals
from pgq.worker.calls import WorkerQueue
from pgq.worker.django_connections import close_old_connections
from pgq.worker.joblog import describe
from pgq.worker.judge import judge
from pgq.worker.outcomes import Completed, CompletedWithNote, Outcome, Released, Settlement
from pgq.worker.session import Session
from pgq.worker.settings import Settings
from pgq.worker.settle import complete_in, record, without_result
from pgq.worker.timeout import Interruption

Result = Outcome | Settlement
# A worker that is frozen interrupts no handler. So many seconds after the timeout of a transactional handler the server
# ends its session, so that its job can be rescued; a worker that is not frozen interrupts the handler before.
IDLE_AFTER_TIMEOUT: Final = 5.0


def lend(job: Job) -> Job:
    """Return a copy of a job for its handler, which may do anything to it."""
    lent = object.__new__(Job)
    lent.__dict__ = job.__dict__.copy()
    return lent


class NotBegun(Exception):
    """There was no connection for these jobs, so their handler was not called."""

    def __init__(self, jobs: list[Job]) -> None:
        super().__init__(f"{len(jobs)} jobs")
        self.jobs = jobs


class Execution(NamedTuple):
    """What an executor runs. Other threads read it; it is replaced as a whole and never changed."""

    jobs: tuple[Job, ...]
    handler: Handler
    # When the handler was called; its timeout counts from here.
    since: float
    # When the jobs were claimed; their lease counts from here.
    claimed_at: float

    def is_in_time(self, now: float) -> bool:
        """Return whether the handler has no timeout, or is within it."""
        return self.handler.timeout is None or now <= self.since + self.handler.timeout


class Executor:
    """
    Run handlers, one at a time.

    Whatever goes wrong in a handler is the failure of its own job. Transactional handlers use a session of their own,
    so that none can touch the one through which the loop claims and settles. ``extend`` extends the lease of a job.
    """

    def __init__(
        self, handlers: Handlers, session: Session, settings: Settings, extend: Callable[[Job, timedelta], datetime]
    ) -> None:
        self.handlers = handlers
        self.session = session
        self.settings = settings
        self.lease = settings.lease
        self.interruption = Interruption()
        self.execution: Execution | None = None
        self._extend = extend
        self._clock = settings.timing.clock
        self._called_at = 0.0
        # Whether a handler was called in this run, and whether one is being called now.
        self._begun = False
        self._calling = False
        self._pid = 0
        self._threads = 0
        self._recursion_limit = sys.getrecursionlimit()

    def run(self, handler: Handler, jobs: list[Job], claimed_at: float) -> list[Result]:
        """
        Run jobs of one kind (several only for a batch handler), and return a result for each.

        A result is an outcome that is to be recorded, or a settlement where the job's transaction has recorded it.
        Raises NotBegun.
        """
        self._called_at = self._clock()
        self._begun = self._calling = False
        self._pid = os.getpid()
        self._threads = threading.active_count()
        self.execution = Execution(tuple(jobs), handler, self._called_at, claimed_at)
        for job in jobs:
            job._runtime = self
        try:
            if handler.batch is not None:
                return (self._in_one_transaction if handler.transaction else self._list)(handler, jobs)
            return [(self._in_transaction if handler.transaction else self._plain)(handler, jobs[0])]
        finally:
            self.interruption.disarm()
            self.execution = None

    def extend(self, job: Job, lease: timedelta | None) -> datetime:
        """Extend the lease of a job; ``Job.extend`` calls this."""
        self._refuse_in_child()
        return self._extend(job, lease or self.lease)

    def complete(self, job: Job, conn: psycopg.Connection[Any], result: Any) -> None:
        """Complete a job through a connection of its handler; ``Job.complete`` calls this."""
        self._refuse_in_child()
        execution = self.execution
        if execution is not None and execution.handler.transaction:
            raise RuntimeError("a handler with transaction=True leaves it to the worker to complete its job")
        WorkerQueue(conn, schema=self.settings.schema, handlers=self.handlers).complete(job, result)

    def _refuse_in_child(self) -> None:
        """Raise RuntimeError in a process that a handler has forked, where a lock of the worker may never be free."""
        if os.getpid() != self._pid:
            raise RuntimeError("a job can be extended or completed only in the process of its worker")

    def is_cancelled(self, job: Job) -> bool:
        """Return whether a job that runs is to be cancelled; ``Job.cancelled``, of a copy of the job, calls this."""
        execution = self.execution
        return execution is not None and any(one._cancelled for one in execution.jobs if one.id == job.id)

    def _plain(self, handler: Handler, job: Job) -> Result:
        try:
            job.args  # noqa: B018 - a payload that cannot be decoded fails here, before the handler is called
            return self._returned(job, self._call(handler, job))
        except BaseException as error:
            return self._judge(handler, job, error)

    def _list(self, handler: Handler, jobs: list[Job]) -> list[Result]:
        """Call a batch handler with all jobs whose payload can be decoded."""
        results: list[Result] = []
        decoded: list[Job] = []
        for job in jobs:
            try:
                job.args  # noqa: B018 - as above
                decoded.append(job)
            except PayloadError as error:
                results.append(self._judge(handler, job, error))
        if not decoded:
            return results
        try:
            returned = self._call(handler, decoded)
            if returned is not None and not isinstance(returned, Mapping):
                raise TypeError(
                    f"a batch handler returns None or a mapping from ids, and not a {type(returned).__name__}"
                )
        except BaseException as error:
            return results + [self._judge(handler, job, error) for job in decoded]
        for job in decoded:
            try:
                results.append(self._returned_by_batch(handler, job, returned))
            except BaseException as error:
                results.append(self._judge(handler, job, error))
        return results

    def _returned_by_batch(self, handler: Handler, job: Job, returned: Mapping[int, Any] | None) -> Result:
        if returned is None or job._completed:
            return self._returned(job, None)
        if job.id not in returned:
            raise Error("its batch handler has left it out")
        result = returned[job.id]
        if isinstance(result, BaseException):
            return self._judge(handler, job, result, raised_by_handler=True)
        return self._returned(job, result)

    def _in_transaction(self, handler: Handler, job: Job) -> Result:
        """Let the handler's writes and the completion of its job commit together, or not at all."""
        committed = False
        try:
            queue = self.session.queue()
            with queue.conn.transaction():
                _, settlement = self._hold_and_call(handler, job, queue)
                committed = True
            # psycopg.Rollback ends the block without an error.
            if not committed:
                raise TransactionEnded(f"the handler of {job.kind} rolled its transaction back")
        except BaseException as error:
            return self._rolled_back(handler, [job], [], error)[0]
        finally:
            self._reset_session()
        return settlement

    def _in_one_transaction(self, handler: Handler, jobs: list[Job]) -> list[Result]:
        """Run each job under a savepoint. One commit completes the jobs, and records the others' outcomes."""
        settled: list[Settlement] = []
        failed: list[Outcome] = []
        left = jobs.copy()
        current: Job | None = None
        committed = False
        try:
            queue = self.session.queue()
            with queue.conn.transaction():
                transaction = None
                while left:
                    current = left.pop(0)
                    try:
                        transaction, settlement = self._under_savepoint(handler, current, queue, transaction)
                        settled.append(settlement)
                    except BaseException as error:
                        if isinstance(error, TransactionEnded) or not _is_in_transaction(queue):
                            raise
                        result = self._undone(handler, current, error)
                        if isinstance(result, Settlement):
                            settled.append(result)
                        else:
                            failed.append(result)
                current = None
                recorded = record(queue, failed, self.settings.timing.lock_timeout)
                committed = True
            if not committed:
                raise TransactionEnded(f"the handler of {handler.kind} rolled its transaction back")
        except BaseException as error:
            done = [one.job for one in settled if one.state == "done"]
            lost = [one for one in settled if one.state == "lost"]
            # The job that was running has failed; when the commit fails, any of the completed ones may be the cause.
            guilty, innocent = (done, []) if current is None else ([current], done)
            return [*failed, *lost, *self._rolled_back(handler, guilty, innocent + left, error)]
        finally:
            self._reset_session()
        return [*settled, *recorded]

    def _under_savepoint(
        self, handler: Handler, job: Job, queue: WorkerQueue, transaction: str | None
    ) -> tuple[str, Settlement]:
        released = False
        self._calling = False
        with queue.conn.transaction():
            current, settlement = self._hold_and_call(handler, job, queue)
            released = True
        if not released:
            raise Error(f"the handler of {job.kind} rolled its savepoint back")
        if transaction is not None and current != transaction:
            raise TransactionEnded(f"a handler of {job.kind} ended the transaction of its batch")
        return current, settlement

    def _hold_and_call(self, handler: Handler, job: Job, queue: WorkerQueue) -> tuple[str, Settlement]:
        """Hold a job, call its handler, complete the job; return the id of the transaction, and the settlement."""
        transaction = queue._hold(job, None if handler.timeout is None else handler.timeout + IDLE_AFTER_TIMEOUT)
        job.args  # noqa: B018 - as above
        try:
            result = self._call(handler, job, queue.conn)
        finally:
            was_busy = self.session.close_if_busy()
        if was_busy:
            raise TransactionEnded(f"the handler of {job.kind} left its connection in the middle of something")
        settlement = complete_in(queue, transaction, self._encoded(job, result))
        if settlement is None:
            raise TransactionEnded(f"the handler of {job.kind} ended its transaction")
        return transaction, settlement

    def _rolled_back(
        self, handler: Handler, failed: list[Job], others: list[Job], error: BaseException
    ) -> list[Result]:
        """
        Return the results after a rollback, for the jobs that have failed and those that go back.

        When a connection is lost in the middle of a COMMIT, its result is unknown; but a failure that is recorded under
        the token of a job that is done comes too late, and changes nothing.
        """
        if not self._begun and (self.session.closed or isinstance(error, psycopg.OperationalError)):
            raise NotBegun(failed + others) from error
        return [*(self._undone(handler, job, error) for job in failed), *(Released(job) for job in others)]

    def _undone(self, handler: Handler, job: Job, error: BaseException) -> Result:
        """Return the result of a job that was not completed; there is nothing to record when its lease is lost."""
        if not self._calling and isinstance(error, LeaseLost):
            return Settlement(job, "lost")
        return self._judge(handler, job, error)

    def _call(self, handler: Handler, job: Job | list[Job], *connection: Any) -> Any:
        """Call a handler. A child process that it forks ends here, and does not go on as a second worker."""
        jobs = job if isinstance(job, list) else [job]
        lent = [lend(one) for one in jobs]
        argument = lent.copy() if isinstance(job, list) else lent[0]
        self._called_at = self._clock()
        if self.execution is not None:
            self.execution = Execution(*self.execution[:2], self._called_at, self.execution.claimed_at)
        self._begun = self._calling = True
        try:
            if handler.timeout is not None or handler.interrupt_on_cancel:
                self.interruption.arm(handler.timeout, jobs if handler.interrupt_on_cancel else [])
            # Within the timeout, because it may ask a server that is unreachable.
            close_old_connections()
            try:
                if tracing.is_on():
                    with tracing.span(handler.kind, jobs):
                        result = self.handlers.execute(handler, argument, *connection)
                else:
                    result = self.handlers.execute(handler, argument, *connection)
            finally:
                if os.getpid() == self._pid:
                    close_old_connections()
        finally:
            # Before anything else: in the child a lock may be held by a thread that does not exist there.
            if os.getpid() != self._pid:
                os._exit(1)
            self.interruption.disarm()
            for one, copy in zip(jobs, lent, strict=True):
                one._completed = getattr(copy, "_completed", False)
            self._restore_process()
        self._calling = False
        return result

    def _restore_process(self) -> None:
        """Put back what the job's handler has changed in the process, as far as that would stop the worker."""
        if sys.getrecursionlimit() < self._recursion_limit:
            sys.setrecursionlimit(self._recursion_limit)
        # Only the main thread can set signal handlers.
        signals = StopSignals.active
        if signals is not None and signals.main_thread == threading.get_ident():
            signals.restore(self._clock() - self._called_at)
            self.interruption.restore()

    def _returned(self, job: Job, result: Any) -> Result:
        """Return the result of a job whose handler has returned, perhaps after it completed the job itself."""
        if job._completed:
            return Settlement(job, "done", seconds=self._seconds())
        return self._encoded(job, result)

    def _encoded(self, job: Job, result: Any) -> Completed | CompletedWithNote:
        """Return the outcome of a job whose handler has returned, whatever the conversion of its result raises."""
        if result is None:
            return Completed(job, None, self._seconds())
        try:
            return Completed(job, as_result(result, self.handlers.json_hook), self._seconds())
        except BaseException as error:
            return without_result(job, describe(error), type(error).__name__, self._seconds())

    def _judge(self, handler: Handler, job: Job, error: BaseException, *, raised_by_handler: bool = False) -> Outcome:
        return judge(handler, job, error, raised_by_handler=raised_by_handler or self._calling, seconds=self._seconds())

    def _reset_session(self) -> None:
        """Prepare the session for the next job; a thread that the handler has left behind may still use it."""
        if threading.active_count() > self._threads:
            self.session.abandon()
        self.session.reset()

    def _seconds(self) -> float:
        return self._clock() - self._called_at


def _is_in_transaction(queue: WorkerQueue) -> bool:
    return queue.conn.info.transaction_status == TransactionStatus.INTRANS
