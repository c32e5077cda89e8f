"""The worker: some loops in threads, its presence beside them, and how all of it ends."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import threading
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import timedelta
from pathlib import Path
from time import monotonic, sleep

from pgq import handlers as registry
from pgq.process import notify as service
from pgq.process.signals import StopSignals, end_within
from pgq.process.supervisor import READY
from pgq.queue import Queue
from pgq.worker.batching import JobBudget
from pgq.worker.drain import Drain
from pgq.worker.joblog import log_settlement, logger
from pgq.worker.loop import Loop
from pgq.worker.outcomes import Outcome, Released
from pgq.worker.presence import Presence
from pgq.worker.session import connect
from pgq.worker.settle import settle

# How long a worker that is told twice to stop tries to give back what it has, in seconds.
LEAVE_WITHIN = 3.0


@dataclass(eq=False)
class Worker:
    """
    Run the jobs of some queues until stopped by SIGTERM, SIGINT or ``stop()``.

    ``concurrency`` threads have a loop and a connection each; if it is one, that is the thread that calls ``run``. A
    loop claims at most ``batch`` jobs at a time, for ``lease``: fewer when they take long. When nothing is ripe it
    sleeps until it is notified of a job, at most ``poll`` seconds.

    With ``presence``, a worker that is killed loses its jobs to others within two seconds. The leases of handlers that
    run are extended in any case. Behind a pooler in transaction mode do without ``presence`` and ``listen``: then
    nothing is kept in a session. ``name`` is a label; the process id and something random make it unique.

    The worker ends by itself after ``max_jobs``, or as ``drain`` says. A stop gives the handlers that run ``grace``
    seconds; then, or at a second signal, their jobs are released where they can be, and the process ends with the exit
    code 128 plus the number of the signal. ``health_file`` is touched at each turn.
    """

    conninfo: str = ""
    handlers: registry.Handlers = registry.default
    _: KW_ONLY
    queues: Sequence[str] = ("default",)
    concurrency: int = 1
    batch: int = 100
    lease: timedelta = timedelta(minutes=5)
    poll: float = 1.0
    grace: float = 30.0
    max_jobs: int | None = None
    drain: Drain | None = None
    presence: bool = True
    listen: bool = True
    name: str | None = None
    schema: str | None = None
    health_file: Path | None = None

    def __post_init__(self) -> None:
        self.full_name = f"{self.name or socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
        self.stopping = False
        self.leaving = False
        self.drained = False
        self.allowance = JobBudget(self.max_jobs)
        self.health = service.Health(self.health_file)
        self.presence = Presence(
            self.conninfo, self.full_name, self.schema, self.queues, self.lease, registered=self.presence
        )
        self.loops = [Loop(self) for _ in range(self.concurrency)]

    def run(self, lifeline: socket.socket | None = None) -> None:
        """
        Work until stopped, then release what was not begun.

        Whoever holds the other end of the ``lifeline`` is sent a byte once the worker works, and stops it by closing
        that. Raises what the first connections fail with, and every error that a new connection would not mend.
        """
        with StopSignals(self.stop, self.leave, self.grace, lifeline):
            try:
                self.presence.start(self.loops)
                self.loops[0].session.queue()
                logger.info(
                    "worker %s serves %s: %s", self.full_name, ", ".join(self.queues), ", ".join(self.handlers.kinds)
                )
                service.notify("READY=1")
                if lifeline is not None:
                    # Whoever does not hear it any more is about to stop this worker, by not being there.
                    with contextlib.suppress(OSError):
                        lifeline.send(READY)
                self._run_loops()
                # Whoever has jobs left does not take leave: others notice that he is gone, and take them at once.
                if not any(loop.outcomes for loop in self.loops):
                    self.presence.leave()
            finally:
                service.notify("STOPPING=1")
                self.close()
        logger.info("worker %s stopped", self.full_name)

    def stop(self) -> None:
        """Claim no more, finish the jobs that run, and leave; may be called from a signal handler or any thread."""
        self.stopping = True
        for loop in self.loops:
            loop.bell.ring()

    def leave(self, number: int) -> None:
        """Release what can be released, and end the process as after a signal."""
        self.leaving = True
        end_within(LEAVE_WITHIN + 2, 128 + number)
        running = [job for loop in self.loops for job in loop.bench.running]
        logger.warning("worker %s leaves in the middle of %d jobs", self.full_name, len(running))
        try:
            self._give_back()
        except Exception as error:
            logger.warning("what could not be released is left to its lease: %s", str(error).strip())
        logging.shutdown()
        os._exit(128 + number)

    def close(self) -> None:
        """Give everything back."""
        for loop in self.loops:
            loop.close()
        self.presence.close()

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
                threading.Thread(target=run, args=[loop], name=f"pgq-loop-{n}", daemon=True)
                for n, loop in enumerate(self.loops)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if errors:
                raise errors[0]
        self.drained = self.drain is not None and not self.stopping

    def _give_back(self) -> None:
        """Through a connection of its own, while the threads may be anywhere."""
        outcomes: list[Outcome] = []
        for loop in self.loops:
            loop.inside.shut()
            outcomes += loop.outcomes
            outcomes += [Released(job) for job in (*loop.bench.running, *loop.unstarted)]
        give_up_at = monotonic() + LEAVE_WITHIN
        with connect(self.conninfo, self.full_name) as conn:
            queue = Queue(conn, schema=self.schema)
            while outcomes and monotonic() < give_up_at:
                with conn.transaction():
                    settled = settle(queue, outcomes)
                # A job whose transaction the server has not ended yet is locked.
                left = [one.job for one in settled if one.state == "left"]
                for one in settled:
                    if one.state != "left":
                        log_settlement(one)
                outcomes = [outcome for outcome in outcomes if outcome.job in left]
                if outcomes:
                    sleep(0.05)
