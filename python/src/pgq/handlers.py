"""Which function does which kind of job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Handler:
    """A function and how to call it: with the job, and if ``transaction`` is set, with a connection as well."""

    function: Callable[..., Any]
    transaction: bool


class Handlers:
    """A registry of handlers by kind. A payload can only ever choose among what was registered in code."""

    def __init__(self) -> None:
        self._by_kind: dict[str, Handler] = {}

    def handler(self, kind: str, *, transaction: bool = False) -> Callable[[F], F]:
        """
        Register the decorated function for jobs of this kind; raises ValueError if the kind is taken.

        A plain handler is called as ``f(job)``, at least once for each job. With ``transaction=True`` it is called as
        ``f(job, connection)`` inside a transaction that completes the job as well: its writes through that connection
        take effect exactly once. What a handler returns, unless None, is kept as the result of the job, as JSON.
        """

        def register(function: F) -> F:
            taken = self._by_kind.get(kind)
            if taken is not None:
                raise ValueError(f'kind "{kind}" has a handler already: {taken.function.__qualname__}')
            self._by_kind[kind] = Handler(function, transaction)
            return function

        return register

    def get(self, kind: str) -> Handler | None:
        """The handler of a kind, or None."""
        return self._by_kind.get(kind)

    @property
    def kinds(self) -> list[str]:
        """The registered kinds, sorted."""
        return sorted(self._by_kind)


# What @pgq.handler fills and "pgq worker" runs.
default = Handlers()
handler = default.handler
