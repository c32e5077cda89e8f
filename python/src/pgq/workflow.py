"""
What a job does in steps, over several attempts.

What a job has saved is a JSON object with ``state`` (what the handler saved), ``steps`` (the results of its steps, by
name) and ``progress``; other JSON, of another client, counts as ``state``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pgq.control import Snooze, WaitForSignal

if TYPE_CHECKING:
    from pgq.job import Enqueued, Job, Result
    from pgq.worker.calls import WorkerQueue

T = TypeVar("T")
KEYS: Final = {"state", "steps", "progress"}
# Seconds between two calls that write nothing but progress. A step in between writes the newest progress, too.
PROGRESS_EVERY: Final = 1.0
# How long a job that waits for others is put off: a tenth of the time for which it has waited, within these limits.
LOOK_AFTER: Final = timedelta(seconds=1)
LOOK_WITHIN: Final = timedelta(minutes=1)
MISSING: Final = object()


class Run:
    """The steps of one attempt."""

    def __init__(self, saved: Any) -> None:
        is_ours = isinstance(saved, dict) and saved.keys() <= KEYS and isinstance(saved.get("steps", {}), dict)
        self.saved: dict[str, Any] = dict(saved) if is_ours else {} if saved is None else {"state": saved}
        self.steps: dict[str, Any] = self.saved.setdefault("steps", {})
        self.used: set[str] = set()
        self.counts: dict[str, int] = {}
        # The name of the step that runs.
        self.current: str | None = None
        self.progress_at: float | None = None

    def use(self, name: str | None, kind: str) -> str:
        """
        Return the name of a step that begins; without a name it is the number of the call.

        Raises ValueError for a name that was used before, and RuntimeError within another step.
        """
        if self.current is not None:
            raise RuntimeError(f'step "{self.current}" still runs: a step has no steps of its own')
        if name is None:
            self.counts[kind] = self.counts.get(kind, 0) + 1
            name = f"{kind} {self.counts[kind]}"
        if not isinstance(name, str) or not 1 <= len(name.encode()) <= 200:
            raise ValueError(f"the name of a step is text of 1 to 200 bytes, not {name!r}")
        if name in self.used:
            raise ValueError(f'step "{name}" has been used before in this run: give each step a name of its own')
        self.used.add(name)
        return name

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        """Let no other step begin meanwhile."""
        self.current = name
        try:
            yield
        finally:
            self.current = None


class Steps:
    """The steps of a job, as its handler calls them. They raise RuntimeError outside a worker and in batch handlers."""

    __slots__ = ()

    @property
    def state(self) -> Any:
        """What the handler has saved last, in this attempt or an earlier one; None: nothing."""
        return self._run().saved.get("state")

    def save(self, state: Any) -> None:
        """
        Keep a value, as JSON, for the next attempts; ``state`` returns it.

        In a handler with ``transaction=True`` what it has written so far is committed with it.
        """
        run = self._run()
        if run.current is not None:
            raise RuntimeError(f'step "{run.current}" still runs: return the value, which is kept')
        self._record(lambda _: None, {"state": state})

    def progress(self, done: float, note: str = "") -> None:
        """
        Tell how much is done, from 0 to 1; ``pgq show`` and ``pgq_jobs`` show it.

        It is written at most once a second; in a handler with ``transaction=True``, or within a step, with the next
        step.
        """
        if not 0 <= done <= 1:
            raise ValueError(f"progress is from 0 to 1, not {done}")
        run = self._run()
        run.saved["progress"] = {"done": done, "note": note}
        due = run.progress_at is None or monotonic() - run.progress_at >= PROGRESS_EVERY
        if due and run.current is None and not self._require_steps().in_transaction():
            self._record(lambda _: None, {})
            run.progress_at = monotonic()

    def step(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """
        Return the result of a step: that of an earlier attempt, or else what the function returns, which is kept.

        The result comes as JSON gives it back. In a handler with ``transaction=True`` what the function has written is
        committed with it: exactly once. In others a step may run again if the worker is lost before its result is
        kept. Raises TypeError or ValueError for a result that is not JSON.
        """
        run = self._run()
        name = run.use(name, "step")
        if name in run.steps:
            return run.steps[name]
        self._check_steps()
        with run.running(name):
            result = function(*args, **kwargs)
        return self._keep(name, lambda _: result)

    @property
    def step_key(self) -> str:
        """A key for calls to the outside that is the same whenever this step is tried. Raises RuntimeError outside."""
        run = self._run()
        if run.current is None:
            raise RuntimeError("a key belongs to a step: ask for it in the function of the step")
        return f"{self._job.id}/{run.current}"

    def enqueue(self, kind: str, *args: Any, name: str | None = None, **options: Any) -> Enqueued:
        """
        Enqueue a job as ``Queue.enqueue`` does, as a step: a later attempt returns what the first one has enqueued.

        Without a ``name`` the step is the n-th enqueue of the handler. The role needs the privilege ``producer``.
        """
        from pgq.job import Enqueued  # noqa: PLC0415 - it imports this module

        run = self._run()
        name = run.use(name, "enqueue")
        kept = run.steps.get(name, MISSING)
        if kept is MISSING:
            kept = self._keep(name, lambda queue: list(queue.enqueue(kind, *args, **options)), writes=True)
        return Enqueued(*kept)

    def sleep(self, delay: timedelta, name: str | None = None) -> None:
        """
        Let the handler go on after a delay, in a new attempt that does not count; the worker is free meanwhile.

        In a handler with ``transaction=True`` what was written before is committed.
        """
        run = self._run()
        name = run.use(name, "sleep")
        until = run.steps.get(name, MISSING)
        if until is MISSING:
            until = self._keep(name, lambda _: (self._now() + delay).isoformat())
        if (wakes_at := datetime.fromisoformat(until)) > self._claimed_at():
            raise Snooze(until=wakes_at)

    def wait_for(self, job_ids: Iterable[int], name: str | None = None) -> list[Result]:
        """
        Return the results of jobs, in the order of the ids, once all have ended. The worker is free meanwhile.

        The job is put back, and looks again after a second, later after up to a minute. The role needs the privilege
        ``producer``. In a handler with ``transaction=True`` what was written before is committed.
        """
        run = self._run()
        name = run.use(name, "wait for")
        ids = list(job_ids)
        results = self._require_steps().look(lambda queue: queue.results(ids))
        if all(result.ended for result in results):
            return results
        since = run.steps.get(name, MISSING)
        if since is MISSING:
            since = self._keep(name, lambda _: self._now().isoformat())
        waited = self._now() - datetime.fromisoformat(since)
        raise Snooze(delay=max(LOOK_AFTER, min(LOOK_WITHIN, waited / 10)))

    def wait_signal(self, name: str, timeout: timedelta | None = None) -> Any:
        """
        Return the payload of a signal (see ``Queue.signal``) once the job has got it. The worker is free meanwhile.

        Raises TimeoutError if it has not come within the timeout, which begins with the first call; so do later
        attempts. In a handler with ``transaction=True`` what was written before is committed.
        """
        run = self._run()
        step = run.use(f"signal {name}", "signal")
        kept = run.steps.get(step, MISSING)
        if kept is MISSING:
            found = self._require_steps().look(lambda queue: queue.wait_signal(self._job, name, timedelta()))
            if found.outcome == "received":
                kept = self._keep(step, lambda _: {"payload": found.value})
            elif found.until is not None and found.until <= self._claimed_at():
                kept = self._keep(step, lambda _: {"timeout": True})
            else:
                # What was written until here stays.
                self._record(lambda _: None, {})
                raise WaitForSignal(name, timeout)
        if "timeout" in kept:
            raise TimeoutError(f'there was no signal "{name}" in time')
        return kept["payload"]

    @property
    def _job(self) -> Job:
        """This object; only Job has this base class."""
        return self  # type: ignore[return-value]

    def _run(self) -> Run:
        run = getattr(self._job, "_steps", None)
        if run is None:
            from pgq.job import decode  # noqa: PLC0415 - it imports this module

            saved = self._job.saved
            run = self._job._steps = Run(None if saved is None else decode(saved))
        return run

    def _require_steps(self) -> StepRuntime:
        runtime = self._job._claim.runtime
        if runtime is None:
            raise RuntimeError("a job has steps only while its handler runs in a worker")
        return runtime.steps(self._job)

    def _now(self) -> datetime:
        """The time by the database's clock, without asking: the worker's clock may be wrong, but not its seconds."""
        return self._claimed_at() + self._require_steps().since_claim()

    def _check_steps(self) -> None:
        """Raise RuntimeError where no step may begin."""
        self._require_steps().check_steps()

    def _claimed_at(self) -> datetime:
        """When the job was claimed, by the database's clock."""
        runtime = self._job._claim.runtime
        return self._job.lease_until - (timedelta() if runtime is None else runtime.lease)

    def _keep(self, name: str, function: Callable[[WorkerQueue], Any], *, writes: bool = False) -> Any:
        """Return the result of a function, as JSON gives it back, once it is kept as that of a step."""
        self._record(lambda queue: {name: function(queue)}, {}, writes=writes)
        return self._run().steps[name]

    def _record(
        self,
        function: Callable[[WorkerQueue], dict[str, Any] | None],
        others: dict[str, Any],
        *,
        writes: bool = False,
    ) -> None:
        """Add results of steps to what is saved, and commit, together with what a function has written that writes."""
        from pgq.job import decode  # noqa: PLC0415 - it imports this module

        run = self._run()

        def text(queue: WorkerQueue) -> str:
            steps = function(queue) or {}
            try:
                return queue.encode_saved({**run.saved, **others, "steps": {**run.steps, **steps}})
            except (TypeError, ValueError, RecursionError) as error:
                what = f'the result of step "{next(iter(steps))}"' if steps else "what is to be saved"
                # A class of the hook's own may take other arguments.
                kind = next(one for one in (TypeError, ValueError, RecursionError) if isinstance(error, one))
                raise kind(f"{what} is not JSON: {error}") from error

        run.saved = decode(self._require_steps().save(text, writes=writes))
        run.steps = run.saved["steps"]


class StepRuntime:
    """What a worker lends to a job for its steps."""

    def check_steps(self) -> None:
        """Raise RuntimeError where no step may begin."""
        raise NotImplementedError

    def in_transaction(self) -> bool:
        """Return whether the handler is in a transaction of the worker."""
        raise NotImplementedError

    def since_claim(self) -> timedelta:
        """Return how long ago the job was claimed."""
        raise NotImplementedError

    def look(self, function: Callable[[WorkerQueue], T]) -> T:
        """Call a function that executes one statement, which writes nothing."""
        raise NotImplementedError

    def save(self, text: Callable[[WorkerQueue], str], *, writes: bool) -> str:
        """
        Save the JSON text that a function returns, commit, and return the text.

        What a function that ``writes`` has written is committed with it, and in a handler with a transaction, what that
        has written.
        """
        raise NotImplementedError
