"""Signals to worker processes: how they stop, and what becomes of the jobs of a killed or frozen one."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import psycopg
import pytest
from support.database import Connect, Connection, expire, jobs, one
from support.processes import COMMAND, Start
from support.threads import eventually

from pgq import Queue, Worker, WorkerQueue
from pgq.cli.worker import worker as worker_command
from pgq.views import Views

IDLE = (
    "SELECT count(*) FROM pg_stat_activity "
    "WHERE application_name LIKE 'pgq %%' AND state = 'idle' AND query ~ 'pgq_(claim|ripe_in)'"
)


@pytest.mark.happens("it is told to stop")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_worker_stops_at_once(conn: Connection, start: Start, number: signal.Signals) -> None:
    """It is in the middle of a poll interval of a minute; the exit code is 0."""
    process = start("--poll", "60s")
    eventually(lambda: one(conn, IDLE))
    begun = time.monotonic()
    process.send_signal(number)
    _, log = process.communicate(timeout=30)
    assert time.monotonic() - begun < 2
    assert process.returncode == 0, log
    assert log.splitlines()[-1].endswith("stopped")
    assert "Traceback" not in log


@pytest.mark.happens("it is told to stop")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_busy_worker_finishes_its_job_and_releases_the_rest(
    conn: Connection, queue: Queue, start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    """The other jobs of its batch lose no attempt."""
    _, second, third = queue.enqueue_many([{"kind": "slow", "args": n} for n in range(3)])
    process = start("--batch", "10")
    eventually((tmp_path / "begun-0-1").exists)
    assert [state for _, state, _ in jobs(conn)] == ["running"] * 3
    process.send_signal(number)
    (tmp_path / "go-0").touch()
    _, log = process.communicate(timeout=30)
    assert process.returncode == 0, log
    assert jobs(conn) == [(second.id, "waiting", 0), (third.id, "waiting", 0)]
    assert sorted(path.name for path in tmp_path.glob("begun-*")) == ["begun-0-1"]


@pytest.mark.happens("it is told to stop twice")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_worker_during_a_job(
    conn: Connection, queue: Queue, start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    """The worker does not wait for the handler; it releases the job, and the attempt does not count."""
    enqueued = queue.enqueue("slow", 0)
    process = start()
    eventually((tmp_path / "begun-0-1").exists)
    # Signals of one number sent in a row may arrive as one, so repeat them until the process ends.
    deadline = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < deadline:
        process.send_signal(number)
        time.sleep(0.01)
    assert process.returncode == 128 + number
    assert jobs(conn) == [(enqueued.id, "waiting", 0)]


WAITS = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pgq %%' AND wait_event_type = 'Lock'"


@pytest.mark.happens("it is told to stop")
@pytest.mark.parametrize(
    ("when", "options"),
    [
        ("in a claim", ()),
        ("in a claim", ("--concurrency", "2")),
        ("in a claim", ("--transaction-pooler",)),
        ("at its start", ()),
        ("at its end", ()),
    ],
)
def test_a_stop_does_not_wait_for_a_lock(
    conn: Connection, connect: Connect, start: Start, when: str, options: tuple[str, ...]
) -> None:
    """DDL may hold it for long; the statement that waits for it is cancelled."""
    other = connect()
    lock = b"BEGIN; LOCK TABLE pgq_waiting, pgq_running, pgq_worker_session IN ACCESS EXCLUSIVE MODE"
    if when == "at its start":
        other.execute(lock)
    process = start("--poll", "60s" if when == "at its end" else "100ms", *options)
    if when == "at its end":
        eventually(lambda: one(conn, IDLE))
    elif when == "in a claim":
        eventually(lambda: one(conn, IDLE))
        # The worker locks the tables in another order.
        eventually(lambda: _locks(other, lock))
    if when == "at its end":
        other.execute(b"BEGIN; LOCK TABLE pgq_worker_session IN ACCESS EXCLUSIVE MODE")
    else:
        eventually(lambda: one(conn, WAITS))
    begun = time.monotonic()
    process.terminate()
    _, log = process.communicate(timeout=20)
    assert process.returncode == 0, log
    # The bar is a second or two; the lock is held until the end of the test.
    assert time.monotonic() - begun < 8
    assert "Traceback" not in log
    assert "stopped" in log


def _locks(conn: Connection, lock: bytes) -> bool:
    """Return whether a transaction that locks tables has met no deadlock."""
    try:
        conn.execute(lock)
    except psycopg.errors.DeadlockDetected:
        conn.rollback()
        return False
    return True


def test_the_default_grace_is_shorter_than_kubernetes_waits() -> None:
    """Its terminationGracePeriodSeconds is 30 by default, and a process needs some time to end."""
    (option,) = (one for one in worker_command.params if one.name == "grace")
    assert (option.default, Worker.grace) == ("25s", 25)


MEDDLERS = {
    "asyncio": "loop = asyncio.new_event_loop(); loop.add_signal_handler(signal.SIGTERM, print); "
    "loop.remove_signal_handler(signal.SIGTERM); loop.close()",
    "asyncio for another signal": "loop = asyncio.new_event_loop(); loop.add_signal_handler(signal.SIGUSR1, print); "
    "loop.close()",
    "asyncio, not closed": "kept.append(asyncio.new_event_loop()); kept[0].add_signal_handler(signal.SIGTERM, print)",
    "ignored": "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "the default": "signal.signal(signal.SIGTERM, signal.SIG_DFL)",
    "an own handler": "signal.signal(signal.SIGTERM, print)",
    "blocked": "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
    "an alarm": "signal.alarm(1)",
    "an alarm with a handler": "signal.signal(signal.SIGALRM, lambda *_: os._exit(9)); signal.alarm(1)",
    "an alarm with the default": "signal.signal(signal.SIGALRM, signal.SIG_DFL); signal.setitimer(0, 0.3)",
}
MEDDLING = """
import asyncio, os, pathlib, signal, time
import pgq

