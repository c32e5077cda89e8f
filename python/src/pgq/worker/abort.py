"""The end of a process in the middle of its jobs: what became of them is recorded, and the rest is released."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic, sleep
from typing import Final

from pgq.process.logs import logger
from pgq.worker.calls import WorkerQueue
from pgq.worker.donelog import DoneLog
from pgq.worker.joblog import log_settlement
from pgq.worker.locked import by_claim, record_unlocked
from pgq.worker.loop import Loop
from pgq.worker.outcomes import Outcome, Released
from pgq.worker.settings import Settings

# Seconds for which a worker that is told twice to stop tries to give its jobs back.
RELEASE_WITHIN: Final = 3.0


def release_all(loops: Sequence[Loop], settings: Settings, done: DoneLog) -> None:
    """Settle and release the jobs of these loops through a connection of its own, whatever their threads are doing."""
    outcomes: list[Outcome] = []
    for loop in loops:
        loop.inside.shut_down()
        loop.async_handlers.sessions.shut_down()
        # Read in the order in which jobs move on, so that none is missed; some may be met twice.
        unstarted = [*loop.claimed.unstarted]
        running = [job for execution in loop.executor.executions for job in execution.jobs]
        ended = loop.pending
        settled = {outcome.job for outcome in ended}
        outcomes += ended
        # A running job comes last: a transaction of its handler may have locked it.
        outcomes += [Released(job) for job in dict.fromkeys((*unstarted, *running)) if job not in settled]
    since = min(loop.settler.settled_at for loop in loops)
    give_up_at = monotonic() + RELEASE_WITHIN
    with settings.server.connect(settings.name) as conn:
        queue = WorkerQueue(conn, schema=settings.schema)
        while outcomes and monotonic() < give_up_at:
            settled = set()
            for claimed in by_claim(outcomes):
                # A job whose transaction the server has not ended yet is locked.
                for settlement in record_unlocked(queue, claimed, settings.timing.lock_timeout):
                    settled.add(settlement.job)
                    done.add(settlement, since)
                    log_settlement(settlement)
            outcomes = [outcome for outcome in outcomes if outcome.job not in settled]
            if outcomes:
                sleep(0.05)
    if outcomes:
        logger.warning("%d jobs are left to their leases: a transaction of a handler has locked them", len(outcomes))
