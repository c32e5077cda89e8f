"""Waiting for the end of jobs: notified where a session waits, and only there; asking elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql
from support.database import Connect, Connection, expire, one
from support.threads import Thread, eventually

import pgq
from pgq import Queue, Result, WorkerQueue, waiting

LONG = 60.0
WAITERS = (
    "SELECT count(*) FROM pg_locks "
    "WHERE locktype = 'advisory' AND classid = 'pgq_ended'::regclass AND mode = 'ShareLock' AND objid <> 0"
)
HELD = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 'pgq_ended'::regclass"


@pytest.fixture
def notified_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a session that is notified look so seldom that only a notification can end its wait in time."""
    monkeypatch.setattr(waiting, "LOOK_EVERY", LONG)


def channels(conn: Connection, last: str) -> Iterator[str]:
    """Return the channels of the notifications that this session gets, up to one."""
    for notify in conn.notifies(timeout=20):
        if notify.channel == last:
            return
        yield notify.channel
    pytest.fail(f"there is no notification of {last}")


def fail(queue: WorkerQueue) -> None:
    (job,) = queue.claim()
    queue.fail(job, "no", retry=False)


def cancel_claimed(queue: WorkerQueue) -> None:
    (job,) = queue.claim()
    queue.cancel_claimed(job, "no")


def merge(queue: WorkerQueue) -> None:
    (job,) = queue.claim()
    queue.enqueue("k")
    assert queue.release(job) == "merged"


def merge_after_error(queue: WorkerQueue) -> None:
    """Let the twin take over the error of a job."""
    (job,) = queue.claim()
    queue.enqueue("k")
    assert queue.fail(job, "no").outcome == "merged"


def lose(queue: WorkerQueue) -> None:
    """Let the last attempt of a job be lost."""
    queue.claim()
    expire(queue.conn)
    assert queue.claim() == []


def complete(*arguments: Any) -> Callable[[WorkerQueue], None]:
    def end(queue: WorkerQueue) -> None:
        (job,) = queue.claim()
        queue.complete(job, *arguments)

    return end


def complete_in_batch(jobs: int, of: int) -> Callable[[WorkerQueue], None]:
    """Complete the first jobs of a claim of so many, which is packed if it is large."""

    def end(queue: WorkerQueue) -> None:
        for n in range(1, of):
            queue.enqueue("k", n)
        claim = queue.conn.execute("SELECT ids, token FROM pgq_claim_batch(max_jobs => %s)", [of]).fetchone()
        assert claim is not None
        ids, token = claim
        queue.conn.execute("SELECT pgq_complete_many(%s, %s)", [ids[:jobs], [token] * jobs])

    return end


def settle(queue: WorkerQueue) -> None:
    """Complete a job by the next claim."""
    row = queue.conn.execute("SELECT ids, token FROM pgq_claim_batch()").fetchone()
    assert row is not None
    queue.conn.execute("SELECT FROM pgq_claim_batch(done_ids => %s, done_tokens => %s)", [row[0], [row[1]]])


ENDS: dict[str, Callable[[WorkerQueue], None]] = {
    "done": complete(),
    "done with a result": complete(1),
    "done after an error": lambda queue: (queue.fail(queue.claim()[0], "no", timedelta(0)), complete()(queue))[1],
    "done with others": complete_in_batch(3, 3),
    "done in a packed batch": complete_in_batch(20, 20),
    "done before the others of a packed batch": complete_in_batch(2, 20),
    "settled by a claim": settle,
    "dead": fail,
    "lost": lose,
    "cancelled while it waits": lambda queue: queue.conn.execute("SELECT pgq_cancel(max(id)) FROM pgq_waiting").close(),
    "cancelled": cancel_claimed,
    "merged": merge,
    "merged after an error": merge_after_error,
}


