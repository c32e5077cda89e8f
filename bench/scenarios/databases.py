"""Drain several servers on this machine by one worker, or by one worker for each of them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import psycopg
from contenders.pgq import LEFT
from harness import BenchError, Harness, Sample
from job import KIND, args
from postgres.children import in_child
from postgres.server import Server
from programs import WORKERS
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from usage import processes, tree

import pgq
import pgq.schema.install
from pgq.cli.databases import names_of

NAME = "databases"
JOBS = (200_000, 20_000)
SERVERS = (1, 2, 4)
CHUNK = 5_000
TIMEOUT = 120.0
IDLE = "1 process, 2 servers, one of them idle"
SHARE = "1 process, 2 servers: jobs of the slower one when half are done"


def what(processes: int, servers: int) -> str:
    return f"{processes} process{'es' if processes > 1 else ''}, {servers} server{'s' if servers > 1 else ''}"


def each(servers: int) -> str:
    return f"1 process for each of {servers} servers"


def run(harness: Harness) -> None:
    jobs = harness.pick(*JOBS)
    for servers in SERVERS:
        with running(servers) as dsns:
            for processes in (1, 2):
                rates = {"pgq": partial(rate, dsns, jobs, processes * [dsns])}
                harness.compare(NAME, what(processes, servers), "jobs/s", rates)
            if servers > 1:
                apart = partial(rate, dsns, jobs, [[dsn] for dsn in dsns])
                harness.compare(NAME, each(servers), "jobs/s", {"pgq": apart})
            if servers == 2:
                harness.compare(NAME, IDLE, "jobs/s", {"pgq": partial(rate, dsns[:1], jobs, [dsns])})
                shares = [share(dsns, jobs) for _ in range(harness.rounds)]
                harness.record(NAME, SHARE, "pgq", "% of both", [100 * one for one in shares])


@contextlib.contextmanager
def running(count: int) -> Iterator[list[str]]:
    """Start durable servers with pgq, and yield their DSNs."""
    with ExitStack() as stack:
        servers = [stack.enter_context(Server(durable=True)) for _ in range(count)]
        dsns = [make_conninfo(host=one.host, port=one.port, user=one.user, dbname=one.dbname) for one in servers]
        for dsn in dsns:
            with psycopg.connect(dsn, autocommit=True) as conn:
                pgq.schema.install.install(conn)
        yield dsns


def rate(full: Sequence[str], jobs: int, workers: Sequence[Sequence[str]]) -> Sample:
    """Return jobs per second, of jobs in the full databases, from when one was run until all are done."""
    fill(full, jobs)
    with ExitStack() as stack:
        programs = [stack.enter_context(Program(dsns)) for dsns in workers]
        begin(full, programs, sum(full[0] in dsns for dsns in workers))
        began, before = time.monotonic(), sum(program.handled for program in programs)
        pids = [program.pid for program in programs], [postmaster(dsn) for dsn in full]
        used = [cpu(some) for some in pids]
        wait(programs, lambda: sum(program.handled for program in programs) >= jobs)
        while left(full):
            time.sleep(0.002)
        seconds = time.monotonic() - began
        client, server = (1e6 * (cpu(some) - earlier) for some, earlier in zip(pids, used, strict=True))
        for program in programs:
            program.stop()
        if sum(program.sum for program in programs) != jobs * (jobs - 1) // 2:
            raise BenchError("a job was lost or handled twice")
    done = jobs - before
    return Sample(done / seconds, {"client CPU": client / done, "server CPU": server / done})


def cpu(pids: Sequence[int]) -> float:
    """Return the CPU time of processes and their descendants, in seconds."""
    found = processes()
    return sum(tree(found, pid) for pid in pids)


def postmaster(dsn: str) -> int:
    """Return the process of a server."""
    return int(Path(str(conninfo_to_dict(dsn)["host"]), "data/postmaster.pid").read_text().splitlines()[0])


def share(dsns: Sequence[str], jobs: int) -> float:
    """Return the part of the jobs done that belong to the slower database, when half of all are done."""
    fill(dsns, jobs)
    with Program(dsns) as program:
        begin(dsns, [program], 1)
        wait([program], lambda: program.handled >= jobs / 2)
        found = program.by_database
        wait([program], lambda: program.handled >= jobs)
        program.stop()
    return min(found) / sum(found)


def fill(dsns: Sequence[str], jobs: int) -> None:
    """Enqueue jobs, as many in each database, in a queue that is paused, and checkpoint; vacuum before."""
    for number, dsn in enumerate(dsns):
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("VACUUM")
            queue = pgq.Queue(conn)
            queue.pause("default")
            mine = range(number, jobs, len(dsns))
            for first in range(0, len(mine), CHUNK):
                queue.enqueue_many({"kind": KIND, "args": args(n)} for n in mine[first : first + CHUNK])
            conn.execute("CHECKPOINT")


def begin(dsns: Sequence[str], programs: Sequence[Program], workers: int) -> None:
    """Let the workers begin once so many are present in each database; wait until they have run a job."""
    with ExitStack() as stack:
        conns = [stack.enter_context(psycopg.connect(dsn, autocommit=True)) for dsn in dsns]
        present = "SELECT count(*) FROM pgq_workers WHERE present"
        wait(programs, lambda: all(conn.execute(present).fetchone() == (workers,) for conn in conns))
        for conn in conns:
            pgq.Queue(conn).resume("default")
    wait(programs, lambda: any(program.handled for program in programs))


def left(dsns: Sequence[str]) -> int:
    """Return how many jobs are not completed."""
    total = 0
    for dsn in dsns:
        with psycopg.connect(dsn) as conn:
            (count,) = conn.execute(LEFT).fetchone() or (0,)
            total += count
    return total


def wait(programs: Sequence[Program], condition: Callable[[], bool]) -> None:
    """Wait until a condition holds. Raises BenchError if that takes too long, or a program ends."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        for program in programs:
            program.check()
        if time.monotonic() > deadline:
            raise BenchError(f"the workers have done {[program.by_database for program in programs]} jobs")
        time.sleep(0.002)


