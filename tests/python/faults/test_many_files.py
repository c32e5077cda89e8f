"""A process with more open files than select.select takes numbers for."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

import pytest
from support.database import Connect, Connection, jobs
from support.threads import Thread, eventually

from pgq import Handlers, NotEnded, Queue, Worker

FIRST_REFUSED = 1024


@pytest.fixture
def many_files() -> Iterator[None]:
    """So many open files that the numbers of further ones are larger."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    files = [os.open(os.devnull, os.O_RDONLY)]
    while files[-1] < FIRST_REFUSED:
        files.append(os.open(os.devnull, os.O_RDONLY))
    yield
    for file in files:
        os.close(file)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.usefixtures("many_files")
def test_a_job_is_waited_for(queue: Queue, connect: Connect) -> None:
    job = queue.enqueue("k")
    waiting = connect()
    assert waiting.fileno() > FIRST_REFUSED
    with pytest.raises(NotEnded):
        Queue(waiting).wait(job.id, 1)


@pytest.mark.usefixtures("many_files")
def test_a_worker_sleeps_and_works(conn: Connection, queue: Queue, dsn: str, handlers: Handlers) -> None:
    handlers.handler("k")(lambda job: None)
    worker = Worker(dsn, handlers)
    thread = Thread(worker.run)
    eventually(lambda: worker.presence.session.idle or not thread.is_alive(), "it sleeps")
    queue.enqueue("k")
    eventually(lambda: jobs(conn) == [] or not thread.is_alive(), "the job is done")
    worker.stop()
    thread.result(30)
    assert jobs(conn) == []
