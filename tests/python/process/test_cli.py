"""The command line: each command, its exit code, and errors in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import psycopg
import pytest
from support.database import Connection, jobs, one
from support.processes import TASKS, Done, installed, invoke

from pgq import Queue, WorkerQueue
from pgq.cli import main

Run = Callable[..., Done]


@pytest.fixture
def run(dsn: str) -> Run:
    """
    Return a function that runs a command on the database of the test and checks its exit code.

    With ``cwd`` it runs in a process of its own.
    """

    def run(*arguments: str, code: int = 0, cwd: Path | None = None) -> Done:
        there = ("--dsn", dsn, *arguments)
        done = invoke(*there) if cwd is None else installed(*there, cwd=cwd)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


@pytest.fixture
def bare(conn: Connection) -> Connection:
    """The database of the test, without pgq."""
    conn.execute("DROP SCHEMA public CASCADE")
    conn.execute("CREATE SCHEMA public")
    return conn


def test_help_names_every_command() -> None:
    done = installed("--help")
    assert done.returncode == 0
    for command in (
        "install", "upgrade", "uninstall", "version", "enqueue", "worker", "list", "show", "stats",
        "ps", "retry", "cancel", "purge", "grant", "revoke", "configure", "queues", "pause", "resume",
        "schedule", "schedules", "result", "update", "signal", "batches",
        "enqueue-batch", "doctor", "metrics", "top", "web",
    ):  # fmt: skip
        assert f"\n  {command} " in done.stdout
        assert invoke(command, "--help").returncode == 0


def test_each_command_works_as_a_process(dsn: str, bare: Connection, tmp_path: Path) -> None:
    """The other tests run most commands without a process of their own."""
    (tmp_path / "tasks.py").write_text(TASKS)
    (tmp_path / "jobs.json").write_text("[]")
    bare.execute("CREATE ROLE clerk")
    steps = [
        (["install"], 0, "installed"),
        (["upgrade"], 0, ""),
        (["version"], 0, "driver"),
        (["doctor"], 0, "warning"),
        (["top", "--once"], 0, "doctor: "),
        (["enqueue", "k"], 0, "1\n"),
        (["result", "1"], 0, "waiting"),
        (["update", "1", "--priority", "3"], 0, "1 2"),
        (["signal", "1", "go"], 0, "1 go"),
        (["list"], 0, "waiting"),
        (["show", "1"], 0, "waiting"),
        (["stats"], 0, "default"),
        (["ps"], 0, "name"),
        (["cancel", "1"], 0, "1 cancelled\n"),
        (["retry", "1"], 0, "1 retry\n"),
        (["purge"], 0, "0 purged\n"),
        (["configure", "default", "max_retries=3"], 0, "max_retries=3\n"),
        (["queues"], 0, "max_retries=3"),
        (["pause", "default"], 0, "paused\n"),
        (["resume", "default"], 0, "resumed\n"),
        (["schedule", "set", "s", "@yearly", "k"], 0, "00:00"),
        (["schedules"], 0, "@yearly"),
        (["enqueue-batch", "k", "{}", "jobs.json"], 0, "\n"),
        (["batches"], 0, "failed"),
        (["worker", "tasks", "--drain"], 0, ""),
        (["grant", "clerk", "reader"], 0, ""),
        (["revoke", "clerk", "reader"], 0, ""),
        (["show", "404"], 1, "pgq: "),
        (["show", "x"], 2, "Usage:"),
        (["uninstall", "--force"], 0, "removed"),
    ]
    try:
        for arguments, code, printed in steps:
            done = installed("--dsn", dsn, *arguments, cwd=tmp_path)
            assert (done.returncode, printed in (done.stderr if code else done.stdout)) == (code, True), done
            assert "Traceback" not in done.stderr
    finally:
        bare.execute("DROP OWNED BY clerk")
        bare.execute("DROP ROLE clerk")
    assert installed("--dsn", f"host={tmp_path}", "stats").returncode == 3
    # They serve until they are stopped; test_metrics.py and test_web_mounted.py have them.
    assert {arguments[0] for arguments, _, _ in steps} == set(main.commands) - {"metrics", "web"}


def test_enqueue_has_an_option_for_each_argument_of_the_function(run: Run, conn: Connection) -> None:
    """It prints the id, and whether the job was waiting already."""
    at = datetime.fromisoformat("2040-01-31T12:00:00+01:00")
    options = ["--queue", "q", "--at", at.isoformat(), "--priority", "2", "--max-retries", "3", "--backoff", "90s",
               "--backoff-cap", "2h", "--dedup-key", "x", "--group", "g", "--after-failed", "run"]  # fmt: skip
    first = run("enqueue", "mail", '{"to": "ann"}', *options).stdout
    job_id = int(first)
    assert run("enqueue", "mail", "--queue", "q", "--dedup-key", "x").stdout == f"{job_id} (waiting already)\n"
    assert conn.execute(
        "SELECT id, queue, kind, args, ripe_at, priority, max_retries, backoff, backoff_cap, dedup_key, group_key "
        "FROM pgq_waiting"
    ).fetchall() == [
        (job_id, "q", "mail", {"to": "ann"}, at, 2, 3, timedelta(seconds=90), timedelta(hours=2), "x", "g")
    ]  # fmt: skip
    assert run("enqueue", "mail", "--queue", "q", "--dedup-key", "x", "--no-dedup").stdout.strip().isdigit()
    twin = ["enqueue", "mail", "--queue", "q", "--dedup-key", "x", "--on-duplicate", "error"]
    assert f"job {job_id} is waiting already" in run(*twin, code=1).stderr
    assert one(conn, "SELECT count(*) FROM pgq_waiting") == 2
    window = ["enqueue", "once", "--dedup-for", "1h"]
    assert run(*window).stdout.strip() + " (enqueued already)\n" == run(*window).stdout
    run("enqueue", "later", "--delay", "1.5h")
    assert one(conn, "SELECT ripe_at - enqueued_at FROM pgq_waiting WHERE kind = 'later'") == timedelta(hours=1.5)


def test_a_job_after_others_is_blocked_shown_and_cancelled(run: Run) -> None:
    """The command names them by their ids; cancelling one cancels what is to run after it."""
    first, second = (run("enqueue", "k", str(n)).stdout.strip() for n in range(2))
    last = run("enqueue", "last", "--after", first, "--after", second, "--after-failed", "wait").stdout.strip()
    twin = run("enqueue", "last", "--after", second, "--after", first, "--after-failed", "wait").stdout
    assert twin == f"{last} (enqueued already)\n"
    assert f"after        {first}, {second}\n" in run("show", last).stdout
    assert [job["id"] for job in json.loads(run("list", "--state", "blocked", "--json").stdout)] == [int(last)]
    assert json.loads(run("stats", "--json").stdout)[1]["blocked"] == 1
    tail = run("enqueue", "tail", "--after", last).stdout.strip()
    assert run("cancel", last).stdout == f"{last} cancelled\n"
    assert "is dead or cancelled" in run("show", tail).stdout
    assert "has been no job 99" in run("enqueue", "k", "--after", "99", code=1).stderr


@pytest.mark.parametrize("delay", ["90m", "5400s", "1.5h", "90 minutes", "1 hour 30 minutes", "01:30:00", "PT1H30M"])
def test_a_delay_is_a_short_duration_or_an_interval(run: Run, conn: Connection, delay: str) -> None:
    """The short form is the command line's own; any other is for PostgreSQL to read, as in Queue.enqueue."""
    run("enqueue", "k", "--delay", delay, "--backoff", delay, "--backoff-cap", delay)
    assert conn.execute("SELECT ripe_at - enqueued_at, backoff, backoff_cap FROM pgq_waiting").fetchall() == [
        (timedelta(hours=1.5),) * 3
    ]


