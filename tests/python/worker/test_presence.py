"""That a worker is there: what its jobs gain by it, and what becomes of them when it is gone."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from support.database import Connect, Connection, jobs, one
from support.processes import Start
from support.threads import Thread, eventually

from pgq import Handlers, Job, Queue, Worker, WrongState

PRESENCE = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '%% presence'"


@pytest.fixture
def present(dsn: str, handlers: Handlers) -> Iterator[Worker]:
    """A worker that is there, with a lease that is soon over."""
    worker = Worker(dsn, handlers, poll=0.1, name="present", lease=timedelta(seconds=0.6))
    yield worker
    worker.stop()


def names(conn: Connection) -> list[str]:
    """The workers that are registered, up to the label."""
    return [
        row[0].split(":")[0] for row in conn.execute("SELECT name FROM pgq_worker_session ORDER BY name").fetchall()
    ]


def test_a_worker_is_registered_while_it_runs(conn: Connection, present: Worker) -> None:
    """With its queues, its host and its process; when it has stopped it is not."""
    thread = Thread(present.run)
    eventually(lambda: names(conn) == ["present"])
    row = conn.execute("SELECT queues, host IS NOT NULL, pid IS NOT NULL, present, running FROM pgq_workers").fetchone()
    assert row == (["default"], True, True, True, 0)
    present.stop()
    thread.result(10)
    assert names(conn) == []


def test_the_lease_of_a_handler_that_runs_is_extended(
    conn: Connection, queue: Queue, handlers: Handlers, present: Worker
) -> None:
    """As long as it takes: nobody else gets the job, and it is done at its first attempt."""
    attempts: list[int] = []

    @handlers.handler("long")
    def long(job: Job) -> None:
        attempts.append(job.attempt)
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            assert queue.claim(worker="another") == []
            time.sleep(0.02)

    queue.enqueue("long")
    thread = Thread(present.run)
    eventually(lambda: attempts and jobs(conn) == [])
    present.stop()
    thread.result(10)
    assert attempts == [1]


def test_nothing_is_extended_past_a_timeout(
    conn: Connection, queue: Queue, handlers: Handlers, present: Worker
) -> None:
    """A handler that cannot be interrupted loses its job to others."""
    go = threading.Event()
    handlers.handler("stuck", timeout=0.2)(lambda job: go.wait(10) and None)
    queue.enqueue("stuck", max_retries=1)
    thread = Thread(present.run)
    eventually(lambda: jobs(conn) and jobs(conn)[0][2] == 1 and queue.claim(worker="another"))
    go.set()
    present.stop()
    thread.result(10)
    assert [state for _, state, _ in jobs(conn)] == ["running"]


def test_a_longer_lease_of_a_handler_begins_with_it(
    conn: Connection, queue: Queue, handlers: Handlers, present: Worker
) -> None:
    """However short that of the claim is."""
    go = threading.Event()
    handlers.handler("rare", lease=timedelta(hours=1))(lambda job: go.wait(10) and None)
    queue.enqueue("rare")
    thread = Thread(present.run)
    eventually(lambda: one(conn, "SELECT count(*) FROM pgq_running WHERE lease_until > now() + interval '50 minutes'"))
    go.set()
    eventually(lambda: jobs(conn) == [])
    present.stop()
    thread.result(10)


def test_a_presence_that_is_interrupted_is_taken_up_again(
    conn: Connection, queue: Queue, handlers: Handlers, present: Worker, grown_up: None
) -> None:
    """Before anybody sweeps, so that the job that runs is still the worker's own."""
    go, attempts = threading.Event(), []

    @handlers.handler("k")
    def wait(job: Job) -> None:
        attempts.append(job.attempt)
        assert go.wait(20)

    queue.enqueue("k")
    thread = Thread(present.run)
    eventually(lambda: attempts)
    conn.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name LIKE '%% presence'"
    )
    eventually(lambda: one(conn, PRESENCE) == 1 and one(conn, "SELECT present FROM pgq_workers"))
    for _ in range(3):
        assert queue.claim(worker="another") == []
    go.set()
    eventually(lambda: jobs(conn) == [])
    present.stop()
    thread.result(10)
    assert attempts == [1]


def test_without_presence_leases_are_extended_all_the_same(
    conn: Connection, queue: Queue, dsn: str, handlers: Handlers
) -> None:
    """By a connection that is opened when there is something to extend, and keeps nothing in its session."""
    worker = Worker(dsn, handlers, poll=0.1, lease=timedelta(seconds=0.6), presence=False, listen=False)
    attempts: list[int] = []

    @handlers.handler("long")
    def long(job: Job) -> None:
        attempts.append(job.attempt)
        time.sleep(2)

    thread = Thread(worker.run)
    queue.enqueue("quick", queue="nowhere")
    assert one(conn, PRESENCE) == 0
    queue.enqueue("long")
    eventually(lambda: attempts)
    while queue.pending().running:
        assert queue.claim(worker="another") == []
        time.sleep(0.02)
    worker.stop()
    thread.result(10)
    assert attempts == [1]
    assert names(conn) == []


