"""The list of changes: it finds who is affected by the clean break, and names what is new in the SQL."""

from __future__ import annotations

import itertools
import re
import subprocess
from pathlib import Path

import pytest
from support.database import As, Connection
from support.installed import PLAIN, RELEASED, put, released
from support.pages import Page, cells
from support.releases import CHANGELOG, CHANGES, QueueOfAny


def entry(version: str) -> str:
    """Return the entry of a version, without its heading."""
    return re.split(rf"^## {re.escape(version)}, .*$", CHANGES, flags=re.MULTILINE)[1].split("\n## ")[0]


def subsection(title: str) -> str:
    """Return a part of the entry of 0.3.0."""
    return entry("0.3.0").split(f"\n### {title}\n")[1].split("\n### ")[0]


BLOCKS = [block for block in Page("CHANGELOG.md").all_blocks() if block.text in entry("0.3.0")]
OBJECTS, ENDED, PRODUCERS, UNHANDLED = (block.text for block in BLOCKS if block.language == "sql")
(GREPS,) = (block.text.splitlines() for block in BLOCKS if block.language == "sh")
CHANGED = re.findall(r"\('(pgq_\w+)', '", OBJECTS)


@pytest.fixture
def before(as_: As) -> Connection:
    """A database with pgq 0.2.0, as its owner, and a schema of the owner's."""
    owner = as_("owner")
    put(owner, "plain", "0.2.0")
    owner.execute("CREATE SCHEMA mine")
    return owner


def test_functions_that_use_what_has_changed_are_found(before: Connection) -> None:
    """Each by the name that it uses, and by no other; every name is one of 0.2.0."""
    assert len(CHANGED) == len(set(CHANGED)) > 20
    there = before.execute(
        "SELECT proname::text FROM pg_proc WHERE proname ~ '^pgq_' "
        "UNION SELECT relname::text FROM pg_class WHERE relname ~ '^pgq_'"
    ).fetchall()
    assert set(CHANGED) <= {name for (name,) in there}
    for name in [*CHANGED, "pgq_enqueue", "pgq_jobs", "pgq_job_id"]:
        body = f"BEGIN PERFORM 1 FROM public.{name}; END"
        before.execute(f"CREATE FUNCTION mine.uses_{name}() RETURNS void LANGUAGE plpgsql AS '{body}'".encode())
    found = before.execute(OBJECTS.encode()).fetchall()
    assert sorted(row[:2] for row in found) == sorted((f"function mine.uses_{name}()", name) for name in CHANGED)


