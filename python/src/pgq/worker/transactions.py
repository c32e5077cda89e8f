"""Handlers with ``transaction=True``: what they write and the completion of their jobs are committed together."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import psycopg
from psycopg.pq import TransactionStatus

from pgq.errors import Error, LeaseLost, TransactionEnded
from pgq.handlers import Handler
from pgq.job import Job
from pgq.worker.calls import WorkerQueue
from pgq.worker.execution import NotBegun
from pgq.worker.handler_call import Call, HandlerCall
from pgq.worker.inside import Inside
from pgq.worker.outcomes import Outcome, Released, Result, Settlement
from pgq.worker.settings import Settings
from pgq.worker.settle import completion_in, record, saving_in

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


class Transaction:
    """
    Let handlers run in transactions of the worker, one at a time, through a session that is reset afterwards.

    What comes between two jobs is one message: the first one is completed, its transaction is committed, the session is
    reset, and the next transaction holds the second one. ``following`` returns that job with its handler, if it may be
    run next. Until it is run, ``let_go`` rolls its transaction back, which has had no effect.
    """

    # Of the transaction that was begun last.
    _queue: WorkerQueue

    def __init__(
        self,
        call: Call,
        session: Inside,
        settings: Settings,
        following: Callable[[], tuple[Handler, Job] | None],
    ) -> None:
        self._handler_call = call
        self._session = session
        self._settings = settings
        self._following = following
        self._threads = 0
        self._ahead: Ahead | None = None
        # Of the transaction that was begun last: its id, and the settlement of the job that it completes.
        self._transaction = ""
        self._settlement: Settlement | None = None

    def begin(self, handler: Handler, job: Job) -> psycopg.Connection[Any]:
        """Hold a job in a new transaction, unless that is done; return the connection."""
        self._threads = threading.active_count()
        self._transaction, self._settlement = "", None
        self._queue, ahead = self._session.queue(), self._ahead
        if ahead is not None and ahead[:2] == (job.id, job.token) and self._session.is_in_transaction:
            self._ahead = None
            self._transaction = ahead.transaction
        else:
            self.let_go()
            self._transaction, *_ = self._session.send(self._session.begin, _holding(self._queue, handler, job))
        return self._queue.conn

    def end(self, job: Job, result: Any) -> Settlement:
        """Complete a job whose handler has returned, and commit; return the settlement."""
        self._settlement, statements = self._completion(job, result)
        if not self._commit(job, statements):
            self._reset_session()
        return self._settlement

    def failed(self, handler: Handler, job: Job, error: BaseException) -> Result:
        """Roll back, after an exception from the handler or from ``begin`` or ``end``; return the result of the job."""
        try:
            self._session.close_if_busy()
            if _is_rollback(error):
                error = TransactionEnded(f"the handler of {job.kind} rolled its transaction back")
            self._session.roll_back()
            if self._settlement is not None and self._has_committed(job):
                return self._settlement
            return self._rolled_back(handler, [job], [], error)[0]
        finally:
            self._reset_session()

    def check_step(self) -> None:
        """Raise RuntimeError where a step cannot commit, TransactionEnded if the handler has ended the transaction."""
        if self._session.has_blocks:
            raise RuntimeError("a step commits the transaction: call it outside of conn.transaction()")
        if self._session.status == TransactionStatus.IDLE:
            raise TransactionEnded("the handler ended its transaction")

    def end_step(self, handler: Handler, job: Job, saved: str) -> None:
        """Save JSON text with a job, commit it with what a step has written, and hold the job in a new transaction."""
        try:
            saving = saving_in(self._queue, job, saved, self._transaction)
        except ENDED as error:
            raise _ended(job) from error
        holding = _holding(self._queue, handler, job)
        self._transaction, *_ = self._send(job, *saving, "COMMIT", self._session.begin, holding)

    def let_go(self, unless: Job | None = None) -> None:
        """Hold no job ahead, except for this one."""
        ahead = self._ahead
        if ahead is not None and (unless is None or ahead[:2] != (unless.id, unless.token)):
            self._ahead = None
            self._session.roll_back()

    def _completion(self, job: Job, result: Any) -> tuple[Settlement, tuple[str, ...]]:
        """Return the settlement of a job whose handler has returned, and the statements that complete it."""
        if self._session.close_if_busy():
            raise TransactionEnded(f"the handler of {job.kind} left its connection in the middle of something")
        if self._session.status == TransactionStatus.IDLE:
            raise _ended(job)
        try:
            return completion_in(self._queue, self._transaction, self._handler_call.encoded(job, result))
        except ENDED as error:
            raise _ended(job) from error

    def _send(self, job: Job, *statements: str) -> tuple[str, ...]:
        try:
            return self._session.send(*statements)
        except ENDED as error:
            raise _ended(job) from error

    def _commit(self, job: Job, statements: tuple[str, ...]) -> bool:
        """
        Complete the job, commit, reset the session and hold the next job, in one message.

        Return whether the session is clean.
        """
        if self._has_left_threads() or self._session.is_spoiled:
            self._send(job, *statements, "COMMIT")
            return False
        ahead = self._following() if self._handler_call.seconds() < QUICK else None
        begin = () if ahead is None else (self._session.begin, _holding(self._queue, *ahead))
        held = self._send(job, *statements, "COMMIT", *self._session.cleaning, *begin)
        self._session.set_defaults()
        if ahead is not None:
            self._ahead = Ahead(ahead[1].id, ahead[1].token, held[0])
        return True

    def _has_committed(self, job: Job) -> bool:
        """
        Return whether the transaction that completes the job has committed, as far as the session can tell.

        The statement that failed may have come after the COMMIT: the lease of the next job may be lost.
        """
        self._reset_session()
        try:
            return bool(self._transaction) and self._session.has_committed(self._transaction, job)
        except psycopg.Error:
            return False

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
        if self._has_left_threads():
            self._session.abandon()
        self._session.reset()

    def _has_left_threads(self) -> bool:
        return threading.active_count() > self._threads


class Transactions(Transaction):
    """Run jobs in transactions, in the thread of a loop."""

    def __init__(
        self,
        handler_call: HandlerCall,
        session: Inside,
        settings: Settings,
        following: Callable[[], tuple[Handler, Job] | None],
    ) -> None:
        super().__init__(handler_call, session, settings, following)
        self._caller = handler_call

    def run_one(self, handler: Handler, job: Job) -> Result:
        """Let the handler's writes and the completion of its job commit together, or not at all."""
        try:
            conn = self.begin(handler, job)
            job.args  # noqa: B018 - a payload that cannot be decoded fails here, before the handler is called
            return self.end(job, self._caller.call(handler, job, conn))
        except BaseException as error:
            return self.failed(handler, job, error)

    def run_batch(self, handler: Handler, jobs: list[Job]) -> list[Result]:
        """Run each job under a savepoint. One commit completes the jobs, and records the others' outcomes."""
        settled: list[Settlement] = []
        failed: list[Outcome] = []
        left = jobs.copy()
        current: Job | None = None
        function = self._caller.simple(handler)
        self._threads = threading.active_count()
        try:
            self.let_go()
            self._queue = queue = self._session.queue()
            self._transaction, ids = self._session.send(self._session.begin, queue.holding_many(jobs), SAVEPOINT)
            held = set(ids.split())
            settled += [Settlement(job, "lost") for job in jobs if str(job.id) not in held]
            left = [job for job in jobs if str(job.id) in held]
            while left:
                current = left.pop(0)
                self._handler_call.calling = False
                try:
                    settlement, statements = self._completion(current, self._call(function, handler, current))
                    self._send(current, *statements, RELEASE, *([SAVEPOINT] if left else []))
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

    def _call(self, function: Callable[..., Any] | None, handler: Handler, job: Job) -> Any:
        """Call the handler of a job of a batch."""
        job.args  # noqa: B018 - as above
        try:
            if function is None:
                return self._caller.call(handler, job, self._queue.conn)
            return self._caller.call_simple(function, handler, job, self._queue.conn)
        except BaseException:
            self._session.close_if_busy()
            raise

    def _undo(self) -> bool:
        """Undo what was done for the last job of a batch; return whether its transaction is left for the others."""
        try:
            self._session.undo(ROLLBACK)
        except psycopg.Error:
            return False
        return True


def _holding(queue: WorkerQueue, handler: Handler, job: Job) -> str:
    """Return the statement that holds a job for its handler."""
    return queue.holding(job, None if handler.timeout is None else handler.timeout + IDLE_AFTER_TIMEOUT)


def _ended(job: Job) -> TransactionEnded:
    return TransactionEnded(f"the handler of {job.kind} ended its transaction")


def _is_rollback(error: BaseException) -> bool:
    """Return whether this exception would end any block of psycopg without an error."""
    # The exception of a handler may raise another one when it is asked for its class.
    return issubclass(type(error), psycopg.Rollback) and getattr(error, "transaction", None) is None
