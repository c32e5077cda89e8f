"""Whatever a role or a session has set, each call does the same or refuses cleanly."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from support.calls import CALLS, LIFE, life
from support.database import Connect, Connection, expire, jobs, one
from support.hunt import empty
from support.processes import invoke
from support.threads import eventually
from support.workers import drain

from pgq import Handlers, Queue, Worker, WorkerQueue
from pgq.views import Views

# Values for settings that are neither switches nor numbers.
STRANGE = {
    "DateStyle": ["SQL, DMY", "Postgres, YMD", "German"],
    "TimeZone": ["Australia/Lord_Howe", "<+167>-167", "Etc/GMT+12", "Asia/Kathmandu"],
    "TimeZone_abbreviations": ["India"],
    "application_name": ["x" * 10_000, "%s'\"\\"],
    "client_encoding": ["LATIN1", "SJIS", "SQL_ASCII", "GB18030"],
    "default_text_search_config": ["pg_catalog.german"],
    "default_tablespace": ["pg_default"],
    "lc_monetary": ["POSIX"],
    "lc_numeric": ["POSIX"],
    "lc_time": ["POSIX"],
    "plpgsql.extra_errors": ["all"],
    "plpgsql.extra_warnings": ["all"],
    "restrict_nonsystem_relation_kind": ["view, foreign-table"],
    "search_path": ["", "pg_temp", "nowhere", '"$user", pg_catalog, public', "information_schema, pg_temp"],
    "statement_timeout": ["1"],
}
# A caller that forbids itself to write, to wait, or to read views gets an error.
MAY_REFUSE = {
    "default_transaction_read_only = on": "25006",
    "statement_timeout = 1": "57014",
    "restrict_nonsystem_relation_kind = view, foreign-table": "55000",
}
# Ends the session at the first error, as the caller wants, but would end the test, too.
LEFT_ALONE = {"exit_on_error"}


@pytest.fixture
def clerk(conn: Connection, dsn: str) -> Iterator[Connection]:
    """A session of a role with all privileges but those to grant."""
    conn.execute("DROP ROLE IF EXISTS clerk")
    conn.execute("CREATE ROLE clerk LOGIN")
    for what in ("producer", "worker", "admin"):
        conn.execute("SELECT pgq_grant('clerk', %s)", [what])
    with psycopg.connect(dsn, user="clerk", autocommit=True) as session:
        yield session
    conn.execute("DROP OWNED BY clerk")
    conn.execute("DROP ROLE clerk")


def outcome(conn: Connection) -> list[Any] | str:
    """Return the results of all calls, or the SQLSTATE of the first refusal."""
    try:
        return life(conn, "public")
    except psycopg.Error as error:
        return error.sqlstate or repr(error)


def values(conn: Connection) -> Iterator[tuple[str, str]]:
    """Yield the settings that any role may change, each with its extremes."""
    for name, kind, least, most, words in conn.execute(
        "SELECT name, vartype, min_val, max_val, enumvals FROM pg_settings WHERE context = 'user' ORDER BY name"
    ).fetchall():
        known = {"bool": ["on", "off"], "enum": words, "integer": [least, most], "real": [least, most], "string": []}
        if name not in LEFT_ALONE and not name.startswith("transaction_"):
            yield from ((name, value) for value in known[kind] + STRANGE.get(name, []))


def reset(conn: Connection) -> bool:
    """Reset all settings; return False if statement_timeout cancels that."""
    try:
        conn.execute("RESET ALL")
    except psycopg.errors.QueryCanceled:
        return False
    conn.execute("SELECT pg_advisory_unlock_all()")
    return True


def test_each_setting_at_its_extremes_changes_no_result(conn: Connection, clerk: Connection) -> None:
    """Each call returns what it returns without the setting."""
    begin = b"SET pgq.now = '2030-01-01 12:00Z'; SET pgq.jitter = '0'"
    clerk.execute(begin)
    usual = outcome(clerk)
    assert len(usual) > len(CALLS)
    refused, tried = {}, 0
    for name, value in values(clerk):
        try:
            clerk.execute("SELECT set_config(%s, %s, false)", [name, value])
        except psycopg.Error:
            continue
        empty(conn, "public", "pgq_permission", "pgq_worker_session")
        tried += 1
        results = outcome(clerk)
        if results != usual:
            differing = [result for result in results if result not in usual]
            refused[f"{name} = {value}"] = results if isinstance(results, str) else differing
        eventually(lambda: reset(clerk))
        clerk.execute(begin)
    assert tried > 200
    assert refused == {setting: MAY_REFUSE.get(setting) for setting in refused}


def test_the_setting_tests_call_every_function(conn: Connection) -> None:
    """A new function must be tried with all these settings, too; only the owner calls pgq_grant and pgq_revoke."""
    rows = conn.execute(
        "SELECT proname FROM pg_proc WHERE pronamespace = current_schema()::regnamespace AND proname ~ '^pgq_'"
    )
    assert {row[0] for row in rows} - set(re.findall(r"pgq_\w+", LIFE)) == {"pgq_grant", "pgq_revoke"}


def test_pgq_reads_these_settings_and_no_others(conn: Connection) -> None:
    """Any session can set them, so their values cannot be trusted."""
    rows = conn.execute(
        "SELECT DISTINCT m[1] FROM pg_proc AS p CROSS JOIN LATERAL "
        r"regexp_matches(pg_get_functiondef(p.oid), 'current_setting\(([^,)]+(\([^)]*\))?)', 'g') AS m "
        "WHERE p.pronamespace = current_schema()::regnamespace AND p.proname ~ '^_?pgq_'"
    ).fetchall()
    assert {row[0].removesuffix("::text") for row in rows} == {
        "'pgq.jitter'", "'pgq.now'", "'role'", "'synchronous_commit'", "'track_counts'", "'transaction_isolation'",
        "'transaction_read_only'",
        "_pgq_head_setting(queue)", "_pgq_head_setting(q.queue)", "_pgq_head_setting('')", "_pgq_bare_setting()",
        "_pgq_groups_setting(_pgq_lock_next.queue)",
        "_pgq_groups_setting(queue)",
        "_pgq_kept_setting()",
        "c_setting",  # that of _pgq_fire_schedules
        "_pgq_needs_setting()",
        "'block_size'",  # of the server: no session can set it
    }  # fmt: skip


ODD = {
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "<+167>-167",
    "array_nulls": "off",
    "backslash_quote": "off",
    "bytea_output": "escape",
    "client_encoding": "LATIN1",
    "client_min_messages": "debug5",
    "default_transaction_deferrable": "on",
    "default_transaction_isolation": "serializable",
    "extra_float_digits": "-15",
    "plan_cache_mode": "force_custom_plan",
    "quote_all_identifiers": "on",
    "row_security": "off",
    "standard_conforming_strings": "off",
    "transform_null_equals": "on",
    "xmloption": "document",
}


@pytest.fixture
def odd(conn: Connection, clerk: Connection, dsn: str) -> str:
    """Return a connection string for a role with all of these settings."""
    for name, value in ODD.items():
        conn.execute(sql.SQL("ALTER ROLE clerk SET {} = {}").format(sql.Identifier(name), value))
    return make_conninfo(dsn, user="clerk")


def test_a_worker_works_with_odd_settings_of_its_role(queue: Queue, odd: str, handlers: Handlers) -> None:
    """It does its jobs, including those with characters that the encoding of the role lacks."""
    done: list[Any] = []
    handlers.handler("k")(lambda job: done.append(job.args["text"]))
    handlers.handler("pay", transaction=True)(lambda job, conn: done.append(job.args["text"]))
    handlers.handler("bad")(lambda job: 1 / 0)
    worker = Worker(odd, handlers, poll=60, name="\u20ac")
    for kind in ("k", "pay", "bad"):
        queue.enqueue(kind, {"text": "\u20ac\U0001f600\\'"})
    try:
        drain(worker.loops[0])
    finally:
        worker.close()
    assert done == ["\u20ac\U0001f600\\'"] * 2
    assert [state for _, state, _ in jobs(queue.conn)] == ["waiting"]


def test_a_client_works_with_odd_settings_of_its_role(conn: Connection, odd: str) -> None:
    """The driver and the command line read and write as usual."""
    with psycopg.connect(odd, autocommit=True) as session:
        queue = WorkerQueue(session)
        queue.enqueue("k", {"text": "\xe4\\"}, delay="-0 s")
        queue.enqueue("k", ripe_at=datetime.fromisoformat("2000-01-02T03:04:05+06:00"), backoff="90 s")
        first, second = queue.claim(max_jobs=2)
        assert first.ripe_at == datetime.fromisoformat("2000-01-01T21:04:05+00:00")
        assert second.args == {"text": "\xe4\\"}
        failure = queue.fail(second)
        assert failure.ripe_at is not None
        assert 54 <= (failure.ripe_at - second.ripe_at).total_seconds() < 120
        queue.enqueue("l")
        assert Views(session).stats()[1]["oldest_ripe_age"].total_seconds() >= 0
    for words in (["enqueue", "k", "{}"], ["stats"], ["list"], ["show", str(second.id)]):
        done = invoke("--dsn", odd, *words)
        assert done.returncode == 0, done.stderr


def test_heads_copied_from_another_session_hide_no_job(conn: Connection, connect: Connect) -> None:
    """A head that is true for one session is true for another."""
    other, names = connect(), [one(conn, "SELECT _pgq_head_setting(%s)", queue) for queue in ("default", "")]
    Queue(conn).enqueue("k")
    WorkerQueue(conn).claim()
    for name in names:
        other.execute("SELECT set_config(%s, %s, false)", [name, one(conn, "SELECT current_setting(%s)", name)])
    expire(conn)
    assert len(WorkerQueue(other).claim()) == 1


def test_a_session_that_puts_off_maintenance_does_not_affect_others(conn: Connection, connect: Connect) -> None:
    """It can put off its own search for expired leases, for ten minutes at most."""
    forger, queue = connect(), WorkerQueue(connect())
    queue.enqueue("k", backoff="0")
    queue.claim()
    expire(conn)
    due = "_pgq_microseconds(now() + %s * interval '1 s')"
    forge = f"SELECT set_config(_pgq_head_setting(''), {due} || ' 86400000000 {{}}', false)"
    forger.execute(forge.encode(), [500])
    assert WorkerQueue(forger).claim() == []
    assert len(queue.claim()) == 1
    expire(conn)
    forger = connect()
    forger.execute(forge.encode(), [700])
    assert len(WorkerQueue(forger).claim()) == 1


@pytest.mark.parametrize("value", ["", "garbage", "0" * 1_000_000, "-1", "NaN", "\u20ac'\\"])
def test_garbage_for_jitter_and_heads_is_ignored(conn: Connection, value: str) -> None:
    """An invalid value counts as none, however long it is."""
    queue = WorkerQueue(conn)
    queue.enqueue("k", backoff="100 s")
    for name in ("'pgq.jitter'", "_pgq_head_setting('')", "_pgq_head_setting('default')"):
        conn.execute(f"SELECT set_config({name}, %s, false)".encode(), [value])
    (job,) = queue.claim()
    rest = queue.fail(job).ripe_at
    assert rest is not None
    assert 85 < (rest - job.ripe_at).total_seconds() < 130
