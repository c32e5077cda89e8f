"""The worker: loops in threads, its presence beside them, and how all of it stops."""

from __future__ import annotations

import _thread
import logging
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import KW_ONLY, dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from time import sleep

import psycopg

from pgq import handlers as registry
from pgq.job import Job
from pgq.process import logs
from pgq.process.forks import withhold
from pgq.process.health import Health, HealthReport, notify_systemd, tell_ready
from pgq.process.logs import logger
from pgq.process.signals import StopSignals, exit_within
from pgq.worker.abort import RELEASE_WITHIN, release_all
from pgq.worker.async_sessions import AsyncSessions
from pgq.worker.batching import JobBudget
from pgq.worker.calls import MAX_BYTES
from pgq.worker.drain import Drain
from pgq.worker.event_loop import EventLoop
from pgq.worker.execution import Execution
from pgq.worker.gate import Gate
from pgq.worker.joblog import first_line
from pgq.worker.loop import Loop
from pgq.worker.pooler import refuse_transaction_pooler
from pgq.worker.presence import INTERRUPT_AGAIN, Presence
from pgq.worker.refusal import Refused, refuses
from pgq.worker.served import ServedQueues
from pgq.worker.server import Server
from pgq.worker.session import Interrupted
from pgq.worker.settings import QueueOrder, RunState, Settings, Timing


