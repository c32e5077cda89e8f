"""The doctor finds queues that stand still, schedules that do not fire, and what nobody clears away."""

from __future__ import annotations

import re
import shlex
from datetime import timedelta

from support.database import Connect, Connection, expire, one
from support.doctor import NOW, finding, findings

from pgq import Queue, WorkerQueue
from pgq.testing import Clock


def test_a_paused_queue_in_which_jobs_wait(conn: Connection, queue: WorkerQueue) -> None:
    queue.pause("mail")
    queue.enqueue("k", queue="mail", delay="1 hour")
    assert findings(conn, "paused-queue") == []
    queue.enqueue("l", queue="mail")
    found = finding(conn, "paused-queue")
    assert found.title == 'queue "mail" is paused until it is resumed, and 1 job is ripe'
    assert found.remedy == "pgq resume mail"
    queue.resume("mail")
    assert findings(conn, "paused-queue") == []


def test_a_paused_group_in_which_jobs_wait(conn: Connection, queue: WorkerQueue) -> None:
    queue.enqueue("k", group_key="it's")
    queue.enqueue("k", 2, group_key="free")
    assert findings(conn, "paused-group") == []
    queue.pause("default", group_key="it's")
    found = finding(conn, "paused-group")
    assert (found.details["group_key"], found.details["ripe"]) == ("it's", 1)
    conn.execute(found.remedy.encode())
    assert findings(conn, "paused-group") == []


def test_the_groups_of_a_sensitive_queue_are_not_named(conn: Connection, queue: WorkerQueue) -> None:
    queue.configure("default", {"sensitive": True})
    queue.enqueue("k", group_key="ann@example.org")
    queue.pause("default", group_key="ann@example.org")
    found = finding(conn, "paused-group")
    assert found.title.startswith('a group of queue "default" is paused')
    assert "ann@example.org" not in str(found)


def test_a_full_queue_that_starts_nothing(conn: Connection, queue: WorkerQueue, clock: Clock) -> None:
    """A queue whose jobs end and begin is only busy."""
    queue.configure("default", {"max_running": 2})
    queue.enqueue_many({"kind": "k", "args": n} for n in range(4))
    first, _ = queue.claim(max_jobs=3, lease="1 hour")
    clock.tick(timedelta(minutes=4))
    assert findings(conn, "full-queue") == []
    clock.tick(timedelta(minutes=2))
    found = finding(conn, "full-queue")
    assert "has started no job for 6 minutes: 2 of 2 jobs that may run at a time do, and 2 jobs are ripe" in found.title
    queue.complete(first)
    queue.claim(max_jobs=3, lease="1 hour")
    assert findings(conn, "full-queue") == []


def test_a_queue_whose_groups_are_full(conn: Connection, queue: WorkerQueue, clock: Clock) -> None:
    queue.configure("default", {"max_per_group": 1})
    queue.enqueue_many({"kind": "k", "args": n, "group_key": "g"} for n in range(2))
    queue.claim(max_jobs=3, lease="1 hour")
    clock.tick(timedelta(minutes=6))
    assert "as many jobs of 1 group run as may run at a time" in finding(conn, "full-queue").title


def test_a_rate_that_is_used_up_for_long(conn: Connection, queue: WorkerQueue, clock: Clock) -> None:
    queue.configure("default", {"rate": 1, "per": "1 hour"})
    queue.enqueue_many({"kind": "k", "args": n} for n in range(2))
    assert findings(conn, "spent-rate") == []
    assert len(queue.claim(max_jobs=2)) == 1
    found = finding(conn, "spent-rate")
    assert found.title == 'the rate of queue "default" lets no job start for 60 minutes, and 1 job is ripe'
    clock.tick(timedelta(minutes=58))
    assert findings(conn, "spent-rate") == []


