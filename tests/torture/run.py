"""The torture run: a storm, a calm in which everything is to be finished, and the verdict."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import psycopg
from postgres.server import Server
from psycopg.conninfo import make_conninfo

from torture import tables, verdict
from torture.chaos import Chaos, Weather
from torture.fleet import FLEET, Fleet
from torture.producers import Producer, Work
from torture.verdict import Control

# A crash recovery begins with an fsync of every file, which takes seconds.
SETTINGS = {"recovery_init_sync_method": "syncfs"} if sys.platform == "linux" else {}
CALM_WITHIN = 60.0
LOOK_EVERY = 0.25


@dataclass(frozen=True)
class Plan:
    """How long, and what; every choice comes from ``seed``, and what the machine makes of it does not."""

    seconds: float = 60.0
    seed: int = 1
    restarts: int = 2
    producers: int = 6
    lease: float = 2.0
    fleet: tuple[tuple[str, ...], ...] = FLEET
    work: Work = field(default_factory=Work)
    weather: Weather = field(default_factory=Weather)
    # For a build that is broken on purpose: patches of its SQL, a module for its workers, and what is said of the first
    # job that shows it, with which the run ends.
    patches: tuple[tuple[str, str, str], ...] = ()
    modules: tuple[str, ...] = ()
    symptom: str | None = None


@dataclass(frozen=True)
class Run:
    """The verdict, and what there was to judge."""

    verdict: Control
    counts: Mapping[str, int]
    undone: int
    duplicates: int
    repeated: int


def torture(plan: Plan, log: Path) -> Run:
    """
    Run the plan on a server of its own, of which nothing is left. The workers write to the log.

    Call it in the main thread: the server is restarted there.
    """
    with (
        Server(durable=plan.restarts > 0, settings=SETTINGS) as server,
        tempfile.TemporaryDirectory(prefix="pgq-torture-") as scratch,
    ):
        dsn = make_conninfo(host=server.host, port=server.port, user=server.user, dbname=server.dbname)
        with psycopg.connect(dsn, autocommit=True) as conn:
            tables.prepare(conn, plan.patches)
        log.write_bytes(b"")
        with Fleet(dsn, Path(scratch), log, plan.lease, ("torture.handlers", *plan.modules), plan.fleet) as fleet:
            chaos = Chaos(fleet, dsn, Random(f"{plan.seed} chaos"), plan.weather)
            producers = storm(plan, dsn, chaos, server)
            with psycopg.connect(dsn, autocommit=True) as conn:
                if plan.symptom is None:
                    calm(conn, fleet)
                    fleet.stop()
                acknowledged = [number for producer in producers for number in producer.acknowledged]
                return Run(
                    verdict.judge(conn, acknowledged, chaos, fleet),
                    chaos.counts,
                    sum(producer.undone for producer in producers),
                    *verdict.extent(conn),
                )


def storm(plan: Plan, dsn: str, chaos: Chaos, server: Server) -> list[Producer]:
    """Let everything happen at once; the answer is the producers, which have stopped."""
    producers = [Producer(dsn, Random(f"{plan.seed} producer {n}"), f"p{n}", plan.work) for n in range(plan.producers)]
    is_enough = Watch(dsn, chaos, plan.symptom) if plan.symptom is not None else lambda: False
    try:
        for producer in producers:
            producer.start()
        chaos.rage(plan.seconds, plan.restarts, lambda: server.restart("immediate"), is_enough)
    finally:
        for producer in producers:
            producer.stop()
    for producer in producers:
        producer.join()
    return producers


def calm(conn: psycopg.Connection[tuple[int, ...]], fleet: Fleet) -> None:
    """Wait until nothing waits or runs any more, at most a minute."""
    give_up_at = time.monotonic() + CALM_WITHIN
    while time.monotonic() < give_up_at:
        fleet.tend()
        row = conn.execute("SELECT (SELECT count(*) FROM pgq_waiting) + (SELECT count(*) FROM pgq_running)").fetchone()
        if row == (0,):
            return
        time.sleep(0.05)


class Watch:
    """Whether the symptom shows, looked for now and then."""

    def __init__(self, dsn: str, chaos: Chaos, symptom: str) -> None:
        self._conn = psycopg.connect(dsn, autocommit=True, application_name="watch")
        self._chaos = chaos
        self._symptom = symptom
        self._due = time.monotonic()

    def __call__(self) -> bool:
        if time.monotonic() < self._due:
            return False
        self._due = time.monotonic() + LOOK_EVERY
        return any(self._symptom in line for line in verdict.doubled(self._conn, self._chaos.told_twice))
