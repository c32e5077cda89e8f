"""Builds that are broken on purpose, each with the faults that expose it: the run must catch them."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from torture.faults import FaultPlan
from torture.producers import Work
from torture.run import Plan

SECONDS = 20.0
PLAIN = ("default",)
THREADS = 3 * (("--concurrency", "2"),)
# Longer than the lease: when a frozen worker continues, another one has its job.
FREEZES = FaultPlan(every=0.7, weights={"freeze": 1}, freeze=(1.2, 2.5))
KILLS = FaultPlan(every=0.5, weights={"kill": 1})
CUTS = FaultPlan(every=0.2, weights={"cut": 1})
FEW_KILLS = replace(KILLS, every=4.0)
FLOWS = Work(kinds=("plain",), fates={"none": 1}, seconds=(0.005,), pause=0.2, queues=PLAIN, flows=12)


class Build(Protocol):
    """A function that returns the plan of a run that exposes a broken build."""

    def __call__(self, seed: int) -> Plan: ...


# A worker that has lost a job can end the claim of its successor.
NO_TOKENS = (
    ("_pgq_take", "\n          AND r.token = _pgq_take.token", ""),
    ("pgq_hold", "\n      AND r.token = pgq_hold.token", ""),
    ("pgq_complete", "\n          AND r.token = pgq_complete.token", ""),
    ("_pgq_complete_held", "\n          AND r.token = given.token", ""),
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
    work = Work(kinds=("plain",), fates={"none": 1, "fail": 1}, seconds=(0.05, 0.4), pause=0.05, queues=PLAIN)
    return _plan(seed, work, "was ended by", patches=NO_TOKENS)


def without_refusal(seed: int) -> Plan:
    """A build that completes a job without any check: a worker that comes too late gets no error."""
    work = Work(kinds=("own",), fates={"none": 1}, seconds=(0.05, 0.4), pause=0.05, queues=PLAIN)
    return _plan(seed, work, "effects", patches=NO_TOKENS + NO_REFUSAL)


def with_separate_completion(seed: int) -> Plan:
    """A build that commits the writes of a transactional handler first, and then completes its job by id."""
    # More jobs than the workers can do, so that each always holds one that is not completed.
    work = Work(kinds=("transaction",), fates={"none": 1}, seconds=(0.1,), pause=0.02, queues=PLAIN)
    return _plan(seed, work, "effects", patches=NO_TOKENS, modules=("torture.separate_completion",))


def with_late_steps(seed: int) -> Plan:
    """A build in which a worker that has lost a job goes on to save its steps, beside those of its successor."""
    work = Work(kinds=("steps",), fates={"none": 1}, seconds=(0.05, 0.4), pause=0.05, queues=PLAIN)
    return _plan(seed, work, "of flow", patches=(("pgq_save", "    PERFORM pgq_hold(id, token);\n", ""),))


def with_steps_saved_apart(seed: int) -> Plan:
    """A build that saves a step in another transaction than its write, before it."""
    work = Work(kinds=("steps",), fates={"none": 1}, seconds=(0.05,), pause=0.02, queues=PLAIN)
    return _plan(seed, work, "without step", (), ("torture.steps_saved_apart",), KILLS)


def with_flows_committed_first(seed: int) -> Plan:
    """A build that commits what a step of a flow has written before its record."""
    return _plan(seed, FLOWS, "of flow", (), ("torture.flows_committed_first",), CUTS)


def without_a_second_look_for_signals(seed: int) -> Plan:
    """A build in which a signal that is committed after its job has begun to wait wakes nothing."""
    patches = (("_pgq_settle_signals", "        WHERE s.unseen\n", "        WHERE false\n"),)
    return _plan(seed, FLOWS, "sleeps on", patches, faults=FEW_KILLS)


def without_all_prerequisites(seed: int) -> Plan:
    """A build that unblocks a job when the first of its prerequisites has ended."""
    last = "AND (SELECT true FROM pgq_need AS n WHERE n.job = j.id ORDER BY n.needs DESC LIMIT 1) IS NULL"
    return _plan(seed, FLOWS, "before flows", (("_pgq_settle_needs", last, ""),), faults=FEW_KILLS)


def without_the_lock_of_the_queue(seed: int) -> Plan:
    """A build in which claims from a queue with limits run side by side."""
    return _plan(seed, _short("limited"), "limit: ", (("_pgq_lock_queue", "FOR UPDATE SKIP LOCKED", ""),), faults=KILLS)


def with_the_count_before_the_lock(seed: int) -> Plan:
    """A build in which a claim counts what runs, and then waits for the queue."""
    count = "    v_caps := _pgq_caps(queue, v_setting, v_turn.oldest, at);\n"
    lock = "        v_setting := _pgq_lock_queue(queue, waits);\n"
    patches = (
        ("_pgq_lock_in_turn", count, ""),
        ("_pgq_lock_in_turn", lock, f"        v_turn := _pgq_turn(queue);\n{count}{lock}"),
    )
    return _plan(seed, _short("limited"), "limit: ", patches, faults=KILLS)


def without_the_lock_of_the_order(seed: int) -> Plan:
    """A build in which a producer draws ids while claims look for the first job of a group."""
    lock = "PERFORM pg_advisory_xact_lock_shared("
    patches = tuple((function, lock, "PERFORM (") for function in ("_pgq_enter_group", "_pgq_enter_groups"))
    # A producer is overtaken where no earlier job of its group waits.
    work = replace(_short("ordered"), pause=0.15, keys=tuple("abcd"), later=0)
    return _plan(seed, work, "order: ", patches, faults=FEW_KILLS)


def without_the_notes_of_the_rate(seed: int) -> Plan:
    """A build in which a claim does not note what has started."""
    patches = (("_pgq_lock_in_turns", "num_nonnulls(s.rate, s.rate_per_group) > 0", "false"),)
    return _plan(seed, _short("rated"), "rate: ", patches, faults=KILLS)


def _short(queue: str) -> Work:
    return Work(kinds=("plain",), fates={"none": 1}, seconds=(0.005, 0.02), pause=0.02, queues=(queue,))


def _plan(
    seed: int,
    work: Work,
    symptom: str,
    patches: tuple[tuple[str, str, str], ...],
    modules: tuple[str, ...] = (),
    faults: FaultPlan = FREEZES,
) -> Plan:
    return Plan(
        SECONDS,
        seed,
        restarts=0,
        lease=1.0,
        workers=THREADS,
        work=work,
        faults=faults,
        patches=patches,
        modules=modules,
        symptom=symptom,
    )
