"""The loop of a worker: settle the last batch, claim the next one, run it."""

from __future__ import annotations

import threading
from collections import deque
from random import uniform
from time import monotonic
from typing import TYPE_CHECKING

import psycopg

from pgq.job import Job
from pgq.worker.batching import BatchSize
from pgq.worker.executor import Executor, NotBegun
from pgq.worker.joblog import log_settlement, logger, worth_a_line
from pgq.worker.outcomes import Outcome, Released, Settlement, is_plain
from pgq.worker.session import Session
from pgq.worker.settle import settle
from pgq.worker.ticker import Ticker
from pgq.worker.wakeup import Wakeup

if TYPE_CHECKING:
    from pgq.worker.worker import Worker

# Outcomes wait for the next claim, but not for longer than this and a tick.
SETTLE_AFTER, TICK = 0.07, 0.025
# And where that fails, for so long again.
TRY_AGAIN = 1.0
# When a handler takes longer, what was claimed along with its job is given back.
KEEP_UNSTARTED = 1.0
# The part of a lease in which jobs are begun. The others are given back, so that each has nearly a whole lease.
BEGIN_WITHIN = 0.1
# What time may mend, or another connection: a server that is gone, out of space, or read-only after a failover.
# A standby says 0A000 of a table that is not logged.
UNAVAILABLE = (
    psycopg.OperationalError,
    psycopg.errors.ReadOnlySqlTransaction,
    psycopg.errors.FeatureNotSupported,
)
# Short enough that work goes on soon after a restart; all workers of a server do not come in the same moment.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 3.0


