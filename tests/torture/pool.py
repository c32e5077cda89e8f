"""A pool of processes in each process of a worker, for handlers that compute."""

from __future__ import annotations

import os
import stat
import threading
import time
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor

# A process of the pool may be frozen.
COMPUTES_WITHIN = 5.0
# For so long a process of the pool outlives its worker: longer than the presence and the leases of that.
OUTLIVES = 6.0


class Pool:
    """One process, which is replaced when it was killed or frozen. Threads share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._executor: ProcessPoolExecutor | None = None

    def compute(self, exponent: int) -> int:
        """Return a power of two. Raises BrokenExecutor or TimeoutError when the process does not answer."""
        with self._lock:
            self._executor = executor = self._executor or ProcessPoolExecutor(1, initializer=_begin)
        try:
            return int(executor.submit(pow, 2, exponent).result(COMPUTES_WITHIN))
        except (BrokenExecutor, RuntimeError, TimeoutError):
            with self._lock:
                if self._executor is executor:
                    self._executor = None
            executor.shutdown(wait=False, cancel_futures=True)
            raise


def _begin() -> None:
    """
    Let go of the connections that handlers have opened, which would outlive the worker, and of its log; end some time
    after the worker.
    """
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in map(int, os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ()):
        try:
            is_socket = stat.S_ISSOCK(os.fstat(number).st_mode)
        except OSError:
            continue
        if is_socket:
            os.dup2(nowhere, number, inheritable=False)
    os.dup2(nowhere, 2)
    threading.Thread(target=_end_after, args=[os.getppid()], daemon=True).start()


def _end_after(worker: int) -> None:
    while os.getppid() == worker:
        time.sleep(0.2)
    time.sleep(OUTLIVES)
    os._exit(0)
