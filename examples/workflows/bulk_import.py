"""
Import a file in parts that run side by side, and sum up when the last of them is over: `pgq worker bulk_import`.

    pgq enqueue import '{"path": "/data/people.csv"}'

Each handler is one transaction with the completion of its job. So the parts and their summary are enqueued once, and
each part is imported once. A part that cannot be imported is cancelled, and the summary tells.

    CREATE TABLE person (file text, line integer, name text, born date);
    CREATE TABLE import_summary (file text, imported bigint, missing bigint);
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg

import pgq

LINES = 1_000


@pgq.handler("import", transaction=True)
def split(job: pgq.Job, conn: psycopg.Connection[Any]) -> None:
    """Enqueue a job for each part of the file, and the summary after them, whatever becomes of them: a batch."""
    path, size = job.args["path"], job.args.get("size", LINES)
    lines = len(Path(path).read_text(encoding="utf-8").splitlines())
    parts: list[pgq.NewJob] = [
        {"kind": "import part", "args": {"path": path, "first": first, "size": size}} for first in range(0, lines, size)
    ]
    pgq.Queue(conn).enqueue_batch("import summary", {"path": path, "lines": lines}, parts)


@pgq.handler("import part", transaction=True, cancel_on=psycopg.DataError)
def import_part(job: pgq.Job, conn: psycopg.Connection[Any]) -> None:
    """Insert the lines of a part."""
    path, first = job.args["path"], job.args["first"]
    lines = Path(path).read_text(encoding="utf-8").splitlines()[first : first + job.args["size"]]
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO person (file, line, name, born) VALUES (%s, %s, %s, %s)",
            [(path, first + n, *line.split(",")) for n, line in enumerate(lines, 1)],
        )


@pgq.handler("import summary", transaction=True)
def sum_up(job: pgq.Job, conn: psycopg.Connection[Any]) -> None:
    """Write how many lines were imported, and how many are missing."""
    conn.execute(
        "INSERT INTO import_summary SELECT %(path)s, count(*), %(lines)s - count(*) FROM person WHERE file = %(path)s",
        job.args,
    )
