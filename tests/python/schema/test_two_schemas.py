"""Two installations in one database are separate, whether extensions or plain ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.database import As, Connection, one
from support.installed import PLAIN, in_schema, run
from support.threads import eventually

from pgq import Queue, WorkerQueue
from pgq.schema.install import install
from pgq.views import Views

NAMES = ("one", 'the "other", %I')


@pytest.fixture
def owner(as_: As, extension: Path) -> Connection:
    """A database of an ordinary role with both installations, created through different search paths."""
    owner = as_("owner")
    with in_schema(owner, NAMES[0]):
        owner.execute("CREATE EXTENSION pgq SCHEMA one")
    with in_schema(owner, NAMES[1]):
        run(owner, PLAIN)
    return owner


@pytest.fixture
def queues(owner: Connection) -> tuple[WorkerQueue, WorkerQueue]:
    """The queues of both, in one session."""
    return WorkerQueue(owner, schema=NAMES[0]), WorkerQueue(owner, schema=NAMES[1])


def test_jobs_are_separate(owner: Connection, queues: tuple[WorkerQueue, WorkerQueue]) -> None:
    """Neither installation sees a twin, an id, a claim or an end in the other."""
    a, b = queues
    assert (a.enqueue("k").created, b.enqueue("k").created) == (True, True)
    assert (a.enqueue("k").created, b.enqueue("k").created) == (False, False)
    (job,) = a.claim()
    (twin,) = b.claim()
    assert a.complete_many([job]) == {job.id}
    assert b.fail(twin).outcome == "retry"
    counts = [one(owner, f"SELECT count(*) FROM {name}.pgq_jobs") for name in ("one", '"the ""other"", %I"')]
    assert counts == [0, 1]
    b.cancel(twin.id)
    assert a.enqueue("k").created


def test_notifications_are_separate(as_: As, queues: tuple[WorkerQueue, WorkerQueue]) -> None:
    """Channels and locks differ: an enqueue in one neither notifies the other nor sees its sleeping worker."""
    a, b = queues
    sleeper = as_("owner")
    (channel,) = WorkerQueue(sleeper, schema=NAMES[0]).idle()
    (other,) = WorkerQueue(sleeper, schema=NAMES[1]).idle()
    assert channel != other
    WorkerQueue(sleeper, schema=NAMES[1]).idle(idle=False)
    for name in (channel, other):
        sleeper.execute(f'LISTEN "{name}"'.encode())
    b.enqueue("k")
    assert list(sleeper.notifies(timeout=0.2)) == []
    a.enqueue("k")
    assert [notice.channel for notice in sleeper.notifies(timeout=10, stop_after=1)] == [channel]


def test_workers_are_separate(as_: As, owner: Connection) -> None:
    """Both can have a worker of the same name; when one is gone, only its own jobs are rescued."""
    here, there = as_("owner"), as_("owner")
    for conn, name in ((here, NAMES[0]), (there, NAMES[1])):
        conn.execute("SELECT set_config('search_path', quote_ident(%s), false)", [name])
        conn.execute("SELECT pgq_register('w')")
        Queue(conn).enqueue("k")
        assert len(WorkerQueue(conn).claim(worker="w")) == 1
    here.close()

    def present(name: str) -> list[bool]:
        with in_schema(owner, name):
            return [row[0] for row in owner.execute("SELECT present FROM pgq_workers").fetchall()]

    eventually(lambda: present(NAMES[0]) == [False], "the server notices that the session is gone")
    assert present(NAMES[1]) == [True]
    with in_schema(owner, NAMES[1]):
        owner.execute("SELECT _pgq_sweep_workers(pgq_now(), false)")
        assert one(owner, "SELECT bool_and(lease_until > claimed_at) FROM pgq_running")
    with in_schema(owner, NAMES[0]):
        # Right after the start of the server no worker counts as gone.
        def swept() -> bool:
            owner.execute("SELECT _pgq_sweep_workers(pgq_now(), false)")
            return bool(one(owner, "SELECT bool_and(lease_until = claimed_at) FROM pgq_running"))

        eventually(swept, "the lease ends", 15.0)


def test_heads_are_separate(owner: Connection, queues: tuple[WorkerQueue, WorkerQueue]) -> None:
    """A session keeps them in settings with different names."""
    names = []
    for name in NAMES:
        with in_schema(owner, name):
            names.append(one(owner, "SELECT _pgq_head_setting('default')"))
    assert names[0] != names[1]
    for queue in queues:
        queue.claim()
    assert [one(owner, "SELECT current_setting(%s, true) <> ''", name) for name in names] == [True, True]


def test_grants_are_separate(as_: As, owner: Connection) -> None:
    """A role that may enqueue in one may do nothing in the other."""
    with in_schema(owner, NAMES[0]):
        owner.execute("SELECT pgq_grant('web', 'producer')")
    web = as_("web")
    assert Queue(web, schema=NAMES[0]).enqueue("k").created
    assert (
        one(
            web, "SELECT count(*) FROM pg_namespace WHERE nspname = %s AND has_schema_privilege(oid, 'USAGE')", NAMES[1]
        )
        == 0
    )
    assert one(
        web,
        "SELECT count(*) FROM pg_proc WHERE pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = %s) "
        "AND has_function_privilege(oid, 'EXECUTE')",
        NAMES[1],
    ) == 0  # fmt: skip


def test_dropping_one_installation_leaves_the_other(owner: Connection, queues: tuple[WorkerQueue, WorkerQueue]) -> None:
    """The other one keeps its jobs and works."""
    a, b = queues
    a.enqueue("k")
    b.enqueue("k")
    owner.execute("DROP EXTENSION pgq")
    (job,) = b.claim()
    b.complete(job)


def test_two_plain_installations_work_side_by_side(conn: Connection, queue: Queue) -> None:
    """Their schemas may have any name, and one session may use both."""
    install(conn, schema="my Jobs")
    conn.execute("RESET search_path")
    other = WorkerQueue(conn, schema="my Jobs")
    queue.enqueue("here")
    other.enqueue_many([{"kind": "there"}])
    assert [row["kind"] for row in Views(conn).jobs()] == ["here"]
    assert [row["kind"] for row in Views(conn, schema="my Jobs").stats()] == ["there"]
    (job,) = other.claim()
    assert job.kind == "there"
    with conn.transaction():
        other.hold(job)
        other.complete(job, "done")
    assert Views(conn, schema="my Jobs").job(job.id)["state"] == "done"
    assert (other.version(), [row["state"] for row in Views(conn).jobs()]) == (queue.version(), ["waiting"])