@pytest.mark.parametrize("way", ENDS)
def test_each_end_notifies_the_sessions_that_wait_for_the_job_and_no_others(
    queue: WorkerQueue, connect: Connect, way: str
) -> None:
    """A session that only listens gets nothing, although others wait for other jobs."""
    job = queue.enqueue("k", max_retries=1 if "after" in way else 0)
    waits, listens, other = connect(), connect(), connect()
    channel = Queue(waits).await_end(job.id)
    Queue(other).await_end(job.id + 1000)
    waits.execute(sql.SQL("LISTEN {}; LISTEN last").format(sql.Identifier(channel)))
    with queue.conn.transaction():
        ENDS[way](queue)
        assert Queue(waits).result(job.id).ended is False
    queue.conn.execute("NOTIFY last")
    assert Queue(waits).result(job.id).ended
    assert list(channels(waits, "last")) == [channel]

    # The same for a job for which no session waits.
    queue.conn.execute("DELETE FROM pgq_waiting")
    second = queue.enqueue("k", max_retries=1 if "after" in way else 0)
    listens.execute(
        sql.SQL("LISTEN last; LISTEN {}").format(sql.Identifier(channel.removesuffix(str(job.id)) + str(second.id)))
    )
    ENDS[way](queue)
    queue.conn.execute("NOTIFY last")
    assert Queue(waits).result(second.id).ended
    assert list(channels(listens, "last")) == []


@pytest.mark.usefixtures("notified_only")
def test_a_wait_ends_with_the_job(conn: Connection, queue: WorkerQueue, connect: Connect) -> None:
    """In a connection that is not in autocommit mode, too; it is in its old mode afterwards."""
    for autocommit in (True, False):
        job = queue.enqueue("k")
        waiter = Queue(connect(autocommit=autocommit))
        thread = Thread(waiter.wait, job.id)
        eventually(lambda: one(conn, WAITERS) == 1)
        (claimed,) = queue.claim()
        queue.complete(claimed, {"a": [1, None]})
        result = thread.result(20)
        assert (result.id, result.state, result.value, result.error) == (job.id, "done", {"a": [1, None]}, None)
        assert waiter.conn.autocommit is autocommit
        assert one(conn, HELD) == 0
        assert one(waiter.conn, "SELECT count(*) FROM pg_listening_channels()") == 0


@pytest.mark.usefixtures("notified_only")
def test_eight_sessions_wait_for_one_job(conn: Connection, queue: WorkerQueue, connect: Connect) -> None:
    job = queue.enqueue("k")
    threads = [Thread(Queue(connect()).wait, job.id) for _ in range(8)]
    eventually(lambda: one(conn, WAITERS) == 8)
    (claimed,) = queue.claim()
    queue.complete(claimed, 7)
    assert [thread.result(20).value for thread in threads] == [7] * 8
    assert one(conn, HELD) == 0


