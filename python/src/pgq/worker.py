"""The worker: a loop that settles the last batch, claims the next one, and runs it."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from datetime import timedelta
from time import monotonic
from typing import Any

import psycopg

from pgq import handlers as registry
from pgq.bell import Bell
from pgq.errors import Error, LeaseLost, TransactionEnded
from pgq.job import Completed, Failed, Job, Outcome, Released, Settled
from pgq.queue import Queue, dumps
from pgq.report import describe, log_job, log_settled, logger

# Outcomes wait for the next claim, but never this long while the worker is between two jobs.
SETTLE_AFTER = 0.1
# The part of a lease in which jobs are begun. The others are given back, so that each has nearly a whole lease.
BEGIN_WITHIN = 0.1
# What another connection may mend: a server that is gone, or one that a failover has left read-only.
LOST = (psycopg.OperationalError, psycopg.errors.ReadOnlySqlTransaction)
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0


class Worker:
    """
    Run the jobs of some queues, one after the other, until stopped by SIGTERM, SIGINT or ``stop()``.

    ``batch`` jobs are claimed at a time, for ``lease``; ``poll`` is how many seconds to sleep when nothing is ripe.
    The worker has a connection of its own. When that is lost it connects again, and never runs a job twice by itself:
    whether the last commit took effect is for the database to know, and what did not is left to its lease.
    """

    def __init__(
        self,
        conninfo: str = "",
        handlers: registry.Handlers = registry.default,
        *,
        queues: Sequence[str] = ("default",),
        batch: int = 10,
        lease: timedelta = timedelta(minutes=5),
        poll: float = 1.0,
        name: str | None = None,
        schema: str | None = None,
    ) -> None:
        self.conninfo = conninfo
        self.handlers = handlers
        self.queues = queues
        self.batch = batch
        self.lease = lease
        self.poll = poll
        self.name = name or f"{socket.gethostname()}:{os.getpid()}"
        self.schema = schema
        self.stopping = False
        self.bell = Bell()
        self.outcomes: list[Outcome] = []
        self.unstarted: deque[Job] = deque()
        self._queue: Queue | None = None
        self._handling = False
        self._begun = False
        self._claimed_at = 0.0
        self._settled_at = 0.0

    def run(self) -> None:
        """
        Take turns until stopped, then release what was not begun.

        Raises what the first connection fails with, and every error that a new connection would not mend.
        """
        pause = FIRST_PAUSE
        with self.bell.on_signals(self.stop):
            try:
                self.connect()
                logger.info(
                    "worker %s serves %s: %s", self.name, ", ".join(self.queues), ", ".join(self.handlers.kinds)
                )
                while not self.stopping:
                    try:
                        if self.turn() == 0:
                            self.bell.sleep(self.poll)
                        pause = FIRST_PAUSE
                    except LOST as error:
                        logger.warning("connection lost, next try in %.1f s: %s", pause, str(error).strip())
                        self.disconnect()
                        self.bell.sleep(pause)
                        pause = min(2 * pause, LONGEST_PAUSE)
                self.finish()
            finally:
                self.disconnect()
                self.bell.close()
        logger.info("worker %s stopped", self.name)

    def stop(self) -> None:
        """Claim no more, finish the running job, and leave; may be called from a signal handler or any thread."""
        self.stopping = True
        self.bell.ring()

    def turn(self) -> int:
        """Settle the last batch and claim the next one, and run it; the answer is how many jobs there were."""
        jobs = self.settle_and_claim()
        self.unstarted.extend(jobs)
        begin_until = self._claimed_at + BEGIN_WITHIN * self.lease.total_seconds()
        while self.unstarted and not self.stopping:
            queue = self.connect()
            self.dispatch(queue, self.unstarted.popleft())
            if monotonic() > begin_until:
                break
            if self.outcomes and monotonic() - self._settled_at > SETTLE_AFTER:
                self.settle()
        return len(jobs)

    def settle_and_claim(self) -> list[Job]:
        """One transaction, so that a batch costs one commit."""
        self.release_unstarted()
        queue = self.connect()
        claimed_at = monotonic()
        with queue.conn.transaction():
            settled = queue.settle(self.outcomes)
            jobs = queue.claim(self.queues, self.batch, self.lease, self.name)
        self._claimed_at = claimed_at
        self.note(settled)
        return jobs

    def settle(self) -> None:
        """Put on record what is done, without claiming."""
        queue = self.connect()
        with queue.conn.transaction():
            settled = queue.settle(self.outcomes)
        self.note(settled)

    def note(self, settled: list[Settled]) -> None:
        """The outcomes are committed: forget and log them."""
        self.outcomes.clear()
        self._settled_at = monotonic()
        for one in settled:
            log_settled(one)

    def dispatch(self, queue: Queue, job: Job) -> None:
        """Run one job; whatever its handler raises is the job's failure and never the worker's."""
        conn = queue.conn
        self._handling = self._begun = False
        try:
            handler = self.handlers.get(job.kind)
            if handler is None:
                raise Error(f'this worker has no handler for kind "{job.kind}"')
            job.args  # noqa: B018 - a payload that cannot be decoded fails here, before its handler runs
            if handler.transaction:
                completed = False
                with conn.transaction():
                    queue.hold(job)
                    transaction = queue.transaction_id()
                    result = self.call(handler.function, job, conn)
                    if queue.transaction_id() != transaction:
                        raise TransactionEnded(f"the handler of {job.kind} ended its transaction")
                    queue.complete(job, result)
                    completed = True
                # psycopg.Rollback ends the block without an error.
                if not completed:
                    raise TransactionEnded(f"the handler of {job.kind} rolled its transaction back")
                log_settled(Settled(job, "done"))
            else:
                result = self.call(handler.function, job)
                self.outcomes.append(Completed(job, None if result is None else dumps(result)))
        except BaseException as error:
            if not self._begun and (conn.closed or isinstance(error, LOST)):
                self.unstarted.appendleft(job)
                raise
            if conn.closed:
                raise psycopg.OperationalError(f"during job {job.id}, which is left to its lease") from error
            if isinstance(error, LeaseLost) and not self._handling:
                log_job(job, "lost", "lost before it was done")
            else:
                self.outcomes.append(Failed(job, describe(error), type(error).__name__))

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a handler; a child process that it forked ends here, and does not go on as a second worker."""
        pid = os.getpid()
        self._handling = self._begun = True
        try:
            result = function(*arguments)
        finally:
            if os.getpid() != pid:
                os._exit(1)
        self._handling = False
        return result

    def release_unstarted(self) -> None:
        """What was claimed and not begun goes back with the next settlement."""
        self.outcomes.extend(Released(job) for job in self.unstarted)
        self.unstarted.clear()

    def finish(self) -> None:
        """Settle and release; if that fails, the leases do it."""
        self.release_unstarted()
        if self.outcomes:
            try:
                self.settle()
            except LOST as error:
                logger.warning("%d jobs are left to their leases: %s", len(self.outcomes), str(error).strip())

    def connect(self) -> Queue:
        """The queue, through a connection that is open as far as one can tell without asking the server."""
        if self._queue is None or self._queue.conn.closed:
            conn = psycopg.connect(
                self.conninfo, autocommit=True, application_name=f"pgq {self.name}"[:63], client_encoding="utf8"
            )
            # Whatever the default of the server is: SKIP LOCKED and SERIALIZABLE do not mix.
            conn.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
            self._queue = Queue(conn, schema=self.schema)
        return self._queue

    def disconnect(self) -> None:
        """Close the connection, if there is one."""
        if self._queue is not None:
            self._queue.conn.close()
            self._queue = None
