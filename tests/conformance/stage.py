"""A database of its own for one scenario, the worker under test as its only client, and what has become of the jobs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
from postgres.children import ignored, in_child, masked
from postgres.server import Server, bare_environ
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.types.json import Jsonb
from support.database import Connection, expire, one
from support.proxy import Proxy

QUEUE = "conformance"
# Seconds. A job that takes longer than the lease shows whether its worker extends it.
LEASE = 3
PATIENCE = 60.0
STOPS_WITHIN = 15.0
LOOK_EVERY = 0.02
RESCUE_EVERY = 0.5
START_AGAIN_AFTER = 0.2

TABLE = "CREATE TABLE conformance_effect (job bigint NOT NULL, n bigint NOT NULL, value jsonb)"
# Of a job that is done, and of which nothing is kept, only its effects are left.
JOBS = """
SELECT g.id, coalesce(j.kind, '?'), coalesce(j.state, 'gone'),
       (SELECT count(*) FROM conformance_effect AS e WHERE e.job = g.id)
FROM unnest(%s::bigint[]) AS g (id) LEFT JOIN pgq_jobs AS j USING (id) ORDER BY g.id
"""


class Missed(Exception):
    """The worker has not done what a scenario requires; the text says what."""


@dataclass(frozen=True)
class Under:
    """
    What is tested: the command line of a worker, and perhaps that of a producer; the log of both.

    Connections are cut at each ``stride``-th moment.
    """

    worker: str
    producer: str | None
    log: Path
    stride: int = 1


@dataclass
class Counts:
    """Jobs that are done without an effect, those with too many effects, and those that are not over."""

    jobs: int = 0
    lost: int = 0
    doubled: int = 0
    left: int = 0


@dataclass
class Worker:
    """A worker process; ``starts`` counts how often it was started."""

    process: subprocess.Popen[bytes]
    starts: int = 1
    ended_at: float | None = None


@dataclass
class Stage:
    """
    One scenario, from ``__enter__`` to ``__exit__``, which leaves no process behind.

    A worker that ends without being told to is started again, as by a service manager. Call it in the main thread: the
    workers die with the thread that has started them.
    """

    server: Server
    proxy: Proxy
    under: Under
    name: str
    counts: Counts
    workers: list[Worker] = field(default_factory=list)
    jobs: list[int] = field(default_factory=list)
    # Jobs that need not be over in the end.
    may_stay: set[int] = field(default_factory=set)
    advice: list[tuple[str, str | None]] = field(default_factory=list)
    _rescued_at: float = 0.0
    _was_cut: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        """Create the database."""
        with self._connect("postgres") as conn:
            conn.execute(sql.SQL("CREATE DATABASE {} TEMPLATE conformance").format(sql.Identifier(self.name)))
        self.conn = self._connect(self.name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill the workers."""
        with ignored():
            self.proxy.alarm = None
            for worker in list(self.workers):
                self.kill(worker)
            self.conn.close()

    def start(self) -> Worker:
        """Start a worker."""
        self.workers.append(Worker(self._spawn(shlex.split(self.under.worker))))
        return self.workers[-1]

    def signal(self, worker: Worker, signum: signal.Signals) -> None:
        """Send a signal to all processes of a worker."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.process.pid, signum)

    def kill(self, worker: Worker) -> None:
        """Kill all processes of a worker, which is not started again."""
        if worker in self.workers:
            self.workers.remove(worker)
        self.signal(worker, signal.SIGKILL)
        worker.process.wait()

    def stop(self, worker: Worker) -> int:
        """Tell a worker to stop, as a service manager does; return its exit code."""
        self.workers.remove(worker)
        worker.process.terminate()
        try:
            return worker.process.wait(STOPS_WITHIN)
        except subprocess.TimeoutExpired:
            raise Missed(f"the worker does not end within {STOPS_WITHIN:.0f} s of SIGTERM") from None
        finally:
            self.signal(worker, signal.SIGKILL)
            worker.process.wait()

    def enqueue(self, kind: str, args: Any, **options: Any) -> int:
        """Enqueue a job, and return its id."""
        named = sql.SQL("").join(sql.SQL(", {} => %s").format(sql.Identifier(name)) for name in options)
        call = sql.SQL("SELECT id FROM pgq_enqueue(%s, %s, %s{})").format(named)
        row = self.conn.execute(call, [f"conformance.{kind}", Jsonb(args), QUEUE, *options.values()]).fetchone()
        assert row is not None
        return self._known(row[0])

    def produce(self, kind: str, args: str) -> int:
        """Enqueue a job by the producer under test, which prints its id."""
        if self.under.producer is None:
            return self.enqueue(kind, json.loads(args))
        process = self._spawn([*shlex.split(self.under.producer), f"conformance.{kind}", args], subprocess.PIPE)
        output = process.communicate(timeout=PATIENCE)[0].decode(errors="replace")
        found = re.search(r"\d+", output)
        if process.returncode or found is None:
            raise Missed(f"the producer ended with exit code {process.returncode} and printed {output!r}")
        return self._known(int(found[0]))

    def wait(self, what: str, condition: Callable[[], bool], patience: float = PATIENCE) -> None:
        """
        Wait for a condition. Raises Missed if it takes too long.

        Meanwhile start workers again that have ended, and rescue jobs, as another worker would.
        """
        until = time.monotonic() + patience
        while True:
            self._tend()
            if condition():
                return
            if time.monotonic() > until:
                raise Missed(f"not within {patience:.0f} s: {what}")
            time.sleep(LOOK_EVERY)

    def wait_over(self, *ids: int) -> None:
        """Wait until these jobs, or all that are to be over, are done, dead or cancelled."""
        ids = ids or tuple(set(self.jobs) - self.may_stay)
        self.wait("all jobs are over", lambda: not self.unended(*ids))

    def wait_running(self, job: int) -> None:
        """Wait until a worker has claimed a job. One that completes before it works may have ended it already."""
        self.wait(f"job {job} is claimed", lambda: self.state(job) != "waiting")

    def state(self, job: int) -> str:
        """Return the state of a job."""
        return str(self.look(job)["state"])

    def look(self, job: int) -> Mapping[str, Any]:
        """Return state, attempt and errors of a job."""
        row = self.conn.execute("SELECT state, attempt, errors FROM pgq_jobs WHERE id = %s", [job]).fetchone()
        return dict(zip(("state", "attempt", "errors"), row or ("gone", 0, []), strict=True))

    def unended(self, *ids: int) -> bool:
        """Return whether one of these jobs waits or runs."""
        query = "SELECT EXISTS (SELECT FROM pgq_jobs WHERE id = ANY (%s) AND state IN ('waiting', 'running'))"
        return bool(one(self.conn, query, list(ids)))

    def wait_over_at_once(self) -> None:
        """Wait until all jobs are over in their first attempt. Raises Missed as soon as one has begun another one."""

        def is_over() -> bool:
            self._expect_one_attempt()
            return not self.unended(*self.jobs)

        self.wait("all jobs are over", is_over)
        self._expect_one_attempt()

    def _expect_one_attempt(self) -> None:
        query = "SELECT id FROM pgq_jobs WHERE id = ANY (%s) AND (attempt > 1 OR errors <> '[]') ORDER BY id LIMIT 1"
        if row := self.conn.execute(query, [self.jobs]).fetchone():
            raise Missed(f"job {row[0]} needed another attempt: its lease was lost, or its handler failed")

    def keep_nothing(self) -> None:
        """Let jobs that are done leave nothing but their effects, as in a queue without settings."""
        self.conn.execute("SELECT pgq_configure(%s, '{\"keep_done\": null}')", [QUEUE])

    def effects(self) -> int:
        """Return how many effects there are."""
        return int(one(self.conn, "SELECT count(*) FROM conformance_effect"))

    def expire(self) -> None:
        """End the leases of all running jobs."""
        expire(self.conn)

    def cut_at(self, moment: int) -> threading.Event:
        """Cut a connection at a moment (see Proxy.act_at), and end the leases of all jobs that are running then."""
        return self.proxy.act_at(moment, self._was_cut.set)

    def reconnect(self) -> None:
        """Connect again after a restart of the server."""
        self.conn.close()
        self.conn = self._connect(self.name)

    def advise(self, name: str, *, kept: bool, why: str) -> None:
        """Record whether the worker does what is recommended."""
        self.advice.append((name, None if kept else why))

    @property
    def starts(self) -> int:
        """How often the workers that run were started."""
        return sum(worker.starts for worker in self.workers)

    def judge(self) -> None:
        """Count what the data say. Raises Missed if a job was lost, was done twice, or is left."""
        lost, doubled, left = [], [], []
        for job, kind, state, effects in self.conn.execute(JOBS, [self.jobs]):
            if state in {"done", "gone"} and not effects:
                lost.append(f"{kind} {job}")
            if effects > (state in {"done", "gone"}):
                doubled.append(f"{kind} {job} is {state} with {effects} effects")
            if state in {"waiting", "running"} and job not in self.may_stay:
                left.append(f"{kind} {job} is {state}")
        self.counts.jobs += len(self.jobs)
        self.counts.lost += len(lost)
        self.counts.doubled += len(doubled)
        self.counts.left += len(left)
        for what, jobs in (("done without an effect", lost), ("more effects than allowed", doubled), ("left", left)):
            if jobs:
                raise Missed(f"{what}: {'; '.join(jobs[:3])}{' …' if len(jobs) > 3 else ''}")

    def _known(self, job: int) -> int:
        if job not in self.jobs:
            self.jobs.append(job)
        return job

    def _tend(self) -> None:
        now = time.monotonic()
        for worker in self.workers:
            if worker.process.poll() is None:
                continue
            worker.ended_at = worker.ended_at or now
            if now > worker.ended_at + START_AGAIN_AFTER:
                self.signal(worker, signal.SIGKILL)
                worker.process = self._spawn(shlex.split(self.under.worker))
                worker.starts, worker.ended_at = worker.starts + 1, None
        if self._was_cut.is_set():
            self._was_cut.clear()
            self.expire()
        if now > self._rescued_at + RESCUE_EVERY:
            self._rescued_at = now
            self.conn.execute("SELECT pgq_ripe_in(ARRAY[%s])", [QUEUE])

    def _connect(self, dbname: str) -> Connection:
        return psycopg.connect(self._dsn(dbname), autocommit=True)

    def _dsn(self, dbname: str) -> str:
        return make_conninfo(host=self.server.host, port=self.server.port, user=self.server.user, dbname=dbname)

    def _spawn(self, command: list[str], stdout: int | None = None) -> subprocess.Popen[bytes]:
        env = {
            "PGHOST": self.proxy.host,
            "PGPORT": str(self.proxy.port),
            "PGUSER": self.server.user,
            "PGDATABASE": self.name,
            "PGSSLMODE": "disable",
            "PGQ_DSN": self.proxy.lead(self._dsn(self.name)),
            "PGQ_QUEUE": QUEUE,
            "PGQ_LEASE": str(LEASE),
        }
        with self.under.log.open("ab") as log, masked():
            return subprocess.Popen(
                command,
                env=bare_environ() | env,
                stdin=subprocess.DEVNULL,
                stdout=log if stdout is None else stdout,
                stderr=log,
                start_new_session=True,
                preexec_fn=in_child(signal.SIGKILL),
            )
