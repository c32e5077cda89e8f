"""Worker processes with async handlers: how they stop, and what becomes of the jobs of a killed one."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from support.database import Connection, jobs, one
from support.processes import Start
from support.threads import eventually

from pgq import NewJob, Queue

TASKS = """
import asyncio, os, pathlib, subprocess, sys, time
import pgq


async def go(job):
    pathlib.Path(f"begun-{job.args}-{job.attempt}").touch()
    deadline = time.monotonic() + 60
    while not pathlib.Path(f"go-{job.args}").exists() and time.monotonic() < deadline:
        await asyncio.sleep(0.005)


@pgq.handler("slow")
async def slow(job):
    await go(job)


@pgq.handler("write", transaction=True)
async def write(job, conn):
    await conn.execute("INSERT INTO effect VALUES (%s)", [job.args])
    await go(job)


@pgq.handler("block")
async def block(job):
    pathlib.Path(f"begun-{job.args}-{job.attempt}").touch()
    time.sleep(60)


waiting, forks = [], asyncio.Event()


@pgq.handler("fork")
async def fork(job):
    while len(waiting) < 20:
        await asyncio.sleep(0.01)
    # The event loop runs all of these next, after this one.
    loop = asyncio.get_running_loop()
    first = loop.create_future()
    loop.call_soon(lambda: (first.set_result(None), forks.set()))
    await first
    child = os.fork()
    if child == 0:
        # Whatever the child awaits, it runs no other job, and ends.
        if job.args:
            await asyncio.sleep(0)
        return
    await asyncio.sleep(0)
    for _ in range(1000):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        await asyncio.sleep(0.01)
    assert os.waitstatus_to_exitcode(status) == 1
    return child


@pgq.handler("note")
async def note(job):
    waiting.append(job)
    await forks.wait()
    with open("notes", "a") as notes:
        notes.write(f"{os.getpid()} {job.args}\\n")


@pgq.handler("pool")
async def pool(job):
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(1) as processes:
        return await asyncio.get_running_loop().run_in_executor(processes, abs, -5)


@pgq.handler("program")
async def program(job):
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "print(7)", stdout=subprocess.PIPE)
    out, _ = await process.communicate()
    return int(out)
"""


@pytest.fixture
def start_async(conn: Connection, start: Start, tmp_path: Path) -> Start:
    """Start workers with async handlers."""
    conn.execute("CREATE TABLE effect (n int)")
    (tmp_path / "tasks.py").write_text(TASKS)
    return start


@pytest.mark.happens("it is told to stop")
def test_a_worker_finishes_its_async_handlers(
    conn: Connection, queue: Queue, start_async: Start, tmp_path: Path
) -> None:
    """Those that have not begun go back."""
    queue.enqueue_many({"kind": ("slow", "write")[n % 2], "args": n} for n in range(5))
    process = start_async("--concurrency", "2")
    eventually(lambda: len(list(tmp_path.glob("begun-*"))) == 2)
    process.send_signal(signal.SIGTERM)
    for n in (0, 1):
        (tmp_path / f"go-{n}").touch()
    _, log = process.communicate(timeout=30)
    assert process.returncode == 0, log
    assert [(state, attempt) for _, state, attempt in jobs(conn)] == [("waiting", 0)] * 3
    assert one(conn, "SELECT array_agg(n) FROM effect") == [1]


@pytest.mark.slow
@pytest.mark.happens("it is told to stop twice")
@pytest.mark.parametrize("kinds", [("slow", "write"), ("block", "slow")])
@pytest.mark.parametrize("how", ["a second signal", "grace"])
def test_a_worker_that_does_not_wait_releases_the_jobs_of_async_handlers(
    conn: Connection,
    queue: Queue,
    start_async: Start,
    tmp_path: Path,
    how: str,
    kinds: tuple[str, str],
) -> None:
    """Their attempts do not count, and what they have written is rolled back, also while one blocks the event loop."""
    queue.enqueue_many({"kind": kind, "args": n, "priority": 9 - n} for n, kind in enumerate(kinds))
    process = start_async("--concurrency", "2", "--grace", "0.2s" if how == "grace" else "60s")
    eventually(lambda: len(list(tmp_path.glob("begun-*"))) >= (1 if "block" in kinds else 2))
    deadline = time.monotonic() + 20
    process.send_signal(signal.SIGTERM)
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
        if how != "grace":
            process.send_signal(signal.SIGTERM)
    assert process.returncode == 128 + signal.SIGTERM
    assert [(state, attempt) for _, state, attempt in jobs(conn)] == [("waiting", 0)] * 2
    assert one(conn, "SELECT count(*) FROM effect") == 0


@pytest.mark.slow
@pytest.mark.happens("a worker is killed")
@pytest.mark.usefixtures("grown_up")
def test_the_jobs_of_async_handlers_of_a_killed_worker_are_rescued(
    conn: Connection, queue: Queue, start_async: Start, tmp_path: Path
) -> None:
    """Their writes are undone; another worker runs each alone, because the process held several."""
    queue.enqueue_many({"kind": ("slow", "write")[n % 2], "args": n, "max_retries": 0} for n in range(4))
    first = start_async("--concurrency", "4")
    eventually(lambda: len(list(tmp_path.glob("begun-*"))) == 4)
    first.kill()
    for n in range(4):
        (tmp_path / f"go-{n}").touch()
    start_async("--concurrency", "4")
    eventually(lambda: jobs(conn) == [])
    assert one(conn, "SELECT array_agg(n ORDER BY n) FROM effect") == [1, 3]


@pytest.mark.slow
@pytest.mark.happens("forks, and the child returns")
@pytest.mark.parametrize("awaits", [False, True])
def test_a_child_of_an_async_handler_ends(
    conn: Connection, queue: Queue, start_async: Start, tmp_path: Path, awaits: bool
) -> None:
    """It ends when it returns or awaits, and runs nothing of the jobs beside it."""
    beside: list[NewJob] = [{"kind": "note", "args": n} for n in range(20)]
    queue.enqueue_many([{"kind": "fork", "args": awaits}, *beside])
    process = start_async("--concurrency", "30", "--until-empty")
    _, log = process.communicate(timeout=60)
    assert process.returncode == 0, log
    assert [state for _, state, _ in jobs(conn)] == ["done"], conn.execute("SELECT errors FROM pgq_jobs").fetchall()
    notes = [line.split() for line in (tmp_path / "notes").read_text().splitlines()]
    assert {pid for pid, _ in notes} == {str(process.pid)}
    assert sorted(int(n) for _, n in notes) == list(range(20))


@pytest.mark.slow
def test_an_async_handler_may_use_processes(conn: Connection, queue: Queue, start_async: Start) -> None:
    ids = [queue.enqueue(kind).id for kind in ("pool", "program")]
    process = start_async("--concurrency", "2", "--until-empty")
    _, log = process.communicate(timeout=60)
    assert process.returncode == 0, log
    assert [queue.result(job).value for job in ids] == [5, 7], log
