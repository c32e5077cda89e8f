"""
A small worker on psycopg alone, whole or with a defect; with "batch" it claims many jobs in one call.

    python -m conformance.broken [batch] [no_token | no_extension | ack_first | ack_late]
"""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

QUEUE, LEASE = os.environ["PGQ_QUEUE"], os.environ["PGQ_LEASE"]
CLAIM = "SELECT id, token, kind, args FROM pgq_claim(ARRAY[%s], 1, make_interval(secs => %s))"
CLAIM_BATCH = (
    "SELECT j.id, b.token, j.kind, j.args::jsonb "
    "FROM pgq_claim_batch(ARRAY[%s], 100, make_interval(secs => %s), done_ids => %s, done_tokens => %s) AS b, "
    "unnest(b.ids, b.kinds, b.args) AS j (id, kind, args)"
)
EXTEND = "SELECT pgq_extend(%s, %s, make_interval(secs => %s))"
Claimed = tuple[int, int, str, Any]


def connect() -> psycopg.Connection[Any]:
    """Connect to the database of the environment."""
    return psycopg.connect(os.environ["PGQ_DSN"], autocommit=True)


def claim(conn: psycopg.Connection[Any], many: bool, done: list[Claimed]) -> list[Claimed]:
    """Claim one job or many; the latter also ends those that are done."""
    if not many:
        return conn.execute(CLAIM, [QUEUE, LEASE]).fetchall()
    jobs = conn.execute(CLAIM_BATCH, [QUEUE, LEASE, [job[0] for job in done], [job[1] for job in done]]).fetchall()
    done.clear()
    if jobs and conn.execute("SELECT FROM pgq_running_batch WHERE token = %s", [jobs[0][1]]).fetchone() is not None:
        print(f"packed {len(jobs)} jobs", flush=True)
    return jobs


def keep(held: list[Claimed], over: threading.Event) -> None:
    """Extend the leases of all jobs that are held until their handlers are over."""
    with connect() as conn:
        while not over.wait(float(LEASE) / 3):
            for job in list(held):
                # Lost, or done meanwhile.
                with suppress(psycopg.DatabaseError):
                    conn.execute(EXTEND, [*job[:2], LEASE])


def run(conn: psycopg.Connection[Any], defect: str, job: int, token: int, kind: str, args: Any) -> None:
    """Run the handler of a job, and complete it, unless a later claim is to do that."""
    complete = "SELECT pgq_complete(%s, %s)"
    if defect == "ack_first":
        conn.execute(complete, [job, token])
    if kind == "conformance.slow":
        time.sleep(args["seconds"])
    elif kind != "conformance.write":
        raise ValueError(f"{kind}: {args}")
    with conn.transaction():
        conn.execute("INSERT INTO conformance_effect VALUES (%s, %s, %s)", [job, args["n"], Jsonb(args.get("value"))])
        if defect == "no_token":
            # Whichever claim there is now, if any: the effect stays although the lease was lost.
            conn.execute("SELECT pgq_complete(id, token) FROM pgq_running WHERE id = %s", [job])
        elif defect not in {"ack_first", "ack_late"}:
            conn.execute(complete, [job, token])


def main(*options: str) -> None:
    """Run jobs until the process ends."""
    many, defect = "batch" in options, next((option for option in options if option != "batch"), "none")
    conn = connect()
    done: list[Claimed] = []
    while True:
        held = claim(conn, many, done)
        if not held:
            time.sleep(0.2)
            continue
        over = threading.Event()
        if defect != "no_extension":
            threading.Thread(target=keep, args=[held, over], daemon=True).start()
        while held:
            job = held[0]
            try:
                run(conn, defect, *job)
                done += [job] if defect == "ack_late" else []
            except (
                psycopg.errors.DataError,
                psycopg.errors.IntegrityError,
                ArithmeticError,
                LookupError,
                TypeError,
                ValueError,
                AttributeError,
            ) as error:
                conn.execute("SELECT pgq_fail(%s, %s, %s)", [*job[:2], repr(error)])
            except psycopg.DatabaseError as error:
                if error.sqlstate != "PGQ02":
                    raise
            held.remove(job)
        over.set()


if __name__ == "__main__":
    main(*sys.argv[1:])