@dataclass(eq=False)
class Worker:
    """
    Run the jobs of some queues until stopped by SIGTERM, SIGINT or ``stop()``.

    ``concurrency`` is the number of threads, each with a loop and connections of its own; a single one is the thread
    that calls ``run``. Where all handlers are async, it is how many of them run at a time, on one event loop. A loop
    claims at most ``batch`` jobs at a time, fewer when they take long or their arguments reach ``batch_bytes``, for
    ``lease``. When no job is ripe, it sleeps until it is notified of one, or the next one is ripe. It looks every
    ``poll`` seconds, and at least once a second unless behind a transaction pooler.

    The worker serves the named ``queues``, by default the queue "default"; or those whose names begin with one of the
    ``queue_prefixes``; or with ``all_queues`` every queue that its role may use. Of ripe jobs with the same priority,
    those of the first of the ``queues`` are claimed first, so a queue that never runs dry keeps back the ones after it.
    With ``queue_order="rotate"``, the default for queues that are not named, each queue comes first in turn.

    Other workers take the jobs of a killed worker within about two seconds. The leases of running handlers are
    extended. With ``transaction_pooler`` nothing is kept in a session, as a pooler in transaction mode demands: the
    worker polls, and the jobs of a killed one wait for the end of their leases. ``name`` is a label; the process id and
    a random part make it unique.

    The worker ends on its own after ``max_jobs``, or as ``drain`` says. A stop gives running handlers ``grace``
    seconds; then, or at a second signal, their jobs are released where that is possible, and the process ends with the
    exit code 128 plus the number of the signal. ``health_file`` is touched while each loop does its
    work, or could not do it for less than a minute.
    """

    # It may hold a password.
    conninfo: str = field(default="", repr=False)
    handlers: registry.Handlers = registry.default
    _: KW_ONLY
    queues: Sequence[str] | None = None
    queue_prefixes: Sequence[str] = ()
    all_queues: bool = False
    queue_order: QueueOrder | None = None
    concurrency: int = 1
    batch: int = 500
    batch_bytes: int = MAX_BYTES
    lease: timedelta = timedelta(minutes=5)
    poll: float = 1.0
    grace: float = 25.0
    max_jobs: int | None = None
    drain: Drain | None = None
    transaction_pooler: bool = False
    name: str | None = None
    schema: str | None = None
    health_file: Path | None = None
    timing: Timing = field(default_factory=Timing)

    def __post_init__(self) -> None:
        if (self.queues is not None) + bool(self.queue_prefixes) + self.all_queues > 1:
            raise ValueError("queues, queue_prefixes and all_queues exclude each other")
        prefixes = ("",) if self.all_queues else tuple(self.queue_prefixes)
        queues = ("default",) if self.queues is None else tuple(self.queues)
        self.settings = Settings(
            server=Server.resolve(self.conninfo),
            name=f"{self.name or socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}",
            schema=self.schema,
            queues=() if prefixes else queues,
            queue_prefixes=prefixes,
            queue_order=self.queue_order or ("rotate" if prefixes else "strict"),
            batch=self.batch,
            batch_bytes=self.batch_bytes,
            lease=self.lease,
            poll=self.poll,
            transaction_pooler=self.transaction_pooler,
            drain=self.drain,
            timing=self.timing,
        )
        self.state = RunState.start(JobBudget(self.max_jobs), Gate(), self.timing.clock)
        self._served = ServedQueues(self.settings)
        self._event_loop = EventLoop(self._fail_async)
        self._sessions = AsyncSessions(self.settings, self._event_loop)
        self.drained = False
        # Whether the loops are made, and other threads may use them.
        self._begun = False
        # Under this lock they are made, by one thread. A cached_property has none from Python 3.12 on.
        self._making = threading.RLock()
        self._loops: list[Loop] | None = None
        self._presence: Presence | None = None

    def share(self, database: str, budget: JobBudget, gate: Gate) -> None:
        """
        Be the worker of this database in a process that serves several, with what all of them share.

        Call it before anything else.
        """
        self.settings = replace(self.settings, database=database)
        self.state = RunState.start(budget, gate, self.timing.clock)

    # Not for users, so without docstrings. They are made at the first use, because they open sockets.
    @property
    def loops(self) -> list[Loop]:
        with self._making:
            if self._loops is None:
                self._loops = self._make_loops()
            return self._loops

    def _make_loops(self) -> list[Loop]:
        """Return one loop for all async handlers; where there are others, loops of one handler each, of any sort."""
        loops, most_async = (1, self.concurrency) if self.handlers.all_async else (self.concurrency, 1)
        return [
            Loop(
                self.settings,
                self.handlers,
                self.state,
                extend=self.presence.extend,
                batch=self.presence.batch,
                connection_lost=self.presence.mark_uncertain,
                idle=self.presence.idle,
                served=self._served,
                most_async=most_async,
                event_loop=self._event_loop,
                sessions=self._sessions,
            )
            for _ in range(loops)
        ]

    @property
    def presence(self) -> Presence:
        with self._making:
            if self._presence is None:
                self._presence = Presence(
                    self.settings,
                    self._executions,
                    self._claims_paused,
                    lambda: self.handlers.kinds,
                    self._held_jobs,
                    self._served,
                    self.state.done,
                )
            return self._presence

    def run(self, lifeline: socket.socket | None = None) -> None:
        """
        Work until stopped, then release what has not begun.

        A supervisor holds the other end of the ``lifeline``: it receives a byte once the worker works, and stops the
        worker by closing its end. Raises the error of the first connections, and every error that a new connection
        would not mend, and ValueError for a hook that is not called for all handlers.
        """
        if lifeline is not None:
            withhold(lifeline)
        self.begin()
        health = HealthReport(Health(self.health_file, lifeline), self.is_well)

        def ready() -> None:
            tell_ready(lifeline)
            health.start()

        with StopSignals(self.stop, self.abort, self.grace, lifeline):
            try:
                self.serve(ready)
            finally:
                notify_systemd("STOPPING=1")
                health.close()
                self.close()
        logger.info("worker %s stopped", self.settings.name)

    def begin(self) -> None:
        """Make the loops, before any other thread can ask for them. Raises ValueError for hooks that do not fit."""
        self.handlers.check_hooks()
        _ = self.loops
        self._begun = True

    def serve(self, ready: Callable[[], None]) -> None:
        """
        Work until stopped or drained, as ``run`` does, but without signals, a report on health, and ``close``.

        Call ``ready`` once the first connections are open.
        """
        if self.state.stopping:
            self._start_interrupting()
        if self._connect():
            logger.info(
                "worker %s serves %s: %s", self.settings.name, self._queue_names(), ", ".join(self.handlers.kinds)
            )
            ready()
            self._run_loops()
        # A worker that holds jobs stays registered: when its connection closes, other workers see that it is gone, and
        # take its jobs at once.
        if not any(loop.pending for loop in self.loops):
            self.presence.unregister()

    def stop(self) -> None:
        """Claim no more, finish the running jobs, and end. Safe in a signal handler and in any thread."""
        was_stopping = self.state.stopping
        self.state.stop()
        if not was_stopping and self._begun:
            self._start_interrupting()

    def abort(self, number: int) -> None:
        """Release the jobs where that is possible, and end the process as after a signal with this number."""
        exit_within(RELEASE_WITHIN + 2, 128 + number)
        self.give_up()
        logging.shutdown()
        os._exit(128 + number)

    def give_up(self) -> None:
        """Release the jobs where that is possible, whatever the loops do; the process is about to end."""
        self.state.aborting = True
        running = sum(len(execution.jobs) for execution in self._executions())
        logger.warning("worker %s ends in the middle of %d jobs", self.settings.name, running)
        try:
            release_all(self.loops, self.settings, self.state.done)
        except Exception as error:
            logger.warning("jobs that could not be released are left to their leases: %s", first_line(error))
        self.state.done.flush_all()

    def close(self) -> None:
        """Close all connections, and log the jobs that are done and not logged yet."""
        for loop in self.loops:
            loop.close()
        self._event_loop.close()
        self._sessions.close()
        self.presence.close()
        self.state.done.flush_all()

    def _connect(self) -> bool:
        """
        Register, and open the first connection; return false when a stop has interrupted that.

        Raises the error of the first connection, which is Refused if the server refuses it.
        """
        try:
            if not self.transaction_pooler:
                refuse_transaction_pooler(self.settings.server, self.settings.name)
            self.presence.start()
            with self.loops[0].session.interruptible():
                self.loops[0].session.queue()
        except Interrupted:
            return False
        except psycopg.OperationalError as error:
            if error.sqlstate is None and refuses(self.settings.server):
                raise Refused(str(error)) from error
            raise
        return True

    def _queue_names(self) -> str:
        """Return the queues in words."""
        if self.all_queues:
            return "all queues"
        return ", ".join([*self.settings.queues, *(f"{prefix}…" for prefix in self.settings.queue_prefixes)])

    def _start_interrupting(self) -> None:
        # Not a threading.Thread: a signal handler may run in a thread that holds a lock of that module.
        _thread.start_new_thread(self._interrupt, ())

    def _interrupt(self) -> None:
        """Cancel what does not end soon: a claim, or the start, may wait for a lock that another session holds."""
        sessions = [loop.session for loop in self.loops]
        if not self.presence.is_started:
            sessions.append(self.presence.session)
        while sessions:
            sessions = [session for session in sessions if session.interrupt()]
            sleep(INTERRUPT_AGAIN)

    def _run_loops(self) -> None:
        if len(self.loops) == 1:
            self.loops[0].run()
        else:
            errors: list[BaseException] = []

            def run(loop: Loop) -> None:
                try:
                    loop.run()
                except BaseException as error:
                    errors.append(error)
                    self.stop()

            threads = [
                threading.Thread(target=logs.continued(run), args=[loop], name=f"pgq-loop-{n}", daemon=True)
                for n, loop in enumerate(self.loops)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if errors:
                raise errors[0]
        self.drained = self.drain is not None and not self.state.stopping

    def _executions(self) -> list[Execution]:
        """Return what the executors run."""
        return [execution for loop in self.loops for execution in loop.executor.executions]

    def _fail_async(self) -> None:
        """Let the jobs of the async handlers that run have failed: their event loop has ended."""
        for loop in self.loops:
            loop.async_handlers.fail_all()

    def is_well(self) -> bool:
        """Return whether each loop does its work, or could not for a short time only."""
        # Each is asked: a loop takes note of the time.
        return False not in [loop.is_well() for loop in self.loops]

    def is_stuck(self) -> bool:
        """Return whether a loop is unwell because of its handler."""
        return any(loop.is_stuck() for loop in self.loops)

    def _held_jobs(self, seconds: float) -> list[Job]:
        """Return the jobs that run or have not begun, and were claimed longer ago than this."""
        return [job for loop in self.loops for job in loop.held_jobs(seconds)]

    @contextmanager
    def _claims_paused(self) -> Iterator[list[Job] | None]:
        """Keep the loops from claiming, and yield all jobs that they know of; None if a loop is claiming."""
        with ExitStack() as stack:
            for loop in self.loops:
                if not loop.session.lock.acquire(blocking=False):
                    yield None
                    return
                stack.callback(loop.session.lock.release)
            yield [job for loop in self.loops for job in loop.known_jobs()]
