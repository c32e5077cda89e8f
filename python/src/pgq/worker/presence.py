"""Presence of the worker and extension of its leases, on a connection that runs no handler and never blocks."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from datetime import datetime, timedelta

import psycopg

from pgq.errors import LeaseLost, WrongState
from pgq.job import BatchProgress, Job
from pgq.process import logs
from pgq.process.logs import logger
from pgq.worker.calls import WorkerQueue
from pgq.worker.donelog import DoneLog
from pgq.worker.execution import Execution
from pgq.worker.idle import IdleLoops
from pgq.worker.joblog import first_line, log_job
from pgq.worker.served import ServedQueues
from pgq.worker.session import Interrupted, Session
from pgq.worker.settings import Settings
from pgq.worker.wakeup import Wakeup

# A lease is extended when a third of it is over, which leaves time for two more tries.
PART = 3
LONGEST_TICK = 1.0
# Seconds from the claim of a job until the worker asks whether it is to be cancelled: shorter jobs cost nothing.
HELD_FOR = 0.5
# Seconds between two attempts to cancel what runs in an interruptible context.
INTERRUPT_AGAIN = 0.1


class Presence:
    """
    Register the worker, extend the leases of the jobs that its handlers run, and hear of ripe jobs, in a thread of its
    own.

    A handler that does not let other threads run (a computation in C that holds the interpreter's lock) delays that,
    and loses its lease when it does so for two thirds of the lease. The lease of a handler that is past its timeout is
    not extended. Behind a transaction pooler the worker is not registered, and the connection opens only for jobs that
    run for longer than half a second.

    ``executions`` returns what the executors run. ``claims_paused`` returns a context in which no loop claims, with all
    jobs that the loops know of, or with None if a loop is claiming. ``kinds`` returns the kinds that have handlers.
    ``held_jobs`` returns the jobs that run or have not begun, and were claimed longer ago than the given number of
    seconds.
    """

    def __init__(
        self,
        settings: Settings,
        executions: Callable[[], Iterable[Execution]],
        claims_paused: Callable[[], AbstractContextManager[list[Job] | None]],
        kinds: Callable[[], list[str]],
        held_jobs: Callable[[float], list[Job]],
        served: ServedQueues,
        done: DoneLog,
    ) -> None:
        self.settings = settings
        self.registers = not settings.transaction_pooler
        self.session = Session(
            settings.server,
            f"{settings.name} presence",
            settings.schema,
            transaction_pooler=settings.transaction_pooler,
            notified=self._notified,
        )
        self._executions = executions
        self._claims_paused = claims_paused
        self._kinds = kinds
        self._held_jobs = held_jobs
        self._served = served
        self._done = done
        # The queues that were registered.
        self._queues: tuple[str, ...] = ()
        self._clock = settings.timing.clock
        # Whether the result of a claim may be lost: then the database knows of more jobs of this worker than its loops.
        self._uncertain = False
        self._registered = False
        self._warned = False
        # By job, because the jobs of one claim share a token.
        self._extended: dict[tuple[int, int], float] = {}
        self._wakeup = Wakeup()
        self.idle = IdleLoops(settings, self.session, self._wakeup)
        self._closed = False
        self.is_started = False
        self._thread = threading.Thread(target=logs.continued(self._run), name="pgq-presence", daemon=True)

    def start(self) -> None:
        """Register, and start the thread. Raises the error of the first connection, and Interrupted."""
        if self.registers:
            with self.session.interruptible():
                self._register()
        self._thread.start()
        self.is_started = True

    def unregister(self) -> None:
        """End the registration. Call it when the worker holds no jobs: they would wait for the end of their leases."""
        self._end()
        if self._registered and not self.session.closed:
            try:
                self.idle.end()
                # A lock that another session holds for long must not delay the end.
                with self.session.queue().conn.transaction():
                    self._limit_lock_wait()
                    self.session.queue().unregister(self.settings.name)
            except psycopg.Error as error:
                logger.warning("the worker is not unregistered: %s", first_line(error))

    def close(self) -> None:
        """
        Close the connection. Without ``unregister`` before, other workers take the jobs that this one still holds.
        """
        self._end()
        self.session.close()
        self._wakeup.close()

    def mark_uncertain(self) -> None:
        """Reconcile soon: a connection was lost, perhaps after a claim and before its result."""
        self._uncertain = True

    def extend(self, job: Job, lease: timedelta) -> datetime:
        """Extend the lease of a job, and return its end. Raises LeaseLost."""
        with self.session.lock, self.session.left_idle():
            until = self._queue().extend(job, lease)
        self._extended[job.id, job.token] = self._clock()
        return until

    def batch(self, job: Job) -> BatchProgress:
        """Return the numbers of the batch whose last job this is. Raises JobNotFound."""
        with self.session.lock, self.session.left_idle():
            return self._queue().batch_progress(job.id)

    def tick(self) -> None:
        """Register and reconcile if need be, extend the leases that are due, and ask which jobs are to be cancelled."""
        if self.registers and (self.session.closed or not self._registered or self._queues != self._served.known):
            self._register()
        if self._uncertain and self._registered:
            self._reconcile()
        if self._registered:
            self.idle.declare_idle_again()
            self._rescue()
        running = list(self._running())
        keys = {(job.id, job.token) for job, _, _ in running}
        self._extended = {key: at for key, at in self._extended.items() if key in keys}
        for job, claimed_at, lease in running:
            last = self._extended.get((job.id, job.token), claimed_at)
            # A lease that is longer than that of the claim begins with the handler.
            begins = lease > self.settings.lease and (job.id, job.token) not in self._extended
            if begins or self._clock() >= last + lease.total_seconds() / PART:
                self._extend(job, lease)
        self._mark_cancelled()

    def _mark_cancelled(self) -> None:
        """Mark the jobs that an operator has asked to cancel; the tickers interrupt the handlers of these."""
        # By id: the later claim of a job that was lost and claimed again comes last.
        jobs = {job.id: job for job in sorted(self._held_jobs(HELD_FOR), key=lambda job: job.token)}
        unmarked = [job for job in jobs.values() if not job._cancelled]
        if not unmarked:
            return
        with self.session.lock:
            requested = self._queue().cancel_requested(unmarked)
        for job_id in requested:
            jobs[job_id]._claim.cancelled.add(job_id)
            log_job(jobs[job_id], "requested", "an operator has cancelled it")

    def _rescue(self) -> None:
        """Rescue the jobs of workers that are gone, if no loop has done so of late because all run handlers."""
        if self._clock() > self.idle.looked_at + max(LONGEST_TICK, self.settings.timing.look):
            with self.session.lock:
                if self._served.prefixes:
                    self._served.search(self._queue(), at_once=True)
                else:
                    self._queue().claim(self._served.names, max_jobs=0)
            self.idle.looked_at = self._clock()

    def _running(self) -> Iterable[tuple[Job, float, timedelta]]:
        """Yield the jobs that run within their timeout, when they were claimed, and how long their lease is to be."""
        for execution in self._executions():
            handler = execution.handler
            if not execution.is_in_time(self._clock()):
                continue
            lease = max(self.settings.lease, handler.lease or self.settings.lease)
            for job in execution.jobs:
                yield job, execution.claimed_at, lease

    def _extend(self, job: Job, lease: timedelta) -> None:
        try:
            self.extend(job, lease)
        except LeaseLost:
            # Log it once: the handler goes on, and its result is refused.
            self._extended[job.id, job.token] = float("inf")
            log_job(job, "lost", "lost while its handler runs")

    def _reconcile(self) -> None:
        """Give back the jobs of claims whose result was lost; leave that to a later tick while a loop is claiming."""
        with self._claims_paused() as known:
            if known is None:
                return
            # Cleared before the call, because a loop may set it again at any time.
            self._uncertain = False
            try:
                with self.session.lock:
                    queue = self._queue()
                    with queue.conn.transaction():
                        self._limit_lock_wait()
                        count = queue.reconcile(self.settings.name, known)
            except BaseException as error:
                self._uncertain = True
                if isinstance(error, psycopg.errors.LockNotAvailable):
                    return
                raise
        if count:
            logger.warning("%d claimed jobs did not arrive here, and go back", count)

    def _limit_lock_wait(self) -> None:
        """Limit how long the rest of the transaction waits for a lock."""
        self.session.queue().conn.execute(
            "SELECT set_config('lock_timeout', %s, true)", [self.settings.timing.lock_timeout]
        )

    def _notified(self, payload: str) -> None:
        self.idle.notified(payload)

    def _queue(self) -> WorkerQueue:
        """Return the queue; a new connection is registered first. The caller holds ``session.lock``."""
        if self.session.closed and self.registers and not self._closed:
            self._register()
        return self.session.queue()

    def _register(self) -> None:
        with self.session.lock:
            queue, queues = self.session.queue(), self._served.known
            try:
                with queue.conn.transaction():
                    self._limit_lock_wait()
                    shares = self.settings.database is not None
                    queue.register(self.settings.name, queues, socket.gethostname(), os.getpid(), self._kinds(), shares)
                self._registered, self._queues = True, queues
            except psycopg.errors.InsufficientPrivilege:
                self._served.forget()
                raise
            except (WrongState, psycopg.errors.LockNotAvailable):
                # After a lost connection the server may not have noticed yet that the old session is gone. Or a claim
                # has noticed it, and the transaction of the claim is still open.
                self._registered = False

    def _end(self) -> None:
        self._closed = True
        self._wakeup.set()
        while self._thread.is_alive():
            self.session.interrupt()
            self._thread.join(INTERRUPT_AGAIN)

    def _run(self) -> None:
        seconds = min(LONGEST_TICK, self.settings.lease.total_seconds() / PART / 4)
        while not self._closed:
            self._done.flush()
            try:
                with self.session.interruptible():
                    self.tick()
                self._warned = False
            except Interrupted:
                return
            except Exception as error:
                if not self._warned:
                    logger.warning("the worker's presence is interrupted: %s", first_line(error))
                self._warned = True
                self.session.close()
            self._sleep(seconds)

    def _sleep(self, seconds: float) -> None:
        """Sleep until the next tick, or until the server sends a notification or ends the connection."""
        if self.session.closed or not self.registers:
            self._wakeup.wait(seconds)
            return
        try:
            with self.session.lock:
                pgconn = self._queue().conn.pgconn
                # Read along with a result, they do not make the socket readable.
                self.session.read_notifications()
            self._wakeup.wait(self.idle.patience(seconds), pgconn.socket)
            with self.session.lock:
                self.session.read_notifications()
            self.idle.declare_awake_if_busy()
        except Exception:
            # The connection is lost; perhaps a loop, in job.extend, has noticed that before this thread.
            self.session.close()
