"""What a handler does to its process: a dead worker process is replaced, and a live one can be stopped."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict
from support.database import Connection, jobs
from support.processes import COMMAND, Start
from support.threads import eventually

from pgq import Queue
from pgq.views import Views

TASKS = """
import ctypes, os, pathlib, resource, signal, threading, time
import pgq

kept = []


@pgq.around
def note(job, proceed):
    pathlib.Path(f"{job.kind}-{job.attempt}").write_text(str(os.getpid()))
    if job.attempt == 1:
        return proceed()


@pgq.handler("exit")
def exit_(job):
    os._exit(7)


@pgq.handler("kill", transaction=True)
def kill(job, conn):
    os.kill(os.getpid(), signal.SIGKILL)


@pgq.handler("crash")
def crash(job):
    ctypes.string_at(0)


def limit(spare):
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + spare,) * 2)


@pgq.handler("much memory")
def much_memory(job):
    limit(64 << 20)
    bytearray(1 << 30)


@pgq.handler("all memory")
def all_memory(job):
    limit(16 << 20)
    size = 1 << 20
    while True:
        try:
            kept.append(bytearray(size))
        except MemoryError:
            if size == 1:
                raise
            size >>= 1


@pgq.handler("fork")
def fork(job):
    if os.fork() != 0:
        os.wait()


@pgq.handler("thread")
def thread(job):
    threading.Thread(target=time.sleep, args=[600], name="left-behind").start()


@pgq.handler("next", transaction=True)
def following(job, conn):
    pass
