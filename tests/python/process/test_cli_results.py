"""The commands that show the result of a job, and wait for it."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from support.database import Connection, one
from support.processes import Done, invoke
from support.threads import Thread, eventually

from pgq import WorkerQueue


def run(dsn: str, *arguments: str, code: int = 0) -> Done:
    """Run a command and check its exit code."""
    done = invoke("--dsn", dsn, *arguments)
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr
    return done


def serve(queue: WorkerQueue, error: str | None = None) -> None:
    """Complete the next job with its arguments as the result, or let it fail for good."""
    (job,) = eventually(queue.claim)
    if error is None:
        queue.complete(job, job.args)
    else:
        queue.fail(job, error, retry=False)


@pytest.mark.parametrize("as_json", [False, True])
def test_enqueue_waits_for_the_result(dsn: str, queue: WorkerQueue, as_json: bool) -> None:
    worker = Thread(serve, queue)
    done = run(dsn, "enqueue", "k", '{"a": [1, "\\u001b"]}', "--wait", *(["--json"] if as_json else []))
    worker.result()
    if as_json:
        shown = json.loads(done.stdout)
        assert shown.pop("ended_at")
        assert shown == {"id": 1, "state": "done", "result": {"a": [1, "\x1b"]}, "error": None}
    else:
        assert done.stdout == '1\ndone\n{"a": [1, "\\u001b"]}\n'


def test_a_job_that_fails_ends_the_command_with_its_error(dsn: str, queue: WorkerQueue) -> None:
    worker = Thread(serve, queue, "ValueError: no such address\nand more")
    done = invoke("--dsn", dsn, "enqueue", "k", "--wait")
    worker.result()
    assert (done.returncode, done.stdout) == (1, "1\n")
    assert done.stderr == "pgq: job 1 is dead: ValueError: no such address\n"
    shown = run(dsn, "result", "1")
    assert (shown.stdout, shown.stderr) == ("dead\n", "ValueError: no such address\nand more\n")


def test_a_wait_that_is_too_short_ends_with_a_hint(dsn: str, conn: Connection) -> None:
    done = run(dsn, "enqueue", "k", "--wait", "--timeout", "50ms", code=1)
    assert "pgq: job 1 is still waiting\nhint: Wait again" in done.stderr
    assert "job 1 is still waiting" in run(dsn, "result", "1", "--wait", "--timeout", "0s", code=1).stderr
    assert one(conn, "SELECT count(*) FROM pgq_waiting") == 1


def test_the_result_of_a_job_is_shown(dsn: str, queue: WorkerQueue) -> None:
    assert json.loads(run(dsn, "enqueue", "k", "--json").stdout) == {"id": 1, "created": True}
    assert json.loads(run(dsn, "enqueue", "k", "--json").stdout) == {"id": 1, "created": False}
    assert run(dsn, "result", "1").stdout == "waiting\n"
    queue.complete(queue.claim()[0])
    assert run(dsn, "result", "1", "--wait").stdout == "gone\n"
    nothing = {"id": 1, "state": "gone", "result": None, "error": None, "ended_at": None}
    assert json.loads(run(dsn, "result", "1", "--json").stdout) == nothing
    assert "pgq: there has been no job 404\nhint: " in run(dsn, "result", "404", code=1).stderr


def test_a_signal_is_sent_once(dsn: str, queue: WorkerQueue) -> None:
    queue.enqueue("k")
    assert run(dsn, "signal", "1", "go", '{"by": 1}').stdout == "1 go\n"
    assert run(dsn, "signal", "1", "go").stdout == "1 go (it had this signal already)\n"
    assert json.loads(run(dsn, "signal", "1", "stop", "--json").stdout) == {"id": 1, "name": "stop", "first": True}
    (job,) = queue.claim()
    assert queue.wait_signal(job, "go").value == {"by": 1}
    assert "pgq: there is no job 404\nhint: " in run(dsn, "signal", "404", "go", code=1).stderr


def test_what_a_job_saves_and_waits_for_is_shown(dsn: str, queue: WorkerQueue) -> None:
    queue.enqueue("k")
    (job,) = queue.claim()
    queue.save(job, {"page": 3})
    queue.wait_signal(job, "go", timedelta(hours=1))
    shown = json.loads(run(dsn, "show", "1", "--json").stdout)
    assert (shown["saved"], shown["waits_for_signal"]) == ('{"page": 3}', "go")
    lines = run(dsn, "show", "1").stdout.splitlines()
    assert 'saved        {"page": 3}' in lines
    assert "waits for signal go" in lines
