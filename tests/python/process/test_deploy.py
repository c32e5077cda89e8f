"""The files of examples/deploy/: their own tools accept them, and their commands do what they are there for."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from postgres.debian import unpacked
from support.database import Connection, one
from support.paths import ROOT
from support.threads import eventually

from pgq import Queue
from pgq.cli.worker import worker
from pgq.process.supervisor import KILL_AFTER_GRACE

FILES = ROOT / "examples" / "deploy"
PROGRAMS = Path(sys.executable).parent
DOCKERFILE = (FILES / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((FILES / "compose.yaml").read_text())
POD = yaml.safe_load((FILES / "kubernetes.yaml").read_text())["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
UNIT = dict(re.findall(r"^(\w+)=(.*)$", (FILES / "pgq-worker.service").read_text(), flags=re.MULTILINE))
PROCFILE = dict(line.split(": ", 1) for line in (FILES / "Procfile").read_text().splitlines())
ALIVE = "/tmp/alive"
GRACE = worker.params[[one.name for one in worker.params].index("grace")].default

Begin = Callable[[list[str]], "subprocess.Popen[str]"]


def docker(instruction: str) -> str:
    """Return what follows an instruction of the Dockerfile."""
    joined = DOCKERFILE.replace("\\\n", "")
    return next(line.split(" ", 1)[1] for line in joined.splitlines() if line.startswith(f"{instruction} "))


# The commands that run a worker.
WORKERS = {
    "docker": json.loads(docker("CMD")),
    "compose": COMPOSE["services"]["worker"]["command"],
    "systemd": shlex.split(UNIT["ExecStart"]),
    "kubernetes": CONTAINER["args"],
    "procfile": ["sh", "-c", PROCFILE["worker"]],
}
# The commands of probes; all but the first one pass only while the worker does its work.
PROBES = {
    "kubernetes startup": CONTAINER["startupProbe"]["exec"]["command"],
    "kubernetes liveness": CONTAINER["livenessProbe"]["exec"]["command"],
    "docker": json.loads(docker("HEALTHCHECK").split(" CMD ")[1]),
}


def check(*command: str | Path, **env: str) -> None:
    """Run a program that checks a file. Fails the test with what it prints, unless it accepts the file."""
    done = subprocess.run(command, env=os.environ | env, cwd=FILES, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in (done.stdout + done.stderr).lower()


def test_docker_accepts_its_file() -> None:
    check(PROGRAMS / "hadolint", "--failure-threshold", "style", "Dockerfile")


def test_the_compose_file_fits_its_specification() -> None:
    check(PROGRAMS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml")


def test_the_manifest_fits_the_schema_of_kubernetes() -> None:
    check(PROGRAMS / "kubernetes-validate", "--strict", "kubernetes.yaml")


def test_the_procfile_is_one() -> None:
    check(PROGRAMS / "honcho", "--procfile", "Procfile", "check")


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """All but the path of the program, which must exist."""
    program, libraries = shutil.which("systemd-analyze"), ""
    if program is None:
        if (tree := unpacked("systemd", re.compile("systemd"), dependencies=True)) is None:
            pytest.fail("systemd is not installed, and its Debian packages cannot be fetched")
        program = str(next(tree.glob("**/bin/systemd-analyze")))
        libraries = os.pathsep.join({str(path.parent) for path in tree.glob("**/lib*/**/*.so*")})
    path = tmp_path / "pgq-worker.service"
    path.write_text((FILES / path.name).read_text().replace("/srv/app/.venv/bin/pgq", str(PROGRAMS / "pgq")))
    check(program, "verify", "--man=no", "--recursive-errors=no", path, LD_LIBRARY_PATH=libraries)


@pytest.fixture
def begin(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Begin]:
    """Start a command of the files, in the directory of the application, and kill it at the end."""
    shutil.copy(FILES / "tasks.py", tmp_path)
    monkeypatch.setenv("PGQ_DSN", dsn)
    monkeypatch.setenv("PATH", f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}")
    running: list[subprocess.Popen[str]] = []

    def begin(command: list[str]) -> subprocess.Popen[str]:
        words = [re.sub("^/srv/app/.venv/bin", str(PROGRAMS), here(word, tmp_path)) for word in command]
        running.append(subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return running[-1]

    yield begin
    for process in running:
        process.kill()
        print(process.communicate())


def here(word: str, directory: Path) -> str:
    """Return a word of a command with the health file in a directory of its own."""
    return word.replace(ALIVE, str(directory / "alive"))


@pytest.mark.slow
@pytest.mark.parametrize("where", WORKERS)
def test_the_command_of_a_worker_runs_jobs_until_it_is_told_to_stop(
    where: str, begin: Begin, conn: Connection, queue: Queue
) -> None:
    """One SIGTERM to the process that has been started is enough, and the exit code is 0."""
    queue.enqueue("mail", {"to": "ann"})
    process = begin(WORKERS[where])
    eventually(lambda: one(conn, "SELECT done FROM pgq_counters WHERE kind = 'mail'") == 1)
    process.send_signal(signal.SIGTERM)
    output, log = process.communicate(timeout=30)
    assert (process.returncode, output) == (0, "to ann, attempt 1\n"), log


def test_systemd_is_told_that_the_worker_is_ready_and_well_and_stops(
    begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command of the unit, in the environment that the unit asks systemd for."""
    assert UNIT["Type"] == "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(float(UNIT["WatchdogSec"]))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", f"{float(UNIT['WatchdogSec']) * 1e6:.0f}")
        process = begin(WORKERS["systemd"])
        assert manager.recv(100) == b"READY=1"
        for _ in range(3):
            assert manager.recv(100) == b"WATCHDOG=1"
        process.send_signal(signal.SIGTERM)
        while (told := manager.recv(100)) != b"STOPPING=1":
            assert told == b"WATCHDOG=1"
        assert process.wait(float(UNIT["TimeoutStopSec"])) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBES)
