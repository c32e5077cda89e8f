"""A worker with several processes: a dead child is replaced, and all children end with their supervisor."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.database import Connection, jobs, one
from support.processes import Start
from support.threads import eventually

from pgq import Queue
from pgq.process.health import READY, REFUSED
from pgq.process.supervisor import Child, Supervisor


def pids(conn: Connection) -> list[int]:
    """Return the processes of the present workers."""
    return [row[0] for row in conn.execute("SELECT pid FROM pgq_workers WHERE present").fetchall()]


def both(conn: Connection) -> list[int]:
    """Return both processes, once they are present."""
    return eventually(lambda: found if len(found := pids(conn)) == 2 else [])


def is_running(pid: int) -> bool:
    """Return whether there is such a process that is not a zombie."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_children_do_the_work_and_end_with_their_supervisor(
    conn: Connection,
    queue: Queue,
    start: Start,
    tmp_path: Path,
) -> None:
    """Each of the two runs a job; a stop lets both finish, and the exit code is 0."""
    queue.enqueue_many([{"kind": "slow", "args": n} for n in range(2)])
    process = start("--processes", "2", "--batch", "1")
    eventually(lambda: len(list(tmp_path.glob("begun-*"))) == 2)
    children = pids(conn)
    assert len(children) == 2
    assert process.pid not in children
    process.terminate()
    for n in range(2):
        (tmp_path / f"go-{n}").touch()
    assert process.wait(30) == 0
    assert jobs(conn) == []
    assert not any(map(is_running, children))


