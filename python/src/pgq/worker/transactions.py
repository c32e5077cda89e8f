"""Handlers with ``transaction=True``: what they write and the completion of their jobs are committed together."""

from __future__ import annotations

import threading
from typing import Final

import psycopg
from psycopg.pq import TransactionStatus

from pgq.errors import Error, LeaseLost, TransactionEnded
from pgq.handlers import Handler
from pgq.job import Job
from pgq.worker.calls import WorkerQueue
from pgq.worker.execution import NotBegun
from pgq.worker.handler_call import HandlerCall
from pgq.worker.outcomes import Outcome, Released, Result, Settlement
from pgq.worker.session import Session
from pgq.worker.settings import Settings
from pgq.worker.settle import complete_in, record

# A worker that is frozen interrupts no handler. So many seconds after the timeout of a transactional handler the server
# ends its session, so that its job can be rescued; a worker that is not frozen interrupts the handler before.
IDLE_AFTER_TIMEOUT: Final = 5.0


class Transactions:
    """Run jobs in transactions of the worker, through a session that is reset afterwards."""

    def __init__(self, handler_call: HandlerCall, session: Session, settings: Settings) -> None:
        self._handler_call = handler_call
        self._session = session
        self._settings = settings
        self._threads = 0

    def run_one(self, handler: Handler, job: Job) -> Result:
        """Let the handler's writes and the completion of its job commit together, or not at all."""
        committed = False
        self._threads = threading.active_count()
        try:
            queue = self._session.queue()
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

    def run_batch(self, handler: Handler, jobs: list[Job]) -> list[Result]:
        """Run each job under a savepoint. One commit completes the jobs, and records the others' outcomes."""
        settled: list[Settlement] = []
        failed: list[Outcome] = []
        left = jobs.copy()
        current: Job | None = None
        committed = False
        self._threads = threading.active_count()
        try:
            queue = self._session.queue()
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
                recorded = record(queue, failed, self._settings.timing.lock_timeout)
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
        self._handler_call.calling = False
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
        job.args  # noqa: B018 - a payload that cannot be decoded fails here, before the handler is called
        try:
            result = self._handler_call.call(handler, job, queue.conn)
        finally:
            was_busy = self._session.close_if_busy()
        if was_busy:
            raise TransactionEnded(f"the handler of {job.kind} left its connection in the middle of something")
        settlement = complete_in(queue, transaction, self._handler_call.encoded(job, result))
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


def _is_in_transaction(queue: WorkerQueue) -> bool:
    return queue.conn.info.transaction_status == TransactionStatus.INTRANS
