"""Which function does which kind of job, and how it wants to be called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, TypeVar

from pgq.errors import ArgumentsMismatch
from pgq.job import Job

F = TypeVar("F", bound=Callable[..., Any])
Exceptions = tuple[type[BaseException], ...]


class Around(Protocol):
    """A hook around each execution: call ``proceed`` and return its answer. A batch handler's jobs come as a list."""

    def __call__(self, job: Job | list[Job], proceed: Callable[[], Any], /) -> Any: ...


@dataclass(frozen=True)
class Handler:
    """A function, and the options beside it; ``defaults`` are for who enqueues jobs of its kind."""

    kind: str
    function: Callable[..., Any]
    transaction: bool = False
    batch: int | None = None
    timeout: float | None = None
    lease: timedelta | None = None
    retry_on: Exceptions | None = None
    cancel_on: Exceptions = ()
    defaults: Mapping[str, Any] | None = None
    parameters: Parameters | None = None

    def call(self, job: Job | list[Job], *connection: Any) -> Any:
        """Call the function as it wants to be called. Raises ArgumentsMismatch."""
        if self.parameters is None or isinstance(job, list):
            return self.function(job, *connection)
        return self.function(**self.parameters.bind(job, *connection))


@dataclass(frozen=True)
class Parameters:
    """The parameters of a function that takes the arguments of its jobs by keyword."""

    allowed: frozenset[str]
    required: frozenset[str]
    any_keyword: bool
    connection: bool

    def bind(self, job: Job, *connection: Any) -> dict[str, Any]:
        """The keywords for a job. Raises ArgumentsMismatch, which names keys and no values."""
        args = job.args
        if not isinstance(args, dict):
            raise ArgumentsMismatch(f"the arguments of job {job.id} are no object, so they cannot be bound by keyword")
        unknown = set() if self.any_keyword else args.keys() - self.allowed
        unknown |= args.keys() & {"job", "conn"}
        missing = self.required - args.keys()
        if unknown or missing:
            parts = [("unknown", unknown), ("missing", missing)]
            text = "; ".join(f"{what}: {', '.join(sorted(names))}" for what, names in parts if names)
            raise ArgumentsMismatch(f"the arguments of job {job.id} do not match its handler ({text})")
        return {**args, "job": job, **({"conn": connection[0]} if self.connection else {})}


