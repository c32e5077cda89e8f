"""Logical replication: claims at the publisher go on, and the subscriber can take over."""

from __future__ import annotations

import re

import psycopg
import pytest
from postgres.server import Server
from psycopg.conninfo import make_conninfo
from support.database import Connection, one
from support.pages import Page
from support.servers import Place
from support.threads import eventually

from pgq import Job, WorkerQueue
from pgq.schema.install import install

PAGE = Page("docs/backup.md")
KEPT = "SELECT array_agg(id ORDER BY id) FROM pgq_jobs"


def publish(conn: Connection) -> None:
    """Create the publication of the page, which has all tables of pgq but one."""
    form = r"^SELECT format\('CREATE PUBLICATION.*?(?=\n\\gexec$)"
    (statement,) = re.findall(form, PAGE.text, re.DOTALL | re.MULTILINE)
    conn.execute(one(conn, statement).encode())


def to_copy(conn: Connection) -> int:
    """Return how many tables the subscriber has still to copy, by the statement of the page."""
    (statement,) = re.findall(r"^SELECT count\(\*\) AS to_copy .*;$", PAGE.text, re.MULTILINE)
    return int(one(conn, statement))


def take_over(conn: Connection) -> None:
    """Run the statement of the page that sets the sequences."""
    (statement,) = re.findall(r"^SELECT setval\('pgq_job_id'.*?;$", PAGE.text, re.DOTALL | re.MULTILINE)
    conn.execute(statement.encode())


def work(queue: WorkerQueue) -> None:
    """Claim as many jobs at a time, under limits, and fold the counts: what deletes rows of tables without a key."""
    queue.configure("limited", {"max_running": 1000, "rate": 1000000, "per": "1 second", "burst": 1000})
    for name in ("default", "limited"):
        queue.enqueue_many([{"kind": "k", "args": n, "queue": name} for n in range(20)])
        for _ in range(2):
            for job in queue.claim([name], max_jobs=5):
                queue.complete(job)
    queue.conn.execute(
        "INSERT INTO pgq_count (queue, kind, event, jobs) "
        "SELECT 'default', 'k', 'retried', 1 FROM generate_series(1, 4000)"
    )
    queue.conn.execute("SELECT _pgq_fold_counts(pgq_now() + interval '1 minute')")
    assert one(queue.conn, "SELECT count(*) FROM pgq_count") < 100


@pytest.mark.happens("a publication has all tables")
def test_claims_go_on_when_a_publication_has_all_tables(conn: Connection) -> None:
    """PostgreSQL refuses to delete rows of a published table that has no identity."""
    queue = WorkerQueue(conn)
    conn.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    work(queue)
    batch = queue.enqueue_batch("last", None, [{"kind": "k", "args": "of a batch", "queue": "batch"}])
    for name in ("batch", "default"):
        while jobs := queue.claim([name], max_jobs=100):
            for job in jobs:
                queue.complete(job)
    conn.execute("SELECT _pgq_delete_batches(pgq_now() + interval '8 days')")
    assert one(conn, "SELECT count(*) FROM pgq_batch WHERE id = %s", batch.id) == 0


def test_a_subscriber_has_all_jobs_and_takes_over(place: Place) -> None:
    """The publication and the sequences are those of the page."""
    with (
        Server(bindir=place.server.bindir, settings={"wal_level": "logical"}) as publisher,
        Server(bindir=place.server.bindir) as subscriber,
    ):
        dsns = [
            make_conninfo(host=server.host, port=server.port, user=server.user, dbname=server.dbname)
            for server in (publisher, subscriber)
        ]
        with psycopg.connect(dsns[0], autocommit=True) as here, psycopg.connect(dsns[1], autocommit=True) as there:
            install(here)
            install(there)
            publish(here)
            there.execute(f"CREATE SUBSCRIPTION pgq CONNECTION '{dsns[0]}' PUBLICATION pgq".encode())
            work(WorkerQueue(here))
            first = WorkerQueue(here).enqueue("first", queue="chain")
            WorkerQueue(here).enqueue("second", queue="chain", after=[first.id])
            kept = one(here, KEPT)
            assert len(kept) == 22
            eventually(lambda: one(there, KEPT) == kept, "the jobs arrive", 30)
            here.execute("SELECT pgq_pause('default')")
            eventually(lambda: one(there, "SELECT count(*) FROM pgq_paused") == 1, "the pause arrives", 30)
            eventually(lambda: to_copy(there) == 0, "all tables are copied", 30)
            there.execute("DROP SUBSCRIPTION pgq")

            take_over(there)
            queue = WorkerQueue(there)
            assert queue.enqueue("k", "new").id > max(kept)
            assert queue.claim() == []
            queue.resume("default")
            assert len(queue.claim(["default", "limited"], max_jobs=100)) == 21
            # Maintenance unblocks the second one, in a later claim.
            for kind in ("first", "second"):
                chain: list[Job] = []
                eventually(lambda chain=chain: chain.extend(queue.claim(["chain"])) or chain)  # type: ignore[misc]
                assert [job.kind for job in chain] == [kind]
                queue.complete(chain[0])
