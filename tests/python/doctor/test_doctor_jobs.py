"""The doctor finds jobs that wait in vain, have died, or end their workers."""

from __future__ import annotations

from datetime import timedelta

import pytest
from support.database import Connect, Connection, expire
from support.doctor import NOW, finding, findings, look
from support.threads import eventually

from pgq import WorkerQueue
from pgq.testing import Clock


def maintain(connect: Connect) -> None:
    """Let a new session do what claims do on the side."""
    WorkerQueue(connect()).claim(["nothing"])


def test_a_queue_that_no_worker_serves(queue: WorkerQueue, connect: Connect) -> None:
    """The most similar queue that a worker serves is named. A worker that is restarted has some time."""
    conn = connect()
    queue.register("w", ["mail", "reports"])
    queue.enqueue("k", queue="mail")
    assert findings(conn, "no-worker", unserved=NOW) == []
    queue.enqueue("k", 1, queue="mial")
    queue.enqueue("k", 2, queue="mial")
    queue.enqueue("k", queue="mial", delay="1 hour")
    assert findings(conn, "no-worker", unserved=timedelta(hours=1)) == []
    found = finding(conn, "no-worker", unserved=NOW)
    assert found.severity == "error"
    assert 'no worker serves queue "mial", in which 2 jobs are ripe' in found.title
    assert '"mail"' in found.meaning
    assert (found.details["ripe"], found.details["similar_queue"]) == (2, "mail")
    assert found.remedy == "pgq worker MODULE --queue mial"
    queue.register("x", ["mial"])
    assert findings(conn, "no-worker", unserved=NOW) == []


def test_a_queue_that_is_paused_or_claimed_from_needs_no_present_worker(conn: Connection, queue: WorkerQueue) -> None:
    """Behind a transaction pooler no worker is present, but its jobs run."""
    for n in range(2):
        queue.enqueue("k", n, queue="pooled")
        queue.enqueue("k", n, queue="paused")
    assert [found.details["queue"] for found in findings(conn, "no-worker", unserved=NOW)] == ["paused", "pooled"]
    queue.pause("paused")
    queue.claim(["pooled"], worker="behind a pooler")
    assert findings(conn, "no-worker", unserved=NOW) == []


def test_a_worker_that_is_gone_serves_no_queue(queue: WorkerQueue, connect: Connect) -> None:
    """It is registered, but not present."""
    conn, session = connect(), connect()
    WorkerQueue(session).register("w", ["default"])
    queue.enqueue("k")
    assert findings(conn, "no-worker", unserved=NOW) == []
    session.close()
    (found,) = eventually(lambda: findings(conn, "no-worker", unserved=NOW))
    assert found.details["similar_queue"] is None


def test_a_kind_that_no_present_worker_handles(conn: Connection, queue: WorkerQueue) -> None:
    """The most similar kind that one handles is named. A worker that does not tell may handle it."""
    queue.enqueue("sned")
    assert findings(conn, "no-handler") == []
    queue.register("w", ["default"], kinds=["send", "pay"])
    found = finding(conn, "no-handler")
    assert found.severity == "error"
    assert 'no present worker of queue "default" handles kind "sned": 1 job waits' in found.title
    assert (found.details["similar_kind"], found.details["workers"]) == ("send", ["w"])
    queue.register("silent", ["default"])
    assert findings(conn, "no-handler") == []


def test_a_job_that_its_workers_have_declined_has_no_handler(conn: Connection, queue: WorkerQueue) -> None:
    """It is not ripe meanwhile."""
    queue.enqueue("k")
    queue.register("w", ["default"], kinds=["l"])
    (job,) = queue.claim(worker="w")
    queue.decline(job)
    assert finding(conn, "no-handler").details["kind"] == "k"


