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
from pgq.convert import dumps
from pgq.errors import Error, LeaseLost, TransactionEnded
from pgq.job import Completed, Failed, Job, Outcome, Released, Settled, is_plain
from pgq.pace import Pace
from pgq.report import describe, log_job, log_settled, logger, worth_a_line
from pgq.session import Session
from pgq.ticker import Ticker

# Outcomes wait for the next claim, but not for longer than this and a tick.
SETTLE_AFTER, TICK = 0.07, 0.025
# When a plain handler takes longer, what was claimed along with its job is given back.
KEEP_UNSTARTED = 1.0
# The part of a lease in which jobs are begun. The others are given back, so that each has nearly a whole lease.
BEGIN_WITHIN = 0.1
# What another connection may mend: a server that is gone, or one that a failover has left read-only.
LOST = (psycopg.OperationalError, psycopg.errors.ReadOnlySqlTransaction)
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0


class Worker:
    """
    Run the jobs of some queues, one after the other, until stopped by SIGTERM, SIGINT or ``stop()``.

    At most ``batch`` jobs are claimed at a time, for ``lease``: fewer when they take long. When nothing is ripe the
    worker sleeps until it is notified of a job, at most ``poll`` seconds.

    The worker has a connection of its own. When that is lost it connects again, and never runs a job twice by itself:
    whether the last commit took effect is for the database to know, and what did not is left to its lease.
    """

    def __init__(
        self,
        conninfo: str = "",
        handlers: registry.Handlers = registry.default,
        *,
        queues: Sequence[str] = ("default",),
        batch: int = 100,
        lease: timedelta = timedelta(minutes=5),
        poll: float = 1.0,
        name: str | None = None,
        schema: str | None = None,
    ) -> None:
        self.handlers = handlers
        self.queues = queues
        self.lease = lease
        self.poll = poll
        self.name = name or f"{socket.gethostname()}:{os.getpid()}"
        self.stopping = False
        self.bell = Bell()
        self.pace = Pace(batch)
        self.outcomes: list[Outcome] = []
        self.unstarted: deque[Job] = deque()
        # Used by this thread, and by that of the ticker while a plain handler runs.
        self.session = Session(conninfo, self.name, schema, self.bell.ring)
        self.ticker = Ticker(self.look_after, TICK)
        self._roused = False
        self._handling = False
        self._begun = False
        self._claimed_at = 0.0
        self._settled_at = 0.0
        self._called_at = 0.0
        self._pid = 0

    def run(self) -> None:
        """
        Take turns until stopped, then release what was not begun.

        Raises what the first connection fails with, and every error that a new connection would not mend.
        """
        pause = FIRST_PAUSE
        with self.bell.on_signals(self.stop):
            try:
                self.session.queue()
                logger.info(
                    "worker %s serves %s: %s", self.name, ", ".join(self.queues), ", ".join(self.handlers.kinds)
                )
                while not self.stopping:
                    try:
                        if self.turn() == 0:
                            self.rest()
                        pause = FIRST_PAUSE
                    except LOST as error:
                        logger.warning("connection lost, next try in %.1f s: %s", pause, str(error).strip())
                        self.session.close()
                        self.bell.sleep(pause)
                        pause = min(2 * pause, LONGEST_PAUSE)
                self.finish()
            finally:
                self.close()
        logger.info("worker %s stopped", self.name)

    def stop(self) -> None:
        """Claim no more, finish the running job, and leave; may be called from a signal handler or any thread."""
        self.stopping = True
        self.bell.ring()

    def turn(self) -> int:
        """Settle the last batch and claim the next one, and run it; the answer is how many jobs there were."""
        with self.session.lock:
            jobs = self.settle_and_claim()
        if not jobs:
            self._roused = False
            return 0
        self.unstarted.extend(jobs)
        self.wake()
        self._pid = os.getpid()
        begin_until = self._claimed_at + BEGIN_WITHIN * self.lease.total_seconds()
        begun_at, begun = monotonic(), 0
        while not self.stopping and (job := self.next_job()) is not None:
            self.dispatch(job)
            begun += 1
            now = monotonic()
            if now > begin_until:
                break
            if self.outcomes and now - self._settled_at > SETTLE_AFTER:
                self.settle()
        if begun:
            self.pace.note(begun, monotonic() - begun_at)
        return len(jobs)

    def settle_and_claim(self) -> list[Job]:
        """One transaction, so that a batch costs one commit; one statement, where all outcomes are plain ones."""
        self.release_unstarted()
        queue = self.session.queue()
        outcomes = self.outcomes.copy()
        claim = (self.queues, self.pace.size(), self.lease, self.name)
        claimed_at = monotonic()
        if not outcomes:
            settled: list[Settled] = []
            jobs = queue.claim_only(*claim)
        elif all(is_plain(outcome) for outcome in outcomes):
            done = [outcome.job for outcome in outcomes]
            lost, jobs = queue.complete_and_claim(done, *claim)
            settled = [
                Settled(job, "lost" if job.id in lost else "done") for job in done if lost or worth_a_line("done")
            ]
        else:
            with queue.conn.transaction():
                settled = queue.settle(outcomes)
                jobs = queue.claim(*claim)
        self._claimed_at = claimed_at
        self.note(len(outcomes), settled)
        return jobs

    def settle(self) -> None:
        """Put on record what is done, without claiming."""
        with self.session.lock:
            queue = self.session.queue()
            outcomes = self.outcomes.copy()
            with queue.conn.transaction():
                settled = queue.settle(outcomes)
            self.note(len(outcomes), settled)

    def note(self, count: int, settled: list[Settled]) -> None:
        """The first ``count`` outcomes are committed: forget them, and log what became of them."""
        del self.outcomes[:count]
        self._settled_at = monotonic()
        for one in settled:
            log_settled(one)

    def look_after(self) -> None:
        """In the thread of the ticker: do not let a slow handler keep outcomes from the record, or jobs from others."""
        if not self._handling or not self.session.lock.acquire(blocking=False):
            return
        try:
            if monotonic() - self._called_at > KEEP_UNSTARTED:
                self.release_unstarted()
                self.session.stay_awake(self.queues)
            if self.outcomes and monotonic() - self._settled_at > SETTLE_AFTER:
                self.settle()
        except Exception as error:
            # The worker's own thread will meet it, and knows what to do. Until then there is no use in trying again.
            self.ticker.pause()
            logger.warning("cannot settle while a handler runs: %s", str(error).strip())
        finally:
            self.session.lock.release()

    def dispatch(self, job: Job) -> None:
        """Run one job; whatever its handler raises is the job's failure and never the worker's."""
        self._handling = self._begun = False
        handler = self.handlers.get(job.kind)
        if handler is not None and handler.transaction:
            try:
                if self.outcomes:
                    # They would have to wait for as long as the handler needs the connection.
                    self.settle()
            except BaseException:
                self.unstarted.appendleft(job)
                raise
            with self.session.lock:
                self.attempt(job, handler)
        else:
            self.attempt(job, handler)

    def attempt(self, job: Job, handler: registry.Handler | None) -> None:
        """Call the handler, and note the outcome."""
        try:
            if handler is None:
                raise Error(f'this worker has no handler for kind "{job.kind}"')
            job.args  # noqa: B018 - a payload that cannot be decoded fails here, before its handler runs
            if handler.transaction:
                completed = False
                queue = self.session.queue()
                conn = queue.conn
                with conn.transaction():
                    transaction = queue.hold(job)
                    result = self.call(handler.function, job, conn)
                    if not queue.complete_within(transaction, job, result):
                        raise TransactionEnded(f"the handler of {job.kind} ended its transaction")
                    completed = True
                # psycopg.Rollback ends the block without an error.
                if not completed:
                    raise TransactionEnded(f"the handler of {job.kind} rolled its transaction back")
                log_settled(Settled(job, "done"))
            else:
                result = self.call(handler.function, job)
                self.outcomes.append(Completed(job, None if result is None else dumps(result)))
        except BaseException as error:
            # A plain handler does without the connection, and its outcome can go through another one.
            closed = handler is not None and handler.transaction and self.session.closed
            if not self._begun and (closed or isinstance(error, LOST)):
                self.unstarted.appendleft(job)
                raise
            if closed:
                raise psycopg.OperationalError(f"during job {job.id}, which is left to its lease") from error
            if isinstance(error, LeaseLost) and not self._handling:
                log_job(job, "lost", "lost before it was done")
            else:
                self.outcomes.append(Failed(job, describe(error), type(error).__name__))
        finally:
            self._handling = False

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a handler; a child process that it forked ends here, and does not go on as a second worker."""
        self._called_at = monotonic()
        self._handling = self._begun = True
        try:
            result = function(*arguments)
        finally:
            if os.getpid() != self._pid:
                os._exit(1)
        self._handling = False
        return result

    def release_unstarted(self) -> None:
        """What was claimed and not begun goes back with the next settlement."""
        while (job := self.next_job()) is not None:
            self.outcomes.append(Released(job))

    def next_job(self) -> Job | None:
        """The next job of the batch; the ticker's thread may take them, too."""
        try:
            return self.unstarted.popleft()
        except IndexError:
            return None

    def rest(self) -> None:
        """Sleep until there may be something to do. The first time only say so, for jobs that came just before."""
        self.ticker.pause()
        with self.session.lock:
            if not self.session.asleep:
                self.session.fall_asleep(self.queues)
                return
            if self.session.heard():
                return
            socket_ = self.session.queue().conn.fileno()
        self.bell.sleep(self.poll, socket_)

    def wake(self) -> None:
        """There are jobs. Who is woken for one job at a time need not say so each time, only once there are more."""
        self.ticker.resume()
        if self._roused:
            with self.session.lock:
                self.session.stay_awake(self.queues)
        self._roused = True

    def finish(self) -> None:
        """Settle and release; if that fails, the leases do it."""
        self.release_unstarted()
        if self.outcomes:
            try:
                self.settle()
            except LOST as error:
                logger.warning("%d jobs are left to their leases: %s", len(self.outcomes), str(error).strip())

    def close(self) -> None:
        """Give everything back."""
        self.ticker.close()
        self.session.close()
        self.bell.close()
