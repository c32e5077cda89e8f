"""
Producers enqueue in transactions that commit, roll back, or lose their connection: with delays, priorities and twins.

Each enqueue and its row in the ledger are one transaction. The producer keeps the rows whose commit was acknowledged.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

import psycopg

from pgq import Queue
from torture import flows, limits

KINDS = ("plain", "list", "transaction", "batch", "own", "pool", "steps")
# How long handlers take: a few of them longer than the lease.
SECONDS = (2.5,) + 6 * (0.5,) + 193 * (0.02,)
# Weights; handlers.py describes the fates.
FATES = {
    "none": 300, "fail": 20, "fail late": 10, "cut": 10, "snooze": 10, "cancel": 5, "operator": 3, "fail always": 5,
    "kill": 1, "kill always": 1,
}  # fmt: skip
# These end dead, and all others never do.
POISON = ("fail always", "kill always")
# Half of the topics are in queues with limits.
QUEUES = 4 * ("default",) + tuple(limits.QUEUES)
# Short enough for twins to come while the first one waits, and while it runs.
TOPIC_SECONDS = 0.4
TWIN_SECONDS = (0.02, 0.3)
# Topics of which twins come all the time: while one waits, fails, waits again or dies.
LASTING = 3
MAX_BACKLOG = 400
JOIN_TIMEOUT = 30.0


@dataclass(frozen=True)
class Work:
    """What is enqueued: kinds, fates, how long handlers take, the mean pause of a producer, and where."""

    kinds: tuple[str, ...] = KINDS
    fates: Mapping[str, int] = field(default_factory=lambda: FATES)
    seconds: tuple[float, ...] = SECONDS
    pause: float = 0.04
    queues: tuple[str, ...] = QUEUES
    keys: tuple[str | None, ...] = (None, *limits.KEYS)
    # The part of the jobs without twins that are to be ripe later.
    later: float = 0.2
    # The part of the twins that belong to lasting topics.
    lasting: float = 0.3
    # How often flows are enqueued, and signals sent, beside 12 other acts.
    flows: int = 0


class Producer:
    """A thread that enqueues until it is stopped."""

    def __init__(self, dsn: str, rng: Random, name: str, work: Work) -> None:
        self.acknowledged: list[int] = []
        self.undone = 0
        self._dsn = dsn
        self._rng = rng
        self._name = name
        self._work = work
        self._count = 0
        self._stopped = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Tell the thread to stop; a transaction that is open goes on."""
        self._stopped.set()

    def join(self) -> None:
        """Wait for the thread to end. Raises the error with which it has failed."""
        self._thread.join(JOIN_TIMEOUT)
        if self._thread.is_alive():
            raise TimeoutError(f"producer {self._name} has not stopped after {JOIN_TIMEOUT:.0f} s")
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                try:
                    with psycopg.connect(self._dsn, autocommit=True, application_name=f"producer {self._name}") as conn:
                        while not self._stopped.wait(self._rng.uniform(0, 2 * self._work.pause)):
                            self._turn(conn)
                # The server is restarting, or two producers met in a deadlock. psycopg.Rollback leaves its block if the
                # connection is lost at that moment.
                except (psycopg.OperationalError, psycopg.InterfaceError, psycopg.Rollback):
                    self._stopped.wait(0.05)
        except BaseException as error:
            self._error = error

    def _turn(self, conn: psycopg.Connection[Any]) -> None:
        (backlog,) = conn.execute("SELECT count(*) FROM pgq_waiting").fetchone() or (0,)
        if backlog > MAX_BACKLOG:
            return
        act: Callable[[psycopg.Connection[Any]], list[int]] = self._rng.choices(
            (self._one, self._many, self._twin, self._savepoint, self._enqueue_flows, self._send_signals),
            (4, 1, 6, 1, self._work.flows, 2 * self._work.flows),
        )[0]
        undo = self._rng.random()
        if undo < 0.05:
            # Neither commit nor rollback: the server rolls back when the connection ends.
            conn.execute("BEGIN")
            act(conn)
            conn.close()
            self.undone += 1
            raise psycopg.InterfaceError
        with conn.transaction():
            numbers = act(conn)
            if undo < 0.2:
                self.undone += 1
                raise psycopg.Rollback
        if undo >= 0.2:
            self.acknowledged += numbers

    def _one(self, conn: psycopg.Connection[Any]) -> list[int]:
        """Enqueue one job, perhaps with a delay; the transaction may stay open while others enqueue later ones."""
        job = self._job()
        enqueued = Queue(conn).enqueue(**job)
        number = self._note(conn, job, enqueued.id, enqueued.created)
        if self._rng.random() < 0.2:
            self._stopped.wait(self._rng.uniform(0, 0.2))
        return [number]

    def _many(self, conn: psycopg.Connection[Any]) -> list[int]:
        """Enqueue some jobs in one call; they may be twins of each other and of waiting jobs."""
        jobs: list[Any] = [
            self._job() if self._rng.random() < 0.8 else self._twin_job() for _ in range(self._rng.randint(2, 20))
        ]
        enqueued = Queue(conn).enqueue_many(jobs)
        return [self._note(conn, job, result.id, result.created) for job, result in zip(jobs, enqueued, strict=True)]

    def _twin(self, conn: psycopg.Connection[Any]) -> list[int]:
        """Enqueue a job that may have a twin; the transaction may stay open for a while."""
        job = self._twin_job()
        enqueued = Queue(conn).enqueue(**job)
        number = self._note(conn, job, enqueued.id, enqueued.created)
        if self._rng.random() < 0.5:
            self._stopped.wait(self._rng.uniform(0, TOPIC_SECONDS))
        return [number]

    def _savepoint(self, conn: psycopg.Connection[Any]) -> list[int]:
        """Enqueue two jobs, and roll back the first to a savepoint."""
        with conn.transaction():
            self._one(conn)
            self.undone += 1
            raise psycopg.Rollback
        return self._one(conn)

    def _enqueue_flows(self, conn: psycopg.Connection[Any]) -> list[int]:
        """Enqueue flows and what comes after them."""
        flows.enqueue(conn)
        return []

    def _send_signals(self, conn: psycopg.Connection[Any]) -> list[int]:
        """Send signals to flows; the transaction may stay open while they begin to wait."""
        flows.send(conn, self._rng)
        if self._rng.random() < 0.5:
            self._stopped.wait(self._rng.uniform(0, 0.2))
        return []

    def _job(self) -> dict[str, Any]:
        """Return the arguments of a job without a twin."""
        rng, work = self._rng, self._work
        self._count += 1
        (fate,) = rng.choices(list(work.fates), list(work.fates.values()))
        topic = f"{self._name} {self._count}"
        args = {"topic": topic, "fate": fate, "seconds": rng.choice(work.seconds)}
        later = fate != "snooze" and rng.random() < work.later
        return {
            "kind": rng.choice(work.kinds),
            "args": args,
            **self._place(topic),
            "delay": f"{rng.uniform(0, 2):.3f} seconds" if later else None,
            "priority": rng.randint(0, 9),
            "max_retries": 2 if fate in POISON else 1000,
            "backoff": "100 milliseconds",
            "backoff_cap": "1 second",
        }

    def _twin_job(self) -> dict[str, Any]:
        """
        Return the arguments of a job with the same signature as others: those of this moment, which often still wait,
        or those of a topic that lasts as long as the run. Of the lasting topics one is poison.
        """
        job, rng = self._job(), self._rng
        moment = int(time.monotonic() / TOPIC_SECONDS)
        kind = self._work.kinds[moment % len(self._work.kinds)]
        topic, fate = f"{moment} {kind}", rng.choice(("none", "none", "fail late"))
        if rng.random() < self._work.lasting:
            kind, topic = rng.choice(self._work.kinds), f"lasting {rng.randrange(LASTING)}"
            fate = "fail always" if topic.endswith("0") else rng.choice(("none", "fail", "fail late"))
            topic += f" {kind}"
        args = {"topic": topic, "fate": fate, "seconds": rng.choice(TWIN_SECONDS)}
        return {
            **job,
            "kind": kind,
            "args": args,
            **self._place(topic),
            "delay": f"{rng.uniform(0, TOPIC_SECONDS):.3f} seconds",
            "max_retries": 2 if fate in POISON else 1000,
            # With "keep" the arguments may differ: the key decides.
            "dedup_key": topic,
            "on_duplicate": rng.choice(("keep", "keep", "soonest", "replace")),
        }

    def _place(self, topic: str) -> dict[str, Any]:
        """Return the queue and the group of all jobs of a topic; some have no group."""
        number = zlib.crc32(topic.encode())
        queue = self._work.queues[number % len(self._work.queues)]
        key = self._work.keys[number // 100 % len(self._work.keys)]
        return {"queue": queue, "group_key": None if queue == "default" else key}

    def _note(self, conn: psycopg.Connection[Any], job: Mapping[str, Any], number: int, created: bool) -> int:
        row = conn.execute(
            "INSERT INTO torture.ledger (kind, topic, fate, job, created) VALUES (%s, %s, %s, %s, %s) RETURNING n",
            [job["kind"], job["args"]["topic"], job["args"]["fate"], number, created],
        ).fetchone()
        assert row is not None
        return int(row[0])