def test_a_group_that_a_dead_job_stops(conn: Connection, queue: WorkerQueue) -> None:
    """The jobs after it wait until it is retried or deleted."""
    queue.configure("default", {"ordered": True, "on_dead": "stop"})
    dead = queue.enqueue("k", 1, group_key="g", max_retries=0)
    after = queue.enqueue("k", 2, group_key="g")
    (job,) = queue.claim()
    assert findings(conn, "stopped-group") == []
    queue.fail(job, "no")
    assert queue.claim() == []
    found = finding(conn, "stopped-group")
    assert found.severity == "error"
    assert (found.details["dead"], found.details["waits"]) == (dead.id, after.id)
    queue.retry(dead.id)
    assert findings(conn, "stopped-group") == []
    (job,) = queue.claim()
    queue.fail(job, "no")
    (purge,) = re.findall(r"SELECT .*?;", finding(conn, "stopped-group").remedy)
    conn.execute(purge.encode())
    assert [job.id for job in queue.claim()] == [after.id]


def test_a_group_whose_dead_job_comes_later_goes_on(conn: Connection, queue: WorkerQueue) -> None:
    """The first was dead before the queue was told to stop, and is retried."""
    queue.configure("default", {"ordered": True})
    first, _ = (queue.enqueue("k", n, group_key="g", max_retries=0) for n in range(2))
    for _ in range(2):
        (job,) = queue.claim()
        queue.fail(job, "no")
    queue.configure("default", {"on_dead": "stop"})
    queue.retry(first.id)
    assert findings(conn, "stopped-group") == []


def test_a_schedule_that_nobody_fires(conn: Connection, queue: WorkerQueue, clock: Clock) -> None:
    """Claims do, of whatever queue."""
    queue.schedule("tea", "0 13 * * *", "k")
    queue.schedule("paused", "0 13 * * *", "k")
    queue.pause_schedule("paused")
    clock.move_to("2030-01-01 13:00:30")
    assert findings(conn, "late-schedule") == []
    clock.move_to("2030-01-01 13:05")
    assert finding(conn, "late-schedule").title == 'schedule "tea" should have fired 5 minutes ago'
    queue.claim(["other"])
    assert findings(conn, "late-schedule") == []


def test_a_schedule_that_fails(conn: Connection, queue: WorkerQueue, clock: Clock) -> None:
    """It keeps its error until it succeeds."""
    queue.schedule("tea", "0 13 * * *", "k")
    conn.execute("UPDATE pgq_schedule_entry SET timezone = 'Europe/Atlantis'")
    clock.move_to("2030-01-01 13:00")
    assert findings(conn, "failing-schedule") == []
    queue.claim(["other"])
    found = finding(conn, "failing-schedule")
    assert found.title == 'schedule "tea" fails; it was last tried 0 seconds ago'
    assert findings(conn, "late-schedule") == []
    queue.pause_schedule("tea")
    assert findings(conn, "failing-schedule") == []
    conn.execute("UPDATE pgq_schedule_entry SET timezone = 'UTC'")
    queue.resume_schedule("tea")
    assert len(findings(conn, "failing-schedule")) == 1
    queue.schedule("tea", "0 13 * * *", "k")
    assert findings(conn, "failing-schedule") == []


def test_a_job_that_is_blocked_by_one_that_is_over(conn: Connection, connect: Connect, queue: WorkerQueue) -> None:
    """The prerequisite has ended before the enqueue was committed, and nobody claims."""
    first = queue.enqueue("first")
    (job,) = queue.claim()
    producer = connect(autocommit=False)
    last = Queue(producer).enqueue("last", after=[first.id])
    queue.complete(job)
    producer.commit()
    found = finding(conn, "blocked-in-vain")
    assert found.severity == "error"
    assert found.details == {"jobs": [last.id], "needs": [first.id]}
    WorkerQueue(connect()).claim(["other"])
    assert findings(conn, "blocked-in-vain") == []


