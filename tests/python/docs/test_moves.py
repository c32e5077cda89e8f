"""
The pages about moves from other queues: their blocks are the files and the commands of both sides, which are run.

The first line of a block names its file, or the directory in which its commands run; blocks of one file are joined.
What the programs print is in the comments that begin with ``# ->``.
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict
from support.database import Connection, one
from support.pages import Page
from support.paths import ROOT
from support.redis import redis
from support.threads import eventually

pytestmark = pytest.mark.slow
VENV = "build/venv-moves"
# What runs until it is told to stop.
SERVICES = re.compile(r"\b(worker|pgq_worker|cron|qcluster)\b")


@dataclass
class Side:
    """One directory of a page: the old queue, the new one, or what drains the old one."""

    page: Page
    directory: Path
    env: dict[str, str]
    logs: list[Path] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name of the directory."""
        return self.directory.name

    def write(self) -> None:
        """Write the files of the page."""
        files: dict[Path, str] = {}
        for language, start in (("python", "#"), ("sql", "--")):
            for block in self.page.blocks(language):
                (name,) = re.findall(rf"\A{start} (\S+)\n", block)
                path = self.directory.parent / name
                if path.is_relative_to(self.directory):
                    files[path] = files.get(path, "") + block
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def commands(self) -> Iterator[str]:
        """Yield the commands of the page."""
        for block in self.page.blocks("sh"):
            first, *lines = block.splitlines()
            if first == f"# {self.name}":
                yield from lines

    def run(self, command: str) -> str:
        """Run a command, and return what it prints. Fails the test unless its exit code is 0."""
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.directory, env=self.env, capture_output=True, text=True, check=False,
            timeout=180,
        )  # fmt: skip
        assert done.returncode == 0, f"{self.name}: {command}\n{done.stdout}\n{done.stderr}\n{self.log()}"
        return done.stdout

    def log(self) -> str:
        """Return the ends of the logs of the services."""
        return "\n".join(f"{path.name}:\n{path.read_text(errors='replace')[-3000:]}" for path in self.logs)

    @contextmanager
    def services(self) -> Iterator[None]:
        """Run what serves until the end of the context, and stop it by one SIGTERM, as a service manager does."""
        with ExitStack() as stack:
            started = []
            for command in filter(SERVICES.search, self.commands()):
                self.logs.append(self.directory / f"service-{len(self.logs)}.log")
                log = stack.enter_context(self.logs[-1].open("wb"))
                process = subprocess.Popen(
                    ["bash", "-c", f"exec {command}"], cwd=self.directory, env=self.env, stdout=log, stderr=log,
                    start_new_session=True,
                )  # fmt: skip
                stack.callback(process.wait)
                stack.callback(self.kill, process)
                started.append((command, process))
            yield
            for _, process in started:
                process.send_signal(signal.SIGTERM)
            for command, process in started:
                assert process.wait(60) == 0, f"{command}\n{self.log()}"

    @staticmethod
    def kill(process: subprocess.Popen[bytes]) -> None:
        """Kill a service with all processes that it has started."""
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def check(self, program: str) -> None:
        """Run a program of the page, which prints what the page says."""
        said = [
            line
            for block in self.page.blocks("python")
            if block.startswith(f"# {self.name}/{program}\n")
            for line in re.findall(r"^ *# -> (.*)$", block, flags=re.MULTILINE)
        ]
        assert said
        command = f"python manage.py shell --verbosity 0 < {program}" if self.is_django else f"python {program}"
        assert self.run(command).splitlines() == said, f"{self.name}/{program}\n{self.log()}"

    def check_project(self) -> None:
        """Run what a page about Django has: migrations, the program, and the tests."""
        self.run("python manage.py migrate --verbosity 0")
        with self.services():
            self.check("calls.py")
            self.look()
        self.run("python manage.py test --noinput")

    @property
    def is_django(self) -> bool:
        """Whether the programs are those of a project in Django."""
        return (self.directory / "manage.py").exists()

    def look(self) -> None:
        """Run the commands that look at the queue."""
        for command in self.commands():
            if not SERVICES.search(command):
                self.run(command)


