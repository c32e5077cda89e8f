"""One attempt at a job: its handler is called, and what it returns or raises becomes an outcome."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from datetime import datetime, timedelta
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import TransactionStatus

from pgq import tracing
from pgq.control import Cancel, Retry, Snooze
from pgq.convert import as_result
from pgq.errors import Error, LeaseLost, PayloadError, TimedOut, TransactionEnded
from pgq.handlers import Handler, Handlers
from pgq.job import Job
from pgq.queue import Queue
from pgq.worker.joblog import MAX_ERROR, clean, describe, log_settlement
from pgq.worker.outcomes import Cancelled, Completed, Failed, Outcome, Released, Settlement, Snoozed
from pgq.worker.session import Session
from pgq.worker.settle import settle
from pgq.worker.timeout import Timeout

if TYPE_CHECKING:
    from pgq.worker.presence import Presence


class NotBegun(Exception):
    """There was no connection for these jobs: their handler was not called."""

    def __init__(self, jobs: list[Job]) -> None:
        super().__init__(f"{len(jobs)} jobs")
        self.jobs = jobs


class Executor:
    """
    Where a loop runs its handlers, one at a time.

    Whatever a handler does is the failure of its own job. Those in a transaction have a connection of their own, so
    that none can touch the one through which the loop claims and settles.
    """

    def __init__(self, handlers: Handlers, inside: Session, presence: Presence, lease: timedelta) -> None:
        self.handlers = handlers
        self.inside = inside
        self.presence = presence
        self.lease = lease
        self.deadline = Timeout()
        # What runs, read by other threads: the jobs, their handler, and since when.
        self.running: tuple[Job, ...] = ()
        self.handler: Handler | None = None
        self.called_at = 0.0
        self._begun = False
        self._calling = False
        self._threads = 0

    def run(self, handler: Handler | None, jobs: list[Job]) -> list[Outcome]:
        """
        Run some jobs of one kind: more than one only for a batch handler. Raises NotBegun.

        Nothing is answered for a job that is on record already.
        """
        self.called_at = monotonic()
        self._begun = self._calling = False
        self._threads = threading.active_count()
        self.handler, self.running = handler, tuple(jobs)
        for job in jobs:
            job.__dict__["bench"] = self
        try:
            if handler is None:
                return [
                    self._judge(None, job, Error(f'this worker has no handler for kind "{job.kind}"')) for job in jobs
                ]
            if handler.batch is not None:
                return (self._in_one_transaction if handler.transaction else self._list)(handler, jobs)
            return (self._in_transaction if handler.transaction else self._plain)(handler, jobs[0])
        finally:
            self.deadline.disarm()
            self.running = ()

    def extend(self, job: Job, lease: timedelta | None) -> datetime:
        """What Job.extend does."""
        return self.presence.extend(job, lease or self.lease)

    def complete(self, job: Job, conn: psycopg.Connection[Any], result: Any) -> None:
        """What Job.complete does."""
        if self.handler is not None and self.handler.transaction:
            raise RuntimeError("a handler with transaction=True leaves it to the worker to complete its job")
        Queue(conn, schema=self.presence.schema).complete(job, result)

    def _plain(self, handler: Handler, job: Job) -> list[Outcome]:
        try:
            job.args  # noqa: B018 - a payload that cannot be decoded fails here, before its handler runs
            result = self._call(handler, job)
            return self._done(job, result)
        except BaseException as error:
            return [self._judge(handler, job, error)]

    def _list(self, handler: Handler, jobs: list[Job]) -> list[Outcome]:
        """A batch handler answers for each job; one whose payload cannot be decoded is not shown to it."""
        outcomes: list[Outcome] = []
        decoded: list[Job] = []
        for job in jobs:
            try:
                job.args  # noqa: B018 - as above
                decoded.append(job)
            except PayloadError as error:
                outcomes.append(self._judge(handler, job, error))
        if not decoded:
            return outcomes
        try:
            answers = self._call(handler, decoded)
            if answers is not None and not isinstance(answers, Mapping):
                raise TypeError(
                    f"a batch handler returns None or a mapping from ids, and not a {type(answers).__name__}"
                )
        except BaseException as error:
            return outcomes + [self._judge(handler, job, error) for job in decoded]
        for job in decoded:
            try:
                outcomes += self._answered(handler, job, answers)
            except BaseException as error:
                outcomes.append(self._judge(handler, job, error))
        return outcomes

    def _answered(self, handler: Handler, job: Job, answers: Mapping[int, Any] | None) -> list[Outcome]:
        if answers is None or "completed" in job.__dict__:
            return self._done(job, None)
        if job.id not in answers:
            raise Error("its batch handler has left it out")
        answer = answers[job.id]
        if isinstance(answer, BaseException):
            return [self._judge(handler, job, answer, own=True)]
        return self._done(job, answer)

    def _in_transaction(self, handler: Handler, job: Job) -> list[Outcome]:
        """The handler's writes and the completion of its job commit together, or not at all."""
        done = False
        try:
            queue = self.inside.queue()
            with queue.conn.transaction():
                self._hold_and_call(handler, job, queue)
                done = True
            # psycopg.Rollback ends the block without an error.
            if not done:
                raise TransactionEnded(f"the handler of {job.kind} rolled its transaction back")
        except BaseException as error:
            return self._undone(handler, [job], [], error)
        finally:
            self._clean()
        log_settlement(Settlement(job, "done", seconds=self._seconds()))
        return []

    def _in_one_transaction(self, handler: Handler, jobs: list[Job]) -> list[Outcome]:
        """Each job under a savepoint, and one commit for all: those that have failed go back in it, too."""
        settled: list[Settlement] = []
        failed: list[Outcome] = []
        left = jobs.copy()
        current: Job | None = None
        done = False
        try:
            queue = self.inside.queue()
            with queue.conn.transaction():
                transaction = None
                while left:
                    current = left.pop(0)
                    try:
                        transaction = self._under_savepoint(handler, current, queue, transaction)
                        settled.append(Settlement(current, "done", seconds=self._seconds()))
                    except BaseException as error:
                        if isinstance(error, TransactionEnded) or not _is_in_transaction(queue):
                            raise
                        failed += self._verdict(handler, current, error)
                current = None
                settled += settle(queue, failed)
                done = True
            if not done:
                raise TransactionEnded(f"the handler of {handler.kind} rolled its transaction back")
        except BaseException as error:
            good = [one.job for one in settled if one.state == "done"]
            # It was the one whose turn it was; but when the commit fails, that may be due to any of them.
            guilty, innocent = (good, []) if current is None else ([current], good)
            return failed + self._undone(handler, guilty, innocent + left, error)
        finally:
            self._clean()
        for one in settled:
            log_settlement(one)
        return []

    def _under_savepoint(self, handler: Handler, job: Job, queue: Queue, transaction: str | None) -> str:
        done = False
        self._calling = False
        with queue.conn.transaction():
            here = self._hold_and_call(handler, job, queue)
            done = True
        if not done:
            raise Error(f"the handler of {job.kind} rolled its savepoint back")
        if transaction is not None and here != transaction:
            raise TransactionEnded(f"a handler of {job.kind} ended the transaction of its batch")
        return here

    def _hold_and_call(self, handler: Handler, job: Job, queue: Queue) -> str:
        transaction = queue.hold(job)
        job.args  # noqa: B018 - as above
        try:
            result = self._call(handler, job, queue.conn)
        finally:
            left = self.inside.close_if_busy()
        if left:
            raise TransactionEnded(f"the handler of {job.kind} left its connection in the middle of something")
        if not queue.complete_within(transaction, job, result):
            raise TransactionEnded(f"the handler of {job.kind} ended its transaction")
        return transaction

    def _undone(self, handler: Handler, jobs: list[Job], left: list[Job], error: BaseException) -> list[Outcome]:
        """
        The outcomes after a transaction that was rolled back, for the jobs that were tried and those that are left.

        When a connection is lost in the middle of a COMMIT nobody knows which it was; but a failure that is put on
        record under the token of a job that is done comes too late, and changes nothing.
        """
        if not self._begun and (self.inside.closed or isinstance(error, psycopg.OperationalError)):
            raise NotBegun(jobs + left) from error
        verdicts = [outcome for job in jobs for outcome in self._verdict(handler, job, error)]
        return [*verdicts, *(Released(job) for job in left)]

    def _verdict(self, handler: Handler, job: Job, error: BaseException) -> list[Outcome]:
        """The outcome of a job that was not completed; none when it is not the worker's any more."""
        if not self._calling and isinstance(error, LeaseLost):
            log_settlement(Settlement(job, "lost"))
            return []
        return [self._judge(handler, job, error)]

    def _call(self, handler: Handler, job: Job | list[Job], *connection: Any) -> Any:
        """Call a handler; a child process that it forked ends here, and does not go on as a second worker."""
        pid = os.getpid()
        self.called_at = monotonic()
        self._begun = self._calling = True
        try:
            if handler.timeout is not None:
                self.deadline.arm(handler.timeout)
            if tracing.is_on():
                with tracing.span(handler.kind, job if isinstance(job, list) else [job]):
                    result = self.handlers.execute(handler, job, *connection)
            else:
                result = self.handlers.execute(handler, job, *connection)
        finally:
            self.deadline.disarm()
            if os.getpid() != pid:
                os._exit(1)
        self._calling = False
        return result

    def _done(self, job: Job, result: Any) -> list[Outcome]:
        """A handler has returned: there is nothing to put on record for a job that it has completed by itself."""
        if "completed" in job.__dict__:
            log_settlement(Settlement(job, "done", seconds=self._seconds()))
            return []
        return [Completed(job, None if result is None else as_result(result), self._seconds())]

    def _judge(self, handler: Handler | None, job: Job, error: BaseException, *, own: bool = False) -> Outcome:
        """What becomes of a job after an exception; ``own``: the handler's, though it is not being called any more."""
        try:
            return self._weigh(handler, job, error, own or self._calling)
        except Exception:
            # An exception of a class that looks like a verdict, or does not even let itself be looked at.
            return Failed(job, describe(error), type(error).__name__, self._seconds())

    def _weigh(self, handler: Handler | None, job: Job, error: BaseException, own: bool) -> Outcome:
        seconds, cause = self._seconds(), type(error).__name__
        if isinstance(error, Snooze):
            return Snoozed(job, error.until, error.delay, seconds)
        if isinstance(error, Cancel):
            return Cancelled(job, clean(error.reason[:MAX_ERROR]), cause, seconds)
        if isinstance(error, Retry):
            return Failed(job, describe(error), cause, seconds, retry_in=error.in_)
        if handler is not None and isinstance(error, handler.cancel_on):
            return Cancelled(job, describe(error), cause, seconds)
        # Only what the handler itself has raised, and in its own time, tells that another attempt is no use.
        retry = (
            handler is None or handler.retry_on is None or not own or isinstance(error, (*handler.retry_on, TimedOut))
        )
        return Failed(job, describe(error), cause, seconds, retry=retry)

    def _clean(self) -> None:
        """A thread that a handler has left behind may go on to use its connection: that is nobody else's any more."""
        if threading.active_count() > self._threads:
            self.inside.abandon()
        self.inside.clean()

    def _seconds(self) -> float:
        return monotonic() - self.called_at


def _is_in_transaction(queue: Queue) -> bool:
    return queue.conn.info.transaction_status == TransactionStatus.INTRANS
