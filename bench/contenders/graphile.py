"""graphile-worker, for Node.js, with the preset of its own performance test: batches of 500, 24 jobs at a time."""

from __future__ import annotations

import json
import os
import subprocess

import psycopg
from child import Child
from contender import Contender
from harness import Unavailable
from job import KIND, args
from packages import node_modules
from programs import run

# What its addJobs sends.
ADD_JOBS = """
    SELECT * FROM graphile_worker.add_jobs(
        array(SELECT json_populate_recordset(NULL::graphile_worker.job_spec, %s::json)), false
    )
"""
LEFT = "SELECT count(*) FROM graphile_worker._private_jobs"


class Producer:
    """Its statement, through psycopg."""

    def __init__(self, database: str) -> None:
        self.conn = psycopg.connect(dbname=database, autocommit=True)

    def one(self, n: int) -> None:
        self.many(n, 1)

    def many(self, first: int, count: int, pad: str = "") -> None:
        specs = [{"identifier": KIND, "payload": args(n, pad)} for n in range(first, first + count)]
        self.conn.execute(ADD_JOBS, [json.dumps(specs)])

    def close(self) -> None:
        self.conn.close()


def environment(database: str) -> dict[str, str]:
    # As in its performance test, it does not log what has succeeded.
    return {"NODE_PATH": str(node_modules()), "NO_LOG_SUCCESS": "1", "PGDATABASE": database}


def install(database: str) -> None:
    program = node_modules() / "graphile-worker/dist/cli.js"
    env = {**os.environ, **environment(database)}
    done = subprocess.run(["node", program, "--schema-only"], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"graphile-worker cannot be installed: {done.stderr.strip()[-500:]}")


def work(child: Child) -> None:
    run(child, ["node", "graphile.js"], environment(child.task.database))


CONTENDER = Contender("graphile", LEFT, install, Producer, work)
