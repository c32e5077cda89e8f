"""Processes that handlers fork, such as pools: they are no part of their worker, and do it no harm."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.database import Connection, jobs, one
from support.processes import Start
from support.threads import Thread, eventually
from support.workers import MakeWorker, drain

from pgq import Handlers, Job, Queue
from pgq.process.forks import withheld
from pgq.views import Views
from pgq.worker.loop import Loop

TASKS = """
import multiprocessing, os, pathlib, signal, subprocess, sys, time
from concurrent.futures import ProcessPoolExecutor
import pgq

fork = multiprocessing.get_context("fork")
kept = []


def keep_pools():
    # The processes of both pools exist when this returns.
    if not kept:
        kept.extend([fork.Pool(1), ProcessPoolExecutor(1, mp_context=fork)])
    return [kept[0].apply(os.getpid), kept[1].submit(os.getpid).result()]


def wait(job, pids):
    pathlib.Path("pids.tmp").write_text(" ".join(map(str, pids)))
    os.rename("pids.tmp", f"pids-{job.attempt}-{os.getpid()}")
    deadline = time.monotonic() + 60
    while not pathlib.Path("go").exists() and time.monotonic() < deadline:
        time.sleep(0.005)


def orphan():
    # Unlike the process of a Pool, it does not notice that its parent is gone. A signal must not come before it says
    # that it runs: Python ignores what the handler of the signal raises while it forks.
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(told, b".")
        signal.pause()
        os._exit(1)
    os.read(ready, 1)
    os.close(ready)
    os.close(told)
    return pid


@pgq.handler("pools")
def pools(job):
    wait(job, keep_pools())


@pgq.handler("executor")
def executor(job):
    kept.append(ProcessPoolExecutor(1, mp_context=fork))
    wait(job, [kept[0].submit(os.getpid).result(), orphan()])


@pgq.handler("process")
def process(job):
    kept.append(fork.Process(target=signal.pause))
    kept[0].start()
    wait(job, [kept[0].pid])


@pgq.handler("plain")
def plain(job):
    wait(job, [*keep_pools(), orphan()])


@pgq.handler("transaction", transaction=True)
def transaction(job, conn):
    wait(job, [*keep_pools(), orphan()])


@pgq.handler("next", transaction=True)
def following(job, conn):
    pass


def sockets():
    links = set()
    for file in os.listdir("/proc/self/fd"):
        try:
            links.add(os.readlink(f"/proc/self/fd/{file}"))
        except OSError:
            pass
    return {link for link in links if link.startswith("socket:")}


PROGRAM = [sys.executable, "-c", "import tasks; print(*tasks.sockets(), file=open('started', 'w'))"]


def report():
    pathlib.Path("started").write_text(" ".join(sockets()))


def tell_handlers():
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    pathlib.Path("started").write_text(str(handlers == [signal.SIG_DFL, signal.default_int_handler]))


@pgq.handler("handlers")
def handlers(job):
    process = multiprocessing.get_context(job.args).Process(target=tell_handlers)
    process.start()
    process.join()
    return pathlib.Path("started").read_text()


STARTS = {
    "subprocess": lambda: subprocess.run(PROGRAM, close_fds=False, check=True),
    "posix_spawn": lambda: os.waitpid(os.posix_spawn(PROGRAM[0], PROGRAM, os.environ), 0),
    "system": lambda: os.system(f"{PROGRAM[0]} -c \\"{PROGRAM[2]}\\""),
}


@pgq.handler("start")
def start(job):
    mine = sockets()
    if job.args in STARTS:
        STARTS[job.args]()
    else:
        process = multiprocessing.get_context(job.args).Process(target=report)
        process.start()
        process.join()
    return sorted(mine & set(pathlib.Path("started").read_text().split()))
"""
IN_TIME = 15.0


def is_running(pid: int) -> bool:
    """Return whether there is such a process that is not a zombie."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def begun(tmp_path: Path) -> Iterator[Callable[[int], list[int]]]:
    """
    Wait until that many handlers wait for the file "go", and return the processes that they have forked.

    Those that still run at the end are killed.
    """
    (tmp_path / "tasks.py").write_text(TASKS)
    forked: set[int] = set()

    def begun(count: int) -> list[int]:
        files = eventually(lambda: found if len(found := sorted(tmp_path.glob("pids-*"))) == count else [])
        pids = [int(pid) for file in files for pid in file.read_text().split()]
        forked.update(pids)
        return pids

    yield begun
    for pid in filter(is_running, forked):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.happens("leaves a process behind")