def test_an_interval_that_postgresql_cannot_read_is_refused(run: Run, conn: Connection) -> None:
    """The message is PostgreSQL's own."""
    assert 'invalid input syntax for type interval: "soon"' in run("enqueue", "k", "--delay", "soon", code=1).stderr
    assert 'interval: "long ago"' in run("purge", "--older-than", "long ago", code=1).stderr
    assert one(conn, "SELECT count(*) FROM pgq_waiting") == 0


@pytest.mark.parametrize("lease", ["10m", "600s", "10 minutes", "9 min 60 secs", "600000 milliseconds"])
def test_a_worker_takes_both_forms_of_a_duration(run: Run, queue: Queue, tmp_path: Path, lease: str) -> None:
    """Python must be able to count the units in seconds."""
    (tmp_path / "tasks.py").write_text(
        "import pgq\npgq.handler('k')(lambda job: print(job.lease_until - job.ripe_at - job.waited, flush=True))\n"
    )
    queue.enqueue("k")
    options = ["--lease", lease, "--poll", "1 second", "--grace", "5s", "--drain", "--transaction-pooler"]
    assert run("worker", "tasks", *options, cwd=tmp_path).stdout == "0:10:00\n"


@pytest.mark.parametrize("size", ["3MB", "3mb", "3000000", "3000 kB", "2929KiB"])
def test_a_worker_takes_sizes_with_units(run: Run, conn: Connection, tmp_path: Path, size: str) -> None:
    """Of jobs of a megabyte each, a claim of three megabytes takes three."""
    (tmp_path / "tasks.py").write_text(
        "import pgq\n@pgq.handler('k', batch=9)\ndef k(jobs): print(len(jobs), flush=True)\n"
    )
    conn.execute("SELECT pgq_enqueue('k', to_jsonb(repeat(n::text, 1000000))) FROM generate_series(1, 3) AS n")
    conn.execute("SELECT pgq_enqueue('k')")
    assert run("worker", "tasks", "--batch-bytes", size, "--drain", cwd=tmp_path).stdout == "3\n1\n"