class Loop:
    """
    Run jobs, one batch after the other, in the thread that calls ``run``.

    It has a connection of its own. When that is lost it connects again, and never runs a job twice by itself: whether
    the last commit took effect is for the database to know.
    """

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.bell = Wakeup()
        self.pace = BatchSize(worker.batch)
        self.outcomes: list[Outcome] = []
        self.unstarted: deque[Job] = deque()
        self._batch: list[Job] = []
        # Used by this thread, and by that of the ticker while a handler runs.
        self.session = Session(
            worker.conninfo, worker.full_name, worker.schema, pooled=not worker.listen, ring=self.bell.ring
        )
        self.inside = Session(worker.conninfo, worker.full_name, worker.schema, pooled=not worker.listen)
        self.bench = Executor(worker.handlers, self.inside, worker.presence, worker.lease)
        self.ticker = Ticker(self.look_after, TICK)
        self.claimed_at = 0.0
        self._settled_at = 0.0
        self._roused = False
        self._again_at = 0.0

    def run(self) -> None:
        """
        Take turns until stopped, or where that is wanted until nothing is left; then give back what was not begun.

        Raises every error that a new connection would not mend.
        """
        pause = FIRST_PAUSE
        try:
            while not self.worker.stopping:
                try:
                    if self.turn() == 0 and self.rest():
                        break
                    pause = FIRST_PAUSE
                except UNAVAILABLE as error:
                    self.worker.presence.unsure = True
                    jittered = pause * uniform(0.75, 1.25)
                    logger.warning(
                        "the database is not available, next try in %.1f s: %s", jittered, _first_line(error)
                    )
                    self.session.close()
                    self.bell.sleep(jittered)
                    pause = min(2 * pause, LONGEST_PAUSE)
            self.finish()
        finally:
            self.close()

    def turn(self) -> int:
        """Settle the last batch and claim the next one, and run it; the answer is how many jobs there were."""
        self.worker.health.touch()
        with self.session.lock:
            jobs = self.settle_and_claim()
        if not jobs:
            self._roused = False
            return 0
        self.unstarted.extend(jobs)
        self.wake()
        begin_until = self.claimed_at + self.begin_within
        begun_at, begun = monotonic(), 0
        while not self.worker.stopping and (job := self.next_job()) is not None:
            begun += self.dispatch(job)
            now = monotonic()
            if now > begin_until:
                break
            if self.outcomes and now - self._settled_at > SETTLE_AFTER:
                self.settle()
        if begun:
            self.pace.note(begun, monotonic() - begun_at)
        return len(jobs)

    @property
    def begin_within(self) -> float:
        """How many seconds after the claim the last job may begin."""
        return BEGIN_WITHIN * self.worker.lease.total_seconds()

    def settle_and_claim(self) -> list[Job]:
        """One transaction, so that a batch costs one commit; one statement, where all outcomes are plain ones."""
        self.release_unstarted()
        worker = self.worker
        queue = self.session.queue()
        outcomes = self.outcomes.copy()
        size = worker.allowance.take(max(self.pace.size(), worker.handlers.largest_batch))
        claim = (worker.queues, size, worker.lease, worker.full_name)
        claimed_at = monotonic()
        jobs: list[Job] = []
        try:
            if self.session.pooled or not all(is_plain(outcome) for outcome in outcomes):
                with queue.conn.transaction():
                    settled = settle(queue, outcomes)
                    jobs = queue.claim(*claim)
            elif outcomes:
                lost, jobs = queue.complete_and_claim([outcome.job for outcome in outcomes], *claim)
                settled = [
                    Settlement(outcome.job, "lost" if outcome.job.id in lost else "done", seconds=outcome.seconds)
                    for outcome in outcomes
                    if lost or worth_a_line("done")
                ]
            else:
                settled = []
                jobs = queue.claim_only(*claim)
        finally:
            worker.allowance.give_back(size - len(jobs))
        self.claimed_at = claimed_at
        self._batch = jobs
        self.note(len(outcomes), settled)
        return jobs

    def settle(self) -> None:
        """Put on record what is done, without claiming."""
        if self.worker.leaving:
            # What this thread has in hand is being given back; it ends with the process.
            threading.Event().wait()
        with self.session.lock:
            queue = self.session.queue()
            outcomes = self.outcomes.copy()
            with queue.conn.transaction():
                settled = settle(queue, outcomes)
            self.note(len(outcomes), settled)

    def note(self, count: int, settled: list[Settlement]) -> None:
        """The first ``count`` outcomes are committed: forget them, and log what became of them."""
        del self.outcomes[:count]
        self._settled_at = monotonic()
        for one in settled:
            log_settlement(one)

    def look_after(self) -> None:
        """In the thread of the ticker: do not let a slow handler keep outcomes from the record, or jobs from others."""
        self.bench.deadline.look()
        if not self.bench.running or monotonic() < self._again_at or not self.session.lock.acquire(blocking=False):
            return
        try:
            if monotonic() - self.bench.called_at > min(KEEP_UNSTARTED, self.begin_within):
                self.release_unstarted()
                if self.worker.listen:
                    self.session.stay_awake(self.worker.queues)
            if self.outcomes and monotonic() - self._settled_at > SETTLE_AFTER:
                self.settle()
        except Exception as error:
            # The loop's own thread will meet it, too, and knows what to do; but its handler may take for ever.
            self._again_at = monotonic() + TRY_AGAIN
            logger.warning("cannot settle while a handler runs: %s", _first_line(error))
        finally:
            self.session.lock.release()

    def dispatch(self, job: Job) -> int:
        """Run a job, for a batch handler along with others of its kind; the answer is how many there were."""
        handler = self.worker.handlers.get(job.kind)
        jobs = [job]
        if handler is not None and handler.batch is not None:
            jobs += self.next_jobs(job.kind, handler.batch - 1)
        try:
            self.outcomes += self.bench.run(handler, jobs)
        except NotBegun as none:
            self.unstarted.extendleft(reversed(none.jobs))
            raise (none.__cause__ or none) from None
        if self.worker.allowance.begin(len(jobs)):
            self.worker.stop()
        return len(jobs)

    def known(self) -> list[Job]:
        """All jobs that this loop has, and perhaps some that it has had; to be asked while ``session.lock`` is held."""
        return [*self._batch, *(outcome.job for outcome in self.outcomes)]

    def release_unstarted(self) -> None:
        """What was claimed and not begun goes back with the next settlement."""
        while (job := self.next_job()) is not None:
            self.outcomes.append(Released(job))
            self.worker.allowance.give_back(1)

    def next_job(self) -> Job | None:
        """The next job of the batch; the ticker's thread may take them, too."""
        try:
            return self.unstarted.popleft()
        except IndexError:
            return None

    def next_jobs(self, kind: str, count: int) -> list[Job]:
        """The next jobs of a kind."""
        with self.session.lock:
            jobs = [job for job in self.unstarted if job.kind == kind][:count]
            for job in jobs:
                self.unstarted.remove(job)
        return jobs

    def rest(self) -> bool:
        """
        Sleep until there may be something to do; true: there will be nothing, and that was waited for.

        The first time only say that this session sleeps, for jobs that came just before.
        """
        self.ticker.pause()
        with self.session.lock:
            queue = self.session.queue()
            poll = self.worker.poll
            if self.worker.drain is not None:
                pending = queue.remaining(self.worker.queues)
                if self.worker.drain.is_reached(pending):
                    return True
                poll = self.worker.drain.sleep(pending, poll)
            if self.worker.listen:
                if not self.session.asleep:
                    self.session.fall_asleep(self.worker.queues)
                    return False
                if self.session.heard():
                    return False
            socket_ = queue.conn.fileno()
        self.bell.sleep(poll, socket_)
        return False

    def wake(self) -> None:
        """There are jobs. Who is woken for one job at a time need not say so each time, only once there are more."""
        self.ticker.resume()
        if self._roused and self.worker.listen:
            with self.session.lock:
                self.session.stay_awake(self.worker.queues)
        self._roused = True

    def finish(self) -> None:
        """Settle and release; if that fails, the leases do it."""
        self.release_unstarted()
        if self.outcomes:
            try:
                self.settle()
            except UNAVAILABLE as error:
                logger.warning("%d jobs are left to their leases: %s", len(self.outcomes), _first_line(error))

    def close(self) -> None:
        """Give everything back."""
        self.ticker.close()
        self.session.close()
        self.inside.close()
        self.bell.close()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
