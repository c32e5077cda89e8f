"""A worker of several databases: in one process, a worker for each, which none of the others can stop."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from random import uniform
from typing import Final

import psycopg

from pgq.errors import Error
from pgq.process import logs
from pgq.process.forks import withhold
from pgq.process.health import Health, HealthReport, notify_systemd, tell_ready
from pgq.process.logs import logger
from pgq.process.signals import StopSignals, exit_within
from pgq.worker.abort import RELEASE_WITHIN
from pgq.worker.batching import JobBudget
from pgq.worker.gate import Gate
from pgq.worker.joblog import first_line
from pgq.worker.refusal import Refused
from pgq.worker.settings import Timing
from pgq.worker.unavailable import UNAVAILABLE, condition
from pgq.worker.wakeup import Wakeup
from pgq.worker.worker import Worker

# Seconds between two tries where neither time nor another connection may mend the error.
LONGEST_PAUSE: Final = 30.0


class Database:
    """One of the databases: its worker, which is replaced when it ends with an error."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.worker: Worker | None = None
        # Ends the pause between two workers.
        self.wakeup = Wakeup()
        # Whether the last worker has begun to work, and whether it has found nothing left to do.
        self.is_ready = False
        self.is_drained = False
        # Why the first one that has failed has ended.
        self.error: Exception | None = None


class Databases:
    """
    Serve several databases until stopped by SIGTERM, SIGINT or ``stop()``, or until all of them are drained.

    ``make`` returns the worker of a database by its name; it is called in the thread of the database, in which this
    worker then works. Each has loops, connections, a presence and a log of its own. They share the signals, the report
    on health, ``max_jobs``, and the gate: a job that ends the process ends all their jobs, so a suspect runs while no
    loop of any database holds jobs.

    A database that is not available, or whose worker ends with an error, is tried again, also at the start. Only if
    none of them works at the start, ``run`` raises the error of the first one.
    """

    def __init__(
        self,
        names: Sequence[str],
        make: Callable[[str], Worker],
        *,
        grace: float = 25.0,
        max_jobs: int | None = None,
        health_file: Path | None = None,
        timing: Timing | None = None,
    ) -> None:
        self._make = make
        self._timing = timing or Timing()
        self._grace = grace
        self._budget = JobBudget(max_jobs)
        self._gate = Gate()
        self._health_file = health_file
        self._lock = threading.Lock()
        self._is_ready = False
        self._stopping = False
        self._error: Exception | None = None
        self.databases = [Database(name) for name in names]

    @property
    def drained(self) -> bool:
        """Whether there was nothing left to do in any of the databases."""
        return all(database.is_drained for database in self.databases)

    def run(self, lifeline: socket.socket | None = None) -> None:
        """Work as ``Worker.run`` does, and with the same lifeline."""
        if lifeline is not None:
            withhold(lifeline)
        health = HealthReport(Health(self._health_file, lifeline), self.is_well)

        def ready(database: Database) -> None:
            database.is_ready = True
            with self._lock:
                if self._is_ready:
                    return
                self._is_ready = True
            tell_ready(lifeline)
            health.start()

        with StopSignals(self.stop, self.abort, self._grace, lifeline):
            threads = [
                threading.Thread(target=self._serve, args=[one, ready], name=f"pgq-database-{n}", daemon=True)
                for n, one in enumerate(self.databases)
            ]
            try:
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            finally:
                notify_systemd("STOPPING=1")
                health.close()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Claim no more, finish the running jobs, and end. Safe in a signal handler and in any thread."""
        self._stopping = True
        for database in self.databases:
            if (worker := database.worker) is not None:
                worker.stop()
            database.wakeup.set()

    def abort(self, number: int) -> None:
        """Release the jobs where that is possible, and end the process as after a signal with this number."""
        exit_within(RELEASE_WITHIN + 2, 128 + number)
        threads = [
            threading.Thread(target=self._give_up, args=[database], daemon=True)
            for database in self.databases
            if database.worker is not None
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        logging.shutdown()
        os._exit(128 + number)

    def is_well(self) -> bool:
        """
        Return whether no handler is past its timeout, and at least one database is served; or not for a short time.

        A database that is not available does not make the process unwell, whose end would stop the others.
        """
        workers = [worker for database in self.databases if (worker := database.worker) is not None]
        # Each is asked: a loop takes note of the time.
        well = [worker.is_well() for worker in workers]
        return any(well) and not any(worker.is_stuck() for worker in workers)

    def _give_up(self, database: Database) -> None:
        logs.about(database.name)
        if database.worker is not None:
            database.worker.give_up()

    def _serve(self, database: Database, ready: Callable[[Database], None]) -> None:
        """Run workers of a database, one after the other, until one of them is drained or all are to stop."""
        logs.about(database.name)
        timing = self._timing
        pause = timing.first_pause
        while not self._stopping:
            database.is_ready = False
            try:
                self._work(database, ready)
                return
            except Exception as error:
                self._note_failure(database, error)
                if self._stopping:
                    return
                if database.is_ready:
                    pause = timing.first_pause
                may_mend = isinstance(error, UNAVAILABLE) and not isinstance(error, Refused)
                what = condition(error) if may_mend else "the worker of the database has ended"
                jittered = pause * uniform(0.75, 1.25)
                is_known = isinstance(error, psycopg.Error | Error)
                logger.warning("%s, next try in %.1f s: %s", what, jittered, reason(error), exc_info=not is_known)
            database.wakeup.wait(jittered)
            pause = min(2 * pause, timing.longest_pause if may_mend else LONGEST_PAUSE)

    def _work(self, database: Database, ready: Callable[[Database], None]) -> None:
        """Run one worker of a database until it ends."""
        worker = self._make(database.name)
        worker.share(database.name, self._budget, self._gate)
        try:
            worker.begin()
            database.worker = worker
            if self._stopping:
                worker.stop()
            worker.serve(lambda: ready(database))
        finally:
            database.worker = None
            worker.close()
        logger.info("worker %s stopped", worker.settings.name)
        database.is_drained = worker.drained
        if not worker.drained:
            # It was told to stop, as all of them are, or has begun the last job of the budget.
            self.stop()

    def _note_failure(self, database: Database, error: Exception) -> None:
        """End all if the first worker of each database has ended before it worked."""
        with self._lock:
            database.error = database.error or error
            errors = [one.error for one in self.databases if one.error is not None]
            if self._is_ready or self._stopping or len(errors) < len(self.databases):
                return
            self._error = errors[0]
        self.stop()


def reason(error: Exception) -> str:
    """Return the first line of an error, and its hint if it is one of pgq's own."""
    return f"{first_line(error)} ({error.hint})" if isinstance(error, Error) and error.hint else first_line(error)