kept = []

@pgq.handler("meddle")
def meddle(job):
    {code}

@pgq.handler("long")
def long(job):
    pathlib.Path("begun").touch()
    # Long enough for each alarm.
    end = time.monotonic() + 1.3
    while time.monotonic() < end or not pathlib.Path("go").exists(): time.sleep(0.005)

@pgq.handler("after")
def after(job):
    pathlib.Path("after").touch()
"""


@pytest.mark.happens("changes the signal handlers")
@pytest.mark.parametrize("what", MEDDLERS)
def test_a_stop_counts_whatever_a_handler_has_done_to_signals(
    conn: Connection, queue: Queue, start: Start, tmp_path: Path, what: str
) -> None:
    """The next job finishes, the one after it is released, and a second signal is told from the first."""
    (tmp_path / "meddling.py").write_text(MEDDLING.format(code=MEDDLERS[what]))
    for kind in ("meddle", "long", "after"):
        last = queue.enqueue(kind)
    process = start("meddling", "--batch", "10")
    eventually((tmp_path / "begun").exists)
    time.sleep(0.1)
    process.terminate()
    (tmp_path / "go").touch()
    _, log = process.communicate(timeout=30)
    assert process.returncode == 0, log
    assert jobs(conn) == [(last.id, "waiting", 0)]
    assert not (tmp_path / "after").exists()


@pytest.mark.happens("changes the signal handlers")
def test_the_grace_of_a_stop_is_kept_whatever_a_handler_has_done_to_signals(
    conn: Connection, queue: Queue, start: Start, tmp_path: Path
) -> None:
    """The thread that limits it hears of the signal although an event loop had its descriptor."""
    (tmp_path / "meddling.py").write_text(MEDDLING.format(code=MEDDLERS["asyncio for another signal"]))
    queue.enqueue("meddle")
    enqueued = queue.enqueue("long")
    process = start("meddling", "--batch", "10", "--grace", "500ms")
    eventually((tmp_path / "begun").exists)
    process.terminate()
    _, log = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM, log
    assert jobs(conn) == [(enqueued.id, "waiting", 0)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("module", ["tasks", "psycopg"])
def test_a_stop_counts_while_modules_are_imported(tmp_path: Path, number: signal.Signals, module: str) -> None:
    """This holds for pgq's own imports and for those of handlers. The exit code is that of a stop."""
    # Many short sleeps: Python handles a signal that comes right before a sleep only after it.
    (tmp_path / f"{module}.py").write_text(
        "import pathlib, time\n"
        "pathlib.Path('begun').touch()\n"
        "for _ in range(6000):\n"
        "    try: time.sleep(0.01)\n"
        "    except BaseException: pass\n"
    )
    process = subprocess.Popen(
        [COMMAND, "worker", "tasks"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}
    )
    try:
        eventually((tmp_path / "begun").exists)
        process.send_signal(number)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.happens("a worker is killed")
