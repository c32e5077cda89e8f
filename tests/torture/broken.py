"""Builds that are broken on purpose, each with the faults that expose it: the run must catch them."""

from __future__ import annotations

from typing import Protocol

from torture.faults import FaultPlan
from torture.producers import Work
from torture.run import Plan

SECONDS = 20.0
THREADS = 3 * (("--concurrency", "2"),)
# Longer than the lease: when a frozen worker continues, another one has its job.
FREEZES = FaultPlan(every=0.7, weights={"freeze": 1}, freeze=(1.2, 2.5))


class Build(Protocol):
    """A function that returns the plan of a run that exposes a broken build."""

    def __call__(self, seed: int) -> Plan: ...


# A worker that has lost a job can end the claim of its successor.
NO_TOKENS = (
    ("_pgq_take", "\n          AND r.token = _pgq_take.token", ""),
    ("pgq_hold", "\n      AND r.token = pgq_hold.token", ""),
    ("pgq_complete", "\n          AND r.token = pgq_complete.token", ""),
    ("_pgq_complete_held", "\n              AND r.token = given.token", ""),
    ("pgq_claim_batch", "\n          AND r.token = done_tokens[1]", ""),
)
# Completion is a DELETE by id, as in a simple queue.
NO_REFUSAL = (
    ("pgq_hold", "\n            PERFORM _pgq_raise_lease_lost(id, token);", ""),
    ("pgq_complete", "v_job := _pgq_take(id, token);", "DELETE FROM pgq_running AS r WHERE r.id = pgq_complete.id;"),
)


def without_tokens(seed: int) -> Plan:
    """
    A build in which any worker can end a job by its id.

    Transactional handlers still take effect once, because the row of the running job can be deleted only once. But an
    attempt can be ended while it runs, and the next one then runs beside it.
    """
    work = Work(kinds=("plain",), fates={"none": 1, "fail": 1}, seconds=(0.05, 0.4), pause=0.05)
    return _plan(seed, work, "was ended by", patches=NO_TOKENS)


def without_refusal(seed: int) -> Plan:
    """A build that completes a job without any check: a worker that comes too late gets no error."""
    work = Work(kinds=("own",), fates={"none": 1}, seconds=(0.05, 0.4), pause=0.05)
    return _plan(seed, work, "effects", patches=NO_TOKENS + NO_REFUSAL)


def with_separate_completion(seed: int) -> Plan:
    """A build that commits the writes of a transactional handler first, and then completes its job by id."""
    # More jobs than the workers can do, so that each always holds one that is not completed.
    work = Work(kinds=("transaction",), fates={"none": 1}, seconds=(0.1,), pause=0.02)
    return _plan(seed, work, "effects", patches=NO_TOKENS, modules=("torture.separate_completion",))


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
        workers=THREADS,
        work=work,
        faults=FREEZES,
        patches=patches,
        modules=modules,
        symptom=symptom,
    )