@pytest.mark.parametrize("kind", ["plain", "transaction"])
def test_the_job_of_a_killed_worker_is_rescued_while_its_pools_live(
    conn: Connection,
    queue: Queue,
    start: Start,
    tmp_path: Path,
    begun: Callable[[int], list[int]],
    grown_up: None,
    kind: str,
) -> None:
    """The server sees at once that the worker is gone: its children do not hold its connections."""
    queue.enqueue(kind)
    victim = start("--name", "victim", "--lease", "1h")
    children = begun(1)
    heir = start("--name", "heir")
    eventually(lambda: [one for one in Views(conn).workers() if one["present"] and one["name"].startswith("heir:")])
    # The first claim of a session looks for no worker that is gone.
    queue.enqueue("next")
    eventually(lambda: len(jobs(conn)) == 1)
    victim.kill()
    killed_at = time.monotonic()
    begun(2)
    # The promise is two seconds; a loaded machine gets more.
    assert time.monotonic() - killed_at < 6
    assert any(map(is_running, children))
    (tmp_path / "go").touch()
    eventually(lambda: jobs(conn) == [])
    heir.terminate()
    assert heir.wait(30) == 0


@pytest.mark.happens("leaves a process behind")
def test_a_signal_to_a_child_reaches_the_child_only(
    conn: Connection, queue: Queue, start: Start, tmp_path: Path, begun: Callable[[int], list[int]]
) -> None:
    """It ends the child; the worker does not take it for its own, and goes on."""
    queue.enqueue("plain")
    worker = start()
    *_, child = begun(1)
    os.kill(child, signal.SIGTERM)
    eventually(lambda: not is_running(child))
    (tmp_path / "go").touch()
    queue.enqueue("next")
    eventually(lambda: jobs(conn) == [])
    assert worker.poll() is None
    worker.terminate()
    _, log = worker.communicate(timeout=30)
    assert worker.returncode == 0, log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_process_group_counts_once(
    conn: Connection,
    queue: Queue,
    start: Start,
    tmp_path: Path,
    begun: Callable[[int], list[int]],
    number: signal.Signals,
) -> None:
    """Ctrl-C reaches the children, too. They do not pass it on to the worker, whose job finishes."""
    # A Pool would start another process for each that ends.
    queue.enqueue("executor")
    worker = start(start_new_session=True)
    children = begun(1)
    os.killpg(worker.pid, number)
    eventually(lambda: not any(map(is_running, children)))
    (tmp_path / "go").touch()
    _, log = worker.communicate(timeout=30)
    assert worker.returncode == 0, log
    assert jobs(conn) == []


@pytest.mark.happens("leaves a process behind")
@pytest.mark.parametrize("options", [(), ("--processes", "2")], ids=["alone", "supervisor"])
def test_a_stop_ends_a_worker_and_its_pools_in_time(
    conn: Connection,
    queue: Queue,
    start: Start,
    tmp_path: Path,
    begun: Callable[[int], list[int]],
    options: tuple[str, ...],
) -> None:
    """Python ends the processes of pools when the worker exits, and they do not ignore that."""
    processes = max(1, len(options))
    queue.enqueue_many({"kind": "pools", "args": n} for n in range(processes))
    worker = start("--batch", "1", *options)
    children = begun(processes)
    (tmp_path / "go").touch()
    eventually(lambda: jobs(conn) == [])
    assert all(map(is_running, children))
    worker.terminate()
    stopped_at = time.monotonic()
    _, log = worker.communicate(timeout=30)
    assert worker.returncode == 0, log
    eventually(lambda: not any(map(is_running, children)))
    assert time.monotonic() - stopped_at < IN_TIME


def test_workers_with_pools_notice_that_their_supervisor_was_killed(
    conn: Connection, queue: Queue, start: Start, tmp_path: Path, begun: Callable[[int], list[int]]
) -> None:
    """They finish their jobs and end, and so do the processes of their pools."""
    queue.enqueue_many({"kind": "pools", "args": n} for n in range(2))
    supervisor = start("--processes", "2", "--batch", "1")
    children = begun(2)
    supervisor.kill()
    eventually(lambda: one(conn, "SELECT count(*) FROM pgq_running") == 2)
    (tmp_path / "go").touch()
    eventually(lambda: one(conn, "SELECT count(*) FROM pgq_worker_session") == 0)
    eventually(lambda: not any(map(is_running, children)))
    assert jobs(conn) == []