@pytest.mark.parametrize("size", ["0", "3 apples", "-1", "2GiB", "1.5MB", ""])
def test_a_size_that_makes_no_sense_is_refused(run: Run, size: str) -> None:
    """It is wrong usage."""
    assert "--batch-bytes" in run("worker", "tasks", "--batch-bytes", size, code=2).stderr


def test_ps_shows_the_workers(run: Run, queue: WorkerQueue) -> None:
    """They hold jobs, or have registered."""
    queue.enqueue("k")
    queue.claim(worker="busy")
    queue.register("idle", ["default"], "here", 7, ["l", "m"])
    rows = {row["name"]: row for row in json.loads(run("ps", "--json").stdout)}
    assert (rows["busy"]["running"], rows["busy"]["kinds"]) == (1, ["k"])
    assert (rows["idle"]["running"], rows["idle"]["host"], rows["idle"]["pid"]) == (0, "here", 7)
    assert (rows["busy"]["handles"], rows["idle"]["handles"]) == (None, ["l", "m"])
    assert len(run("ps").stdout.splitlines()) == 3


def test_stats_show_kinds_that_no_present_worker_handles(run: Run, queue: WorkerQueue) -> None:
    """They do so in the table and in JSON."""
    queue.enqueue_many([{"kind": kind} for kind in ("k", "l")])
    queue.register("w", ["default"], kinds=["l"])
    assert {row["kind"]: row["handled"] for row in json.loads(run("stats", "--json").stdout)} == {"k": False, "l": True}
    heading, k, l_ = (line.split() for line in run("stats").stdout.splitlines())
    assert (heading[-1], k[-1], l_[-1]) == ("handled", "no", "yes")


