"""pgq 0.2.0, the release before: its SQL and its command, exported from git and built."""

from __future__ import annotations

import os
import subprocess
import sys

import psycopg
from child import Child
from contender import Contender
from job import array
from packages import release

from contenders.pgq import ENQUEUE_MANY, command

LEFT = "SELECT (SELECT count(*) FROM pgq_waiting) + (SELECT count(*) FROM pgq_running)"


class Producer:
    """Its SQL, without its driver: this process may have loaded the one in work."""

    def __init__(self, database: str) -> None:
        self.conn = psycopg.connect(dbname=database, autocommit=True)

    def one(self, n: int) -> None:
        self.many(n, 1)

    def many(self, first: int, count: int, pad: str = "") -> None:
        self.conn.execute(ENQUEUE_MANY, [array(first, count, pad)])

    def close(self) -> None:
        self.conn.close()


def environment() -> dict[str, str]:
    return {"PYTHONPATH": str(release() / "python/src")}


def install(database: str) -> None:
    env = {**os.environ, **environment(), "PGQ_DSN": psycopg.conninfo.make_conninfo(dbname=database)}
    subprocess.run([sys.executable, "-m", "pgq", "install"], env=env, stdout=subprocess.DEVNULL, check=True)


def work(child: Child) -> None:
    command(child, environment())


CONTENDER = Contender("release", LEFT, install, Producer, work)
