"""The event loop of a worker's async handlers, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from pathlib import Path
from selectors import DefaultSelector
from time import monotonic
from typing import Any, Final, ParamSpec, TypeVar
from weakref import WeakSet

from pgq.process import logs
from pgq.process.logs import logger

P = ParamSpec("P")
T = TypeVar("T")

# Threads for what waits for the server on behalf of handlers, and is short: the begin and the end of a transaction,
# a step, a longer lease.
THREADS: Final = 8
# Seconds for which a handler may keep the event loop from the others before the worker says so, and between two lines.
BLOCKED_AFTER: Final = 1.0
SAY_AGAIN: Final = 10.0
# Seconds between two looks whether the loop goes round.
ASK_EVERY: Final = 0.25
# Seconds that a stop gives to the tasks that handlers have left behind.
LEFT_WITHIN: Final = 3.0


class Selector(DefaultSelector):
    """What the event loop waits with. A child that a handler has forked ends here, and does not go on as a worker."""

    def __init__(self) -> None:
        super().__init__()
        self._pid = os.getpid()

    def select(self, timeout: float | None = None) -> Any:
        """Wait, as the event loop does after each round."""
        if os.getpid() != self._pid:
            os._exit(1)
        return super().select(timeout)


class EventLoop:
    """
    An event loop in a thread, which begins with the first call.

    A handler may stop the loop, or raise SystemExit in a task of its own: the loop then goes on. When it has come to an
    end all the same, ``died`` is called, and the next call begins another one.
    """

    def __init__(self, died: Callable[[], None]) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._died = died
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._closing = False
        # When the loop was asked for a sign that it has not given yet; and when it is asked next, and warned of next.
        self._asked_at: float | None = None
        self._ask_at = self._say_at = 0.0

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Call a function on the loop, soon. Safe in any thread."""
        with self._lock:
            if self._thread is None:
                self._begin()
            loop = self.loop
        assert loop is not None
        loop.call_soon_threadsafe(function, *args)

    async def in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Return what a function returns, which waits for the server, called in another thread.

        A task that is cancelled meanwhile waits for it all the same: what it uses is free afterwards.
        """
        call = partial(copy_context().run, partial(function, *args, **kwargs))
        future = asyncio.get_running_loop().run_in_executor(self._threads, call)
        cancelled: asyncio.CancelledError | None = None
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            future.exception()
            raise cancelled
        return future.result()

    def blocked_for(self) -> float:
        """Return for how many seconds no task but one has run."""
        asked_at = self._asked_at
        return 0.0 if asked_at is None else monotonic() - asked_at

    def watch(self, name: Callable[[asyncio.Task[Any] | None], str]) -> None:
        """
        Warn when a handler keeps the loop from the others. Call it every few milliseconds while handlers run.

        ``name`` returns the name of the job that a task belongs to.
        """
        now = monotonic()
        loop = self.loop
        if loop is None or now < self._ask_at:
            return
        if self._asked_at is None:
            self._asked_at, self._ask_at = now, now + ASK_EVERY
            try:
                loop.call_soon_threadsafe(self._answer)
            except RuntimeError:
                self._asked_at = None
        elif self.blocked_for() >= BLOCKED_AFTER and now >= self._say_at:
            self._say_at = now + SAY_AGAIN
            place, task = self._place(), asyncio.current_task(loop)
            logger.warning(
                "%s has kept all other async handlers waiting for %.1f s%s", name(task), self.blocked_for(), place
            )

    def close(self) -> None:
        """Cancel the tasks that handlers have left behind, and end the thread; wait three seconds for that."""
        with self._lock:
            thread, loop, self._closing = self._thread, self.loop, True
        if thread is not None and loop is not None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._cancel_all)
            thread.join(LEFT_WITHIN + 1)
            if thread.is_alive():
                logger.warning("the event loop is still blocked%s", self._place())
        if self._threads is not None:
            self._threads.shutdown(wait=False)

    def _begin(self) -> None:
        self.loop = asyncio.SelectorEventLoop(Selector())
        _loops.add(self.loop)
        self._threads = ThreadPoolExecutor(THREADS, "pgq-async")
        self._asked_at = None
        self._thread = threading.Thread(
            target=logs.continued(self._run), args=[self.loop], name="pgq-event-loop", daemon=True
        )
        self._thread.start()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        pid = os.getpid()
        while not self._closing and not loop.is_closed():
            try:
                loop.run_forever()
                error = None
            except BaseException as raised:
                error = raised
            if os.getpid() != pid:
                os._exit(1)
            if not self._closing:
                cause = "stop()" if error is None else type(error).__name__
                then = "another one begins" if loop.is_closed() else "it goes on"
                logger.warning("an async handler has stopped the event loop, by %s; %s", cause, then)
        with self._lock:
            self._thread = None
        if self._closing and not loop.is_closed():
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
        else:
            self._died()

    def _answer(self) -> None:
        self._asked_at = None

    def _cancel_all(self) -> None:
        """Cancel all tasks, and stop the loop when they have ended, or the time is over."""
        assert self.loop is not None
        loop, left = self.loop, asyncio.all_tasks(self.loop)

        def end(task: asyncio.Task[Any]) -> None:
            left.discard(task)
            if not left:
                loop.stop()

        loop.call_later(LEFT_WITHIN, loop.stop)
        for task in left.copy():
            task.add_done_callback(end)
            task.cancel()
        if not left:
            loop.stop()

    def _place(self) -> str:
        """Return where the thread is."""
        thread = self._thread
        frame = None if thread is None else sys._current_frames().get(thread.ident or 0)
        if frame is None:
            return ""
        return f", in {frame.f_code.co_name} ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})"


_loops: WeakSet[asyncio.AbstractEventLoop] = WeakSet()


def _in_child() -> None:
    """Forget what the loops would run next: in a child it would run a second time."""
    for loop in list(_loops):
        getattr(loop, "_ready", []).clear()


os.register_at_fork(after_in_child=_in_child)