def test_list_show_and_stats_print_tables_and_json(run: Run, queue: WorkerQueue) -> None:
    """Programs can read the JSON; a table has a heading, and a line for each row."""
    done, dead = queue.enqueue_many([{"kind": "a", "args": "x"}, {"kind": "b", "max_retries": 0}])
    for job in queue.claim(max_jobs=2, worker="me"):
        if job.id == done.id:
            queue.complete(job, "kept")
        else:
            queue.fail(job, "no such address")
    listed = json.loads(run("list", "--json").stdout)
    assert [(row["id"], row["state"]) for row in listed] == [(dead.id, "dead"), (done.id, "done")]
    assert datetime.fromisoformat(listed[0]["ended_at"]).tzinfo
    assert [row["id"] for row in json.loads(run("list", "--state", "dead", "--json").stdout)] == [dead.id]
    assert len(run("list", "--limit", "1").stdout.splitlines()) == 2
    assert run("list").stdout.splitlines()[0].split()[:3] == ["id", "state", "queue"]

    shown: dict[str, Any] = json.loads(run("show", str(dead.id), "--json").stdout)
    assert (shown["errors"][0]["error"], shown["errors"][0]["worker"]) == ("no such address", "me")
    text = run("show", str(dead.id)).stdout
    assert "no such address" in text
    assert "dead" in text
    assert json.loads(json.loads(run("show", str(done.id), "--json").stdout)["result"]) == "kept"

    counts = {row["kind"]: (row["done"], row["dead"]) for row in json.loads(run("stats", "--json").stdout)}
    assert counts == {"a": (1, 0), "b": (0, 1)}
    assert len(run("stats").stdout.splitlines()) == 3
    ever = {row["kind"]: row for row in json.loads(run("stats", "--ever", "--json").stdout)}
    assert {kind: (row["enqueued"], row["done"], row["dead"]) for kind, row in ever.items()} == {
        "a": (1, 1, 0), "b": (1, 0, 1)
    }  # fmt: skip
    assert run("stats", "--ever").stdout.splitlines()[0].split()[:3] == ["queue", "kind", "enqueued"]


def test_cancel_retry_and_purge_move_jobs(run: Run, queue: Queue) -> None:
    """Each prints what it has done."""
    a, b = (queue.enqueue(kind).id for kind in "ab")
    assert run("cancel", str(a), str(b)).stdout == f"{a} cancelled\n{b} cancelled\n"
    assert run("retry", str(a)).stdout == f"{a} retry\n"
    assert jobs(queue.conn) == [(a, "waiting", 0), (b, "cancelled", 0)]
    assert run("purge").stdout == "0 purged\n"
    assert run("purge", "--older-than", "0s", "--state", "cancelled").stdout == "1 purged\n"


def test_version_shows_both_sides(run: Run) -> None:
    """The two versions are those of the driver and of the SQL in the database."""
    assert run("version").stdout.split() == ["driver", version("pgq-jobs"), "SQL", version("pgq-jobs")]


def test_a_refusal_is_one_line_and_exit_code_1(run: Run, queue: Queue) -> None:
    """A hint stands in a second line, and there is no traceback."""
    enqueued = queue.enqueue("k")
    for arguments in (
        ["cancel", "404"],
        ["show", "404"],
        ["retry", str(enqueued.id)],
        ["enqueue", "k", "--priority", "11"],
    ):
        lines = run(*arguments, code=1).stderr.splitlines()
        assert lines[0].startswith("pgq: ")
        assert [line.split(":")[0] for line in lines[1:]] == ["hint"]


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["enqueue"], ["enqueue", "k", "{"], ["enqueue", "k", "--delay", "5"], ["enqueue", "k", "--at", "x"],
     ["worker", "m", "--lease", "5"], ["worker", "m", "--lease", "10 moons"], ["worker", "m", "--poll", "-1 s"],
     ["list", "--state", "asleep"], ["worker"], ["worker", "m", "--batch", "0"], ["show", "x"]],
    ids=" ".join,
)  # fmt: skip
def test_wrong_usage_is_exit_code_2(run: Run, arguments: list[str]) -> None:
    """The program checks all arguments before it does anything."""
    assert "Usage:" in run(*arguments, code=2).stderr


def test_a_second_install_of_the_same_version_changes_nothing(run: Run, bare: Connection) -> None:
    """It says so, and is no error: a deployment may run it each time."""
    assert "installed" in run("install").stdout
    run("enqueue", "k")
    done = run("install")
    assert done.stdout == (
        f'pgq {version("pgq-jobs")} is already installed in the schema "public", from the plain script: nothing to do\n'
    )
    assert done.stderr == ""
    assert one(bare, "SELECT count(*) FROM pgq_waiting") == 1


