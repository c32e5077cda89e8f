"""The loop of a worker: settle the last batch, claim the next one, run it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from random import uniform
from typing import TypeVar

import psycopg

from pgq.handlers import Handlers
from pgq.job import BatchProgress, Claim, Job
from pgq.process.logs import logger
from pgq.process.signals import StopSignals, is_main_thread
from pgq.worker.async_handlers import AsyncHandlers
from pgq.worker.async_sessions import AsyncSessions
from pgq.worker.batching import BatchSize
from pgq.worker.claimed import ClaimedJobs
from pgq.worker.event_loop import EventLoop
from pgq.worker.execution import NotBegun
from pgq.worker.executor import Executor
from pgq.worker.idle import IdleLoops
from pgq.worker.inside import Inside
from pgq.worker.joblog import first_line
from pgq.worker.liveness import Liveness
from pgq.worker.locked import LockedJobs
from pgq.worker.outcomes import Declined, Outcome, Released
from pgq.worker.refusal import Refusal, Refused
from pgq.worker.served import ServedQueues
from pgq.worker.session import Interrupted, Session
from pgq.worker.settings import RunState, Settings
from pgq.worker.settle import Settler
from pgq.worker.short_path import ShortPath
from pgq.worker.short_transactions import ShortTransactions
from pgq.worker.sleep import Sleep
from pgq.worker.suspect import LoopAtGate
from pgq.worker.ticker import Ticker
from pgq.worker.transactions import MOST_IN_BATCH
from pgq.worker.unavailable import UNAVAILABLE, condition
from pgq.worker.wakeup import Wakeup

S = TypeVar("S", bound=Session)


class Loop:
    """
    Run jobs, one batch after the other, in the thread that calls ``run``.

    The loop has a connection of its own (``session``), which its ticker's thread uses, too, while a handler runs. When
    it is lost, only the database knows whether the last commit took effect. The loop then connects again and records
    the same outcomes once more, which changes nothing where they are recorded already; it runs no job a second time.
    ``extend`` extends the lease of a job; ``batch`` returns the numbers of its batch; ``connection_lost`` is called
    after a lost connection. Up to ``most_async`` async handlers run at a time on the ``event_loop``; the loop runs its
    other handlers itself.
    """

    def __init__(
        self,
        settings: Settings,
        handlers: Handlers,
        state: RunState,
        *,
        extend: Callable[[Job, timedelta], datetime],
        batch: Callable[[Job], BatchProgress],
        connection_lost: Callable[[], None],
        idle: IdleLoops,
        served: ServedQueues,
        most_async: int,
        event_loop: EventLoop,
        sessions: AsyncSessions,
    ) -> None:
        self.settings = settings
        self.timing = settings.timing
        self.handlers = handlers
        self.state = state
        self.wakeup = Wakeup()
        state.wakeups.append(self.wakeup)
        self.batch_size = BatchSize(settings.batch, settings.batch_bytes)
        self.session = self._session(Session, settings.timing.longest_lock_wait)
        # The session of transactional handlers.
        self.inside = self._session(Inside)
        self.settler = Settler(settings, self.session, served, state.done, lambda: not handlers.any_transaction)
        self.async_handlers = AsyncHandlers(
            settings,
            handlers,
            self.settler,
            self.wakeup,
            most=most_async,
            event_loop=event_loop,
            sessions=sessions,
            unpack=self._unpack,
            wake=self._wake,
        )
        self.executor = Executor(
            handlers, self.inside, settings, extend, self._unpack, batch, self.peek, self.async_handlers
        )
        self.locked = LockedJobs(settings, self.session, self.settler)
        self.ticker = Ticker(self.tick, self.timing.tick)
        self.claimed = ClaimedJobs(self.settler, state.budget, self.session.lock)
        self.liveness = Liveness(self.timing)
        self.gate = LoopAtGate(settings, state, self.wakeup, self.liveness)
        self.short_path = ShortPath(
            settings,
            handlers,
            state,
            self.claimed,
            self.settler,
            self.executor.handler_call,
            self.executor.interruption,
            self.gate,
            self.settle,
        )
        self.short_transactions = ShortTransactions(
            settings,
            handlers,
            state,
            self.claimed,
            self.settler,
            self.executor.handler_call,
            self.executor.transactions,
            self.gate,
            self.settle,
        )
        self._connection_lost = connection_lost
        self._idle = idle
        self._served = served
        self.sleep = Sleep(settings, state, self.session, handlers, idle, served, self.wakeup, self.liveness)
        self._tick_again_at = 0.0

    def _session(self, kind: type[S], lock_timeout: str | None = None) -> S:
        settings = self.settings
        return kind(
            settings.server,
            settings.name,
            settings.schema,
            transaction_pooler=settings.transaction_pooler,
            lock_timeout=lock_timeout,
        )

    def _unpack(self, job: Job) -> None:
        """Let the server keep a job of this loop in a row of its own."""
        # Where the wait is too long, the transaction of the handler has locked the job already.
        with self.session.lock, suppress(psycopg.errors.LockNotAvailable), self.session.left_idle():
            self.settler.unpack([job])

    def _wake(self) -> None:
        """Wake the loop, which may be asleep, or wait for the end of an async handler."""
        self._idle.leave(self.wakeup)
        self.wakeup.set()

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
                    if self._go_on():
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
                    logger.warning("%s, next try in %.1f s: %s", condition(error), jittered, first_line(error))
                    self.session.close()
                    self.wakeup.wait(jittered)
                    pause = min(2 * pause, self.timing.longest_pause)
            self.finish()
        finally:
            self.async_handlers.wait_for_all()
            self.close()

    def _go_on(self) -> bool:
        """Take a turn, and sleep if that has claimed nothing; return true when the worker is drained instead."""
        try:
            return self.turn() == 0 and not self.state.stopping and self.rest()
        except psycopg.errors.LockNotAvailable as error:
            with self.session.lock:
                self.locked.set_aside()
            waiting = len(self.locked.outcomes)
            logger.warning("%d jobs wait for a transaction that has locked them: %s", waiting, first_line(error))
            return False

    def turn(self) -> int:
        """Settle the last batch, claim the next one, and run it; return how many jobs were claimed."""
        if (signals := StopSignals.active) is not None and is_main_thread():
            signals.restore()
        if not self.gate.enter(self.let_go):
            return 0
        self.async_handlers.raise_unavailable()
        with self.session.lock, self.session.interruptible():
            claim = self.settle_and_claim()
        if claim is None:
            self.sleep.note(found=False)
            self.gate.leave()
            return 0
        self.ticker.resume()
        self.sleep.note(found=True)
        if claim.suspect:
            self.run_alone()
        else:
            self.run_batch()
        return len(claim.ids)

    def settle_and_claim(self) -> Claim | None:
        """Record the outcomes of the last batch, give back the rest of it, and claim the next one."""
        self.claimed.release_unstarted()
        if self._served.prefixes:
            # The claim before the loop sleeps finds jobs in new queues, too.
            self._served.search(self.session.queue(), at_once=not self.sleep.found)
        budget = self.state.budget
        wanted = max(self.handlers.largest_batch, min(self.async_handlers.free, self.settings.batch))
        size = budget.reserve(self.batch_size.size(wanted))
        claimed_at = self.timing.clock()
        claim: Claim | None = None
        count = 0
        try:
            claim = self.settler.settle_and_claim(size)
            count = 0 if claim is None else len(claim.ids)
        except psycopg.errors.InsufficientPrivilege:
            # The role has lost a queue since the last search; the next turn searches again.
            if not self._served.prefixes:
                raise
        finally:
            budget.give_back(size - count)
        if claim is not None:
            claim.runtime = self.executor
            self.batch_size.note_claimed(claim.payloads, size)
        self.claimed.take(claim, claimed_at)
        self._idle.looked_at = claimed_at
        self.liveness.note(claimed_at)
        if claim is not None and (count == size or self.batch_size.bytes is not None):
            # There may be more of them.
            self._idle.wake_one()
        return claim

    def run_batch(self) -> None:
        """Run the claimed jobs while they may begin."""
        begin_until = self.claimed.at + self.settings.begin_within
        begun_at, begun, ended = self.timing.clock(), 0, self.async_handlers.ended
        try:
            while not self.state.stopping:
                self.executor.let_go(unless=self.claimed.peek())
                begun += self._short().run(begin_until)
                if self._may_not_begin(begin_until) or (job := self.claimed.next()) is None:
                    break
                begun += self.dispatch(job)
                if self._may_not_begin(begin_until):
                    break
                if self.settler.is_due:
                    self.executor.let_go()
                    self.settle()
        finally:
            self.executor.let_go()
        # Where handlers run beside each other, those that end tell how many begin in a time.
        done = begun if self.async_handlers.most == 1 else self.async_handlers.ended - ended
        if done:
            self.batch_size.note(done, self.timing.clock() - begun_at)

    def _short(self) -> ShortPath | ShortTransactions:
        """Return the short way for the next job, if there is one for its handler."""
        job = self.claimed.peek()
        handler = None if job is None else self.handlers.get(job.kind)
        return self.short_path if handler is None or not handler.transaction else self.short_transactions

    def _may_not_begin(self, until: float) -> bool:
        """Return whether no further job may begin; jobs of this batch may until then."""
        now = self.timing.clock()
        return self.state.stopping or now > until or self.gate.is_closed(now)

    def peek(self) -> Job | None:
        """Return the job that comes next, unless the loop is to stop."""
        return None if self.state.stopping else self.claimed.peek()

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
            most = min(handler.batch, MOST_IN_BATCH) if handler.transaction else handler.batch
            jobs += self.claimed.next_of_kind(job.kind, most - 1)
        # A job that is to be cancelled goes back: the database then ends it.
        if cancelled := [job for job in jobs if job._cancelled]:
            jobs = [job for job in jobs if not job._cancelled]
            self.settler.add(Released(job) for job in cancelled)
            self.state.budget.give_back(len(cancelled))
            if not jobs:
                return 0
        try:
            if handler.is_async:
                self.executor.begin_async(handler, jobs, self.claimed.at)
            else:
                self.settler.add(self.executor.run(handler, jobs, self.claimed.at))
        except NotBegun as error:
            self.claimed.put_back(error.jobs)
            raise (error.__cause__ or error) from None
        if self.state.budget.begin(len(jobs)):
            self.state.stop()
        return len(jobs)

    def run_alone(self) -> None:
        """
        Run a suspect while no other loop holds jobs, and settle: if the process ends meanwhile, this job has done it.

        If another loop runs a suspect, this one is released.
        """
        with self.gate.alone() as is_mine:
            if not is_mine:
                self.claimed.release_unstarted()
                return
            # As if the other handlers ran in other loops.
            handlers = self.async_handlers
            handlers.wait(
                lambda: self.state.stopping or not handlers.is_busy,
                min(self.timing.alone_within, self.settings.begin_within),
            )
            self.run_batch()
            handlers.wait(lambda: self.state.stopping or not handlers.is_busy, self.timing.alone_for)
            if self.settler.has_pending:
                self.settle()

    def rest(self) -> bool:
        """Sleep until there may be something to do; return true when the worker is drained instead."""
        handlers = self.async_handlers
        handlers.expect_end()
        # Asked in this order: the ticker settles for a handler that ends from here on, unless that wakes the loop.
        is_busy = handlers.is_busy
        if self.settler.has_pending:
            return False
        if is_busy and self.settings.drain is not None:
            handlers.wait(lambda: self.settler.has_pending or self.state.stopping, self.settings.poll)
            return False
        if not self.locked.outcomes and not is_busy:
            self.ticker.pause()
        return self.sleep.rest()

    def let_go(self) -> None:
        """Hold no job, and be notified of none, because another loop runs a suspect."""
        self.claimed.release_unstarted()
        if self.settler.has_pending:
            self.settle()
        # A notification would wake no loop that can claim.
        self._idle.declare_awake_if_busy(at_once=True)

    def settle(self, *, patient: bool = True) -> None:
        """Record outcomes without claiming; while a handler runs, not ``patient``."""
        if self.state.aborting:
            # Another thread gives this loop's jobs back, and then ends the process.
            threading.Event().wait()
        with self.session.lock:
            self.settler.settle(patient=patient)

    def tick(self) -> None:
        """
        Keep a slow handler from delaying others: settle what is done, and give back what has not begun.

        Settle jobs that were locked, too. Runs in the ticker's thread.
        """
        self.executor.interruption.check()
        self.async_handlers.tick()
        now = self.timing.clock()
        if not (self._runs_handlers or self.locked.are_due) or now < self._tick_again_at:
            return
        if not self.session.lock.acquire(blocking=False):
            return
        try:
            if self.locked.are_due:
                self.locked.settle()
                if not self.locked.outcomes:
                    # If the loop sleeps, it takes a turn, and then pauses the ticker.
                    self._idle.leave(self.wakeup)
                    self.wakeup.set()
            # Read under the lock, without which the loop gets neither to its next batch nor to sleep.
            if not self._runs_handlers:
                return
            # When the handler was called for whose end the jobs wait that have not begun, or the last async one.
            execution = self.executor.execution
            since = self.async_handlers.waiting_since if execution is None else execution.since
            if since is not None and now - since > min(self.timing.keep_unstarted, self.settings.begin_within):
                self.claimed.release_unstarted()
            if self.settler.is_due:
                self.settle(patient=False)
        except Exception as error:
            # The loop's own thread meets the error, too, and handles it; but its handler may take for ever.
            self._tick_again_at = now + self.timing.settle_again
            logger.warning("cannot settle while a handler runs: %s", first_line(error))
        finally:
            self.session.lock.release()

    @property
    def _runs_handlers(self) -> bool:
        """Whether handlers run, or async ones may have ended while the loop sleeps."""
        handlers = self.async_handlers
        return (
            self.executor.execution is not None or handlers.is_busy or (handlers.most > 1 and self.settler.has_pending)
        )

    def finish(self) -> None:
        """Settle, and give back what has not begun; if that fails, leave the jobs to their leases."""
        self.claimed.release_unstarted()
        # Meanwhile the ticker settles.
        self.async_handlers.wait_for_all()
        try:
            if self.settler.has_pending:
                with suppress(psycopg.errors.LockNotAvailable):
                    try:
                        self.settle()
                    except psycopg.errors.QueryCanceled:
                        # The cancellation was meant for the claim before, and came late.
                        self.settle()
            with self.session.lock:
                self.locked.set_aside()
            if jobs := len(self.pending):
                logger.warning("%d jobs are left to their leases: a transaction has locked them", jobs)
        except UNAVAILABLE as error:
            logger.warning("%d jobs are left to their leases: %s", len(self.pending), first_line(error))

    def is_well(self) -> bool:
        """Return whether the loop does its work, or could not for a short time only. The health thread calls this."""
        if self.async_handlers.is_busy and self.async_handlers.event_loop.blocked_for() > self.timing.unwell_after:
            return False
        now = self.timing.clock()
        in_time = (execution for execution in self.executor.executions if execution.is_in_time(now))
        return self.liveness.is_well(next(in_time, None))

    def is_stuck(self) -> bool:
        """Return whether the loop is unwell because its handler is past its timeout. The health thread calls this."""
        return bool(self.executor.executions) and not self.is_well()

    def held_jobs(self, seconds: float) -> list[Job]:
        """Return the jobs that run or have not begun, if they were claimed longer ago than this."""
        before = self.timing.clock() - seconds
        # Read in the order in which jobs move on, so that none is missed.
        unstarted = self.claimed.unstarted.copy() if self.claimed.at <= before else []
        running = (execution for execution in self.executor.executions if execution.claimed_at <= before)
        return [*unstarted, *(job for execution in running for job in execution.jobs)]

    @property
    def pending(self) -> list[Outcome]:
        """All outcomes that are not recorded yet."""
        # In the order in which they move on.
        return [*self.settler.pending, *self.locked.outcomes]

    def known_jobs(self) -> list[Job]:
        """Return all jobs that this loop holds, and perhaps some that it held; the caller holds ``session.lock``."""
        claim = self.claimed.claim
        claimed = claim.jobs() if claim is not None else ()
        # In the order in which they move on.
        running = [job for execution in self.async_handlers.executions() for job in execution.jobs]
        return [*claimed, *running, *(outcome.job for outcome in self.pending), *self.settler.left()]

    def close(self) -> None:
        """Close the connections, and end the ticker's thread."""
        self.gate.close()
        self.ticker.close()
        self.session.close()
        self.inside.close()
        self.wakeup.close()
