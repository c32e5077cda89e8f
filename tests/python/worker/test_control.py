"""Control exceptions: a handler snoozes, cancels or retries its job by raising one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

import pytest
from support.database import Connection
from support.modes import MODES, all_of, near, states, try_all, write

from pgq import Cancel, Handlers, Job, Queue, Retry, Snooze, WorkerQueue
from pgq.worker.loop import Loop

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
IN_A_DAY = datetime.now(UTC) + DAY


def raises(error: Callable[[], BaseException]) -> Callable[..., NoReturn]:
    """Return a handler that writes an effect if it has a connection, and raises this."""

    def work(job: Job, *conn: Connection) -> NoReturn:
        write(job, *conn)
        raise error()

    return work


@pytest.mark.happens("raises `Snooze`, `Cancel`, `Retry`")
def test_a_snoozed_job_is_ripe_later_and_loses_no_attempt(queue: WorkerQueue, loop: Loop, handlers: Handlers) -> None:
    """It has no error, and its writes are undone."""
    cases = {"until": raises(lambda: Snooze(until=IN_A_DAY)), "delay": raises(lambda: Snooze(delay=DAY))}
    jobs = try_all(queue, loop, handlers, cases)
    assert states(jobs) == all_of(cases, ("waiting", 0))
    for job in jobs.values():
        assert near(job["in"], DAY)
        assert (job["errors"], job["effects"]) == ([], 0)


@pytest.mark.happens("raises `Snooze`, `Cancel`, `Retry`")
def test_a_cancelled_job_keeps_the_reason(queue: WorkerQueue, loop: Loop, handlers: Handlers) -> None:
    """It is not tried again, and its writes are undone."""
    cases = {"short": raises(lambda: Cancel("no such\0 account")), "long": raises(lambda: Cancel("no " * 9_999_999))}
    jobs = try_all(queue, loop, handlers, cases)
    assert states(jobs) == all_of(cases, ("cancelled", 1))
    for kind, job in jobs.items():
        assert job["effects"] == 0
        assert [error["error"] for error in job["errors"]] == [
            "no such account" if kind.endswith("short") else ("no " * 4000)[:4000]
        ]


@pytest.mark.happens("raises `Snooze`, `Cancel`, `Retry`")
def test_a_handler_that_raises_retry_has_failed(queue: WorkerQueue, loop: Loop, handlers: Handlers) -> None:
    """The next attempt is at the given time, or after the backoff."""
    cases = {"later": raises(lambda: Retry(3 * DAY)), "backoff": raises(Retry)}
    jobs = try_all(queue, loop, handlers, cases)
    assert states(jobs) == all_of(cases, ("waiting", 1))
    for kind, job in jobs.items():
        assert near(job["in"], 3 * DAY if kind.endswith("later") else HOUR)
        assert job["errors"][0]["error"].startswith("pgq.Retry")
        assert job["effects"] == 0


def test_retry_does_not_add_an_attempt_to_the_last_one(queue: WorkerQueue, loop: Loop, handlers: Handlers) -> None:
    cases = {"later": raises(lambda: Retry(DAY))}
    assert states(try_all(queue, loop, handlers, cases, max_retries=0)) == all_of(cases, ("dead", 1))


def test_retry_on_and_cancel_on_decide_by_the_class_of_an_exception(
    queue: WorkerQueue, loop: Loop, handlers: Handlers
) -> None:
    """
    With retry_on, only its classes lead to another attempt; those of cancel_on cancel the job and have precedence. A
    control exception has precedence over both.
    """
    cases = {
        "to be retried": (raises(lambda: ConnectionResetError("said")), ("waiting", 1)),
        "neither": (raises(lambda: KeyError("said")), ("dead", 1)),
        "neither, and no Exception": (raises(lambda: SystemExit("said")), ("dead", 1)),
        "to be discarded": (raises(lambda: FileNotFoundError("said")), ("cancelled", 1)),
        "snoozed": (raises(lambda: Snooze(delay=DAY)), ("waiting", 0)),
        "again": (raises(lambda: Retry(DAY)), ("waiting", 1)),
    }
    functions = {case: function for case, (function, _) in cases.items()}
    classes = (FileNotFoundError, NotADirectoryError)
    jobs = try_all(queue, loop, handlers, functions, retry_on=OSError, cancel_on=classes)
    assert states(jobs) == {f"{mode}: {case}": state for mode in MODES for case, (_, state) in cases.items()}
    for job in jobs.values():
        assert job["effects"] == 0
        if job["errors"] and job["in"] < DAY / 2:
            assert "said" in job["errors"][0]["error"]


class Unlike(Retry):
    """A control exception whose attributes are missing."""

    def __init__(self) -> None:
        pass


class Shy(Exception):
    """An exception whose class cannot be read."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        raise RuntimeError("no class")


