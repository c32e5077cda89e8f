"""The registry of handlers: which function runs the jobs of a kind, with which options, and how it is called."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from pgq.async_job import AsyncJob
from pgq.convert import Default
from pgq.errors import ArgumentsMismatch
from pgq.job import ClaimedJob, Job
from pgq.schedule import CatchUp, Overlap, Schedule, schedule_of

F = TypeVar("F", bound=Callable[..., Any])
A = TypeVar("A", bound="Around | AsyncAround")
Exceptions = tuple[type[BaseException], ...]
# Calling such a function runs nothing of its body.
GENERATORS = (inspect.isgeneratorfunction, inspect.isasyncgenfunction)
# Names of parameters that the worker fills, never the arguments of a job.
RESERVED = frozenset({"job", "conn"})
NO_DEFAULTS: Mapping[str, Any] = MappingProxyType({})


class Around(Protocol):
    """A hook around each execution: it calls ``proceed`` and returns the result. For a batch, ``job`` is a list."""

    def __call__(self, job: Job | list[Job], proceed: Callable[[], Any], /) -> Any: ...


class AsyncAround(Protocol):
    """The same for async handlers: an async function, which awaits ``proceed()``."""

    def __call__(self, job: AsyncJob | list[AsyncJob], proceed: Callable[[], Awaitable[Any]], /) -> Awaitable[Any]: ...


@dataclass(frozen=True)
class Handler:
    """A function with its options; ``defaults`` are the arguments of enqueue for jobs of its kind."""

    kind: str
    function: Callable[..., Any]
    transaction: bool = False
    batch: int | None = None
    timeout: float | None = None
    lease: timedelta | None = None
    interrupt_on_cancel: bool = True
    retry_on: Exceptions | None = None
    cancel_on: Exceptions = ()
    defaults: Mapping[str, Any] | None = None
    parameters: Parameters | None = None
    schedule: Schedule | None = None
    is_async: bool = False

    def call(self, job: ClaimedJob | list[Job] | list[AsyncJob], *connection: Any) -> Any:
        """
        Call the function with the job or jobs, or with the job's arguments by keyword; that of an async handler returns
        a coroutine. Raises ArgumentsMismatch.
        """
        if self.parameters is None or isinstance(job, list):
            return self.function(job, *connection)
        return self.function(**self.parameters.bind(job, *connection))


@dataclass(frozen=True)
class Parameters:
    """The parameters of a function that takes the arguments of a job by keyword."""

    allowed: frozenset[str]
    required: frozenset[str]
    any_keyword: bool
    connection: bool

    def bind(self, job: ClaimedJob, *connection: Any) -> dict[str, Any]:
        """
        Return the keyword arguments for a job.

        Raises ArgumentsMismatch, whose message holds keys but no values: it goes to the log.
        """
        args = job.args
        if not isinstance(args, dict):
            raise ArgumentsMismatch(f"the arguments of job {job.id} are not an object: they have no keywords")
        unknown = set() if self.any_keyword else args.keys() - self.allowed
        unknown |= args.keys() & RESERVED
        missing = self.required - args.keys()
        if unknown or missing:
            parts = [("unknown", unknown), ("missing", missing)]
            text = "; ".join(f"{what}: {', '.join(sorted(names))}" for what, names in parts if names)
            raise ArgumentsMismatch(f"the arguments of job {job.id} do not match its handler ({text})")
        return {**args, "job": job, **({"conn": connection[0]} if self.connection else {})}


class Handlers:
    """Handlers by kind. A payload can choose only among the functions that code has registered."""

    def __init__(self) -> None:
        self._by_kind: dict[str, Handler] = {}
        self._around: Around | None = None
        self._async_around: AsyncAround | None = None
        self._json_default: Default | None = None

    def handler(
        self,
        kind: str,
        *,
        transaction: bool = False,
        batch: int | None = None,
        timeout: float | timedelta | None = None,
        lease: timedelta | None = None,
        interrupt_on_cancel: bool = True,
        retry_on: type[BaseException] | Exceptions | None = None,
        cancel_on: type[BaseException] | Exceptions = (),
        queue: str | None = None,
        max_retries: int | None = None,
        backoff: timedelta | None = None,
        group_key: str | Callable[[Any], str | None] | None = None,
        schedule: str | None = None,
        timezone: str | None = None,
        catch_up: CatchUp | None = None,
        overlap: Overlap | None = None,
        jitter: timedelta | None = None,
    ) -> Callable[[F], F]:
        """
        Register the decorated function for jobs of this kind.

        A plain handler is called as ``f(job)``, at least once for each job. With ``transaction=True`` it is called as
        ``f(job, conn)`` inside a transaction that also completes the job: its writes through that connection take
        effect exactly once. A function with a keyword-only parameter ``job`` takes the arguments of the job, an object,
        by keyword: ``def send(to, subject, *, job)``, in a transaction ``def send(to, subject, *, job, conn)``. A
        return value other than None is kept as the result of the job, as JSON; one that cannot be stored is left out,
        and a note says why.

        An async function is called in the same ways, on the event loop of the worker, with an AsyncJob, and with a
        psycopg.AsyncConnection for its transaction.

        With ``batch=n`` a plain handler is called as ``f(jobs)`` with a list of up to n jobs. It returns None when all
        are done, or a mapping from ids to results (None: no result) and exceptions; a job that the mapping leaves out
        has failed. A transactional handler is called for each job, in one transaction for up to n of them, each under a
        savepoint; an async one has no batch then.

        ``timeout``, in seconds, interrupts the handler: TimedOut is raised in it, and an async one is cancelled.
        ``lease``, where it is longer, takes the place of the worker's own: another worker may take the job this long
        after the last extension.

        When an operator cancels the job, Cancelled is raised in the handler in the same way; in a batch handler, when
        all jobs of its list are to be cancelled. With ``interrupt_on_cancel=False`` the handler is left alone; it may
        ask ``job.cancelled``.

        ``retry_on``: only these exceptions lead to another attempt, after any other the job is dead. ``cancel_on``:
        these end the job as cancelled. ``queue``, ``max_retries``, ``backoff`` and ``group_key`` are defaults for jobs
        of this kind that are enqueued in a process where the handler is registered. ``group_key`` is a key, or a
        function that is called with the arguments of each job and returns one, or None for a job without a group.

        ``schedule``, a cron expression, declares a schedule that is named like the kind, with jobs without arguments;
        ``pgq schedule sync`` and ``pgq worker --schedules`` make it. ``timezone``, ``catch_up``, ``overlap`` and
        ``jitter`` are those of pgq_schedule.

        Raises ValueError if the kind is taken or an option makes no sense, TypeError if the function cannot be called
        like this.
        """
        if not isinstance(kind, str):
            raise TypeError(f"the first argument of @handler is the kind of its jobs, not a {type(kind).__name__}")
        seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        if seconds is not None and seconds <= 0:
            raise ValueError(f"a timeout of {seconds} seconds leaves no time")
        if batch is not None and batch < 1:
            raise ValueError(f"a batch of {batch} has no jobs")
        if batch is not None and transaction and seconds is not None:
            raise ValueError("a transactional batch takes no timeout, which would also undo the jobs that are done")
        declared = schedule_of(schedule, timezone, catch_up, overlap, jitter)
        enqueue = {"queue": queue, "max_retries": max_retries, "backoff": backoff, "group_key": group_key}

        def register(function: F) -> F:
            is_async = inspect.iscoroutinefunction(function)
            if is_async and transaction and batch is not None:
                raise ValueError("an async handler with transaction=True takes no batch: each job has its transaction")
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
                interrupt_on_cancel=interrupt_on_cancel,
                retry_on=None if retry_on is None else _classes("retry_on", retry_on),
                cancel_on=_classes("cancel_on", cancel_on),
                defaults={name: value for name, value in enqueue.items() if value is not None},
                parameters=_parameters(function, transaction, listed=batch is not None and not transaction),
                schedule=declared,
                is_async=is_async,
            )
            return function

        return register

    def around(self, hook: A) -> A:
        """
        Register a hook around each execution, for tracing, error reports or a locale: one for plain handlers, and one
        that is an async function for async handlers.

        It is called as ``hook(job, proceed)``, in the transaction of a transactional handler, and as ``await hook(job,
        proceed)`` for an async one, where it awaits ``proceed()``. An exception that it raises counts as the handler's.
        Raises ValueError if there is such a hook.
        """
        attribute = "_async_around" if inspect.iscoroutinefunction(hook) else "_around"
        if getattr(self, attribute) is not None:
            raise ValueError("there is a hook already; let one hook call the other")
        setattr(self, attribute, hook)
        return hook

    def json_default(self, hook: Default) -> Default:
        """
        Register the one hook for values that are not in JSON, in arguments and in results; as ``default`` of
        json.dumps.

        It is called as ``hook(value)``, and returns what is encoded instead. It is asked before the conversions that
        are built in (datetime, date, time, Decimal, UUID, Enum, dataclasses), and raises TypeError for what it leaves
        to them. Raises ValueError if there is a hook.
        """
        if self._json_default is not None:
            raise ValueError("there is a hook already; let one hook call the other")
        self._json_default = hook
        return hook

    @property
    def has_hook(self) -> bool:
        """Whether there is a hook around each execution."""
        return self._around is not None

    @property
    def json_hook(self) -> Default | None:
        """The hook for values that are not in JSON, or None."""
        return self._json_default

    def get(self, kind: str) -> Handler | None:
        """Return the handler of a kind, or None."""
        return self._by_kind.get(kind)

    def defaults(self, job: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the defaults of its handler for a job that is to be enqueued; NO_DEFAULTS without any."""
        kind = job.get("kind")
        handler = self._by_kind.get(kind) if isinstance(kind, str) else None
        defaults = (handler and handler.defaults) or NO_DEFAULTS
        group_key = defaults.get("group_key")
        if callable(group_key) and job.get("group_key") is None:
            return {**defaults, "group_key": group_key(job.get("args", {}))}
        return defaults

    def check_hooks(self) -> None:
        """Raise ValueError if there is a hook around the handlers of one sort only, and there are others."""
        sorts = {handler.is_async for handler in self._by_kind.values()}
        if self._around is not None and self._async_around is None and True in sorts:
            raise ValueError("the hook is not async: it is not called for async handlers, which need one of their own")
        if self._around is None and self._async_around is not None and False in sorts:
            raise ValueError("the hook is async: it is not called for plain handlers, which need one of their own")

    def execute(self, handler: Handler, job: Job | list[Job], *connection: Any) -> Any:
        """Call a handler, with the hook around it."""
        if self._around is None:
            return handler.call(job, *connection)
        return self._around(job, lambda: handler.call(job, *connection))

    async def execute_async(self, handler: Handler, job: AsyncJob | list[AsyncJob], *connection: Any) -> Any:
        """Call an async handler, with the hook around it."""
        if self._async_around is None:
            return await handler.call(job, *connection)
        return await self._async_around(job, lambda: handler.call(job, *connection))

    @property
    def kinds(self) -> list[str]:
        """The registered kinds, sorted."""
        return sorted(self._by_kind)

    @property
    def schedules(self) -> dict[str, Schedule]:
        """The schedules that handlers declare, by kind."""
        return {kind: one.schedule for kind, one in self._by_kind.items() if one.schedule is not None}

    @property
    def any_transaction(self) -> bool:
        """Whether a handler has a transaction."""
        return any(handler.transaction for handler in self._by_kind.values())

    @property
    def all_async(self) -> bool:
        """Whether there are handlers, and all of them are async."""
        return bool(self._by_kind) and all(handler.is_async for handler in self._by_kind.values())

    @property
    def largest_batch(self) -> int:
        """The largest batch that a handler takes."""
        return max((handler.batch or 1 for handler in self._by_kind.values()), default=1)


