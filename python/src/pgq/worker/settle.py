"""Settling: the outcomes of jobs are recorded in the database and logged here, and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

import psycopg

from pgq.errors import LeaseLost
from pgq.job import Claim, Job
from pgq.worker.calls import WorkerQueue
from pgq.worker.donelog import DoneLog
from pgq.worker.joblog import MAX_MESSAGE, clean, first_line, is_logged, log_settlement
from pgq.worker.outcomes import (
    Cancelled,
    Completed,
    CompletedWithNote,
    Declined,
    Done,
    Failed,
    Outcome,
    Settlement,
    Snoozed,
    WaitsForSignal,
    is_plain,
)
from pgq.worker.served import ServedQueues
from pgq.worker.session import Session
from pgq.worker.settings import Settings

# The database refuses the value of an outcome, and would refuse it again.
REFUSED: Final = (
    psycopg.DataError,
    psycopg.errors.ProgramLimitExceeded,
    psycopg.errors.StatementTooComplex,
    # PostgreSQL 14 raises it for an escape that a database in SQL_ASCII cannot hold.
    psycopg.errors.FeatureNotSupported,
)
# The text of an outcome that is kept with the job.
TEXTS: Final = {Failed: "error", Cancelled: "reason", CompletedWithNote: "note"}
# Results up to here are stored by every database: their text there is no longer than 1 MiB (1e+308, in six characters,
# becomes 309), and they are not nested too deep for the smallest max_stack_depth. Only an escape for NUL or half a
# surrogate pair is refused in UTF-8, and in another encoding any character beyond ASCII.
SHORT: Final = 16 * 1024
FLAT: Final = 64
REFUSED_ESCAPE: Final = re.compile(r"\\u(?:0000|d[89a-f])")


class Settler:
    """
    Record the outcomes of one loop through its session, and log what the database made of them.

    ``done`` and ``others`` are the outcomes that are not recorded yet: plain completions, and the rest. The caller of
    ``settle`` and ``settle_and_claim`` holds ``session.lock``. ``packed`` is whether the server may store the jobs of a
    claim together: not where transactions of handlers hold them.
    """

    def __init__(
        self, settings: Settings, session: Session, served: ServedQueues, done: DoneLog, packed: Callable[[], bool]
    ) -> None:
        self.settings = settings
        self.session = session
        self.done: list[Done] = []
        self.others: list[Outcome] = []
        self._served = served
        self._log = done
        self._packed = packed
        # How many claims there were, for queues that take turns.
        self._claims = 0
        self.settled_at = 0.0
        self._left: list[tuple[float, Job]] = []

    @property
    def has_pending(self) -> bool:
        """Whether there are outcomes that are not recorded yet."""
        return bool(self.done or self.others)

    @property
    def pending(self) -> list[Outcome]:
        """All outcomes that are not recorded yet."""
        # In this order: the jobs of a loop move from neither list to the other.
        return [*_outcomes(self.done.copy()), *self.others]

    def left(self) -> list[Job]:
        """
        Return the jobs that were left to their leases.

        Until a claim rescues them, a reconcile must know them: it takes the rest for jobs that did not arrive here, and
        does not count their attempts. They are forgotten after two leases, one for the rescue to come.
        """
        self._forget_left()
        return [job for _, job in self._left]

    def _forget_left(self) -> None:
        now = self.settings.timing.clock()
        self._left = [(until, job) for until, job in self._left if until > now]

    def add(self, results: Iterable[Outcome | Settlement]) -> None:
        """Take what became of jobs: outcomes to be recorded, and settlements that a transaction has recorded."""
        for result in results:
            if isinstance(result, Settlement):
                if result.state == "left":
                    until = self.settings.timing.clock() + 2 * self.settings.lease.total_seconds()
                    self._left.append((until, result.job))
                self._log.add(result, self.settled_at)
                log_settlement(result)
            elif is_plain(result):
                job = result.job
                self.done.append((job.id, job._claim, job._index, result.seconds or 0.0))
            else:
                self.others.append(result)

    @property
    def is_due(self) -> bool:
        """Whether outcomes must be recorded now, because they have waited long for the next claim."""
        timing = self.settings.timing
        return self.has_pending and timing.clock() - self.settled_at > timing.settle_after

    def hand_over(self, take: Callable[[list[Outcome]], object]) -> None:
        """Forget the pending outcomes once they are taken."""
        done, others = self.done.copy(), self.others.copy()
        take([*_outcomes(done), *others])
        del self.done[: len(done)]
        del self.others[: len(others)]

    def unpack(self, jobs: Sequence[Job]) -> None:
        """
        Let the server keep these jobs, and those that were claimed with them, in rows of their own.

        Raises psycopg.errors.LockNotAvailable while a transaction of a handler has locked them all.
        """
        unpack(self.session.queue(), jobs, self.settings.timing.lock_timeout)

    def settle(self, *, patient: bool = True) -> None:
        """
        Record the pending outcomes in one transaction.

        Raises psycopg.errors.LockNotAvailable, and records nothing, if it waits too long for a lock. While a handler
        runs, the caller is not ``patient``: the handler may have locked its whole batch, in a transaction that ends
        when the handler does, or waits for a lock of this worker.
        """
        queue, timing = self.session.queue(), self.settings.timing
        done, others = self.done.copy(), self.others.copy()
        if not patient:
            self.unpack([outcome.job for outcome in others])
        with queue.conn.transaction():
            limit_lock_wait(queue, timing.longest_lock_wait if patient else timing.lock_timeout)
            settlements = record(queue, [*_outcomes(done), *others], timing.lock_timeout)
        lost = {settlement.job.id for settlement in settlements[: len(done)] if settlement.state == "lost"}
        self._note(done, lost, settlements[len(done) :])

    def settle_and_claim(self, max_jobs: int) -> Claim | None:
        """
        Record the pending outcomes and claim jobs, in one transaction: a batch costs one commit.

        Where all outcomes are plain, that is one statement. Raises psycopg.errors.LockNotAvailable as ``settle`` does.
        """
        settings = self.settings
        queues = self._queues()
        if not queues:
            if self.has_pending:
                self.settle()
            return None
        turn = self.session.turn()
        done, others = self.done.copy(), self.others.copy()
        ended = [(job_id, claim.token) for job_id, claim, _, _ in done]
        arguments = (queues, max_jobs, settings.lease, settings.name, settings.batch_bytes, self._packed())
        settlements: list[Settlement] = []
        if settings.transaction_pooler or others:
            with turn.queue.conn.transaction():
                if settings.transaction_pooler:
                    limit_lock_wait(turn.queue, settings.timing.longest_lock_wait)
                settlements = record(turn.queue, others, settings.timing.lock_timeout)
                lost, claim = turn(ended, *arguments)
        else:
            lost, claim = turn(ended, *arguments)
        self._claims += 1
        self._note(done, set(lost), settlements)
        return claim

    def _queues(self) -> tuple[str, ...]:
        """Return the queues of the next claim, in its order."""
        names = self._served.names
        if self.settings.queue_order == "strict" or not names:
            return names
        first = self._claims % len(names)
        return names[first:] + names[:first]

    def _note(self, done: list[Done], lost: set[int], settlements: list[Settlement]) -> None:
        """Forget the outcomes that came first, which are committed, and log what became of them."""
        del self.done[: len(done)]
        del self.others[: len(settlements)]
        if lost or is_logged("done"):
            for outcome in _outcomes(done):
                log_settlement(_completion(outcome, outcome.job.id not in lost))
        # The jobs of this loop that are done now were claimed at the last settlement, or later.
        self._log.add_all([one for one in done if one[0] not in lost] if lost else done, self.settled_at)
        self.add(settlements)
        self.settled_at = self.settings.timing.clock()
        self._log.flush()
        if self._left:
            # Each keeps the arguments of all jobs of its claim.
            self._forget_left()


def _outcomes(done: Iterable[Done]) -> list[Completed]:
    return [Completed(claim.job(index), None, seconds) for _, claim, index, seconds in done]


def limit_lock_wait(queue: WorkerQueue, lock_timeout: str) -> None:
    """Limit how long the rest of the transaction waits for a lock."""
    queue.conn.execute("SELECT set_config('lock_timeout', %s, true)", [lock_timeout])


def unpack(queue: WorkerQueue, jobs: Sequence[Job], lock_timeout: str) -> None:
    """
    Let the server keep these jobs, and those that were claimed with them, in rows of their own.

    In a transaction that ends at once: until then it locks their whole batch. Raises psycopg.errors.LockNotAvailable.
    """
    if packed := [job for job in jobs if job._claim.packed]:
        with queue.conn.transaction():
            limit_lock_wait(queue, lock_timeout)
            found = queue.hold_many(packed)
        for job in packed:
            # A job that has ended unpacks nothing.
            if job.id in found:
                job._claim.packed = False


def record(queue: WorkerQueue, outcomes: Sequence[Outcome], lock_timeout: str) -> list[Settlement]:
    """
    Record outcomes within the caller's transaction, and return a settlement for each.

    An outcome that cannot be recorded, because its lease is lost or a producer's open transaction is in the way, does
    not prevent the others: each but the plain completions has a savepoint of its own. Raises
    psycopg.errors.LockNotAvailable where another transaction has locked a job that is done.
    """
    plain = [outcome for outcome in outcomes if is_plain(outcome)]
    others = [outcome for outcome in outcomes if not is_plain(outcome)]
    done = queue.complete_many([outcome.job for outcome in plain]) if plain else set()
    settlements = [_completion(outcome, outcome.job.id in done) for outcome in plain]
    if others:
        limit_lock_wait(queue, lock_timeout)
    return settlements + [_record_one(queue, outcome) for outcome in others]


def completion_in(
    queue: WorkerQueue, transaction: str, outcome: Completed | CompletedWithNote
) -> tuple[Settlement, tuple[str, ...]]:
    """
    Complete a job in the transaction with this id: return the settlement, and the statements that are left to execute.

    A result that the database refuses does not undo the transaction. What it may refuse is recorded here, under a
    savepoint, which costs three round trips. Raises psycopg.errors.InvalidTransactionState in any other transaction.
    """
    result, note, cause = outcome.result if isinstance(outcome, Completed) else None, None, None
    if isinstance(outcome, CompletedWithNote):
        note, cause = outcome.note, outcome.cause
    settlement = Settlement(outcome.job, "done", cause=cause, seconds=outcome.seconds)
    if _is_surely_stored(queue, outcome):
        return settlement, (queue.completing(transaction, outcome.job, result, note),)
    try:
        with queue.conn.transaction():
            queue._complete_in(transaction, outcome.job, result, note)
        return settlement, ()
    except (*REFUSED, UnicodeError) as error:
        storable = _storable(outcome, error)
        if not isinstance(storable, CompletedWithNote):
            raise
        return completion_in(queue, transaction, storable)


def _is_surely_stored(queue: WorkerQueue, outcome: Completed | CompletedWithNote) -> bool:
    if isinstance(outcome, CompletedWithNote):
        return outcome.note.isascii()
    return outcome.result is None or _is_surely_taken(queue, outcome.result)


def saving_in(queue: WorkerQueue, job: Job, saved: str, transaction: str | None = None) -> tuple[str, ...]:
    """
    Save JSON text with a job: return the statements that are left to execute, none if it was saved here.

    What the database may refuse is a parameter, which is sent here. With a transaction, only the one with this id;
    raises psycopg.errors.InvalidTransactionState in any other.
    """
    if _is_surely_taken(queue, saved):
        return (queue.saving(job, saved, transaction),)
    queue.save_json(job, saved, transaction)
    return ()


def _is_surely_taken(queue: WorkerQueue, text: str) -> bool:
    """Return whether the database surely takes this JSON text for a value."""
    if len(text) > SHORT or text.count("[") + text.count("{") > FLAT:
        return False
    is_utf8 = queue.conn.info.parameter_status("server_encoding") == "UTF8"
    return "\\u" not in text or (is_utf8 and REFUSED_ESCAPE.search(text) is None)


def _completion(outcome: Outcome, done: bool) -> Settlement:
    return Settlement(outcome.job, "done" if done else "lost", seconds=outcome.seconds)


def _record_one(queue: WorkerQueue, outcome: Outcome) -> Settlement:
    try:
        with queue.conn.transaction():
            return _call_verb(queue, outcome)
    except LeaseLost:
        return Settlement(outcome.job, "lost", cause=_cause(outcome), seconds=outcome.seconds)
    except psycopg.errors.LockNotAvailable:
        if isinstance(outcome, Completed | CompletedWithNote):
            # What has locked the job is no producer: a completion touches no other job.
            raise
        return Settlement(outcome.job, "left", cause=_cause(outcome), seconds=outcome.seconds)
    except (*REFUSED, UnicodeError) as error:
        storable = _storable(outcome, error)
        if storable is None:
            raise
        return _record_one(queue, storable)


def _call_verb(queue: WorkerQueue, outcome: Outcome) -> Settlement:
    job, seconds = outcome.job, outcome.seconds
    if isinstance(outcome, Completed):
        queue._complete_json(job, outcome.result)
        return Settlement(job, "done", seconds=seconds)
    if isinstance(outcome, CompletedWithNote):
        queue._complete_json(job, None, outcome.note)
        return Settlement(job, "done", cause=outcome.cause, seconds=seconds)
    if isinstance(outcome, Failed | Declined):
        failure = (
            queue.fail(job, outcome.error, outcome.retry_in, retry=outcome.retry)
            if isinstance(outcome, Failed)
            else queue.decline(job)
        )
        return Settlement(job, failure.outcome, failure.ripe_at, _cause(outcome), seconds)
    if isinstance(outcome, Snoozed | WaitsForSignal):
        return _put_off(queue, outcome)
    if isinstance(outcome, Cancelled):
        queue.cancel_claimed(job, outcome.reason)
        return Settlement(job, "cancelled", cause=outcome.cause, seconds=seconds)
    return Settlement(job, queue.release(job))


def _put_off(queue: WorkerQueue, outcome: Snoozed | WaitsForSignal) -> Settlement:
    job, seconds = outcome.job, outcome.seconds
    if isinstance(outcome, Snoozed):
        snoozed = queue.snooze(job, outcome.until, outcome.delay, whole_group=outcome.whole_group)
        return Settlement(job, snoozed, outcome.until, seconds=seconds)
    waits = queue.wait_signal(job, outcome.name, outcome.timeout)
    if waits.outcome in {"received", "timeout"}:
        # It has come since the handler looked: the next attempt finds it.
        return Settlement(job, queue.release(job), seconds=seconds)
    state = "snoozed" if waits.outcome == "waiting" else waits.outcome
    return Settlement(job, state, waits.until, seconds=seconds)


def _cause(outcome: Outcome) -> str | None:
    return outcome.cause if isinstance(outcome, Failed | Cancelled) else None


def _storable(outcome: Outcome, error: Exception) -> Outcome | None:
    """Return what to record instead of an outcome that the database refused; None when there is nothing else."""
    cause = type(error).__name__
    if isinstance(outcome, Completed):
        return without_result(outcome.job, _described(error), cause, outcome.seconds)
    if isinstance(outcome, Snoozed):
        return Failed(outcome.job, "the database refused the time to snooze until", cause, outcome.seconds)
    if isinstance(outcome, WaitsForSignal):
        return Failed(outcome.job, f"the database refused the timeout {outcome.timeout}", cause, outcome.seconds)
    if isinstance(outcome, Failed) and outcome.retry_in is not None:
        return replace(outcome, error=f"{outcome.error}\n\nthe database refused {outcome.retry_in}", retry_in=None)
    # A database in another encoding than UTF-8 cannot hold every text.
    field = TEXTS.get(type(outcome))
    if field is None or (text := getattr(outcome, field)).isascii():
        return None
    return replace(outcome, **{field: text.encode("ascii", "backslashreplace").decode("ascii")})


def without_result(job: Job, reason: str, cause: str, seconds: float | None) -> CompletedWithNote:
    """Return the outcome of a job that is done, and whose result cannot be stored."""
    return CompletedWithNote(job, f"the result was not stored: {reason}", cause, seconds)


def _described(error: Exception) -> str:
    """Return the message of a refusal. The statement and the value are left out."""
    sqlstate = f" (SQLSTATE {error.sqlstate})" if isinstance(error, psycopg.Error) and error.sqlstate else ""
    return f"the database refused it: {clean(first_line(error))[:MAX_MESSAGE]}{sqlstate}"