def test_a_job_that_is_blocked_by_living_ones(conn: Connection, queue: WorkerQueue) -> None:
    """They wait, run as rows or packed, or are blocked themselves."""
    ids = [one.id for one in queue.enqueue_many({"kind": "k", "args": n} for n in range(10))]
    blocked = queue.enqueue("last", after=ids)
    queue.enqueue("the very last", after=[blocked.id])
    conn.execute("SELECT pgq_claim_batch(max_jobs => 10)")
    assert one(conn, "SELECT count(*) FROM pgq_running_batch") == 1
    waiting = queue.enqueue("w", queue="other")
    running = queue.enqueue("r", queue="other")
    queue.enqueue("more", after=[waiting.id, running.id])
    queue.claim(["other"])
    for code in ("blocked-in-vain", "blocked-by-failed"):
        assert findings(conn, code) == []


def test_a_job_that_waits_until_another_is_retried(conn: Connection, queue: WorkerQueue) -> None:
    """Its after_failed is wait."""
    first = queue.enqueue("first", max_retries=0)
    last = queue.enqueue("last", after=[first.id], after_failed="wait")
    (job,) = queue.claim()
    assert findings(conn, "blocked-by-failed") == []
    queue.fail(job, "no")
    found = finding(conn, "blocked-by-failed")
    assert found.details == {"jobs": [last.id], "needs": [first.id]}
    assert f"pgq retry {first.id} " in found.remedy
    assert findings(conn, "blocked-in-vain") == []
    queue.retry(first.id)
    assert findings(conn, "blocked-by-failed") == []


def test_leases_that_are_over_and_nobody_rescues_the_jobs(
    conn: Connection, connect: Connect, queue: WorkerQueue
) -> None:
    """A job that a transaction holds is another finding."""
    queue.enqueue_many({"kind": "k", "args": n} for n in range(2))
    job, _ = queue.claim(max_jobs=2)
    expire(conn)
    assert findings(conn, "late-rescue") == []
    assert finding(conn, "late-rescue", rescue=NOW).details["jobs"] == 2
    holder = connect(autocommit=False)
    WorkerQueue(holder).hold(job)
    assert finding(conn, "late-rescue", rescue=NOW).details["jobs"] == 1
    holder.rollback()
    WorkerQueue(connect()).claim(["other"])
    assert findings(conn, "late-rescue", rescue=NOW) == []


def test_old_jobs_that_nobody_deletes(conn: Connection, connect: Connect, queue: WorkerQueue, clock: Clock) -> None:
    queue.enqueue("k", max_retries=0)
    (job,) = queue.claim()
    queue.fail(job, "no")
    clock.tick(timedelta(days=30, hours=23))
    assert findings(conn, "late-housekeeping") == []
    clock.tick(timedelta(days=3))
    found = finding(conn, "late-housekeeping")
    assert found.title == "jobs that have ended should have been deleted 4 days ago"
    queue.configure("", {"keep_dead": "90 days"})
    assert findings(conn, "late-housekeeping") == []
    queue.configure("", {"keep_dead": None})
    WorkerQueue(connect()).claim(["other"])
    assert findings(conn, "late-housekeeping") == []


def test_counts_that_nobody_folds(conn: Connection, queue: WorkerQueue) -> None:
    """Each claim of single jobs appends one."""
    queue.enqueue_many({"kind": "k", "args": n} for n in range(3))
    for _ in range(3):
        queue.claim()
    assert findings(conn, "late-housekeeping") == []
    assert "pgq_count has 3 rows or more" in finding(conn, "late-housekeeping", counts=3).title


def test_jobs_that_are_kept_for_ever(conn: Connection, queue: WorkerQueue) -> None:
    queue.configure("", {"keep_dead": "100 years"})
    assert findings(conn, "kept-for-ever") == []
    found = finding(conn, "kept-for-ever", ended_bytes=0)
    assert found.title.startswith("jobs of all queues are kept for 36500 days")
    queue.configure("", {"keep_dead": "90 days"})
    queue.configure("it's kept", {"keep_done": "100 years"})
    command = shlex.split(finding(conn, "kept-for-ever", ended_bytes=0).remedy.partition(", or")[0])
    assert command[:3] == ["pgq", "configure", "it's kept"]
    queue.configure("it's kept", {"keep_done": None})
    assert findings(conn, "kept-for-ever", ended_bytes=0) == []
