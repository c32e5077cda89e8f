"""
The torture run of several databases: four servers, which all workers serve.

One server works, one is killed, one is frozen, and one fails over to its standby, while workers are killed, frozen and
stopped. During each of these faults the server that works must get on.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

import psycopg
from postgres.server import Server
from postgres.standby import SYNCHRONOUS, Standby
from psycopg.conninfo import make_conninfo
from support.database import one
from support.threads import eventually

from torture import flows, limits, tables, verdict
from torture.faults import FaultPlan, Injector
from torture.producers import Producer, Work
from torture.run import SETTINGS, drain
from torture.verdict import Verdict
from torture.workers import Workers, children

OPTIONS: Final = (("--concurrency", "2"), ("--processes", "2", "--queue-order", "rotate"), ("--concurrency", "1"))
# Of workers; the servers have their own.
FAULTS: Final = FaultPlan(every=0.7, weights={"kill": 4, "freeze": 2, "cut": 6, "stop": 3, "limit": 2, "pause": 1})
# Seconds for which a server is away, and within which the one that works must have done something meanwhile.
AWAY: Final = 2.0
GETS_ON_WITHIN: Final = 40.0


@dataclass(frozen=True)
class Plan:
    """What a run does. ``seed`` decides every choice but those of time."""

    seconds: float = 40.0
    seed: int = 1
    lease: float = 2.0
    # How often each server has its fault; the fourth fails over once.
    rounds: int = 3
    # In each database.
    producers: int = 2
    workers: tuple[tuple[str, ...], ...] = OPTIONS
    faults: FaultPlan = FAULTS
    work: Work = field(default_factory=lambda: Work(pause=0.1, flows=1))


SHORT: Final = Plan(
    seconds=3,
    rounds=1,
    producers=1,
    workers=(("--concurrency", "2"),),
    faults=FaultPlan(every=1.5, weights={"cut": 2, "kill": 1}),
    work=Work(pause=0.1, queues=("default",)),
)


@dataclass(frozen=True)
class Run:
    """The verdict of each database, and what has happened to the servers."""

    verdicts: Mapping[str, Verdict]
    counts: Mapping[str, int]
    # Faults during which the server that works did nothing.
    stopped: list[str]

    @property
    def is_clean(self) -> bool:
        """Whether all promises were kept."""
        return not self.stopped and all(one.is_clean for one in self.verdicts.values())

    @property
    def line(self) -> str:
        """The closing line."""
        jobs = sum(one.jobs for one in self.verdicts.values())
        lost, doubled, skipped, left, beyond = (
            sum(len(getattr(one, what)) for one in self.verdicts.values())
            for what in ("lost", "doubled", "skipped", "left", "beyond")
        )
        faults = ", ".join(f"{count} {name}" for name, count in sorted(self.counts.items()))
        return (
            f"{len(self.verdicts)} databases, {jobs:,} jobs, {faults}: {lost} lost, {doubled} doubled, "
            f"{skipped} skipped, {left} left, {beyond} beyond limits, {len(self.stopped)} times stopped by another"
        )


@dataclass(frozen=True)
class Fault:
    """What is done to a server, and how it comes back."""

    name: str
    begin: Callable[[], None]
    end: Callable[[], None]


class Faults:
    """The faults of the servers, one after the other. ``step`` goes on with them; call it again and again."""

    def __init__(self, faults: list[Fault], seconds: float, done: Callable[[], int]) -> None:
        self.counts: dict[str, int] = {}
        self.stopped: list[str] = []
        self._left = faults
        self._pause = max(0.3, seconds / len(faults) - AWAY)
        self._done = done
        self._now: Fault | None = None
        self._since = time.monotonic()
        self._before = 0

    @property
    def is_over(self) -> bool:
        """Whether each server had its faults, and is back."""
        return self._now is None and not self._left

    def step(self) -> None:
        """Begin the next fault when its time has come; end it when the server that works has done something."""
        seconds = time.monotonic() - self._since
        if self._now is None:
            if self._left and seconds > self._pause:
                self._now = self._left.pop(0)
                self._before = self._done()
                self._now.begin()
                self.counts[self._now.name] = self.counts.get(self._now.name, 0) + 1
                self._since = time.monotonic()
            return
        if seconds < AWAY:
            return
        if self._done() == self._before:
            if seconds < GETS_ON_WITHIN:
                return
            self.stopped.append(f"nothing was done elsewhere while a server was {self._now.name}")
        self._now.end()
        self._now, self._since = None, time.monotonic()


def torture(plan: Plan, log: Path) -> Run:
    """Run a plan on throw-away servers; the workers write to the log. Call it in the main thread."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pgq-torture-")))
        servers = [stack.enter_context(Server(durable=durable, settings=SETTINGS)) for durable in (False, True, False)]
        # A commit is acknowledged when the standby has it.
        primary = stack.enter_context(Server(settings=SYNCHRONOUS))
        standby = stack.enter_context(Standby(primary))
        dsns = {name: dsn(server) for name, server in zip(("working", "killed", "frozen"), servers, strict=True)}
        dsns["failed over"] = dsn(primary, standby)
        for where in dsns.values():
            with psycopg.connect(where, autocommit=True) as conn:
                tables.prepare(conn, ())
        with psycopg.connect(dsns["failed over"], autocommit=True) as conn:
            follows = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
            eventually(lambda: one(conn, follows), "the standby is streaming", 30)
        control = stack.enter_context(psycopg.connect(dsns["working"], autocommit=True))

        def done() -> int:
            return int(one(control, "SELECT count(*) FROM torture.effect"))

        def fail_over() -> None:
            primary.stop("immediate")
            standby.promote()

        killed, frozen = servers[1:]
        kill = Fault("killed", lambda: killed.stop("immediate"), killed.start)
        freeze = Fault("frozen", lambda: send(frozen, signal.SIGSTOP), lambda: send(frozen, signal.SIGCONT))
        faults = Faults(
            [*plan.rounds * [kill, freeze], Fault("failed over", fail_over, lambda: None)], plan.seconds, done
        )
        log.write_bytes(b"")
        lines = "\n".join(dsns.values())
        with Workers(lines, scratch, log, plan.lease, ("torture.handlers",), plan.workers) as workers:
            injector = Injector(workers, list(dsns.values()), Random(f"{plan.seed} fault"), plan.faults)
            producers = disturb(plan, dsns, injector, faults)
            with ExitStack() as conns:
                found = {name: conns.enter_context(psycopg.connect(dsns[name], autocommit=True)) for name in dsns}
                for conn in found.values():
                    limits.begin(conn)
                    flows.send_all(conn)
                for conn in found.values():
                    drain(conn, workers)
                workers.stop()
                verdicts = {
                    name: verdict.judge(conn, acknowledged(producers[name]), injector, workers)
                    for name, conn in found.items()
                }
        counts = faults.counts | {f"worker {name}": count for name, count in injector.counts.items()}
        return Run(verdicts, counts, faults.stopped)


