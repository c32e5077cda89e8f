"""Enqueue jobs one by one; compare with a bare INSERT, and with a NOTIFY in each transaction."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

from contenders import by_name
from databases import connect, fresh
from harness import BenchError, Harness

NAME = "enqueue"
UNIT = "jobs/s"
FLOOR = "bare insert"
NOTIFY = "pgq + notify"
CLIENTS = (1, 16)
ENQUEUE = "SELECT id, created FROM pgq_enqueue('job', to_jsonb(:n::bigint));"
STATEMENTS = {
    "pgq": ENQUEUE,
    FLOOR: "INSERT INTO floor (payload) VALUES (to_jsonb(:n::bigint));",
    NOTIFY: ENQUEUE.replace(" FROM", ", pg_notify('bench', '') FROM"),
}
# Far enough apart to keep the arguments of all clients distinct.
DISTINCT = "\\set i :i + 1\n\\set n :client_id * 1000000000000 + :i\n"


def run(harness: Harness) -> None:
    for clients in CLIENTS:
        harness.compare(
            NAME,
            what(clients),
            UNIT,
            {name: partial(rate, harness.pick(5, 1), clients, name) for name in STATEMENTS},
        )


def what(clients: int) -> str:
    return f"{clients} client{'s' if clients > 1 else ''}"


def rate(seconds: int, clients: int, name: str) -> float:
    """Return jobs per second; check the number of jobs in the table."""
    contender, table = ("floor", "floor") if name == FLOOR else ("pgq", "pgq_waiting")
    client = pgbench if shutil.which("pgbench") else threads
    with fresh(by_name(contender)) as database:
        jobs, took = client(database, STATEMENTS[name], clients, seconds)
        with connect(database) as conn:
            row = conn.execute(f"SELECT count(*) FROM {table}").fetchone()
        if row != (jobs,):
            raise BenchError(f"{name}: {row} jobs in the table, not {jobs}")
        return jobs / took


def pgbench(database: str, statement: str, clients: int, seconds: int) -> tuple[int, float]:
    """Run a statement with pgbench; return the number of calls and the seconds they took."""
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory, "enqueue.sql")
        script.write_text(f"{DISTINCT}{statement}\n", encoding="utf-8")
        options = ["-n", "-M", "prepared", "-D", "i=0", "-c", str(clients), "-j", str(min(clients, 2))]
        command = ["pgbench", *options, "-T", str(seconds), "-f", str(script), database]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    jobs = re.search(r"actually processed: (\d+)", done.stdout)
    tps = re.search(r"tps = ([\d.]+)", done.stdout)
    if done.returncode or not jobs or not tps:
        raise BenchError(f"pgbench: {done.stderr.strip()}")
    return int(jobs[1]), int(jobs[1]) / float(tps[1])


def threads(database: str, statement: str, clients: int, seconds: int) -> tuple[int, float]:
    """Do the same from Python threads, for a machine without pgbench, whose clients would take less of the CPU."""
    query = statement.rstrip(";").replace(":n", "%s")
    counts = [0] * clients
    barrier = threading.Barrier(clients + 1)
    end = 0.0

    def client(number: int) -> None:
        with connect(database) as conn:
            barrier.wait()
            while time.monotonic() < end:
                conn.execute(query, [number * 1_000_000_000_000 + counts[number]], prepare=True)
                counts[number] += 1

    running = [threading.Thread(target=client, args=[number], daemon=True) for number in range(clients)]
    for thread in running:
        thread.start()
    started = time.monotonic()
    end = started + seconds
    barrier.wait()
    for thread in running:
        thread.join()
    return sum(counts), time.monotonic() - started
