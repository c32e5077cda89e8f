"""What the pages let do: each action has a page that says what it is about to touch, and does it when that is sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import psycopg
from starlette.responses import RedirectResponse, Response

from pgq.errors import Error
from pgq.queue import Queue
from pgq.web.chosen import chosen, numbers
from pgq.web.database import PATIENCE
from pgq.web.site import Ask, Page

LIMITS: Final = ("max_running", "max_per_group", "rate", "per", "burst", "rate_per_group")
PAUSES: Final = {"": None, "5 minutes": 5, "1 hour": 60, "1 day": 1440}


@dataclass(frozen=True)
class Action:
    """``confirmation`` is the page of what would be done, ``result`` does it."""

    confirmation: Page
    result: Page


@contextmanager
def acting(ask: Ask) -> Iterator[Queue]:
    """Call the queue, each call in a transaction of its own that ends after two seconds."""
    try:
        with ask.database.connection() as conn:
            yield Limited(conn, schema=ask.database.schema)
    finally:
        ask.site.histories.of(ask.database).forget()


class Limited(Queue):
    """A queue whose calls end after two seconds, also behind a pooler, which keeps no setting of a session."""

    def _rows(self, query: str, params: Sequence[Any]) -> list[tuple[Any, ...]]:
        with self.conn.transaction():
            self.conn.execute(f"SET LOCAL statement_timeout = {round(PATIENCE * 1000)}")
            return super()._rows(query, params)


def confirm(
    ask: Ask, name: str, title: str, words: str, *, fields: Mapping[str, str], back: str, **more: Any
) -> Response:
    """Return the page that asks whether to do it."""
    values = {"sample": [], "count": None, "may_be_more": False, "changes": [], "is_grave": False} | more
    return ask.page("confirm.html", name=name, title=title, words=words, fields=fields, back=back, now=None, **values)


def ask_for_jobs(name: str, verb: str, states: tuple[str, ...], note: str) -> Page:
    """Return the confirmation of an action on jobs in one of these states."""

    def confirmation(ask: Ask) -> Response:
        with ask.reading() as reader:
            found = chosen(reader, ask, states)
        count = f"{len(found.ids):,} job{'' if len(found.ids) == 1 else 's'}"
        return confirm(
            ask, name, f"{verb} {count}?", note, fields={"ids": ",".join(map(str, found.ids))}, back=back_of(ask),
            sample=found.sample, count=len(found.ids), may_be_more=found.may_be_more, is_grave=name == "purge",
        )  # fmt: skip

    return confirmation


def for_each_job(call: Callable[[Queue, int], str]) -> Page:
    """Return the result of an action that makes a call for each job, and tells what becomes of them."""

    def result(ask: Ask) -> Response:
        outcomes: Counter[str] = Counter()
        refusals: list[str] = []
        ids = numbers(ask.form.get("ids"))
        with acting(ask) as queue:
            for job_id in ids:
                try:
                    outcomes[call(queue, job_id)] += 1
                except (Error, psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled) as error:
                    outcomes["refused"] += 1
                    refusals.append(reason(error))
        if len(ids) == 1 and not refusals:
            return RedirectResponse(ask.link(f"/jobs/{ids[0]}"), 303)
        return told(ask, outcomes, refusals)

    return result


def reason(error: Exception) -> str:
    """Return the message of an error that has no payload in it."""
    return (error.diag.message_primary or "") if isinstance(error, psycopg.Error) else str(error)


def told(ask: Ask, outcomes: Mapping[str, int], refusals: Sequence[str]) -> Response:
    """Return the page of what has become of some jobs."""
    return ask.page("done.html", outcomes=outcomes, refusals=refusals[:10], back=ask.link("/jobs"), now=None)


def back_of(ask: Ask) -> str:
    """Return the page that an action on jobs came from: that of the only job, or the list."""
    ids = numbers(ask.get("ids"))
    if len(ids) == 1:
        return ask.link(f"/jobs/{ids[0]}")
    return ask.link("/dead" if "error" in ask.request.query_params else "/jobs")


def discarded(ask: Ask) -> Response:
    """Delete jobs that have ended."""
    ids = numbers(ask.form.get("ids"))
    with acting(ask) as queue:
        purged = queue.purge_jobs(ids)
    return told(ask, Counter({"discarded": purged, "not there any more": len(ids) - purged}), [])


def on_queue(name: str, verb: str, note: str, call: Callable[[Queue, Ask, str], object]) -> Action:
    """Return the action on a queue."""

    def confirmation(ask: Ask) -> Response:
        queue = required(ask.get("queue"))
        fields = {"queue": queue, "for": ask.get("for") or ""}
        return confirm(
            ask,
            name,
            f"{verb} the queue “{queue}”?",
            note,
            fields=fields,
            back=ask.link("/queues"),
            **jobs_of(ask, queue),
        )

    def result(ask: Ask) -> Response:
        with acting(ask) as queue:
            call(queue, ask, required(ask.form.get("queue")))
        return RedirectResponse(ask.link("/queues"), 303)

    return Action(confirmation, result)


def jobs_of(ask: Ask, queue: str) -> dict[str, Any]:
    """Return how many jobs a queue has, for its confirmation."""
    kinds = [kind for kind in ask.site.histories.of(ask.database).snapshot().kinds if kind.queue == queue]
    about = "about " if any(kind.estimated for kind in kinds) else ""
    waiting, running = sum(kind.waiting for kind in kinds), sum(kind.running for kind in kinds)
    return {"changes": [f"{about}{waiting:,} waiting jobs", f"{running:,} running jobs"]}


def pause(queue: Queue, ask: Ask, name: str) -> None:
    """Pause a queue for the time that was chosen."""
    minutes = PAUSES.get(ask.form.get("for", ""))
    queue.pause(name, None if minutes is None else datetime.now(UTC) + timedelta(minutes=minutes))


def limits_confirmation(ask: Ask) -> Response:
    """Ask whether to change the limits of a queue."""
    name = required(ask.get("queue"))
    fields = {"queue": name} | {key: ask.get(key) or "" for key in LIMITS}
    changes = [f"{key} {value or 'none'}" for key, value in fields.items() if key in LIMITS]
    jobs = jobs_of(ask, name)["changes"]
    note = "Running jobs go on, also when there are more than the new limits allow. The limits will be:"
    return confirm(
        ask, "limits", f"Change the limits of “{name}”?", note, fields=fields, back=ask.link("/queues"),
        changes=[*changes, *jobs],
    )  # fmt: skip


def limits_result(ask: Ask) -> Response:
    """Change the limits of a queue."""
    with acting(ask) as queue:
        queue.configure(required(ask.form.get("queue")), {key: setting(ask.form.get(key, "")) for key in LIMITS})
    return RedirectResponse(ask.link("/queues/settings", queue=ask.form["queue"]), 303)


def setting(value: str) -> int | str | None:
    """Return what a field of the form sets: a number, an interval as PostgreSQL reads it, or None where it is empty."""
    value = value.strip()
    return int(value) if value.isascii() and value.isdigit() and len(value) < 10 else value or None


def on_schedule(name: str, verb: str, note: str, call: Callable[[Queue, str], object]) -> Action:
    """Return the action on a schedule."""

    def confirmation(ask: Ask) -> Response:
        schedule = required(ask.get("name"))
        return confirm(
            ask,
            name,
            f"{verb} the schedule “{schedule}”?",
            note,
            fields={"name": schedule},
            back=ask.link("/schedules"),
        )

    def result(ask: Ask) -> Response:
        with acting(ask) as queue:
            call(queue, required(ask.form.get("name")))
        return RedirectResponse(ask.link("/schedules"), 303)

    return Action(confirmation, result)


def required(value: str | None) -> str:
    """Return a value that the form must have. Raises Error without."""
    if not value:
        raise Error("the form lacks a value", hint="Go back to the list, and begin again.")
    return value


def retried(queue: Queue, job_id: int) -> str:
    """Put a job back to waiting."""
    return {"retry": "put back to waiting", "merged": "merged into a waiting twin"}[queue.retry(job_id)]


def cancelled(queue: Queue, job_id: int) -> str:
    """Cancel a job."""
    return {"cancelled": "cancelled", "requested": "to be cancelled by their workers"}[queue.cancel(job_id)]


RETRY_NOTE: Final = "They wait again, with their attempts counted from the start; their errors are kept."
CANCEL_NOTE: Final = (
    "Waiting jobs end at once. A running job ends when its worker gives it up. Cancelled jobs can be retried."
)
DISCARD_NOTE: Final = "They are deleted, with their errors. Nothing brings them back."
PAUSE_NOTE: Final = "No job of it is claimed. Running jobs go on, and jobs are enqueued as before."
ACTIONS: Final[Mapping[str, Action]] = {
    "retry": Action(ask_for_jobs("retry", "Retry", ("dead", "cancelled"), RETRY_NOTE), for_each_job(retried)),
    "cancel": Action(
        ask_for_jobs("cancel", "Cancel", ("waiting", "blocked", "running"), CANCEL_NOTE), for_each_job(cancelled)
    ),
    "purge": Action(ask_for_jobs("purge", "Discard", ("dead", "cancelled", "done"), DISCARD_NOTE), discarded),
    "pause": on_queue("pause", "Pause", PAUSE_NOTE, pause),
    "resume": on_queue("resume", "Resume", "Its jobs are claimed again.", lambda queue, ask, name: queue.resume(name)),
    "limits": Action(limits_confirmation, limits_result),
    "run": on_schedule("run", "Run", "It enqueues one job now.", lambda queue, name: queue.run_schedule(name)),
    "hold": on_schedule(
        "hold", "Pause", "It enqueues nothing until it is resumed.", lambda queue, name: queue.pause_schedule(name)
    ),
    "go": on_schedule(
        "go", "Resume", "It goes on with its next slot.", lambda queue, name: queue.resume_schedule(name)
    ),
}