@pytest.mark.parametrize("other", ["0.2.9", "99.0.0"])
def test_an_install_over_another_version_is_refused(run: Run, conn: Connection, other: str) -> None:
    """An upgrade does more than an installation, and SQL that is newer stays."""
    conn.execute(f"CREATE OR REPLACE FUNCTION pgq_version() RETURNS text LANGUAGE sql RETURN '{other}'".encode())
    assert f"pgq: pgq {other} is already installed" in run("install", code=1).stderr


def test_something_that_only_claims_to_be_pgq_is_not_taken_for_it(run: Run, bare: Connection) -> None:
    """Nor is it called, with the rights of the role that installs."""
    bare.execute(f"CREATE FUNCTION pgq_version() RETURNS text LANGUAGE sql RETURN '{version('pgq-jobs')}'".encode())
    assert "is already installed" in run("install", code=1).stderr


@pytest.mark.parametrize("name", ["jobs", 'my "Jobs"'])
def test_options_of_the_database_may_follow_the_command(dsn: str, bare: Connection, name: str) -> None:
    """Those after the command win over those before it."""
    for arguments in (
        ["--dsn", dsn, "install", "--schema", name],
        ["enqueue", "k", "--schema", name, "--dsn", dsn],
        ["--schema", "nowhere", "--dsn", "host=/nowhere", "cancel", "--schema", name, "1", "--dsn", dsn],
        ["--schema", name, "purge", "--dsn", dsn],
    ):
        done = invoke(*arguments)
        assert done.returncode == 0, done
    listed = json.loads(invoke("list", "--json", "--dsn", dsn, "--schema", name).stdout)
    assert [row["state"] for row in listed] == ["cancelled"]
    assert "there is no pgq" in invoke("uninstall", "--dsn", dsn, "--schema", "elsewhere").stderr
    steps = [step for one in main.commands.values() if isinstance(one, click.Group) for step in one.commands.values()]
    for command in [*main.commands.values(), *steps]:
        assert {"dsn", "schema"} <= {option.name for option in command.params}, command.name


def test_the_version_of_the_program_needs_no_database() -> None:
    assert invoke("--version").stdout == f"pgq {version('pgq-jobs')}\n"


