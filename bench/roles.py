"""What a child process runs: a worker or a producer of a contender."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection as Pipe

from child import Child, Counters, Task
from contender import Contender
from contenders import by_name

CHUNK = 500

Role = Callable[[Contender, Child], None]


def work(contender: Contender, child: Child) -> None:
    """Run a worker."""
    contender.work(child)


def produce(contender: Contender, child: Child) -> None:
    """Enqueue, except while too many jobs are outstanding."""
    counters = child.counters
    with contextlib.closing(contender.producer(child.task.database)) as producer:
        child.ready()
        n = 0
        while not child.stopped:
            if n - sum(counters.handled) > child.task.outstanding:
                time.sleep(0.002)
                continue
            producer.many(n, CHUNK)
            n += CHUNK
            counters.produced[0] = n


def main(role: Role, name: str, task: Task, slot: int, counters: Counters, pipe: Pipe) -> None:
    """Run a role in this child process; send "done" or a traceback to the parent at the end."""
    # Ctrl-C reaches the whole process group; the parent ends its children.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        role(by_name(name), Child(task, slot, counters, pipe))
        pipe.send("done")
    except BaseException:
        pipe.send(traceback.format_exc())
        sys.exit(1)
