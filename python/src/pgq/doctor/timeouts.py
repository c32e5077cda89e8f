"""Timeouts of the server that end what workers do."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from pgq.doctor.finding import Finding
from pgq.doctor.reading import Check, Needs, Reading, check
from pgq.doctor.words import span

# What a role gets: that of the role in this database, of the role, of the database, of the server, in this order.
SET: Final = """
    SELECT r.rolname::text AS role, t.name, given.value, given.of,
           CASE WHEN given.value ~ '^[0-9]+$' THEN given.value::bigint * interval '1 millisecond'
                ELSE given.value::interval
           END AS timeout
    FROM pg_roles AS r
    CROSS JOIN unnest(%(names)s::text[]) AS t (name)
    CROSS JOIN LATERAL (
        SELECT o.option_value AS value,
               CASE WHEN s.setrole = 0 THEN format('DATABASE %%I', current_database())
                    WHEN s.setdatabase = 0 THEN format('ROLE %%I', r.rolname)
                    ELSE format('ROLE %%I IN DATABASE %%I', r.rolname, current_database())
               END AS of
        FROM pg_db_role_setting AS s
        CROSS JOIN LATERAL pg_options_to_table(s.setconfig) AS o
        WHERE o.option_name = t.name
          AND s.setrole IN (0, r.oid)
          AND s.setdatabase IN (0, (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()))
        ORDER BY s.setrole <> 0 DESC, s.setdatabase <> 0 DESC
        LIMIT 1
    ) AS given
    WHERE r.rolcanlogin
      AND (r.oid = (SELECT c.relowner FROM pg_class AS c WHERE c.oid = 'pgq_waiting'::regclass)
           OR EXISTS (SELECT FROM pgq_permission AS p
                      WHERE p.privilege = 'worker' AND pg_has_role(r.oid, p.role::oid, 'USAGE') AND NOT r.rolsuper))
    UNION ALL
    SELECT NULL, g.name, g.setting || g.unit, 'SYSTEM', (g.setting || g.unit)::interval
    FROM pg_settings AS g
    WHERE g.name = ANY (%(names)s)
      AND g.source IN ('configuration file', 'command line', 'environment variable')
    ORDER BY 1 NULLS FIRST, 2
"""
MEANINGS: Final = {
    "statement_timeout": "A claim over many dead rows, or a statement of a handler, is cut off. The job fails, and "
    "runs again after its backoff.",
    "idle_in_transaction_session_timeout": "A handler with transaction=True that works outside the database for longer "
    "than this between two statements loses its connection, and the job runs again.",
    "transaction_timeout": "A handler with transaction=True that takes longer loses its connection, and the job runs "
    "again.",
    "idle_session_timeout": "The session of a sleeping worker is ended again and again. The worker connects anew, and "
    "for that moment counts as gone.",
}


@check(Needs.OWNER)
def short_timeout(reading: Reading) -> Iterator[Finding]:
    """Yield timeouts that are too short for the roles of workers."""
    thresholds = reading.thresholds
    for row in reading.rows(SET, names=list(MEANINGS)):
        least = (
            thresholds.statement if row["name"] in {"statement_timeout", "idle_session_timeout"} else thresholds.idle
        )
        if not timedelta(0) < row["timeout"] < least:
            continue
        of = f'role "{row["role"]}", under which workers run,' if row["role"] else "the server"
        yield Finding(
            "short-timeout",
            "warning",
            f"{row['name']} of {of} is {span(row['timeout'])}",
            MEANINGS[row["name"]],
            f"ALTER {row['of']} SET {row['name']} = '{least.total_seconds():.0f}s';"
            + (" SELECT pg_reload_conf();" if row["of"] == "SYSTEM" else " It counts for new sessions."),
            row,
        )


CHECKS: Final[tuple[Check, ...]] = (short_timeout,)
