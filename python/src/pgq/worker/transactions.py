"""Handlers with ``transaction=True``: what they write and the completion of their jobs are committed together."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, NamedTuple

import psycopg
from psycopg.pq import TransactionStatus

from pgq.errors import Error, LeaseLost, TransactionEnded
from pgq.handlers import Handler
from pgq.job import Job
from pgq.worker.calls import WorkerQueue
from pgq.worker.execution import NotBegun
from pgq.worker.handler_call import HandlerCall
from pgq.worker.inside import Inside
from pgq.worker.outcomes import Outcome, Released, Result, Settlement
from pgq.worker.settings import Settings
from pgq.worker.settle import completion_in, record

# A worker that is frozen interrupts no handler. So many seconds after the timeout of a transactional handler the server
# ends its session, so that its job can be rescued; a worker that is not frozen interrupts the handler before.
IDLE_AFTER_TIMEOUT: Final = 5.0
# A handler that takes longer than this many seconds gains little from a round trip less, and the ticker may release the
# job after it.
QUICK: Final = 0.1
# PostgreSQL keeps the ids of so many subtransactions of a transaction in shared memory. While a transaction has more,
# all other sessions look up on disk what belongs to it.
MOST_IN_BATCH: Final = 64
SAVEPOINT: Final = "SAVEPOINT pgq_job"
RELEASE: Final = "RELEASE pgq_job"
ROLLBACK: Final = "ROLLBACK TO pgq_job"
# What the server says when the transaction, or the savepoint, is no longer the one that the worker has begun.
ENDED: Final = (
    psycopg.errors.InvalidTransactionState,
    psycopg.errors.InvalidSavepointSpecification,
    psycopg.errors.NoActiveSqlTransaction,
)


class Ahead(NamedTuple):
    """A job that the open transaction holds before its handler is due."""

    job_id: int
    token: int
    transaction: str


class Transactions:
    """
    Run jobs in transactions of the worker, through a session that is reset afterwards.

    What comes between two jobs is one message: the first one is completed, its transaction is committed, the session is
    reset, and the next transaction holds the second one. ``following`` returns that job with its handler, if it may be
    run next. Until it is run, ``let_go`` rolls its transaction back, which has had no effect.
    """

    def __init__(
        self,
        handler_call: HandlerCall,
        session: Inside,
        settings: Settings,
        following: Callable[[], tuple[Handler, Job] | None],
    ) -> None:
        self._handler_call = handler_call
        self._session = session
        self._settings = settings
        self._following = following
        self._threads = 0
        self._ahead: Ahead | None = None

    def run_one(self, handler: Handler, job: Job) -> Result:
        """Let the handler's writes and the completion of its job commit together, or not at all."""
        self._threads = threading.active_count()
        transaction: str | None = None
        settlement: Settlement | None = None
        is_clean = False
        try:
            queue, transaction = self._begin(handler, job)
            settlement, statements = self._call(handler, job, queue, transaction)
            is_clean = self._commit(queue, job, statements)
            return settlement
        except BaseException as raised:
            error = raised
            if _is_rollback(error):
                error = TransactionEnded(f"the handler of {job.kind} rolled its transaction back")
            self._session.roll_back()
            if settlement is not None and self._has_committed(transaction, job):
                return settlement
            return self._rolled_back(handler, [job], [], error)[0]
        finally:
            if not is_clean:
                self._reset_session()

    def run_batch(self, handler: Handler, jobs: list[Job]) -> list[Result]:
        """Run each job under a savepoint. One commit completes the jobs, and records the others' outcomes."""
        settled: list[Settlement] = []
        failed: list[Outcome] = []
        left = jobs.copy()
        current: Job | None = None
        self._threads = threading.active_count()
        try:
            self.let_go()
            queue = self._session.queue()
            transaction, ids = self._session.send(self._session.begin, queue.holding_many(jobs), SAVEPOINT)
            held = set(ids.split())
            settled += [Settlement(job, "lost") for job in jobs if str(job.id) not in held]
            left = [job for job in jobs if str(job.id) in held]
            while left:
                current = left.pop(0)
                self._handler_call.calling = False
                try:
                    settlement, statements = self._call(handler, current, queue, transaction)
                    self._complete(current, *statements, RELEASE, *([SAVEPOINT] if left else []))
                    settled.append(settlement)
                except BaseException as raised:
                    error = raised
                    if _is_rollback(error):
                        error = Error(f"the handler of {current.kind} rolled its savepoint back")
                    if type(error) is TransactionEnded or not self._undo():
                        raise
                    result = self._undone(handler, current, error)
                    if isinstance(result, Settlement):
                        settled.append(result)
                    else:
                        failed.append(result)
            current = None
            recorded = record(queue, failed, self._settings.timing.lock_timeout)
            self._session.send("COMMIT")
        except BaseException as error:
            self._session.roll_back()
            done = [one.job for one in settled if one.state == "done"]
            lost = [one for one in settled if one.state == "lost"]
            # The job that was running has failed; when the commit fails, any of the completed ones may be the cause.
            guilty, innocent = (done, []) if current is None else ([current], done)
            return [*failed, *lost, *self._rolled_back(handler, guilty, innocent + left, error)]
        finally:
            self._reset_session()
        return [*settled, *recorded]

    def let_go(self, unless: Job | None = None) -> None:
        """Hold no job ahead, except for this one."""
        ahead = self._ahead
        if ahead is not None and (unless is None or ahead[:2] != (unless.id, unless.token)):
            self._ahead = None
            self._session.roll_back()

    def _begin(self, handler: Handler, job: Job) -> tuple[WorkerQueue, str]:
        """Hold a job in a new transaction, unless that is done; return the queue and the id of the transaction."""
        queue, ahead = self._session.queue(), self._ahead
        if ahead is not None and ahead[:2] == (job.id, job.token) and self._session.is_in_transaction:
            self._ahead = None
            return queue, ahead.transaction
        self.let_go()
        transaction, *_ = self._session.send(self._session.begin, _holding(queue, handler, job))
        return queue, transaction

    def _call(
        self, handler: Handler, job: Job, queue: WorkerQueue, transaction: str
    ) -> tuple[Settlement, tuple[str, ...]]:
        """Call the handler of a job that is held; return its settlement, and the statements that complete the job."""
        job.args  # noqa: B018 - a payload that cannot be decoded fails here, before the handler is called
        try:
            result = self._handler_call.call(handler, job, queue.conn)
        finally:
            was_busy = self._session.close_if_busy()
        if was_busy:
            raise TransactionEnded(f"the handler of {job.kind} left its connection in the middle of something")
        if self._session.status == TransactionStatus.IDLE:
            raise _ended(job)
        try:
            return completion_in(queue, transaction, self._handler_call.encoded(job, result))
        except ENDED as error:
            raise _ended(job) from error

    def _complete(self, job: Job, *statements: str) -> tuple[str, ...]:
        try:
            return self._session.send(*statements)
        except ENDED as error:
            raise _ended(job) from error

    def _commit(self, queue: WorkerQueue, job: Job, statements: tuple[str, ...]) -> bool:
        """
        Complete the job, commit, reset the session and hold the next job, in one message.

        Return whether the session is clean.
        """
        if threading.active_count() > self._threads or self._session.is_spoiled:
            self._complete(job, *statements, "COMMIT")
            return False
        ahead = self._following() if self._handler_call.seconds() < QUICK else None
        begin = () if ahead is None else (self._session.begin, _holding(queue, *ahead))
        held = self._complete(job, *statements, "COMMIT", *self._session.cleaning, *begin)
        self._session.set_defaults()
        if ahead is not None:
            self._ahead = Ahead(ahead[1].id, ahead[1].token, held[0])
        return True

    def _has_committed(self, transaction: str | None, job: Job) -> bool:
        """
        Return whether the transaction that completes the job has committed, as far as the session can tell.

        The statement that failed may have come after the COMMIT: the lease of the next job may be lost.
        """
        self._reset_session()
        try:
            return transaction is not None and self._session.has_committed(transaction, job)
        except psycopg.Error:
            return False

    def _undo(self) -> bool:
        """Undo what was done for the last job of a batch; return whether its transaction is left for the others."""
        try:
            self._session.undo(ROLLBACK)
        except psycopg.Error:
            return False
        return True

    def _rolled_back(
        self, handler: Handler, failed: list[Job], others: list[Job], error: BaseException
    ) -> list[Result]:
        """
        Return the results after a rollback, for the jobs that have failed and those that go back.

        When a connection is lost in the middle of a COMMIT, its result is unknown; but a failure that is recorded under
        the token of a job that is done comes too late, and changes nothing.
        """
        if not self._handler_call.begun and (self._session.closed or isinstance(error, psycopg.OperationalError)):
            raise NotBegun(failed + others) from error
        return [*(self._undone(handler, job, error) for job in failed), *(Released(job) for job in others)]

    def _undone(self, handler: Handler, job: Job, error: BaseException) -> Result:
        """Return the result of a job that was not completed; there is nothing to record when its lease is lost."""
        if not self._handler_call.calling and isinstance(error, LeaseLost):
            return Settlement(job, "lost")
        return self._handler_call.judge(handler, job, error)

    def _reset_session(self) -> None:
        """Prepare the session for the next job; a thread that the handler has left behind may still use it."""
        if threading.active_count() > self._threads:
            self._session.abandon()
        self._session.reset()


def _holding(queue: WorkerQueue, handler: Handler, job: Job) -> str:
    """Return the statement that holds a job for its handler."""
    return queue.holding(job, None if handler.timeout is None else handler.timeout + IDLE_AFTER_TIMEOUT)


def _ended(job: Job) -> TransactionEnded:
    return TransactionEnded(f"the handler of {job.kind} ended its transaction")


def _is_rollback(error: BaseException) -> bool:
    """Return whether this exception would end any block of psycopg without an error."""
    # The exception of a handler may raise another one when it is asked for its class.
    return issubclass(type(error), psycopg.Rollback) and getattr(error, "transaction", None) is None