@pytest.fixture(scope="session")
def programs() -> Path:
    """The programs of an environment with the other queues, which is made if it is not there."""
    (ROOT / "build").mkdir(exist_ok=True)
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    with (ROOT / "build" / "moves.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(["make", "--silent", f"{VENV}/ready"], cwd=ROOT, env=env, check=True)
    return ROOT / VENV / "bin"


@dataclass(frozen=True)
class Move:
    """The directories of a page."""

    before: Side
    after: Side
    drain: Side


@pytest.fixture
def move(page: Page, programs: Path, dsn: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Move]:
    """The files of a page, on the database of the test, and on Redis where the old queue has it."""
    env = dict(os.environ)
    for name, value in conninfo_to_dict(dsn).items():
        env[{"dbname": "PGDATABASE"}.get(name, f"PG{name.upper()}")] = str(value)
    with ExitStack() as stack:
        if "REDIS_URL" in page.text:
            server = stack.enter_context(redis(tmp_path))
            env |= server.env | {"REDIS_URL": server.url}
        env["PATH"] = f"{programs}{os.pathsep}{env['PATH']}"
        sides = [Side(page, tmp_path / name, env) for name in ("before", "after", "drain")]
        for side in sides:
            side.directory.mkdir()
            side.write()
        yield Move(*sides)


def both(move: Move) -> None:
    """Run the programs, the commands and the tests of both sides."""
    for side in (move.before, move.after):
        with side.services():
            side.check("shop.py")
            side.look()


def run_tests(side: Side, other_dsn: str) -> None:
    """Run the tests of a side, in a database without jobs."""
    name = str(conninfo_to_dict(other_dsn)["dbname"])
    side.env["PGDATABASE"], before = name, side.env["PGDATABASE"]
    assert "1 passed" in side.run("python -m pytest -p no:cacheprovider test_tasks.py")
    side.env["PGDATABASE"] = before


@pytest.mark.parametrize("page", [Page("docs/moves/celery.md")], ids=["celery"])
def test_both_sides_of_the_move_from_celery(move: Move, conn: Connection, other_dsn: str) -> None:
    """What Celery has left when its producers have moved is passed on to pgq, once."""
    both(move)
    run_tests(move.before, other_dsn)
    run_tests(move.after, other_dsn)
    move.before.run("python -c 'from tasks import add; add.delay(20, 3)'")
    looks = [command for command in move.drain.commands() if command.startswith("redis-cli")]
    # Beat may have left a task behind, too.
    assert int(move.drain.run(looks[0])) >= 1
    with move.drain.services():
        query = "SELECT count(*) FROM pgq_jobs WHERE kind = 'add' AND args = '{\"a\": 20, \"b\": 3}'"
        eventually(lambda: one(conn, query) == 1)
        eventually(lambda: [int(move.drain.run(command)) for command in looks] == [0, 0])
    with move.after.services():
        eventually(lambda: one(conn, "SELECT count(*) FROM pgq_ended WHERE result = '23'") == 1)


@pytest.mark.parametrize("page", [Page("docs/moves/rq.md")], ids=["rq"])
def test_both_sides_of_the_move_from_rq(move: Move, conn: Connection, other_dsn: str) -> None:
    """What RQ has left when its producers have moved is passed on to pgq, once."""
    both(move)
    run_tests(move.before, other_dsn)
    run_tests(move.after, other_dsn)
    move.before.run('rq enqueue --url "$REDIS_URL" tasks.add %20 %3')
    left = int(move.drain.run("python left.py"))
    # The job of an hour from now is one of them.
    assert left == 2
    with move.drain.services():
        query = "SELECT count(*) FROM pgq_jobs WHERE kind = 'add' AND args = '{\"a\": 20, \"b\": 3}'"
        eventually(lambda: one(conn, query) == 1)
        eventually(lambda: int(move.drain.run("python left.py")) == 1)
    with move.after.services():
        eventually(lambda: one(conn, "SELECT count(*) FROM pgq_ended WHERE result = '23'") == 1)


@pytest.mark.parametrize("page", [Page("docs/moves/procrastinate.md")], ids=["procrastinate"])
def test_both_sides_of_the_move_from_procrastinate(move: Move, conn: Connection, other_dsn: str, psql: Path) -> None:
    """What waits there moves in one statement, with its time and its key, and runs once."""
    move.before.run("python -m procrastinate --app tasks.app schema --apply")
    both(move)
    run_tests(move.before, other_dsn)
    run_tests(move.after, other_dsn)
    # A job of an hour from now is there already, on both sides, and has a key.
    conn.execute("SELECT pgq_purge(), pgq_cancel(id) FROM pgq_jobs WHERE state = 'waiting'")
    move.before.run("python -c 'import tasks; tasks.app.open(); tasks.add.defer(a=20, b=3)'")
    moved = move.drain.run(f"{psql} -X -A -t -f move.sql").split()
    assert [line.split("|")[2] for line in moved] == ["t", "t"]
    assert move.drain.run(f"{psql} -X -A -t -f move.sql") == ""
    query = "SELECT args, dedup_key, ripe_at > now() + interval '50 minutes' FROM pgq_waiting ORDER BY args ->> 'a'"
    (now, later) = conn.execute(query).fetchall()
    assert (now[0], now[2]) == ({"a": 20, "b": 3}, False)
    assert later == ({"a": 3, "b": 3}, "three", True)
    with move.after.services():
        eventually(lambda: one(conn, "SELECT count(*) FROM pgq_ended WHERE result = '23'") == 1)
    assert one(conn, "SELECT count(*) FROM procrastinate_jobs WHERE status = 'todo' AND task_name = 'add'") == 0


# What startproject makes, and the page does not show.
SETTINGS = """
import os

SECRET_KEY = "of no use"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": os.environ["PGDATABASE"],
                         "USER": os.environ["PGUSER"], "HOST": os.environ["PGHOST"], "PORT": os.environ["PGPORT"]}}
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth"]
"""
MANAGE = """
import os, sys
from django.core.management import execute_from_command_line
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
execute_from_command_line(sys.argv)
"""


def complete(side: Side) -> None:
    """Add what the page does not show, and take the tasks from the package of that name where Django has none."""
    settings = side.directory / "settings.py"
    settings.write_text(SETTINGS + settings.read_text())
    (side.directory / "manage.py").write_text(MANAGE)
    (side.directory / "store" / "__init__.py").touch()
    if side.run("python -c 'import django; print(django.VERSION >= (6, 0))'") == "False\n":
        tasks = side.directory / "store" / "tasks.py"
        tasks.write_text(tasks.read_text().replace("django.tasks", "django_tasks"))
        if "TASKS" in settings.read_text():
            with settings.open("a") as file:
                file.write('INSTALLED_APPS += ["django_tasks"]\n')


@pytest.mark.parametrize("page", [Page("docs/moves/django-q2.md")], ids=["django-q2"])
def test_both_sides_of_the_move_from_django_q2(move: Move, conn: Connection) -> None:
    """What waits there moves in one transaction, and runs once."""
    conn.execute("DROP SCHEMA public CASCADE")
    conn.execute("CREATE SCHEMA public")
    for side in (move.before, move.after, move.drain):
        complete(side)
    move.before.check_project()
    move.after.check_project()
    code = "from django_q.tasks import async_task; async_task('store.tasks.add', 20, 3)"
    move.before.run(f'python manage.py shell --verbosity 0 --command "{code}"')
    assert move.drain.run("python manage.py shell --verbosity 0 < move.py") == "0 left\n"
    with move.after.services():
        query = "SELECT count(*) FROM pgq_jobs WHERE state = 'done' AND args -> 'args' = '[20, 3]'"
        eventually(lambda: one(conn, query) == 1)
