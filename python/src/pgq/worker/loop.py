"""The loop of a worker: settle the last batch, claim the next one, run it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta
from random import uniform

import psycopg

from pgq.handlers import Handlers
from pgq.job import Job
from pgq.process.logs import logger
from pgq.process.signals import StopSignals, is_main_thread
from pgq.worker.batching import BatchSize
from pgq.worker.execution import NotBegun
from pgq.worker.executor import Executor
from pgq.worker.idle import IdleLoops
from pgq.worker.joblog import first_line
from pgq.worker.outcomes import Declined, Released
from pgq.worker.refusal import Refusal, Refused
from pgq.worker.session import Interrupted, Session
from pgq.worker.settings import RunState, Settings
from pgq.worker.settle import Settler
from pgq.worker.sleep import Sleep
from pgq.worker.ticker import Ticker
from pgq.worker.wakeup import Wakeup

# Errors that time or another connection may mend: the server is gone, out of space, or read-only after a failover. A
# standby raises 0A000 for an unlogged table.
UNAVAILABLE = (
    psycopg.OperationalError,
    psycopg.errors.ReadOnlySqlTransaction,
    psycopg.errors.FeatureNotSupported,
)


# Seconds between two looks at a gate, should a wake-up be lost.
LONGEST_WAIT = 1.0


class Loop:
    """
    Run jobs, one batch after the other, in the thread that calls ``run``.

    The loop has a connection of its own (``session``), which its ticker's thread uses, too, while a handler runs. When
    it is lost, only the database knows whether the last commit took effect. The loop then connects again and records
    the same outcomes once more, which changes nothing where they are recorded already; it runs no job a second time.
    ``extend`` extends the lease of a job; ``connection_lost`` is called after a lost connection.
    """

    def __init__(
        self,
        settings: Settings,
        handlers: Handlers,
        state: RunState,
        *,
        extend: Callable[[Job, timedelta], datetime],
        connection_lost: Callable[[], None],
        idle: IdleLoops,
    ) -> None:
        self.settings = settings
        self.timing = settings.timing
        self.handlers = handlers
        self.state = state
        self.wakeup = Wakeup()
        state.wakeups.append(self.wakeup)
        self.batch_size = BatchSize(settings.batch, settings.batch_bytes)
        self.session = self._session()
        # The session of transactional handlers.
        self.inside = self._session()
        self.executor = Executor(handlers, self.inside, settings, extend)
        self.settler = Settler(settings, self.session)
        self.ticker = Ticker(self.tick, self.timing.tick)
        # Claimed and not begun. The ticker's thread takes jobs from here, too.
        self.unstarted: deque[Job] = deque()
        self.claimed_at = 0.0
        # Until when the loop counts as well.
        self.well_until = self.timing.clock() + self.timing.unwell_after
        self._connection_lost = connection_lost
        self._idle = idle
        self.sleep = Sleep(settings, state, self.session, idle, self.wakeup, self._wait)
        self._batch: list[Job] = []
        self._previous_was_empty = True
        self._tick_again_at = 0.0

    def _session(self) -> Session:
        settings = self.settings
        return Session(
            settings.server,
            settings.name,
            settings.schema,
            transaction_pooler=settings.transaction_pooler,
        )

    def run(self) -> None:
        """
        Take turns until stopped or drained; then settle, and give back what has not begun.

        Raises every error that a new connection would not mend, and Refused.
        """
        pause = self.timing.first_pause
        refusal = Refusal(self.settings.server, self.timing.clock)
        self.executor.interruption.install()
        try:
            while not self.state.stopping:
                try:
                    if self.turn() == 0 and not self.state.stopping and self.rest():
                        break
                    pause = self.timing.first_pause
                    refusal.end()
                except Interrupted:
                    break
                except UNAVAILABLE as error:
                    self._connection_lost()
                    if error.sqlstate is not None:
                        refusal.end()
                    elif refusal.seconds() >= self.timing.refused_for:
                        raise Refused(str(error)) from error
                    jittered = pause * uniform(0.75, 1.25)
                    logger.warning("the database is not available, next try in %.1f s: %s", jittered, first_line(error))
                    self.session.close()
                    self.wakeup.wait(jittered)
                    pause = min(2 * pause, self.timing.longest_pause)
            self.finish()
        finally:
            self.close()

    def turn(self) -> int:
        """Settle the last batch, claim the next one, and run it; return how many jobs were claimed."""
        if (signals := StopSignals.active) is not None and is_main_thread():
            signals.restore()
        if not self.enter():
            return 0
        with self.session.lock, self.session.interruptible():
            jobs = self.settle_and_claim()
        if not jobs:
            self._previous_was_empty = True
            self.state.gate.leave(self)
            return 0
        self.unstarted.extend(jobs)
        self.stay_awake()
        if jobs[0].suspect:
            self.run_alone()
        else:
            self.run_batch()
        return len(jobs)

    def run_batch(self) -> None:
        """Run the claimed jobs while they may begin."""
        begin_until = self.claimed_at + self.settings.begin_within
        begun_at, begun = self.timing.clock(), 0
        while not self.state.stopping and (job := self.next_job()) is not None:
            begun += self.dispatch(job)
            now = self.timing.clock()
            if now > begin_until or self.state.gate.is_closed(self, now):
                break
            if self.settler.is_due:
                self.settle()
        if begun:
            self.batch_size.note(begun, self.timing.clock() - begun_at)

    def enter(self) -> bool:
        """Wait while another loop runs a suspect, without jobs; return false when the worker is told to stop."""
        gate = self.state.gate
        while not gate.enter(self, self.timing.clock()):
            self.release_unstarted()
            if self.settler.pending:
                self.settle()
            # A notification would wake no loop that can claim.
            self._idle.declare_awake_if_busy(at_once=True)
            gate.leave(self)
            if self.state.stopping:
                return False
            self.wakeup.wait(LONGEST_WAIT)
            self.well_until = self.timing.clock() + self.timing.unwell_after
        return True

    def run_alone(self) -> None:
        """
        Run a suspect while no other loop holds jobs, and settle: if the process ends meanwhile, this job has done it.

        When the others take too long, the suspect runs beside them. If another loop runs a suspect, this one is
        released.
        """
        gate, now = self.state.gate, self.timing.clock()
        until = now + min(self.timing.alone_within, self.settings.begin_within)
        if not gate.close(self, now, until):
            self.release_unstarted()
            return
        try:
            while not gate.is_alone(self) and not self.state.stopping and (now := self.timing.clock()) < until:
                self.wakeup.wait(min(until - now, LONGEST_WAIT))
                self.well_until = self.timing.clock() + self.timing.unwell_after
            gate.close(self, now, self.timing.clock() + self.timing.alone_for)
            self.run_batch()
            if self.settler.pending:
                self.settle()
        finally:
            gate.open(self)

    def settle_and_claim(self) -> list[Job]:
        """Record the outcomes of the last batch, give back the rest of it, and claim the next one."""
        self.release_unstarted()
        budget = self.state.budget
        size = budget.reserve(self.batch_size.size(self.handlers.largest_batch))
        claimed_at = self.timing.clock()
        jobs: list[Job] = []
        try:
            jobs = self.settler.settle_and_claim(size)
        finally:
            budget.give_back(size - len(jobs))
        self.batch_size.note_claimed(jobs, size)
        self.claimed_at = self._idle.looked_at = claimed_at
        self.well_until = claimed_at + self.timing.unwell_after
        self._batch = jobs
        if jobs and (len(jobs) == size or self.batch_size.bytes is not None):
            # There may be more of them.
            self._idle.wake_one()
        return jobs

    def settle(self) -> None:
        """Record outcomes without claiming."""
        if self.state.aborting:
            # Another thread gives this loop's jobs back, and then ends the process.
            threading.Event().wait()
        with self.session.lock:
            self.settler.settle()

    def tick(self) -> None:
        """
        Keep a slow handler from delaying others: settle what is done, and give back what has not begun.

        Runs in the ticker's thread.
        """
        self.executor.interruption.check()
        now = self.timing.clock()
        if self.executor.execution is None or now < self._tick_again_at:
            return
        if not self.session.lock.acquire(blocking=False):
            return
        try:
            # Read under the lock, without which the loop gets neither to its next batch nor to sleep.
            execution = self.executor.execution
            if execution is None:
                return
            if now - execution.since > min(self.timing.keep_unstarted, self.settings.begin_within):
                self.release_unstarted()
            if self.settler.is_due:
                self.settle()
        except Exception as error:
            # The loop's own thread meets the error, too, and handles it; but its handler may take for ever.
            self._tick_again_at = now + self.timing.settle_again
            logger.warning("cannot settle while a handler runs: %s", first_line(error))
        finally:
            self.session.lock.release()

    def dispatch(self, job: Job) -> int:
        """
        Run a job, or for a batch handler several of its kind; return how many jobs were run.

        A job for which there is no handler is declined, and counts neither here nor in the budget.
        """
        handler = self.handlers.get(job.kind)
        if handler is None:
            self.state.unhandled.warn(job.kind)
            self.settler.add([Declined(job)])
            self.state.budget.give_back(1)
            return 0
        jobs = [job]
        if handler.batch is not None:
            jobs += self.next_jobs(job.kind, handler.batch - 1)
        # A job that is to be cancelled goes back: the database then ends it.
        if cancelled := [job for job in jobs if job._cancelled]:
            jobs = [job for job in jobs if not job._cancelled]
            self.settler.add(Released(job) for job in cancelled)
            self.state.budget.give_back(len(cancelled))
            if not jobs:
                return 0
        try:
            self.settler.add(self.executor.run(handler, jobs, self.claimed_at))
        except NotBegun as error:
            self.unstarted.extendleft(reversed(error.jobs))
            raise (error.__cause__ or error) from None
        if self.state.budget.begin(len(jobs)):
            self.state.stop()
        return len(jobs)

    def is_well(self) -> bool:
        """
        Return whether the loop does its work, or could not for a short time only. The health thread calls this.

        It does its work while it claims, sleeps because no job is ripe, or runs a handler that is within its timeout.
        """
        now = self.timing.clock()
        execution = self.executor.execution
        if execution is not None and execution.is_in_time(now):
            self.well_until = now + self.timing.unwell_after
        return now <= self.well_until

    def held_jobs(self, seconds: float) -> list[Job]:
        """Return the jobs that run or have not begun, if they were claimed longer ago than this."""
        if self.timing.clock() - self.claimed_at < seconds:
            return []
        # Read in the order in which jobs move on, so that none is missed.
        unstarted = self.unstarted.copy()
        execution = self.executor.execution
        return [*unstarted, *(execution.jobs if execution is not None else ())]

    def known_jobs(self) -> list[Job]:
        """Return all jobs that this loop holds, and perhaps some that it held; the caller holds ``session.lock``."""
        return [*self._batch, *(outcome.job for outcome in self.settler.pending)]

    def release_unstarted(self) -> None:
        """Let the jobs that have not begun go back with the next settlement."""
        while (job := self.next_job()) is not None:
            self.settler.add([Released(job)])
            self.state.budget.give_back(1)

    def next_job(self) -> Job | None:
        """Take the next job of the batch."""
        try:
            return self.unstarted.popleft()
        except IndexError:
            return None

    def next_jobs(self, kind: str, count: int) -> list[Job]:
        """Take the next jobs of a kind."""
        with self.session.lock:
            jobs = [job for job in self.unstarted if job.kind == kind][:count]
            for job in jobs:
                self.unstarted.remove(job)
        return jobs

    def rest(self) -> bool:
        """
        Sleep until there may be something to do; return true when the worker is drained instead.

        Of the loops that sleep, one looks, at most ``poll`` seconds after its last look. When a job is ripe it claims,
        or wakes another loop to do so. All wait for notifications. A loop that is to be drained only waits.
        """
        self.ticker.pause()
        with self.session.lock, self.session.interruptible():
            queue = self.session.queue()
            seconds = None
            if self.settings.drain is not None:
                remaining = queue.remaining(self.settings.queues, self.handlers.kinds)
                if self.settings.drain.is_reached(remaining):
                    return True
                seconds = self.settings.drain.sleep(remaining, self.settings.poll)
            socket = queue.conn.fileno()
        if not self._idle.enter(self.wakeup):
            return False
        try:
            if seconds is not None:
                self._wait(seconds, socket)
            else:
                self.sleep.until_ripe(socket)
        finally:
            self._idle.leave(self.wakeup)
            self.well_until = self.timing.clock() + self.timing.unwell_after
        return False

    def _wait(self, seconds: float | None, socket: int) -> bool:
        """Sleep; return whether the connection is lost. While it sleeps the loop counts as well."""
        longest = float("inf") if seconds is None else seconds
        self.well_until = self.timing.clock() + longest + self.timing.unwell_after
        return bool(self.wakeup.wait(seconds, socket))

    def stay_awake(self) -> None:
        """
        Jobs arrived. Declare the session awake only on the second non-empty batch in a row, so that a worker that is
        woken for single jobs saves a round trip.
        """
        self.ticker.resume()
        if not self._previous_was_empty:
            self._idle.declare_awake_if_busy(at_once=True)
        self._previous_was_empty = False
        self.sleep.forget()

    def finish(self) -> None:
        """Settle, and give back what has not begun; if that fails, leave the jobs to their leases."""
        self.release_unstarted()
        if self.settler.pending:
            try:
                try:
                    self.settle()
                except psycopg.errors.QueryCanceled:
                    # The cancellation was meant for the claim before, and came late.
                    self.settle()
            except UNAVAILABLE as error:
                logger.warning("%d jobs are left to their leases: %s", len(self.settler.pending), first_line(error))

    def close(self) -> None:
        """Close the connections, and end the ticker's thread."""
        self.state.gate.leave(self)
        self.ticker.close()
        self.session.close()
        self.inside.close()
        self.wakeup.close()
