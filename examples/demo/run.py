"""
The whole life of a queue in a few seconds: `make demo`.

Installs pgq into a schema of its own on the server that PGQ_DSN or libpq's environment names, enqueues a checksum job
for each file of this checkout and one job of each difficult kind, lets two worker processes drain it all, checks what
came out against a second computation, and removes the schema. Exits with 1 if anything is off.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

import pgq
from pgq.schema.install import install
from pgq.views import Views

HERE = Path(__file__).parent
CHECKOUT = HERE.parent.parent
DEADLINE = 120


class Off(Exception):
    """Something is not as it should be."""


def expect(truth: object, message: str) -> None:
    """Raise Off unless it is true."""
    if not truth:
        raise Off(message)


def files() -> list[str]:
    """The files of the checkout, as git knows them."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=CHECKOUT, capture_output=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        paths = [CHECKOUT / os.fsdecode(name) for name in listed.stdout.split(b"\0") if name]
    else:
        tops = ("sql", "python/src", "tests", "tools", "examples")
        paths = [path for top in tops for path in (CHECKOUT / top).rglob("*")]
    return sorted(str(path) for path in paths if path.is_file())


# What may kill its worker has a queue of its own, and is claimed alone: no other job goes down with it.
OPTIONS = (
    ("--queue", "default", "--batch", "10"),
    ("--queue", "risky", "--queue", "default", "--batch", "1"),
)


class Workers:
    """Two `pgq worker` processes; one that is killed is replaced."""

    def __init__(self, schema: str, log: Path) -> None:
        self.killed = 0
        self._log = log
        self._env = os.environ | {"PGQ_SCHEMA": schema, "PYTHONPATH": str(HERE)}
        self._running = [self._start(options) for options in OPTIONS]

    def _start(self, options: tuple[str, ...]) -> subprocess.Popen[bytes]:
        command = [str(Path(sys.executable).with_name("pgq")), "worker", "handlers", "--lease", "1s", "--poll", "100ms"]
        with self._log.open("ab") as log:
            return subprocess.Popen([*command, *options], env=self._env, stdout=log, stderr=log)

    def tend(self) -> None:
        """Replace who was killed; raises Off if a worker died of anything else."""
        for i, process in enumerate(self._running):
            status = process.poll()
            if status is None:
                continue
            expect(status == -signal.SIGKILL, f"a worker ended with status {status}:\n{self._log.read_text()[-2000:]}")
            self.killed += 1
            self._running[i] = self._start(OPTIONS[i])

    def stop(self) -> list[int]:
        """Stop both with SIGTERM; the answer is their exit codes."""
        for process in self._running:
            process.terminate()
        return [process.wait(timeout=30) for process in self._running]


@contextmanager
def schema_of_its_own(conn: psycopg.Connection[Any]) -> Iterator[str]:
    """Pgq and the demo's table in a new schema, gone afterwards."""
    schema = f"pgq_demo_{os.getpid()}"
    name = sql.Identifier(schema)
    print(f"pgq {install(conn, schema=schema)} installed into the schema {schema}")
    try:
        conn.execute(
            sql.SQL("CREATE TABLE {} (path text PRIMARY KEY, sha256 text NOT NULL, attempt integer NOT NULL)").format(
                sql.Identifier(schema, "digest")
            )
        )
        yield schema
    finally:
        conn.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(name))


def enqueue(queue: pgq.Queue, paths: list[str]) -> dict[str, int]:
    """Enqueue everything, in one transaction; the answer is the id of each of the single jobs."""
    with queue.conn.transaction():
        answers = queue.enqueue_many({"kind": "checksum", "args": {"path": path}} for path in paths)
        expect(all(answer.created for answer in answers), "a file was taken for a duplicate")
        first = queue.enqueue("reminder", {"what": "the milk"}, delay="2 seconds")
        again = queue.enqueue("reminder", {"what": "the milk"}, delay="2 hours")
        ids = {
            "reminder": first.id,
            "flaky": queue.enqueue("flaky", backoff="500 milliseconds").id,
            "hopeless": queue.enqueue("hopeless", max_retries=2, backoff="300 milliseconds").id,
            "poison": queue.enqueue("poison", queue="risky", max_retries=2, backoff="500 milliseconds").id,
        }
    expect(not again.created and again.id == first.id, f"the duplicate was answered with {again}, not with {first}")
    print(f"enqueued {len(paths)} checksum jobs and {', '.join(ids)}")
    print(f"a second reminder was refused as a duplicate of job {again.id}")
    return ids