def test_install_into_a_schema_of_any_name(run: Run, bare: Connection) -> None:
    """install creates the schema if needed, and every command finds pgq there."""
    name = 'my "Jobs"'
    run("--schema", name, "install")
    run("--schema", name, "enqueue", "k")
    assert [row["kind"] for row in json.loads(run("--schema", name, "stats", "--json").stdout)] == ["k"]
    assert "nothing to do" in run("--schema", name, "install").stdout
    assert one(bare, "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == 0


def test_install_print_writes_sql_that_any_client_can_run(bare: Connection) -> None:
    """It needs neither psql nor a database."""
    printed = invoke("install", "--print")
    assert printed.returncode == 0
    bare.execute(printed.stdout.encode())
    assert Queue(bare).enqueue("k").created


def test_a_database_without_pgq_says_what_to_do(run: Run, bare: Connection, tmp_path: Path) -> None:
    """Every command prints the hint, the worker included."""
    (tmp_path / "tasks.py").write_text("import pgq\npgq.handler('k')(print)\n")
    for arguments in (["stats"], ["enqueue", "k"], ["version"], ["worker", "tasks"]):
        assert "hint: Run pgq install" in run(*arguments, code=1, cwd=tmp_path).stderr


@pytest.mark.parametrize(
    ("source", "complaint"),
    [("import nonsense_indeed", "cannot import tasks: ModuleNotFoundError: No module named 'nonsense_indeed'"),
     ("def", "cannot import tasks: SyntaxError: invalid syntax"),
     ("1 / 0", "cannot import tasks: ZeroDivisionError: division by zero"),
     ("raise KeyboardInterrupt", "cannot import tasks: KeyboardInterrupt")],
)  # fmt: skip
def test_an_error_at_import_is_shown_with_its_traceback(dsn: str, tmp_path: Path, source: str, complaint: str) -> None:
    """It ends with the line of the module, and without the frames of pgq and of Python's import."""
    (tmp_path / "tasks.py").write_text(f"{source}\n")
    done = installed("--dsn", dsn, "worker", "tasks", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"pgq: {complaint}"
    assert f'File "{tmp_path}/tasks.py", line 1' in done.stderr
    assert done.stderr.count("File ") == 1


@pytest.mark.parametrize(
    ("source", "complaint"),
    [("x = 1", "tasks registers no handler"), ("raise SystemExit", "cannot import tasks: it calls sys.exit(None)"),
     ("import sys\nsys.exit(0)", "cannot import tasks: it calls sys.exit(0)"),
     ("import other", "cannot import tasks: it calls sys.exit('no')")],
)  # fmt: skip
def test_a_module_without_handlers_or_that_exits_is_refused(
    run: Run, tmp_path: Path, source: str, complaint: str
) -> None:
    """The worker refuses it before it claims a job."""
    (tmp_path / "other.py").write_text("import sys\nsys.exit('no')\n")
    (tmp_path / "tasks.py").write_text(source)
    refusal, hint = run("worker", "tasks", code=1, cwd=tmp_path).stderr.splitlines()
    assert refusal == f"pgq: {complaint}"
    assert hint.startswith("hint: ")


def test_a_module_that_does_not_exist_is_refused_in_one_line(run: Run, tmp_path: Path) -> None:
    error = run("worker", "nonsense_indeed", code=1, cwd=tmp_path).stderr
    assert error == "pgq: cannot import nonsense_indeed: ModuleNotFoundError: No module named 'nonsense_indeed'\n"


def test_purge_goes_on_until_no_old_job_is_left(run: Run, queue: WorkerQueue, conn: Connection) -> None:
    """It deletes more jobs than one call of the function does."""
    conn.execute("SELECT pgq_enqueue('k', to_jsonb(n), max_retries => 0) FROM generate_series(1, 10500) AS n")
    queue.claim(max_jobs=10_000)
    queue.claim(max_jobs=500)
    conn.execute("SELECT pgq_cancel_claimed(id, token) FROM pgq_running")
    assert run("purge", "--older-than", "0s").stdout == "10500 purged\n"
    with pytest.raises(psycopg.Error):
        queue.purge("no interval")


def test_grant_and_revoke_change_the_privileges_of_a_role(run: Run, conn: Connection) -> None:
    """With --queue they apply to these queues, without it to all."""
    conn.execute("CREATE ROLE clerk")
    try:
        run("grant", "clerk", "producer", "--queue", "a", "--queue", "b")
        run("grant", "clerk", "reader")
        given = "SELECT privilege, queues FROM pgq_permission ORDER BY privilege"
        assert conn.execute(given).fetchall() == [("producer", ["a", "b"]), ("reader", None)]
        run("revoke", "clerk", "producer", "--queue", "a")
        run("revoke", "clerk", "reader")
        assert conn.execute(given).fetchall() == [("producer", ["b"])]
        assert "there is no role" in run("grant", "no such role", "admin", code=1).stderr
    finally:
        conn.execute("DROP OWNED BY clerk")
        conn.execute("DROP ROLE clerk")


@pytest.mark.parametrize(
    ("options", "left"), [(["--all-queues"], []), (["--queue-prefix", "rep", "--queue-prefix", "x"], ["mail"])]
)
def test_a_worker_that_names_no_queue_drains_those_that_it_finds(
    run: Run, conn: Connection, tmp_path: Path, options: list[str], left: list[str]
) -> None:
    (tmp_path / "tasks.py").write_text("import pgq\npgq.handler('k')(print)\n")
    for queue in ("reports", "mail", "x"):
        Queue(conn).enqueue("k", queue=queue)
    run("worker", "tasks", "--drain", *options, cwd=tmp_path)
    assert one(conn, "SELECT array(SELECT queue FROM pgq_jobs)") == left


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--queue", "a", "--all-queues"], "exclude each other"),
        (["--queue", "a", "--queue-prefix", "b"], "exclude each other"),
        (["--all-queues", "--queue-prefix", "b"], "exclude each other"),
        (["--all-queues", "--until-empty"], "--until-empty takes --queue"),
    ],
)
def test_options_for_queues_that_do_not_go_together_are_refused(run: Run, options: list[str], message: str) -> None:
    assert message in run("worker", "tasks", *options, code=2).stderr