@pytest.mark.usefixtures("notified_only")
def test_a_notification_that_comes_with_a_look_ends_the_wait(
    queue: WorkerQueue, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not in the socket any more when the session would sleep."""
    job = queue.enqueue("k")
    waiter = Queue(connect())
    looks: list[Result] = []
    look = waiter.result

    def ends_after(job_id: int) -> Result:
        looks.append(look(job_id))
        if len(looks) == 2:
            complete(7)(queue)
            waiter.conn.execute("SELECT")
        return looks[-1]

    monkeypatch.setattr(waiter, "result", ends_after)
    assert Thread(waiter.wait, job.id).result(20).value == 7
    assert [result.state for result in looks] == ["waiting", "waiting", "done"]


def test_an_end_that_no_notification_tells_is_found(
    conn: Connection, queue: WorkerQueue, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job ends before the session waits, in a transaction that commits afterwards."""
    monkeypatch.setattr(waiting, "LOOK_EVERY", 0.05)
    job = queue.enqueue("k")
    waiter, other = Queue(connect()), connect()
    look, looks = waiter.result, []

    def counted(job_id: int) -> Result:
        looks.append(job_id)
        return look(job_id)

    monkeypatch.setattr(waiter, "result", counted)
    with queue.conn.transaction():
        complete(7)(queue)
        thread = Thread(waiter.wait, job.id)
        eventually(lambda: one(other, WAITERS) == 1 and len(looks) > 5)
    assert thread.result(20).value == 7


def test_results_of_jobs_that_end_while_eight_sessions_enqueue_and_wait(queue: WorkerQueue, connect: Connect) -> None:
    """Each gets the results of its own jobs."""
    stop = threading.Event()

    def work(worker: WorkerQueue) -> None:
        while not stop.is_set():
            for job in worker.claim(max_jobs=5):
                worker.complete(job, job.args)

    def ask(client: Queue, number: int) -> None:
        for n in range(20):
            job = client.enqueue("k", [number, n])
            assert client.wait(job.id, 30).value == [number, n]

    workers = [Thread(work, WorkerQueue(connect())) for _ in range(2)]
    clients = [Thread(ask, Queue(connect()), number) for number in range(8)]
    for client in clients:
        client.result(60)
    stop.set()
    for worker in workers:
        worker.result()
    assert one(queue.conn, HELD) == 0


def test_a_job_that_failed_raises_its_error(queue: WorkerQueue) -> None:
    job = queue.enqueue("k", max_retries=0)
    queue.fail(queue.claim()[0], "\nValueError: no such address\nTraceback")
    with pytest.raises(pgq.JobFailed, match=rf"^job {job.id} is dead: ValueError: no such address$") as caught:
        queue.wait(job.id)
    assert (caught.value.state, caught.value.error) == ("dead", "\nValueError: no such address\nTraceback")
    job = queue.enqueue("k")
    queue.cancel(job.id)
    with pytest.raises(pgq.JobFailed, match=rf"^job {job.id} is cancelled$") as caught:
        queue.wait(job.id)
    assert (caught.value.state, caught.value.error) == ("cancelled", None)


@pytest.mark.happens("a job that is waited for leaves nothing")
def test_a_job_that_leaves_nothing_is_gone(queue: WorkerQueue) -> None:
    job = queue.enqueue("k")
    complete()(queue)
    result = queue.wait(job.id)
    assert result == Result(job.id, "gone", None, None, None)
    assert (result.ended, result.value) == (True, None)


@pytest.mark.happens("a job that is waited for leaves nothing")
@pytest.mark.usefixtures("notified_only")
def test_a_job_that_is_purged_before_the_session_looks_is_gone(
    conn: Connection, queue: WorkerQueue, connect: Connect
) -> None:
    """The session is notified of its end, and finds nothing."""
    job = queue.enqueue("k")
    thread = Thread(Queue(connect()).wait, job.id)
    eventually(lambda: one(conn, WAITERS) == 1)
    with queue.conn.transaction():
        complete(7)(queue)
        assert one(queue.conn, "SELECT pgq_purge('0', 'done')") == 1
    assert thread.result(20) == Result(job.id, "gone", None, None, None)


@pytest.mark.parametrize("timeout", [0, 0.05, timedelta(milliseconds=50)])
def test_a_wait_that_is_too_short_leaves_nothing_behind(
    conn: Connection, queue: WorkerQueue, connect: Connect, timeout: float | timedelta
) -> None:
    job = queue.enqueue("k")
    waiter = Queue(connect())
    with pytest.raises(pgq.NotEnded, match=rf"^job {job.id} is still waiting$") as caught:
        waiter.wait(job.id, timeout)
    assert caught.value.hint
    assert one(conn, HELD) == 0
    assert one(waiter.conn, "SELECT count(*) FROM pg_listening_channels()") == 0
    queue.claim()
    with pytest.raises(pgq.NotEnded, match="is still running"):
        waiter.wait(job.id, timeout)


def test_completions_look_for_waiting_sessions_only_while_one_waits(conn: Connection, connect: Connect) -> None:
    waiter, other = connect(), connect()
    awaited = "SELECT _pgq_is_awaited()"
    assert not one(conn, awaited)
    waiter.execute("SELECT pgq_await(1)")
    other.execute("SELECT pgq_await(2)")
    waiter.execute("SELECT pgq_await(1, false)")
    # Maintenance is called, as by a claim.
    conn.execute("SELECT _pgq_maintain(pgq_now())")
    assert one(conn, awaited)
    other.execute("SELECT pgq_await(2, false)")
    connect().execute("SELECT pgq_claim()")
    assert not one(conn, awaited)
    waiter.execute("SELECT pgq_await(1)")
    assert one(conn, awaited)


def test_a_session_that_may_not_write_waits_all_the_same(queue: WorkerQueue, connect: Connect) -> None:
    job = queue.enqueue("k")
    waiter = Queue(connect())
    waiter.conn.execute("SET default_transaction_read_only = on")
    with pytest.raises(pgq.NotEnded):
        waiter.wait(job.id, 0)
    queue.complete(queue.claim()[0])
    assert waiter.wait(job.id, LONG).state == "gone"


def test_to_end_a_wait_that_has_not_begun_is_no_warning(queue: WorkerQueue) -> None:
    warnings: list[str | None] = []
    queue.conn.add_notice_handler(lambda diag: warnings.append(diag.message_primary))
    queue.await_end(7, False)
    assert warnings == []


def test_a_bad_wait_is_refused(queue: WorkerQueue, connect: Connect) -> None:
    job = queue.enqueue("k")
    with pytest.raises(pgq.JobNotFound):
        queue.wait(job.id + 1)
    for timeout in (-1, float("nan"), timedelta(seconds=-1)):
        with pytest.raises(ValueError, match=r"timeout .* is negative"):
            queue.wait(job.id, timeout)
    inside = Queue(connect(autocommit=False))
    inside.enqueue("k", "inside")
    with pytest.raises(ValueError, match="a transaction is open"):
        inside.wait(job.id)
    with pytest.raises(ValueError, match="a transaction is open"):
        inside.wait_many([job.id])
    # The transaction is as it was.
    assert inside.conn.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS


def test_a_result_that_python_cannot_decode_is_there_as_text(queue: WorkerQueue) -> None:
    job = queue.enqueue("k")
    (claimed,) = queue.claim()
    queue.conn.execute("SELECT pgq_complete(%s, %s, '1e5000')", [claimed.id, claimed.token])
    result = queue.result(job.id)
    assert len(result.payload or "") == 5001
    with pytest.raises(pgq.PayloadError, match=rf"cannot decode the result of job {job.id}"):
        _ = result.value


def test_many_jobs_are_waited_for_in_a_few_looks(queue: WorkerQueue, connect: Connect) -> None:
    """Whether the first or the last ones end first; the results are in the order of the ids."""
    for order in (1, -1):
        ids = [job.id for job in queue.enqueue_many({"kind": "k", "args": n, "dedup": False} for n in range(64))]
        waiter = Queue(connect())
        looks: list[int] = []
        results = waiter.results

        def counted(asked: list[int], results: Any = results, looks: list[int] = looks) -> list[Result]:
            looks.append(len(asked))
            found: list[Result] = results(asked)
            return found

        waiter.results = counted  # type: ignore[method-assign, assignment]
        jobs = queue.claim(max_jobs=64)[::order]
        thread = Thread(waiter.wait_many, [*ids, ids[0]])
        for job in jobs:
            queue.complete(job, job.args)
        found = thread.result(30)
        assert [result.value for result in found] == [*range(64), 0]
        # Each look at all finds half of those before, or fewer.
        assert sum(1 for asked in looks if asked > 1) <= 8


def test_many_jobs_may_end_in_any_way_or_not_in_time(queue: WorkerQueue) -> None:
    ids = [queue.enqueue("k", n, max_retries=0).id for n in range(4)]
    first, second, third = queue.claim(max_jobs=3)
    queue.complete(first, "done")
    queue.complete(second)
    queue.fail(third, "no")
    assert [result.state for result in queue.wait_many(ids, 0.05)] == ["done", "gone", "dead", "waiting"]
    assert [result.state for result in queue.wait_many(ids[:3])] == ["done", "gone", "dead"]
    assert queue.wait_many([]) == []


@pytest.mark.happens("a session that waits for a job is lost")
def test_a_connection_that_is_lost_ends_the_wait(conn: Connection, queue: WorkerQueue, connect: Connect) -> None:
    """The job goes on, and another session waits for it."""
    job = queue.enqueue("k")
    waiter = Queue(connect())
    pid = waiter.conn.info.backend_pid
    thread = Thread(waiter.wait, job.id)
    eventually(lambda: one(conn, WAITERS) == 1)
    conn.execute("SELECT pg_terminate_backend(%s)", [pid])
    with pytest.raises(psycopg.OperationalError):
        thread.result(20)
    thread = Thread(Queue(connect()).wait, job.id)
    eventually(lambda: one(conn, WAITERS) == 1)
    complete(7)(queue)
    assert thread.result(20).value == 7
