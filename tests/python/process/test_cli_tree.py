"""The command line draws what a job waits for and what waits for it, and cancels all of it."""

from __future__ import annotations

import json

import pytest
from support.database import Connection, jobs, one
from support.processes import Done, invoke

from pgq import WorkerQueue
from pgq.cli import tree


def run(dsn: str, *arguments: str, code: int = 0) -> Done:
    """Run a command and check its exit code."""
    done = invoke(*arguments, "--dsn", dsn)
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def graph(queue: WorkerQueue) -> None:
    """Two fetches, a report after both, and a diamond after the report: 4 and 5, then 6, which is also after 1."""
    queue.enqueue("fetch", "a", queue="q")
    queue.enqueue("fetch", "b", queue="q")
    queue.enqueue("report", after=[1, 2])
    queue.enqueue("mail", after=[3])
    queue.enqueue("store", after=[3], after_failed="run")
    queue.enqueue("tidy", after=[1, 4, 5], after_failed="wait")
    queue.enqueue("apart")


@pytest.mark.parametrize(
    ("job_id", "lines"),
    [
        (3, ["+- 1  fetch  waiting  q", "+- 2  fetch  waiting  q", "3  report  blocked  default",
             "+- 4  mail  blocked  default", "|  +- 6  tidy  blocked  default", "+- 5  store  blocked  default",
             "   +- see 6"]),
        (6, ["+- 1  fetch  waiting  q", "|     +- see 1", "|     +- 2  fetch  waiting  q",
             "|  +- 3  report  blocked  default", "+- 4  mail  blocked  default", "|  +- see 3",
             "+- 5  store  blocked  default", "6  tidy  blocked  default"]),
        (7, ["7  apart  waiting  default"]),
    ],
)  # fmt: skip
def test_a_job_is_drawn_once(dsn: str, graph: None, job_id: int, lines: list[str]) -> None:
    """Every other line that would lead to it names it."""
    assert run(dsn, "show", str(job_id), "--tree").stdout.splitlines() == lines


def test_json_has_the_jobs_of_the_drawing(dsn: str, graph: None) -> None:
    """The level says how many steps a job is before or after the one that is named."""
    shown = json.loads(run(dsn, "show", "3", "--tree", "--json").stdout)
    assert [(job["id"], job["level"], job["after"]) for job in shown] == [
        (1, -1, None), (2, -1, None), (3, 0, [1, 2]), (4, 1, [3]), (5, 1, [3]), (6, 2, [1, 4, 5])
    ]  # fmt: skip
    assert shown[0] == {"id": 1, "kind": "fetch", "state": "waiting", "queue": "q", "after": None, "level": -1}


def test_a_tree_of_a_job_that_is_gone(dsn: str, graph: None) -> None:
    assert run(dsn, "show", "404", "--tree", code=1).stderr.startswith("pgq: there is no job 404\nhint: Check")


