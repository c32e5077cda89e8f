"""What the log says about jobs that are done: a line a second and kind."""

from __future__ import annotations

import logging
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from support.database import jobs
from support.processes import Start
from support.threads import Thread, eventually
from support.workers import MakeWorker, drain

from pgq import Handlers, Queue
from pgq.worker.settings import Timing


class HandClock:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def summaries(caplog: pytest.LogCaptureFixture) -> list[tuple[str, int]]:
    """Return kind and count of each line."""
    return [(r.kind, r.count) for r in caplog.records if hasattr(r, "count") and hasattr(r, "kind")]


@pytest.mark.parametrize("transaction", [False, True])
def test_jobs_that_are_done_share_one_line_a_second_and_kind(
    queue: Queue,
    make_worker: MakeWorker,
    handlers: Handlers,
    caplog: pytest.LogCaptureFixture,
    transaction: bool,
) -> None:
    """The first line comes at once; jobs that are done within a second of it wait for the next one."""
    clock = HandClock()
    (loop,) = make_worker(timing=Timing(clock=clock)).loops
    done: Any = lambda *_: None  # noqa: E731
    handlers.handler("mail", transaction=transaction)(done)
    handlers.handler("post", transaction=transaction)(done)
    caplog.set_level(logging.INFO, "pgq")
    ids = [queue.enqueue("mail", n).id for n in range(3)] + [queue.enqueue("post").id]
    drain(loop)
    assert summaries(caplog) == [("mail", 3), ("post", 1)]
    assert caplog.messages[0].startswith("done 3 mail in 0.0 ms (mean 0.0 ms, longest 0.0 ms, waited up to ")
    assert caplog.messages[0].endswith(f"): jobs {ids[0]}, {ids[1]}, {ids[2]}")
    assert re.fullmatch(rf"done 1 post in 0\.0 ms \(waited .*\): job {ids[3]}", caplog.messages[1])
    caplog.clear()
    for _ in range(2):
        queue.enqueue_many([{"kind": "mail", "args": n} for n in range(6)])
        clock.now += 0.3
        drain(loop)
    assert summaries(caplog) == []
    clock.now += 0.5
    loop.settler.settle()
    assert summaries(caplog) == [("mail", 12)]
    (line,) = (record.__dict__ for record in caplog.records)
    assert (line["levelname"], line["action"], line["job_ids"]) == ("INFO", "done", None)
    # From the claim of the first six.
    assert line["seconds"] == pytest.approx(0.8)
    assert "job" not in caplog.text


def test_a_line_that_is_due_while_all_loops_sleep_is_written_then(
    queue: Queue, make_worker: MakeWorker, handlers: Handlers, caplog: pytest.LogCaptureFixture
) -> None:
    """Also when the worker gets no further job."""
    worker = make_worker(poll=0.05)
    handlers.handler("mail")(lambda job: None)
    caplog.set_level(logging.INFO, "pgq")
    thread = Thread(worker.run)
    for n in range(2):
        queue.enqueue("mail", n)
        eventually(lambda: jobs(queue.conn) == [])
    eventually(lambda: sum(count for _, count in summaries(caplog)) == 2)
    assert len(summaries(caplog)) == 2
    worker.stop()
    thread.result(30)


@pytest.mark.parametrize("told_twice", [False, True])
def test_a_stop_loses_no_line(queue: Queue, start: Start, tmp_path: Path, told_twice: bool) -> None:
    """Neither a stop that waits for handlers, nor one that does not."""
    (tmp_path / "tasks.py").write_text(
        "import pathlib, time\nimport pgq\n\n@pgq.handler('mail')\ndef mail(job):\n    pass\n\n"
        "@pgq.handler('long')\ndef long(job):\n    pathlib.Path('begun').touch()\n    time.sleep(60 * job.args)\n"
    )
    process = start("tasks")
    queue.enqueue("mail")
    eventually(lambda: jobs(queue.conn) == [])
    queue.enqueue_many([{"kind": "mail", "args": 1}, {"kind": "long", "args": int(told_twice)}])
    eventually((tmp_path / "begun").exists)
    process.terminate()
    while told_twice and process.poll() is None:
        process.terminate()
        time.sleep(0.01)
    _, log = process.communicate(timeout=30)
    assert process.returncode == (128 + signal.SIGTERM if told_twice else 0)
    assert log.count("done 1 mail in") == 2
