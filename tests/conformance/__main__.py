"""
Test a worker in any language, from the other side of its life.

    python -m conformance [--producer COMMAND] [--only WORD]... [--stride 1] [--log FILE] COMMAND

Plays the other side of a worker's life against the worker that COMMAND starts, on a throw-away server, and prints what
it passes. docs/protocol.md says what the worker must do. Exits with 0 if the worker passes all that is required.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import psycopg
from postgres.children import Terminated
from postgres.programs import DevpgError
from postgres.server import Server
from psycopg.conninfo import make_conninfo
from support.paths import ROOT
from support.proxy import Proxy

from conformance.faults import FAULTS
from conformance.scenarios import SCENARIOS, Scenario
from conformance.stage import QUEUE, TABLE, Counts, Missed, Stage, Under


def main() -> int:
    """Play the scenarios; return the exit code."""
    parser = argparse.ArgumentParser(prog="conformance", description="Test a worker in any language.")
    parser.add_argument("--producer", help="a command that enqueues a job: a kind and JSON are appended to it")
    parser.add_argument("--only", action="append", default=[], help="play the scenarios with this word in their name")
    parser.add_argument("--stride", type=int, default=1, help="cut connections at each n-th moment only")
    parser.add_argument("--log", type=Path, default=ROOT / "build" / "conformance.log", help="the log of the worker")
    parser.add_argument("command", help="the command line of the worker")
    options = parser.parse_args()
    chosen = [
        one for one in [*SCENARIOS, *FAULTS] if not options.only or any(word in one.name for word in options.only)
    ]
    options.log.write_bytes(b"")
    under = Under(options.command, options.producer or None, options.log, options.stride)
    try:
        with Server() as server, Proxy(Path(server.host) / f".s.PGSQL.{server.port}") as proxy:
            prepare(server)
            return play_all(chosen, server, proxy, under)
    except DevpgError as error:
        print(f"conformance: {error}", file=sys.stderr)
        return 125
    except Terminated as stop:
        return stop.status


def prepare(server: Server) -> None:
    """Create the database of which each scenario gets a copy."""
    dsn = make_conninfo(host=server.host, port=server.port, user=server.user)
    with psycopg.connect(dsn, dbname="postgres", autocommit=True) as conn:
        conn.execute("CREATE DATABASE conformance")
    with psycopg.connect(dsn, dbname="conformance", autocommit=True) as conn:
        conn.execute((ROOT / "build" / "pgq.sql").read_bytes())
        conn.execute(TABLE)
        conn.execute('SELECT pgq_configure(%s, \'{"keep_done": "1 day"}\')', [QUEUE])


def play_all(chosen: list[Scenario], server: Server, proxy: Proxy, under: Under) -> int:
    """Play scenarios, print a row for each point and the counts; return 1 if a required one was missed."""
    counts, failed, missed = Counts(), 0, 0

    def show(required: bool, name: str, why: str | None) -> None:
        nonlocal failed, missed
        failed += required and why is not None
        missed += not required and why is not None
        verdict = "passed" if why is None else f"{'FAILED' if required else 'missed'}: {why}"
        print(f"{'required' if required else 'recommended':<12} {name:<32} {verdict}", flush=True)

    for number, one in enumerate(chosen):
        with Stage(server, proxy, under, f"conformance_{number}", counts) as stage:
            try:
                one.play(stage)
            except Missed as why:
                problem: str | None = str(why)
            else:
                problem = None
            try:
                stage.judge()
            except Missed as why:
                problem = f"{why}; {problem}" if problem else str(why)
            show(one.is_required, one.name, problem)
            for name, why_not in stage.advice:
                show(False, name, why_not)
    print(f"{counts.jobs} jobs: {counts.lost} lost, {counts.doubled} doubled, {counts.left} left")
    conforms = "does not conform" if failed else "conforms"
    print(f"{conforms}: {failed} required points failed, {missed} recommended ones missed")
    if failed or missed:
        print(f"log of the worker: {under.log}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
