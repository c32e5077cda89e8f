"""
Builds that are broken on purpose, each with the weather in which it shows: what the run is worth is what it catches.
"""

from __future__ import annotations

from typing import Protocol

from torture.chaos import Weather
from torture.producers import Work
from torture.run import Plan

SECONDS = 20.0
THREADS = 3 * (("--concurrency", "2"),)
# Longer than the lease: another worker has the job when its first one wakes up.
FREEZES = Weather(every=0.7, acts={"freeze": 1}, freeze=(1.2, 2.5))


class Build(Protocol):
    """The plan of a run that shows how a build is broken."""

    def __call__(self, seed: int) -> Plan: ...


# Whoever has lost a job ends the claim of its successor.
NO_TOKENS = (
    ("_pgq_take", "\n      AND r.token = _pgq_take.token", ""),
    ("pgq_hold", "\n      AND r.token = pgq_hold.token", ""),
    ("pgq_complete_many", "\n              AND r.token = given.token", ""),
)
# As of a queue whose completion is a DELETE by id, and nothing else.
NO_REFUSAL = (
    ("pgq_hold", "\n    IF NOT FOUND THEN\n        PERFORM _pgq_raise_lease_lost(id, token);\n    END IF;", ""),
    ("pgq_complete", "v_job := _pgq_take(id, token);", "DELETE FROM pgq_running AS r WHERE r.id = pgq_complete.id;"),
)


def without_tokens(seed: int) -> Plan:
    """
    A build in which a job is ended by whoever names its id.

    The effects of transactional handlers still come once, because the row of the running job can be deleted only once
    with them; but attempts end that go on, and are made again beside them.
    """
    work = Work(kinds=("plain",), fates={"none": 1, "fail": 1}, seconds=(0.05, 0.4), pause=0.05)
    return _plan(seed, work, "was ended by", patches=NO_TOKENS)


def without_refusal(seed: int) -> Plan:
    """A build in which nothing is asked at all when a job is completed: who comes late is not told."""
    work = Work(kinds=("own",), fates={"none": 1}, seconds=(0.05, 0.4), pause=0.05)
    return _plan(seed, work, "effects", patches=NO_TOKENS + NO_REFUSAL)


def with_completion_apart(seed: int) -> Plan:
    """A build that commits what a transactional handler has written, and completes its job afterwards, by its id."""
    # More than the workers can do, so that none of them is ever without something that it has not completed.
    work = Work(kinds=("transaction",), fates={"none": 1}, seconds=(0.1,), pause=0.02)
    return _plan(seed, work, "effects", patches=NO_TOKENS, modules=("torture.apart",))


def _plan(
    seed: int,
    work: Work,
    symptom: str,
    patches: tuple[tuple[str, str, str], ...],
    modules: tuple[str, ...] = (),
) -> Plan:
    return Plan(
        SECONDS,
        seed,
        restarts=0,
        lease=1.0,
        fleet=THREADS,
        work=work,
        weather=FREEZES,
        patches=patches,
        modules=modules,
        symptom=symptom,
    )
