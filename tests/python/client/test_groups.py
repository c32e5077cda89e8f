"""Jobs with a group: how a program gives them one, and how a handler sees it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from support.database import Connect, Connection, one
from support.threads import Thread, eventually

from pgq import Handlers, Queue, WorkerQueue
from pgq.worker.turn import Turn


def test_a_claimed_job_has_the_group_that_it_was_enqueued_with(
    queue: WorkerQueue,
) -> None:
    """Both ways of enqueueing give it to the job, and both ways of claiming return it."""
    queue.enqueue("k", 1, group_key="a")
    queue.enqueue_many([{"kind": "k", "args": 2, "group_key": "b"}, {"kind": "k", "args": 3}])
    claimed = queue.claim(max_jobs=10)
    assert {job.args: job.group_key for job in claimed} == {1: "a", 2: "b", 3: None}
    for job in claimed:
        queue.release(job)
    turn = Turn(queue)
    for max_jobs in (1, 10):
        _, claim = turn([], ["default"], max_jobs, timedelta(minutes=5), "w", 2**20, True)
        assert claim is not None
        for job in claim.jobs():
            assert job.group_key == {1: "a", 2: "b", 3: None}[job.args]
            queue.release(job)


def by_tenant(args: Any) -> str | None:
    """Return the key of the group of a job."""
    tenant: str | None = args.get("tenant")
    return tenant


@pytest.mark.parametrize(
    ("default", "given", "keys"),
    [("api", {}, {"api"}), ("api", {"group_key": "x"}, {"x"}), (by_tenant, {}, {"ann", None}),
     (by_tenant, {"group_key": "x"}, {"x"}), (by_tenant, {"group_key": None}, {"ann", None})],
)  # fmt: skip
def test_the_group_of_a_kind_is_a_key_or_a_function_of_the_arguments(
    conn: Connection, default: Any, given: Any, keys: set[str | None]
) -> None:
    """As with all defaults of a handler, a value that the enqueue is given goes first."""
    handlers = Handlers()
    handlers.handler("k", group_key=default)(lambda job: None)
    queue = Queue(conn, handlers=handlers)
    for args in ({"tenant": "ann"}, {}):
        queue.enqueue("k", args, **given)
    queue.enqueue_many(
        [
            {"kind": "k", "args": {"tenant": "ann", "n": 1}} | given,
            {"kind": "k", "dedup": False} | given,
        ]
    )
    rows = conn.execute("SELECT group_key FROM pgq_jobs").fetchall()
    assert (len(rows), {row[0] for row in rows}) == (4, keys)


def test_marks_of_two_sessions_are_both_kept(conn: Connection, connect: Connect) -> None:
    """A session that stays in its transaction keeps no other one waiting; one that adds a mark does, for a moment."""
    other = connect()
    with conn.transaction():
        Queue(conn).enqueue("k", queue="a", group_key="g")
        other.execute("SET lock_timeout = '10s'")
        Queue(other).enqueue("k", queue="b", group_key="g")
    assert one(conn, "SELECT _pgq_marks() = _pgq_mark_of('a') | _pgq_mark_of('b')")
    with conn.transaction():
        conn.execute("LOCK TABLE pgq_queue_setting IN SHARE UPDATE EXCLUSIVE MODE")
        adding = Thread(lambda: Queue(other).enqueue("k", queue="c", group_key="g"))
        eventually(lambda: one(conn, "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"))
    adding.result()
    assert one(conn, "SELECT _pgq_marks() & _pgq_mark_of('c') <> 0")