def test_other_objects_that_use_what_has_changed_are_found(before: Connection, conn: Connection) -> None:
    """Views, functions whose body was parsed, triggers and publications."""
    before.execute("CREATE VIEW mine.dead AS SELECT id FROM public.pgq_job WHERE state = 'dead'")
    before.execute("CREATE MATERIALIZED VIEW mine.numbers AS SELECT queue, waiting FROM public.pgq_stats WITH NO DATA")
    before.execute("CREATE FUNCTION mine.stop(job bigint) RETURNS void LANGUAGE sql RETURN public.pgq_cancel(job)")
    before.execute("CREATE FUNCTION mine.note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    before.execute("CREATE TRIGGER noted AFTER DELETE ON pgq_running FOR EACH ROW EXECUTE FUNCTION mine.note()")
    conn.execute("CREATE PUBLICATION moved FOR TABLE pgq_waiting, pgq_ended")
    found = [row[:2] for row in before.execute(OBJECTS.encode()).fetchall()]
    assert found == [
        ("function mine.stop(bigint)", "pgq_cancel"),
        ("publication moved", "pgq_ended"),
        ("publication moved", "pgq_waiting"),
        ("trigger noted on pgq_running", "pgq_running"),
        ("view mine.dead", "pgq_job"),
        ("view mine.numbers", "pgq_stats"),
    ]


def test_jobs_and_roles_for_which_something_changes_are_found(before: Connection, as_: As) -> None:
    """Ended jobs whose time is over, jobs that died because no worker had a handler, and producers."""
    as_("web")
    before.execute("SELECT pgq_grant('web', 'producer', '{orders}'), pgq_grant('web', 'worker')")
    queue = QueueOfAny(before)
    queue.enqueue_many([{"kind": kind} for kind in ("done", "young", "lost", "failed")])
    for job in queue.claim(max_jobs=4):
        if job.kind in ("done", "young"):
            queue.complete(job, 1)
        else:
            cause = 'this worker has no handler for kind "lost"' if job.kind == "lost" else "no such address"
            queue.fail(job, f"pgq.errors.Error: {cause}", retry=False)
    before.execute("UPDATE pgq_ended SET ended_at = ended_at - interval '8 days' WHERE kind <> 'young'")
    before.execute("UPDATE pgq_ended SET ended_at = ended_at - interval '30 days' WHERE kind = 'failed'")
    assert [row[:3] for row in before.execute(ENDED.encode()).fetchall()] == [
        ("default", "dead", 1),
        ("default", "done", 1),
    ]
    assert [row[2] for row in before.execute(UNHANDLED.encode()).fetchall()] == ["lost"]
    assert before.execute(PRODUCERS.encode()).fetchall() == [("web", ["orders"])]


# Code that uses each name of 0.2.0, by the cell that lists it; what runs a command is in a script.
CODE = {
    "`pgq_discard`, `pgq_pending`": ["select('pgq_discard(1, 2)')", "select('pgq_pending()')"],
    "`pgq_disown(name, tokens)`": ["select('pgq_disown(%s, %s)')"],
    "`what` of `pgq_grant`, `pgq_revoke`": [
        "queue.grant('web', what='worker')",
        "select('pgq_revoke(%s, what => %s)')",
    ],
    "`name` of `pgq_register`, `pgq_unregister`": ["select('pgq_register(name => %s)')", "queue.unregister(name='w')"],
    "`pgq_job`, `pgq_worker`": ["select('id FROM pgq_job')", "select('name FROM jobs.pgq_worker')"],
    "`pgq.Discard`, `discard_on`, `pgq.Pending`": [
        "raise pgq.Discard('no')",
        "from pgq import Queue, Pending",
        "@pgq.handler('k', discard_on=KeyError)",
    ],
    "a worker's calls in `pgq.Queue`, such as `claim`": [
        "queue.claim(['a'])",
        "queue.complete(one)",
        "queue.complete_many(some)",
        "queue.hold(one)",
        "queue.fail(one)",
        "queue.extend(one)",
        "queue.snooze(one)",
        "queue.release(one)",
        "queue.idle()",
        "queue.register('w')",
    ],
    "`Queue.discard`, `pending`, `disown`": ["queue.discard(one)", "queue.pending()", "queue.disown('w', some)"],
    "`Queue.claim_only`, `complete_and_claim`, `complete_with`, `complete_within`": [
        "queue.claim_only(['a'], 1, lease, None)",
        "queue.complete_and_claim(some, ['a'], 1, lease, None)",
        "queue.complete_with(one, '1')",
        "queue.complete_within(transaction, one)",
    ],
    "`Worker(presence=False, listen=False)`": ["Worker(dsn, presence=False)", "Worker(dsn, listen=False)"],
    "`pgq.views.Views`, `pgq.install.install`, `pgq.upgrade.upgrade`": [
        "from pgq.views import Views",
        "import pgq.install",
        "from pgq.upgrade import upgrade",
    ],
    "`Busy`, `LiveJobs` of `pgq.install`, `NoPath` of `pgq.upgrade`": ["from pgq.install import Busy, LiveJobs"],
    "`pgq workers`": ["pgq workers --json"],
    "`pgq purge --outcome`": ["pgq purge --outcome done"],
    "`pgq worker --no-presence --no-listen`": ["exec pgq worker tasks --no-presence", "command: [--no-listen]"],
    "`pgq worker --reload`": ["pgq worker tasks --reload"],
    "`discarded`": ["if record.action == 'discarded':"],
}
# What is right with 0.3.0.
RIGHT = [
    "select('pgq_cancel_claimed(1, 2)')",
    "select('id FROM pgq_jobs')",
    "@pgq.handler('k', cancel_on=KeyError)",
    "raise pgq.Cancel('no')",
    "queue.enqueue('k')",
    "pgq ps --json",
    "exec pgq worker tasks --transaction-pooler",
]


def test_code_that_uses_a_former_name_is_found(tmp_path: Path) -> None:
    """Each row of the table of names has code that is found; what is right already is not."""
    assert list(CODE) == cells(subsection("New names"), 1)
    planted = [line for lines in CODE.values() for line in lines]
    shell = re.compile(r"(exec )?pgq |command: ")
    for name, is_shell in (("tasks.py", False), ("run.sh", True)):
        lines = [line for line in [*planted, *RIGHT] if (shell.match(line) is not None) == is_shell]
        (tmp_path / name).write_text("\n".join(["import pgq", *lines, ""]))
    output = "".join(
        subprocess.run(["bash", "-c", grep], cwd=tmp_path, capture_output=True, text=True, check=False).stdout
        for grep in GREPS
    )
    found = {line.split(":", 2)[2] for line in output.splitlines()}
    assert [line for line in planted if line not in found] == []
    assert [line for line in RIGHT if line in found] == []


def test_the_newest_entry_names_what_is_new_in_the_sql() -> None:
    """Each public function and view that the release before has not."""
    (newest, _), (release, _) = CHANGELOG[:2]
    texts = [released(release), released(newest) if newest in RELEASED else PLAIN]
    was, now = (set(re.findall(r"^CREATE (?:FUNCTION|VIEW) (pgq_\w+)", text.decode(), re.MULTILINE)) for text in texts)
    assert len(was) > 20
    assert sorted(name for name in now - was if not re.search(rf"\b{name}\b", entry(newest))) == []


def test_no_entry_links_to_nothing() -> None:
    """A relative link names a file, and a fragment one of its headings."""
    page = Page("CHANGELOG.md")
    for link in itertools.filterfalse(re.compile("[a-z]+:").match, page.links()):
        path, _, fragment = link.partition("#")
        target = Page(path) if path else page
        assert target.path.exists(), link
        assert not fragment or fragment in target.anchors(), link