def test_a_probe_passes_while_the_worker_does_its_work(name: str, begin: Begin, tmp_path: Path) -> None:
    """It fails before the worker has begun and, if it is about more than the start, when the worker hangs."""

    def passes() -> bool:
        command = [here(word, tmp_path) for word in PROBES[name]]
        return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0

    assert not passes()
    process = begin(WORKERS["kubernetes"])
    eventually(passes)
    process.send_signal(signal.SIGSTOP)
    os.utime(tmp_path / "alive", (0, 0))
    assert passes() == (name == "kubernetes startup")
    process.send_signal(signal.SIGCONT)
    eventually(passes)


def test_each_service_manager_waits_longer_than_a_worker_takes_to_stop() -> None:
    """For the handlers, which have --grace, and then for processes that do not end."""
    assert GRACE == "25s"
    assert "--grace" not in " ".join(word for where in WORKERS if where != "procfile" for word in WORKERS[where])
    waits = [
        float(COMPOSE["services"]["worker"]["stop_grace_period"].removesuffix("s")),
        float(UNIT["TimeoutStopSec"]),
        POD["terminationGracePeriodSeconds"],
    ]
    assert min(waits) > timedelta(seconds=25 + KILL_AFTER_GRACE).total_seconds()


@pytest.mark.slow
@pytest.mark.parametrize("command", [COMPOSE["services"]["install"]["command"], shlex.split(PROCFILE["release"])])
def test_the_step_before_the_workers_installs(command: list[str], begin: Begin, conn: Connection) -> None:
    """A second time it changes nothing, and is no error."""
    conn.execute("DROP SCHEMA public CASCADE")
    conn.execute("CREATE SCHEMA public")
    for _ in range(2):
        process = begin(command)
        _, log = process.communicate(timeout=60)
        assert process.returncode == 0, log
    assert one(conn, "SELECT count(*) FROM pgq_jobs") == 0


@pytest.mark.slow
def test_the_pages_are_served_until_they_are_told_to_stop(begin: Begin) -> None:
    """On another port than that of the file, which may be taken here; the check of the container asks for a page."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    service = COMPOSE["services"]["web"]
    assert service["ports"] == ["127.0.0.1:8740:8740"]
    process = begin([*service["command"], "--port", port])
    first, *check = service["healthcheck"]["test"]
    assert first == "CMD"
    words = [word.replace("8740", port) for word in check]
    eventually(lambda: subprocess.run(words, stderr=subprocess.DEVNULL, check=False).returncode == 0)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


@pytest.mark.slow
def test_honcho_runs_the_worker_of_the_procfile(begin: Begin, conn: Connection, queue: Queue, tmp_path: Path) -> None:
    """Until it is told to stop."""
    shutil.copy(FILES / "Procfile", tmp_path)
    queue.enqueue("mail", {"to": "ann"})
    process = begin(["honcho", "start", "worker"])
    eventually(lambda: one(conn, "SELECT done FROM pgq_counters WHERE kind = 'mail'") == 1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert "to ann, attempt 1" in output
    assert "worker.1 stopped (rc=0)" in output


def test_the_image_has_what_its_worker_needs() -> None:
    """The Dockerfile copies files that are there; the extras of the driver bring libpq and what the pages need."""
    copied = [word for line in DOCKERFILE.splitlines() if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert all((FILES / name).exists() for name in copied)
    needed: list[Any] = (FILES / "requirements.txt").read_text().split()
    assert needed == ["pgq-jobs[binary,web]"]
