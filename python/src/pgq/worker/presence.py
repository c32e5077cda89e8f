"""That a worker is there, and goes on with its jobs: a second connection, on which nothing takes long."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from time import monotonic
from typing import TYPE_CHECKING

import psycopg

from pgq.errors import LeaseLost, WrongState
from pgq.job import Job
from pgq.worker.joblog import log_job, logger
from pgq.worker.session import Session
from pgq.worker.settle import LOCK_TIMEOUT
from pgq.worker.wakeup import Wakeup

if TYPE_CHECKING:
    from pgq.worker.loop import Loop

# A lease is extended when a third of it is over, so two more tries fit in.
PART = 3
LONGEST_TICK = 1.0


class Presence:
    """
    Registers the worker, and extends the leases of what its handlers run, in a thread of its own.

    A handler that does not let other threads run (a computation in C that holds the interpreter's lock) delays that:
    the lease is lost when it does so for two thirds of it. Of a handler that is past its timeout nothing is extended.
    With ``registered=False`` the connection is opened only when there is something to extend.
    """

    def __init__(
        self,
        conninfo: str,
        name: str,
        schema: str | None,
        queues: Sequence[str],
        lease: timedelta,
        *,
        registered: bool,
    ) -> None:
        self.name = name
        self.schema = schema
        self.queues = queues
        self.lease = lease
        self.registered = registered
        self.loops: Sequence[Loop] = ()
        self.session = Session(conninfo, f"{name} presence", schema, pooled=not registered)
        # Whether the answer to a claim may be lost: then the database has more jobs of this worker than it knows.
        self.unsure = False
        self._there = False
        self._warned = False
        self._extended: dict[int, float] = {}
        self._bell = Wakeup()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="pgq-presence", daemon=True)

    def start(self, loops: Sequence[Loop]) -> None:
        """Register, and look after these loops from now on. Raises what the first connection fails with."""
        self.loops = loops
        if self.registered:
            self._register()
        self._thread.start()

    def leave(self) -> None:
        """Be gone for good, with no job left to be taken from this worker."""
        self._end()
        if self._there and not self.session.closed:
            try:
                self.session.queue().unregister(self.name)
            except psycopg.Error as error:
                logger.warning("the worker is not unregistered: %s", str(error).strip())

    def close(self) -> None:
        """Give everything back. Who has not left before is missed, and jobs that are running go to others."""
        self._end()
        self.session.close()
        self._bell.close()

    def _end(self) -> None:
        self._closed = True
        self._bell.ring()
        if self._thread.is_alive():
            self._thread.join()

    def extend(self, job: Job, lease: timedelta) -> datetime:
        """Extend the lease on a job. Raises LeaseLost."""
        with self.session.lock:
            until = self.session.queue().extend(job, lease)
        self._extended[job.token] = monotonic()
        return until

    def look_after(self) -> None:
        """Be there, and extend the leases that are due."""
        if self.registered and (self.session.closed or not self._there):
            self._register()
        if self.unsure and self._there:
            self._disown()
        held = list(self._held())
        self._extended = {job.token: self._extended[job.token] for job, _, _ in held if job.token in self._extended}
        for job, since, lease in held:
            last = self._extended.get(job.token, since)
            # A longer lease than that of the claim begins with the handler.
            begins = lease > self.lease and job.token not in self._extended
            if begins or monotonic() >= last + lease.total_seconds() / PART:
                self._extend(job, lease)

    def _held(self) -> Iterable[tuple[Job, float, timedelta]]:
        """What runs: the jobs, since when they are claimed, and the lease that they shall have."""
        for loop in self.loops:
            bench = loop.bench
            handler, called_at = bench.handler, bench.called_at
            if handler is None or (handler.timeout is not None and monotonic() > called_at + handler.timeout):
                continue
            lease = max(self.lease, handler.lease or self.lease)
            for job in bench.running:
                yield job, loop.claimed_at, lease

    def _extend(self, job: Job, lease: timedelta) -> None:
        try:
            self.extend(job, lease)
        except LeaseLost:
            # Once: the handler goes on, and will be told when it is done.
            self._extended[job.token] = float("inf")
            log_job(job, "lost", "lost while its handler runs")

    def _disown(self) -> None:
        """Give back what was claimed and did not arrive; later, if a loop is just claiming."""
        with ExitStack() as stack:
            for loop in self.loops:
                if not loop.session.lock.acquire(blocking=False):
                    return
                stack.callback(loop.session.lock.release)
            known = [job for loop in self.loops for job in loop.known()]
            stack.enter_context(self.session.lock)
            queue = self.session.queue()
            try:
                with queue.conn.transaction():
                    queue.conn.execute("SELECT set_config('lock_timeout', %s, true)", [LOCK_TIMEOUT])
                    count = queue.reconcile(self.name, known)
            except psycopg.errors.LockNotAvailable:
                return
        self.unsure = False
        if count:
            logger.warning("%d jobs were claimed without an answer, and go back", count)

    def _register(self) -> None:
        with self.session.lock:
            try:
                self.session.queue().register(self.name, self.queues, socket.gethostname(), os.getpid())
                self._there = True
            except WrongState:
                # After a lost connection the server may not have noticed yet that the old session is gone.
                self._there = False

    def _run(self) -> None:
        tick = min(LONGEST_TICK, self.lease.total_seconds() / PART / 4)
        while not self._closed:
            try:
                self.look_after()
                self._warned = False
            except Exception as error:
                if not self._warned:
                    logger.warning("the worker's presence is interrupted: %s", str(error).strip())
                self._warned = True
                self.session.close()
            self._sleep(tick)

    def _sleep(self, seconds: float) -> None:
        """Until the next look; but a connection that ends is noticed at once."""
        if self.session.closed or not self.registered:
            self._bell.sleep(seconds)
            return
        with self.session.lock:
            pgconn = self.session.queue().conn.pgconn
        self._bell.sleep(seconds, pgconn.socket)
        try:
            with self.session.lock:
                pgconn.consume_input()
        except psycopg.Error:
            self.session.close()
