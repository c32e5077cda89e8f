"""
Flows in the torture run: workflows that use ``job.step``, sleep and wait for a signal, and the jobs that come after.

Two flows and the job after both of them are enqueued in one transaction; transactions of other producers send the
signals, some before their job waits. What a flow writes is in the transactions of its steps, as in steps.py.
"""

from __future__ import annotations

import time
from datetime import timedelta
from random import Random
from typing import Any

import psycopg

import pgq
from torture import steps

Connection = psycopg.Connection[Any]
SIGNAL = "go"
NAP = timedelta(milliseconds=20)
# How long a flow may wait for a signal that it has got: maintenance looks again within two seconds, unless all workers
# are frozen or killed.
WOKEN_WITHIN = "10 seconds"
# Flows to which a producer sends a signal at a time.
SIGNALS = 4

# A row is written in the transaction that enqueues the job, that sends the signal, or that completes the job. "after"
# has the jobs after which a job is to run; it is NULL for a flow.
TABLES = """
CREATE TABLE torture.planned (job bigint, after bigint[]);
CREATE TABLE torture.signal (
    n bigint GENERATED ALWAYS AS IDENTITY, job bigint, at timestamptz DEFAULT clock_timestamp());
CREATE INDEX ON torture.signal (job);
CREATE TABLE torture.received (job bigint, n bigint);
CREATE TABLE torture.followed (job bigint, token bigint, unfinished bigint[]);
"""
OPEN = """
SELECT p.job
FROM torture.planned AS p
WHERE p.after IS NULL
  AND NOT EXISTS (SELECT FROM torture.signal AS s WHERE s.job = p.job)
ORDER BY random()
LIMIT %s
"""
DOUBLED = """
SELECT format('job %s, which comes after others, ran %s times', job, count(*))
FROM torture.followed
GROUP BY job
HAVING count(*) > 1
UNION ALL
SELECT format('job %s ran before flows %s were finished', job, unfinished)
FROM torture.followed
WHERE unfinished <> '{}'
UNION ALL
SELECT format('flow %s got signals %s', job, array_agg(n))
FROM torture.received
GROUP BY job
HAVING count(*) > 1
"""
LOST = """
SELECT format('flow %s has not got signal %s', s.job, s.n)
FROM torture.signal AS s
WHERE NOT EXISTS (SELECT FROM torture.received AS r WHERE (r.job, r.n) = (s.job, s.n))
UNION ALL
SELECT format('job %s after %s has not run', p.job, p.after)
FROM torture.planned AS p
WHERE p.after IS NOT NULL
  AND NOT EXISTS (SELECT FROM torture.followed AS f WHERE f.job = p.job)
"""
ASLEEP = """
SELECT format('flow %%s sleeps on, although it has got signal %%s', s.job, s.n)
FROM torture.signal AS s
JOIN pgq_waiting AS w ON w.id = s.job
JOIN pgq_signal_wait AS t ON t.id = w.id AND t.until = w.ripe_at
WHERE s.at < clock_timestamp() - %s::interval
"""


def run(job: pgq.Job, conn: Connection) -> None:
    """Make the steps of a flow; between the last two it sleeps, and waits for its signal."""
    for name in steps.STEPS[:-1]:
        job.step(name, make, job, conn, name)
        time.sleep(steps.PAUSE)
    job.sleep(NAP)
    number = job.wait_signal(SIGNAL)
    job.step(steps.STEPS[-1], make, job, conn, steps.STEPS[-1])
    conn.execute("INSERT INTO torture.received VALUES (%s, %s)", [job.id, number])
    conn.execute("INSERT INTO torture.finished VALUES (%s, %s)", [job.id, job.id])


def make(job: pgq.Job, conn: Connection, name: str) -> None:
    """Make a step."""
    conn.execute("INSERT INTO torture.step VALUES (%s, %s, %s, %s)", [job.id, name, job.id, job.token])


def follow(job: pgq.Job, conn: Connection) -> None:
    """Note which of the flows before this job are not finished."""
    conn.execute(
        "INSERT INTO torture.followed SELECT %s, %s, ARRAY("
        "SELECT p FROM unnest(%s::bigint[]) AS p WHERE p NOT IN (SELECT f.job FROM torture.finished AS f))",
        [job.id, job.token, job.args],
    )


def enqueue(conn: Connection) -> None:
    """Enqueue two flows, and a job that comes after both."""
    queue = pgq.Queue(conn)
    options: dict[str, Any] = {"dedup": False, "max_retries": 1000, "backoff": "100 ms", "backoff_cap": "1 s"}
    flows = [queue.enqueue("flow", {}, **options).id for _ in range(2)]
    last = queue.enqueue("follow", flows, after=flows, **options)
    conn.execute("INSERT INTO torture.planned SELECT unnest(%s::bigint[]), NULL", [flows])
    conn.execute("INSERT INTO torture.planned VALUES (%s, %s)", [last.id, flows])


def send(conn: Connection, rng: Random) -> None:
    """Send signals to flows that have got none, as far as this transaction sees; some of them twice."""
    # In the order of ids, so that two transactions do not wait for each other.
    for job in sorted(job for (job,) in conn.execute(OPEN, [SIGNALS]).fetchall()):
        for _ in range(rng.choice((1, 1, 2))):
            send_one(conn, job)


def send_all(conn: Connection) -> None:
    """Send signals to all flows that have got none."""
    for (job,) in conn.execute(OPEN, [None]).fetchall():
        send_one(conn, job)


def send_one(conn: Connection, job: int) -> None:
    """Send a signal to a flow, and note it if it is the first one that counts."""
    try:
        with conn.transaction():
            row = conn.execute("INSERT INTO torture.signal (job) VALUES (%s) RETURNING n", [job]).fetchone()
            assert row is not None
            if not pgq.Queue(conn).signal(job, SIGNAL, row[0]):
                raise psycopg.Rollback
    except (pgq.JobNotFound, pgq.WrongState):
        # It has got the signal of another transaction meanwhile, and has ended.
        return


def doubled(conn: Connection) -> list[str]:
    """Return what ran, or was received, more than once or too early."""
    return _texts(conn, DOUBLED)


def lost(conn: Connection) -> list[str]:
    """Return the signals that no flow has got and the jobs that never ran, at the end of the run."""
    return _texts(conn, LOST) + asleep(conn)


def asleep(conn: Connection) -> list[str]:
    """Return the flows that wait for a signal that they have got, at any time of the run."""
    return [row[0] for row in conn.execute(ASLEEP, [WOKEN_WITHIN]).fetchall()]


def count(conn: Connection) -> int:
    """Return how many jobs ran after others."""
    (number,) = conn.execute("SELECT count(*) FROM torture.followed").fetchone() or (0,)
    return int(number)


def _texts(conn: Connection, query: str) -> list[str]:
    return [row[0] for row in conn.execute(query.encode()).fetchall()]
