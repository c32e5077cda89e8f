"""What the parts of a worker share: settings that never change, and the state of its run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from time import monotonic
from typing import Literal, get_args

from pgq.process.health import UNWELL_AFTER
from pgq.worker.batching import JobBudget
from pgq.worker.donelog import DoneLog
from pgq.worker.drain import Drain
from pgq.worker.gate import Gate
from pgq.worker.server import Server
from pgq.worker.unhandled import UnhandledKinds
from pgq.worker.wakeup import Wakeup

# The order in which the claims of a loop name its queues: always the same, or each queue first in turn.
QueueOrder = Literal["strict", "rotate"]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """The worker's own delays, in seconds, and its clock. Tests shorten them."""

    # Outcomes wait for the next claim, but no longer than settle_after and a tick. After a failure, the next tick that
    # settles comes settle_again later.
    settle_after: float = 0.07
    settle_again: float = 1.0
    tick: float = 0.025
    # When a handler runs for longer, the rest of its batch goes back to other workers.
    keep_unstarted: float = 1.0
    # The part of a lease in which jobs may begin. The rest of the batch goes back, so each job has nearly a whole
    # lease.
    begin_within: float = 0.1
    # While loops sleep, one of them looks this often when the next job is ripe. A session without a sleeping loop is
    # declared awake after stay_idle.
    look: float = 1.0
    stay_idle: float = 0.025
    # After a look that finds a ripe job which the claim before did not return, the next look comes after this pause;
    # the pause then doubles.
    look_again: float = 0.02
    # The pauses before new connections: short enough that work goes on soon after a restart of the server, and jittered
    # so that its workers do not all come at once.
    first_pause: float = 0.5
    longest_pause: float = 3.0
    # A loop with a suspect waits this long until no other loop holds jobs, but no longer than its jobs may begin; then
    # the suspect runs beside them. The others wait this long for a suspect that runs; then they claim beside it.
    alone_within: float = 30.0
    alone_for: float = 60.0
    # A settlement that meets a producer's open transaction leaves the job to its lease. Shorter than deadlock_timeout,
    # so that PostgreSQL never chooses the producer as the victim of a deadlock.
    lock_timeout: str = "300ms"
    # A loop waits no longer than this for any other lock. Only a transaction that a handler has left open, or one that
    # has rescued the jobs, keeps it waiting for so long.
    longest_lock_wait: str = "10s"
    # Seconds between two attempts to record the outcomes of jobs that are locked.
    locked_again: float = 1.0
    # A loop that could not do its work for this long is unwell.
    unwell_after: float = UNWELL_AFTER
    # A refusal of new connections that lasts for so long ends the worker.
    refused_for: float = 60.0
    clock: Callable[[], float] = monotonic


@dataclass(frozen=True, kw_only=True)
class Settings:
    """
    The settings of a worker, as its parts need them. ``name`` is unique among processes.

    A worker has either ``queues`` or ``queue_prefixes``; the prefix of all queues is empty. ``database`` is the name of
    its database where its process serves several.
    """

    server: Server
    name: str
    schema: str | None
    queues: tuple[str, ...]
    queue_prefixes: tuple[str, ...]
    queue_order: QueueOrder
    batch: int
    batch_bytes: int
    lease: timedelta
    poll: float
    transaction_pooler: bool
    drain: Drain | None
    timing: Timing
    database: str | None = None

    def __post_init__(self) -> None:
        if self.queue_order not in get_args(QueueOrder):
            raise ValueError(f'queue_order is "strict" or "rotate", not {self.queue_order!r}')
        if self.queue_prefixes and self.drain is not None and self.drain.until_empty:
            # Jobs may run in queues that this worker never finds, because none waits there.
            raise ValueError("until_empty needs a worker that names its queues")

    @property
    def begin_within(self) -> float:
        """How many seconds after its claim the last job of a batch may begin."""
        return self.timing.begin_within * self.lease.total_seconds()


@dataclass(eq=False)
class RunState:
    """
    The state of a worker's run, which its loops share.

    The workers of a process that serves several databases have one ``budget`` and one ``gate``.
    """

    budget: JobBudget
    gate: Gate
    unhandled: UnhandledKinds
    done: DoneLog
    # Claim no more jobs.
    stopping: bool = False
    # The process is about to end: jobs are being given back.
    aborting: bool = False
    wakeups: list[Wakeup] = field(default_factory=list)

    @classmethod
    def start(cls, budget: JobBudget, gate: Gate, clock: Callable[[], float]) -> RunState:
        """Return the state of a worker that has not begun."""
        return cls(budget, gate, UnhandledKinds(clock), DoneLog(clock))

    def stop(self) -> None:
        """Let each loop end after its current handler. Safe in a signal handler and in any thread."""
        self.stopping = True
        for wakeup in self.wakeups:
            wakeup.set()
