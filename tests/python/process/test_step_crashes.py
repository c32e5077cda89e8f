"""Workflows whose worker is killed between any two of their statements: each step leaves its writes once."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.database import Connection, one
from support.processes import Start
from support.threads import eventually

from pgq import Queue

STEPS = ("charge", "reserve", "ship")
TASKS = """
import os, pathlib, signal
from datetime import timedelta
import pgq

HOUR = timedelta(hours=1)


def point(job, name):
    # Each job ends its process once.
    if job.args["kill"] == name:
        try:
            pathlib.Path(f"killed {job.id}").open("x").close()
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


def workflow(job, write):
    def step(name):
        point(job, f"begin {name}")
        write(name, job.step_key)
        point(job, f"end {name}")
        return name

    for name in ("charge", "reserve"):
        point(job, f"before {name}")
        assert job.step(name, step, name) == name
        point(job, f"after {name}")
    assert job.enqueue("child", job.id).id
    point(job, "after enqueue")
    assert job.wait_signal("approved", HOUR) == {"by": "x"}
    point(job, "after signal")
    job.sleep(timedelta(milliseconds=1))
    point(job, "after sleep")
    job.step("ship", step, "ship")
    point(job, "after ship")


@pgq.handler("transaction", transaction=True)
def transaction(job, conn):
    workflow(job, lambda name, key: conn.execute("INSERT INTO effect VALUES (%s, %s, %s)", [job.id, name, key]))


@pgq.handler("plain")
def plain(job):
    def write(name, key):
        # A call to the outside.
        with pathlib.Path("calls").open("a") as calls:
            calls.write(f"{job.id} {name} {key}\\n")

    workflow(job, write)


@pgq.handler("child")
def child(job):
    return job.args
"""
POINTS = [f"{when} {step}" for step in STEPS[:2] for when in ("before", "begin", "end", "after")]
POINTS += ["after enqueue", "after signal", "after sleep", "begin ship", "end ship", "after ship", "never"]


@pytest.mark.happens("ends its process between steps")
@pytest.mark.parametrize("kind", ["transaction", "plain"])
def test_each_step_leaves_its_writes_once(conn: Connection, start: Start, tmp_path: Path, kind: str) -> None:
    """Calls to the outside happen at least once, always with the same key, and no child is made twice."""
    (tmp_path / "tasks.py").write_text(TASKS)
    conn.execute("CREATE TABLE effect (job bigint, step text, key text)")
    queue = Queue(conn)
    jobs = queue.enqueue_many(
        {"kind": kind, "args": {"kill": kill}, "dedup": False, "backoff": "0", "max_retries": 50} for kill in POINTS
    )
    process = start("--processes", "2", "--batch", "3", "--log-level", "warning")
    for job in jobs:
        queue.signal(job.id, "approved", {"by": "x"})
    eventually(lambda: one(conn, "SELECT count(*) FROM pgq_jobs WHERE state <> 'done'") == 0, "all end", seconds=150)
    process.terminate()
    process.wait(30)

    assert len(list(tmp_path.glob("killed *"))) == len(POINTS) - 1
    expected = [(job.id, step, f"{job.id}/{step}") for job in jobs for step in STEPS]
    written = conn.execute("SELECT job, step, key FROM effect ORDER BY job, step").fetchall()
    calls = [line.split() for line in (tmp_path / "calls").read_text().splitlines()] if kind == "plain" else []
    called = [(int(job), step, key) for job, step, key in calls]
    if kind == "plain":
        assert set(called) == set(expected)
        # Once more where the worker was killed between the call and its record.
        assert len(called) == len(expected) + sum(point.startswith("end") for point in POINTS)
    else:
        assert written == sorted(expected)
    children = conn.execute("SELECT result::bigint FROM pgq_jobs WHERE kind = 'child' ORDER BY 1").fetchall()
    assert children == [(job.id,) for job in jobs]
    assert one(conn, "SELECT count(*) FROM pgq_saved") + one(conn, "SELECT count(*) FROM pgq_signal_wait") == 0
