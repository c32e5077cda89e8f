"""
A demo of pgq that takes a few seconds: `make demo`.

Install pgq into a new schema on the server that PGQ_DSN or libpq's environment variables name. Enqueue a checksum job
for each file of this checkout, and single jobs that are delayed, fail, or kill their worker. Let two worker processes
drain the queue, check the digests against a second computation, and drop the schema. Exit with 1 if a check fails.
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


class CheckFailed(Exception):
    """A result is not as expected."""


def expect(condition: object, message: str) -> None:
    """Raise CheckFailed unless the condition holds."""
    if not condition:
        raise CheckFailed(message)


def files() -> list[str]:
    """Return the files of this checkout that git tracks; without git, the files of its main directories."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=CHECKOUT, capture_output=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        paths = [CHECKOUT / os.fsdecode(name) for name in listed.stdout.split(b"\0") if name]
    else:
        tops = ("sql", "python/src", "tests", "tools", "examples")
        paths = [path for top in tops for path in (CHECKOUT / top).rglob("*")]
    return sorted(str(path) for path in paths if path.is_file())


# A job that may kill its worker gets its own queue and is claimed alone, so that no other job is lost with the worker.
OPTIONS = (
    ("--queue", "default", "--batch", "10"),
    ("--queue", "risky", "--queue", "default", "--batch", "1"),
)


class Workers:
    """Two `pgq worker` processes; a killed one is replaced."""

    def __init__(self, schema: str, log: Path) -> None:
        self.killed = 0
        self._log = log
        self._env = os.environ | {"PGQ_SCHEMA": schema, "PYTHONPATH": str(HERE)}
        self._running = [self._start(options) for options in OPTIONS]

    def _start(self, options: tuple[str, ...]) -> subprocess.Popen[bytes]:
        command = [str(Path(sys.executable).with_name("pgq")), "worker", "handlers", "--lease", "1s", "--poll", "100ms"]
        with self._log.open("ab") as log:
            return subprocess.Popen([*command, *options], env=self._env, stdout=log, stderr=log)

    def replace_killed(self) -> None:
        """Replace workers that were killed. Raises CheckFailed if a worker ended in another way."""
        for i, process in enumerate(self._running):
            status = process.poll()
            if status is None:
                continue
            expect(status == -signal.SIGKILL, f"a worker ended with status {status}:\n{self._log.read_text()[-2000:]}")
            self.killed += 1
            self._running[i] = self._start(OPTIONS[i])

    def stop(self) -> list[int]:
        """Stop both workers with SIGTERM; return their exit codes."""
        for process in self._running:
            process.terminate()
        return [process.wait(timeout=30) for process in self._running]


@contextmanager
def new_schema(conn: psycopg.Connection[Any]) -> Iterator[str]:
    """Install pgq and the demo's table into a new schema; drop the schema at the end."""
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
    """Enqueue all jobs in one transaction; return the ids of the single jobs by kind."""
    with queue.conn.transaction():
        enqueued = queue.enqueue_many({"kind": "checksum", "args": {"path": path}} for path in paths)
        expect(all(job.created for job in enqueued), "a checksum job was treated as a duplicate")
        first = queue.enqueue("reminder", {"what": "the milk"}, delay="2 seconds")
        again = queue.enqueue("reminder", {"what": "the milk"}, delay="2 hours")
        ids = {
            "reminder": first.id,
            "flaky": queue.enqueue("flaky", backoff="500 milliseconds").id,
            "hopeless": queue.enqueue("hopeless", max_retries=2, backoff="300 milliseconds").id,
            "poison": queue.enqueue("poison", queue="risky", max_retries=2, backoff="500 milliseconds").id,
        }
    expect(not again.created and again.id == first.id, f"the duplicate returned {again}, not {first}")
    print(f"enqueued {len(paths)} checksum jobs and {', '.join(ids)}")
    print(f"a second reminder is a duplicate of job {again.id}: no job was added")
    return ids