def test_the_job_of_a_killed_worker_runs_again_after_its_lease(
    conn: Connection, queue: WorkerQueue, start: Start, tmp_path: Path
) -> None:
    """The next run is the second attempt."""
    enqueued = queue.enqueue("slow", 0)
    process = start()
    eventually((tmp_path / "begun-0-1").exists)
    process.kill()
    process.wait(30)
    assert queue.claim() == []
    assert jobs(conn) == [(enqueued.id, "running", 1)]
    expire(conn)
    (tmp_path / "go-0").touch()
    start()
    eventually(lambda: jobs(conn) == [])
    assert sorted(path.name for path in tmp_path.glob("begun-*")) == ["begun-0-1", "begun-0-2"]


def test_a_job_that_kills_every_worker_is_dead_after_its_retries(
    conn: Connection, queue: WorkerQueue, start: Start, tmp_path: Path
) -> None:
    """It keeps an error for each of max_retries + 1 workers."""
    enqueued = queue.enqueue("slow", 0, max_retries=2, backoff="0")
    for attempt in range(1, 4):
        process = start("--name", f"victim {attempt}")
        eventually((tmp_path / f"begun-0-{attempt}").exists)
        process.kill()
        process.wait(30)
        expire(conn)
    assert queue.claim() == []
    job = Views(conn).job(enqueued.id)
    assert (job["state"], job["attempt"]) == ("dead", 3)
    assert [error["worker"].split(":")[0] for error in job["errors"]] == ["victim 3", "victim 2", "victim 1"]
    assert {error["error"] for error in job["errors"]} == {"the lease ran out"}


@pytest.mark.happens("a worker is killed")
def test_the_jobs_of_a_killed_worker_run_again_within_seconds(
    conn: Connection,
    queue: Queue,
    start: Start,
    tmp_path: Path,
    grown_up: None,
) -> None:
    """The lease is five minutes, but the worker's session is gone."""
    queue.enqueue("slow", 0)
    victim = start("--name", "victim")
    eventually((tmp_path / "begun-0-1").exists)
    start("--name", "heir")
    eventually(lambda: [one for one in Views(conn).workers() if one["present"] and one["name"].startswith("heir:")])
    # The loop must take one turn before it looks for workers that are gone.
    queue.enqueue("slow", 1)
    (tmp_path / "go-1").touch()
    eventually((tmp_path / "begun-1-1").exists)
    victim.kill()
    begun = time.monotonic()
    eventually((tmp_path / "begun-0-2").exists)
    # The promise is two seconds; a loaded machine gets more.
    assert time.monotonic() - begun < 6
    (tmp_path / "go-0").touch()
    eventually(lambda: jobs(conn) == [])