class Program:
    """``pgq worker`` with some databases, from ``__enter__`` to ``__exit__``."""

    def __init__(self, dsns: Sequence[str]) -> None:
        self._dsns = list(dsns)

    def __enter__(self) -> Program:
        self._directory = tempfile.TemporaryDirectory(prefix="pgq-bench-")
        counts, self._log = Path(self._directory.name, "counts"), Path(self._directory.name, "log")
        counts.write_bytes(bytes(16 * len(self._dsns)))
        self._counts = counts.open("rb", buffering=0)
        places = {names_of(dsn)[1]: place for place, dsn in enumerate(self._dsns)}
        task = json.dumps({"counts": str(counts), "places": places})
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pgq", "worker", "several"],
                cwd=WORKERS,
                env={**os.environ, "PGQ_DSN": "\n".join(self._dsns), "BENCH_TASK": task},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=in_child(signal.SIGKILL),
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._counts.close()
        self._directory.cleanup()

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    @property
    def by_database(self) -> list[int]:
        """How many jobs of each database were handled so far."""
        return self._numbers()[::2]

    @property
    def handled(self) -> int:
        """How many jobs were handled so far."""
        return sum(self.by_database)

    @property
    def sum(self) -> int:
        """The sum of their numbers."""
        return sum(self._numbers()[1::2])

    def _numbers(self) -> list[int]:
        return memoryview(os.pread(self._counts.fileno(), 16 * len(self._dsns), 0)).cast("q").tolist()

    def check(self) -> None:
        """Raise BenchError if the program has ended."""
        if self._process.poll() is not None:
            raise BenchError(f"pgq worker has ended; its log ends:\n{self._log.read_text(errors='replace')[-2000:]}")

    def stop(self) -> None:
        """Stop the program. Raises BenchError if it fails."""
        self._process.terminate()
        if self._process.wait(TIMEOUT):
            raise BenchError(f"pgq worker has failed; its log ends:\n{self._log.read_text(errors='replace')[-2000:]}")
