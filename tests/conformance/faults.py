"""The scenarios in which a worker, its connections or the server fail."""

from __future__ import annotations

import signal
from itertools import count
from typing import Final

from conformance.scenarios import IN_A_BATCH, Scenario
from conformance.stage import Missed, Stage

# No life of two jobs needs as many.
MOST_MOMENTS = 400


def killed(stage: Stage) -> None:
    """A job is over only once its effect is committed."""
    job = stage.enqueue("slow", {"n": 1, "seconds": 1.5})
    worker = stage.start()
    stage.wait_running(job)
    stage.kill(worker)
    stage.expire()
    stage.start()
    stage.wait_over()


def batch_killed(stage: Stage) -> None:
    """Of the jobs that one claim may take, those that are done stay done, and the others run again."""
    stage.keep_nothing()
    for n in range(IN_A_BATCH):
        stage.enqueue("write", {"n": n})
    slow = stage.enqueue("slow", {"n": IN_A_BATCH, "seconds": 1.5})
    stage.enqueue("write", {"n": IN_A_BATCH + 1})
    worker = stage.start()
    stage.wait_running(slow)
    stage.wait("the jobs before it have their effects", lambda: stage.effects() >= IN_A_BATCH)
    stage.kill(worker)
    stage.expire()
    stage.start()
    stage.wait_over()


def frozen(stage: Stage) -> None:
    """A worker that has lost a lease changes nothing for its job, and goes on."""
    job = stage.enqueue("slow", {"n": 1, "seconds": 2})
    first = stage.start()
    stage.wait_running(job)
    stage.signal(first, signal.SIGSTOP)
    stage.expire()
    second = stage.start()
    stage.wait_over()
    stage.kill(second)
    stage.signal(first, signal.SIGCONT)
    # As long as the handler: the first worker may run several at a time.
    last = stage.enqueue("slow", {"n": 2, "seconds": 3})
    stage.wait_over(last)
    stage.wait_over(stage.enqueue("write", {"n": 3}))
    stage.advise("goes on after a lost lease", kept=first.starts == 1, why="the worker ended, and was started again")


def restart(stage: Stage) -> None:
    """The worker connects again, or ends so that it is started again."""
    jobs = [stage.enqueue("slow", {"n": n, "seconds": 1.5}) for n in range(2)]
    worker = stage.start()
    stage.wait_running(jobs[0])
    stage.server.restart()
    stage.reconnect()
    stage.enqueue("write", {"n": 3})
    stage.wait_over()
    stage.advise("connects again", kept=worker.starts == 1, why=f"the worker ended {worker.starts - 1} times")


def cut(stage: Stage) -> None:
    """
    Cut a connection before and after each statement of the life of two jobs, one of which fails.

    The moments end with the life in which no connection was cut.
    """
    stage.start()
    stage.wait_over(stage.enqueue("write", {"n": 0}))
    for moment in count(1, stage.under.stride):
        if moment > MOST_MOMENTS:
            raise Missed(f"the life of two jobs has more than {MOST_MOMENTS} moments")
        alarm = stage.cut_at(moment)
        jobs = [
            stage.enqueue("write", {"n": moment}, backoff="0"),
            stage.enqueue("fail", {"message": str(moment)}, max_retries=0),
        ]
        try:
            stage.wait_over(*jobs)
        except Missed as missed:
            raise Missed(f"cut at moment {moment}: {missed}") from None
        if not alarm.is_set():
            break


FAULTS: Final = (
    Scenario("killed while busy", True, killed),
    Scenario("killed within a batch", True, batch_killed),
    Scenario("frozen, and the lease is lost", True, frozen),
    Scenario("restart of the server", True, restart),
    Scenario("connection cut at each moment", True, cut),
)