def test_a_job_that_has_waited_for_long(conn: Connection, queue: WorkerQueue, clock: Clock) -> None:
    """Workers serve its queue, so they are too slow, or busy."""
    queue.register("w", ["default"])
    queue.enqueue("k")
    clock.tick(timedelta(minutes=4))
    queue.enqueue("k", "busy", priority=0)
    queue.claim(worker="w")
    assert findings(conn, "late-jobs") == []
    clock.tick(timedelta(minutes=4))
    found = finding(conn, "late-jobs")
    assert 'the oldest job of queue "default" has waited for 8 minutes' in found.title
    assert "1 of 1 present worker run jobs" in found.meaning
    assert found.details == {
        "queue": "default", "ripe": 1, "oldest_ripe_seconds": 480.0, "present_workers": 1, "busy_workers": 1
    }  # fmt: skip


def test_jobs_that_have_died_lately_by_cause(conn: Connection, queue: WorkerQueue, clock: Clock) -> None:
    """The first lines of their errors tell them apart; those that died before are no news."""

    def die(kind: str, error: str) -> None:
        queue.enqueue(kind, dedup=False, max_retries=0)
        (job,) = queue.claim()
        queue.fail(job, error)

    die("old", "long ago")
    clock.tick(timedelta(hours=2))
    for _ in range(3):
        die("mail", "no such address\nin line 3")
    die("mail", "server is down")
    found = findings(conn, "dead-jobs")
    assert [(one.details["jobs"], one.details["kind"], one.details["error"]) for one in found] == [
        (3, "mail", "no such address"),
        (1, "mail", "server is down"),
    ]
    assert found[0].title == '3 jobs of kind "mail" in queue "default" died within 60 minutes: no such address'
    assert "pgq retry --state dead --queue default --kind mail" in found[0].remedy


def lose(conn: Connection, connect: Connect, queue: WorkerQueue, count: int) -> None:
    """Claim jobs under one name, and let their leases run out."""
    assert len(queue.claim(max_jobs=count, worker="w")) == count
    expire(conn)
    maintain(connect)


def test_jobs_that_were_lost_together_are_suspects(conn: Connection, connect: Connect, queue: WorkerQueue) -> None:
    """Waiting ones are searched for in a table of moderate size."""
    queue.enqueue("innocent", delay="1 hour")
    queue.enqueue_many({"kind": "k", "args": n} for n in range(2))
    lose(conn, connect, queue, 2)
    found = findings(conn, "suspect-job")
    assert [(one.details["state"], one.details["losses"]) for one in found] == [("waiting", 1)] * 2
    assert "it was lost together with others 1 time" in found[0].title
    (job,) = queue.claim()
    assert ("running", job.id) in [(one.details["state"], one.details["id"]) for one in findings(conn, "suspect-job")]


def test_a_job_that_loses_its_worker_again_and_again(conn: Connection, connect: Connect, queue: WorkerQueue) -> None:
    """The first loss may be the worker's own fault."""
    job = queue.enqueue("bomb")
    lose(conn, connect, queue, 1)
    assert findings(conn, "crash-loop") == []
    lose(conn, connect, queue, 1)
    found = finding(conn, "crash-loop")
    assert found.severity == "error"
    assert found.title == f'job {job.id} of kind "bomb" has lost its worker 2 times: the lease ran out'
    assert found.details["worker"] == "w"


def test_a_job_that_has_failed_and_was_lost_once_is_in_no_loop(
    conn: Connection, connect: Connect, queue: WorkerQueue
) -> None:
    """Only losses count."""
    queue.enqueue("k", backoff="0 seconds")
    (job,) = queue.claim()
    queue.fail(job, "no")
    lose(conn, connect, queue, 1)
    assert findings(conn, "crash-loop") == []


@pytest.mark.parametrize("code", ["suspect-job", "crash-loop"])
def test_a_long_queue_is_not_searched_for_suspects(conn: Connection, queue: WorkerQueue, code: str) -> None:
    """The doctor says so."""
    queue.enqueue("k")
    found, (unseen,) = look(conn, code, searched_bytes=0)
    assert found == []
    assert "too many jobs wait" in unseen.reason