@pytest.mark.parametrize("columns", ["80", "65"])
def test_a_long_chain_fits_the_terminal(
    dsn: str, queue: WorkerQueue, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    """From the ninth level on a line begins with its level; kinds and queues are cut."""
    monkeypatch.setenv("COLUMNS", columns)
    queue.enqueue("k" * 60, queue="q" * 60)
    for n in range(1, 12):
        queue.enqueue("k" * 60, queue="q" * 60, after=[n])
    below = run(dsn, "show", "1", "--tree").stdout.splitlines()
    above = run(dsn, "show", "12", "--tree").stdout.splitlines()
    assert len(below) == len(above) == 12
    assert {len(line) for line in [*below, *above]} == {int(columns)}
    assert [line.split("  ")[0] for line in below[-3:]] == ["[9]", "[10]", "[11]"]
    assert below[8].startswith(" " * 21 + "+- 9  kk")
    assert below[9].startswith("[9]" + " " * 21 + "+- 10  kk")
    assert above[0].startswith("[11]" + " " * 20 + "+- 1  kk")


def test_the_nearest_jobs_are_drawn_and_the_others_counted(
    dsn: str, queue: WorkerQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a wide nor a deep graph makes a drawing long, and links that are left out lead to nothing."""
    monkeypatch.setattr(tree, "MOST", 3)
    fan = [job.id for job in queue.enqueue_many({"kind": "fan", "args": n} for n in range(5))]
    queue.enqueue("middle", after=fan)
    for n in range(6, 11):
        queue.enqueue("chain", after=[n])
    done = run(dsn, "show", "6", "--tree")
    assert done.stdout.splitlines() == [
        *(f"+- {n}  fan  waiting  default" for n in (1, 2, 3)), "6  middle  blocked  default",
        *(f"{' ' * 3 * n}+- {7 + n}  chain  blocked  default" for n in range(3)),
    ]  # fmt: skip
    assert done.stderr.splitlines() == [
        "pgq: job 6 waits for 5 jobs, directly or not; the nearest 3 are shown",
        "pgq: 5 jobs wait for it, directly or not; the nearest 3 are shown",
    ]
    as_json = run(dsn, "show", "6", "--tree", "--json")
    assert [job["id"] for job in json.loads(as_json.stdout)] == [1, 2, 3, 6, 7, 8, 9]
    assert as_json.stderr == done.stderr


@pytest.mark.parametrize("first", ["waiting", "running"])
def test_cancel_takes_all_that_waits_with_it(dsn: str, conn: Connection, queue: WorkerQueue, first: str) -> None:
    """Also jobs that were to run after a failed one, or to wait: none is unblocked, and others are left alone."""
    queue.enqueue("first", queue="q")
    queue.enqueue("other")
    queue.enqueue("run", after=[1], after_failed="run")
    queue.enqueue("wait", after=[1, 3], after_failed="wait")
    queue.enqueue("cancel", after=[2, 4])
    queue.enqueue("apart", after=[2])
    if first == "running":
        queue.claim(["q"])
    before = jobs(conn)
    dry = run(dsn, "cancel", "1", "--tree", "--dry-run")
    assert jobs(conn) == before
    told = "pgq: 3 other jobs wait for what is named, directly or not\n"
    assert (dry.stdout.split("\n"), dry.stderr) == ([*(f"{n} would be cancelled" for n in (5, 4, 3, 1)), ""], told)
    conn.execute("CREATE TABLE unblocked (id bigint)")
    conn.execute(
        "CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN INSERT INTO public.unblocked VALUES (new.id); RETURN NULL; END$$"
    )
    conn.execute("CREATE TRIGGER see AFTER INSERT ON pgq_waiting FOR EACH ROW EXECUTE FUNCTION see()")
    done = run(dsn, "cancel", "1", "--tree")
    end = "requested" if first == "running" else "cancelled"
    assert (done.stdout, done.stderr) == (f"5 cancelled\n4 cancelled\n3 cancelled\n1 {end}\n", told)
    states = {job_id: state for job_id, state, _ in jobs(conn)}
    root = "running" if first == "running" else "cancelled"
    assert states == {1: root, 2: "waiting", 3: "cancelled", 4: "cancelled", 5: "cancelled", 6: "blocked"}
    assert one(conn, "SELECT count(*) FROM unblocked") == 0


def test_cancel_by_a_filter_takes_what_waits(dsn: str, conn: Connection, graph: None) -> None:
    """A job that is named twice, itself and by what it waits for, is cancelled once."""
    done = run(dsn, "cancel", "--kind", "fetch", "--tree")
    assert done.stdout.splitlines() == [f"{n} cancelled" for n in (6, 4, 5, 3, 1, 2)]
    assert done.stderr.splitlines()[0].startswith("pgq: 4 other jobs wait")
    assert done.stderr.splitlines()[1] == "pgq: 6 jobs cancelled"
    assert run(dsn, "cancel", "3", "1", "--tree", code=1).stdout == ""


def test_cancel_goes_on_below_a_job_that_has_failed(dsn: str, conn: Connection, queue: WorkerQueue) -> None:
    """The job itself is refused, and what has waited for its retry is cancelled."""
    queue.enqueue("first")
    queue.enqueue("wait", after=[1], after_failed="wait")
    queue.cancel(1)
    done = run(dsn, "cancel", "1", "--tree", code=1)
    assert done.stdout == "2 cancelled\n"
    assert "pgq: job 1 is cancelled and cannot be cancelled\n" in done.stderr
