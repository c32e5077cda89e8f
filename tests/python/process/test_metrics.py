"""pgq metrics: what it serves, that labels are bounded, and databases that are down."""

from __future__ import annotations

import logging
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.request import Request, urlopen

import psycopg
import pytest
from postgres.server import Server
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from psycopg.conninfo import make_conninfo
from support.database import Connect, Connection, one
from support.metrics import by_name, scraped, source
from support.processes import COMMAND, invoke
from support.servers import Place

from pgq import WorkerQueue
from pgq.metrics.families import EVER, JOBS
from pgq.schema.install import install


@pytest.fixture
def history(queue: WorkerQueue) -> None:
    """Jobs in each state, a worker, and a queue that is paused and one that is full."""
    queue.enqueue_many({"kind": kind, "queue": "mail", "max_retries": 0} for kind in ("dies", "ends", "stops", "runs"))
    queue.register("w", ["mail"], kinds=["ends", "runs"])
    for job in queue.claim(["mail"], max_jobs=4, worker="w"):
        if job.kind == "dies":
            queue.fail(job, "a secret error")
        elif job.kind == "ends":
            queue.complete(job, 1)
        elif job.kind == "stops":
            queue.cancel_claimed(job, "no")
    for kind, args in (("waits", 1), ("waits", 2), ("ends", 3)):
        queue.enqueue(kind, {"secret": args}, queue="mail", group_key="a secret tenant")
    queue.enqueue("later", queue="mail", delay="1 hour")
    queue.pause("paused")
    queue.configure("mail", {"max_running": 1})


@pytest.mark.usefixtures("history")
def test_numbers_are_those_of_the_views(dsn: str, conn: Connection) -> None:
    """Those of jobs by queue and kind, counters, queues and workers."""
    found = scraped(source(dsn))
    assert found["pgq_up"] == {("here",): 1}
    for row in conn.execute("SELECT queue, kind, to_jsonb(s) FROM pgq_stats AS s").fetchall():
        queue, kind, stats = row
        for name in JOBS.keys() - {"unhandled"}:
            assert found[f"pgq_jobs_{name}"]["here", kind, queue] == stats[name], (name, kind)
    assert found["pgq_jobs_unhandled"]["here", "waits", "mail"] == 2
    assert found["pgq_jobs_unhandled"]["here", "ends", "mail"] == 0
    assert found["pgq_jobs_oldest_ripe_age_seconds"]["here", "later", "mail"] == 0
    assert found["pgq_jobs_oldest_ripe_age_seconds"]["here", "waits", "mail"] > 0
    for row in conn.execute("SELECT queue, kind, to_jsonb(c) FROM pgq_counters AS c WHERE claimed > 0").fetchall():
        queue, kind, counters = row
        for name in EVER:
            assert found[f"pgq_{name}_total"]["here", kind, queue] == pytest.approx(counters[name]), (name, kind)
    assert found["pgq_dead_total"]["here", "dies", "mail"] == found["pgq_done_total"]["here", "ends", "mail"] == 1
    assert found["pgq_queue_paused"] == {("here", "mail"): 0, ("here", "paused"): 1}
    assert found["pgq_queue_full"] == {("here", "mail"): 1, ("here", "paused"): 0}
    assert (found["pgq_workers_present"], found["pgq_workers_gone"]) == ({("here",): 1}, {("here",): 0})
    assert found["pgq_ids_total"] == {("here",): one(conn, "SELECT last_value FROM pgq_job_id")}
    assert set(found["pgq_unread"].values()) == {0}


@pytest.mark.usefixtures("history")
def test_labels_are_names_of_databases_queues_and_kinds_only(dsn: str) -> None:
    """No arguments, groups, errors, workers or ids."""
    found = scraped(source(dsn))
    labels = {label for samples in found.values() for key in samples for label in key}
    kinds = {"dies", "ends", "stops", "runs", "waits", "later"}
    parts = {"kinds", "counters", "ids", "places", "workers"}
    assert labels == {"here", "mail", "paused"} | kinds | parts


