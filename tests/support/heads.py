"""The heads that a session keeps, and the past that makes its scans long."""

from __future__ import annotations

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
