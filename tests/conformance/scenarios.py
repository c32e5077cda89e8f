"""The scenarios: plain lives, handlers that fail, payloads, stops. Those of faults are in faults.py."""

from __future__ import annotations

import contextlib
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from support.database import one

from conformance.stage import LEASE, QUEUE, Missed, Stage

MANY = 30
# A job that takes so long needs its lease extended twice.
BEYOND = 2.3 * LEASE
# More than eight, from which on jobs of a claim may be packed.
IN_A_BATCH = 12
# Of what the handler of a cancelled job would take.
CANCELLED_WITHIN = 4.0
WAKES = 7
WOKEN_WITHIN = 0.3
TEXT: Final = "a\tb\nc \\n \"d\" 'e' $1 :n %s ${HOME} `id` é 日本 🦑 \u2028 \u0001"
# The server returns each as it is; not every language can decode it, or keep it exact.
ODD: Final[tuple[str, ...]] = (
    '{"n": 1, "value": 123456789012345678901234567890.123456789}',
    '{"n": 1, "value": 9007199254740993}',
    '{"n": 1, "value": 1' + "0" * 400 + "}",
    '{"n": 1, "value": ' + "[" * 2000 + "]" * 2000 + "}",
    '{"n": 1, "value": {"": {"": ""}, "__proto__": {"n": 2}, "constructor": null}}',
    '{"n": 1, "value": "' + "x" * 900_000 + '"}',
    '{"n": 12345678901234567890}',
    '{"n": "one"}',
    "{}",
    "[]",
    "null",
    "5",
    '"text"',
)


@dataclass(frozen=True)
class Scenario:
    """What a scenario is called, and whether the protocol requires or recommends that a worker passes it."""

    name: str
    is_required: bool
    play: Callable[[Stage], None]


def has_text(errors: list[dict[str, Any]], text: str) -> bool:
    """Return whether each of the errors of a job tells this text."""
    return all(text in (error["error"] or "") for error in errors)


def plain(stage: Stage) -> None:
    """Jobs are run, one after the other."""
    stage.start()
    for n in range(5):
        stage.enqueue("write", {"n": n})
        stage.wait_over_at_once()


def many(stage: Stage) -> None:
    """Whatever the worker takes in one claim, each job of it is done once."""
    for n in range(MANY):
        stage.enqueue("write", {"n": n})
    stage.start()
    stage.wait_over_at_once()


def duplicate(stage: Stage) -> None:
    """Two enqueues of the same job are one job as long as it waits."""
    args = json.dumps({"n": 1, "value": TEXT})
    first, second = stage.produce("write", args), stage.produce("write", args)
    if first != second:
        raise Missed(f"the producer enqueued jobs {first} and {second}, not one job")
    stage.start()
    stage.wait_over()
    if stage.produce("write", args) == first:
        raise Missed(f"the producer printed the id of job {first}, which is done")
    stage.wait_over()


def text(stage: Stage) -> None:
    """A text comes to the handler and back as it was enqueued."""
    job = stage.enqueue("write", {"n": 1, "value": TEXT})
    stage.start()
    stage.wait_over()
    if (value := one(stage.conn, "SELECT value #>> '{}' FROM conformance_effect WHERE job = %s", job)) != TEXT:
        raise Missed(f"{TEXT!r} was written as {value!r}")


def odd(stage: Stage) -> None:
    """A payload that the handler cannot decode fails its job; it does not end or block the worker."""
    query = "SELECT id FROM pgq_enqueue('conformance.write', %s::jsonb, %s, max_retries => 0)"
    stage.jobs += [one(stage.conn, query, payload, QUEUE) for payload in ODD]
    worker = stage.start()
    stage.wait_over()
    stage.wait_over(stage.enqueue("write", {"n": 2}))
    if worker.starts > 1:
        raise Missed(f"the worker ended {worker.starts - 1} times")
    for job, payload in zip(stage.jobs, ODD, strict=False):
        if "lease" in str(stage.look(job)["errors"]):
            raise Missed(f"the job with {payload[:60]} has lost its lease")