def test_a_name_belongs_to_one_session(conn: Connection, connect: Connect) -> None:
    """Another one cannot have it, as long as the first lasts; then it can."""
    first, second = connect(), connect()
    Queue(first).register("me")
    with pytest.raises(WrongState, match="is registered by another session"):
        Queue(second).register("me")
    first.close()
    eventually(lambda: one(conn, "SELECT count(*) FROM _pgq_presence") == 0)
    Queue(second).register("me")
    assert Queue(second).unregister("me")


def test_two_that_sweep_at_a_time_do_not_wait_for_each_other(
    conn: Connection, connect: Connect, queue: Queue, grown_up: None
) -> None:
    """And the jobs of a worker that is gone come back once."""
    queue.enqueue_many({"kind": "k", "args": n} for n in range(10))
    gone = connect()
    Queue(gone).register("gone")
    queue.claim(max_jobs=10, worker="gone")
    gone.close()
    eventually(lambda: one(conn, "SELECT count(*) FROM _pgq_presence") == 0)
    a, b = Queue(connect()), Queue(connect())
    b.conn.execute("SET lock_timeout = '2s'")
    for one_ in (a, b):
        one_.claim(max_jobs=0)
    with a.conn.transaction(), b.conn.transaction():
        a.claim(max_jobs=0)
        b.claim(max_jobs=0)
    assert {(state, attempt) for _, state, attempt in jobs(conn)} == {("waiting", 1)}


def test_a_job_that_a_dying_worker_still_holds_is_left_until_it_does_not(
    conn: Connection, connect: Connect, queue: Queue, grown_up: None
) -> None:
    """Its presence is gone, but a statement of its goes on."""
    answer = queue.enqueue("k")
    gone, holder = connect(), connect()
    Queue(gone).register("gone")
    (job,) = queue.claim(worker="gone")
    gone.close()
    eventually(lambda: one(conn, "SELECT count(*) FROM _pgq_presence") == 0)
    with holder.transaction():
        Queue(holder).hold(job)
        for _ in range(2):
            assert queue.claim() == []
    assert jobs(conn) == [(answer.id, "running", 1)]
    (again,) = queue.claim()
    assert (again.id, again.attempt) == (answer.id, 2)


@pytest.mark.happens("a worker is killed")
def test_the_jobs_of_a_killed_worker_run_again_within_seconds(
    conn: Connection,
    queue: Queue,
    start: Start,
    tmp_path: Path,
    grown_up: None,
) -> None:
    """With a lease of five minutes: what counts is that its session is gone."""
    queue.enqueue("slow", 0)
    victim = start("--name", "victim")
    eventually((tmp_path / "begun-0-1").exists)
    start("--name", "heir")
    eventually(lambda: "heir" in names(conn))
    # One turn, after which it looks for workers that are gone.
    queue.enqueue("slow", 1)
    (tmp_path / "go-1").touch()
    eventually((tmp_path / "begun-1-1").exists)
    victim.kill()
    begun = time.monotonic()
    eventually((tmp_path / "begun-0-2").exists)
    # The promise is two; a loaded machine gets more.
    assert time.monotonic() - begun < 6
    (tmp_path / "go-0").touch()
    eventually(lambda: jobs(conn) == [])


@pytest.mark.happens("a worker is stopped for longer than its lease")
def test_a_worker_that_was_stopped_for_longer_than_its_lease_changes_nothing(
    conn: Connection,
    dsn: str,
    queue: Queue,
    start: Start,
    tmp_path: Path,
) -> None:
    """Its job is another worker's by then: the writes of its transaction are rolled back, and it goes on."""
    conn.execute("CREATE TABLE effect (worker integer)")
    (tmp_path / "held.py").write_text(
        "import os, pathlib, time\nimport pgq\n"
        "@pgq.handler('held')\n"
        "def held(job):\n"
        "    pathlib.Path(f'held-{job.attempt}-{os.getpid()}').touch()\n"
        "    while not pathlib.Path('go').exists(): time.sleep(0.005)\n"
        "    import psycopg\n"
        f"    with psycopg.connect({dsn!r}) as conn:\n"
        "        conn.execute('INSERT INTO effect VALUES (%s)', [os.getpid()])\n"
        "        job.complete(conn)\n"
    )
    queue.enqueue("held")
    first = start("held", "--lease", "1s", "--no-presence")
    eventually(lambda: list(tmp_path.glob("held-1-*")))
    first.send_signal(signal.SIGSTOP)
    second = start("held", "--lease", "1m", "--no-presence")
    eventually(lambda: list(tmp_path.glob("held-2-*")))
    first.send_signal(signal.SIGCONT)
    (tmp_path / "go").touch()
    eventually(lambda: jobs(conn) == [])
    for process in (first, second):
        process.terminate()
    logs = [process.communicate(timeout=10)[1] for process in (first, second)]
    assert "lost after LeaseLost" in logs[0]
    assert conn.execute("SELECT worker FROM effect").fetchall() == [(second.pid,)]
    assert (first.returncode, second.returncode) == (0, 0)
