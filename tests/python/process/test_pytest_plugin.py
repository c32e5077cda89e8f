"""The fixtures for pytest, in test runs of their own."""

from __future__ import annotations

import pytest
from psycopg.conninfo import conninfo_to_dict
from support.database import Connection, one
from support.paths import ROOT
from support.servers import Place

pytest_plugins = ["pytester"]

CONFTEST = """
import psycopg, pytest
from pgq import Handlers, Queue, Snooze

own = Handlers()

@pytest.fixture
def pgq_connection():
    with psycopg.connect(autocommit={autocommit}) as conn:
        yield conn

@pytest.fixture
def pgq_handlers():
    return own

@pytest.fixture
def queue(pgq_connection):
    return Queue(pgq_connection, handlers=own)

@own.handler("mail")
def mail(job):
    if job.args["to"] == "bad":
        raise ValueError("no such address")
    return job.args["to"]
"""
PASSES = """
from datetime import UTC, datetime
import psycopg
from conftest import own

def test_jobs_run(pgq_jobs, queue, pgq_connection):
    queue.enqueue("mail", {"to": "bob", "copies": [1, {"a": 2}]})
    (job,) = pgq_jobs.enqueued("mail", args={"copies": [{"a": 2}]}, queue="default")
    assert (job["args"]["to"], job["attempt"], "same" in job) == ("bob", 0, False)
    assert pgq_jobs.drain() == {"done": 1}
    pgq_jobs.not_enqueued()

def test_nothing_is_left_of_the_test_before(pgq_jobs, queue):
    pgq_jobs.not_enqueued("mail")
    assert queue.enqueue("mail", {"to": "bad"}).created
    assert pgq_jobs.drain("other") == {}
    assert pgq_jobs.drain("default") == {"retry": 1}

def test_time_passes_for_all(pgq_jobs, queue, pgq_connection):
    queue.enqueue("mail", {"to": "bob"}, delay="1 hour")
    assert pgq_jobs.drain() == {}
    with psycopg.connect() as other:
        for _ in range(2):
            with pgq_connection.transaction(force_rollback=True):
                now = pgq_jobs.travel("30 minutes 1 second")
            assert now == datetime.now(UTC) == pgq_connection.execute("SELECT pgq_now()").fetchone()[0]
            assert now == other.execute("SELECT pgq_now()").fetchone()[0]
    assert pgq_jobs.drain() == {"done": 1}

def test_time_is_back(pgq_jobs, pgq_connection):
    assert pgq_connection.execute("SELECT abs(extract(epoch FROM pgq_now() - clock_timestamp())) < 60").fetchone()[0]
"""
FAILS = """
def test_other_args(pgq_jobs, queue):
    queue.enqueue("mail", {"to": "ann", "copies": [1, 2]})
    pgq_jobs.enqueued("mail", args={"to": "bob", "copies": [3], "subject": "tea"})

def test_another_kind(pgq_jobs, queue):
    queue.enqueue_many([{"kind": "scan", "args": n} for n in range(2)])
    pgq_jobs.enqueued("mail", queue="default")

def test_no_job(pgq_jobs):
    pgq_jobs.enqueued("mail")

def test_enqueued(pgq_jobs, queue):
    queue.enqueue_many([{"kind": "scan", "args": n} for n in range(12)])
    pgq_jobs.not_enqueued("scan", queue="default")

def test_a_failure_is_in_the_log(pgq_jobs, queue):
    queue.enqueue("mail", {"to": "bad"})
    assert pgq_jobs.drain() == {"done": 1}
"""