def poison(stage: Stage) -> None:
    """A job whose handler always fails is tried max_retries + 1 times, and is dead; others go on."""
    job = stage.enqueue("fail", {"message": "no such wine"}, max_retries=2, backoff="0")
    stage.start()
    stage.wait_over(stage.enqueue("write", {"n": 1}))
    stage.wait_over()
    seen = stage.look(job)
    if (seen["state"], seen["attempt"], len(seen["errors"])) != ("dead", 3, 3):
        raise Missed(f"the job is {seen['state']} after {seen['attempt']} attempts, with {len(seen['errors'])} errors")
    told = has_text(seen["errors"], "no such wine")
    stage.advise("errors kept", kept=told, why="the errors of the job do not have the message of the handler")


def unknown(stage: Stage) -> None:
    """A job whose kind the worker does not know is never done; others go on."""
    job = stage.enqueue("unheard_of", {"n": 1})
    stage.may_stay.add(job)
    stage.start()
    stage.wait_over(stage.enqueue("write", {"n": 1}))
    stage.wait("the job of an unknown kind is let go", lambda: stage.state(job) != "running")
    seen = stage.look(job)
    declined = seen["state"] == "waiting" and seen["attempt"] == 0 and "declined" in str(seen["errors"])
    stage.advise("decline", kept=declined, why=f"the job is {seen['state']}, with attempt {seen['attempt']}")


def snooze(stage: Stage) -> None:
    """A handler puts its job back, and the attempt does not count."""
    job = stage.enqueue("snooze", {"n": 1, "until": int(time.time()) + 2})
    stage.start()
    stage.wait_over()
    if (attempt := stage.look(job)["attempt"]) != 1:
        raise Missed(f"the job needed {attempt} attempts")


def slow(stage: Stage) -> None:
    """The lease of a job is extended as long as its handler runs."""
    stage.enqueue("slow", {"n": 1, "seconds": BEYOND})
    stage.start()
    stage.wait_over_at_once()


def backlog(stage: Stage) -> None:
    """A worker takes no more jobs than it runs within their lease, or extends the leases of all of them."""
    for n in range(8):
        stage.enqueue("slow", {"n": n, "seconds": BEYOND / 8})
    stage.start()
    stage.wait_over_at_once()


def batch(stage: Stage) -> None:
    """
    Jobs that one claim may take end one by one, whatever becomes of the others.

    The queue keeps nothing of jobs that are done, so the server packs those that pgq_claim_batch takes together.
    """
    stage.keep_nothing()
    for n in range(IN_A_BATCH):
        stage.enqueue("write", {"n": n})
    failing = stage.enqueue("fail", {"message": "corked"}, max_retries=0)
    slow = stage.enqueue("slow", {"n": IN_A_BATCH, "seconds": BEYOND})
    cancelled = stage.enqueue("write", {"n": IN_A_BATCH + 1})
    stage.start()
    stage.wait_running(slow)
    # A worker that runs several jobs at a time may have done it already.
    with contextlib.suppress(psycopg.DatabaseError):
        stage.conn.execute("SELECT pgq_cancel(%s)", [cancelled])
    # The job that is cancelled may not have been claimed.
    claims = "SELECT coalesce(sum(claimed), 0)::integer FROM pgq_counters WHERE queue = %s"

    def over() -> bool:
        if (times := one(stage.conn, claims, QUEUE)) > len(stage.jobs):
            raise Missed(f"{len(stage.jobs)} jobs were claimed {times} times: a lease was lost")
        return not stage.unended(*stage.jobs)

    stage.wait("all jobs are over", over)
    if (state := stage.state(failing)) != "dead":
        raise Missed(f"the job that fails is {state}")


def cancel(stage: Stage) -> None:
    """The job is cancelled, or done if the worker does not hear of it; others go on."""
    job = stage.enqueue("slow", {"n": 1, "seconds": 4 * CANCELLED_WITHIN})
    stage.start()
    stage.wait_running(job)
    outcome = one(stage.conn, "SELECT pgq_cancel(%s)", job)
    if outcome != "requested":
        raise Missed(f"pgq_cancel returned {outcome}")
    began = time.monotonic()
    stage.wait_over(job)
    took = time.monotonic() - began
    stage.wait_over(stage.enqueue("write", {"n": 2}))
    state = stage.state(job)
    in_time = state == "cancelled" and took < CANCELLED_WITHIN
    stage.advise("cancel at once", kept=in_time, why=f"the job was {state} after {took:.0f} s")