NONSENSE: dict[str, Callable[[], Any]] = {
    "a delay that is a number": lambda: Snooze(delay=5),  # type: ignore[arg-type]
    "a delay that is a text": lambda: Snooze(delay="5 minutes"),  # type: ignore[arg-type]
    "a delay into the past": lambda: Snooze(delay=-DAY),
    "a delay without an end": lambda: Snooze(delay=timedelta.max),
    "a time that is a text": lambda: Snooze(until="tomorrow"),  # type: ignore[arg-type]
    "a time without a zone": lambda: Snooze(until=datetime(2030, 1, 1)),
    "a time without an end": lambda: Snooze(until=datetime.max.replace(tzinfo=UTC)),
    "neither time nor delay": Snooze,
    "time and delay": lambda: Snooze(until=IN_A_DAY, delay=DAY),
    "a retry delay that is a number": lambda: Retry(5),  # type: ignore[arg-type]
    "a retry delay into the past": lambda: Retry(-DAY),
    "a reason that is a number": lambda: Cancel(404),  # type: ignore[arg-type]
    "a class without the attributes of its base": Unlike,
    "a class whose __class__ raises": Shy,
}


@pytest.mark.happens("raises `Snooze`, `Cancel`, `Retry`")
def test_an_invalid_control_exception_fails_its_job(queue: WorkerQueue, loop: Loop, handlers: Handlers) -> None:
    """The attempt counts, an error is kept, and the worker goes on."""
    cases = {case: raises(error) for case, error in NONSENSE.items()}
    jobs = try_all(queue, loop, handlers, cases)
    assert states(jobs) == all_of(cases, ("waiting", 1))
    assert [kind for kind, job in jobs.items() if not near(job["in"], HOUR)] == []
    assert [kind for kind, job in jobs.items() if len(job["errors"]) != 1 or job["effects"]] == []


def test_each_control_exception_is_a_line_in_the_log(
    queue: WorkerQueue, loop: Loop, handlers: Handlers, caplog: pytest.LogCaptureFixture
) -> None:
    """The line has the name of the class, not its text, and how long the job ran and waited."""
    cases = {
        "snoozed": raises(lambda: Snooze(delay=DAY)),
        "cancelled": raises(lambda: Cancel("s3cret")),
        "retry": raises(lambda: KeyError("s3cret")),
    }
    with caplog.at_level(logging.INFO, "pgq"):
        try_all(queue, loop, handlers, cases)
    said = {r.__dict__["kind"]: r for r in caplog.records if r.__dict__.get("kind") not in {None, "neighbour"}}
    assert {kind: r.__dict__["action"] for kind, r in said.items()} == {
        f"{m}: {case}": case for m in MODES for case in cases
    }
    for kind, record in said.items():
        cause = {"cancelled": "after Cancel in", "retry": "after KeyError in"}.get(kind.split(": ")[1], "")
        assert cause in record.message
        assert 0 <= record.__dict__["duration"] < 30
        assert 0 <= record.__dict__["wait"] < 30
    assert "s3cret" not in caplog.text


def test_a_control_exception_undoes_the_writes_of_its_job(queue: Queue, loop: Loop, handlers: Handlers) -> None:
    """The writes of other jobs of the same transactional batch stay."""
    queue.conn.execute("CREATE TABLE effect (job bigint)")

    @handlers.handler("k", transaction=True, batch=10)
    def work(job: Job, conn: Connection) -> None:
        write(job, conn)
        if job.args % 2:
            raise Snooze(delay=DAY)

    ids = [one.id for one in queue.enqueue_many({"kind": "k", "args": n} for n in range(5))]
    assert loop.turn() == 5
    assert [row[0] for row in queue.conn.execute("SELECT job FROM effect ORDER BY job")] == ids[::2]