@pytest.fixture
def project(pytester: pytest.Pytester, dsn: str, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A directory for tests; libpq's environment leads to the database of this test."""
    for name, value in conninfo_to_dict(dsn).items():
        monkeypatch.setenv({"dbname": "PGDATABASE"}.get(name, f"PG{name.upper()}"), str(value))
    pytester.makeconftest(CONFTEST.format(autocommit=True))
    return pytester


def run(project: pytest.Pytester, *options: str) -> pytest.RunResult:
    """Run the tests of a project in this process, without the plugin for Django."""
    without = [option for name in ("django", "hypothesispytest", "cacheprovider") for option in ("-p", f"no:{name}")]
    return project.runpytest_inprocess(*without, *options)


@pytest.mark.parametrize("autocommit", [True, False])
def test_jobs_run_in_the_transaction_of_a_test(project: pytest.Pytester, conn: Connection, autocommit: bool) -> None:
    """Whatever the mode of the connection, nothing is left."""
    project.makeconftest(CONFTEST.format(autocommit=autocommit))
    project.makepyfile(PASSES)
    run(project).assert_outcomes(passed=4)
    assert one(conn, "SELECT count(*) FROM pgq_jobs") == 0


def test_a_failed_assertion_says_what_there_is(project: pytest.Pytester) -> None:
    """With the differences to the arguments that were expected."""
    project.makepyfile(FAILS)
    result = run(project)
    result.assert_outcomes(failed=5)
    result.stdout.fnmatch_lines([
        "E * AssertionError: no job of kind mail with args {'to': 'bob', 'copies': [[]3], 'subject': 'tea'} waits",
        "E * job * mail {'to': 'ann', 'copies': [[]1, 2]}: waiting in queue default, ripe at * UTC",
        "E * args[[]'to'] is 'ann', not 'bob'",
        "E * args[[]'copies'] is [[]1, 2] and lacks 3",
        "E * args has no 'subject', which should be 'tea'",
        "E * AssertionError: no job of kind mail in queue default waits",
        "E * what waits is of kind scan",
        "E * AssertionError: no job of kind mail waits",
        "E * nothing waits",
        "E * AssertionError: a job of kind scan in queue default waits",
        "E * job * scan 9: waiting in queue default, ripe at * UTC",
        "E * and 2 more",
        "WARNING * retry at * after ValueError*",
    ])  # fmt: skip


def test_what_is_missing_in_a_database_is_installed(project: pytest.Pytester, conn: Connection) -> None:
    """pgq and its test kit; but no database with jobs gets the kit."""
    conn.execute("DROP SCHEMA public CASCADE")
    conn.execute("CREATE SCHEMA public")
    project.makepyfile(PASSES)
    run(project).assert_outcomes(passed=4)
    conn.execute("CREATE OR REPLACE FUNCTION pgq_now() RETURNS timestamptz RETURN clock_timestamp()")
    conn.execute("SELECT pgq_enqueue('real')")
    result = run(project)
    result.assert_outcomes(errors=4)
    result.stdout.fnmatch_lines([f'E * the database "{conn.info.dbname}" has jobs: give tests a database of their own'])


def test_without_a_connection_the_error_says_what_to_do(project: pytest.Pytester) -> None:
    """Which is to define the fixture."""
    project.makeconftest("")
    project.makepyfile("def test_it(pgq_jobs): pass")
    result = run(project, "-p", "no:pytest_postgresql")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*define a fixture pgq_connection*"])


@pytest.mark.slow
def test_processes_of_xdist_do_not_see_each_other(project: pytest.Pytester, place: Place) -> None:
    """Each has a database of its own, which pytest-postgresql makes: equal jobs do not wait for each other."""
    project.makeconftest(f"""
        from pgq.testing import load
        from pytest_postgresql import factories
        test_server = factories.postgresql_noproc(
            host={place.host!r}, port={place.port}, user={place.user!r}, dbname="pgq_xdist", load=[load])
        postgresql = factories.postgresql("test_server")
    """)
    project.makepyfile("""
        import pytest, pgq
        @pytest.mark.parametrize("n", range(4))
        def test_it(pgq_jobs, pgq_connection, n):
            pgq.Queue(pgq_connection).enqueue("k", dedup_key="same", delay="1 hour")
            pgq_jobs.travel("1 hour")
            assert pgq_jobs.drain() == {"declined": 1}
    """)
    project.runpytest_subprocess("-p", "no:django", "-p", "no:cacheprovider", "-n", "2").assert_outcomes(passed=4)


@pytest.mark.slow
def test_with_pytest_django_the_connection_is_that_of_django(
    project: pytest.Pytester, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the transaction of a test, and in one that has none."""
    pytest.importorskip("pytest_django")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests/django_project"))
    (project.path / "conftest.py").unlink()
    project.makepyfile("""
        import pytest
        from shop import tasks
        from shop.models import Note

        def test_tasks_run(pgq_jobs):
            tasks.write_once.enqueue("n")
            pgq_jobs.enqueued("shop.tasks.write_once")
            assert pgq_jobs.drain() == {"done": 1}
            assert Note.objects.count() == 1

        @pytest.mark.django_db(transaction=True)
        def test_nothing_is_left(pgq_jobs):
            assert Note.objects.count() == 0
            tasks.write_once.using(run_after=None).enqueue("n")
            pgq_jobs.travel("2 hours")
            assert pgq_jobs.drain() == {"done": 1}
    """)
    project.runpytest_subprocess("-p", "no:cacheprovider", "--ds=settings").assert_outcomes(passed=2)