class Handlers:
    """A registry of handlers by kind. A payload can only ever choose among what was registered in code."""

    def __init__(self) -> None:
        self._by_kind: dict[str, Handler] = {}
        self._around: Around | None = None

    def handler(
        self,
        kind: str,
        *,
        transaction: bool = False,
        batch: int | None = None,
        timeout: float | timedelta | None = None,
        lease: timedelta | None = None,
        retry_on: type[BaseException] | Exceptions | None = None,
        cancel_on: type[BaseException] | Exceptions = (),
        queue: str | None = None,
        max_retries: int | None = None,
        backoff: timedelta | None = None,
    ) -> Callable[[F], F]:
        """
        Register the decorated function for jobs of this kind.

        A plain handler is called as ``f(job)``, at least once for each job. With ``transaction=True`` it is called as
        ``f(job, conn)`` inside a transaction that completes the job as well: its writes through that connection take
        effect exactly once. A function with a keyword-only parameter ``job`` takes the arguments of the job, an object,
        by keyword: ``def send(to, subject, *, job)``, in a transaction ``def send(to, subject, *, job, conn)``. What a
        handler returns, unless None, is kept as the result of the job, as JSON.

        With ``batch=n`` a plain handler is called as ``f(jobs)`` with a list of up to n jobs. It returns None when all
        are done, or a mapping from ids to results (None: none to keep) and exceptions; a job that is left out has
        failed. A transactional one is called for each job, in one transaction for up to n of them, each under a
        savepoint.

        ``timeout``, in seconds, interrupts the handler by raising TimedOut in it. ``lease`` is how long after its
        worker's last sign of life others take the job, if that is longer than with the worker's other jobs.
        ``retry_on``: only after these exceptions there is another attempt, any other buries the job; ``cancel_on``:
        after these the job is discarded. ``queue``, ``max_retries`` and ``backoff`` are defaults for who enqueues jobs
        of this kind in a process that has registered it.

        Raises ValueError if the kind is taken or an option makes no sense, TypeError if the function cannot be called
        in this way.
        """
        if not isinstance(kind, str):
            raise TypeError(f"@handler takes the kind of its jobs first, and not a {type(kind).__name__}")
        seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        if seconds is not None and seconds <= 0:
            raise ValueError(f"a timeout of {seconds} seconds leaves no time")
        if batch is not None and batch < 1:
            raise ValueError(f"a batch of {batch} has no jobs")
        if batch is not None and transaction and seconds is not None:
            raise ValueError("a transactional batch has no timeout: it would undo what the jobs before have done")
        enqueue = {"queue": queue, "max_retries": max_retries, "backoff": backoff}

        def register(function: F) -> F:
            taken = self._by_kind.get(kind)
            if taken is not None:
                raise ValueError(f'kind "{kind}" has a handler already: {taken.function.__qualname__}')
            self._by_kind[kind] = Handler(
                kind=kind,
                function=function,
                transaction=transaction,
                batch=batch,
                timeout=seconds,
                lease=lease,
                retry_on=None if retry_on is None else _classes("retry_on", retry_on),
                cancel_on=_classes("cancel_on", cancel_on),
                defaults={name: value for name, value in enqueue.items() if value is not None},
                parameters=_parameters(function, transaction, listed=batch is not None and not transaction),
            )
            return function

        return register

    def around(self, hook: Around) -> Around:
        """
        Register the one hook around each execution, for tracing, error reports or a locale.

        It is called as ``hook(job, proceed)``, in the transaction of a transactional handler, and what it raises counts
        as raised by the handler. Raises ValueError if there is a hook.
        """
        if self._around is not None:
            raise ValueError("there is a hook already; call the other from within one")
        self._around = hook
        return hook

    def get(self, kind: str) -> Handler | None:
        """The handler of a kind, or None."""
        return self._by_kind.get(kind)

    def defaults(self, kind: Any) -> Mapping[str, Any]:
        """What whoever enqueues a job of this kind need not say."""
        handler = self._by_kind.get(kind) if isinstance(kind, str) else None
        return (handler and handler.defaults) or {}

    def execute(self, handler: Handler, job: Job | list[Job], *connection: Any) -> Any:
        """Call a handler, with the hook around it."""
        if self._around is None:
            return handler.call(job, *connection)
        return self._around(job, lambda: handler.call(job, *connection))

    @property
    def kinds(self) -> list[str]:
        """The registered kinds, sorted."""
        return sorted(self._by_kind)

    @property
    def largest_batch(self) -> int:
        """As many jobs as a batch handler would like to have."""
        return max((handler.batch or 1 for handler in self._by_kind.values()), default=1)


def _classes(name: str, given: type[BaseException] | Exceptions) -> Exceptions:
    """Classes of exceptions as a tuple. Raises TypeError, rather than when one is to be recognised."""
    classes = given if isinstance(given, tuple) else (given,)
    for one in classes:
        if not (isinstance(one, type) and issubclass(one, BaseException)):
            raise TypeError(f"{name} is a class of exceptions or a tuple of them, and not {one!r}")
    return classes


def _parameters(function: Callable[..., Any], transaction: bool, listed: bool) -> Parameters | None:
    """How to bind arguments by keyword, or None for a function that takes the job itself. Raises TypeError."""
    if (
        inspect.iscoroutinefunction(function)
        or inspect.isgeneratorfunction(function)
        or inspect.isasyncgenfunction(function)
    ):
        raise TypeError("a handler is a function that does its work when it is called, neither async nor a generator")
    try:
        signature = inspect.signature(function)
    except ValueError:
        # Written in C, without a description of itself.
        return None
    named = {p.name: p for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY}
    if "job" not in named or listed:
        positional = ["jobs" if listed else "job", *(["conn"] if transaction else [])]
        try:
            signature.bind(*positional)
        except TypeError as error:
            raise TypeError(
                f"a handler is called as f({', '.join(positional)}), unless it has a keyword-only job: {error}"
            ) from error
        return None
    by_keyword = [
        p
        for p in signature.parameters.values()
        if p.kind in {p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY} and p.name not in {"job", "conn"}
    ]
    if any(p.kind is p.POSITIONAL_ONLY and p.default is p.empty for p in signature.parameters.values()):
        raise TypeError("a handler whose arguments are bound by keyword can have no positional-only parameter")
    if "conn" in signature.parameters and not transaction:
        raise TypeError("only a handler with transaction=True is given a connection")
    return Parameters(
        allowed=frozenset(p.name for p in by_keyword),
        required=frozenset(p.name for p in by_keyword if p.default is p.empty),
        any_keyword=any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()),
        connection="conn" in signature.parameters,
    )


# What @pgq.handler fills and "pgq worker" runs.
default = Handlers()
handler = default.handler
around = default.around