@pytest.mark.parametrize("how", ["subprocess", "posix_spawn", "system", "spawn", "forkserver"])
def test_a_program_that_a_handler_starts_inherits_no_socket(
    conn: Connection, queue: Queue, start: Start, tmp_path: Path, begun: Callable[[int], list[int]], how: str
) -> None:
    """Neither a connection nor a lifeline, even without ``close_fds``."""
    enqueued = queue.enqueue("start", how)
    worker = start("--processes", "2")
    eventually(lambda: [state for _, state, _ in jobs(conn)] == ["done"])
    assert Views(conn).job(enqueued.id)["result"] == "[]"
    worker.terminate()
    assert worker.wait(30) == 0


@pytest.mark.parametrize("how", ["fork", "spawn", "forkserver"])
def test_a_process_of_multiprocessing_has_the_signal_handlers_of_any_program(
    conn: Connection, queue: Queue, start: Start, begun: Callable[[int], list[int]], how: str
) -> None:
    """Also one that imports pgq anew, with the arguments of ``pgq worker``."""
    enqueued = queue.enqueue("handlers", how)
    worker = start()
    eventually(lambda: [state for _, state, _ in jobs(conn)] == ["done"])
    assert Views(conn).job(enqueued.id)["result"] == '"True"'
    worker.terminate()
    assert worker.wait(30) == 0


def child(function: Callable[[], object]) -> int:
    """Fork a child that ends after the call, with status 0 unless the call raises; return its process id."""
    pid = os.fork()
    if pid == 0:
        try:
            function()
            os._exit(0)
        finally:
            os._exit(1)
    return pid


def status(pid: int, seconds: float = IN_TIME) -> int:
    """Return the exit code of a child; kill one that does not end in time, and fail."""
    ended: list[int] = []

    def has_ended() -> bool:
        number, code = os.waitpid(pid, os.WNOHANG)
        if number:
            ended.append(os.waitstatus_to_exitcode(code))
        return bool(ended)

    try:
        eventually(has_ended, seconds=seconds)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    return ended[0]


@pytest.mark.happens("leaves a process behind")
def test_a_stop_does_not_wait_long_for_a_process_that_is_left_behind(
    conn: Connection, queue: Queue, start: Start, tmp_path: Path, begun: Callable[[int], list[int]]
) -> None:
    """Python alone would wait for its end."""
    queue.enqueue("process")
    worker = start()
    begun(1)
    (tmp_path / "go").touch()
    eventually(lambda: jobs(conn) == [])
    worker.terminate()
    assert worker.wait(IN_TIME) == 0


@pytest.mark.happens("uses its connection in a child")
@pytest.mark.parametrize("batch", [None, 2])
def test_a_child_does_no_harm_to_the_transaction_of_its_parent(
    conn: Connection, queue: Queue, handlers: Handlers, loop: Loop, batch: int | None
) -> None:
    """A statement in the child fails, and a close reaches no server; the parent's transaction commits."""
    conn.execute("CREATE TABLE effect (what text)")
    codes: list[int] = []

    def misuse(inherited: Connection) -> None:
        for _ in range(2):
            with pytest.raises(psycopg.OperationalError):
                inherited.execute("INSERT INTO effect VALUES ('child')")
        with pytest.raises(psycopg.OperationalError), inherited.transaction():
            pass
        inherited.close()
        loop.session.close()
        gc.collect()

    @handlers.handler("forks", transaction=True, batch=batch)
    def forks(job: Job, conn: Connection) -> None:
        conn.execute("INSERT INTO effect VALUES ('before')")
        codes.append(status(child(lambda: misuse(conn))))
        conn.execute("INSERT INTO effect VALUES ('after')")

    for n in range(2):
        queue.enqueue("forks", n)
    loop.turn()
    sessions = [one.session.queue().conn.info.backend_pid for one in (loop, loop.executor)]
    drain(loop)
    assert codes == [0, 0]
    assert jobs(conn) == []
    assert conn.execute("SELECT what FROM effect").fetchall() == 2 * [("before",), ("after",)]
    assert [one.session.queue().conn.info.backend_pid for one in (loop, loop.executor)] == sessions


