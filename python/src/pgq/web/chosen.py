"""Which jobs an action is about: those that are named, or those that match, of which it finds up to a thousand."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

from pgq.views import FIRST_LINE
from pgq.web.database import Reader
from pgq.web.site import Ask

# Jobs that one confirmation touches. More of them take another one.
MOST: Final = 1000
# Seconds in which those that match are looked for.
PATIENCE: Final = 1.0
SHOWN: Final = 10


@dataclass(frozen=True)
class Chosen:
    """The jobs, the newest first, some of them to be shown, and whether there may be more that match."""

    ids: list[int]
    sample: list[dict[str, Any]]
    may_be_more: bool


def numbers(text: str | None) -> list[int]:
    """Return the numbers in a text with commas, up to a thousand; anything else in it counts for nothing."""
    parts = (part.strip() for part in (text or "").split(","))
    return [int(part) for part in parts if part.isascii() and part.isdigit() and len(part) < 19][:MOST]


def chosen(reader: Reader, ask: Ask, states: tuple[str, ...]) -> Chosen:
    """Return the jobs that the query of a confirmation names, as far as they are in one of these states."""
    if ask.get("ids") is not None:
        ids, more = numbers(ask.get("ids")), False
    else:
        ids, more = matching(reader, ask, states)
    rows = reader.rows(
        "SELECT id, kind, queue, state FROM {p}pgq_jobs WHERE id = ANY (%(ids)s::bigint[]) ORDER BY id DESC",
        {"ids": ids},
    )
    rows = [row for row in rows if row["state"] in states]
    return Chosen([row["id"] for row in rows], rows[:SHOWN], more)


def matching(reader: Reader, ask: Ask, states: tuple[str, ...]) -> tuple[list[int], bool]:
    """Return the numbers of the newest jobs that match the filters, and whether there may be more."""
    state = ask.get("state")
    # A cause is that of dead jobs, and taken as it is. An empty one stands for jobs without an error, and for all of a
    # sensitive queue.
    has_cause = "error" in ask.request.query_params
    cause = ask.request.query_params.get("error") or None
    wanted = ["dead"] if has_cause else [state] if state is not None else list(states)
    ids: list[int] = []
    more = False
    end = monotonic() + PATIENCE
    for one in (each for each in wanted if each in states):
        before = None
        while len(ids) < MOST:
            row = reader.row(
                "SELECT ids, next_before FROM {p}pgq_find_jobs(%(state)s::text, %(queue)s::text, %(kind)s::text, "
                "%(search)s::text, %(before)s::bigint, 1000)",
                {
                    "state": one, "queue": ask.get("queue"), "kind": ask.get("kind"), "search": ask.get("search"),
                    "before": before,
                },
            )  # fmt: skip
            assert row is not None
            ids += died_of(reader, row["ids"], cause) if has_cause else row["ids"]
            before = row["next_before"]
            if before is None:
                break
            if monotonic() > end:
                more = True
                break
    ids.sort(reverse=True)
    return ids[:MOST], more or len(ids) >= MOST


def died_of(reader: Reader, ids: list[int], cause: str | None) -> list[int]:
    """Return those of these jobs whose newest error begins with this line; None: that have none."""
    rows = reader.rows(
        f"SELECT id FROM {{p}}pgq_jobs WHERE id = ANY (%(ids)s::bigint[]) "
        f"AND CASE WHEN NOT sensitive THEN {FIRST_LINE} END IS NOT DISTINCT FROM %(cause)s::text ORDER BY id DESC",
        {"ids": ids, "cause": cause},
    )
    return [row["id"] for row in rows]
