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
    saved = one(conn, "SELECT split_part(current_setting(%s), ' ', 2)", setting(conn, queue))
    return sorted(
        row[0] for row in conn.execute("SELECT priority FROM unnest(%s::_pgq_lane_head[])", [saved]).fetchall()
    )


def pass_due(conn: Connection) -> None:
    """Move the session's ``due`` into the past, so that a long scan is due."""
    conn.execute(
        "SELECT set_config(%(name)s, '1' || substr(current_setting(%(name)s), 17), false)", {"name": setting(conn)}
    )