@pytest.mark.happens("forks, and the child returns")
def test_a_child_of_a_handler_waits_for_no_lock_of_the_worker(
    queue: Queue, conn: Connection, handlers: Handlers, make_worker: MakeWorker
) -> None:
    """Threads that hold the locks do not exist in it: ``extend`` and ``complete`` are refused, and a return ends it."""
    worker = make_worker()
    (loop,) = worker.loops
    codes: list[int] = []

    def use(job: Job) -> None:
        with pytest.raises(RuntimeError, match="only in the process of its worker"):
            job.extend()
        with pytest.raises(RuntimeError, match="only in the process of its worker"):
            job.complete(conn)

    @handlers.handler("forks", timeout=60)
    def forks(job: Job) -> None:
        locked, release = threading.Event(), threading.Event()

        def hold() -> None:
            with loop.session.lock, worker.presence.session.lock, loop.executor.interruption._lock:
                locked.set()
                release.wait(60)

        holder = Thread(hold)
        locked.wait()
        codes.append(status(child(lambda: use(job))))
        pid = os.fork()
        if pid == 0:
            return
        codes.append(status(pid))
        release.set()
        holder.result()

    queue.enqueue("forks")
    drain(loop)
    assert codes == [0, 1]
    assert jobs(conn) == []


def test_a_connection_that_a_child_may_have_inherited_is_replaced(conn: Connection, dsn: str) -> None:
    """A child that is forked while another thread connects may hold the new connection, so it is closed."""
    opened: list[Connection] = []
    children: list[int] = []

    def connect() -> Connection:
        opened.append(psycopg.connect(dsn, application_name="opened"))
        if len(opened) == 1:
            children.append(child(lambda: time.sleep(60)))
        return opened[-1]

    try:
        used = withheld(connect)
        assert [used is one for one in opened] == [False, True]
        assert opened[0].closed
        # The session of the first ends, although the child lives.
        eventually(lambda: one(conn, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'opened'") == 1)
        children.append(child(lambda: time.sleep(60)))
        with socket.socket(fileno=os.dup(used.fileno())) as copy:
            copy.shutdown(socket.SHUT_WR)
            used.close()
        eventually(lambda: one(conn, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'opened'") == 0)
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        for other in opened:
            other.close()


def test_an_application_around_a_worker_keeps_what_is_its_own(
    conn: Connection, queue: Queue, handlers: Handlers, make_worker: MakeWorker
) -> None:
    """The child of another thread has the application's signal handlers and connections, and none of the worker."""
    worker = make_worker()
    ran = threading.Event()
    handlers.handler("ran")(lambda job: ran.set())
    queue.enqueue("ran")
    thread = Thread(worker.run)

    def handle(*_: Any) -> None:
        pass

    before = signal.signal(signal.SIGTERM, handle)
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    wakeup = signal.set_wakeup_fd(writer.fileno())
    try:
        assert ran.wait(IN_TIME)
        files = [one.session.queue().conn.fileno() for one in (worker.presence, worker.loops[0])]

        def look() -> None:
            assert signal.getsignal(signal.SIGTERM) is handle
            # From Python 3.12 on asyncio takes it from each child.
            assert signal.set_wakeup_fd(-1) == (-1 if sys.version_info >= (3, 12) else writer.fileno())
            assert os.read(conn.fileno(), 0) == b""
            conn.execute("SELECT 1")
            for file in files:
                assert os.read(file, 1) == b""

        assert status(child(look)) == 0
        with worker.presence.session.lock:
            assert worker.presence.session.queue().conn.execute("SELECT 1").fetchone() == (1,)
        worker.stop()
        thread.result()
    finally:
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGTERM, before)
        reader.close()
        writer.close()


def test_a_child_gets_the_signal_handlers_from_before_the_worker(
    queue: Queue, handlers: Handlers, make_worker: MakeWorker
) -> None:
    """Those of the program that runs the worker; one that the handler itself has set stays."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
    worker = make_worker(max_jobs=1)
    found: list[int] = []

    def theirs(*_: Any) -> None:
        pass

    def its_own(*_: Any) -> None:
        pass

    def look() -> None:
        assert [signal.getsignal(number) for number in numbers] == [theirs, its_own, signal.SIG_DFL]
        assert signal.set_wakeup_fd(-1) == -1
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)

    @handlers.handler("forks", timeout=60)
    def forks(job: Job) -> None:
        of_worker = signal.signal(signal.SIGINT, its_own)
        found.append(status(child(look)))
        signal.signal(signal.SIGINT, of_worker)

    of_program: tuple[Any, ...] = (theirs, theirs, signal.SIG_DFL)
    before = [signal.signal(number, handler) for number, handler in zip(numbers, of_program, strict=True)]
    try:
        queue.enqueue("forks")
        worker.run()
        assert found == [0]
        assert [signal.getsignal(number) for number in numbers[:2]] == [theirs, theirs]
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