def limited(stage: Stage) -> None:
    """Two workers share a queue that runs two jobs at a time."""
    stage.conn.execute("SELECT pgq_configure(%s, '{\"max_running\": 2}')", [QUEUE])
    for n in range(8):
        stage.enqueue("slow", {"n": n, "seconds": 0.3})
    stage.start()
    stage.start()
    most = 0

    def over() -> bool:
        nonlocal most
        most = max(most, one(stage.conn, "SELECT count(*) FROM pgq_jobs WHERE state = 'running'"))
        return bool(one(stage.conn, "SELECT count(*) = 8 FROM pgq_jobs WHERE state = 'done'"))

    stage.wait("all jobs are done", over)
    if most > 2:
        raise Missed(f"{most} jobs ran at a time")
    stage.wait_over_at_once()


def stop_idle(stage: Stage) -> None:
    """SIGTERM ends a worker that waits for jobs."""
    worker = stage.start()
    stage.wait_over(stage.enqueue("write", {"n": 1}))
    code = stage.stop(worker)
    stage.advise("exit code 0, idle", kept=code == 0, why=f"the exit code is {code}")


def stop_busy(stage: Stage) -> None:
    """SIGTERM ends a worker that runs a job; whatever it has not done, another one does."""
    jobs = [stage.enqueue("slow", {"n": n, "seconds": 1.5}) for n in range(4)]
    worker = stage.start()
    stage.wait_running(jobs[0])
    code = stage.stop(worker)
    held = [job for job in jobs if stage.state(job) == "running"]
    stage.advise("hold nothing after a stop", kept=not held, why=f"the worker has left {len(held)} jobs running")
    stage.advise("exit code 0, busy", kept=code == 0, why=f"the exit code is {code}")
    stage.expire()
    stage.start()
    stage.wait_over()


def wake_up(stage: Stage) -> None:
    """An idle worker begins a job at once, not when it looks the next time."""
    stage.start()
    stage.wait_over(stage.enqueue("write", {"n": 0}))
    waits = []
    for n in range(1, WAKES + 1):
        # Long enough to fall asleep, and at another moment of the second each time.
        time.sleep(1 + n / WAKES)
        began = time.monotonic()
        stage.wait_over(stage.enqueue("write", {"n": n}))
        waits.append(time.monotonic() - began)
    if (median := statistics.median(waits)) > WOKEN_WITHIN:
        raise Missed(f"half of the jobs were done after {median:.2f} s or later")


def presence(stage: Stage) -> None:
    """The worker is registered, so operators see it, and its jobs are rescued as soon as it is gone."""
    job = stage.enqueue("slow", {"n": 1, "seconds": 1})
    stage.start()
    stage.wait_running(job)
    query = (
        "SELECT count(*) FROM pgq_jobs AS j JOIN pgq_workers AS w ON w.name = j.worker WHERE j.id = %s AND w.present"
    )
    present = one(stage.conn, query, job)
    stage.wait_over()
    if not present:
        raise Missed("pgq_workers does not show the worker of the job")


SCENARIOS: Final = (
    Scenario("plain job", True, plain),
    Scenario("many jobs at once", True, many),
    Scenario("duplicate", True, duplicate),
    Scenario("text", True, text),
    Scenario("odd payloads", True, odd),
    Scenario("poison", True, poison),
    Scenario("unknown kind", True, unknown),
    Scenario("snooze", False, snooze),
    Scenario("slow beyond its lease", True, slow),
    Scenario("backlog beyond its lease", True, backlog),
    Scenario("jobs of a batch", True, batch),
    Scenario("cancel of a running job", True, cancel),
    Scenario("limited queue", True, limited),
    Scenario("stop while idle", True, stop_idle),
    Scenario("stop while busy", True, stop_busy),
    Scenario("wake-up", False, wake_up),
    Scenario("presence", False, presence),
)
