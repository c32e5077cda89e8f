"""The heads that a session keeps, and the past that makes its scans long."""

from __future__ import annotations

from pgq import WorkerQueue
from support.database import Connection, one

# Enough completed jobs to make every scan from the start a long one.
PAST = 3000


def setting(conn: Connection, queue: str = "default") -> str:
    """Return the name of the setting in which a session keeps its heads."""
    return str(one(conn, "SELECT _pgq_head_setting(%s)", queue))


def known(conn: Connection, queue: str = "default") -> list[int]:
    """Return the priorities of the lanes whose heads the session keeps."""
    saved = one(conn, "SELECT split_part(current_setting(%s), ' ', 3)", setting(conn, queue))
    return sorted(
        row[0] for row in conn.execute("SELECT priority FROM unnest(%s::_pgq_lane_head[])", [saved]).fetchall()
    )


def pass_due(conn: Connection) -> None:
    """Move the session's ``due`` into the past, so that a long scan is due."""
    conn.execute(
        "SELECT set_config(%(name)s, '1' || substr(current_setting(%(name)s), 17), false)", {"name": setting(conn)}
    )


def set_clock_back(conn: Connection, seconds: int, queue: str = "default") -> None:
    """Move the heads of the session, and all shared ones, ahead, where they are after the clock was set back."""
    name, us = setting(conn, queue), seconds * 1_000_000
    kept = "current_setting(%(name)s, true)"
    own, shared = (
        "coalesce((SELECT array_agg(ROW(l.priority, l.here_ripe_us + %(us)s, l.here_id, l.next_ripe_us + %(us)s, "
        f"l.next_id)::_pgq_lane_head) FROM unnest({lanes}) AS l), '{{}}')"
        for lanes in (f"split_part({kept}, ' ', 3)::_pgq_lane_head[]", "lanes")
    )
    conn.execute(
        f"SELECT set_config(%(name)s, split_part({kept}, ' ', 1)::bigint + %(us)s || ' ' || split_part({kept}, ' ', 2) "
        f"|| ' ' || {own}::text, false) WHERE {kept} <> ''".encode(),
        {"name": name, "us": us},
    )
    conn.execute(
        f"UPDATE pgq_head SET due = due + %(us)s * interval '1 microsecond', lanes = {shared} "
        "WHERE queue <> chr(31)".encode(),
        {"us": us},
    )


def sharing(due: str, rescan_delay: str, at: str) -> bytes:
    """Return a statement that shares heads at this time in all lanes of "default" and of the search for leases."""
    return (
        f"INSERT INTO pgq_head SELECT q, {due}, '{rescan_delay}', h "
        "FROM (VALUES ('default'), ('')) AS queue (q) CROSS JOIN ("
        "SELECT array_agg(ROW(p, us, us, us, us)::_pgq_lane_head) "
        f"FROM generate_series(0, 9) AS p CROSS JOIN _pgq_microseconds({at}) AS us) AS l (h)"
    ).encode()


def leave_past(conn: Connection) -> None:
    """Leave entries of jobs that are gone in the index of claims, to the right of all jobs of before."""
    conn.execute(
        "SELECT count(*) FROM pgq_enqueue_many((SELECT jsonb_agg(jsonb_build_object('kind', 'past', 'args', n)) "
        "FROM generate_series(1, %s) AS n))",
        [PAST],
    )
    conn.execute("DELETE FROM pgq_waiting WHERE kind = 'past'")
    # The end of a lane counts as a tenth of a second ago.
    conn.execute("SELECT pg_sleep(0.15)")


def leave_leases(conn: Connection) -> None:
    """Leave entries of leases that would have ended, of jobs that are gone, and no heads."""
    queue = WorkerQueue(conn)
    queue.enqueue_many({"kind": "leased", "args": n} for n in range(PAST))
    jobs = queue.claim(max_jobs=PAST)
    conn.execute("UPDATE pgq_running SET lease_until = clock_timestamp() - interval '1 hour'")
    queue.complete_many(jobs)
    conn.execute("DELETE FROM pgq_head WHERE queue <> chr(31)")
