"""
A small worker on psycopg alone, whole or with a defect.

    python -m conformance.broken [no_token | no_extension | ack_first]
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
EXTEND = "SELECT pgq_extend(%s, %s, make_interval(secs => %s))"


def connect() -> psycopg.Connection[Any]:
    """Connect to the database of the environment."""
    return psycopg.connect(os.environ["PGQ_DSN"], autocommit=True)


def keep(job: int, token: int, over: threading.Event) -> None:
    """Extend the lease of a job until its handler is over."""
    with connect() as conn, suppress(psycopg.DatabaseError):
        while not over.wait(float(LEASE) / 3):
            conn.execute(EXTEND, [job, token, LEASE])


def run(conn: psycopg.Connection[Any], defect: str, job: int, token: int, kind: str, args: Any) -> None:
    """Run the handler of a job, and complete it."""
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
        elif defect != "ack_first":
            conn.execute(complete, [job, token])


def main(defect: str) -> None:
    """Run jobs until the process ends."""
    conn = connect()
    while True:
        if (row := conn.execute(CLAIM, [QUEUE, LEASE]).fetchone()) is None:
            time.sleep(0.2)
            continue
        over = threading.Event()
        if defect != "no_extension":
            threading.Thread(target=keep, args=[*row[:2], over], daemon=True).start()
        try:
            run(conn, defect, *row)
        except (
            psycopg.errors.DataError,
            psycopg.errors.IntegrityError,
            ArithmeticError,
            LookupError,
            TypeError,
            ValueError,
            AttributeError,
        ) as error:
            conn.execute("SELECT pgq_fail(%s, %s, %s)", [*row[:2], repr(error)])
        except psycopg.DatabaseError as error:
            if error.sqlstate != "PGQ02":
                raise
        finally:
            over.set()


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["none"]))
