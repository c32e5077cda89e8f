"""The jobs that a command is about, by state, queue, kind and age."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import click

from pgq.cli.completion import complete_kinds, complete_queues
from pgq.cli.values import interval
from pgq.convert import Interval


@dataclass(frozen=True)
class Filter:
    """The jobs that a command is about: those that match all that is not None."""

    state: str | None
    queue: str | None
    kind: str | None
    older_than: Interval | None

    def __bool__(self) -> bool:
        return self != Filter(None, None, None, None)


def filters(states: click.Choice[str], age: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator for the options of a Filter, which the command gets as ``match``."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def filtered(
            *arguments: Any,
            state: str | None,
            queue_: str | None,
            kind: str | None,
            older_than: Interval | None,
            **options: Any,
        ) -> Any:
            return command(*arguments, match=Filter(state, queue_, kind, older_than), **options)

        for option in (
            click.option("--older-than", type=interval, metavar="DURATION", help=f"Only jobs that {age} longer ago."),
            click.option("--kind", shell_complete=complete_kinds, help="Only jobs of this kind."),
            click.option("--queue", "queue_", shell_complete=complete_queues, help="Only jobs of this queue."),
            click.option("--state", type=states, help="Only jobs in this state."),
        ):
            filtered = option(filtered)
        return filtered

    return decorate