@pytest.mark.happens("a worker is frozen for longer than its lease")
def test_a_worker_frozen_for_longer_than_its_lease_changes_nothing(
    conn: Connection,
    dsn: str,
    queue: Queue,
    start: Start,
    tmp_path: Path,
) -> None:
    """By then another worker has its job: the first one's transaction rolls back, and both go on."""
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
    first = start("held", "--lease", "1s", "--transaction-pooler")
    eventually(lambda: list(tmp_path.glob("held-1-*")))
    first.send_signal(signal.SIGSTOP)
    second = start("held", "--lease", "1m", "--transaction-pooler")
    eventually(lambda: list(tmp_path.glob("held-2-*")))
    first.send_signal(signal.SIGCONT)
    (tmp_path / "go").touch()
    eventually(lambda: jobs(conn) == [])
    for process in (first, second):
        process.terminate()
    logs = [process.communicate(timeout=30)[1] for process in (first, second)]
    assert "lost after LeaseLost" in logs[0]
    assert conn.execute("SELECT worker FROM effect").fetchall() == [(second.pid,)]
    assert (first.returncode, second.returncode) == (0, 0)


FROZEN = """
import os, pathlib, time
import pgq

def held(job, conn):
    conn.execute("INSERT INTO effect VALUES (%s)", [os.getpid()])
    pathlib.Path(f"held-{job.attempt}").touch()
    while not pathlib.Path("go").exists():
        time.sleep(0.005)

pgq.handler("bounded", transaction=True, timeout=1.5)(held)
pgq.handler("held", transaction=True)(held)
pgq.handler("next")(lambda job: None)
"""
# As in docs/operations.md.
END_SESSION = """
SELECT pg_terminate_backend(a.pid)
FROM pgq_jobs AS j
JOIN pg_stat_activity AS a ON a.application_name = left('pgq ' || j.worker, 63)
WHERE j.state = 'running' AND j.lease_until < now() AND a.datname = current_database()
  AND a.state = 'idle in transaction'
"""


@pytest.mark.happens("a worker is frozen with a transactional job")
@pytest.mark.parametrize("ended_by", ["timeout", "operator", None])
def test_a_frozen_worker_keeps_a_transactional_job_only_for_as_long_as_its_session_lives(
    conn: Connection, queue: Queue, start: Start, tmp_path: Path, ended_by: str | None
) -> None:
    """Until then the job is overdue. Its effect is there once, by whichever worker commits it."""
    conn.execute("CREATE TABLE effect (worker integer)")
    (tmp_path / "frozen.py").write_text(FROZEN)
    queue.enqueue("bounded" if ended_by == "timeout" else "held", backoff="0")
    first = start("frozen", "--lease", "1s", "--name", "first")
    eventually((tmp_path / "held-1").exists)
    first.send_signal(signal.SIGSTOP)
    eventually(lambda: [one["overdue"] for one in Views(conn).workers()] == [1])
    second = start("frozen", "--lease", "1m", "--name", "second")
    if ended_by == "operator":
        assert conn.execute(END_SESSION.encode()).fetchall() == [(True,)]
    if ended_by is not None:
        eventually((tmp_path / "held-2").exists)
        assert [one["overdue"] for one in Views(conn).workers()] == [0, 0]
    else:
        # The second worker claims, and so looks for jobs to rescue.
        for n in range(2):
            queue.enqueue("next", n)
            eventually(lambda: len(jobs(conn)) == 1)
        assert [one["overdue"] for one in Views(conn).workers()] == [1, 0]
    first.send_signal(signal.SIGCONT)
    (tmp_path / "go").touch()
    eventually(lambda: "running" not in [state for _, state, _ in jobs(conn)])
    for process in (first, second):
        process.terminate()
    logs = [process.communicate(timeout=30)[1] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0)
    winner = first if ended_by is None else second
    assert conn.execute("SELECT worker FROM effect").fetchall() == [(winner.pid,)]
    assert ("done 1 " in logs[0]) == (ended_by is None)