def disturb(plan: Plan, dsns: Mapping[str, str], injector: Injector, faults: Faults) -> dict[str, list[Producer]]:
    """Run producers in each database, and inject faults at the same time; return the producers, which have stopped."""
    producers = {
        name: [Producer(dsn, Random(f"{plan.seed} {name} {n}"), f"p{n}", plan.work) for n in range(plan.producers)]
        for name, dsn in dsns.items()
    }

    def step() -> bool:
        faults.step()
        return False

    everyone = [producer for some in producers.values() for producer in some]
    try:
        for producer in everyone:
            producer.start()
        injector.run(plan.seconds, 0, lambda: None, ends_early=step, is_enough=lambda: faults.is_over)
    finally:
        for producer in everyone:
            producer.stop()
    for producer in everyone:
        producer.join()
    return producers


def acknowledged(producers: list[Producer]) -> list[int]:
    """Return the rows of the ledger whose commits were acknowledged."""
    return [number for producer in producers for number in producer.acknowledged]


def dsn(*servers: Server) -> str:
    """Return the DSN of a server, or of the one of several that accepts writes."""
    several: dict[str, Any] = {"target_session_attrs": "read-write"} if len(servers) > 1 else {}
    hosts = ",".join(server.host for server in servers)
    return make_conninfo(host=hosts, port=servers[0].port, user=servers[0].user, dbname=servers[0].dbname, **several)


def send(server: Server, number: signal.Signals) -> None:
    """Send a signal to all processes of a server."""
    pid = int((server.datadir / "postmaster.pid").read_text().splitlines()[0])
    # The postmaster first: it starts no others when it is frozen.
    os.kill(pid, number)
    for child in children(pid):
        try:
            os.kill(child, number)
        except ProcessLookupError:
            continue