def _classes(name: str, given: type[BaseException] | Exceptions) -> Exceptions:
    """Return exception classes as a tuple. Raises TypeError now, not when the first exception is compared with them."""
    classes = given if isinstance(given, tuple) else (given,)
    for one in classes:
        if not (isinstance(one, type) and issubclass(one, BaseException)):
            raise TypeError(f"{name} takes an exception class or a tuple of them, not {one!r}")
    return classes


def _parameters(function: Callable[..., Any], transaction: bool, listed: bool) -> Parameters | None:
    """
    Return how to pass the arguments of a job by keyword, or None for a function that takes the job or jobs themselves.

    Raises TypeError for a function that can be called in neither way.
    """
    if any(is_generator(function) for is_generator in GENERATORS):
        raise TypeError("a handler is a function or an async function, and no generator")
    try:
        signature = inspect.signature(function)
    except ValueError:
        # A function in C without a signature.
        return None
    job = signature.parameters.get("job")
    if listed or job is None or job.kind is not job.KEYWORD_ONLY:
        _check_positional(signature, ["jobs" if listed else "job", *(["conn"] if transaction else [])])
        return None
    return _by_keyword(signature, transaction)


def _check_positional(signature: inspect.Signature, names: list[str]) -> None:
    """Raise TypeError unless a function with this signature can be called with these positional arguments."""
    try:
        signature.bind(*names)
    except TypeError as error:
        raise TypeError(
            f"a handler is called as f({', '.join(names)}), unless it has a keyword-only job: {error}"
        ) from error


def _by_keyword(signature: inspect.Signature, transaction: bool) -> Parameters:
    """Return the parameters of a function with a keyword-only job. Raises TypeError."""
    parameters = signature.parameters.values()
    if any(p.kind is p.POSITIONAL_ONLY and p.default is p.empty for p in parameters):
        raise TypeError("a handler whose arguments are bound by keyword can have no positional-only parameter")
    if "conn" in signature.parameters and not transaction:
        raise TypeError("only a handler with transaction=True is given a connection")
    named = [p for p in parameters if p.kind in {p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY} and p.name not in RESERVED]
    return Parameters(
        allowed=frozenset(p.name for p in named),
        required=frozenset(p.name for p in named if p.default is p.empty),
        any_keyword=any(p.kind is p.VAR_KEYWORD for p in parameters),
        connection="conn" in signature.parameters,
    )


# @pgq.handler registers here; pgq worker runs these.
default = Handlers()
handler = default.handler
around = default.around
json_default = default.json_default