def test_a_ctrl_c_reaches_each_child_once(
    conn: Connection,
    queue: Queue,
    start: Start,
    tmp_path: Path,
) -> None:
    """A terminal sends it to the whole process group, and the running jobs still finish."""
    queue.enqueue("slow", 0)
    process = start("--processes", "2", start_new_session=True)
    eventually((tmp_path / "begun-0-1").exists)
    os.killpg(process.pid, signal.SIGINT)
    # Long enough for the supervisor to send a second one, which would end the job.
    time.sleep(0.3)
    (tmp_path / "go-0").touch()
    assert process.wait(30) == 0
    assert jobs(conn) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_all_children(
    conn: Connection,
    queue: Queue,
    start: Start,
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    """The running job is released, and its attempt does not count."""
    enqueued = queue.enqueue("slow", 0)
    process = start("--processes", "2")
    eventually((tmp_path / "begun-0-1").exists)
    both(conn)
    process.send_signal(number)
    # Two signals sent in a row may arrive as one. Once the idle child is gone, the first one has arrived.
    eventually(lambda: len(pids(conn)) == 1)
    process.send_signal(number)
    assert process.wait(30) == 128 + number
    assert jobs(conn) == [(enqueued.id, "waiting", 0)]


@pytest.mark.happens("ends its process")
def test_a_child_that_dies_is_logged_and_replaced(conn: Connection, start: Start) -> None:
    """The log names the signal, and the other child goes on."""
    process = start("--processes", "2")
    first, second = both(conn)
    os.kill(first, signal.SIGKILL)
    eventually(lambda: len(set(pids(conn)) - {first}) == 2)
    assert second in pids(conn)
    process.terminate()
    _, log = process.communicate(timeout=30)
    assert f"worker process {first} was killed by SIGKILL, the next one starts in 0.5 s" in log
    assert process.returncode == 0


def test_children_end_when_their_supervisor_is_killed(conn: Connection, start: Start) -> None:
    """They notice it and stop as after a signal."""
    process = start("--processes", "2")
    children = both(conn)
    process.kill()
    eventually(lambda: not any(map(is_running, children)))
    assert one(conn, "SELECT count(*) FROM pgq_worker_session") == 0


def test_an_error_at_import_ends_the_supervisor(start: Start, tmp_path: Path) -> None:
    """There is a traceback and one clear error for each child, no restart, and the exit code of the child."""
    (tmp_path / "broken.py").write_text("import nothing_of_this_name")
    process = start("broken", "--processes", "2")
    _, log = process.communicate(timeout=30)
    assert process.returncode == 1
    assert 1 <= log.count("pgq: cannot import broken: ModuleNotFoundError: No module named 'nothing_of_this_name'") <= 2
    assert 'broken.py", line 1, in <module>' in log
    assert "importlib" not in log
    assert "next one starts" not in log


@pytest.mark.parametrize(
    ("source", "how", "code"),
    [
        ("import sys\nsys.exit(0)\n", None, 1),
        ("import os\nos._exit(0)\n", "ended with exit code 0", 1),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n", "was killed by SIGKILL", 1),
    ],
)
def test_children_that_die_at_import_are_not_replaced_for_ever(
    start: Start, tmp_path: Path, source: str, how: str | None, code: int
) -> None:
    """After three in a row for each child the supervisor ends, and says why."""
    (tmp_path / "broken.py").write_text(f"open('imports', 'a').write('x')\n{source}")
    process = start("broken", "--processes", "2")
    _, log = process.communicate(timeout=30)
    assert process.returncode == code
    if how is not None:
        assert re.findall(
            r"worker process \d+ (.*) before it worked, as those before it: none is started again", log
        ) == [how]
        assert 6 <= len((tmp_path / "imports").read_text()) <= 8
    else:
        assert "cannot import broken: it calls sys.exit(0)" in log


def test_children_that_cannot_start_any_longer_end_the_supervisor(
    conn: Connection, start: Start, tmp_path: Path
) -> None:
    """A module may change after the first children have imported it."""
    process = start("--processes", "2", "--health-file", "health")
    children = both(conn)
    # The supervisor makes it when it knows that both work.
    eventually((tmp_path / "health").exists)
    (tmp_path / "tasks.py").write_text("1 / 0\n")
    for child in children:
        os.kill(child, signal.SIGKILL)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "ended with exit code 1 before it worked, as those before it: none is started again" in log


def test_a_child_that_has_run_max_jobs_is_replaced(
    conn: Connection,
    queue: Queue,
    start: Start,
    tmp_path: Path,
) -> None:
    """The next child starts at once; when the queue is drained all children end."""
    queue.enqueue_many([{"kind": "slow", "args": n} for n in range(6)])
    for n in range(6):
        (tmp_path / f"go-{n}").touch()
    process = start("--processes", "2", "--max-jobs", "1", "--drain")
    _, log = process.communicate(timeout=30)
    assert process.returncode == 0, log
    assert jobs(conn) == []
    assert len(re.findall("stopped$", log, flags=re.MULTILINE)) >= 6
    assert "next one starts" not in log


def test_readiness_is_notified_once_all_children_are_ready(
    conn: Connection,
    start: Start,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The supervisor alone sends it, with a plain datagram, and later that it stops."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(15)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        # The second child to start is slow.
        (tmp_path / "uneven.py").write_text(
            "import os, time\n"
            "late = time.monotonic() + 20\n"
            "try: os.open('first', os.O_CREAT | os.O_EXCL)\n"
            "except FileExistsError:\n"
            "    while not os.path.exists('go') and time.monotonic() < late: time.sleep(0.01)\n"
        )
        process = start("uneven", "--processes", "2")
        eventually(lambda: len(pids(conn)) == 1)
        manager.settimeout(0.7)
        with pytest.raises(TimeoutError):
            manager.recv(100)
        manager.settimeout(15)
        (tmp_path / "go").touch()
        assert manager.recv(100) == b"READY=1"
        assert len(pids(conn)) == 2
        process.terminate()
        assert manager.recv(100) == b"STOPPING=1"
        assert process.wait(30) == 0
        manager.setblocking(False)
        with pytest.raises(BlockingIOError):
            manager.recv(100)


@pytest.mark.happens("ends its process")
def test_the_restart_backoff_grows_with_each_death(monkeypatch: pytest.MonkeyPatch) -> None:
    """It grows to half a minute, and is reset by a child that has lived for a while."""
    now = [0.0]
    monkeypatch.setattr("pgq.process.supervisor.monotonic", lambda: now[0])
    supervisor = Supervisor(["true"], 1, grace=1)
    supervisor._all_were_ready = True
    pauses: list[float] = []

    def die(after: float) -> None:
        place.process = subprocess.Popen([sys.executable, "-c", ""])
        place.process.wait()
        place.lifeline, _ = socket.socketpair()
        place.started_at = now[0]
        place.messages = READY
        now[0] += after
        assert supervisor.on_exit(place, -9) is None
        pauses.append(place.start_at - now[0])

    place = Child()
    for _ in range(8):
        die(after=1)
    die(after=60)
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 0.5]


@pytest.mark.happens("the server refuses its role, its password or its database")
@pytest.mark.parametrize(("said", "ends_after"), [(READY + REFUSED, 1), (REFUSED, 3), (b"", None)])
def test_a_refusal_that_lasts_ends_the_supervisor(
    monkeypatch: pytest.MonkeyPatch, said: bytes, ends_after: int | None
) -> None:
    """A child that has worked has waited for a minute; the successors of another one are refused for as long."""
    now = [0.0]
    monkeypatch.setattr("pgq.process.supervisor.monotonic", lambda: now[0])
    supervisor = Supervisor(["true"], 1, grace=1)
    supervisor._any_was_ready = True
    (place,) = supervisor.children
    ended = None
    for turn in range(1, 6):
        place.process = subprocess.Popen([sys.executable, "-c", "import sys; sys.exit(3)"])
        place.process.wait()
        place.lifeline, place.messages = None, said
        place.start_at = float("inf")
        if ended is None and supervisor.turn() == 3:
            ended = turn
        now[0] += 31
    assert ended == ends_after


@pytest.mark.parametrize(("said", "code"), [(READY, None), (b"", 3)], ids=["worked", "never worked"])
def test_a_child_without_a_connection_is_replaced_if_any_has_worked(said: bytes, code: int | None) -> None:
    """This holds even if the child that worked is gone before the other one starts."""
    supervisor = Supervisor([sys.executable, "-c", "import sys; sys.exit(3)"], 2, grace=1)
    place = supervisor.children[0]
    place.lifeline, child = socket.socketpair()
    place.lifeline.setblocking(False)
    place.process = subprocess.Popen([sys.executable, "-c", ""])
    place.process.wait()
    with child:
        child.send(said)
        supervisor.read(place)
    assert supervisor.on_exit(place, -signal.SIGKILL) is None
    supervisor.start(place)
    assert place.process is not None
    assert supervisor.on_exit(place, place.process.wait()) == code


def test_a_successor_that_cannot_be_started_leaves_the_others_alone() -> None:
    """It is tried again: the machine may be out of processes for a moment."""
    supervisor = Supervisor([sys.executable, "-c", "import signal; signal.pause()"], 2, grace=1)
    supervisor._any_was_ready = True
    first, second = supervisor.children
    supervisor.start(first)
    command, supervisor.command = supervisor.command, ["/no/such/program"]
    try:
        assert supervisor.turn() is None
        assert first.process is not None
        assert second.process is None
        second.start_at, supervisor.command = 0.0, command
        assert supervisor.turn() is None
        assert second.process is not None
    finally:
        supervisor.kill()


def test_a_program_that_is_not_there_ends_the_supervisor() -> None:
    """At once if none has worked, and otherwise when it was tried three times in each place."""
    with pytest.raises(FileNotFoundError):
        Supervisor(["/no/such/program"], 1, grace=1).turn()
    supervisor = Supervisor(["/no/such/program"], 1, grace=1)
    supervisor._any_was_ready = True
    (place,) = supervisor.children
    for _ in range(2):
        assert supervisor.turn() is None
        place.start_at = 0.0
    with pytest.raises(FileNotFoundError):
        supervisor.turn()


def in_a_pid_namespace() -> bool:
    """Return whether a process can be the first one of a PID namespace here."""
    unshare = shutil.which("unshare")
    return (
        unshare is not None
        and subprocess.run([unshare, "--pid", "--fork", "true"], capture_output=True, check=False).returncode == 0
    )


@pytest.mark.skipif(not in_a_pid_namespace(), reason="no PID namespace can be made here")
@pytest.mark.parametrize("options", [(), ("--processes", "2")], ids=["alone", "supervisor"])
def test_a_worker_stops_as_the_first_process_of_a_container(
    conn: Connection,
    dsn: str,
    tmp_path: Path,
    options: tuple[str, ...],
) -> None:
    """For such a process, signals without a handler have no effect."""
    (tmp_path / "tasks.py").write_text("import pgq\npgq.handler('k')(lambda job: None)\n")
    pgq = str(Path(sys.executable).with_name("pgq"))
    process = subprocess.Popen(
        ["unshare", "--pid", "--fork", "--kill-child", pgq, "--dsn", dsn, "worker", "tasks", *options],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        eventually(lambda: len(pids(conn)) == max(1, len(options)))
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGTERM)
        _, log = process.communicate(timeout=30)
        assert process.returncode == 0, log
        assert pids(conn) == []
    finally:
        process.kill()
        process.communicate()
