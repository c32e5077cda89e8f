"""The torture run: inject faults, let the workers finish all jobs, judge the result."""

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

from torture import flows, limits, steps, tables, verdict
from torture.faults import FaultPlan, Injector
from torture.producers import Producer, Work
from torture.verdict import Verdict
from torture.workers import OPTIONS, Workers

# By default crash recovery first fsyncs each file, which takes seconds.
SETTINGS = {"recovery_init_sync_method": "syncfs"} if sys.platform == "linux" else {}
# Seconds without an effect after which a job that is left is taken for stuck.
STUCK_AFTER = 60.0
LOOK_EVERY = 0.25


@dataclass(frozen=True)
class Plan:
    """What a run does. ``seed`` decides every choice; timing is left to the machine."""

    seconds: float = 60.0
    # The run goes on until producers have so many jobs acknowledged, and each kind of fault has occurred.
    jobs: int = 0
    seed: int = 1
    restarts: int = 2
    producers: int = 6
    lease: float = 2.0
    workers: tuple[tuple[str, ...], ...] = OPTIONS
    work: Work = field(default_factory=lambda: Work(flows=1))
    faults: FaultPlan = field(default_factory=FaultPlan)
    # For a broken build: patches of its SQL, modules that its workers load, and a text that the verdict contains once a
    # job shows the defect. The run then ends.
    patches: tuple[tuple[str, str, str], ...] = ()
    modules: tuple[str, ...] = ()
    symptom: str | None = None


@dataclass(frozen=True)
class Run:
    """The verdict, and how much there was to judge."""

    verdict: Verdict
    counts: Mapping[str, int]
    undone: int
    dead: int
    duplicates: int
    repeated: int


def torture(plan: Plan, log: Path) -> Run:
    """
    Run a plan on a throw-away server; the workers write to the log.

    Call it in the main thread, because it starts and restarts the server: the server dies with the thread that
    started it.
    """
    with (
        Server(durable=plan.restarts > 0, settings=SETTINGS) as server,
        tempfile.TemporaryDirectory(prefix="pgq-torture-") as scratch,
    ):
        dsn = make_conninfo(host=server.host, port=server.port, user=server.user, dbname=server.dbname)
        with psycopg.connect(dsn, autocommit=True) as conn:
            tables.prepare(conn, plan.patches)
        log.write_bytes(b"")
        with Workers(dsn, Path(scratch), log, plan.lease, ("torture.handlers", *plan.modules), plan.workers) as workers:
            injector = Injector(workers, [dsn], Random(f"{plan.seed} fault"), plan.faults)
            producers = disturb(plan, dsn, injector, server)
            with psycopg.connect(dsn, autocommit=True) as conn:
                if plan.symptom is None:
                    limits.begin(conn)
                    flows.send_all(conn)
                    drain(conn, workers)
                    workers.stop()
                acknowledged = [number for producer in producers for number in producer.acknowledged]
                return Run(
                    verdict.judge(conn, acknowledged, injector, workers),
                    injector.counts,
                    sum(producer.undone for producer in producers),
                    *verdict.coverage(conn),
                )


def disturb(plan: Plan, dsn: str, injector: Injector, server: Server) -> list[Producer]:
    """Run producers and inject faults at the same time; return the producers, which have stopped."""
    producers = [Producer(dsn, Random(f"{plan.seed} producer {n}"), f"p{n}", plan.work) for n in range(plan.producers)]
    shows_symptom = Watch(dsn, injector, plan.symptom) if plan.symptom is not None else lambda: False

    def is_enough() -> bool:
        return plan.jobs == 0 or (
            sum(len(producer.acknowledged) for producer in producers) >= plan.jobs
            and all(injector.counts[kind] > 0 for kind in plan.faults.weights)
        )

    try:
        for producer in producers:
            producer.start()
        injector.run(
            plan.seconds,
            plan.restarts,
            lambda: server.restart("immediate"),
            ends_early=shows_symptom,
            is_enough=is_enough,
        )
    finally:
        for producer in producers:
            producer.stop()
    for producer in producers:
        producer.join()
    return producers


def drain(conn: psycopg.Connection[tuple[int, ...]], workers: Workers) -> None:
    """Wait until no job is waiting, blocked or running, or until no job has had an effect for a minute."""
    effects, give_up_at = -1, time.monotonic() + STUCK_AFTER
    while time.monotonic() < give_up_at:
        workers.replace_ended()
        row = conn.execute(
            "SELECT (SELECT count(*) FROM pgq_waiting) + (SELECT count(*) FROM pgq_blocked) "
            "+ (SELECT count(*) FROM _pgq_running), (SELECT count(*) FROM torture.effect)"
        ).fetchone()
        assert row is not None
        if row[0] == 0:
            return
        if row[1] > effects:
            effects, give_up_at = row[1], time.monotonic() + STUCK_AFTER
        time.sleep(0.05)


class Watch:
    """A callable that returns True once the verdict shows the symptom. It looks for it at intervals."""

    def __init__(self, dsn: str, injector: Injector, symptom: str) -> None:
        self._conn = psycopg.connect(dsn, autocommit=True, application_name="watch")
        self._injector = injector
        self._symptom = symptom
        self._due = time.monotonic()

    def __call__(self) -> bool:
        if time.monotonic() < self._due:
            return False
        self._due = time.monotonic() + LOOK_EVERY
        lines = verdict.doubled(self._conn, self._injector.stopped_twice) + steps.skipped(self._conn)
        lines += limits.beyond(self._conn) + flows.asleep(self._conn)
        return any(self._symptom in line for line in lines)