@pytest.mark.parametrize("kinds", [300, 49])
def test_the_number_of_series_is_bounded(
    dsn: str, queue: WorkerQueue, kinds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is beyond is summed up as other; a series stays what it is when kinds come."""
    monkeypatch.setattr("pgq.metrics.exporter.FRESH", -1.0)
    queue.enqueue_many({"kind": f"k{n:03}", "queue": f"q{n:03}"} for n in range(kinds))
    queue.complete_many(queue.claim([f"q{n:03}" for n in range(kinds)], max_jobs=kinds - 20))
    queue.enqueue("other", queue="other")
    one_ = source(dsn, most=50)
    before = scraped(one_)
    assert len(before["pgq_jobs_waiting"]) <= len(before["pgq_claimed_total"]) + 21 <= 51 + 21
    assert sum(before["pgq_jobs_waiting"].values()) == 21
    assert sum(before["pgq_done_total"].values()) == kinds - 20
    queue.enqueue_many({"kind": f"a{n:03}", "queue": "a"} for n in range(9))
    for job in queue.claim(["a"], max_jobs=9):
        queue.complete(job)
    after = scraped(one_)
    assert set(after["pgq_done_total"]) - set(before["pgq_done_total"]) <= {
        ("here", "a000", "a"),
        ("here", "other", "other"),
    }
    assert all(after["pgq_done_total"][labels] >= count for labels, count in before["pgq_done_total"].items())
    assert sum(after["pgq_done_total"].values()) == kinds - 20 + 9
    labels = {key for name, samples in after.items() if name.startswith("pgq_jobs_") for key in samples}
    assert len(labels | set(after["pgq_done_total"])) <= 51


def test_a_database_that_is_down_does_not_keep_the_others_back(
    dsn: str, conn: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """It has pgq_up 0, and no other series. The log tells a change once, without the password."""
    caplog.set_level(logging.INFO, "pgq")
    down = source("host=/nowhere password=hunter2", "down")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        frozen = source(f"host=127.0.0.1 port={mute.getsockname()[1]}", "frozen")
        here = source(dsn)
        for _ in range(2):
            found = scraped(here, down, frozen, within=3.0)
            assert found["pgq_up"] == {("here",): 1, ("down",): 0, ("frozen",): 0}
    assert {key[0] for name, samples in found.items() if name.startswith("pgq_jobs") for key in samples} <= {"here"}
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(":")[0] for line in lines] == ["here is up", "down is down", "frozen is down"]
    assert "hunter2" not in str(lines)


def test_a_database_is_read_again_once_it_replies(
    dsn: str, conn: Connection, queue: WorkerQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that was cut between two scrapes is no scrape without numbers."""
    monkeypatch.setattr("pgq.metrics.exporter.FRESH", -1.0)
    here = source(dsn)
    assert scraped(here)["pgq_up"] == {("here",): 1}
    cut = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'pgq metrics'"
    assert one(conn, cut) is True
    assert scraped(here)["pgq_up"] == {("here",): 1}


def test_scrapes_at_the_same_time_share_a_reading(dsn: str) -> None:
    """So two Prometheus servers cost as much as one."""
    here = source(dsn)
    assert here.begin() is here.begin()


def test_a_part_that_cannot_be_read_in_time_is_named(
    dsn: str, conn: Connection, queue: WorkerQueue, connect: Connect
) -> None:
    """The others are there."""
    queue.enqueue("k")
    queue.complete(queue.claim()[0])
    holder = connect(autocommit=False)
    holder.execute("LOCK TABLE pgq_waiting IN ACCESS EXCLUSIVE MODE")
    here = source(dsn)
    here._read_within = 1.0
    found = scraped(here)
    assert found["pgq_up"] == {("here",): 1}
    assert {key[1] for key, value in found["pgq_unread"].items() if value} == {"kinds"}
    assert "pgq_jobs_waiting" not in found
    assert found["pgq_done_total"] == {("here", "k", "default"): 1}


def test_it_takes_the_privilege_of_a_reader(dsn: str, conn: Connection, queue: WorkerQueue) -> None:
    """With less the database counts as down; of the queues that the reader may not see nothing is told."""
    queue.enqueue("k", queue="mine")
    queue.enqueue("k", queue="theirs")
    conn.execute("DROP ROLE IF EXISTS clerk")
    conn.execute("CREATE ROLE clerk LOGIN")
    try:
        assert scraped(source(f"{dsn} user=clerk"))["pgq_up"] == {("here",): 0}
        queue.grant("clerk", "reader", ["mine"])
        found = scraped(source(f"{dsn} user=clerk"))
        assert found["pgq_up"] == {("here",): 1}
        assert found["pgq_jobs_waiting"] == {("here", "k", "mine"): 1}
        assert "pgq_ids_total" not in found
    finally:
        conn.execute("DROP OWNED BY clerk")
        conn.execute("DROP ROLE clerk")


def test_a_schema_of_any_name_is_found(dsn: str, conn: Connection) -> None:
    conn.execute("DROP SCHEMA public CASCADE")
    install(conn, schema='my "Jobs"')
    WorkerQueue(conn, schema='my "Jobs"').enqueue("k")
    found = scraped(source(dsn, schema='my "Jobs"'))
    assert found["pgq_jobs_waiting"] == {("here", "k", "default"): 1}


def test_counters_survive_restarts(place: Place) -> None:
    """Of the server, by a crash, and of the process that serves them: they only grow."""
    with Server(bindir=place.server.bindir, durable=True) as server:
        dsn = make_conninfo(host=server.host, port=server.port, user=server.user, dbname=server.dbname)

        def work(count: int) -> None:
            with psycopg.connect(dsn, autocommit=True) as conn:
                queue = WorkerQueue(conn)
                queue.enqueue_many({"kind": "k", "args": n} for n in range(count))
                queue.complete_many(queue.claim(max_jobs=count))

        with psycopg.connect(dsn, autocommit=True) as conn:
            install(conn)
        work(3)
        first = source(dsn)
        assert scraped(first)["pgq_done_total"] == {("here", "k", "default"): 3}
        server.restart("immediate")
        found = scraped(source(dsn))
        assert found["pgq_done_total"] == found["pgq_claimed_total"] == {("here", "k", "default"): 3}
        work(2)
        first._began = 0.0
        assert scraped(first)["pgq_done_total"] == {("here", "k", "default"): 5}


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[str, Any]]:
    """Run ``pgq metrics`` on a free port; yield its address and process, and stop it."""
    process = subprocess.Popen(
        [COMMAND, *arguments, "metrics", "--listen", "127.0.0.1:0"], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/metrics", line)
        assert address is not None, line
        yield address[0], process
        process.send_signal(signal.SIGTERM)
        log = process.communicate(timeout=30)[1]
        assert process.returncode == 0, log
        assert " stopped" in log
        assert "Traceback" not in log
    finally:
        process.kill()
        process.communicate()


def test_the_command_serves_both_formats(dsn: str, other_dsn: str, queue: WorkerQueue) -> None:
    """Of several databases in one process, under the names that other commands give them."""
    queue.enqueue("k")
    with serving("--dsn", dsn, "--dsn", other_dsn) as (url, _):
        with urlopen(url, timeout=30) as reply:
            assert reply.headers["Content-Type"].startswith("text/plain")
            text = reply.read().decode()
        assert 'pgq_up{database="pgq_test_other"} 1.0\n' in text
        with urlopen(Request(url, headers={"Accept": "application/openmetrics-text"}), timeout=30) as reply:
            assert reply.headers["Content-Type"].startswith("application/openmetrics-text")
            found = by_name(openmetrics(reply.read().decode()))  # type: ignore[no-untyped-call]
        assert sorted(found["pgq_up"].values()) == [1, 1]
        assert list(found["pgq_jobs_waiting"].values()) == [1]


def test_the_command_begins_while_the_database_is_down(place: Place) -> None:
    """It may be started first."""
    with serving("--dsn", "host=/nowhere dbname=d") as (url, _), urlopen(url, timeout=30) as reply:
        assert 'pgq_up{database="d"} 0.0\n' in reply.read().decode()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [(["--listen", "9797"], 2, "is not an address"), (["--listen", "localhost:99999"], 2, "is not an address"),
     (["--max-series", "0"], 2, "--max-series"), (["--timeout", "8"], 2, "not a duration"),
     (["--listen", "192.0.2.1:0"], 1, "cannot listen on 192.0.2.1:0"),
     (["--dsn", "not a dsn"], 1, "the DSN is not one")],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_served_is_refused(dsn: str, arguments: list[str], code: int, said: str) -> None:
    done = invoke("--dsn", dsn, "metrics", *arguments)
    assert done.returncode == code
    assert said in done.stderr


def test_without_the_extra_the_command_names_it(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All other commands need no more than psycopg and click."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    done = invoke("--dsn", dsn, "metrics")
    assert (done.returncode, done.stderr) == (
        1,
        "pgq: this Python has no module prometheus_client, by which pgq metrics serves\n"
        "hint: Install pgq-jobs[metrics].\n",
    )  # fmt: skip