def drain(views: Views, workers: Workers, total: int) -> float:
    """Wait until no job is waiting or running; return the seconds that took."""
    began = time.monotonic()
    end = "\r" if sys.stdout.isatty() else "\n"
    shown = ""
    while True:
        workers.replace_killed()
        stats = views.stats()
        left = sum(row["waiting"] + row["running"] for row in stats)
        dead = sum(row["dead"] for row in stats)
        line = f"{total - left:4} of {total} ended, {left} left, {dead} dead; workers killed: {workers.killed}"
        if line != shown:
            print(f"{line:<70}", end=end, flush=True)
            shown = line
        if not left:
            print(end="\n" if end == "\r" else "")
            return time.monotonic() - began
        expect(time.monotonic() - began < DEADLINE, f"{left} jobs are left after {DEADLINE} s")
        time.sleep(0.2)


def row(job: dict[str, Any]) -> tuple[str, ...]:
    """Return a job's row of the table: its outcome, its attempts, and the delays between them."""
    delays = ", ".join(f"{delay:.1f} s" for delay in job["delays"])
    return (job["kind"], "1", job["state"], str(job["attempt"]), delays or "-")


def delays(job: dict[str, Any]) -> list[float]:
    """Return the seconds from each failure to the end of the next attempt."""
    times = [datetime.fromisoformat(error["at"]) for error in reversed(job["errors"])]
    if job["state"] == "done":
        times.append(job["ended_at"])
    return [(later - earlier).total_seconds() for earlier, later in pairwise(times)]


def check(
    views: Views, ids: dict[str, int], paths: list[str], digests: list[tuple[str, str, int]]
) -> list[tuple[str, ...]]:
    """Compare results with expectations; return the rows of the table."""
    expected = {path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths}
    expect({path: sha256 for path, sha256, _ in digests} == expected, "a digest is missing or wrong")
    jobs = {kind: views.job(job_id) for kind, job_id in ids.items()}
    for job in jobs.values():
        job["delays"] = delays(job)
    wanted = {"reminder": ("done", 1), "flaky": ("done", 3), "hopeless": ("dead", 3), "poison": ("dead", 3)}
    for kind, (state, attempt) in wanted.items():
        found = jobs[kind]["state"], jobs[kind]["attempt"]
        expect(found == (state, attempt), f"{kind} is {found[0]} after attempt {found[1]}")
    expect(jobs["reminder"]["ended_at"] >= jobs["reminder"]["ripe_at"], "the reminder ran too early")
    # Backoff is 0.5 s, then 1 s, with a jitter of 10 %; a slow machine adds to it.
    flaky = jobs["flaky"]["delays"]
    expect(flaky[0] >= 0.45 and flaky[1] >= 0.9, f"flaky was retried too early: {flaky}")
    attempts = sorted({attempt for _, _, attempt in digests})
    spread = str(attempts[0]) if len(attempts) == 1 else f"{attempts[0]} to {attempts[-1]}"
    return [("checksum", str(len(digests)), "done", spread, "-"), *(row(job) for job in jobs.values())]


def print_table(rows: list[tuple[str, ...]]) -> None:
    """Print rows under a heading, in columns."""
    lines = [("kind", "jobs", "outcome", "attempts", "delays between attempts"), *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def main() -> int:
    """Run the demo; return the exit status 0. Raises CheckFailed if a result is not as expected."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    paths = files()
    with (
        tempfile.TemporaryDirectory(prefix="pgq-demo-") as scratch,
        psycopg.connect(os.environ.get("PGQ_DSN", ""), autocommit=True) as conn,
        new_schema(conn) as schema,
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
    print(f"drained in {seconds:.1f} s; all {len(digests)} digests match a second computation\n")
    print_table(table)
    print("\nThe poison job killed a worker in each of its three attempts and is dead; no other job was lost.")
    print("Next: README.md, examples/demo/handlers.py, .venv/bin/pgq --help")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (CheckFailed, psycopg.Error) as error:
        sys.exit(f"demo: {error}")
