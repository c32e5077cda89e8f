"""Sensitive queues: what commands and logs show of their jobs, and --no-args."""

from __future__ import annotations

import json
import logging

import pytest
from support.database import Connection
from support.processes import Done, invoke
from support.workers import MakeWorker, drain

from pgq import Handlers, Views, WorkerQueue
from pgq.declare import changes

SECRET = "4711"
QUEUE = "payroll"


def run(dsn: str, *arguments: str) -> Done:
    """Run a command that succeeds."""
    done = invoke("--dsn", dsn, *arguments)
    assert done.returncode == 0, done
    return done


@pytest.fixture
def ids(queue: WorkerQueue) -> list[int]:
    """A dead, a done and a waiting job, and a schedule, with a secret in whatever may have one."""
    args = {"pin": SECRET}
    kinds = ("dead", "done", "waiting")
    jobs = [
        queue.enqueue(kind, args, queue=QUEUE, dedup_key=f"{kind} {SECRET}", group_key=SECRET, max_retries=0).id
        for kind in kinds
    ]
    for job in queue.claim([QUEUE], max_jobs=3):
        queue.save(job, {"step": SECRET})
        if job.kind == "dead":
            queue.fail(job, f"ValueError: no pin {SECRET}")
        elif job.kind == "done":
            queue.complete(job, {"pin": SECRET})
        else:
            queue.release(job)
    queue.schedule("s", "@daily", "k", args, queue=QUEUE, group_key=SECRET)
    return jobs


def commands(ids: list[int]) -> list[list[str]]:
    """Return the commands that show what there is, as tables and as JSON."""
    shown = [[name] for name in ("list", "stats", "ps", "queues", "schedules", "batches")]
    shown += [["show", str(job), *tree] for job in ids for tree in ([], ["--tree"])]
    return [[*one, *json_] for one in shown for json_ in ([], ["--json"])]


def test_commands_show_nothing_of_a_sensitive_queue_unless_they_are_told_to(
    dsn: str, queue: WorkerQueue, ids: list[int]
) -> None:
    before = {" ".join(one) for one in commands(ids) if SECRET in run(dsn, *one).stdout}
    assert {one.split()[0] for one in before} == {"list", "show", "schedules"}
    queue.configure(QUEUE, {"sensitive": True})
    for one in commands(ids):
        done = run(dsn, *one)
        assert SECRET not in done.stdout + done.stderr, one
        if " ".join(one) in before:
            assert SECRET in run(dsn, *one, "--show-args").stdout, one


def test_no_args_hides_what_any_queue_has(dsn: str, ids: list[int]) -> None:
    for command in (["list"], ["schedules"], ["show", str(ids[0])]):
        for json_ in ([], ["--json"]):
            assert SECRET not in run(dsn, *command, "--no-args", *json_).stdout


def test_what_is_hidden_is_called_so(dsn: str, queue: WorkerQueue, ids: list[int]) -> None:
    """In JSON it is null."""
    queue.configure(QUEUE, {"sensitive": True})
    done = run(dsn, "show", str(ids[0]))
    assert "\nargs         (hidden)\n" in done.stdout
    assert done.stderr == "pgq: the queue is sensitive; --show-args shows what is hidden\n"
    job = json.loads(run(dsn, "show", str(ids[0]), "--json").stdout)
    assert (job["sensitive"], job["args"], job["errors"], job["group_key"]) == (True, None, None, None)


def test_a_reader_learns_that_a_queue_is_sensitive_and_no_more(
    dsn: str, conn: Connection, queue: WorkerQueue, ids: list[int]
) -> None:
    """As before, whatever it asks for."""
    queue.configure(QUEUE, {"sensitive": True})
    conn.execute("DROP ROLE IF EXISTS clerk")
    conn.execute("CREATE ROLE clerk LOGIN")
    try:
        queue.grant("clerk", "reader")
        for command in (["list"], ["schedules"]):
            text = run(f"{dsn} user=clerk", *command, "--show-args", "--json").stdout
            assert SECRET not in text
            assert {row["sensitive"] for row in json.loads(text)} == {True}
    finally:
        conn.execute("DROP OWNED BY clerk")
        conn.execute("DROP ROLE clerk")


def test_the_views_of_the_driver_take_the_same_choice(conn: Connection, queue: WorkerQueue, ids: list[int]) -> None:
    queue.configure(QUEUE, {"sensitive": True})
    views = Views(conn)
    assert views.jobs()[-1]["error"] is views.job(ids[0])["args"] is None
    assert views.jobs(show_args=True)[-1]["error"] == f"ValueError: no pin {SECRET}"
    assert SECRET in views.job(ids[0], show_args=True)["args"]
    queue.configure(QUEUE, {"sensitive": False})
    assert SECRET in views.job(ids[0])["args"]
    assert views.job(ids[0], show_args=False)["args"] is None


def test_the_log_of_a_worker_names_the_class_of_an_error_only(
    queue: WorkerQueue, handlers: Handlers, make_worker: MakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the queue, at each level: so no setting has to reach the worker."""

    def fail(job: object) -> None:
        raise ValueError(f"no pin {SECRET}")

    handlers.handler("fails")(fail)
    handlers.handler("returns", transaction=True)(lambda job, conn: f"{SECRET}\0")
    handlers.handler("dies", transaction=True)(
        lambda job, conn: conn.execute("SELECT %s::integer", [f"pin {SECRET}"]) and None
    )
    for kind in ("fails", "returns", "dies", "unknown"):
        queue.enqueue(kind, {"pin": SECRET}, group_key=SECRET, dedup_key=f"{kind} {SECRET}", max_retries=0)
    caplog.set_level(logging.DEBUG)
    drain(make_worker().loops[0])
    lines = [record.getMessage() for record in caplog.records]
    assert any("dead after ValueError" in line for line in lines)
    assert any("InvalidTextRepresentation" in line for line in lines)
    assert not any(SECRET in line for line in lines)
    assert SECRET not in str([record.__dict__ for record in caplog.records if record.name == "pgq"])


def test_the_difference_of_a_schedule_names_its_arguments_only(conn: Connection, queue: WorkerQueue) -> None:
    """A worker logs it."""
    handlers = Handlers()
    handlers.handler("k", schedule="@daily")(lambda job: None)
    declared = WorkerQueue(conn, handlers=handlers)
    queue.schedule("k", "@daily", "k", {"pin": SECRET}, source="tasks")
    queue.configure("default", {"sensitive": True})
    (change,) = changes(declared, Views(conn), "tasks")
    assert (change.action, change.text) == ("change", "args")