def drain(views: Views, workers: Workers, total: int) -> float:
    """Wait until nothing waits or runs; the answer is how many seconds it took."""
    began = time.monotonic()
    end = "\r" if sys.stdout.isatty() else "\n"
    shown = ""
    while True:
        workers.tend()
        stats = views.stats()
        left = sum(row["waiting"] + row["running"] for row in stats)
        dead = sum(row["dead"] for row in stats)
        line = f"{total - left:4} of {total} over, {left} left, {dead} dead, {workers.killed} workers killed"
        if line != shown:
            print(f"{line:<70}", end=end, flush=True)
            shown = line
        if not left:
            print(end="\n" if end == "\r" else "")
            return time.monotonic() - began
        expect(time.monotonic() - began < DEADLINE, f"{left} jobs are left after {DEADLINE} s")
        time.sleep(0.2)


def history(job: dict[str, Any]) -> tuple[str, ...]:
    """A line of the table: how often a job was tried, and how long it rested between."""
    rests = ", ".join(f"{rest:.1f} s" for rest in job["rests"])
    return (job["kind"], "1", job["state"], str(job["attempt"]), rests or "-")


def rests_of(job: dict[str, Any]) -> list[float]:
    """The seconds from each failure to the next end of an attempt."""
    times = [datetime.fromisoformat(error["at"]) for error in reversed(job["errors"])]
    if job["state"] == "done":
        times.append(job["ended_at"])
    return [(later - earlier).total_seconds() for earlier, later in pairwise(times)]


def check(
    views: Views, ids: dict[str, int], paths: list[str], digests: list[tuple[str, str, int]]
) -> list[tuple[str, ...]]:
    """Compare what happened with what should have; the answer is the table for the end."""
    second = {path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths}
    expect({path: sha256 for path, sha256, _ in digests} == second, "a digest is missing or wrong")
    jobs = {kind: views.job(job_id) for kind, job_id in ids.items()}
    for job in jobs.values():
        job["rests"] = rests_of(job)
    wanted = {"reminder": ("done", 1), "flaky": ("done", 3), "hopeless": ("dead", 3), "poison": ("dead", 3)}
    for kind, (state, attempt) in wanted.items():
        job = jobs[kind]
        expect((job["state"], job["attempt"]) == (state, attempt), f"{kind} is {job['state']} after {job['attempt']}")
    expect(jobs["reminder"]["ended_at"] >= jobs["reminder"]["ripe_at"], "the reminder came early")
    # ±10 % jitter around 0.5 s and 1 s; how much later than that is up to the machine.
    flaky = jobs["flaky"]["rests"]
    expect(flaky[0] >= 0.45 and flaky[1] >= 0.9, f"flaky was retried too early: {flaky}")
    tries = sorted({attempt for _, _, attempt in digests})
    spread = str(tries[0]) if len(tries) == 1 else f"{tries[0]} to {tries[-1]}"
    return [("checksum", str(len(digests)), "done", spread, "-"), *(history(job) for job in jobs.values())]


def print_table(rows: list[tuple[str, ...]]) -> None:
    """A heading, and columns as wide as they need to be."""
    lines = [("kind", "jobs", "outcome", "attempts", "delays between attempts"), *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def main() -> int:
    """Run the demo; 0 if all is as promised."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    paths = files()
    with (
        tempfile.TemporaryDirectory(prefix="pgq-demo-") as scratch,
        psycopg.connect(os.environ.get("PGQ_DSN", ""), autocommit=True) as conn,
        schema_of_its_own(conn) as schema,
    ):
        queue, views = pgq.Queue(conn, schema=schema), Views(conn, schema=schema)
        ids = enqueue(queue, paths)
        workers = Workers(schema, Path(scratch) / "workers.log")
        try:
            seconds = drain(views, workers, len(paths) + len(ids))
        finally:
            codes = workers.stop()
        expect(codes == [0, 0], f"the workers exited with {codes}")
        expect(workers.killed == 3, f"{workers.killed} workers were killed, not 3")
        digest = sql.Identifier(schema, "digest")
        digests = conn.execute(sql.SQL("SELECT path, sha256, attempt FROM {}").format(digest)).fetchall()
        table = check(views, ids, paths, digests)
    print(f"drained in {seconds:.1f} s; all {len(digests)} digests agree with a second computation\n")
    print_table(table)
    print("\nThe poison job killed three workers, its first and two retries, and was buried; nothing else was lost.")
    print("Next: README.md, examples/demo/handlers.py, .venv/bin/pgq --help")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Off as off:
        sys.exit(f"demo: {off}")
    except psycopg.Error as error:
        sys.exit(f"demo: {error}")
