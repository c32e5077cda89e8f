"""What a command says while its statement waits for the transactions of others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import click
import psycopg

from pgq.cli.output import shown

# A command that waits in two looks at the same transactions, half a second apart, says so.
LOOK_EVERY: Final = 0.5
BLOCKERS: Final = """
    SELECT b.pid, a.application_name
    FROM unnest(pg_blocking_pids(%s)) AS b (pid)
    LEFT JOIN pg_stat_activity AS a USING (pid)
    ORDER BY b.pid
"""


@contextmanager
def waits_are_told(dsn: str, conn: psycopg.Connection[Any]) -> Iterator[None]:
    """Say on standard error when a statement of this connection waits for other transactions, once for each of them."""
    pid, done = conn.info.backend_pid, threading.Event()

    def watch() -> None:
        before: list[tuple[Any, ...]] = []
        told: list[tuple[Any, ...]] = []
        # The watch itself needs a connection: without one, nothing is told.
        with suppress(psycopg.Error):
            if done.wait(LOOK_EVERY):
                return
            with psycopg.connect(dsn, autocommit=True, application_name="pgq") as own:
                while True:
                    blockers = own.execute(BLOCKERS, [pid]).fetchall()
                    if blockers and blockers == before and blockers != told and not done.is_set():
                        told = blockers
                        names = [f"{other} ({shown(name)})" if name else f"{other}" for other, name in blockers]
                        click.echo(f"pgq: waiting for the transaction of process {', '.join(names)}", err=True)
                        ends = " ".join(f"SELECT pg_terminate_backend({other});" for other, _ in blockers)
                        click.echo(
                            "hint: It has enqueued or locked the same job; this goes on when it ends. To end its "
                            f"session: {ends}",
                            err=True,
                        )
                    before = blockers
                    if done.wait(LOOK_EVERY):
                        return

    thread = threading.Thread(target=watch, name="pgq-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(LOOK_EVERY)