"""
CHANGES = {
    "directory": "os.chdir('elsewhere'); os.rmdir(os.getcwd())",
    "environment": "os.environ.update(PGHOST='/nothing', PGDATABASE='nothing', PGSERVICE='nothing', PGUSER='nobody', "
    "PGSSLMODE='verify-full', PGOPTIONS='-c search_path=nothing', PGPASSFILE='nothing', HOME='/nothing', "
    "PGMINPROTOCOLVERSION='nonsense', PGTARGETSESSIONATTRS='standby')",
    "dictConfig": "logging.config.dictConfig({'version': 1})",
    "dictConfig without handlers": ""
    "logging.config.dictConfig({'version': 1, 'root': {'level': 'ERROR', 'handlers': []}})",
    "basicConfig": "logging.basicConfig(force=True, handlers=[logging.NullHandler()])",
    "stderr": "sys.stderr.close()",
    "no stderr": "sys.stderr = None",
    "descriptor of stderr": "os.close(2)",
    "stdout": "sys.stdout.close()",
    "recursion limit": "sys.setrecursionlimit(len(inspect.stack(0)) + 5)",
    "other settings": "socket.setdefaulttimeout(1e-9); os.umask(0o777); gc.disable(); "
    "locale.setlocale(locale.LC_ALL, ''); warnings.simplefilter('error'); sys.stdin = threading.excepthook = None",
}


@pytest.mark.happens("changes its process")
@pytest.mark.parametrize(
    ("what", "service"),
    [*((what, False) for what in CHANGES), ("directory", True), ("environment", True)],
)
def test_a_handler_that_changes_its_process_neither_diverts_nor_silences_the_worker(
    conn: Connection,
    dsn: str,
    queue: Queue,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    service: bool,
) -> None:
    """Its next connection goes to the same database, and its lines to the same log."""
    (tmp_path / "elsewhere").mkdir()
    given = conninfo_to_dict(dsn)
    if service:
        (tmp_path / "services").write_text("[here]\n" + "".join(f"{key}={value}\n" for key, value in given.items()))
        monkeypatch.setenv("PGSERVICEFILE", "services")
        monkeypatch.setenv("PGSERVICE", "here")
    else:
        for option, variable in {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "dbname": "PGDATABASE"}.items():
            monkeypatch.setenv(variable, str(given[option]))
    (tmp_path / "tasks.py").write_text(
        "import gc, inspect, locale, logging, logging.config, os, socket, sys, threading, warnings\nimport pgq\n"
        f"@pgq.handler('change')\ndef change(job):\n    {CHANGES[what]}\n"
        "@pgq.handler('next', transaction=True)\ndef following(job, conn):\n    pass\n"
    )
    queue.enqueue("change")
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [COMMAND, "worker", "tasks", "--poll", "100ms", "--health-file", "health"], cwd=tmp_path, stderr=log
        )
    try:
        eventually(lambda: jobs(conn) == [], "the first job is done")
        conn.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'pgq %'")
        following = queue.enqueue("next")
        eventually(lambda: jobs(conn) == [], "the second job is done")
        (tmp_path / "health").unlink()
        eventually((tmp_path / "health").exists)
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        text = (tmp_path / "log").read_text()
        print(text)
    assert re.search(rf"done 1 next in .*: job {following.id}\n", text)
    assert "stopped" in text.splitlines()[-1]


# Kinds that end their process, and how the supervisor's log describes that.
DEADLY = {
    "exit": "ended with exit code 7",
    "kill": "was killed by SIGKILL",
    "crash": "was killed by SIGSEGV",
}


def seconds_between(tmp_path: Path, kind: str) -> float:
    """Return the time from the first attempt to the second."""
    first, second = (tmp_path / f"{kind}-{attempt}" for attempt in (1, 2))
    return second.stat().st_mtime - first.stat().st_mtime


@pytest.mark.happens("ends its process")
def test_a_process_that_a_handler_ends_is_replaced_and_its_job_runs_again(
    conn: Connection, queue: Queue, start: Start, tmp_path: Path, grown_up: None
) -> None:
    """Another process runs the job within seconds, although the lease is five minutes. The attempt counts."""
    (tmp_path / "tasks.py").write_text(TASKS)
    process = start("--processes", "2", "--batch", "1")
    for kind in DEADLY:
        eventually(lambda: len([one for one in Views(conn).workers() if one["present"]]) == 2, seconds=30)
        queue.enqueue(kind)
        eventually(lambda: jobs(conn) == [], f"the job {kind} is done", seconds=20)
        # About two seconds, and slack.
        assert seconds_between(tmp_path, kind) < 6
        assert (tmp_path / f"{kind}-1").read_text() != (tmp_path / f"{kind}-2").read_text()
    process.terminate()
    _, log = process.communicate(timeout=30)
    assert process.returncode == 0
    assert re.findall(r"ERROR +worker process \d+ (.*?),", log) == list(DEADLY.values())


@pytest.mark.happens("uses up the memory")
@pytest.mark.parametrize("kind", ["much memory", "all memory"])
def test_a_handler_that_uses_up_the_memory_fails_or_ends_its_process(
    conn: Connection, queue: Queue, start: Start, tmp_path: Path, kind: str
) -> None:
    """One allocation that is too large raises MemoryError; when all memory is used up, the process may end."""
    (tmp_path / "tasks.py").write_text(TASKS)
    process = start("--processes", "2", "--batch", "1")
    enqueued = queue.enqueue(kind, backoff="0")
    eventually(lambda: [attempt for _, _, attempt in jobs(conn)] != [0])
    queue.enqueue_many({"kind": "next", "args": n} for n in range(5))
    eventually(lambda: jobs(conn) == [], f"{kind} is done", seconds=20)
    assert (tmp_path / f"{kind}-2").exists()
    process.terminate()
    _, log = process.communicate(timeout=30)
    assert process.returncode == 0
    if kind == "much memory":
        assert f"job {enqueued.id} {kind} attempt 1: retry" in log
        assert "after MemoryError" in log
        assert "worker process" not in log


@pytest.mark.happens("leaves a thread behind")
@pytest.mark.happens("forks, and the child returns")
def test_a_forked_child_and_a_thread_left_behind_do_not_act_as_workers(
    conn: Connection, queue: Queue, start: Start, tmp_path: Path
) -> None:
    """The child ends, the process goes on, and a stop does not wait for the thread for long."""
    (tmp_path / "tasks.py").write_text(TASKS)
    process = start()
    queue.enqueue_many([{"kind": "fork"}, {"kind": "thread"}, {"kind": "next"}])
    eventually(lambda: jobs(conn) == [])
    pids = {(tmp_path / f"{kind}-1").read_text() for kind in ("fork", "thread", "next")}
    assert pids == {str(process.pid)}
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=30)
    assert process.returncode == 0
    assert time.monotonic() - begun < 10
    assert "1 threads of handlers still run: left-behind" in log


def test_a_module_that_configures_logging_gets_the_lines_instead_of_standard_error(
    conn: Connection, queue: Queue, start: Start, tmp_path: Path
) -> None:
    """Its handler of the root logger gets each line once, although existing loggers are disabled by default."""
    (tmp_path / "configured.py").write_text(
        "import logging.config\nimport tasks\nlogging.config.dictConfig({'version': 1, 'handlers': {'file': {'class': "
        "'logging.FileHandler', 'filename': 'log'}}, 'root': {'level': 'ERROR', 'handlers': ['file']}})\n"
    )
    (tmp_path / "go-1").touch()
    enqueued = queue.enqueue("slow", 1)
    process = start("configured", "--drain")
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert errors == ""
    assert (tmp_path / "log").read_text().count(f": job {enqueued.id}\n") == 1
